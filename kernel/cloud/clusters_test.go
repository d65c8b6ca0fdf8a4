package cloud

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// member is a cluster of a cloud: it remembers who asked last.
type member struct {
	*httptest.Server
	mu    sync.Mutex
	asked string
}

func startMember(t *testing.T) *member {
	t.Helper()
	m := &member{}
	m.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.asked = r.Header.Get("Authorization")
		fmt.Fprint(w, `{"major":"1"}`)
	}))
	t.Cleanup(m.Close)
	return m
}

// authority is the certificate that the member's clients have to trust, in base64.
func (m *member) authority() string {
	return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.Certificate().Raw}))
}

// describe answers as the clouds' services that know the clusters.
func (m *member) describe(w http.ResponseWriter, r *http.Request) bool {
	w.Header().Set("Content-Type", "application/json")
	switch r.Host + r.URL.Path {
	case "eks.eu-west-1.amazonaws.com/clusters/prod":
		fmt.Fprintf(w, `{"cluster":{"name":"prod","endpoint":%q,"certificateAuthority":{"data":%q}}}`, m.URL, m.authority())
	case "management.azure.com" + managed:
		fmt.Fprint(w, `{"properties":{"aadProfile":{"managed":true}}}`)
	case "management.azure.com" + managed + "/listClusterUserCredential":
		kubeconfig := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],"users":[{"name":"u","user":{}}],"clusters":[{"name":"c","cluster":{"server":%q,"certificate-authority-data":%q}}]}`, m.URL, m.authority())
		fmt.Fprintf(w, `{"kubeconfigs":[{"name":"clusterUser","value":%q}]}`, base64.StdEncoding.EncodeToString([]byte(kubeconfig)))
	case "container.googleapis.com/v1/projects/p/locations/l/clusters/prod":
		fmt.Fprintf(w, `{"endpoint":%q,"masterAuth":{"clusterCaCertificate":%q}}`, strings.TrimPrefix(m.URL, "https://"), m.authority())
	default:
		return false
	}
	return true
}

const managed = "/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/group/providers/Microsoft.ContainerService/managedClusters/prod"

// TestRESTConfigOfClouds finds a cluster at each cloud by its name, with the
// identity of a service account, and speaks to it with the cloud's token.
func TestRESTConfigOfClouds(t *testing.T) {
	f, c, m := setup(t), startClouds(t), startMember(t)
	c.describe = m.describe
	transport := http.DefaultTransport.(*http.Transport)
	before := transport.Proxy
	transport.Proxy = http.ProxyURL(c.proxy)
	t.Cleanup(func() { transport.Proxy = before })
	f.account(t, "azure", map[string]string{"azure.workload.identity/tenant-id": "tenant", "azure.workload.identity/client-id": "client"})
	f.account(t, "aws", map[string]string{"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/reader"})
	f.account(t, "gcp", map[string]string{"gcp.auth.fluxcd.io/workload-identity-provider": "projects/123456789/locations/global/workloadIdentityPools/pool/providers/cluster"})
	cases := map[string]struct{ cluster, token string }{
		AWS:   {"arn:aws:eks:eu-west-1:123456789012:cluster/prod", "Bearer k8s-aws-v1."},
		Azure: {managed, "Bearer token-"},
		GCP:   {"projects/p/locations/l/clusters/prod", "Bearer token-"},
	}
	for provider, want := range cases {
		t.Run(provider, func(t *testing.T) {
			cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: f.namespace, Name: "cluster-" + provider}, Data: map[string]string{
				meta.KubeConfigKeyProvider: provider, meta.KubeConfigKeyCluster: want.cluster, meta.KubeConfigKeyServiceAccountName: provider,
			}}
			config, err := f.providers.RESTConfig(t.Context(), f.object("o"), cm)
			if err != nil {
				t.Fatal(err)
			}
			client, err := rest.HTTPClientFor(config)
			if err != nil {
				t.Fatal(err)
			}
			res, err := client.Get(m.URL + "/version")
			if err != nil {
				t.Fatalf("the cluster is not reached with the authority that the cloud told: %v", err)
			}
			res.Body.Close()
			m.mu.Lock()
			defer m.mu.Unlock()
			if !strings.HasPrefix(m.asked, want.token) {
				t.Errorf("the cluster was shown %.30q, want %s…", m.asked, want.token)
			}
			if !strings.Contains(config.Host, strings.TrimPrefix(m.URL, "https://")) {
				t.Errorf("host %s, want the endpoint that the cloud told, %s", config.Host, m.URL)
			}
			if got := c.audit[provider]; len(got) == 0 || !strings.HasPrefix(got[0], "system:serviceaccount:"+f.namespace+":"+provider+" for ") {
				t.Errorf("tokens %v, want those of the service account that the ConfigMap names", got)
			}
			if provider == AWS {
				signedFor(t, m.asked, "x-k8s-aws-id")
			}
		})
	}
}

// signedFor looks into a token of EKS: a signed request to STS that names a header.
func signedFor(t *testing.T, authorization, header string) {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(authorization, "Bearer k8s-aws-v1."))
	if err != nil {
		t.Fatalf("the token is no base64: %v", err)
	}
	u, err := url.Parse(string(raw))
	if err != nil || u.Host != "sts.eu-west-1.amazonaws.com" || !strings.Contains(u.Query().Get("X-Amz-SignedHeaders"), header) {
		t.Errorf("the token asks %s for %v (%v), want STS and a signature over %s", u.Host, u.Query().Get("X-Amz-SignedHeaders"), err, header)
	}
}

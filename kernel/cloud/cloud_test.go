package cloud

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/auth"
	"github.com/golang-jwt/jwt/v5"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/front"
	"headwater.dev/dev/kubetest"
)

const canary = "canary-7f3a-Passw0rd"

// clouds plays the services of all providers behind one proxy: the clients
// believe to speak with the real hosts, over TLS of an authority of the test.
type clouds struct {
	proxy *url.URL

	mu    sync.Mutex
	seen  map[string]int      // requests by host
	audit map[string][]string // audiences and subjects of the tokens that arrived
	fail  bool
	// describe answers what is asked of clusters; nil: nothing is known of any.
	describe func(http.ResponseWriter, *http.Request) bool
}

func (c *clouds) requests(host string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[host]
}

// startClouds must be called before a client is made: the library copies the
// default transport, which is told to trust the authority.
func startClouds(t *testing.T) *clouds {
	t.Helper()
	authority, err := front.OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := authority.Issue("login.microsoftonline.com", "sts.eu-west-1.amazonaws.com", "api.ecr.eu-west-1.amazonaws.com", "sts.googleapis.com", "iamcredentials.googleapis.com", "team.azurecr.io",
		"eks.eu-west-1.amazonaws.com", "management.azure.com", "container.googleapis.com")
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority.PEM())
	transport := http.DefaultTransport.(*http.Transport)
	before := transport.TLSClientConfig
	transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	t.Cleanup(func() { transport.TLSClientConfig = before })

	c := &clouds{seen: map[string]int{}, audit: map[string][]string{}}
	inner := httptest.NewUnstartedServer(c)
	inner.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	inner.StartTLS()
	t.Cleanup(inner.Close)
	outer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "only CONNECT", http.StatusBadRequest)
			return
		}
		tunnel(w, inner.Listener.Addr().String())
	}))
	t.Cleanup(outer.Close)
	if c.proxy, err = url.Parse(outer.URL); err != nil {
		t.Fatal(err)
	}
	return c
}

func tunnel(w http.ResponseWriter, to string) {
	there, err := net.Dial("tcp", to)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	here, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		there.Close()
		return
	}
	fmt.Fprint(here, "HTTP/1.1 200 OK\r\n\r\n")
	go func() { io.Copy(there, here); there.Close() }()
	go func() { io.Copy(here, there); here.Close() }()
}

// ServeHTTP answers as the service whose host was asked for.
func (c *clouds) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	c.seen[r.Host]++
	n, fail := c.seen[r.Host], c.fail
	c.mu.Unlock()
	if fail {
		http.Error(w, `{"error":"invalid_client","error_description":"line one\n`+canary+`"}`, http.StatusUnauthorized)
		return
	}
	if c.describe != nil && c.describe(w, r) {
		return
	}
	form, _ := url.ParseQuery(string(body))
	token := fmt.Sprintf("token-%d", n)
	switch {
	case r.Host == "login.microsoftonline.com" && strings.Contains(r.URL.Path, "discovery/instance"):
		fmt.Fprint(w, `{"tenant_discovery_endpoint":"https://login.microsoftonline.com/tenant/v2.0/.well-known/openid-configuration","metadata":[{"preferred_network":"login.microsoftonline.com","preferred_cache":"login.windows.net","aliases":["login.microsoftonline.com"]}]}`)
	case r.Host == "login.microsoftonline.com" && strings.Contains(r.URL.Path, "openid-configuration"):
		fmt.Fprint(w, `{"token_endpoint":"https://login.microsoftonline.com/tenant/oauth2/v2.0/token","authorization_endpoint":"https://login.microsoftonline.com/tenant/oauth2/v2.0/authorize","issuer":"https://login.microsoftonline.com/tenant/v2.0"}`)
	case r.Host == "login.microsoftonline.com":
		c.note("azure", form.Get("client_assertion"))
		fmt.Fprintf(w, `{"access_token":%q,"expires_in":3600,"token_type":"Bearer"}`, token)
	case r.Host == "team.azurecr.io":
		refresh, _ := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"exp": time.Now().Add(time.Hour).Unix(), "n": n}).SignedString([]byte("k"))
		fmt.Fprintf(w, `{"refresh_token":%q}`, refresh)
	case r.Host == "sts.eu-west-1.amazonaws.com":
		c.note("aws", form.Get("WebIdentityToken"))
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>AK%d</AccessKeyId><SecretAccessKey>SK</SecretAccessKey><SessionToken>ST</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, n, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	case r.Host == "api.ecr.eu-west-1.amazonaws.com":
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		fmt.Fprintf(w, `{"authorizationData":[{"authorizationToken":%q,"expiresAt":%d}]}`, base64.StdEncoding.EncodeToString([]byte("AWS:"+token)), time.Now().Add(time.Hour).Unix())
	case r.Host == "sts.googleapis.com":
		var j struct {
			SubjectToken string `json:"subject_token"`
		}
		_ = json.Unmarshal(body, &j)
		c.note("gcp", form.Get("subject_token")+j.SubjectToken)
		fmt.Fprintf(w, `{"access_token":%q,"expires_in":3600,"token_type":"Bearer","issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}`, token)
	default:
		http.Error(w, "who is "+r.Host+r.URL.Path+"?", http.StatusNotFound)
	}
}

// note remembers for whom a Kubernetes token was made.
func (c *clouds) note(provider, token string) {
	var claims jwt.MapClaims
	if _, _, err := jwt.NewParser().ParseUnverified(token, &claims); err != nil {
		claims = jwt.MapClaims{"sub": "unreadable"}
	}
	aud, _ := claims.GetAudience()
	sub, _ := claims.GetSubject()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.audit[provider] = append(c.audit[provider], sub+" for "+strings.Join(aud, ","))
}

func TestMain(m *testing.M) { kubetest.Main(m) }

type fixture struct {
	client    client.Client
	providers *Providers
	namespace string
}

func setup(t *testing.T) fixture {
	t.Helper()
	c := kubetest.Start(t)
	cl, err := client.New(c.Config, client.Options{Scheme: clientgoscheme.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Config{Client: cl, Live: cl})
	if err != nil {
		t.Fatal(err)
	}
	return fixture{cl, p, c.Namespace(t)}
}

func (f fixture) account(t *testing.T, name string, annotations map[string]string) {
	t.Helper()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: f.namespace, Name: name, Annotations: annotations}}
	if err := f.client.Create(t.Context(), sa); err != nil {
		t.Fatal(err)
	}
}

func (f fixture) object(name string) client.Object {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: f.namespace, Name: name}}
}

// TestWorkloadIdentity exchanges real tokens of service accounts for those of
// each provider.
func TestWorkloadIdentity(t *testing.T) {
	f, c := setup(t), startClouds(t)
	f.account(t, "azure", map[string]string{"azure.workload.identity/tenant-id": "tenant", "azure.workload.identity/client-id": "client"})
	f.account(t, "aws", map[string]string{"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/reader"})
	gcpAudience := "//iam.googleapis.com/projects/123456789/locations/global/workloadIdentityPools/pool/providers/cluster"
	f.account(t, "gcp", map[string]string{"gcp.auth.fluxcd.io/workload-identity-provider": strings.TrimPrefix(gcpAudience, "//iam.googleapis.com/")})
	for provider, repository := range map[string]string{
		Azure: "team.azurecr.io/app", AWS: "123456789012.dkr.ecr.eu-west-1.amazonaws.com/app", GCP: "europe-docker.pkg.dev/project/repo/app",
	} {
		obj := f.object("one")
		login, err := f.providers.Registry(t.Context(), provider, "oci://"+repository, f.providers.Options(obj, provider, c.proxy)...)
		if err != nil || login.Username == "" || login.Password == "" {
			t.Errorf("%s: %+v, %v", provider, login, err)
			continue
		}
		again, err := f.providers.Registry(t.Context(), provider, repository, f.providers.Options(f.object("two"), provider, c.proxy)...)
		if err != nil || again != login {
			t.Errorf("%s: not cached: %+v, %v", provider, again, err)
		}
		if got := c.audit[provider]; len(got) != 1 || !strings.HasPrefix(got[0], "system:serviceaccount:"+f.namespace+":"+provider+" for ") {
			t.Errorf("%s: tokens %v", provider, got)
		}
	}
	for provider, audience := range map[string]string{Azure: "api://AzureADTokenExchange", AWS: "sts.amazonaws.com"} {
		if got := c.audit[provider]; len(got) == 0 || !strings.HasSuffix(got[0], " for "+audience) {
			t.Errorf("%s: audience %v", provider, got)
		}
	}
	// The same calls serve buckets and keys.
	key, err := f.providers.AWS(t.Context(), append(f.providers.Options(f.object("b"), "aws", c.proxy), auth.WithSTSRegion("eu-west-1"))...).Retrieve(t.Context())
	if err != nil || !strings.HasPrefix(key.AccessKeyID, "AK") {
		t.Errorf("AWS: %+v, %v", key.AccessKeyID, err)
	}
	if tok, err := f.providers.GCP(t.Context(), f.providers.Options(f.object("b"), "gcp", c.proxy)...).Token(); err != nil || tok.AccessToken == "" {
		t.Errorf("GCP: %v", err)
	}
	credential := f.providers.Azure(t.Context(), f.providers.Options(f.object("b"), "azure", c.proxy)...)
	vault, err := credential.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}})
	if err != nil {
		t.Fatal(err)
	}
	storage, err := credential.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://storage.azure.com/.default"}})
	if err != nil || storage.Token == vault.Token {
		t.Errorf("tokens of two scopes: %v, %v", storage.Token == vault.Token, err)
	}
}

// TestTokensAreNotMixed shows that what the tokens of one are cached under is
// not what another asks with: identity, account, namespace, proxy.
func TestTokensAreNotMixed(t *testing.T) {
	f, c := setup(t), startClouds(t)
	id := func(n string) map[string]string {
		return map[string]string{"azure.workload.identity/tenant-id": "tenant", "azure.workload.identity/client-id": n}
	}
	f.account(t, "a", id("one"))
	f.account(t, "b", id("one"))
	other := setup(t)
	other.providers = f.providers
	other.account(t, "a", id("one"))
	second := startProxyBeside(t, c)
	seen := map[string]string{}
	for name, x := range map[string]struct {
		f       fixture
		account string
		proxy   *url.URL
	}{
		"first": {f, "a", c.proxy}, "other account": {f, "b", c.proxy}, "other namespace": {other, "a", c.proxy}, "other proxy": {f, "a", second},
	} {
		login, err := f.providers.Registry(t.Context(), Azure, "team.azurecr.io/app", f.providers.Options(x.f.object("o"), x.account, x.proxy)...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if twin, ok := seen[login.Password]; ok {
			t.Errorf("%s has the token of %s", name, twin)
		}
		seen[login.Password] = name
	}
	// A new identity of the account acts at once.
	before := c.requests("login.microsoftonline.com")
	var sa corev1.ServiceAccount
	if err := f.client.Get(t.Context(), client.ObjectKey{Namespace: f.namespace, Name: "a"}, &sa); err != nil {
		t.Fatal(err)
	}
	sa.Annotations["azure.workload.identity/client-id"] = "two"
	if err := f.client.Update(t.Context(), &sa); err != nil {
		t.Fatal(err)
	}
	login, err := f.providers.Registry(t.Context(), Azure, "team.azurecr.io/app", f.providers.Options(f.object("o"), "a", c.proxy)...)
	if err != nil || seen[login.Password] != "" || c.requests("login.microsoftonline.com") == before {
		t.Errorf("the token of the old identity was used: %v", err)
	}
}

// startProxyBeside is another way to the same clouds.
func startProxyBeside(t *testing.T, c *clouds) *url.URL {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		there, err := net.Dial("tcp", c.proxy.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprintf(there, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", r.Host, r.Host)
		here, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			there.Close()
			return
		}
		go func() { io.Copy(there, here); there.Close() }()
		go func() { io.Copy(here, there); here.Close() }()
	}))
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestRefusals(t *testing.T) {
	f, c := setup(t), startClouds(t)
	f.account(t, "a", map[string]string{"azure.workload.identity/tenant-id": "tenant", "azure.workload.identity/client-id": "client"})
	o := f.object("o")
	for name, x := range map[string]struct {
		provider, repository string
		want                 error
	}{
		"no such provider":        {"ibm", "team.azurecr.io/app", ErrUnsupported},
		"generic":                 {Generic, "team.azurecr.io/app", ErrUnsupported},
		"registry of another":     {Azure, "ghcr.io/app", ErrUnsupported},
		"AWS's in front":          {AWS, "1.dkr.ecr.eu-central-1.amazonaws.com.evil.example/app", ErrUnsupported},
		"name that looks like it": {Azure, "team.azurecr.io.evil.example/app", ErrUnsupported},
	} {
		if _, err := f.providers.Registry(t.Context(), x.provider, x.repository, f.providers.Options(o, "a", c.proxy)...); !errors.Is(err, x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := f.providers.Registry(t.Context(), Azure, "team.azurecr.io/app", f.providers.Options(o, "missing", c.proxy)...)
	if !errors.Is(err, ErrCredentials) || !strings.Contains(err.Error(), "missing") {
		t.Errorf("missing account: %v", err)
	}
	c.fail = true
	_, err = f.providers.Registry(t.Context(), Azure, "team.azurecr.io/app", f.providers.Options(o, "a", c.proxy)...)
	if !errors.Is(err, ErrCredentials) || strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), "\n") {
		t.Errorf("what a provider answers is told: %v", err)
	}
	if _, err := f.providers.Git(t.Context(), "ibm", c.proxy); !errors.Is(err, ErrUnsupported) {
		t.Errorf("git: %v", err)
	}
	if _, err := New(Config{}); err == nil {
		t.Error("providers without a client")
	}
}

// TestRESTConfig reaches a cluster through a ConfigMap, with a token of a
// service account that the cluster accepts.
func TestRESTConfig(t *testing.T) {
	f := setup(t)
	c := kubetest.Start(t)
	f.account(t, "remote", nil)
	ca := c.Config.CAData
	if len(ca) == 0 {
		var err error
		if ca, err = os.ReadFile(c.Config.CAFile); err != nil {
			t.Fatal(err)
		}
	}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: f.namespace, Name: "cluster"}, Data: map[string]string{
		meta.KubeConfigKeyProvider: Generic, meta.KubeConfigKeyAddress: c.Config.Host, meta.KubeConfigKeyCACert: string(ca),
		meta.KubeConfigKeyServiceAccountName: "remote", meta.KubeConfigKeyAudiences: "https://kubernetes.default.svc\n",
	}}
	changed := cm.DeepCopy()
	delete(changed.Data, meta.KubeConfigKeyServiceAccountName)
	if err := f.client.Create(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// A ConfigMap that lost its service account since it was judged would lead
	// to this process's own token, which is not there: what was judged counts.
	config, err := f.providers.RESTConfig(ctx, f.object("o"), cm)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.providers.RESTConfig(ctx, f.object("o"), changed); err == nil {
		t.Error("the process's own identity was used, or the test shows nothing")
	}
	if config.Host != c.Config.Host && config.Host != strings.ToLower(c.Config.Host) {
		t.Errorf("host %s", config.Host)
	}
	for name, data := range map[string]string{"bad": "ibm", "empty": ""} {
		bad := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: f.namespace, Name: name}, Data: map[string]string{meta.KubeConfigKeyProvider: data}}
		if _, err := f.providers.RESTConfig(ctx, f.object("o"), bad); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), f.namespace+"/"+name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	foreign := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "cluster"}, Data: cm.Data}
	if _, err := f.providers.RESTConfig(ctx, f.object("o"), foreign); err == nil || !strings.Contains(err.Error(), "another namespace") {
		t.Errorf("of another namespace: %v", err)
	}
}

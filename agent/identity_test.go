package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/agent/mirror"
	"headwater.dev/dev/kubetest"
)

func pemOf(t *testing.T, kind string, der []byte, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func TestReadIdentity(t *testing.T) {
	c := kubetest.Start(t, kubetest.WithNode())
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err8 := x509.MarshalPKCS8PrivateKey(key)
	ec, errEC := x509.MarshalPKCS8PrivateKey(other)
	cases := map[string]struct {
		why     string
		key     []byte
		id      string
		data    map[string]string
		refused bool
		guard   mirror.Guard
	}{
		"PKCS#8":        {why: "the usual form", key: pemOf(t, "PRIVATE KEY", pkcs8, err8), id: cluster},
		"PKCS#1":        {why: "the old form", key: pemOf(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key), nil)},
		"other casing":  {why: "ARM ids do not distinguish case", key: pemOf(t, "PRIVATE KEY", pkcs8, err8), id: "/SUBSCRIPTIONS" + cluster[len("/subscriptions"):]},
		"EC key":        {why: "secrets are sealed to RSA keys", key: pemOf(t, "PRIVATE KEY", ec, errEC), refused: true},
		"no PEM":        {why: "not a key", key: []byte("x"), refused: true},
		"other cluster": {why: "a key must never be used for another cluster", key: pemOf(t, "PRIVATE KEY", pkcs8, err8), id: cluster + "2", refused: true},
		"guard": {why: "the owner's limits arrive", key: pemOf(t, "PRIVATE KEY", pkcs8, err8),
			data:  map[string]string{"allowed-namespaces": "team-*, apps", "allowed-service-accounts": "a, b-*", "namespace-scope-only": "true"},
			guard: mirror.Guard{Namespaces: []string{"team-*", "apps"}, ServiceAccounts: []string{"a", "b-*"}, NamespaceScopeOnly: true}},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			namespace := c.Namespace(t)
			data := map[string]string{"hub": "https://hub", "ca.crt": "CA", "cluster-id": cluster}
			maps.Copy(data, test.data)
			_, err1 := c.Client.CoreV1().Secrets(namespace).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: identitySecret},
				Data: map[string][]byte{"tls.key": test.key, "cluster-id": []byte(test.id)}}, metav1.CreateOptions{})
			_, err2 := c.Client.CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: configMap}, Data: data}, metav1.CreateOptions{})
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			var got Config
			err := read(t.Context(), c.Client, namespace, &got)
			if test.refused {
				if !errors.Is(err, errIdentity) {
					t.Errorf("%s: %v, want errIdentity", test.why, err)
				}
				return
			}
			if err != nil || !got.Key.Equal(key) || got.Hub != "https://hub" || string(got.CA) != "CA" || got.Cluster != cluster {
				t.Fatalf("%s: %+v, %v", test.why, got, err)
			}
			test.guard.Own = namespace
			if diff := cmp.Diff(test.guard, got.Guard); diff != "" {
				t.Errorf("%s (-want +got):\n%s", test.why, diff)
			}
		})
	}
}

func TestHeartbeatDescribesTheCluster(t *testing.T) {
	c := kubetest.Start(t, kubetest.WithNode())
	h := &heart{kube: c.Client, version: "1.2.3", now: time.Now}
	beat := h.beat(t.Context())
	if beat.TotalNodeCount != 1 || beat.TotalCoreCount < 1 || beat.KubernetesVersion == "" || beat.KubernetesVersion[0] == 'v' || beat.AgentVersion != "1.2.3" {
		t.Errorf("heartbeat: %+v", beat)
	}
}

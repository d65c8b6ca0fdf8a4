package kustomize

import (
	"context"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/acl"
	"github.com/fluxcd/pkg/apis/meta"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/kubetest"
)

// away is a second cluster with the world's namespace and its flux-applier.
type away struct {
	*kubetest.Cluster
	w *world
}

func newAway(w *world) *away {
	w.t.Helper()
	a := &away{kubetest.Another(w.t), w}
	ctx := w.ctx
	if _, err := a.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	a.grant("flux-applier")
	return a
}

// grant lets a service account of the namespace do everything there.
func (a *away) grant(name string) {
	a.w.t.Helper()
	_, err := a.Client.RbacV1().RoleBindings(a.w.ns).Create(a.w.ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: name, Namespace: a.w.ns}},
	}, metav1.CreateOptions{})
	if err != nil {
		a.w.t.Fatal(err)
	}
}

func (a *away) kubeconfig() string {
	a.w.t.Helper()
	raw, err := os.ReadFile(a.Kubeconfig)
	if err != nil {
		a.w.t.Fatal(err)
	}
	return string(raw)
}

func (a *away) configMap(name string) (*corev1.ConfigMap, error) {
	return a.Client.CoreV1().ConfigMaps(a.w.ns).Get(a.w.ctx, name, metav1.GetOptions{})
}

func (w *world) secret(name, key, value string) {
	w.t.Helper()
	w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.ns}, StringData: map[string]string{key: value}})
}

func toSecret(name, key string) func(*kustomizev1.KustomizationSpec) {
	return func(s *kustomizev1.KustomizationSpec) {
		s.KubeConfig = &meta.KubeConfigReference{SecretRef: &meta.SecretKeyReference{Name: name, Key: key}}
	}
}

// TestRemoteCluster applies to, corrects, waits for and prunes from another
// cluster, as the tenant there.
func TestRemoteCluster(t *testing.T) {
	w := newWorld(t, "admin")
	a := newAway(w)
	w.secret("away", "value.yaml", a.kubeconfig())
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "1"), "b.yaml": cm("b", "1")})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { toSecret("away", "")(s); s.Wait = true })
	k := w.ready("app", revision)
	if got, err := a.configMap("a"); err != nil || got.Data["key"] != "1" {
		t.Errorf("a there: %v, %v", got, err)
	}
	if _, err := w.configMap("a"); !apierrors.IsNotFound(err) {
		t.Errorf("a is here too: %v", err)
	}

	drifted, err := a.configMap("a")
	if err != nil {
		t.Fatal(err)
	}
	drifted.Data["key"] = "drift"
	if _, err := a.Client.CoreV1().ConfigMaps(w.ns).Update(w.ctx, drifted, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, 3*time.Second, func() error {
		if got, err := a.configMap("a"); err != nil || got.Data["key"] != "1" {
			return fmt.Errorf("a there: %v, %v", got.Data, err)
		}
		return nil
	})

	w.ready("app", w.publish("repo", map[string]string{"a.yaml": cm("a", "1")}))
	if _, err := a.configMap("b"); !apierrors.IsNotFound(err) {
		t.Errorf("b is still there: %v", err)
	}
	if err := w.client.Delete(w.ctx, k); err != nil {
		t.Fatal(err)
	}
	w.gone(k)
	if _, err := a.configMap("a"); !apierrors.IsNotFound(err) {
		t.Errorf("a is still there: %v", err)
	}
	w.impersonatedIn(a.Cluster)
	w.impersonated()
}

// gone waits until a Kustomization does not exist any more.
func (w *world) gone(k *kustomizev1.Kustomization) {
	w.t.Helper()
	kubetest.Eventually(w.t, 15*time.Second, func() error {
		if err := w.client.Get(w.ctx, client.ObjectKeyFromObject(k), &kustomizev1.Kustomization{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("%s: %v", k.Name, err)
		}
		return nil
	})
}

// TestRemoteClusterSecretChanges: a Secret that gets better acts at once, and
// one that names another user does so with the objects that are there.
func TestRemoteClusterSecretChanges(t *testing.T) {
	w := newWorld(t, "admin")
	a := newAway(w)
	w.secret("away", "value", strings.Replace(a.kubeconfig(), "server: https://", "proxy-url: http://127.0.0.1:1\n    server: https://", 1))
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	w.kustomization("app", toSecret("away", ""))
	w.failed("app", acl.AccessDeniedReason, `spec.kubeConfig.secretRef: Secret "away": cluster "headwater": proxy-url is not allowed`)
	w.kustomization("other", toSecret("away", "missing"))
	w.failed("other", acl.AccessDeniedReason, `it has no key "missing"`)
	w.kustomization("nothing", toSecret("none", ""))
	w.failed("nothing", meta.ReconciliationFailedReason, `spec.kubeConfig.secretRef: what it names does not exist`)

	s := &corev1.Secret{}
	if err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "away"}, s); err != nil {
		t.Fatal(err)
	}
	s.Data["value"], s.Data["missing"] = []byte(a.kubeconfig()), []byte(a.kubeconfig())
	start := time.Now()
	if err := w.client.Update(w.ctx, s); err != nil {
		t.Fatal(err)
	}
	w.ready("app", revision)
	w.ready("other", revision)
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("the change acted after %s", took)
	}
	w.secret("none", "value", a.kubeconfig())
	w.ready("nothing", revision)
}

// TestRemoteServiceAccount: the service account is impersonated there, and has
// no more rights than it has there.
func TestRemoteServiceAccount(t *testing.T) {
	w := newWorld(t, "admin")
	a := newAway(w)
	w.secret("away", "value", a.kubeconfig())
	w.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "deployer", Namespace: w.ns}})
	w.create(&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "deployer", Namespace: w.ns}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "deployer", Namespace: w.ns}}})
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) {
		toSecret("away", "")(s)
		s.ServiceAccountName, s.RetryInterval = "deployer", &metav1.Duration{Duration: 500 * time.Millisecond}
	})
	w.failed("app", meta.ReconciliationFailedReason, `ConfigMap/`+w.ns+`/a apply failed (Forbidden)`)
	a.grant("deployer")
	w.ready("app", revision)
}

// TestRemoteClusterIsGone: when the credentials are gone with the namespace,
// nothing wedges.
func TestRemoteClusterIsGone(t *testing.T) {
	w := newWorld(t, "admin")
	a := newAway(w)
	w.secret("away", "value", a.kubeconfig())
	w.kustomization("app", toSecret("away", ""))
	k := w.ready("app", w.publish("repo", map[string]string{"a.yaml": cm("a", "1")}))
	if err := w.client.Delete(w.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "away", Namespace: w.ns}}); err != nil {
		t.Fatal(err)
	}
	if err := w.client.Delete(w.ctx, k); err != nil {
		t.Fatal(err)
	}
	w.gone(k)
	if _, err := a.configMap("a"); err != nil {
		t.Errorf("nobody could delete a: %v", err)
	}
}

// TestRemoteClusterDoesNotAnswer: what takes connections and says nothing costs one
// wait for each try, whatever the number of objects and kinds.
func TestRemoteClusterDoesNotAnswer(t *testing.T) {
	w := newWorld(t, "admin")
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mute.Close() })
	w.secret("away", "value", fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"https://%s\"}}]\nusers: [{name: u, user: {token: t}}]\n"+
		"contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n", mute.Addr()))
	files := map[string]string{}
	for i, kind := range []string{"v1\nkind: ConfigMap", "v1\nkind: Secret", "v1\nkind: ServiceAccount", "v1\nkind: Service", "apps/v1\nkind: Deployment", "batch/v1\nkind: Job"} {
		files[fmt.Sprintf("f%d.yaml", i)] = "apiVersion: " + kind + "\nmetadata: {name: x}\n"
	}
	w.publish("repo", files)
	start := time.Now()
	w.kustomization("app", toSecret("away", ""))
	w.failedIn(time.Minute, "app", meta.ReconciliationFailedReason, "TLS handshake timeout")
	if took := time.Since(start); took > 25*time.Second {
		t.Errorf("a try took %s", took)
	}
}

// door is a second cluster that trusts the tokens of the first: it asks the
// first who a token is for, and passes the request on.
func door(t *testing.T, home *kubetest.Cluster, there *rest.Config) (string, string) {
	t.Helper()
	target, err := url.Parse(there.Host)
	if err != nil {
		t.Fatal(err)
	}
	rt, err := rest.TransportFor(there)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Transport: rt, FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Header.Del("Authorization")
	}}
	var address string
	s := httptest.NewTLSServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		review, err := home.Client.AuthenticationV1().TokenReviews().Create(context.WithoutCancel(r.Context()), &authenticationv1.TokenReview{
			Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{address}},
		}, metav1.CreateOptions{})
		if err != nil || !review.Status.Authenticated || !strings.HasSuffix(review.Status.User.Username, ":cluster-user") {
			http.Error(out, "who is there?", http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(out, r)
	}))
	t.Cleanup(func() {
		s.Listener.Close()
		s.CloseClientConnections() // the watches of the loop would go on
	})
	address = s.URL
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return address, string(ca)
}

// TestRemoteClusterByConfigMap uses tokens of a service account instead of a
// Secret, by provider generic.
func TestRemoteClusterByConfigMap(t *testing.T) {
	w := newWorld(t, "admin")
	a := newAway(w)
	address, ca := door(t, w.c, a.Config)
	w.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "cluster-user", Namespace: w.ns}})
	cmap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "away", Namespace: w.ns}, Data: map[string]string{
		"provider": "generic", "address": address, "ca.crt": ca,
	}}
	w.create(cmap)
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) {
		s.KubeConfig = &meta.KubeConfigReference{ConfigMapRef: &meta.LocalObjectReference{Name: "away"}}
	})
	w.failed("app", acl.AccessDeniedReason, `ConfigMap "away" has no serviceAccountName`)
	cmap.Data["serviceAccountName"] = "cluster-user"
	if err := w.client.Update(w.ctx, cmap); err != nil {
		t.Fatal(err)
	}
	w.ready("app", revision)
	if got, err := a.configMap("a"); err != nil || got.Data["key"] != "1" {
		t.Errorf("a there: %v, %v", got, err)
	}
	cmap.Data["provider"] = "nowhere"
	if err := w.client.Update(w.ctx, cmap); err != nil {
		t.Fatal(err)
	}
	w.failed("app", meta.ReconciliationFailedReason, `"nowhere" has no access to clusters`)
}

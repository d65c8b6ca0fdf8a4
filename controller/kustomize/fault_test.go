package kustomize

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"headwater.dev/dev/kubetest"
)

// flaky is an API server that has bad moments: of the writes, a third are
// refused as too many, fail inside, or are carried out and never answered.
type flaky struct {
	proxy  *httputil.ReverseProxy
	writes atomic.Int64
	// bad turns the bad moments on.
	bad atomic.Bool

	mu   sync.Mutex
	dice *rand.Rand
	// expired, while it is set, counts the watches that ended as expired by path.
	expired map[string]int
	// cut ends the open watches.
	cut chan struct{}
}

// expire ends all watches, and each that is begun anew as expired, until what it
// returns is called.
func (f *flaky) expire() (stop func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expired = map[string]int{}
	close(f.cut)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.expired, f.cut = nil, make(chan struct{})
	}
}

// expiredAt is how many watches of a path have ended as expired.
func (f *flaky) expiredAt(path string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.expired[path]
}

// watch is a watch until it is cut, or one that has expired.
func (f *flaky) watch(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	expired, cut := f.expired != nil, f.cut
	if expired {
		f.expired[r.URL.Path]++
	}
	f.mu.Unlock()
	if expired {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintln(w, `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410}}`)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() {
		select {
		case <-cut:
			cancel()
		case <-ctx.Done():
		}
	}()
	f.proxy.ServeHTTP(w, r.WithContext(ctx))
}

// moment is which of nine a write meets. In a fixed order a loop of as many writes
// would meet the same one again and again.
func (f *flaky) moment() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dice.IntN(9)
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("watch") != "" {
		f.watch(w, r)
		return
	}
	if r.Method == http.MethodGet || !f.bad.Load() {
		f.proxy.ServeHTTP(w, r)
		return
	}
	f.writes.Add(1)
	switch f.moment() {
	case 0:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"TooManyRequests","code":429}`)
	case 1:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"InternalError","code":500}`)
	case 2:
		f.proxy.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler) // the answer is lost
	default:
		f.proxy.ServeHTTP(w, r)
	}
}

func newFlaky(t *testing.T, c *kubetest.Cluster) (*flaky, string) {
	t.Helper()
	target, err := url.Parse(c.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	rt, err := rest.TransportFor(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	f := &flaky{cut: make(chan struct{}), dice: rand.New(rand.NewPCG(1, 2)), proxy: &httputil.ReverseProxy{Transport: rt, FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}}
	s := httptest.NewServer(f)
	t.Cleanup(func() { s.Listener.Close(); s.CloseClientConnections() })
	file := filepath.Join(t.TempDir(), "kubeconfig")
	config := "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"" + s.URL + "\"}}]\nusers: [{name: u, user: {}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n"
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return f, file
}

// TestF05BadMoments: refusals, failures and lost answers delay what Git says,
// and change nothing about it; a watch that expires is taken up again.
func TestF05BadMoments(t *testing.T) {
	w := newWorld(t, "admin")
	f, kubeconfig := newFlaky(t, w.c)
	c := newChild(t, w)
	c.kubeconfig = kubeconfig
	f.bad.Store(true)
	c.start("")
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.Wait = true })
	for round := range 4 {
		files, want := map[string]string{}, map[string]string{}
		for i := range 6 {
			name, value := fmt.Sprintf("m%d", i+round), fmt.Sprint(round)
			files[name+".yaml"], want[name] = cm(name, value), value
		}
		w.ready("app", w.publish("repo", files))
		w.holds("app", want)
	}
	if n := f.writes.Load(); n < 20 {
		t.Errorf("only %d writes went through the bad moments", n)
	}
	f.bad.Store(false)

	// All watches end as expired for a while; what changes meanwhile is found.
	stop := f.expire()
	kubetest.Eventually(t, 20*time.Second, func() error {
		if path := "/api/v1/namespaces/" + w.ns + "/configmaps"; f.expiredAt(path) == 0 {
			return fmt.Errorf("no watch of %s has expired", path)
		}
		return nil
	})
	m, err := w.configMap("m5")
	if err != nil {
		t.Fatal(err)
	}
	m.Data["key"] = "drift"
	if err := w.client.Update(w.ctx, m); err != nil {
		t.Fatal(err)
	}
	stop()
	kubetest.Eventually(t, 20*time.Second, func() error {
		if m, err := w.configMap("m5"); err != nil || m.Data["key"] != "3" {
			return fmt.Errorf("m5 = %v, %v", m.Data, err)
		}
		return nil
	})
}

// TestF05WebhookDown: what admission cannot judge is tried again soon, not at
// the retry interval, which is an hour here.
func TestF05WebhookDown(t *testing.T) {
	w := newWorld(t, "admin")
	fail, none, at := admissionv1.Fail, admissionv1.SideEffectClassNone, "https://127.0.0.1:1/"
	hook := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: w.ns}, Webhooks: []admissionv1.ValidatingWebhook{{
		Name: "down.example.com", FailurePolicy: &fail, SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
		ClientConfig:      admissionv1.WebhookClientConfig{URL: &at},
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: w.ns}},
		Rules:             []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{admissionv1.OperationAll}, Rule: admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}},
	}}}
	w.create(hook)
	t.Cleanup(func() {
		_ = w.c.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(context.Background(), hook.Name, metav1.DeleteOptions{})
	})
	w.kustomization("app", nil)
	kubetest.Eventually(t, 10*time.Second, func() error {
		_, err := w.c.Client.CoreV1().ConfigMaps(w.ns).Create(w.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "x"}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil {
			return fmt.Errorf("the webhook does not act yet")
		}
		return nil
	})
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	w.failed("app", meta.ReconciliationFailedReason, `failed calling webhook "down.example.com"`)
	if err := w.client.Delete(w.ctx, hook); err != nil {
		t.Fatal(err)
	}
	w.ready("app", revision)
}

// TestF05DefinitionRemoved: a definition that goes with its objects stops
// neither the rest nor the deletion.
func TestF05DefinitionRemoved(t *testing.T) {
	w := newWorld(t, "cluster-admin")
	crd := strings.NewReplacer("widgets", "gadgets", "Widget", "Gadget", "widget", "gadget", "health.", "removed.").Replace(widgets)
	gadget := "apiVersion: removed.example.com/v1\nkind: Gadget\nmetadata: {name: g}\nspec: {}\n"
	w.kustomization("app", nil)
	w.ready("app", w.publish("repo", map[string]string{"crd.yaml": crd, "g.yaml": gadget, "a.yaml": cm("a", "1")}))
	w.suspend("app")
	if err := w.client.Delete(w.ctx, &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "gadgets.removed.example.com"}}); err != nil {
		t.Fatal(err)
	}
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "2")})
	k := w.change("app", func(k *kustomizev1.Kustomization) { k.Spec.Suspend = false })
	w.ready("app", revision)
	w.holds("app", map[string]string{"a": "2"})
	if err := w.client.Delete(w.ctx, k); err != nil {
		t.Fatal(err)
	}
	w.gone(k)
}

// TestF08TwoReplicas: one of two works, and when it is killed the other does.
func TestF08TwoReplicas(t *testing.T) {
	w := newWorld(t, "admin")
	first := newChild(t, w)
	second := &child{w: w, dir: first.dir, leader: "second"}
	first.leader = "first"
	t.Cleanup(second.kill)
	first.start("")
	w.kustomization("app", nil)
	w.ready("app", w.publish("repo", map[string]string{"a.yaml": cm("a", "1")}))
	second.start("")
	w.ready("app", w.publish("repo", map[string]string{"a.yaml": cm("a", "2"), "b.yaml": cm("b", "2")}))
	writes := func(agent string) (n int) {
		for _, a := range w.requests() {
			if a.UserAgent == agent && (a.Verb == "patch" || a.Verb == "delete") {
				n++
			}
		}
		return n
	}
	if first, second := writes("first"), writes("second"); first == 0 || second > 0 {
		t.Errorf("writes: %d of the leader, %d of the other", first, second)
	}
	first.kill()
	revision := w.publish("repo", map[string]string{"b.yaml": cm("b", "3")})
	w.readyIn(time.Minute, "app", revision)
	w.holds("app", map[string]string{"b": "3"})
	if writes("second") == 0 {
		t.Error("the other did not work")
	}
}

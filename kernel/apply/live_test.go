package apply

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"headwater.dev/dev/kubetest"
	"headwater.dev/kernel/tenant"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

const testGroup = "kustomize.toolkit.fluxcd.io"

// bed is a tenant in a real cluster with an engine.
type bed struct {
	t     *testing.T
	admin client.Client
	ns    string
	who   Tenant
	e     *Engine
	woken chan types.NamespacedName
}

func newBed(t *testing.T, rules ...rbacv1.PolicyRule) *bed {
	t.Helper()
	return newBedOver(t, nil, rules...)
}

// newBedOver is a tenant whose requests go over a line of the test.
func newBedOver(t *testing.T, line func(http.RoundTripper) http.RoundTripper, rules ...rbacv1.PolicyRule) *bed {
	t.Helper()
	c := kubetest.Start(t)
	admin, err := client.New(c.Config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, admin: admin, ns: c.Namespace(t), woken: make(chan types.NamespacedName, 1000)}
	for _, o := range []client.Object{
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "t", Namespace: b.ns}},
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "t", Namespace: b.ns}, Rules: rules},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "t", Namespace: b.ns}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "t"},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "t", Namespace: b.ns}}},
	} {
		if err := admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	b.granted(rules)
	httpClient, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	mapper, err := apiutil.NewDynamicRESTMapper(c.Config, httpClient)
	if err != nil {
		t.Fatal(err)
	}
	config := rest.CopyConfig(c.Config)
	config.WrapTransport = line
	clients, err := tenant.New(config, scheme.Scheme, mapper)
	if err != nil {
		t.Fatal(err)
	}
	id := tenant.Identity{Namespace: b.ns, ServiceAccount: "t"}
	access, err := clients.As(id)
	if err != nil {
		t.Fatal(err)
	}
	b.who = Tenant{Owner: types.NamespacedName{Namespace: b.ns, Name: "owner"}, Identity: id, Access: access}
	w := NewWatcher("kustomize-controller", testGroup, func(n types.NamespacedName) {
		select {
		case b.woken <- n:
		default:
		}
	})
	b.e = &Engine{Manager: "kustomize-controller", Group: testGroup, Watcher: w, Parallel: 4}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go func() { _ = w.Start(ctx) }()
	return b
}

// granted waits until the API server acts by the tenant's role, which it learns of
// a moment after it was written.
func (b *bed) granted(rules []rbacv1.PolicyRule) {
	b.t.Helper()
	if len(rules) == 0 {
		return
	}
	r := rules[0] // all come at once
	kubetest.Eventually(b.t, time.Minute, func() error {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: "system:serviceaccount:" + b.ns + ":t",
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: b.ns, Verb: r.Verbs[0], Group: r.APIGroups[0], Resource: r.Resources[0]}}}
		if err := b.admin.Create(b.t.Context(), review); err != nil {
			return err
		}
		if !review.Status.Allowed {
			return fmt.Errorf("the tenant may not yet %s %s: %s", r.Verbs[0], r.Resources[0], review.Status.Reason)
		}
		return nil
	})
}

func all(resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{""}, Resources: resources, Verbs: []string{"*"}}
}

func (b *bed) cm(name, value string) *unstructured.Unstructured {
	u := newObject("ConfigMap", name)
	u.SetNamespace(b.ns)
	u.Object["data"] = map[string]any{"key": value}
	return u
}

// apply tracks and applies, and gives what happened by name.
func (b *bed) apply(objects ...*unstructured.Unstructured) map[string]Action {
	b.t.Helper()
	var refs []Ref
	for _, u := range objects {
		refs = append(refs, RefOf(u))
	}
	b.e.Watcher.Track(Interest{Tenant: b.who, Objects: refs})
	kubetest.Eventually(b.t, 10*time.Second, func() error {
		if !b.e.Watcher.Synced(b.who.Owner) {
			return fmt.Errorf("not synced")
		}
		return nil
	})
	out, err := b.e.Apply(b.t.Context(), Request{Tenant: b.who, Objects: objects})
	if err != nil {
		b.t.Fatal(err)
	}
	got := map[string]Action{}
	for _, c := range out.Changes {
		got[c.Name] = c.Action
	}
	return got
}

func (b *bed) live(name string) *corev1.ConfigMap {
	b.t.Helper()
	cm := &corev1.ConfigMap{}
	if err := b.admin.Get(b.t.Context(), client.ObjectKey{Namespace: b.ns, Name: name}, cm); err != nil {
		b.t.Fatal(err)
	}
	return cm
}

func TestApplyActions(t *testing.T) {
	b := newBed(t, all("configmaps"))
	if got := b.apply(b.cm("a", "1")); got["a"] != Created {
		t.Errorf("first: %v", got)
	}
	if got := b.apply(b.cm("a", "1")); got["a"] != Unchanged {
		t.Errorf("again: %v", got)
	}
	if got := b.apply(b.cm("a", "2")); got["a"] != Configured || b.live("a").Data["key"] != "2" {
		t.Errorf("changed: %v", got)
	}
	ignored := b.cm("i", "1")
	ignored.SetAnnotations(map[string]string{testGroup + "/ssa": "Ignore"})
	if got := b.apply(b.cm("a", "2"), ignored); got["i"] != Skipped {
		t.Errorf("ignored: %v", got)
	}
	once := b.cm("once", "1")
	once.SetAnnotations(map[string]string{testGroup + "/ssa": "IfNotPresent"})
	if got := b.apply(once); got["once"] != Created {
		t.Errorf("once: %v", got)
	}
	once = once.DeepCopy()
	once.Object["data"] = map[string]any{"key": "2"}
	if got := b.apply(once); got["once"] != Skipped || b.live("once").Data["key"] != "1" {
		t.Errorf("once again: %v", got)
	}
	if _, err := b.e.Apply(t.Context(), Request{Tenant: b.who, Objects: []*unstructured.Unstructured{b.cm("d", "1"), b.cm("d", "2")}}); err == nil || !strings.Contains(err.Error(), "ConfigMap/"+b.ns+"/d is there twice") {
		t.Errorf("error = %v", err)
	}
}

func TestTakeOverFromKubectl(t *testing.T) {
	b := newBed(t, all("configmaps"))
	old := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: b.ns, Annotations: map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "{}"}},
		Data: map[string]string{"key": "0", "left": "behind"}}
	if err := b.admin.Create(t.Context(), old, client.FieldOwner("kubectl-client-side-apply")); err != nil {
		t.Fatal(err)
	}
	b.apply(b.cm("a", "1"))
	if got := b.live("a"); len(got.Data) != 1 || got.Data["key"] != "1" || len(got.Annotations) != 0 {
		t.Errorf("data %v, annotations %v", got.Data, got.Annotations)
	}
	if got := b.apply(b.cm("a", "1")); got["a"] != Unchanged {
		t.Errorf("again: %v", got)
	}
}

func TestPruneLeavesWhatIsNotOurs(t *testing.T) {
	b := newBed(t, all("configmaps"))
	kept := b.cm("kept", "1")
	kept.SetAnnotations(map[string]string{testGroup + "/prune": "disabled"})
	b.apply(b.cm("a", "1"), kept)
	foreign := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "foreign", Namespace: b.ns, Labels: map[string]string{testGroup + "/name": "other", testGroup + "/namespace": b.ns}}}
	if err := b.admin.Create(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	bare := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "bare", Namespace: b.ns}}
	if err := b.admin.Create(t.Context(), bare); err != nil {
		t.Fatal(err)
	}
	refs := []Ref{RefOf(b.cm("a", "")), RefOf(kept), RefOf(b.cm("foreign", "")), RefOf(b.cm("bare", "")), RefOf(b.cm("never", ""))}
	if _, err := b.e.Prune(t.Context(), b.who, refs); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kept", "foreign", "bare"} {
		b.live(name)
	}
	if err := b.admin.Get(t.Context(), client.ObjectKey{Namespace: b.ns, Name: "a"}, &corev1.ConfigMap{}); !apierrors.IsNotFound(err) {
		t.Errorf("a: %v", err)
	}
}

// TestWithoutWatchRights works for a tenant that may write and read, and
// neither list nor watch: it costs requests and gives the same result.
func TestWithoutWatchRights(t *testing.T) {
	b := newBed(t, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "create", "patch", "delete"}})
	if got := b.apply(b.cm("a", "1")); got["a"] != Created {
		t.Errorf("first: %v", got)
	}
	if blind := b.e.Watcher.Blind(b.who.Owner); len(blind) != 1 {
		t.Errorf("blind = %v", blind)
	}
	if b.e.Watcher.Undisturbed(b.who.Owner) {
		t.Error("what is not watched cannot be known to be undisturbed")
	}
	if _, err := b.e.Prune(t.Context(), b.who, []Ref{RefOf(b.cm("a", ""))}); err != nil {
		t.Fatal(err)
	}
	if err := b.admin.Get(t.Context(), client.ObjectKey{Namespace: b.ns, Name: "a"}, &corev1.ConfigMap{}); !apierrors.IsNotFound(err) {
		t.Errorf("a: %v", err)
	}
}

func TestForeignWriteWakesTheOwner(t *testing.T) {
	b := newBed(t, all("configmaps"))
	b.apply(b.cm("a", "1"))
	if !b.e.Watcher.Undisturbed(b.who.Owner) {
		t.Fatal("not undisturbed after the apply")
	}
	// A field that is not ours is no drift.
	cm := b.live("a")
	cm.Data["theirs"] = "x"
	if err := b.admin.Update(t.Context(), cm, client.FieldOwner("somebody")); err != nil {
		t.Fatal(err)
	}
	cm.Data["key"] = "drift"
	for len(b.woken) > 0 {
		<-b.woken
	}
	if err := b.admin.Update(t.Context(), cm, client.FieldOwner("somebody")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-b.woken:
	case <-time.After(time.Minute):
		t.Fatal("nobody was woken")
	}
	if got := b.apply(b.cm("a", "1")); got["a"] != Configured {
		t.Errorf("correction: %v", got)
	}
	if got := b.live("a").Data; got["key"] != "1" || got["theirs"] != "x" {
		t.Errorf("data = %v", got)
	}
}

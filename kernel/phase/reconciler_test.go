package phase_test

import (
	"context"
	"errors"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/kubetest"
	"headwater.dev/kernel/host"
	"headwater.dev/kernel/phase"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

type scope struct{ obj *kustomizev1.Kustomization }

// loop is a Reconciler whose one phase is replaced by the test.
type loop struct {
	phase.Reconciler[*kustomizev1.Kustomization, scope]
	do, finalize func() error
}

func newLoop(t *testing.T, c client.Client) *loop {
	t.Helper()
	l := &loop{do: func() error { return nil }, finalize: func() error { return nil }}
	l.Reconciler = phase.Reconciler[*kustomizev1.Kustomization, scope]{
		Client: c, Live: c, FieldOwner: "test", Finalizer: "test.headwater.dev/finalizer",
		New:       func() *kustomizev1.Kustomization { return &kustomizev1.Kustomization{} },
		Suspended: func(k *kustomizev1.Kustomization) bool { return k.Spec.Suspend },
		Status: func(k *kustomizev1.Kustomization) phase.Fields {
			return phase.Fields{ObservedGeneration: &k.Status.ObservedGeneration, HandledReconcileAt: &k.Status.LastHandledReconcileAt}
		},
		Begin:    func(k *kustomizev1.Kustomization) *scope { return &scope{k} },
		Phases:   []phase.Phase[scope]{{Name: "work", Do: func(context.Context, *scope) error { return l.do() }}},
		Finalize: []phase.Phase[scope]{{Name: "clean up", Do: func(context.Context, *scope) error { return l.finalize() }}},
		Success: func(*scope) phase.Success {
			return phase.Success{Reason: "Done", Message: "all done", Interval: time.Hour}
		},
	}
	return l
}

func TestReconcilerWritesTheOutcomeOnce(t *testing.T) {
	cluster := kubetest.Start(t)
	kubetest.CRDs(t, cluster, "flux")
	scheme, err := host.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(cluster.Config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	obj := &kustomizev1.Kustomization{
		ObjectMeta: metav1.ObjectMeta{Name: "one", Namespace: cluster.Namespace(t), Annotations: map[string]string{meta.ReconcileRequestAnnotation: "now"}},
		Spec:       kustomizev1.KustomizationSpec{Interval: metav1.Duration{Duration: time.Hour}, SourceRef: kustomizev1.CrossNamespaceSourceReference{Kind: "GitRepository", Name: "x"}},
	}
	if err := c.Create(t.Context(), obj); err != nil {
		t.Fatal(err)
	}
	l := newLoop(t, c)
	key := client.ObjectKeyFromObject(obj)
	reconcile := func() (ctrl.Result, error) { return l.Reconcile(t.Context(), ctrl.Request{NamespacedName: key}) }
	get := func() *kustomizev1.Kustomization {
		k := &kustomizev1.Kustomization{}
		if err := c.Get(t.Context(), key, k); err != nil {
			t.Fatal(err)
		}
		return k
	}

	if _, err := reconcile(); err != nil {
		t.Fatal(err)
	}
	first := get()
	if !conditions.IsReady(first) || first.Status.ObservedGeneration != 1 || first.Status.LastHandledReconcileAt != "now" || len(first.Finalizers) != 1 {
		t.Fatalf("after success: %+v, finalizers %v", first.Status, first.Finalizers)
	}
	res, err := reconcile()
	if err != nil || res.RequeueAfter < 30*time.Minute {
		t.Fatalf("got %v, %v", res, err)
	}
	if again := get(); again.ResourceVersion != first.ResourceVersion {
		t.Error("a reconcile without news wrote to the API server")
	}

	l.do = func() error { return phase.Stalled("Bad", errors.New("spec.path is wrong")) }
	if res, err := reconcile(); err != nil || res.RequeueAfter != 0 {
		t.Fatalf("a stalled object is not retried: %v, %v", res, err)
	}
	if k := get(); !conditions.IsStalled(k) || conditions.GetMessage(k, meta.ReadyCondition) != "spec.path is wrong" {
		t.Fatalf("after stall: %+v", k.Status.Conditions)
	}

	l.finalize = func() error { return phase.Waiting("Pruning", time.Second, errors.New("objects remain")) }
	if err := c.Delete(t.Context(), get()); err != nil {
		t.Fatal(err)
	}
	if res, err := reconcile(); err != nil || res.RequeueAfter != time.Second {
		t.Fatalf("a waiting finalizer is parked: %v, %v", res, err)
	}
	get() // still there
	l.finalize = func() error { return nil }
	if _, err := reconcile(); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), key, &kustomizev1.Kustomization{}); client.IgnoreNotFound(err) != nil || err == nil {
		t.Fatalf("the object should be gone: %v", err)
	}
}

package phase_test

import (
	"context"
	"errors"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/runtime/conditions"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/kubetest"
	"headwater.dev/kernel/host"
	"headwater.dev/kernel/phase"
)

// A loop that claims its objects itself writes no finalizer before it has to,
// and then together with what it notes.
func TestReconcilerClaims(t *testing.T) {
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
	ns := cluster.Namespace(t)
	make := func(name string) *kustomizev1.Kustomization {
		k := &kustomizev1.Kustomization{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns, Annotations: map[string]string{"kept": "yes"}},
			Spec:       kustomizev1.KustomizationSpec{Interval: metav1.Duration{Duration: time.Hour}, SourceRef: kustomizev1.CrossNamespaceSourceReference{Kind: "GitRepository", Name: "x"}},
		}
		if err := c.Create(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		return k
	}
	l := newLoop(t, c)
	var claim phase.Claim
	l.Claim = func(_ *scope, f phase.Claim) { claim = f }
	reconcile := func(k *kustomizev1.Kustomization) (*kustomizev1.Kustomization, error) {
		t.Helper()
		_, err := l.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(k)})
		now := &kustomizev1.Kustomization{}
		if getErr := c.Get(t.Context(), client.ObjectKeyFromObject(k), now); client.IgnoreNotFound(getErr) != nil {
			t.Fatal(getErr)
		}
		return now, err
	}

	one := make("one")
	l.do = func() error { return phase.Waiting("NoSource", time.Hour, errors.New("no source")) }
	if k, err := reconcile(one); err != nil || len(k.Finalizers) != 0 || conditions.GetReason(k, "Ready") != "NoSource" {
		t.Fatalf("while nothing is made: finalizers %v, %v", k.Finalizers, err)
	}
	l.Begin = func(k *kustomizev1.Kustomization) *scope { k.Status.LastAppliedRevision = "r1"; return &scope{k} }
	l.do = func() error {
		if err := claim(t.Context(), map[string]string{"note": "first"}); err != nil {
			return err
		}
		return claim(t.Context(), map[string]string{"note": "second"}) // there is a finalizer
	}
	k, err := reconcile(one)
	if err != nil || len(k.Finalizers) != 1 || k.Annotations["note"] != "first" || k.Annotations["kept"] != "yes" {
		t.Fatalf("after the claim: %v %v, %v", k.Finalizers, k.Annotations, err)
	}
	if !conditions.IsReady(k) || k.Status.LastAppliedRevision != "r1" {
		t.Errorf("the status that was changed before the claim is lost: %+v", k.Status)
	}

	two := make("two")
	l.do = func() error {
		if err := c.Delete(t.Context(), two); err != nil {
			t.Fatal(err)
		}
		if err := claim(context.Background(), nil); err == nil {
			t.Error("an object that is gone was claimed")
		} else {
			return phase.Transient("Failed", err)
		}
		return nil
	}
	if _, err := reconcile(two); err == nil {
		t.Error("the reconcile of an object that went meanwhile succeeded")
	}
}

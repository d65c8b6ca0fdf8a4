package kustomize

import (
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestARequestIsHandledAtTheEnd asks for a reconcile that fails after its inventory
// was recorded. Whoever waits for lastHandledReconcileAt, as the flux CLI does, and
// looks at Ready then, must not see what was true before.
func TestARequestIsHandledAtTheEnd(t *testing.T) {
	w := newWorld(t, "admin")
	w.kustomization("app", nil)
	w.ready("app", w.publish("repo", map[string]string{"a.yaml": cm("a", "1")}))
	suspended := w.change("app", func(k *kustomizev1.Kustomization) { k.Spec.Suspend = true })
	bad := "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 99999}]}\n"
	w.publish("repo", map[string]string{"a.yaml": cm("a", "2"), "bad.yaml": bad})

	watching, err := client.NewWithWatch(w.c.Config, client.Options{Scheme: w.h.Manager.GetScheme()})
	if err != nil {
		t.Fatal(err)
	}
	seen, err := watching.Watch(w.ctx, &kustomizev1.KustomizationList{}, client.InNamespace(w.ns),
		&client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: suspended.ResourceVersion}})
	if err != nil {
		t.Fatal(err)
	}
	defer seen.Stop()
	const at = "now"
	w.change("app", func(k *kustomizev1.Kustomization) {
		k.Spec.Suspend = false
		k.Annotations = map[string]string{meta.ReconcileRequestAnnotation: at}
	})
	before := 0 // states until the request counts as handled
	for deadline := time.After(time.Minute); ; {
		select {
		case <-deadline:
			t.Fatal("the request was never handled")
		case e := <-seen.ResultChan():
			k, ok := e.Object.(*kustomizev1.Kustomization)
			if !ok {
				t.Fatalf("watch: %v", e.Object)
			}
			if k.Status.LastHandledReconcileAt != at {
				before++
				continue
			}
			if c := conditions.Get(k, meta.ReadyCondition); c == nil || c.Status != metav1.ConditionFalse || c.Reason != meta.ReconciliationFailedReason {
				t.Errorf("when it was handled, Ready was %v", c)
			}
			if before < 2 {
				t.Errorf("%d states before the end: what is to be made is recorded before it is made", before)
			}
			return
		}
	}
}

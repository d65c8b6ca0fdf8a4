package kustomize

import (
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"headwater.dev/kernel/apply"
)

// TestIntent: the first apply is noted where it can be, and the note counts
// until the status says more.
func TestIntent(t *testing.T) {
	few := apply.Refs(&kustomizev1.ResourceInventory{Entries: []kustomizev1.ResourceRef{{ID: "ns_a__ConfigMap", Version: "v1"}, {ID: "_b_rbac.authorization.k8s.io_ClusterRole", Version: "v1"}}})
	many := []apply.Ref{}
	for range intentBytes / len("ns_a__ConfigMap") {
		many = append(many, few[0])
	}
	cases := map[string]struct {
		why           string
		refs          []apply.Ref
		change        func(*kustomizev1.Kustomization)
		writes, reads bool
	}{
		"first":     {"nothing was made yet", few, func(*kustomizev1.Kustomization) {}, true, true},
		"claimed":   {"the finalizer is there, so nothing is written with it", few, func(k *kustomizev1.Kustomization) { k.Finalizers = []string{kustomizev1.KustomizationFinalizer} }, false, true},
		"inventory": {"the status knows better", few, func(k *kustomizev1.Kustomization) { k.Status.Inventory = &kustomizev1.ResourceInventory{} }, false, false},
		"applied":   {"it was applied before", few, func(k *kustomizev1.Kustomization) { k.Status.LastAppliedRevision = "r" }, false, false},
		"many":      {"an annotation has little room", many, func(*kustomizev1.Kustomization) {}, false, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			k := named("k")
			c.change(k)
			note := intent(k, c.refs)
			if (note != nil) != c.writes {
				t.Errorf("%s: note %v", c.why, note)
			}
			if _, ok := intended(k); ok {
				t.Error("what nobody noted was read")
			}
			if k.Annotations = note; note == nil && c.reads {
				k.Annotations = intent(named("k"), c.refs)
			}
			k.Finalizers = []string{kustomizev1.KustomizationFinalizer}
			got, ok := intended(k)
			if ok != c.reads || ok && (len(got) != len(c.refs) || len(apply.Missing(got, c.refs)) > 0) {
				t.Errorf("%s: read %v, %v", c.why, got, ok)
			}
		})
	}
	k := named("k")
	k.Finalizers, k.Annotations = []string{kustomizev1.KustomizationFinalizer}, map[string]string{annotationIntent: "nonsense"}
	if got, ok := intended(k); ok {
		t.Errorf("nonsense was read: %v", got)
	}
}

// TestF01KilledInTheFirstApply: what was made before the status was ever written
// is pruned, whether Git moves on meanwhile or the Kustomization is deleted. The
// finalizer and what is to be made cost one request together.
func TestF01KilledInTheFirstApply(t *testing.T) {
	w := newWorld(t, "admin")
	c := newChild(t, w)
	w.publish("repo", map[string]string{"one/a.yaml": cm("a", "1"), "one/b.yaml": cm("b", "1"), "two/c.yaml": cm("c", "1")})
	dies := func(name string) *kustomizev1.Kustomization {
		t.Helper()
		w.kustomization(name, func(s *kustomizev1.KustomizationSpec) { s.Path, s.Wait = name, true })
		c.start("applied")
		c.dies()
		k := w.get(name)
		if k.Status.Inventory != nil || len(k.Finalizers) != 1 || !strings.Contains(k.Annotations[annotationIntent], "ConfigMap") {
			t.Fatalf("before the end: %v, %v, %+v", k.Finalizers, k.Annotations, k.Status)
		}
		return k
	}
	dies("one")
	revision := w.publish("repo", map[string]string{"one/a.yaml": cm("a", "next"), "two/c.yaml": cm("c", "1")})
	c.start("")
	w.ready("one", revision)
	w.holds("one", map[string]string{"a": "next"})
	c.kill()

	two := dies("two")
	if _, err := w.configMap("c"); err != nil {
		t.Fatal(err)
	}
	if err := w.client.Delete(w.ctx, two); err != nil {
		t.Fatal(err)
	}
	c.start("")
	w.gone(two)
	if _, err := w.configMap("c"); !apierrors.IsNotFound(err) {
		t.Errorf("an object is orphaned: %v", err)
	}
	w.holds("one", map[string]string{"a": "next"})
}

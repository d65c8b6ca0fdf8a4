package kustomize

import (
	"fmt"
	"slices"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
)

// TestKustomizationsOfKustomizations: what the loop writes to a Kustomization is
// no drift for the one that it comes from, and is not taken from it.
func TestKustomizationsOfKustomizations(t *testing.T) {
	w := newWorld(t, "cluster-admin")
	child := fmt.Sprintf("apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: child}\n"+
		"spec: {interval: 1h, path: ./child, prune: true, wait: true, targetNamespace: %s, sourceRef: {kind: GitRepository, name: repo}}\n", w.ns)
	files := map[string]string{"parent/child.yaml": child, "child/a.yaml": cm("a", "1"), "parent/p.yaml": cm("p", "1")}
	mark := len(w.requests())
	revision := w.publish("repo", files)
	w.kustomization("parent", func(s *kustomizev1.KustomizationSpec) { s.Path, s.Wait = "parent", true })
	w.ready("parent", revision)
	k := w.ready("child", revision)
	if !slices.Contains(k.Finalizers, kustomizev1.KustomizationFinalizer) {
		t.Errorf("finalizers %v", k.Finalizers)
	}
	files["parent/p.yaml"] = cm("p", "2")
	revision = w.publish("repo", files)
	w.ready("parent", revision)
	k = w.ready("child", revision)
	if !slices.Contains(k.Finalizers, kustomizev1.KustomizationFinalizer) {
		t.Errorf("finalizers %v", k.Finalizers)
	}
	applied := 0
	for _, a := range w.requests()[mark:] {
		if a.Acting != nil && a.Verb == "patch" && a.ObjectRef.Resource == "kustomizations" {
			applied++
		}
	}
	if applied != 1 {
		t.Errorf("the child was applied %d times, want once", applied)
	}
	parent := w.get("parent")
	if err := w.client.Delete(w.ctx, parent); err != nil {
		t.Fatal(err)
	}
	w.gone(parent)
	w.gone(k)
	if _, err := w.configMap("a"); err == nil {
		t.Error("what the child made is left")
	}
}

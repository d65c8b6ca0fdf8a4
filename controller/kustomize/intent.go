package kustomize

import (
	"encoding/json"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"headwater.dev/kernel/apply"
)

const (
	// annotationIntent holds the inventory of the first apply, from before it
	// until the status has one; after that it says nothing.
	annotationIntent = "headwater.dev/first-inventory"
	// intentBytes is how much of it goes into an annotation.
	intentBytes = 32 << 10
)

// intent is the annotation for the first apply of a Kustomization that has no
// finalizer yet; nil when there is none to be written with it.
func intent(k *kustomizev1.Kustomization, refs []apply.Ref) map[string]string {
	if controllerutil.ContainsFinalizer(k, kustomizev1.KustomizationFinalizer) || k.Status.Inventory != nil || k.Status.LastAppliedRevision != "" {
		return nil
	}
	text, err := json.Marshal(apply.Inventory(refs))
	if err != nil || len(text) > intentBytes {
		return nil
	}
	return map[string]string{annotationIntent: string(text)}
}

// intended are the objects that a first apply was about to make, or made, and
// whether the status does not say so yet.
func intended(k *kustomizev1.Kustomization) ([]apply.Ref, bool) {
	text, ok := k.Annotations[annotationIntent]
	if !ok || k.Status.Inventory != nil || k.Status.LastAppliedRevision != "" ||
		!controllerutil.ContainsFinalizer(k, kustomizev1.KustomizationFinalizer) {
		return nil, false
	}
	var inv kustomizev1.ResourceInventory
	if json.Unmarshal([]byte(text), &inv) != nil {
		return nil, false
	}
	return apply.Refs(&inv), true
}

package kustomize

import (
	"context"
	"encoding/json"
	"fmt"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"headwater.dev/kernel/apply"
	"headwater.dev/kernel/phase"
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

// recordIntent writes down which objects are about to be made that the inventory
// does not hold, so that none is orphaned whatever happens next: with the
// finalizer the first time, which is one request, in the status later.
func (l *loop) recordIntent(ctx context.Context, s *scope) error {
	if s.built == nil {
		return l.hold(ctx, s, nil)
	}
	l.store.forget(s.key) // whatever is left now, it is not what was kept
	old := apply.Refs(s.obj.Status.Inventory)
	s.recorded = old
	union := apply.Union(s.refs, old)
	l.track(s, union)
	if len(apply.Missing(s.refs, old)) == 0 {
		return l.hold(ctx, s, nil)
	}
	if note := intent(s.obj, union); note != nil {
		s.obj.Status.Inventory = apply.Inventory(union)
		return l.hold(ctx, s, note)
	}
	if err := l.hold(ctx, s, nil); err != nil {
		return err
	}
	s.obj.Status.Inventory = apply.Inventory(union)
	if waits(s.obj) && s.known.content != s.content(s.built.Digest) && conditions.GetReason(s.obj, meta.ReadyCondition) != meta.ReconciliationFailedReason {
		s.markProgress() // the wait that follows needs no write of its own, and no failure is hidden
	}
	if err := s.write(ctx); err != nil {
		return phase.Transient(meta.ReconciliationFailedReason, fmt.Errorf("record inventory: %w", err))
	}
	return nil
}

// hold writes the finalizer where it is missing, and annotations with it.
func (l *loop) hold(ctx context.Context, s *scope, annotations map[string]string) error {
	if err := s.claim(ctx, annotations); err != nil {
		return phase.Transient(meta.ReconciliationFailedReason, err)
	}
	return nil
}

// withdrawIntent takes out of the inventory what was to be made and surely was
// not: nobody may have the right to delete it either.
func (s *scope) withdrawIntent(made []apply.Change, err error) {
	uncertain, all := apply.Uncertain(err)
	if all {
		return
	}
	refs := apply.Union(s.recorded, append(refsOf(made), uncertain...))
	if len(refs) != len(apply.Refs(s.obj.Status.Inventory)) {
		s.obj.Status.Inventory = apply.Inventory(refs)
	}
}

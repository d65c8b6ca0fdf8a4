package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Pruned is what a Prune did.
type Pruned struct {
	Changes []Change
	// Left are the objects that failed or were not tried; they stay in the
	// inventory. Going are those that were told to go and may not be gone yet.
	Left, Going []Ref
}

// Prune deletes objects in the reverse of the order in which they are applied.
// An object that carries another owner's labels, or none, was never ours or is
// so no more and is left alone, as is one that opts out. A stage with an object
// that could not be deleted ends the prune, so that definitions do not go before
// what they define.
func (e *Engine) Prune(ctx context.Context, t Tenant, refs []Ref) (*Pruned, error) {
	refs = slices.Clone(refs)
	e.Stages.sort(refs)
	slices.Reverse(refs)
	out := &Pruned{}
	for start := 0; start < len(refs); {
		end := start + 1
		for end < len(refs) && e.Stages.of(refs[end].GroupKind) == e.Stages.of(refs[start].GroupKind) {
			end++
		}
		if failed := e.pruneStage(ctx, t, refs[start:end], out); len(failed) > 0 {
			out.Left = append(out.Left, refs[end:]...)
			return out, joined(failed)
		}
		start = end
	}
	return out, ctx.Err()
}

func (e *Engine) pruneStage(ctx context.Context, t Tenant, stage []Ref, out *Pruned) []error {
	type outcome struct {
		action Action
		going  bool
		err    error
	}
	results := make([]outcome, len(stage))
	begun := e.each(len(stage), func(i int) error {
		o := &results[i]
		o.action, o.going, o.err = e.pruneObject(ctx, t, stage[i])
		return o.err
	})
	out.Left = append(out.Left, stage[begun:]...)
	var failed []error
	for i, ref := range stage[:begun] {
		o := results[i]
		if o.err != nil {
			failed = append(failed, &ObjectError{Ref: ref, Verb: "delete", Err: o.err})
			out.Left = append(out.Left, ref)
		}
		if o.going {
			out.Going = append(out.Going, ref)
		}
		if o.action != "" {
			out.Changes = append(out.Changes, Change{Ref: ref, Action: o.action})
		}
	}
	return failed
}

// pruneLooks is how often an object is looked at that changes under our hands.
const pruneLooks = 5

// pruneObject deletes exactly what was looked at: an object that somebody else
// has taken over, or has asked to keep, in the meantime is looked at again.
func (e *Engine) pruneObject(ctx context.Context, t Tenant, ref Ref) (Action, bool, error) {
	m, err := servedAs(t, ref)
	if meta.IsNoMatchError(err) {
		return "", false, nil // the kind is gone, and its objects with it
	}
	if err != nil {
		return "", false, err
	}
	if err := sameScope(m, ref); err != nil {
		return "", false, err
	}
	ref.Version = m.GroupVersionKind.Version
	u := &unstructured.Unstructured{}
	u.SetNamespace(ref.Namespace)
	background := metav1.DeletePropagationBackground
	for look := 0; ; look++ {
		live, known := e.Watcher.Live(t, ref)
		if !known || look > 0 {
			if live, err = e.Watcher.Get(ctx, t, ref); err != nil {
				return "", false, errors.Unwrap(err)
			}
		}
		switch {
		case !live.Exists:
			return "", false, nil
		case keeps(t, live):
			return Skipped, false, nil
		case live.Deleting:
			return "", true, nil
		}
		e.fault("prune")
		err = resourceOf(Request{Tenant: t}, m, u).Delete(ctx, ref.Name, metav1.DeleteOptions{
			PropagationPolicy: &background, Preconditions: &metav1.Preconditions{UID: &live.UID, ResourceVersion: &live.ResourceVersion},
		})
		switch {
		case err == nil:
			return Deleted, true, nil
		case apierrors.IsNotFound(err):
			return "", false, nil
		case !apierrors.IsConflict(err) || look == pruneLooks:
			return "", false, err
		}
	}
}

// sameScope refuses a reference into a namespace to an object that has none: what
// is there under its name is another object, which may be wanted.
func sameScope(m *meta.RESTMapping, ref Ref) error {
	if ref.Namespace != "" && m.Scope.Name() == meta.RESTScopeNameRoot {
		return fmt.Errorf("objects of kind %q have no namespace", ref.GroupKind.Kind)
	}
	return nil
}

// keeps reports whether an object is somebody else's, or asks to stay.
func keeps(t Tenant, live Live) bool {
	return live.Owner != t.Owner || live.steers(keyPrune, disabled) || live.Alone()
}

// servedAs finds the resource of an object in the inventory, whose version may
// not be served any more.
func servedAs(t Tenant, ref Ref) (*meta.RESTMapping, error) {
	m, err := t.Access.Mapper.RESTMapping(ref.GroupKind, ref.Version)
	if meta.IsNoMatchError(err) {
		return t.Access.Mapper.RESTMapping(ref.GroupKind)
	}
	return m, err
}

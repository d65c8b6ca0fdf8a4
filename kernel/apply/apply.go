// Package apply makes a cluster hold a set of objects: server-side apply in
// stages, inventory, prune, and a Watcher that knows the live state.
//
// Every request is made through a tenant's Access, so as that tenant. An object
// costs one request when it is new or changed, and none when the Watcher knows
// that it is still as it was applied. Objects of one stage are applied side by
// side, and one that fails does not keep the others of its stage from being
// tried, unless the API server is not reached; later stages need the earlier
// ones. There is no dry run before: the
// API server's answer to the apply is the validation. Nothing here waits: what
// needs time is reported as pending and comes back through the Watcher.
package apply

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/fluxcd/cli-utils/pkg/object"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"headwater.dev/kernel/tenant"
)

// ID identifies an object whatever the version of its kind.
type ID = object.ObjMetadata

// Ref is an ID with the version of the kind that is used for it.
type Ref struct {
	ID
	Version string
}

// GVK of the object.
func (r Ref) GVK() schema.GroupVersionKind { return r.GroupKind.WithVersion(r.Version) }

// String names the object in messages: Kind/namespace/name.
func (r Ref) String() string { return nameOf(r.ID) }

func nameOf(id ID) string {
	if id.Namespace == "" {
		return id.GroupKind.Kind + "/" + id.Name
	}
	return id.GroupKind.Kind + "/" + id.Namespace + "/" + id.Name
}

// RefOf is the Ref of an object.
func RefOf(u *unstructured.Unstructured) Ref {
	gvk := u.GroupVersionKind()
	return Ref{ID: ID{Namespace: u.GetNamespace(), Name: u.GetName(), GroupKind: gvk.GroupKind()}, Version: gvk.Version}
}

// Tenant is on whose behalf something is done.
type Tenant struct {
	// Owner of the objects: the Kustomization.
	Owner types.NamespacedName
	// Identity that Access acts as; zero for the controller's own.
	Identity tenant.Identity
	Access   *tenant.Access
}

// Request is a set of objects to apply.
type Request struct {
	Tenant
	Objects []*unstructured.Unstructured
	// Force recreates objects when an immutable field changes.
	Force bool
	// Ignore are fields that others may change.
	Ignore Ignores
	// Sealed are objects whose values are secret, besides Secrets. Their namespaces
	// do not count, which may be known later than they.
	Sealed []ID
	// Verify applies every object even if the Watcher knows it undisturbed.
	Verify bool

	kinds *kinds // of one pass; nil to look up each time
}

// Action is what happened to an object.
type Action string

// Actions.
const (
	Created    Action = "created"
	Configured Action = "configured"
	Recreated  Action = "recreated"
	Unchanged  Action = "unchanged"
	Skipped    Action = "skipped"
	Deleted    Action = "deleted"
)

// Change is an object and what happened to it.
type Change struct {
	Ref
	Action Action
	// Foreign marks an object that is left to others: it asks for that in the
	// source, or it was there before us and asks for it itself.
	Foreign bool
}

// Outcome is what an Apply did.
type Outcome struct {
	// Changes of all objects that exist now, in the order of the apply.
	Changes []Change
	// Pending objects must get further before the rest can be applied: custom
	// resource definitions to be served, objects to be gone.
	Pending []Ref
	// Fights are objects left alone for a while, because somebody else keeps
	// changing them back.
	Fights []Fight
}

// Engine applies and prunes under one field manager.
type Engine struct {
	// Manager is the field manager, and Group the API group of the owner
	// labels and of the annotations that steer the engine.
	Manager, Group string
	Watcher        *Watcher
	// Parallel bounds the requests of one Apply at a time.
	Parallel int
	// Stages are kinds that are applied before the others.
	Stages Stages
	// Owned reports whether an owner exists that is another tenant's, so that
	// its objects must not be taken from it; nil for never.
	Owned func(mine, other types.NamespacedName) bool
	// Fault is called before each request that writes; nil for nothing.
	Fault func(point string)
}

func (e *Engine) fault(point string) {
	if e.Fault != nil {
		e.Fault(point)
	}
}

// Apply makes the objects exist as given. The error joins one ObjectError for
// each object that failed; the outcome tells what was done in any case.
func (e *Engine) Apply(ctx context.Context, r Request) (*Outcome, error) {
	objects, err := e.prepare(r)
	if err != nil {
		return &Outcome{}, err
	}
	r.kinds = &kinds{mapper: r.Access.Mapper}
	out := &Outcome{}
	for _, stage := range e.Stages.split(objects) {
		failed := e.applyStage(ctx, r, stage, out)
		if len(failed) > 0 {
			return out, joined(failed)
		}
		if err := ctx.Err(); err != nil {
			return out, fmt.Errorf("apply interrupted: %w", err)
		}
		if len(out.Pending) > 0 {
			return out, nil
		}
	}
	return out, nil
}

func (e *Engine) applyStage(ctx context.Context, r Request, stage []*unstructured.Unstructured, out *Outcome) []error {
	results := make([]result, len(stage))
	begun := e.each(len(stage), func(i int) error {
		results[i] = e.applyObject(ctx, r, stage[i])
		return results[i].err
	})
	var failed []error
	for i, u := range stage[:begun] {
		res := results[i]
		switch {
		case res.err != nil:
			failed = append(failed, r.objectError(u, "apply", res.err))
			continue
		case res.pending:
			out.Pending = append(out.Pending, RefOf(u))
		case res.fight != nil:
			out.Fights = append(out.Fights, *res.fight)
		}
		out.Changes = append(out.Changes, Change{Ref: RefOf(u), Action: res.action, Foreign: res.foreign})
	}
	return failed
}

// each does something for each of n, side by side, and begins none after one that
// did not reach the API server: the others would wait as long, and the worker for
// all of them. It returns how many were begun.
func (e *Engine) each(n int, do func(i int) error) (begun int) {
	slots := make(chan struct{}, max(1, e.Parallel))
	var wg sync.WaitGroup
	var down atomic.Bool
	for i := range n {
		slots <- struct{}{}
		if down.Load() {
			break
		}
		begun++
		wg.Go(func() {
			defer func() { <-slots }()
			if err := do(i); err != nil && unreachable(err) {
				down.Store(true)
			}
		})
	}
	wg.Wait()
	return begun
}

// result of one object.
type result struct {
	action  Action
	pending bool
	foreign bool
	fight   *Fight
	err     error
}

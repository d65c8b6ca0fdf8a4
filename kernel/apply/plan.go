package apply

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"

	ssaerrors "github.com/fluxcd/pkg/ssa/errors"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Planned is what an Apply or a Prune would do to an object, and why.
type Planned struct {
	Ref
	Action Action
	// Was is the object in the cluster, and Will what it would become; nil when
	// there is none. What the API server alone keeps is left out of both.
	Was, Will *unstructured.Unstructured
	// Err is the API server's refusal.
	Err error
}

// Plan asks the API server what an Apply of the objects would do, with dry runs
// of the same requests, and what a Prune of stale would delete. Nothing is
// written. An object of a namespace or kind that the same objects define is
// reported as created unseen.
func (e *Engine) Plan(ctx context.Context, r Request, stale []Ref) ([]Planned, error) {
	objects, err := e.prepare(r)
	if err != nil {
		return nil, err
	}
	out := make([]Planned, len(objects)+len(stale))
	slots := make(chan struct{}, max(1, e.Parallel))
	var wg sync.WaitGroup
	each := func(i int, plan func() Planned) {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			out[i] = plan()
		})
	}
	for i, u := range objects {
		each(i, func() Planned { return e.planApply(ctx, r, objects, u) })
	}
	for i, ref := range stale {
		each(len(objects)+i, func() Planned { return e.planPrune(ctx, r.Tenant, ref) })
	}
	wg.Wait()
	return out, ctx.Err()
}

func (e *Engine) planApply(ctx context.Context, r Request, all []*unstructured.Unstructured, u *unstructured.Unstructured) Planned {
	p := Planned{Ref: RefOf(u)}
	mapping, err := fit(r, u)
	if err != nil {
		if errors.Is(err, errNoKind) && defines(all, "CustomResourceDefinition", func(o *unstructured.Unstructured) bool {
			kind, _, _ := unstructured.NestedString(o.Object, "spec", "names", "kind")
			group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
			return kind == u.GetKind() && group == u.GroupVersionKind().Group
		}) {
			p.Action, p.Will = Created, withoutServers(u)
			return p
		}
		p.Err = r.objectError(u, "plan", err)
		return p
	}
	p.Ref = RefOf(u)
	s := sending{Request: r, api: resourceOf(r, mapping, u), u: u}
	s.found, err = s.api.Get(ctx, u.GetName(), metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		p.Err = r.objectError(u, "read", err)
		return p
	}
	if err != nil {
		s.found = nil
	} else {
		s.was = e.Watcher.observed(r.Tenant, p.Ref, s.found)
		p.Was = withoutServers(s.found)
	}
	if e.leaves(u, s.was) {
		p.Action, p.Will = Skipped, p.Was
		return p
	}
	return e.dryRun(ctx, p, s, all)
}

func (e *Engine) dryRun(ctx context.Context, p Planned, s sending, all []*unstructured.Unstructured) Planned {
	payload := s.u
	if s.found != nil {
		var err error
		if payload, err = e.payload(ctx, s); err != nil {
			p.Err = s.objectError(s.u, "plan", err)
			return p
		}
	}
	got, err := s.api.Apply(ctx, s.u.GetName(), payload, metav1.ApplyOptions{FieldManager: e.Manager, Force: true, DryRun: []string{metav1.DryRunAll}})
	switch {
	case err == nil:
		p.Will = withoutServers(got)
	case ssaerrors.IsImmutableError(err) && e.mayRecreate(s, err):
		p.Action, p.Will = Recreated, withoutServers(s.u)
		return p
	case s.found == nil && apierrors.IsNotFound(err) && defines(all, "Namespace", func(o *unstructured.Unstructured) bool { return o.GetName() == s.u.GetNamespace() }):
		p.Will = withoutServers(s.u)
	default:
		p.Err = s.objectError(s.u, "dry-run", err)
		return p
	}
	switch {
	case p.Was == nil:
		p.Action = Created
	case reflect.DeepEqual(p.Was.Object, p.Will.Object):
		p.Action = Unchanged
	default:
		p.Action = Configured
	}
	return p
}

func defines(all []*unstructured.Unstructured, kind string, match func(*unstructured.Unstructured) bool) bool {
	for _, o := range all {
		if o.GetKind() == kind && match(o) {
			return true
		}
	}
	return false
}

// withoutServers is a copy without what the API server keeps for itself.
func withoutServers(u *unstructured.Unstructured) *unstructured.Unstructured {
	u = u.DeepCopy()
	for _, field := range []string{"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"} {
		unstructured.RemoveNestedField(u.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(u.Object, "status")
	return u
}

func (e *Engine) planPrune(ctx context.Context, t Tenant, ref Ref) Planned {
	p := Planned{Ref: ref, Action: Unchanged}
	m, err := servedAs(t, ref)
	if meta.IsNoMatchError(err) {
		return p // the kind is gone, and its objects with it
	}
	if err != nil {
		p.Err = fmt.Errorf("look up kind %q: %w", ref.GroupKind.Kind, err)
		return p
	}
	if err := sameScope(m, ref); err != nil {
		p.Err = &ObjectError{Ref: ref, Verb: "plan", Err: err}
		return p
	}
	u := &unstructured.Unstructured{}
	u.SetNamespace(ref.Namespace)
	got, err := resourceOf(Request{Tenant: t}, m, u).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return p
	}
	if err != nil {
		p.Err = &ObjectError{Ref: ref, Verb: "read", Err: err}
		return p
	}
	live := e.Watcher.observed(t, ref, got)
	p.Was = withoutServers(got)
	p.Action = Deleted
	if keeps(t, live) {
		p.Action, p.Will = Skipped, p.Was
	}
	return p
}

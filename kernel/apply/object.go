package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/fluxcd/pkg/ssa"
	ssaerrors "github.com/fluxcd/pkg/ssa/errors"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

func (e *Engine) applyObject(ctx context.Context, r Request, u *unstructured.Unstructured) result {
	mapping, err := fit(r, u)
	if err != nil {
		return result{err: err}
	}
	want, err := digestOf(u)
	if err != nil {
		return result{err: err}
	}
	ref := RefOf(u)
	live, known := e.Watcher.Live(r.Tenant, ref)
	api := resourceOf(r, mapping, u)
	if skip, err := e.skips(ctx, api, u, live, known); skip || err != nil {
		return result{action: Skipped, err: err}
	}
	was := e.Watcher.receipt(r.Owner, ref.ID)
	if !r.Verify && known && was.holds(want, live) {
		return result{action: Unchanged, pending: unserved(u, live)}
	}
	if fight := e.Watcher.mayCorrect(r.Owner, ref, was, want, live, known); fight != nil {
		return result{action: Skipped, fight: fight}
	}
	return e.send(ctx, r, api, u, want)
}

func resourceOf(r Request, m *meta.RESTMapping, u *unstructured.Unstructured) dynamic.ResourceInterface {
	if m.Scope.Name() == meta.RESTScopeNameRoot {
		return r.Access.Dynamic.Resource(m.Resource)
	}
	return r.Access.Dynamic.Resource(m.Resource).Namespace(u.GetNamespace())
}

// skips reports whether the object, as it should be or as it is, asks to be
// left alone.
func (e *Engine) skips(ctx context.Context, api dynamic.ResourceInterface, u *unstructured.Unstructured, live Live, known bool) (bool, error) {
	if e.steers(u, keySSA, ssaIgnore) || e.steers(u, keyReconcile, disabled) {
		return true, nil
	}
	if known && live.Exists && (live.Steering[keySSA] == ssaIgnore || live.Steering[keyReconcile] == disabled) {
		return true, nil
	}
	if !e.steers(u, keySSA, ssaIfNotPresent) {
		return false, nil
	}
	if known {
		return live.Exists, nil
	}
	_, err := api.Get(ctx, u.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// send applies the object, recreating it when that is allowed and needed.
func (e *Engine) send(ctx context.Context, r Request, api dynamic.ResourceInterface, u *unstructured.Unstructured, want string) result {
	ref := RefOf(u)
	before, known := e.Watcher.Live(r.Tenant, ref)
	got, err := e.patch(ctx, api, u)
	action := Configured
	if err != nil && e.mayRecreate(r, u, err) {
		if err := e.remove(ctx, api, u); err != nil {
			return result{err: fmt.Errorf("recreate because of an immutable field: %w", err)}
		}
		if _, gone := api.Get(ctx, u.GetName(), metav1.GetOptions{}); !apierrors.IsNotFound(gone) {
			return result{action: Recreated, pending: true}
		}
		got, err = e.patch(ctx, api, u)
		action = Recreated
	}
	if err != nil {
		return result{err: err}
	}
	if got, err = e.takeOver(ctx, api, u, got); err != nil {
		return result{err: err}
	}
	live := e.Watcher.observed(r.Tenant, ref, got)
	e.Watcher.setReceipt(r.Owner, ref.ID, receipt{want: want, fields: live.Fields, uid: live.UID, creates: e.steers(u, keySSA, ssaIfNotPresent)})
	switch {
	case known && before.Exists && before.ResourceVersion == live.ResourceVersion:
		action = Unchanged
	case action == Configured && (!known || !before.Exists) && createdBy(got, e.Manager):
		action = Created
	}
	return result{action: action, pending: unserved(u, live) || live.Deleting}
}

func (e *Engine) patch(ctx context.Context, api dynamic.ResourceInterface, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	return api.Apply(ctx, u.GetName(), u, metav1.ApplyOptions{FieldManager: e.Manager, Force: true})
}

// unserved reports a definition whose kind the API server does not serve yet.
func unserved(u *unstructured.Unstructured, live Live) bool {
	return u.GetKind() == "CustomResourceDefinition" && live.Health != Current
}

// mayRecreate asks for consent: of the Kustomization for most objects, of the
// object itself for those whose deletion takes data with it.
func (e *Engine) mayRecreate(r Request, u *unstructured.Unstructured, err error) bool {
	if !ssaerrors.IsImmutableError(err) {
		return false
	}
	if e.steers(u, keyForce, enabled) {
		return true
	}
	if !r.Force || e.steers(u, keyForce, disabled) {
		return false
	}
	switch u.GetKind() {
	case "PersistentVolumeClaim", "PersistentVolume", "Namespace", "CustomResourceDefinition":
		return false
	}
	return true
}

func (e *Engine) remove(ctx context.Context, api dynamic.ResourceInterface, u *unstructured.Unstructured) error {
	background := metav1.DeletePropagationBackground
	err := api.Delete(ctx, u.GetName(), metav1.DeleteOptions{PropagationPolicy: &background})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// takeOver makes the fields that kubectl left behind ours, so that those which
// the source does not have are removed. It costs nothing when there are none.
func (e *Engine) takeOver(ctx context.Context, api dynamic.ResourceInterface, u, got *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	if e.steers(u, keySSA, ssaMerge) || got.GetAnnotations()[e.key(keySSA)] == ssaMerge {
		return got, nil
	}
	managers := e.predecessors()
	patches, err := ssa.PatchReplaceFieldsManagers(got, managers, e.Manager)
	if err != nil {
		return nil, fmt.Errorf("take over managed fields: %w", err)
	}
	patches = append(patches, ssa.PatchRemoveAnnotations(got, []string{"kubectl.kubernetes.io/last-applied-configuration"})...)
	if len(patches) == 0 {
		return got, nil
	}
	body, err := json.Marshal(append([]any{
		map[string]string{"op": "test", "path": "/metadata/resourceVersion", "value": got.GetResourceVersion()},
	}, toAny(patches)...))
	if err != nil {
		return nil, fmt.Errorf("take over managed fields: %w", err)
	}
	if _, err := api.Patch(ctx, u.GetName(), types.JSONPatchType, body, metav1.PatchOptions{FieldManager: e.Manager}); err != nil {
		return nil, fmt.Errorf("take over managed fields: %w", err)
	}
	again, err := e.patch(ctx, api, u)
	if err != nil {
		return nil, fmt.Errorf("after taking over managed fields: %w", err)
	}
	return again, nil
}

func toAny(patches []ssa.JSONPatch) []any {
	out := make([]any, len(patches))
	for i, p := range patches {
		out[i] = p
	}
	return out
}

// predecessors are the managers whose fields become ours.
func (e *Engine) predecessors() []ssa.FieldManager {
	return []ssa.FieldManager{
		{Name: "kubectl", OperationType: metav1.ManagedFieldsOperationApply},
		{Name: "kubectl", OperationType: metav1.ManagedFieldsOperationUpdate},
		{Name: "before-first-apply", OperationType: metav1.ManagedFieldsOperationUpdate},
		{Name: e.Manager, OperationType: metav1.ManagedFieldsOperationUpdate, ExactMatch: true},
	}
}

// createdBy reports whether our only write of the object was its first.
func createdBy(u *unstructured.Unstructured, manager string) bool {
	for _, f := range u.GetManagedFields() {
		if f.Manager == manager && f.Operation == metav1.ManagedFieldsOperationApply && f.Time != nil {
			created := u.GetCreationTimestamp()
			return f.Time.Equal(&created)
		}
	}
	return false
}

// Get reads an object as the tenant, for kinds that it may not watch.
func (w *Watcher) Get(ctx context.Context, t Tenant, ref Ref) (Live, error) {
	m, err := t.Access.Mapper.RESTMapping(ref.GroupKind, ref.Version)
	if err != nil {
		return Live{}, fmt.Errorf("look up kind %q: %w", ref.GroupKind.Kind, err)
	}
	u := &unstructured.Unstructured{}
	u.SetNamespace(ref.Namespace)
	got, err := resourceOf(Request{Tenant: t}, m, u).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return Live{}, nil
	}
	if err != nil {
		var status apierrors.APIStatus
		if errors.As(err, &status) {
			return Live{}, &ObjectError{Ref: ref, Verb: "read", Err: err}
		}
		return Live{}, fmt.Errorf("read %s: %w", ref, err)
	}
	return w.observed(t, ref, got), nil
}

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

// noVersion is a resource version that no object has: an apply that carries it
// creates an object, or is refused because there is one.
const noVersion = "1"

func (e *Engine) applyObject(ctx context.Context, r Request, u *unstructured.Unstructured) result {
	mapping, err := fit(r, u)
	if err != nil {
		return result{err: err}
	}
	want, err := digestOf(u, r.Ignore.of(u))
	if err != nil {
		return result{err: err}
	}
	ref := RefOf(u)
	live, known := e.Watcher.Live(r.Tenant, ref)
	if e.leaves(u, live) {
		return result{action: Skipped, foreign: true}
	}
	was := e.Watcher.receipt(r.Owner, ref.ID)
	s := sending{Request: r, api: resourceOf(r, mapping, u), u: u, want: want, was: live}
	if !known && was.want != "" {
		return e.unseen(ctx, s)
	}
	if err := e.others(r.Owner, live); err != nil {
		return result{err: err}
	}
	if !r.Verify && known && was.holds(want, live) {
		return result{action: Unchanged, pending: unserved(u, live)}
	}
	if fight := e.Watcher.mayCorrect(r.Owner, ref, was, want, live, known); fight != nil {
		return result{action: Skipped, fight: fight}
	}
	if !live.Exists && (known || was.want == "") {
		return e.create(ctx, s)
	}
	return e.send(ctx, s)
}

// sending is an object on its way.
type sending struct {
	Request
	api  dynamic.ResourceInterface
	u    *unstructured.Unstructured
	want string
	// was is what is known of the object in the cluster; found is the object
	// itself when it had to be read.
	was   Live
	found *unstructured.Unstructured
}

// create makes an object that is not known to exist. One that nevertheless
// does is looked at first: it may ask to be left alone, or be somebody else's.
func (e *Engine) create(ctx context.Context, s sending) result {
	u := s.u.DeepCopy()
	u.SetResourceVersion(noVersion)
	got, err := e.patch(ctx, s.api, u)
	if err == nil {
		return e.settle(ctx, s, got, Created)
	}
	if !apierrors.IsConflict(err) {
		return result{err: err}
	}
	s.found, err = s.api.Get(ctx, u.GetName(), metav1.GetOptions{})
	return e.unseenFound(ctx, s, err)
}

// unseen applies an object that is there, as far as is known, and that the
// tenant may not watch: it is looked at first.
func (e *Engine) unseen(ctx context.Context, s sending) result {
	var err error
	s.found, err = s.api.Get(ctx, s.u.GetName(), metav1.GetOptions{})
	return e.unseenFound(ctx, s, err)
}

// unseenFound goes on with what was found; it may ask to be left alone, or be
// somebody else's.
func (e *Engine) unseenFound(ctx context.Context, s sending, err error) result {
	if apierrors.IsNotFound(err) {
		s.found = nil
		return e.send(ctx, s)
	}
	if err != nil {
		return result{err: err}
	}
	s.was = e.Watcher.observed(s.Tenant, RefOf(s.u), s.found)
	if e.leaves(s.u, s.was) {
		return result{action: Skipped, foreign: true}
	}
	if err := e.others(s.Owner, s.was); err != nil {
		return result{err: err}
	}
	return e.send(ctx, s)
}

// others refuses an object that is another tenant's.
func (e *Engine) others(owner types.NamespacedName, live Live) error {
	if other := live.Owner; other.Name != "" && other != owner && e.Owned != nil && e.Owned(owner, other) {
		return fmt.Errorf("%w %s of another namespace: remove it there first", errBelongs, other)
	}
	return nil
}

func resourceOf(r Request, m *meta.RESTMapping, u *unstructured.Unstructured) dynamic.ResourceInterface {
	if m.Scope.Name() == meta.RESTScopeNameRoot {
		return r.Access.Dynamic.Resource(m.Resource)
	}
	return r.Access.Dynamic.Resource(m.Resource).Namespace(u.GetNamespace())
}

// leaves reports whether the object, as it should be or as it is, asks to be
// left alone.
func (e *Engine) leaves(u *unstructured.Unstructured, live Live) bool {
	if e.steers(u, keySSA, ssaIgnore) || e.steers(u, keyReconcile, disabled) {
		return true
	}
	return live.Exists && (live.Alone() || e.steers(u, keySSA, ssaIfNotPresent))
}

// send applies the object, recreating it when that is allowed and needed.
func (e *Engine) send(ctx context.Context, s sending) result {
	payload, err := e.payload(ctx, s)
	if err != nil {
		return result{err: err}
	}
	got, err := e.patch(ctx, s.api, payload)
	action := Configured
	if err != nil && e.mayRecreate(s, err) && !e.malformed(ctx, s) {
		if err := e.remove(ctx, s.api, s.u); err != nil {
			return result{err: fmt.Errorf("recreate because of an immutable field: %w", err)}
		}
		if _, gone := s.api.Get(ctx, s.u.GetName(), metav1.GetOptions{}); !apierrors.IsNotFound(gone) {
			return result{action: Recreated, pending: true}
		}
		got, err = e.patch(ctx, s.api, s.u)
		action = Recreated
	}
	if err != nil {
		return result{err: err}
	}
	if got, err = e.takeOver(ctx, s, got); err != nil {
		return result{err: err}
	}
	return e.settle(ctx, s, got, action)
}

// payload leaves out what others may change of an object that exists.
func (e *Engine) payload(ctx context.Context, s sending) (*unstructured.Unstructured, error) {
	paths := s.Ignore.of(s.u)
	if len(paths) == 0 {
		return s.u, nil
	}
	live := s.found
	if live == nil {
		var err error
		live, err = s.api.Get(ctx, s.u.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return s.u, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return yield(s.u, live, paths, e.Manager)
}

// settle remembers how an object was left.
func (e *Engine) settle(_ context.Context, s sending, got *unstructured.Unstructured, action Action) result {
	ref := RefOf(s.u)
	live := e.Watcher.observed(s.Tenant, ref, got)
	e.Watcher.setReceipt(s.Owner, ref.ID, receipt{want: s.want, fields: live.Fields, uid: live.UID, creates: e.steers(s.u, keySSA, ssaIfNotPresent), ends: ends(s.u)})
	switch {
	case s.was.Exists && s.was.ResourceVersion == live.ResourceVersion:
		action = Unchanged
		e.Watcher.spare(s.Owner, ref.ID)
	case action == Configured && !s.was.Exists && createdBy(got, e.Manager):
		action = Created
	}
	return result{action: action, pending: unserved(s.u, live) || live.Deleting}
}

func (e *Engine) patch(ctx context.Context, api dynamic.ResourceInterface, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	e.fault("apply")
	return api.Apply(ctx, u.GetName(), u, metav1.ApplyOptions{FieldManager: e.Manager, Force: true})
}

// unserved reports a definition whose kind the API server does not serve yet.
func unserved(u *unstructured.Unstructured, live Live) bool {
	return u.GetKind() == "CustomResourceDefinition" && live.Health != Current
}

// mayRecreate asks for consent: of the Kustomization for most objects, of the
// object itself for those whose deletion takes data with it.
func (e *Engine) mayRecreate(s sending, err error) bool {
	if !ssaerrors.IsImmutableError(err) {
		return false
	}
	if e.steers(s.u, keyForce, enabled) || s.was.steers(keyForce, enabled) {
		return true
	}
	if !s.Force || e.steers(s.u, keyForce, disabled) || s.was.steers(keyForce, disabled) {
		return false
	}
	switch s.u.GetKind() {
	case "PersistentVolumeClaim", "PersistentVolume", "Namespace", "CustomResourceDefinition":
		return false
	}
	return true
}

// malformed reports whether an object would be refused although there were none
// of its name: then the one that is there must not go, since nothing would come
// after it. The API server is asked for a dry run under a name that it makes up.
// What that cannot tell counts as well formed.
func (e *Engine) malformed(ctx context.Context, s sending) bool {
	switch s.u.GetKind() {
	case "CustomResourceDefinition", "APIService": // whose names say what they are
		return false
	}
	u := s.u.DeepCopy()
	u.SetGenerateName(u.GetName() + "-")
	u.SetName("")
	if u.GetKind() == "Service" && u.GroupVersionKind().Group == "" {
		withoutAllocations(u)
	}
	_, err := s.api.Create(ctx, u, metav1.CreateOptions{FieldManager: e.Manager, DryRun: []string{metav1.DryRunAll}})
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)
}

// withoutAllocations takes from a Service what no two of them can have.
func withoutAllocations(u *unstructured.Unstructured) {
	spec, _ := u.Object["spec"].(map[string]any)
	if spec["clusterIP"] != "None" {
		delete(spec, "clusterIP")
		delete(spec, "clusterIPs")
	}
	delete(spec, "healthCheckNodePort")
	ports, _ := spec["ports"].([]any)
	for _, p := range ports {
		if port, ok := p.(map[string]any); ok {
			delete(port, "nodePort")
		}
	}
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
func (e *Engine) takeOver(ctx context.Context, s sending, got *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	if e.steers(s.u, keySSA, ssaMerge) || e.steers(got, keySSA, ssaMerge) {
		return got, nil
	}
	for look := 0; ; look++ {
		body, err := e.takeOverPatch(got)
		if err != nil {
			return nil, fmt.Errorf("take over managed fields: %w", err)
		}
		if body == nil && look == 0 {
			return got, nil
		}
		if body == nil {
			break
		}
		e.fault("take over")
		taken, err := s.api.Patch(ctx, s.u.GetName(), types.JSONPatchType, body, metav1.PatchOptions{FieldManager: e.Manager})
		if err == nil {
			got = taken
			break
		}
		if look == takeOverLooks || !apierrors.IsInvalid(err) && !apierrors.IsConflict(err) { // that is how a test that fails is answered
			return nil, fmt.Errorf("take over managed fields: %w", err)
		}
		if got, err = s.api.Get(ctx, s.u.GetName(), metav1.GetOptions{}); err != nil {
			return nil, fmt.Errorf("take over managed fields: %w", err)
		}
	}
	// What others may change is left out anew: who owns it was different before.
	payload, err := yield(s.u, got, s.Ignore.of(s.u), e.Manager)
	if err != nil {
		return nil, err
	}
	again, err := e.patch(ctx, s.api, payload)
	if err != nil {
		return nil, fmt.Errorf("after taking over managed fields: %w", err)
	}
	return again, nil
}

// takeOverLooks is how often an object is looked at that somebody else writes at
// the same time, such as the controller of its kind.
const takeOverLooks = 5

// takeOverPatch is nil when there is nothing to take over.
func (e *Engine) takeOverPatch(got *unstructured.Unstructured) ([]byte, error) {
	patches, err := ssa.PatchReplaceFieldsManagers(got, e.predecessors(), e.Manager)
	if err != nil {
		return nil, err
	}
	patches = append(patches, ssa.PatchRemoveAnnotations(got, []string{"kubectl.kubernetes.io/last-applied-configuration"})...)
	if len(patches) == 0 {
		return nil, nil
	}
	return json.Marshal(append([]any{
		map[string]string{"op": "test", "path": "/metadata/resourceVersion", "value": got.GetResourceVersion()},
	}, toAny(patches)...))
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
	out := []ssa.FieldManager{{Name: e.Manager, OperationType: metav1.ManagedFieldsOperationUpdate, ExactMatch: true}}
	for _, prefix := range e.Watcher.predecessors {
		out = append(out, ssa.FieldManager{Name: prefix, OperationType: metav1.ManagedFieldsOperationUpdate},
			ssa.FieldManager{Name: prefix, OperationType: metav1.ManagedFieldsOperationApply})
	}
	return out
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

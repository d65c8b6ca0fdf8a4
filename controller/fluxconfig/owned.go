package fluxconfig

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/api/config"
	"headwater.dev/kernel/phase"
)

// ours reports whether an object as it is was made for the same owner as the
// wanted one: the same configuration, or the same namespace for what its
// configurations share. An object that lost its labels is known by who applied
// it.
func ours(wanted *unstructured.Unstructured, live *metav1.PartialObjectMetadata) bool {
	want, have := wanted.GetLabels(), live.GetLabels()
	if have[config.LabelManaged] == "true" {
		return have[config.LabelName] == want[config.LabelName] && have[config.LabelNamespace] == want[config.LabelNamespace]
	}
	return slices.ContainsFunc(live.ManagedFields, func(e metav1.ManagedFieldsEntry) bool {
		return e.Manager == fieldOwner && e.Operation == metav1.ManagedFieldsOperationApply
	})
}

// claim refuses a name that something else has already. What somebody made by
// hand, or another configuration needs, is never taken over.
func (r *reconciler) claim(ctx context.Context, wanted *unstructured.Unstructured, live *metav1.PartialObjectMetadata) error {
	if live == nil {
		var err error
		if live, err = r.look(ctx, wanted); err != nil || live == nil {
			return err
		}
	}
	if ours(wanted, live) {
		return nil
	}
	whose := "was not made for a configuration: delete or rename it"
	if live.Labels[config.LabelManaged] == "true" {
		whose = fmt.Sprintf("belongs to FluxConfig %s/%s: rename this configuration or its kustomization",
			live.Labels[config.LabelNamespace], live.Labels[config.LabelName])
	}
	return phase.Waiting("ObjectExists", lookAgain, fmt.Errorf("%s %s exists already and %s", wanted.GetKind(), client.ObjectKeyFromObject(wanted), whose))
}

// look asks the API server, not a cache, for an object; nil when there is none.
func (r *reconciler) look(ctx context.Context, u *unstructured.Unstructured) (*metav1.PartialObjectMetadata, error) {
	m := &metav1.PartialObjectMetadata{}
	m.SetGroupVersionKind(u.GroupVersionKind())
	err := r.direct.Get(ctx, client.ObjectKeyFromObject(u), m)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for %s %s: %w", u.GetKind(), client.ObjectKeyFromObject(u), err)
	}
	return m, nil
}

// deleteOwn deletes an object unless somebody else made it.
func (r *reconciler) deleteOwn(ctx context.Context, obj client.Object) error {
	u, err := toUnstructured(obj)
	if err != nil {
		return err
	}
	live, err := r.look(ctx, u)
	if err != nil || live == nil || !ours(u, live) {
		return err
	}
	uid := live.UID
	err = r.client.Delete(ctx, obj, client.PropagationPolicy(metav1.DeletePropagationBackground), client.Preconditions{UID: &uid})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s %s: %w", u.GetKind(), client.ObjectKeyFromObject(u), err)
	}
	r.applied.forget(u)
	return nil
}

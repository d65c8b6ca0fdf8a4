package fluxconfig

import (
	"context"
	"fmt"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/api/config"
	"headwater.dev/kernel/phase"
)

// lookAgain is the fallback of waits that a watch ends.
const lookAgain = 30 * time.Second

// apply makes an object as it is wanted, when it is not known to be so already.
func (r *reconciler) apply(ctx context.Context, obj client.Object) error {
	u, err := toUnstructured(obj)
	if err != nil {
		return err
	}
	live := r.live(ctx, u)
	if r.applied.current(u, live) {
		return nil
	}
	if err := r.claim(ctx, u, live); err != nil {
		return err
	}
	wanted := digest(u)
	err = r.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(fieldOwner), client.ForceOwnership)
	if err != nil {
		return fmt.Errorf("apply %s %s: %w", u.GetKind(), client.ObjectKeyFromObject(u), err)
	}
	r.applied.set(u, wanted)
	return nil
}

// live is what the cache of generated objects knows of one; nil for nothing.
func (r *reconciler) live(ctx context.Context, u *unstructured.Unstructured) *metav1.PartialObjectMetadata {
	m := &metav1.PartialObjectMetadata{}
	m.SetGroupVersionKind(u.GroupVersionKind())
	if err := r.managed.Get(ctx, client.ObjectKeyFromObject(u), m); err != nil {
		return nil
	}
	return m
}

func toUnstructured(obj client.Object) (*unstructured.Unstructured, error) {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return nil, fmt.Errorf("convert %s: %w", client.ObjectKeyFromObject(obj), err)
	}
	u := &unstructured.Unstructured{Object: m}
	unstructured.RemoveNestedField(m, "status")
	unstructured.RemoveNestedField(m, "metadata", "creationTimestamp")
	return u, nil
}

// grant makes flux-applier and its bindings, together with the namespace's
// other configurations.
func (r *reconciler) grant(ctx context.Context, s *scope) error {
	ns := s.obj.Namespace
	want := rightsOf(append(s.siblings, *s.obj)...)
	if err := r.apply(ctx, serviceAccount(ns)); err != nil {
		return err
	}
	if err := r.bind(ctx, want.cluster, clusterRoleBinding(ns)); err != nil {
		return err
	}
	return r.bind(ctx, want.namespace, roleBinding(ns))
}

func (r *reconciler) bind(ctx context.Context, wanted bool, binding client.Object) error {
	if wanted {
		return r.apply(ctx, binding)
	}
	u, err := toUnstructured(binding)
	if err != nil {
		return err
	}
	if r.live(ctx, u) == nil {
		return nil
	}
	return r.deleteOwn(ctx, binding)
}

// revoke removes the rights that no other configuration of the namespace needs.
func (r *reconciler) revoke(ctx context.Context, s *scope) error {
	ns := s.obj.Namespace
	want := rightsOf(s.siblings...)
	if !want.cluster {
		if err := r.deleteOwn(ctx, clusterRoleBinding(ns)); err != nil {
			return err
		}
	}
	if !want.namespace {
		if err := r.deleteOwn(ctx, roleBinding(ns)); err != nil {
			return err
		}
	}
	if want.cluster || want.namespace {
		return nil
	}
	return r.deleteOwn(ctx, serviceAccount(ns))
}

func (r *reconciler) applyAll(ctx context.Context, s *scope) error {
	if s.credentials != nil {
		if err := r.apply(ctx, authSecret(s.obj, s.credentials)); err != nil {
			return err
		}
	}
	source, err := sourceOf(s.obj, s.credentials != nil)
	if err != nil {
		return err
	}
	ks, err := kustomizationsOf(s.obj)
	if err != nil {
		return err
	}
	if err := r.keepIdentities(ctx, s); err != nil {
		return err
	}
	if err := r.keepTrust(ctx, s); err != nil {
		return err
	}
	if err := r.apply(ctx, source); err != nil {
		return err
	}
	for _, k := range s.obj.Spec.Kustomizations {
		if m := clusterOf(s.obj, k); m != nil {
			if err := r.apply(ctx, m); err != nil {
				return err
			}
		}
	}
	for _, k := range ks {
		afterSource(s, k)
		if err := r.apply(ctx, k); err != nil {
			return err
		}
	}
	return nil
}

// afterSource holds a request to reconcile back from a Kustomization until the
// source has handled it: otherwise it would be handled with what the source had
// before.
func afterSource(s *scope, k *kustomizev1.Kustomization) {
	at := requestedAt(s.obj)
	if at == "" {
		return
	}
	for _, o := range s.sources {
		if o.GetName() != s.obj.Name || kindOf(o) != sourceKindOf(s.obj) {
			continue
		}
		if isSuspended(o) || lastHandled(o) == at {
			return
		}
	}
	delete(k.Annotations, meta.ReconcileRequestAnnotation)
	for i := range s.kustomizations {
		if was := requestedAt(&s.kustomizations[i]); s.kustomizations[i].Name == k.Name && was != "" {
			k.Annotations[meta.ReconcileRequestAnnotation] = was
		}
	}
}

// removeUnwanted deletes Kustomizations that left the configuration, sources of
// another kind, and credentials that nothing reads.
func (r *reconciler) removeUnwanted(ctx context.Context, s *scope) error {
	wanted := map[string]bool{}
	for _, k := range s.obj.Spec.Kustomizations {
		wanted[kustomizationName(s.obj, k.Name)] = true
	}
	for i := range s.kustomizations {
		k := &s.kustomizations[i]
		if !wanted[k.Name] && k.DeletionTimestamp.IsZero() {
			if err := r.delete(ctx, k); err != nil {
				return err
			}
		}
	}
	for _, o := range s.sources {
		if o.GetName() != s.obj.Name || kindOf(o) != sourceKindOf(s.obj) {
			if err := r.delete(ctx, o); err != nil {
				return err
			}
		}
	}
	accounts, clusters := wantedNames(s.obj)
	if err := r.dropUnwanted(ctx, s.obj, accounts, clusters); err != nil {
		return err
	}
	if s.credentials == nil && s.auth != nil && s.auth.Labels[config.LabelManaged] == "true" {
		return r.delete(ctx, s.auth)
	}
	return nil
}

// deleteKustomizations deletes what none of the others depends on, and waits
// until it is gone before it goes on.
func (r *reconciler) deleteKustomizations(ctx context.Context, s *scope) error {
	if len(s.kustomizations) == 0 {
		return nil
	}
	for _, k := range removable(s.kustomizations) {
		if !k.DeletionTimestamp.IsZero() {
			continue
		}
		if err := r.beforeDelete(ctx, s, &k); err != nil {
			return err
		}
		if err := r.delete(ctx, &k); err != nil {
			return err
		}
	}
	return phase.Waiting("Deleting", lookAgain, fmt.Errorf("waiting for %d kustomizations to remove what they applied", len(s.kustomizations)))
}

// beforeDelete lets a suspended Kustomization prune, because upstream's
// contract is that a suspended one does not; or none, when everything is kept.
func (r *reconciler) beforeDelete(ctx context.Context, s *scope, k *kustomizev1.Kustomization) error {
	before := k.DeepCopy()
	k.Spec.Suspend = false
	if s.obj.Spec.SoftDelete {
		k.Spec.DeletionPolicy = kustomizev1.DeletionPolicyOrphan
	}
	if before.Spec.Suspend == k.Spec.Suspend && before.Spec.DeletionPolicy == k.Spec.DeletionPolicy {
		return nil
	}
	if err := r.client.Patch(ctx, k, client.MergeFrom(before), client.FieldOwner(fieldOwner)); err != nil {
		return client.IgnoreNotFound(fmt.Errorf("prepare Kustomization %s for deletion: %w", k.Name, err))
	}
	return nil
}

func (r *reconciler) deleteSource(ctx context.Context, s *scope) error {
	for _, o := range s.sources {
		if err := r.delete(ctx, o); err != nil {
			return err
		}
	}
	if err := r.dropUnwanted(ctx, s.obj, nil, nil); err != nil {
		return err
	}
	secrets := []string{authName(s.obj), trustName(s.obj)}
	if ref := s.obj.Spec.ProtectedParametersSecretRef; ref != nil {
		secrets = append(secrets, ref.Name)
	}
	for _, name := range secrets {
		secret, err := r.secret(ctx, s.obj.Namespace, name)
		if err != nil {
			return err
		}
		if secret == nil || secret.Labels[config.LabelManaged] != "true" {
			continue // the user's own
		}
		if err := r.delete(ctx, secret); err != nil {
			return err
		}
	}
	return nil
}

func (r *reconciler) delete(ctx context.Context, obj client.Object) error {
	err := r.client.Delete(ctx, obj, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s: %w", client.ObjectKeyFromObject(obj), err)
	}
	return nil
}

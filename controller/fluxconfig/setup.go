package fluxconfig

import (
	"cmp"
	"context"
	"fmt"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"headwater.dev/api/config"
	"headwater.dev/kernel/host"
)

// Setup adds the loop to the host.
func Setup(_ context.Context, h *host.Host) error {
	mgr := h.Manager
	managed, err := managedCache(mgr)
	if err != nil {
		return err
	}
	r := &reconciler{client: mgr.GetClient(), managed: managed, direct: mgr.GetAPIReader(), now: time.Now}
	b := ctrl.NewControllerManagedBy(mgr).Named("fluxconfig").
		For(&config.FluxConfig{}, builder.WithPredicates(asked())).
		WithOptions(h.ControllerOptions())
	for _, obj := range watched() {
		b = b.Watches(obj, handler.EnqueueRequestsFromMapFunc(r.owners), builder.WithPredicates(changed()))
	}
	for _, gvk := range append(generatedKinds(), sourceKinds()...) {
		m := &metav1.PartialObjectMetadata{}
		m.SetGroupVersionKind(gvk)
		b = b.WatchesRawSource(source.Kind(managed, client.Object(m), handler.EnqueueRequestsFromMapFunc(r.owners), changed()))
	}
	if err := b.Complete(r); err != nil {
		return fmt.Errorf("watch FluxConfigs: %w", err)
	}
	return nil
}

// managedCache watches the metadata of generated objects only, so that its
// size does not depend on what else is in the cluster.
func managedCache(mgr ctrl.Manager) (cache.Cache, error) {
	c, err := cache.New(mgr.GetConfig(), cache.Options{
		Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(), HTTPClient: mgr.GetHTTPClient(),
		DefaultLabelSelector: labels.SelectorFromSet(labels.Set{config.LabelManaged: "true"}),
		DefaultTransform:     cache.TransformStripManagedFields(),
	})
	if err != nil {
		return nil, fmt.Errorf("make cache of generated objects: %w", err)
	}
	if err := mgr.Add(c); err != nil {
		return nil, fmt.Errorf("add cache of generated objects: %w", err)
	}
	return c, nil
}

// owners maps an object to the FluxConfigs that it concerns: by our labels, by
// the labels of the Kustomization that applied it, or all of its namespace for
// what they share.
func (r *reconciler) owners(ctx context.Context, obj client.Object) []reconcile.Request {
	l := obj.GetLabels()
	if l[config.LabelManaged] == "true" {
		return r.labelled(ctx, obj)
	}
	if name := l[kustomizev1.GroupVersion.Group+"/name"]; name != "" {
		return r.appliedBy(ctx, types.NamespacedName{Namespace: l[kustomizev1.GroupVersion.Group+"/namespace"], Name: name})
	}
	if name := l["helm.toolkit.fluxcd.io/name"]; name != "" { // a HelmChart of a HelmRelease
		return r.ofRelease(ctx, types.NamespacedName{Namespace: l["helm.toolkit.fluxcd.io/namespace"], Name: name})
	}
	return nil
}

func (r *reconciler) labelled(ctx context.Context, obj client.Object) []reconcile.Request {
	l := obj.GetLabels()
	if name := l[config.LabelName]; name != "" {
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: l[config.LabelNamespace], Name: name}}}
	}
	ns := cmp.Or(l[config.LabelNamespace], obj.GetNamespace())
	if ns == "" {
		return nil
	}
	var list config.FluxConfigList
	if err := r.client.List(ctx, &list, client.InNamespace(ns)); err != nil {
		return nil
	}
	var out []reconcile.Request
	for _, c := range list.Items {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&c)})
	}
	return out
}

func (r *reconciler) appliedBy(ctx context.Context, key types.NamespacedName) []reconcile.Request {
	k := &kustomizev1.Kustomization{}
	if err := r.client.Get(ctx, key, k); err != nil || k.Labels[config.LabelManaged] != "true" {
		return nil
	}
	return r.labelled(ctx, k)
}

func (r *reconciler) ofRelease(ctx context.Context, key types.NamespacedName) []reconcile.Request {
	release := objectRef{kind: "HelmRelease"}.empty()
	if err := r.client.Get(ctx, key, release); err != nil {
		return nil
	}
	return r.owners(ctx, release)
}

// asked lets through what a user or the agent asked for, not our own status.
func asked() predicate.Predicate {
	return predicate.Or(predicate.GenerationChangedPredicate{}, predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			return e.ObjectOld.GetAnnotations()[meta.ReconcileRequestAnnotation] != e.ObjectNew.GetAnnotations()[meta.ReconcileRequestAnnotation] ||
				e.ObjectOld.GetDeletionTimestamp().IsZero() != e.ObjectNew.GetDeletionTimestamp().IsZero()
		},
	})
}

// changed lets through real changes, not resyncs.
func changed() predicate.Predicate { return predicate.ResourceVersionChangedPredicate{} }

// Package helm brings Helm releases to the state that HelmReleases ask for.
//
// A reconcile observes the release in storage, decides the next step with a
// pure function and acts, as the tenant. It never waits: dependencies, chart
// artifacts and the health of objects are watched, and the HelmRelease is
// parked until one of them changes.
package helm

import (
	"context"
	"fmt"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/runtime/predicates"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"headwater.dev/kernel/apply"
	"headwater.dev/kernel/depend"
	"headwater.dev/kernel/host"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/release"
)

const (
	indexSource     = ".metadata.source"
	indexDependency = ".metadata.dependency"
)

// Setup adds the loop to the host's manager. ctx ends its watches.
func Setup(ctx context.Context, h *host.Host) error {
	events, err := h.Recorder(fieldOwner)
	if err != nil {
		return err
	}
	wake := make(chan event.GenericEvent, 1024)
	l := &loop{
		client: h.Manager.GetClient(), all: h.All(), tenants: h.Tenants, reader: h.Reader, events: events,
		cache: release.NewCache(), watcher: apply.NewWatcher(fieldOwner, v2.GroupVersion.Group, waker(ctx, wake)), ledger: newLedger(), render: &renderer{}, now: time.Now,
		noCrossNamespace:  h.Options.NoCrossNamespaceRefs,
		defaultIdentity:   h.Options.DefaultServiceAccount,
		requeueDependency: h.Options.RequeueDependency,
		detectDrift:       h.Options.DetectDrift,
	}
	if err := h.Manager.Add(l.watcher); err != nil {
		return fmt.Errorf("add the watcher of released objects: %w", err)
	}
	if err := index(ctx, h.Manager); err != nil {
		return err
	}
	r := &phase.Reconciler[*v2.HelmRelease, scope]{
		Client: l.client, Live: h.Manager.GetAPIReader(), Events: events, FieldOwner: fieldOwner,
		Finalizer: v2.HelmReleaseFinalizer,
		New:       func() *v2.HelmRelease { return &v2.HelmRelease{} },
		Suspended: func(hr *v2.HelmRelease) bool { return hr.Spec.Suspend },
		Status: func(hr *v2.HelmRelease) phase.Fields {
			return phase.Fields{
				ObservedGeneration: &hr.Status.ObservedGeneration,
				HandledReconcileAt: &hr.Status.LastHandledReconcileAt,
			}
		},
		Begin: l.begin, Phases: l.phases(), Finalize: l.finalizers(),
		Success: l.success, Metadata: l.metadata, Gone: l.gone,
	}
	b := ctrl.NewControllerManagedBy(h.Manager).Named("helmrelease").
		For(&v2.HelmRelease{}, builder.WithPredicates(
			predicate.Or(predicate.GenerationChangedPredicate{}, predicates.ReconcileRequestedPredicate{}, depend.Changed()))).
		Watches(&v2.HelmRelease{}, handler.EnqueueRequestsFromMapFunc(l.dependents), builder.WithPredicates(conditionsChanged())).
		Watches(&sourcev1.HelmChart{}, handler.EnqueueRequestsFromMapFunc(l.users(sourcev1.HelmChartKind)), builder.WithPredicates(sourceChanged())).
		Watches(&sourcev1.ExternalArtifact{}, handler.EnqueueRequestsFromMapFunc(l.users(sourcev1.ExternalArtifactKind)), builder.WithPredicates(sourceChanged())).
		Watches(&sourcev1.OCIRepository{}, handler.EnqueueRequestsFromMapFunc(l.users(sourcev1.OCIRepositoryKind)), builder.WithPredicates(sourceChanged())).
		WatchesRawSource(source.Channel(wake, &handler.EnqueueRequestForObject{})).
		WithOptions(h.ControllerOptions())
	kustomization := kustomizev1.GroupVersion.WithKind(kustomizev1.KustomizationKind)
	if _, err := h.Manager.GetRESTMapper().RESTMapping(kustomization.GroupKind(), kustomization.Version); err == nil {
		b.Watches(&kustomizev1.Kustomization{}, handler.EnqueueRequestsFromMapFunc(l.dependents), builder.WithPredicates(predicate.ResourceVersionChangedPredicate{}))
	}
	if err := b.Complete(r); err != nil {
		return fmt.Errorf("set up the HelmRelease loop: %w", err)
	}
	return nil
}

// waker returns a function that queues a HelmRelease.
func waker(ctx context.Context, queue chan<- event.GenericEvent) func(types.NamespacedName) {
	return func(key types.NamespacedName) {
		hr := &v2.HelmRelease{}
		hr.Namespace, hr.Name = key.Namespace, key.Name
		select {
		case queue <- event.GenericEvent{Object: hr}:
		case <-ctx.Done():
		}
	}
}

func index(ctx context.Context, m ctrl.Manager) error {
	err := m.GetFieldIndexer().IndexField(ctx, &v2.HelmRelease{}, indexSource, func(o client.Object) []string {
		src := sourceOf(o.(*v2.HelmRelease))
		return []string{src.kind + "/" + src.key.String()}
	})
	if err != nil {
		return fmt.Errorf("index HelmReleases by source: %w", err)
	}
	err = m.GetFieldIndexer().IndexField(ctx, &v2.HelmRelease{}, indexDependency, depend.Keys)
	if err != nil {
		return fmt.Errorf("index HelmReleases by dependency: %w", err)
	}
	return nil
}

// dependents are the HelmReleases that depend on the given object.
func (l *loop) dependents(ctx context.Context, o client.Object) []reconcile.Request {
	return l.find(ctx, indexDependency, depend.KeyOf(o).String())
}

// users are the HelmReleases whose chart comes from the given source.
func (l *loop) users(kind string) handler.MapFunc {
	return func(ctx context.Context, o client.Object) []reconcile.Request {
		return l.find(ctx, indexSource, kind+"/"+client.ObjectKeyFromObject(o).String())
	}
}

func (l *loop) find(ctx context.Context, index, value string) []reconcile.Request {
	var list v2.HelmReleaseList
	if err := l.client.List(ctx, &list, client.MatchingFields{index: value}); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list HelmReleases", "index", index)
		return nil
	}
	reqs := make([]reconcile.Request, 0, len(list.Items))
	for _, hr := range list.Items {
		reqs = append(reqs, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: hr.Namespace, Name: hr.Name}})
	}
	return reqs
}

// conditionsChanged lets through what may make a dependency ready.
func conditionsChanged() predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, ok1 := e.ObjectOld.(*v2.HelmRelease)
			after, ok2 := e.ObjectNew.(*v2.HelmRelease)
			return ok1 && ok2 && digestOf(before.Status) != digestOf(after.Status)
		},
		DeleteFunc: func(event.DeleteEvent) bool { return false },
	}
}

// sourceChanged lets through what may change the chart or its readiness.
func sourceChanged() predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool { return sourceState(e.ObjectOld) != sourceState(e.ObjectNew) },
		DeleteFunc: func(event.DeleteEvent) bool { return true },
	}
}

// sourceState is a digest of what findChart reads.
func sourceState(o client.Object) string {
	switch src := o.(type) {
	case *sourcev1.HelmChart:
		return digestOf([]any{src.Spec, src.Status.ObservedGeneration, src.Status.Artifact, src.Status.Conditions})
	case *sourcev1.OCIRepository:
		return digestOf([]any{src.Status.ObservedGeneration, src.Status.Artifact, src.Status.Conditions})
	case *sourcev1.ExternalArtifact:
		return digestOf([]any{src.Generation, src.Status.Artifact, src.Status.Conditions})
	default:
		return ""
	}
}

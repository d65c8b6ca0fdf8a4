// Package kustomize reconciles Kustomizations: it builds a directory of an
// artifact, applies the objects as the tenant, prunes what is gone and watches
// the health of the rest.
//
// It does only what changed. A revision that touches none of the files that the
// last build read is recorded without a build; an object that nobody touched
// costs no request. No worker waits: health, dependencies, sources and drift
// are watched, and wake the Kustomization that they concern.
package kustomize

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/runtime/predicates"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"headwater.dev/kernel/apply"
	"headwater.dev/kernel/depend"
	"headwater.dev/kernel/host"
	"headwater.dev/kernel/phase"
)

const (
	// fieldOwner is the component's name, and its field manager of what it applies.
	fieldOwner = "kustomize-controller"
	// ownOwner is its field manager of what it writes to Kustomizations, as in
	// Flux: the Kustomization that another one comes from applies it under the
	// former, and must not take over what is written under this.
	ownOwner = "gotk-" + fieldOwner
	group    = "kustomize.toolkit.fluxcd.io"
	// parallel requests of one Kustomization.
	parallel = 8

	indexSource     = ".metadata.source"
	indexDependency = ".metadata.dependency"
)

// Setup adds the loop to the host's manager.
func Setup(ctx context.Context, h *host.Host) error {
	events, err := h.Recorder(fieldOwner)
	if err != nil {
		return err
	}
	l := &loop{
		client: h.Manager.GetClient(), live: h.Manager.GetAPIReader(), all: h.All(), tenants: h.Tenants, reader: h.Reader, clouds: h.Cloud,
		events: events, options: h.Options, memory: newMemory(), store: store{filepath.Join(h.Options.StoragePath, "kustomizations")}, wakes: &wakes{}, now: time.Now,
	}
	l.watcher = apply.NewWatcher(fieldOwner, group, l.wakes.wake)
	l.watcher.Override(h.Options.OverrideManagers...)
	l.inputs = apply.NewWatcher(fieldOwner, group, l.wakes.wake)
	stages, err := apply.ParseStages(h.Options.ApplyStageKinds)
	if err != nil {
		return fmt.Errorf("--custom-apply-stage-kinds: %w", err)
	}
	l.engine = &apply.Engine{
		Manager: fieldOwner, Group: group, Watcher: l.watcher, Parallel: parallel, Stages: stages, Owned: l.owned, Fault: h.Options.Fault,
	}
	for _, w := range []*apply.Watcher{l.watcher, l.inputs} {
		if err := h.Manager.Add(w); err != nil {
			return fmt.Errorf("add watcher: %w", err)
		}
	}
	if err := h.Manager.Add(manager.RunnableFunc(l.sweep)); err != nil {
		return fmt.Errorf("add sweeper: %w", err)
	}
	if err := index(ctx, h.Manager); err != nil {
		return err
	}
	b := ctrl.NewControllerManagedBy(h.Manager).Named("kustomization").
		For(&kustomizev1.Kustomization{}, builder.WithPredicates(
			predicate.Or(predicate.GenerationChangedPredicate{}, predicates.ReconcileRequestedPredicate{}, depend.Changed()))).
		Watches(&kustomizev1.Kustomization{}, l.dependentsHandler(), builder.WithPredicates(dependencyChanged())).
		WatchesRawSource(source.TypedFunc[reconcile.Request](l.wakes.attach)).
		WithOptions(h.ControllerOptions())
	for _, kind := range []string{sourcev1.GitRepositoryKind, sourcev1.OCIRepositoryKind, sourcev1.BucketKind, sourcev1.ExternalArtifactKind} {
		if err := l.watchSource(h, b, kind); err != nil {
			return err
		}
	}
	if served(h, helmv2.GroupVersion.WithKind(helmv2.HelmReleaseKind)) {
		b.Watches(&helmv2.HelmRelease{}, l.dependentsHandler(), builder.WithPredicates(dependencyChanged()))
	}
	if err := b.Complete(returning(l.reconciler())); err != nil {
		return fmt.Errorf("set up the Kustomization loop: %w", err)
	}
	return nil
}

func (l *loop) reconciler() *phase.Reconciler[*kustomizev1.Kustomization, scope] {
	return &phase.Reconciler[*kustomizev1.Kustomization, scope]{
		Client: l.client, Live: l.live, Events: l.events, FieldOwner: ownOwner,
		Finalizer: kustomizev1.KustomizationFinalizer,
		New:       func() *kustomizev1.Kustomization { return &kustomizev1.Kustomization{} },
		Suspended: func(k *kustomizev1.Kustomization) bool { return k.Spec.Suspend },
		Status: func(k *kustomizev1.Kustomization) phase.Fields {
			return phase.Fields{ObservedGeneration: &k.Status.ObservedGeneration, HandledReconcileAt: &k.Status.LastHandledReconcileAt}
		},
		Checkpoint: func(s *scope, write func(context.Context) error) { s.write = write },
		Claim:      func(s *scope, claim phase.Claim) { s.claim = claim },
		Begin:      l.begin, Phases: l.phases(), Finalize: l.finalizers(),
		Success: l.success, Metadata: l.metadata, Gone: l.gone,
	}
}

// sweep forgets, once, what is kept of Kustomizations that are gone.
func (l *loop) sweep(ctx context.Context) error {
	var list kustomizev1.KustomizationList
	if err := l.client.List(ctx, &list); err != nil {
		ctrl.LoggerFrom(ctx).Info("old records are not swept", "error", err.Error())
		return nil
	}
	exists := map[types.NamespacedName]bool{}
	for i := range list.Items {
		exists[client.ObjectKeyFromObject(&list.Items[i])] = true
	}
	l.store.sweep(func(key types.NamespacedName) bool { return exists[key] })
	return nil
}

// watchSource follows a kind of source, if the cluster serves it.
func (l *loop) watchSource(h *host.Host, b *builder.Builder, kind string) error {
	obj, err := newSource(kind)
	if err != nil {
		return err
	}
	if served(h, sourcev1.GroupVersion.WithKind(kind)) {
		b.Watches(obj, l.sourceHandler(kind))
	}
	return nil
}

func served(h *host.Host, gvk schema.GroupVersionKind) bool {
	if _, err := h.Manager.GetRESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version); err != nil {
		h.Manager.GetLogger().Info("kind is not served by this cluster", "kind", gvk.Kind)
		return false
	}
	return true
}

// index makes Kustomizations findable by their source and their dependencies.
func index(ctx context.Context, mgr ctrl.Manager) error {
	bySource := func(o client.Object) []string {
		k := o.(*kustomizev1.Kustomization)
		return []string{k.Spec.SourceRef.Kind + "/" + sourceKey(k).String()}
	}
	for field, f := range map[string]client.IndexerFunc{indexSource: bySource, indexDependency: depend.Keys} {
		if err := mgr.GetFieldIndexer().IndexField(ctx, &kustomizev1.Kustomization{}, field, f); err != nil {
			return fmt.Errorf("index Kustomizations by %s: %w", field, err)
		}
	}
	return nil
}

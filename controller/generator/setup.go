// Package generator reconciles ArtifactGenerators: it makes ExternalArtifacts
// out of the artifacts of other sources.
//
// Sources are watched; a generator whose sources and artifacts are as it left
// them reads no artifact and writes nothing. An artifact whose content did not
// change keeps its revision, and wakes nobody.
package generator

import (
	"context"
	"fmt"
	"time"

	"github.com/fluxcd/pkg/runtime/predicates"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	swapi "github.com/fluxcd/source-watcher/api/v2/v1beta1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"headwater.dev/kernel/host"
	"headwater.dev/kernel/phase"
)

const (
	// fieldOwner is the component's name and the field manager of its writes.
	fieldOwner = "source-watcher"
	// indexSource finds generators by the sources they name.
	indexSource = ".spec.sources"
	// buildTimeout bounds making all artifacts of a generator.
	buildTimeout = 5 * time.Minute
)

// Setup adds the loop to the host's manager.
func Setup(ctx context.Context, h *host.Host) error {
	events, err := h.Recorder(fieldOwner)
	if err != nil {
		return err
	}
	l := &loop{
		client: h.Manager.GetClient(), live: h.Manager.GetAPIReader(), store: h.Artifacts, reader: h.Reader,
		lockdown: h.Options.NoCrossNamespaceRefs, requeueDependency: h.Options.RequeueDependency,
	}
	err = h.Manager.GetFieldIndexer().IndexField(ctx, &swapi.ArtifactGenerator{}, indexSource, func(o client.Object) []string {
		return sourceKeys(o.(*swapi.ArtifactGenerator))
	})
	if err != nil {
		return fmt.Errorf("index ArtifactGenerators by source: %w", err)
	}
	owned := handler.EnqueueRequestForOwner(h.Manager.GetScheme(), h.Manager.GetRESTMapper(), &swapi.ArtifactGenerator{}, handler.OnlyControllerOwner())
	b := ctrl.NewControllerManagedBy(h.Manager).Named("artifactgenerator").
		For(&swapi.ArtifactGenerator{}, builder.WithPredicates(
			predicate.Or(predicate.GenerationChangedPredicate{}, predicates.ReconcileRequestedPredicate{}, resumed()))).
		Watches(&sourcev1.ExternalArtifact{}, owned, builder.WithPredicates(meddled())).
		WithOptions(h.ControllerOptions())
	for _, kind := range kinds() {
		b.Watches(newSource(kind), handler.EnqueueRequestsFromMapFunc(l.users(kind)), builder.WithPredicates(artifactChanged()))
	}
	r := &phase.Reconciler[*swapi.ArtifactGenerator, scope]{
		Client: l.client, Live: l.live, Events: events, FieldOwner: fieldOwner,
		Finalizer: swapi.Finalizer,
		New:       func() *swapi.ArtifactGenerator { return &swapi.ArtifactGenerator{} },
		Suspended: (*swapi.ArtifactGenerator).IsDisabled,
		Status: func(g *swapi.ArtifactGenerator) phase.Fields {
			// The kind has no observed generation but that of its conditions.
			return phase.Fields{ObservedGeneration: new(int64), HandledReconcileAt: &g.Status.LastHandledReconcileAt}
		},
		Begin: l.begin, Phases: l.phases(), Finalize: l.finalizers(), Success: l.success,
	}
	if err := b.Complete(r); err != nil {
		return fmt.Errorf("set up the ArtifactGenerator loop: %w", err)
	}
	return nil
}

// kinds that artifacts can be made of.
func kinds() []string {
	return []string{sourcev1.GitRepositoryKind, sourcev1.OCIRepositoryKind, sourcev1.BucketKind, sourcev1.HelmChartKind, sourcev1.ExternalArtifactKind}
}

// newSource makes an empty source of a kind, nil for one that is not known.
func newSource(kind string) client.Object {
	switch kind {
	case sourcev1.GitRepositoryKind:
		return &sourcev1.GitRepository{}
	case sourcev1.OCIRepositoryKind:
		return &sourcev1.OCIRepository{}
	case sourcev1.BucketKind:
		return &sourcev1.Bucket{}
	case sourcev1.HelmChartKind:
		return &sourcev1.HelmChart{}
	case sourcev1.ExternalArtifactKind:
		return &sourcev1.ExternalArtifact{}
	}
	return nil
}

// sourceKey names the object of a reference.
func sourceKey(ref swapi.SourceReference, namespace string) client.ObjectKey {
	if ref.Namespace != "" {
		namespace = ref.Namespace
	}
	return client.ObjectKey{Namespace: namespace, Name: ref.Name}
}

func sourceKeys(g *swapi.ArtifactGenerator) []string {
	var keys []string
	for _, ref := range g.Spec.Sources {
		keys = append(keys, ref.Kind+"/"+sourceKey(ref, g.Namespace).String())
	}
	return keys
}

// users are the generators that use a source.
func (l *loop) users(kind string) handler.MapFunc {
	return func(ctx context.Context, o client.Object) []reconcile.Request {
		var list swapi.ArtifactGeneratorList
		key := kind + "/" + client.ObjectKeyFromObject(o).String()
		if err := l.client.List(ctx, &list, client.MatchingFields{indexSource: key}); err != nil {
			ctrl.LoggerFrom(ctx).Error(err, "list ArtifactGenerators", "source", key)
			return nil
		}
		var requests []reconcile.Request
		for i := range list.Items {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
		return requests
	}
}

// resumed lets through that a generator is turned on or off.
func resumed() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		DeleteFunc: func(event.DeleteEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			old, ok := e.ObjectOld.(*swapi.ArtifactGenerator)
			g, also := e.ObjectNew.(*swapi.ArtifactGenerator)
			return ok && also && old.IsDisabled() != g.IsDisabled()
		},
	}
}

// artifactChanged lets through what gives a source another artifact.
func artifactChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		old, ok := e.ObjectOld.(sourcev1.Source)
		s, also := e.ObjectNew.(sourcev1.Source)
		if !ok || !also {
			return false
		}
		a, b := old.GetArtifact(), s.GetArtifact()
		if a == nil || b == nil {
			return a != b
		}
		return a.Digest != b.Digest || a.Revision != b.Revision || a.URL != b.URL
	}}
}

// meddled lets through what happens to generated objects, other than that they
// are made and filled for the first time.
func meddled() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			old, ok := e.ObjectOld.(*sourcev1.ExternalArtifact)
			x, also := e.ObjectNew.(*sourcev1.ExternalArtifact)
			if !ok || !also {
				return false
			}
			if old.Generation != x.Generation || old.Labels[swapi.ArtifactGeneratorLabel] != x.Labels[swapi.ArtifactGeneratorLabel] {
				return true
			}
			return old.Status.Artifact != nil && !sameArtifact(old.Status.Artifact, x.Status.Artifact)
		},
	}
}

package source

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/predicates"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"headwater.dev/kernel/git"
	"headwater.dev/kernel/host"
	"headwater.dev/kernel/verify"
)

const (
	// bySecret finds objects by the Secrets they name, bySource by the source
	// they are made from.
	bySecret = "headwater.secret"
	bySource = "headwater.source"
	// anySecret is the key of objects in the index by Secret that any of their
	// namespace's Secrets may concern.
	anySecret = "*"
)

// kind is how a kind is watched.
type kind struct {
	name string
	new  func() client.Object
	list func() client.ObjectList
	// secrets names the Secrets that concern an object. Charts use those of
	// their repositories too.
	secrets    func(client.Object) []string
	remote     func(client.Object) string
	reconciler reconcile.Reconciler
	// uses names the sources that an object is made from, as kind/name; nil
	// for kinds that have none.
	uses func(client.Object) []string
	// sources are the kinds that it may be made from.
	sources map[string]client.Object
}

// Setup adds the reconcilers of all kinds, the artifact server and the janitor
// to the host.
func Setup(_ context.Context, h *host.Host) error {
	mirrors, err := git.OpenMirrors(filepath.Join(h.Options.StoragePath, "git"))
	if err != nil {
		return err
	}
	events, err := h.Recorder(fieldOwner)
	if err != nil {
		return err
	}
	l := &loops{
		clouds: h.Cloud, host: h, client: h.Manager.GetClient(), store: h.Artifacts, reader: h.Reader, mirrors: mirrors, events: events,
		packing:  make(chan struct{}, runtime.GOMAXPROCS(0)),
		sigstore: &verify.Instance{File: h.Options.SigstoreRoot, Dir: filepath.Join(h.Options.StoragePath, "sigstore")},
	}
	for _, run := range []func(context.Context) error{l.server, l.janitor} {
		if err := l.background(h.Manager, run); err != nil {
			return fmt.Errorf("set up source: %w", err)
		}
	}
	for _, k := range l.kinds() {
		if err := l.register(k); err != nil {
			return fmt.Errorf("set up %s: %w", k.name, err)
		}
	}
	return nil
}

func (l *loops) kinds() []kind {
	return []kind{
		{
			name: "gitrepository", new: func() client.Object { return &sourcev1.GitRepository{} },
			list:    func() client.ObjectList { return &sourcev1.GitRepositoryList{} },
			secrets: gitSecrets, remote: gitRemote, reconciler: l.gitRepository(), uses: gitIncludes,
			sources: map[string]client.Object{sourcev1.GitRepositoryKind: &sourcev1.GitRepository{}},
		},
		{
			name: "ocirepository", new: func() client.Object { return &sourcev1.OCIRepository{} },
			list:    func() client.ObjectList { return &sourcev1.OCIRepositoryList{} },
			secrets: ociSecrets, remote: ociRemote, reconciler: l.ociRepository(),
		},
		{
			name: "bucket", new: func() client.Object { return &sourcev1.Bucket{} },
			list:    func() client.ObjectList { return &sourcev1.BucketList{} },
			secrets: bucketSecrets, remote: bucketRemote, reconciler: l.bucket(),
		},
		{
			name: "helmrepository", new: func() client.Object { return &sourcev1.HelmRepository{} },
			list:    func() client.ObjectList { return &sourcev1.HelmRepositoryList{} },
			secrets: helmSecrets, remote: helmRemote, reconciler: l.helmRepository(),
		},
		{
			name: "helmchart", new: func() client.Object { return &sourcev1.HelmChart{} },
			list:    func() client.ObjectList { return &sourcev1.HelmChartList{} },
			secrets: chartSecrets, remote: chartRemote, reconciler: l.helmChart(),
			uses: func(o client.Object) []string { return []string{chartSourceKey(o)} },
			sources: map[string]client.Object{
				sourcev1.HelmRepositoryKind: &sourcev1.HelmRepository{},
				sourcev1.GitRepositoryKind:  &sourcev1.GitRepository{},
				sourcev1.BucketKind:         &sourcev1.Bucket{},
			},
		},
	}
}

func (l *loops) register(k kind) error {
	mgr := l.host.Manager
	selects, err := l.host.Options.Selector()
	if err != nil {
		return err
	}
	g := &gate{next: k.reconciler, client: l.client, new: k.new, remote: k.remote, selects: selects}
	options := l.host.ControllerOptions()
	options.MaxConcurrentReconciles = workers
	secrets := l.enqueueSecret(k.list)
	b := ctrl.NewControllerManagedBy(mgr).Named(k.name).
		For(k.new(), builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, predicates.ReconcileRequestedPredicate{}))).
		WatchesMetadata(&corev1.Secret{}, secrets,
			builder.WithPredicates(predicate.ResourceVersionChangedPredicate{}, createdSince(time.Now()))).
		WatchesRawSource(g.source()).
		WithOptions(options)
	if err := mgr.GetFieldIndexer().IndexField(context.Background(), k.new(), bySecret, k.secrets); err != nil {
		return err
	}
	if k.uses != nil {
		if err := mgr.GetFieldIndexer().IndexField(context.Background(), k.new(), bySource, k.uses); err != nil {
			return err
		}
	}
	if _, ok := k.sources[sourcev1.HelmRepositoryKind]; ok {
		b = b.WatchesMetadata(&corev1.Secret{}, l.enqueueCharts(),
			builder.WithPredicates(predicate.ResourceVersionChangedPredicate{}, createdSince(time.Now())))
	}
	for name, obj := range k.sources {
		key := func(o client.Object) string { return name + "/" + o.GetName() }
		b = b.Watches(obj, l.enqueue(k.list, bySource, key), builder.WithPredicates(newArtifact{}))
	}
	return b.Complete(g)
}

// enqueue requests the objects of the event's namespace that an index finds
// under a key of the event's object.
func (l *loops) enqueue(list func() client.ObjectList, index string, key func(client.Object) string) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		return l.find(ctx, list(), o.GetNamespace(), client.MatchingFields{index: key(o)})
	})
}

// enqueueSecret requests the objects that a Secret concerns. The Secrets in
// which Helm keeps its releases concern nobody here.
func (l *loops) enqueueSecret(list func() client.ObjectList) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		if strings.HasPrefix(o.GetName(), "sh.helm.release.") {
			return nil
		}
		found := l.find(ctx, list(), o.GetNamespace(), client.MatchingFields{bySecret: o.GetName()})
		return append(found, l.find(ctx, list(), o.GetNamespace(), client.MatchingFields{bySecret: anySecret})...)
	})
}

// enqueueCharts requests the charts of the repositories that use a Secret.
func (l *loops) enqueueCharts() handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		var requests []reconcile.Request
		for _, r := range l.find(ctx, &sourcev1.HelmRepositoryList{}, o.GetNamespace(), client.MatchingFields{bySecret: o.GetName()}) {
			key := sourcev1.HelmRepositoryKind + "/" + r.Name
			requests = append(requests, l.find(ctx, &sourcev1.HelmChartList{}, r.Namespace, client.MatchingFields{bySource: key})...)
		}
		return requests
	})
}

// find gives requests for the objects of a namespace that an index finds.
func (l *loops) find(ctx context.Context, list client.ObjectList, namespace string, by client.MatchingFields) []reconcile.Request {
	if err := l.client.List(ctx, list, client.InNamespace(namespace), by); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "failed to find dependent objects")
		return nil
	}
	var requests []reconcile.Request
	_ = apimeta.EachListItem(list, func(item k8sruntime.Object) error {
		if obj, ok := item.(client.Object); ok {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(obj)})
		}
		return nil
	})
	return requests
}

// createdSince lets creations through only of objects that are younger than
// this process: the others are there already when we look at everything.
func createdSince(start time.Time) predicate.Predicate {
	start = start.Add(-time.Minute) // clocks differ
	return predicate.Funcs{CreateFunc: func(e event.CreateEvent) bool {
		return e.Object.GetCreationTimestamp().After(start)
	}}
}

// newArtifact lets through the changes that give a source another artifact, or
// take it away.
type newArtifact struct{ predicate.Funcs }

// Update implements predicate.Predicate.
func (newArtifact) Update(e event.UpdateEvent) bool {
	before, ok := e.ObjectOld.(sourcev1.Source)
	if !ok {
		return false
	}
	after, ok := e.ObjectNew.(sourcev1.Source)
	if !ok {
		return false
	}
	old, now := before.GetArtifact(), after.GetArtifact()
	switch {
	case old == nil && now == nil: // a registry, which never has one
		return e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration()
	case old == nil || now == nil:
		return true
	}
	return old.Digest != now.Digest || old.Revision != now.Revision
}

// names collects the names of references that are set.
func names(refs ...*meta.LocalObjectReference) []string {
	var list []string
	for _, r := range refs {
		if r != nil {
			list = append(list, r.Name)
		}
	}
	return list
}

// hostOf gives host and port of a URL.
func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Host
}

package kustomize

import (
	"context"
	"slices"
	"sync"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"headwater.dev/kernel/depend"
)

// Priorities in the queue: what changed goes first, what comes back by itself,
// after its interval or to be tried again, behind what somebody has asked for, and
// what only has a new revision to record last.
const (
	priorityChanged = 100
	priorityReturn  = -50
	priorityRecord  = -100
)

// queue of the loop.
type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// wakes puts Kustomizations into the queue of the loop from outside it.
type wakes struct {
	mu sync.Mutex
	q  queue
}

func (w *wakes) attach(_ context.Context, q queue) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.q = q
	return nil
}

// wake never blocks.
func (w *wakes) wake(key types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.q != nil {
		add(w.q, key, priorityChanged)
	}
}

func add(q queue, key types.NamespacedName, priority int) {
	r := reconcile.Request{NamespacedName: key}
	if p, ok := q.(priorityqueue.PriorityQueue[reconcile.Request]); ok {
		p.AddWithOpts(priorityqueue.AddOpts{Priority: &priority}, r)
		return
	}
	q.Add(r)
}

// returning gives a Kustomization that comes back by itself a priority of its own.
// In the queue it would keep the one that it was woken with, so that in time all
// would be equal and none first; and those that fail again and again would hold
// up the healthy.
func returning(next reconcile.Reconciler) reconcile.Reconciler {
	return reconcile.Func(func(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
		result, err := next.Reconcile(ctx, r)
		result.Priority = new(0)
		if err == nil && result.RequeueAfter > 0 {
			result.Priority = new(priorityReturn)
		}
		return result, err
	})
}

// sourceHandler wakes the users of a source when its artifact changes.
func (l *loop) sourceHandler(kind string) handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) {
			if s, ok := e.Object.(sourcev1.Source); ok && s.GetArtifact() != nil {
				l.wakeUsers(ctx, kind, e.Object, q)
			}
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			old, ok := e.ObjectOld.(sourcev1.Source)
			now, ok2 := e.ObjectNew.(sourcev1.Source)
			if ok && ok2 && now.GetArtifact() != nil && !sameArtifact(old.GetArtifact(), now.GetArtifact()) {
				l.wakeUsers(ctx, kind, e.ObjectNew, q)
			}
		},
	}
}

func sameArtifact(a, b *meta.Artifact) bool {
	return a != nil && b != nil && a.Digest == b.Digest && a.Revision == b.Revision
}

// wakeUsers queues the users of a source, those first whose files changed. It
// looks at the files beside the loop, which would have to wait for the content
// otherwise.
func (l *loop) wakeUsers(ctx context.Context, kind string, src client.Object, q queue) {
	var list kustomizev1.KustomizationList
	key := kind + "/" + client.ObjectKeyFromObject(src).String()
	if err := l.client.List(ctx, &list, client.MatchingFields{indexSource: key}); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "cannot list the users of a source", "source", key)
		return
	}
	if len(list.Items) == 0 {
		return
	}
	artifact := *src.(sourcev1.Source).GetArtifact()
	ctx = context.WithoutCancel(ctx) // a handler's context ends with the handler; the reader bounds itself
	go func() {
		content, err := l.reader.Content(ctx, artifact)
		if err == nil {
			defer content.Release()
		}
		var rest []types.NamespacedName
		for i := range list.Items {
			user := client.ObjectKeyFromObject(&list.Items[i])
			n := l.memory.get(user)
			if n.generation != 0 && err == nil && (n.artifact == artifact.Digest || n.record.Same(content.Root, content.Files)) {
				l.memory.saw(user, n, artifact.Digest)
				rest = append(rest, user)
				continue
			}
			add(q, user, priorityChanged)
		}
		for _, user := range rest {
			add(q, user, priorityRecord)
		}
	}()
}

// dependentsHandler wakes who depends on an object, by what it is now.
func (l *loop) dependentsHandler() handler.EventHandler {
	wake := func(ctx context.Context, o client.Object, q queue) {
		for _, r := range l.dependents(ctx, o) {
			q.Add(r)
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { wake(ctx, e.Object, q) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) { wake(ctx, e.ObjectNew, q) },
	}
}

// dependents lists who depends on an object and may move because of it.
func (l *loop) dependents(ctx context.Context, obj client.Object) []reconcile.Request {
	var list kustomizev1.KustomizationList
	key := depend.KeyOf(obj).String()
	if err := l.client.List(ctx, &list, client.MatchingFields{indexDependency: key}); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "cannot list dependents", "dependency", key)
		return nil
	}
	var out []reconcile.Request
	for i := range list.Items {
		if moves(&list.Items[i], obj) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return out
}

// moves reports whether a change of a dependency can make a dependent move. One
// that is ready does not become unready because what it depends on is busy for a
// while: as in Flux, that counts when it has something to apply.
func moves(k *kustomizev1.Kustomization, dependency client.Object) bool {
	if o, ok := dependency.(depend.Object); !ok || depend.Ready(o) || !conditions.IsReady(k) {
		return true
	}
	key := depend.KeyOf(dependency)
	refs, err := depend.Of(k)
	return err != nil || slices.ContainsFunc(refs, func(r depend.Ref) bool { return r.Key == key && r.ReadyExpr != "" })
}

// dependencyChanged lets through what can make dependents move. An expression
// may read anything of an object, so any change but that of the time counts.
func dependencyChanged() predicate.Predicate {
	return predicate.Funcs{
		GenericFunc: func(event.GenericEvent) bool { return false },
		DeleteFunc:  func(event.DeleteEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			return e.ObjectOld.GetResourceVersion() != e.ObjectNew.GetResourceVersion()
		},
	}
}

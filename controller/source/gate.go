package source

import (
	"context"
	"sync"

	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// perRemote is how many workers of a kind one remote gets at a time.
const perRemote = 8

// workers is how many reconciles of a kind run at a time. Most of them wait for
// remotes; it takes workers/perRemote remotes that hang at once to use them up.
const workers = 256

// gate stands before a reconciler and lets only a few requests through for each
// remote. The others are parked without a worker and come back in their order.
type gate struct {
	next   reconcile.Reconciler
	client client.Reader
	new    func() client.Object
	// remote names the remote of an object; empty for none.
	remote func(client.Object) string

	queue workqueue.TypedRateLimitingInterface[reconcile.Request]

	mu    sync.Mutex
	lanes map[string]*lane
}

// lane is the traffic to one remote.
type lane struct {
	busy    int
	waiting []reconcile.Request
	parked  map[reconcile.Request]bool
}

// source gives the gate the queue to which it returns what it parked.
func (g *gate) source() source.Source {
	return source.Func(func(_ context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		g.queue = q
		return nil
	})
}

// Reconcile implements reconcile.Reconciler.
func (g *gate) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	obj := g.new()
	remote := ""
	if err := g.client.Get(ctx, req.NamespacedName, obj); err == nil && obj.GetDeletionTimestamp().IsZero() {
		remote = g.remote(obj)
	}
	if remote == "" {
		return g.next.Reconcile(ctx, req)
	}
	if !g.enter(remote, req) {
		return reconcile.Result{}, nil
	}
	defer g.leave(remote)
	return g.next.Reconcile(ctx, req)
}

// enter reports whether req may go on; otherwise it is parked.
func (g *gate) enter(remote string, req reconcile.Request) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lanes == nil {
		g.lanes = map[string]*lane{}
	}
	l := g.lanes[remote]
	if l == nil {
		l = &lane{parked: map[reconcile.Request]bool{}}
		g.lanes[remote] = l
	}
	if l.busy < perRemote {
		l.busy++
		return true
	}
	if !l.parked[req] {
		l.parked[req] = true
		l.waiting = append(l.waiting, req)
	}
	return false
}

// leave frees a place and lets the one who waits longest try again.
func (g *gate) leave(remote string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lanes[remote]
	l.busy--
	if len(l.waiting) > 0 {
		req := l.waiting[0]
		l.waiting = l.waiting[1:]
		delete(l.parked, req)
		g.queue.Add(req)
		return
	}
	if l.busy == 0 {
		delete(g.lanes, remote)
	}
}

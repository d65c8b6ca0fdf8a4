package source

import (
	"context"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"headwater.dev/kernel/oci"
)

// perRemote is how many workers of a kind one remote gets at a time.
const perRemote = 8

// workers is how many reconciles of a kind run at a time. Most of them wait for
// remotes; it takes workers/perRemote remotes that hang at once to use them up.
const workers = 128

// gate stands before a reconciler and lets only a few requests through for each
// remote. The others are parked without a worker and come back in turn: one of
// each namespace, in the order in which they came.
type gate struct {
	next   reconcile.Reconciler
	client client.Reader
	new    func() client.Object
	// remote names the remote of an object; empty for none.
	remote func(client.Object) string
	// selects are the objects that are reconciled here; the cache has others, too.
	selects labels.Selector

	queue workqueue.TypedRateLimitingInterface[reconcile.Request]

	mu    sync.Mutex
	lanes map[string]*lane
	// called are requests that were parked and have got a place in a lane since,
	// which is kept for them until they are here.
	called map[reconcile.Request]string
}

// lane is the traffic to one remote.
type lane struct {
	busy int
	// waiting are the parked requests by namespace, turns the namespaces that
	// have some in the order in which they are served: no namespace waits for
	// all the requests of another.
	waiting map[string][]reconcile.Request
	turns   []string
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
	err := g.client.Get(ctx, req.NamespacedName, obj)
	if err == nil && !g.selects.Matches(labels.Set(obj.GetLabels())) {
		return reconcile.Result{}, nil
	}
	if err == nil && obj.GetDeletionTimestamp().IsZero() {
		remote = g.remote(obj)
	}
	g.settle(req, remote)
	if remote == "" {
		return g.next.Reconcile(ctx, req)
	}
	if !g.enter(remote, req) {
		return reconcile.Result{}, nil
	}
	defer g.leave(remote)
	wish := &wish{}
	result, err := g.next.Reconcile(context.WithValue(ctx, wishKey{}, wish), req)
	if after := wish.after(); after > result.RequeueAfter {
		return reconcile.Result{RequeueAfter: after}, nil
	}
	return result, err
}

// maxRetryAfter bounds how long a remote can make us wait.
const maxRetryAfter = time.Hour

// wish is how long the remote of one reconcile asks to be left alone.
type wish struct {
	mu   sync.Mutex
	time time.Duration
}

type wishKey struct{}

func (w *wish) after() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.time
}

// patient notes when a remote refuses a request for its rate and says when to
// come back: the gate sends the object there no earlier.
type patient struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (p patient) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := p.RoundTripper.RoundTrip(r)
	if err != nil || (resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable) {
		return resp, err
	}
	if w, ok := r.Context().Value(wishKey{}).(*wish); ok {
		w.mu.Lock()
		w.time = max(w.time, min(oci.RetryAfter(resp.Header.Get("Retry-After"), time.Now()), maxRetryAfter))
		w.mu.Unlock()
	}
	return resp, nil
}

// settle passes the place that was kept for req on when it goes elsewhere now:
// it was deleted or suspended, or has another remote.
func (g *gate) settle(req reconcile.Request, remote string) {
	g.mu.Lock()
	at, called := g.called[req]
	elsewhere := called && at != remote
	if elsewhere {
		delete(g.called, req)
	}
	g.mu.Unlock()
	if elsewhere {
		g.leave(at)
	}
}

// enter reports whether req may go on; otherwise it is parked.
func (g *gate) enter(remote string, req reconcile.Request) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at, ok := g.called[req]; ok && at == remote {
		delete(g.called, req)
		return true
	}
	if g.lanes == nil {
		g.lanes = map[string]*lane{}
	}
	l := g.lanes[remote]
	if l == nil {
		l = &lane{parked: map[reconcile.Request]bool{}, waiting: map[string][]reconcile.Request{}}
		g.lanes[remote] = l
	}
	if l.busy < perRemote {
		l.busy++
		return true
	}
	if !l.parked[req] {
		l.parked[req] = true
		if len(l.waiting[req.Namespace]) == 0 {
			l.turns = append(l.turns, req.Namespace)
		}
		l.waiting[req.Namespace] = append(l.waiting[req.Namespace], req)
	}
	return false
}

// leave gives the place to the one whose turn it is, or frees it.
func (g *gate) leave(remote string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lanes[remote]
	if req, ok := l.next(); ok {
		if g.called == nil {
			g.called = map[reconcile.Request]string{}
		}
		g.called[req] = remote
		g.queue.Add(req)
		return
	}
	if l.busy--; l.busy == 0 {
		delete(g.lanes, remote)
	}
}

// next takes the request whose turn it is.
func (l *lane) next() (reconcile.Request, bool) {
	if len(l.turns) == 0 {
		return reconcile.Request{}, false
	}
	namespace := l.turns[0]
	l.turns = l.turns[1:]
	queue := l.waiting[namespace]
	req := queue[0]
	if len(queue) == 1 {
		delete(l.waiting, namespace)
	} else {
		l.waiting[namespace] = queue[1:]
		l.turns = append(l.turns, namespace)
	}
	delete(l.parked, req)
	return req, true
}

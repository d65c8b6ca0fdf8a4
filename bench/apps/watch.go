package apps

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	kube "sigs.k8s.io/controller-runtime/pkg/client"
)

// writers is how many requests the user has open at once.
const writers = 8

// each does something n times, writers at a time.
func each(ctx context.Context, n int, do func(context.Context, int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return do(ctx, i) })
	}
	return g.Wait()
}

// observer sees objects become what they should be.
type observer struct {
	watch     watch.Interface
	sightings chan sighting // closed when the watch ends
	wanted    func(watch.Event, *unstructured.Unstructured) bool
	n         int
}

// sighting is an event and when it came.
type sighting struct {
	watch.Event
	at time.Time
}

// backlog is how many events may wait until somebody asks for them. The API server
// ends a watch that is not read.
const backlog = 1 << 16

// observe watches from now on for n objects that wanted recognises; wanted is asked
// in all only.
func (w *world) observe(ctx context.Context, l *unstructured.UnstructuredList, namespace string, n int, wanted func(watch.Event, *unstructured.Unstructured) bool) (*observer, error) {
	found, err := w.kube.Watch(ctx, l, kube.InNamespace(namespace))
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", l.GetKind(), err)
	}
	o := &observer{found, make(chan sighting, backlog), wanted, n}
	go func() {
		defer close(o.sightings)
		for e := range found.ResultChan() {
			select {
			case o.sightings <- sighting{e, time.Now()}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return o, nil
}

// being makes wanted of a predicate on objects that are there.
func being(ok func(*unstructured.Unstructured) bool) func(watch.Event, *unstructured.Unstructured) bool {
	return func(e watch.Event, u *unstructured.Unstructured) bool { return e.Type != watch.Deleted && ok(u) }
}

// all returns when each of the n was first seen as it should be, by name.
func (o *observer) all(ctx context.Context) (map[string]time.Time, error) {
	defer o.watch.Stop()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	seen := make(map[string]time.Time, o.n)
	for len(seen) < o.n {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d came: %w", len(seen), o.n, ctx.Err())
		case e, ok := <-o.sightings:
			u, is := e.Object.(*unstructured.Unstructured)
			if !ok || e.Type == watch.Error || !is {
				return nil, fmt.Errorf("the watch ended after %d of %d: %v", len(seen), o.n, e.Object)
			}
			if _, before := seen[u.GetName()]; !before && o.wanted(e.Event, u) {
				seen[u.GetName()] = e.at
			}
		}
	}
	return seen, nil
}

// last is how long after the beginning the last of the times was.
func last(began time.Time, times map[string]time.Time) time.Duration {
	var most time.Duration
	for _, at := range times {
		most = max(most, at.Sub(began))
	}
	return most
}

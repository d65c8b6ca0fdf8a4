package kustomize

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// TestChangedGoesFirst: what changed is first in the queue, also when all that
// wait for their interval were woken as urgently once.
func TestChangedGoesFirst(t *testing.T) {
	q := priorityqueue.New[reconcile.Request]("test")
	defer q.ShutDown()
	want := errors.New("kept")
	loop := returning(reconcile.Func(func(context.Context, reconcile.Request) (reconcile.Result, error) {
		return reconcile.Result{RequeueAfter: time.Hour}, want
	}))
	key := func(i int) types.NamespacedName { return types.NamespacedName{Name: fmt.Sprint(i)} }
	const all, changed = 20, 13
	for i := range all {
		add(q, key(i), priorityChanged)
		r, priority, _ := q.GetWithPriority()
		result, err := loop.Reconcile(t.Context(), r)
		if priority != priorityChanged || result.Priority == nil || result.RequeueAfter != time.Hour || !errors.Is(err, want) {
			t.Fatalf("priority %d, %+v, %v", priority, result, err)
		}
		q.AddWithOpts(priorityqueue.AddOpts{After: result.RequeueAfter, Priority: result.Priority}, r)
		q.Done(r)
	}
	var rest []reconcile.Request
	for i := range all {
		if i != changed {
			rest = append(rest, reconcile.Request{NamespacedName: key(i)})
		}
	}
	low := priorityRecord
	q.AddWithOpts(priorityqueue.AddOpts{Priority: &low}, rest...)
	add(q, key(changed), priorityChanged)
	if first, _, _ := q.GetWithPriority(); first.NamespacedName != key(changed) {
		t.Errorf("%s is first", first)
	}
}

// TestReturningGoesLater: what comes back by itself waits behind what is asked for;
// what met an error that has nothing to do with it does not.
func TestReturningGoesLater(t *testing.T) {
	for _, c := range []struct {
		name   string
		result reconcile.Result
		err    error
		want   int
	}{
		{"after its interval or a failure", reconcile.Result{RequeueAfter: time.Second}, nil, priorityReturn},
		{"after an error", reconcile.Result{}, errors.New("conflict"), 0},
		{"not at all", reconcile.Result{}, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			loop := returning(reconcile.Func(func(context.Context, reconcile.Request) (reconcile.Result, error) { return c.result, c.err }))
			if got, err := loop.Reconcile(t.Context(), reconcile.Request{}); got.Priority == nil || *got.Priority != c.want || !errors.Is(err, c.err) {
				t.Errorf("%+v, %v, want priority %d", got, err, c.want)
			}
		})
	}
}

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
	loop := ordinary(reconcile.Func(func(context.Context, reconcile.Request) (reconcile.Result, error) {
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

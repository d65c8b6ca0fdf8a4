package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"headwater.dev/api/resource"
)

// statusChanges is how often the Kustomization changes; every second time it is repaired.
const statusChanges = 10

func status(ctx context.Context, b *bed) (_ string, err error) {
	s, err := b.subject(ctx, "status", far)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, s.remove(ctx)) }()
	w, err := s.watch(ctx, &kustomizev1.KustomizationList{})
	if err != nil {
		return "", err
	}
	defer w.Stop()
	var took []time.Duration
	for i := range statusChanges {
		d, err := s.change(ctx, w, i)
		if err != nil {
			return "", fmt.Errorf("change %d: %w", i+1, err)
		}
		took = append(took, d)
	}
	return summary(took), nil
}

// change breaks or repairs the Kustomization and returns how much later than
// the cluster the hub showed it.
func (s *subject) change(ctx context.Context, w watch.Interface, i int) (time.Duration, error) {
	ready, compliance, push := metav1.ConditionFalse, resource.NonCompliant, s.pushBroken
	if i%2 == 1 {
		ready, compliance, push = metav1.ConditionTrue, resource.Compliant, s.push
	}
	if err := push(fmt.Sprintf("change %d", i+1)); err != nil {
		return 0, err
	}
	// The hub is asked from before the change on, so that no answer is missed.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var shown time.Time
	asked := make(chan error, 1)
	go func() {
		var err error
		shown, err = s.hubSays(ctx, compliance)
		asked <- err
	}()
	if err := s.notify(ctx); err != nil {
		return 0, err
	}
	changed, err := sees(ctx, w, isReady(ready))
	if err != nil {
		return 0, err
	}
	if err := <-asked; err != nil {
		return 0, err
	}
	// Both look over a network: the hub's answer may overtake the watch.
	return max(0, shown.Sub(changed)), nil
}

// isReady recognises a Kustomization whose Ready condition has that status.
func isReady(status metav1.ConditionStatus) func(runtime.Object) bool {
	return func(o runtime.Object) bool {
		k, ok := o.(*kustomizev1.Kustomization)
		return ok && meta.IsStatusConditionPresentAndEqual(k.Status.Conditions, "Ready", status)
	}
}

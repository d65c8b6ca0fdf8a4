package apps

import (
	"context"
	"fmt"
	"maps"
	"time"

	kube "sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	never = "never" // namespace and repository
	// within is how much longer healthy ones may take beside those that never become ready.
	within = 1.1
)

// neverSpec is what the i-th Kustomization that never becomes ready adds: every
// second one waits for half an hour, the others are tried again every few seconds.
func neverSpec(i int) object {
	if waits(i) {
		return object{"interval": "60m", "timeout": "30m"}
	}
	return object{"interval": "60m", "retryInterval": "3s"}
}

// waits tells those that wait from those that the API server refuses.
func waits(i int) bool { return i%2 == 0 }

// neverManifest is a Deployment that no node will ever run, or one that the API
// server does not take: its selector finds none of its pods.
func neverManifest(i int) string {
	label := appName(i)
	if !waits(i) {
		label = "other"
	}
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[2]s}}
    spec: {containers: [{name: main, image: registry.example/none:1}]}
`, appName(i), label)
}

// starve measures n healthy applications alone, beside count that never become
// ready, and alone again: what the machine did meanwhile shows in the two that
// should be equal.
func (w *world) starve(ctx context.Context, n, count int) ([]Figure, error) {
	var took [3]time.Duration
	for i := range took {
		var err error
		if i == 1 {
			if err := w.addNever(ctx, count); err != nil {
				return nil, fmt.Errorf("those that never become ready: %w", err)
			}
		}
		if took[i], err = w.once(ctx, n); err != nil {
			return nil, err
		}
		if i == 1 {
			if err := w.stillNever(ctx, count); err != nil {
				return nil, err
			}
			if err := w.dropNamespace(ctx, never); err != nil {
				return nil, err
			}
		}
	}
	name, alone := scenario("starve", n), (took[0]+took[2])/2
	return []Figure{{name, "healthy ones alone, before", took[0].Seconds(), 0, "s"}, {name, "healthy ones alone, after", took[2].Seconds(), 0, "s"},
		{name, fmt.Sprintf("healthy ones beside %d that never become ready", count), took[1].Seconds(), within * alone.Seconds(), "s"}}, nil
}

// once installs n applications and removes them again.
func (w *world) once(ctx context.Context, n int) (time.Duration, error) {
	took, err := w.installed(ctx, n)
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(w.progress, "  %d installed in %.2f s\n", n, took.Seconds())
	if _, err := w.uninstall(ctx, n); err != nil {
		return 0, err
	}
	return took, pause(ctx, 5*time.Second)
}

// addNever makes Kustomizations that never become ready.
func (w *world) addNever(ctx context.Context, count int) error {
	files := map[string]string{}
	for i := range count {
		files[appName(i)+"/deployment.yaml"] = neverManifest(i)
	}
	if _, err := w.commit(never, files); err != nil {
		return err
	}
	if err := w.namespace(ctx, never); err != nil {
		return err
	}
	if err := w.apply(ctx, repository(never, w.git.URL(never))); err != nil {
		return err
	}
	err := each(ctx, count, func(ctx context.Context, i int) error {
		more := object{}
		maps.Copy(more, neverSpec(i))
		return w.apply(ctx, kustomization(never, appName(i), "./"+appName(i), more))
	})
	if err != nil {
		return err
	}
	return pause(ctx, 10*time.Second) // for the failing ones to have failed more than once
}

// stillNever makes sure that what was measured was what is claimed: half of them
// wait, half of them have failed.
func (w *world) stillNever(ctx context.Context, count int) error {
	all := kustomizations()
	if err := w.kube.List(ctx, all, kube.InNamespace(never)); err != nil {
		return err
	}
	states := map[string]int{}
	for i := range all.Items {
		states[condition(&all.Items[i], "Ready")]++
	}
	if states["True"] > 0 || states["False"] < count/2 || len(all.Items) != count {
		return fmt.Errorf("of %d that should never become ready there are %d: %v", count, len(all.Items), states)
	}
	fmt.Fprintf(w.progress, "  those that never become ready, by Ready: %v\n", states)
	return nil
}

package apps

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	kube "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

const (
	apps    = "apps" // namespace and repository
	rounds  = 3      // of one application changed
	drifts  = 10     // objects of each kind that are edited
	steps   = 10     // of the chain
	atRest  = time.Minute
	request = "reconcile.fluxcd.io/requestedAt"
)

// floor applies what an installation leaves behind without any loop: the five
// objects, a suspended Kustomization and one write of its status.
func (w *world) floor(ctx context.Context, n int) (time.Duration, error) {
	const namespace = "floor"
	if err := w.namespace(ctx, namespace); err != nil {
		return 0, err
	}
	var objects [][]*unstructured.Unstructured
	for i := range n {
		var own []*unstructured.Unstructured
		files := manifests(appName(i), "1")
		for _, file := range slices.Sorted(maps.Keys(files)) {
			u := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(files[file]), &u.Object); err != nil {
				return 0, fmt.Errorf("read %s: %w", file, err)
			}
			u.SetNamespace(namespace)
			own = append(own, u)
		}
		objects = append(objects, append(own, kustomization(namespace, appName(i), "./", object{"suspend": true})))
	}
	began := time.Now()
	err := each(ctx, n, func(ctx context.Context, i int) error {
		for _, u := range objects[i] {
			if err := w.apply(ctx, u); err != nil {
				return err
			}
		}
		k := objects[i][len(objects[i])-1]
		return w.kube.Status().Patch(ctx, k, kube.RawPatch("application/merge-patch+json", []byte(`{"status":{"lastAppliedRevision":"none"}}`)))
	})
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	return took, w.dropNamespace(ctx, namespace)
}

// install makes the source and n Kustomizations, and waits for all.
func (w *world) install(ctx context.Context, n int, floor float64) ([]Figure, error) {
	before, err := w.begin(ctx)
	if err != nil {
		return nil, err
	}
	took, err := w.installed(ctx, n)
	if err != nil {
		return nil, err
	}
	used, err := w.since(ctx, before)
	if err != nil {
		return nil, err
	}
	peak, err := w.peak()
	name, each := scenario("install", n), float64(n)
	return []Figure{{name, "from the first request to all ready", took.Seconds(), 1.5 * floor, "s"},
		{name, "requests of the loops for each application", used.requests / each, 14, "requests"},
		{name, "CPU of the loops for each application", 1000 * used.cpu.Seconds() / each, 20, "ms"},
		{name, "most resident memory of the loops", peak, mostMemory(n), "MiB"}}, err
}

// mostMemory of n applications, in MiB; there is no target for more than a thousand.
func mostMemory(n int) float64 {
	switch {
	case n <= 300:
		return 100
	case n <= 1000:
		return 200
	}
	return 0
}

// installed is how long installing takes.
func (w *world) installed(ctx context.Context, n int) (time.Duration, error) {
	revision, err := w.commit(apps, tree(n, nil))
	if err != nil {
		return 0, err
	}
	if err := w.namespace(ctx, apps); err != nil {
		return 0, err
	}
	o, err := w.observe(ctx, kustomizations(), apps, n, being(readyAt(revision)))
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := w.apply(ctx, repository(apps, w.git.URL(apps))); err != nil {
		return 0, err
	}
	err = each(ctx, n, func(ctx context.Context, i int) error {
		return w.apply(ctx, kustomization(apps, appName(i), "./apps/"+appName(i), nil))
	})
	if err != nil {
		return 0, err
	}
	times, err := o.all(ctx)
	return last(began, times), err
}

// change changes one application at a time, and asks for the source.
func (w *world) change(ctx context.Context, n int) ([]Figure, error) {
	var live, all time.Duration
	changed := map[int]string{}
	before, err := w.begin(ctx)
	if err != nil {
		return nil, err
	}
	for round := range rounds {
		if err := pause(ctx, 2*time.Second); err != nil { // the tail of what was before
			return nil, err
		}
		i := (n/2 + round) % n
		changed[i] = fmt.Sprintf("change-%d", round)
		a, b, err := w.changed(ctx, n, i, changed)
		if err != nil {
			return nil, fmt.Errorf("round %d: %w", round+1, err)
		}
		live, all = max(live, a), max(all, b)
	}
	used, err := w.since(ctx, before)
	name := scenario("change", n)
	return []Figure{{name, "one application changed: its ConfigMap live after the source is asked, worst of three", live.Seconds(), 1.5, "s"},
		{name, "all at the revision, worst of three", all.Seconds(), 0, "s"},
		{name, "requests of the loops for each application and commit", used.requests / rounds / float64(n), 0, "requests"}}, err
}

// changed is how long after asking the changed application was live, and all at the revision.
func (w *world) changed(ctx context.Context, n, i int, changed map[int]string) (live, all time.Duration, err error) {
	revision, err := w.commit(apps, tree(n, changed))
	if err != nil {
		return 0, 0, err
	}
	hasVersion := being(func(u *unstructured.Unstructured) bool {
		version, _, _ := unstructured.NestedString(u.Object, "data", "version")
		return u.GetName() == appName(i) && version == changed[i]
	})
	applied, err := w.observe(ctx, list("", "ConfigMap"), apps, 1, hasVersion)
	if err != nil {
		return 0, 0, err
	}
	ready, err := w.observe(ctx, kustomizations(), apps, n, being(readyAt(revision)))
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	source := repository(apps, "")
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, request, began.Format(time.RFC3339Nano))
	if err := w.kube.Patch(ctx, source, kube.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
		return 0, 0, fmt.Errorf("ask for the source: %w", err)
	}
	first, err := applied.all(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("the changed application: %w", err)
	}
	times, err := ready.all(ctx)
	return last(began, first), last(began, times), err
}

// steady leaves everything alone for more than the interval of the Kustomizations.
func (w *world) steady(ctx context.Context, n int) ([]Figure, error) {
	if err := pause(ctx, 5*time.Second); err != nil {
		return nil, err
	}
	before, err := w.begin(ctx)
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, atRest); err != nil {
		return nil, err
	}
	used, err := w.since(ctx, before)
	name := scenario("steady", n)
	return []Figure{{name, "interval one minute, nothing changes: requests of the loops", used.requests / atRest.Seconds(), 1, "requests/s"},
		{name, "the same: CPU of the loops", used.cpu.Seconds() / atRest.Seconds(), 0.02, "cores"}}, err
}

// drift deletes ConfigMaps and edits Deployments by hand, one after the other.
func (w *world) drift(ctx context.Context, n int) ([]Figure, error) {
	var deleted, edited time.Duration
	for i := range min(drifts, n) {
		config := named("", "ConfigMap", appName(i))
		took, err := w.mended(ctx, config, func(e watch.Event, u *unstructured.Unstructured) bool {
			return e.Type != watch.Deleted && u.GetUID() != config.GetUID()
		}, func() error { return w.kube.Delete(ctx, config) })
		if err != nil {
			return nil, fmt.Errorf("delete ConfigMap %s: %w", config.GetName(), err)
		}
		deleted = max(deleted, took)
		deployment := named("apps", "Deployment", appName(i))
		var generation int64 // of the edit
		took, err = w.mended(ctx, deployment, func(_ watch.Event, u *unstructured.Unstructured) bool {
			replicas, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas")
			return generation != 0 && u.GetGeneration() > generation && replicas == 0
		}, func() error {
			err := w.kube.Patch(ctx, deployment, kube.RawPatch("application/merge-patch+json", []byte(`{"spec":{"replicas":2}}`)))
			generation = deployment.GetGeneration()
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("edit Deployment %s: %w", deployment.GetName(), err)
		}
		edited = max(edited, took)
	}
	name := scenario("drift", n)
	return []Figure{{name, "ConfigMap deleted: there again, worst of ten", deleted.Seconds(), 1, "s"},
		{name, "Deployment scaled by hand: as in Git again, worst of ten", edited.Seconds(), 1, "s"}}, nil
}

func named(group, kind, name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: "v1", Kind: kind})
	u.SetNamespace(apps)
	u.SetName(name)
	return u
}

// mended is how long after an edit an object was as wanted again.
func (w *world) mended(ctx context.Context, u *unstructured.Unstructured, wanted func(watch.Event, *unstructured.Unstructured) bool, edit func() error) (time.Duration, error) {
	if err := w.kube.Get(ctx, kube.ObjectKeyFromObject(u), u); err != nil {
		return 0, err
	}
	kind := u.GroupVersionKind()
	o, err := w.observe(ctx, list(kind.Group, kind.Kind), apps, 1, func(e watch.Event, seen *unstructured.Unstructured) bool {
		return seen.GetName() == u.GetName() && wanted(e, seen)
	})
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := edit(); err != nil {
		o.watch.Stop()
		return 0, err
	}
	times, err := o.all(ctx)
	return last(began, times), err
}

// uninstall deletes all Kustomizations and the source, and waits until they have gone with their objects.
func (w *world) uninstall(ctx context.Context, n int) ([]Figure, error) {
	o, err := w.observe(ctx, kustomizations(), apps, n, func(e watch.Event, _ *unstructured.Unstructured) bool { return e.Type == watch.Deleted })
	if err != nil {
		return nil, err
	}
	began := time.Now()
	err = each(ctx, n, func(ctx context.Context, i int) error {
		return w.kube.Delete(ctx, kustomization(apps, appName(i), "", nil))
	})
	if err != nil {
		return nil, fmt.Errorf("delete Kustomizations: %w", err)
	}
	if err := w.kube.Delete(ctx, repository(apps, "")); err != nil {
		return nil, fmt.Errorf("delete the source: %w", err)
	}
	times, err := o.all(ctx)
	if err != nil {
		return nil, err
	}
	left := list("apps", "Deployment")
	if err := w.kube.List(ctx, left, kube.InNamespace(apps)); err != nil {
		return nil, err
	}
	if len(left.Items) > 0 {
		return nil, fmt.Errorf("%d Deployments were left behind", len(left.Items))
	}
	return []Figure{{scenario("uninstall", n), "from the first request to the last Kustomization gone with its objects", last(began, times).Seconds(), mostUninstall(n), "s"}}, nil
}

// mostUninstall has a target up to 300 applications.
func mostUninstall(n int) float64 {
	if n <= 300 {
		return 5
	}
	return 0
}

// chain makes Kustomizations of which each depends on the one before.
func (w *world) chain(ctx context.Context) (time.Duration, error) {
	const namespace = "chain"
	files := map[string]string{}
	for i := range steps {
		files[appName(i)+"/config.yaml"] = fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\n", appName(i))
	}
	revision, err := w.commit(namespace, files)
	if err != nil {
		return 0, err
	}
	if err := w.namespace(ctx, namespace); err != nil {
		return 0, err
	}
	o, err := w.observe(ctx, kustomizations(), namespace, steps, being(readyAt(revision)))
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := w.apply(ctx, repository(namespace, w.git.URL(namespace))); err != nil {
		return 0, err
	}
	for i := range steps {
		more := object{}
		if i > 0 {
			more["dependsOn"] = []any{object{"name": appName(i - 1)}}
		}
		if err := w.apply(ctx, kustomization(namespace, appName(i), "./"+appName(i), more)); err != nil {
			return 0, err
		}
	}
	times, err := o.all(ctx)
	if err != nil {
		return 0, err
	}
	return last(began, times), w.dropNamespace(ctx, namespace)
}

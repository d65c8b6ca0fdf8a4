package helm

import (
	"context"
	"fmt"
	"slices"
	"sync"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"headwater.dev/kernel/tenant"
)

// watches follow the objects of releases that are not known to be healthy yet,
// as the tenant, and wake the HelmRelease when one changes. A healthy release
// costs no watch.
type watches struct {
	// ctx ends all watches.
	ctx context.Context
	// wake takes HelmReleases to reconcile.
	wake chan event.GenericEvent

	mu sync.Mutex
	m  map[types.NamespacedName]*watch
}

func newWatches(ctx context.Context) *watches {
	return &watches{ctx: ctx, wake: make(chan event.GenericEvent), m: map[types.NamespacedName]*watch{}}
}

// watch follows the objects of one revision.
type watch struct {
	revision string
	stop     context.CancelFunc
	stores   map[place]cache.SharedIndexInformer

	mu      sync.Mutex
	failure map[place]error
}

// place is a kind in a namespace; empty for cluster-scoped kinds.
type place struct {
	gvr schema.GroupVersionResource
	ns  string
}

// follow watches the objects of a revision, unless it does so already.
func (w *watches) follow(hr *v2.HelmRelease, revision string, access *tenant.Access, objs []*unstructured.Unstructured) (*watch, error) {
	key := keyOf(hr)
	w.mu.Lock()
	defer w.mu.Unlock()
	if old, ok := w.m[key]; ok {
		if old.revision == revision {
			return old, nil
		}
		old.stop()
		delete(w.m, key)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	n := &watch{revision: revision, stop: cancel, stores: map[place]cache.SharedIndexInformer{}, failure: map[place]error{}}
	selector := labels.SelectorFromSet(labels.Set{labelName: hr.Name, labelNS: hr.Namespace}).String()
	for _, o := range objs {
		p, err := placeOf(access.Mapper, o)
		if err != nil {
			cancel()
			return nil, err
		}
		if _, ok := n.stores[p]; ok {
			continue
		}
		inf := dynamicinformer.NewFilteredDynamicInformer(access.Dynamic, p.gvr, p.ns, 0, cache.Indexers{},
			func(o *metav1.ListOptions) { o.LabelSelector = selector }).Informer()
		if err := n.start(ctx, p, inf, func() { w.notify(ctx, key) }); err != nil {
			cancel()
			return nil, fmt.Errorf("watch %s in %q: %w", p.gvr.Resource, p.ns, err)
		}
	}
	w.m[key] = n
	return n, nil
}

func (n *watch) start(ctx context.Context, p place, inf cache.SharedIndexInformer, notify func()) error {
	if err := inf.SetTransform(stripManagedFields); err != nil {
		return err
	}
	err := inf.SetWatchErrorHandler(func(_ *cache.Reflector, err error) {
		n.mu.Lock()
		n.failure[p] = err
		n.mu.Unlock()
		notify()
	})
	if err != nil {
		return err
	}
	_, err = inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { notify() },
		UpdateFunc: func(any, any) { notify() },
		DeleteFunc: func(any) { notify() },
	})
	if err != nil {
		return err
	}
	n.stores[p] = inf
	go inf.RunWithContext(ctx)
	return nil
}

func (w *watches) notify(ctx context.Context, key types.NamespacedName) {
	hr := &v2.HelmRelease{}
	hr.Namespace, hr.Name = key.Namespace, key.Name
	select {
	case w.wake <- event.GenericEvent{Object: hr}:
	case <-ctx.Done():
	}
}

// drop ends the watch of a release.
func (w *watches) drop(key types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if old, ok := w.m[key]; ok {
		old.stop()
		delete(w.m, key)
	}
}

// live returns the object as last seen. It is nil without an error while the
// object is absent or nothing has been seen yet.
func (n *watch) live(mapper meta.RESTMapper, o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	p, err := placeOf(mapper, o)
	if err != nil {
		return nil, err
	}
	inf, ok := n.stores[p]
	if !ok {
		return nil, nil
	}
	key := o.GetName()
	if p.ns != "" {
		key = p.ns + "/" + key
	}
	got, ok, err := inf.GetStore().GetByKey(key)
	if err != nil {
		return nil, err
	}
	if !ok {
		n.mu.Lock()
		defer n.mu.Unlock()
		return nil, n.failure[p]
	}
	u, ok := got.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("unexpected object %T in store", got)
	}
	return u.DeepCopy(), nil
}

// synced reports whether everything has been seen once.
func (n *watch) synced() bool {
	for _, inf := range n.stores {
		if !inf.HasSynced() {
			return false
		}
	}
	return true
}

// stripManagedFields saves the memory of what nobody here reads.
func stripManagedFields(o any) (any, error) {
	if u, ok := o.(*unstructured.Unstructured); ok {
		u.SetManagedFields(nil)
	}
	return o, nil
}

func placeOf(mapper meta.RESTMapper, o *unstructured.Unstructured) (place, error) {
	gvk := o.GroupVersionKind()
	m, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return place{}, fmt.Errorf("find kind of %s: %w", describeObject(o), err)
	}
	if m.Scope.Name() == meta.RESTScopeNameRoot {
		return place{gvr: m.Resource}, nil
	}
	return place{gvr: m.Resource, ns: o.GetNamespace()}, nil
}

func describeObject(o *unstructured.Unstructured) string {
	if o.GetNamespace() == "" {
		return o.GetKind() + "/" + o.GetName()
	}
	return o.GetKind() + "/" + o.GetNamespace() + "/" + o.GetName()
}

func sorted(lines []string) []string {
	slices.Sort(lines)
	return lines
}

// Package mirror carries configurations from the hub into the cluster and
// their state back: what is desired becomes FluxConfig objects, what the
// controller finds of them becomes observations. It is the only package that
// speaks both the hub's and the cluster's language.
//
// Guarantees:
//   - A FluxConfig is what the hub wants or on its way there: edits and
//     deletions by others are undone.
//   - Nothing is deleted because it is absent from what is desired.
//   - An observation is a function of the item, of the FluxConfig and of the
//     last failure; it is reported when it has changed.
package mirror

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel/trace"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"headwater.dev/api/config"
	"headwater.dev/api/link"
)

// lookEvery is after what time the Secret of an item that has not changed is looked
// at again, with the next message of the hub.
const lookEvery = 5 * time.Minute

// workers that write to the cluster. They never wait, so few are enough.
const workers = 4

// Settings keeps the protected settings of configurations in Secrets.
type Settings interface {
	// Keep makes the Secret hold a version, or removes it for version "".
	Keep(ctx context.Context, namespace, name, version string, sealed []byte) error
}

// Config is what a Mirror needs.
type Config struct {
	REST     *rest.Config
	Settings Settings
	Guard    Guard
	// Report takes observations; it must not block.
	Report func(link.Observed)
	// Now is the clock of acceptance and status times.
	Now func() time.Time
	// Tracer takes the spans of writes; nil for none.
	Tracer trace.Tracer
	Log    logr.Logger
}

// Mirror is the loop over configurations.
type Mirror struct {
	config Config
	kube   kubernetes.Interface
	api    *api
	queue  workqueue.TypedRateLimitingInterface[string]

	mu sync.Mutex
	// cache of all FluxConfigs; replaced when the kind was away.
	cache cache.SharedIndexInformer
	// desired by folded ARM id.
	desired map[string]link.Item
	// recheck marks items whose Secret is looked at again; looked is when it last was.
	recheck map[string]bool
	looked  map[string]time.Time
	// reported is the last observation of each item.
	reported map[string]link.Observed
	// written are the spans of writes that were not reported yet.
	written map[string]string
}

// New prepares a Mirror; it makes no request.
func New(c Config) (*Mirror, error) {
	if c.REST == nil || c.Settings == nil || c.Report == nil || c.Now == nil {
		return nil, errors.New("a mirror needs a cluster, a keeper of settings, a receiver of reports and a clock")
	}
	kube, err := kubernetes.NewForConfig(c.REST)
	if err != nil {
		return nil, err
	}
	api, err := newAPI(c.REST)
	if err != nil {
		return nil, err
	}
	m := &Mirror{
		config: c, kube: kube, api: api,
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](500*time.Millisecond, time.Minute)),
		desired: map[string]link.Item{}, recheck: map[string]bool{}, looked: map[string]time.Time{}, reported: map[string]link.Observed{}, written: map[string]string{},
	}
	m.cache = m.newInformer()
	return m, nil
}

func (m *Mirror) newInformer() cache.SharedIndexInformer {
	return cache.NewSharedIndexInformer(m.api.listWatch(), &config.FluxConfig{}, 0, cache.Indexers{})
}

// informer is the present cache.
func (m *Mirror) informer() cache.SharedIndexInformer {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cache
}

// Desired takes all configurations that the hub wants. It does not block.
func (m *Mirror) Desired(items []link.Item) {
	m.mu.Lock()
	defer m.mu.Unlock()
	wanted := map[string]link.Item{}
	for _, item := range items {
		if item.Configuration == nil && !item.Delete {
			continue
		}
		wanted[fold(item.ID)] = item
	}
	for key := range m.desired {
		if _, ok := wanted[key]; !ok {
			delete(m.reported, key)
			delete(m.written, key)
			delete(m.recheck, key)
			delete(m.looked, key)
		}
	}
	was := m.desired
	m.desired = wanted
	now := m.config.Now()
	for _, key := range slices.Sorted(maps.Keys(wanted)) {
		if changedItem(was[key], wanted[key]) || now.Sub(m.looked[key]).Abs() >= lookEvery {
			m.recheck[key] = true
		}
		m.queue.Add(key)
	}
}

// changedItem says whether the hub asks for something else of an item. What it
// says of others, which comes in the same message, is no reason to read Secrets.
func changedItem(was, is link.Item) bool {
	return was.ID != is.ID || was.Generation != is.Generation || was.OperationID != is.OperationID || was.Delete != is.Delete ||
		was.ProtectedVersion != is.ProtectedVersion || len(was.Sealed) == 0 && len(is.Sealed) > 0
}

// Run mirrors until ctx ends. Before the kind FluxConfig exists, only
// deletions are done; the rest waits for it.
func (m *Mirror) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() {
		for m.api.waitForKind(ctx) == nil {
			if err := m.follow(ctx); err != nil {
				m.config.Log.Error(err, "FluxConfigs are not followed")
				return
			}
		}
	})
	for range workers {
		running.Go(func() { m.work(ctx) })
	}
	<-ctx.Done()
	m.queue.ShutDown()
	return nil
}

// follow keeps the cache until ctx ends or the kind is gone, as when the extension
// is removed. An informer would then wait longer and longer between looks, and
// find out late that the kind is back.
func (m *Mirror) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	informer := m.newInformer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    m.changed,
		UpdateFunc: func(_, now any) { m.changed(now) },
		DeleteFunc: m.changed,
	}); err != nil {
		return err
	}
	if err := informer.SetTransform(dropManagedFields); err != nil {
		return err
	}
	if err := informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
		cache.DefaultWatchErrorHandler(ctx, r, err)
		if apierrors.IsNotFound(err) {
			cancel()
		}
	}); err != nil {
		return err
	}
	m.mu.Lock()
	m.cache = informer
	m.mu.Unlock()
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { informer.Run(ctx.Done()) })
	if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		m.wakeAll()
	}
	<-ctx.Done()
	return nil
}

func dropManagedFields(o any) (any, error) {
	if fc, ok := o.(*config.FluxConfig); ok {
		fc.ManagedFields = nil
	}
	return o, nil
}

// wakeAll looks at every item again.
func (m *Mirror) wakeAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key := range m.desired {
		m.queue.Forget(key)
		m.queue.Add(key)
	}
}

// changed wakes the item whose FluxConfig has changed. Names decide, so that
// an object whose annotations were taken away is found too.
func (m *Mirror) changed(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	fc, ok := o.(*config.FluxConfig)
	if !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if key := fold(fc.Annotations[config.AnnotationResourceID]); m.desired[key].ID != "" {
		m.queue.Add(key)
	}
	for key, item := range m.desired {
		if item.Configuration != nil && item.Name == fc.Name && item.Configuration.Namespace == fc.Namespace {
			m.queue.Add(key)
		}
	}
}

func (m *Mirror) work(ctx context.Context) {
	for {
		key, stop := m.queue.Get()
		if stop {
			return
		}
		again := m.reconcile(ctx, key)
		switch {
		case again == 0:
			m.queue.Forget(key)
		case again > 0:
			m.queue.AddAfter(key, again)
		default:
			m.queue.AddRateLimited(key)
		}
		m.queue.Done(key)
	}
}

// item returns what is desired under a key, and whether to look at its Secret.
func (m *Mirror) item(key string) (item link.Item, recheck, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	item, ok = m.desired[key]
	return item, m.recheck[key], ok
}

// rechecked notes that an item's Secret is as it should be.
func (m *Mirror) rechecked(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.recheck, key)
	m.looked[key] = m.config.Now()
}

// fold makes ARM ids comparable.
func fold(id string) string { return strings.ToLower(id) }

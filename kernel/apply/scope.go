package apply

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"headwater.dev/kernel/tenant"
)

// family is a kind as one tenant sees it: watched as a whole or by namespace.
type family struct {
	identity tenant.Identity
	// owners is the namespace of the owners, by which objects are selected.
	owners string
	gvk    schema.GroupVersionKind
}

// scopeKey is one watch. An empty namespace is the whole cluster; a name is an
// object that somebody waits for, whatever its labels.
type scopeKey struct {
	family
	namespace, name string
}

// scope is a watch and what it knows. Its fields are guarded by the Watcher.
type scope struct {
	key    scopeKey
	access *tenant.Access
	users  map[types.NamespacedName]bool
	live   map[ID]Live
	// synced: listed once. blind: the tenant may not, or the watch is broken.
	synced, blind bool
	// at is the version that the watch has got to.
	at    string
	since time.Time
	// failing is since when the watch has been broken; zero while it is not.
	failing time.Time
	cancel  context.CancelFunc
}

// reached notes how far a watch has got.
func (s *scope) reached(version string) {
	if version != "" && !olderThan(version, s.at) {
		s.at = version
	}
}

// judges are the owners whose rules are asked about an object with an owner's
// labels: those that may ask for its health.
func (s *scope) judges(label types.NamespacedName) []types.NamespacedName {
	if s.key.name != "" {
		return slices.Collect(maps.Keys(s.users))
	}
	if s.users[label] {
		return []types.NamespacedName{label}
	}
	return nil
}

// kind is a family that is watched by labels.
type kind struct {
	scopes int
	// narrow: by namespace, since the tenant may not see the whole cluster.
	narrow bool
}

func (w *Watcher) keyOf(t Tenant, ref Ref) scopeKey {
	k := scopeKey{family: family{identity: t.Identity, owners: t.Owner.Namespace, gvk: ref.GVK()}}
	if w.kinds[k.family].narrow {
		k.namespace = ref.Namespace
	}
	return k
}

func namedKey(t Tenant, ref Ref) scopeKey {
	return scopeKey{
		family:    family{identity: t.Identity, owners: t.Owner.Namespace, gvk: ref.GVK()},
		namespace: ref.Namespace, name: ref.Name,
	}
}

func (w *Watcher) join(owner types.NamespacedName, t *tracked, key scopeKey) {
	s := w.scopes[key]
	if s == nil {
		s = &scope{key: key, access: t.tenant.Access, users: map[types.NamespacedName]bool{}, live: map[ID]Live{}, since: w.now()}
		w.scopes[key] = s
		w.count(key, 1)
		if w.base != nil {
			w.launch(s)
		}
	}
	s.users[owner] = true
}

func (w *Watcher) leave(owner types.NamespacedName, key scopeKey) {
	s := w.scopes[key]
	if s == nil {
		return
	}
	delete(s.users, owner)
	if len(s.users) > 0 {
		return
	}
	delete(w.scopes, key)
	w.count(key, -1)
	if s.cancel != nil {
		s.cancel()
	}
}

// count keeps what is known of a kind for as long as it is watched: tenants come
// and go, and what they may see changes.
func (w *Watcher) count(key scopeKey, n int) {
	if key.name != "" {
		return
	}
	k := w.kinds[key.family]
	k.scopes += n
	w.kinds[key.family] = k
	if k.scopes == 0 {
		delete(w.kinds, key.family)
	}
}

func (w *Watcher) launch(s *scope) {
	if s.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(w.base)
	s.cancel = cancel
	go w.watch(ctx, s)
}

// watch finds the resource, which may have to be defined first, and follows it.
func (w *Watcher) watch(ctx context.Context, s *scope) {
	wait := 500 * time.Millisecond
	for {
		m, err := s.access.Mapper.RESTMapping(s.key.gvk.GroupKind(), s.key.gvk.Version)
		if err == nil {
			quiet := logr.Discard()
			cache.NewReflectorWithOptions(w.listWatch(s, m), nil, &store{w: w, s: s}, cache.ReflectorOptions{
				Name: s.key.gvk.Kind, Logger: &quiet,
			}).RunWithContext(klog.NewContext(ctx, quiet))
			return
		}
		w.blinded(s)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
			wait = min(2*wait, 10*time.Second)
		}
	}
}

func (w *Watcher) listWatch(s *scope, m *meta.RESTMapping) *cache.ListWatch {
	options := func(o *metav1.ListOptions) {
		if s.key.name != "" {
			o.FieldSelector = "metadata.name=" + s.key.name
			return
		}
		o.LabelSelector = w.group + "/" + labelName + "," + w.group + "/" + labelNamespace + "=" + s.key.owners
	}
	list := func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return s.access.Dynamic.Resource(m.Resource).Namespace(s.key.namespace).List(ctx, o)
	}
	follow := func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		return s.access.Dynamic.Resource(m.Resource).Namespace(s.key.namespace).Watch(ctx, o)
	}
	if Plain(s.key.gvk.GroupKind()) {
		list = func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return s.access.Metadata.Resource(m.Resource).Namespace(s.key.namespace).List(ctx, o)
		}
		follow = func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return s.access.Metadata.Resource(m.Resource).Namespace(s.key.namespace).Watch(ctx, o)
		}
	}
	namespaced := m.Scope.Name() == meta.RESTScopeNameNamespace
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			options(&o)
			got, err := list(ctx, o)
			return got, w.judgeError(s, namespaced, err)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			options(&o)
			got, err := follow(ctx, o)
			if err == nil && o.SendInitialEvents == nil { // else a list comes first, and may fail
				w.recovered(s)
			}
			return got, w.judgeError(s, namespaced, err)
		},
	}
}

// patienceWithWatch is how long a watch may be broken before what it told last
// counts for nothing.
const patienceWithWatch = time.Minute

// judgeError looks at why a list or a watch failed.
func (w *Watcher) judgeError(s *scope, namespaced bool, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	w.waking(func() []types.NamespacedName { return w.failed(s, namespaced, err) })
	return err
}

// failed goes from the whole cluster to namespaces when the tenant may not see
// the whole, and marks the scope as blind when that is not the way out, or the
// watch has been broken for long: its owners ask the API server then, and say
// what it says. A server that is too busy for us is left to its work.
func (w *Watcher) failed(s *scope, namespaced bool, err error) []types.NamespacedName {
	refused := apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) || apierrors.IsUnauthorized(err)
	switch {
	case w.scopes[s.key] != s || apierrors.IsTooManyRequests(err):
		return nil
	case namespaced && s.key.name == "" && s.key.namespace == "" && apierrors.IsForbidden(err):
		k := w.kinds[s.key.family]
		k.narrow = true
		w.kinds[s.key.family] = k
		for owner := range s.users {
			if t := w.owners[owner]; t != nil {
				w.retarget(owner, t)
			}
		}
		return nil
	case refused:
		return w.blind(s)
	case s.failing.IsZero():
		s.failing = w.now()
	}
	if w.now().Sub(s.failing) < patienceWithWatch {
		return nil
	}
	return w.blind(s)
}

// recovered notes that a watch works, and wakes those who had to do without.
func (w *Watcher) recovered(s *scope) {
	w.waking(func() []types.NamespacedName { return w.works(s) })
}

func (w *Watcher) works(s *scope) []types.NamespacedName {
	lost := s.blind && !s.failing.IsZero()
	s.failing = time.Time{}
	if !lost {
		return nil
	}
	s.blind = false
	return slices.Collect(maps.Keys(s.users))
}

// blinded marks a scope as not to be seen for now: its kind is not served.
func (w *Watcher) blinded(s *scope) {
	w.waking(func() []types.NamespacedName { return w.blind(s) })
}

func (w *Watcher) blind(s *scope) []types.NamespacedName {
	if s.blind {
		return nil
	}
	s.blind = true
	return slices.Collect(maps.Keys(s.users))
}

// store is where a reflector puts what it sees.
type store struct {
	w *Watcher
	s *scope
}

func (t *store) Add(obj any) error    { return t.take(obj) }
func (t *store) Update(obj any) error { return t.take(obj) }
func (t *store) Resync() error        { return nil }

func (t *store) take(obj any) error {
	o, full, err := split(obj)
	if err != nil {
		return err
	}
	t.w.changed(t.s, t.id(o), o, full)
	return nil
}

func (t *store) Delete(obj any) error {
	o, _, err := split(obj)
	if err != nil {
		return err
	}
	t.w.gone(t.s, t.id(o), o.GetResourceVersion())
	return nil
}

// Replace implements cache.ReflectorStore: a fresh list.
func (t *store) Replace(list []any, version string) error {
	listed := make(map[ID]bool, len(list))
	for _, obj := range list {
		o, full, err := split(obj)
		if err != nil {
			return err
		}
		id := t.id(o)
		listed[id] = true
		t.w.changed(t.s, id, o, full)
	}
	for _, id := range t.w.unlisted(t.s, listed) {
		t.w.gone(t.s, id, version)
	}
	t.w.listed(t.s, version)
	return nil
}

func (t *store) id(o metav1.Object) ID {
	return ID{Namespace: o.GetNamespace(), Name: o.GetName(), GroupKind: t.s.key.gvk.GroupKind()}
}

func split(obj any) (metav1.Object, *unstructured.Unstructured, error) {
	switch o := obj.(type) {
	case *unstructured.Unstructured:
		return o, o, nil
	case *metav1.PartialObjectMetadata:
		return o, nil, nil
	}
	return nil, nil, fmt.Errorf("unexpected object of type %T", obj)
}

func (w *Watcher) unlisted(s *scope, listed map[ID]bool) []ID {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []ID
	for id := range s.live {
		if !listed[id] {
			out = append(out, id)
		}
	}
	return out
}

// listed wakes everybody who waits for the first list.
func (w *Watcher) listed(s *scope, version string) {
	w.waking(func() []types.NamespacedName {
		s.reached(version)
		wake := w.works(s)
		if !s.synced {
			wake = slices.Collect(maps.Keys(s.users))
		}
		s.synced, s.blind = true, false
		return wake
	})
}

package apply

import (
	"context"
	"maps"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Watcher knows the live state of the objects that owners have applied or wait
// for. It watches as the tenants: one watch for an identity and kind, over the
// whole cluster where the tenant may, else one for each namespace in use. It
// keeps a few words of each object and wakes an owner when the health of one
// of its objects changes or somebody else changes it.
//
// What it knows only saves requests: an empty Watcher is always right.
type Watcher struct {
	manager, group string
	// predecessors are beginnings of the names of managers that are taken over.
	predecessors []string
	wake         func(types.NamespacedName)
	now          func() time.Time

	mu     sync.Mutex
	base   context.Context
	owners map[types.NamespacedName]*tracked
	scopes map[scopeKey]*scope
	// kinds counts the watches by labels, and says of which kinds a tenant may not
	// see the whole cluster.
	kinds map[family]kind
}

// tracked is what is known about one owner.
type tracked struct {
	tenant   Tenant
	refs     map[ID]Ref // own objects, which carry the owner's labels
	others   map[ID]Ref // objects that the owner waits for
	judge    Judge
	versions bool
	scopes   map[scopeKey]bool
	receipts map[ID]receipt
	fights   map[ID]*corrections
	unkept   bool // a receipt changed by itself since Receipts gave them
}

// receipt is how we left an object.
type receipt struct {
	want   string // digest of the object applied
	fields string
	uid    types.UID
	// creates marks an object that is left alone once it exists.
	creates bool
	// ends marks a Job that is deleted by its own wish when it is done, and
	// ended that this has happened.
	ends, ended bool
}

// holds reports whether an object is still as it was left, and was to be so.
func (r receipt) holds(want string, l Live) bool {
	if r.want == want && (r.ended && !l.Exists || r.ends && l.Succeeded && r.uid == l.UID) {
		return true
	}
	if r.want != want || !l.Exists || l.Deleting || r.uid != l.UID {
		return false
	}
	return r.creates || (r.fields == l.Fields && !l.Left)
}

// NewWatcher returns a Watcher for the objects of a field manager, whose owner
// labels are in group. It calls wake, which must not block, from its own
// goroutines.
func NewWatcher(manager, group string, wake func(types.NamespacedName)) *Watcher {
	return &Watcher{
		manager: manager, group: group, wake: wake, now: time.Now,
		predecessors: []string{"kubectl", "before-first-apply"},
		owners:       map[types.NamespacedName]*tracked{}, scopes: map[scopeKey]*scope{}, kinds: map[family]kind{},
	}
}

// Override names further managers, by the beginning of their names, whose
// fields are taken over. It is to be called before Start.
func (w *Watcher) Override(managers ...string) { w.predecessors = append(w.predecessors, managers...) }

// Start lets the watches run until the context ends.
func (w *Watcher) Start(ctx context.Context) error {
	w.mu.Lock()
	w.base = ctx
	for _, s := range w.scopes {
		w.launch(s)
	}
	w.mu.Unlock()
	<-ctx.Done()
	return nil
}

// Interest is what an owner wants watched.
type Interest struct {
	Tenant
	// Objects carry the owner's labels; Others are looked up by name.
	Objects, Others []Ref
	Judge           Judge
	// Versions wakes the owner at any change of Others, not only when their
	// health changes.
	Versions bool
}

// Track replaces what is watched for an owner.
func (w *Watcher) Track(i Interest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.owners[i.Owner]
	if t == nil {
		t = &tracked{receipts: map[ID]receipt{}, fights: map[ID]*corrections{}}
		w.owners[i.Owner] = t
	}
	if t.tenant.Identity != i.Identity {
		clear(t.receipts)
	}
	t.tenant, t.judge, t.versions = i.Tenant, i.Judge.since(t.judge), i.Versions
	t.refs, t.others = byID(i.Objects), byID(i.Others)
	maps.DeleteFunc(t.receipts, func(id ID, _ receipt) bool { _, ok := t.refs[id]; return !ok })
	maps.DeleteFunc(t.fights, func(id ID, _ *corrections) bool { _, ok := t.refs[id]; return !ok })
	w.retarget(i.Owner, t)
}

func byID(refs []Ref) map[ID]Ref {
	out := make(map[ID]Ref, len(refs))
	for _, r := range refs {
		out[r.ID] = r
	}
	return out
}

// Forget ends all watching for an owner.
func (w *Watcher) Forget(owner types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.owners[owner]
	if t == nil {
		return
	}
	delete(w.owners, owner)
	for key := range t.scopes {
		w.leave(owner, key)
	}
}

// retarget joins and leaves watches so that they cover what t tracks.
func (w *Watcher) retarget(owner types.NamespacedName, t *tracked) {
	need := map[scopeKey]bool{}
	for _, ref := range t.refs {
		need[w.keyOf(t.tenant, ref)] = true
	}
	for _, ref := range t.others {
		need[namedKey(t.tenant, ref)] = true
	}
	for key := range need { // first, so that what is known of the kind stays
		w.join(owner, t, key)
	}
	for key := range t.scopes {
		if !need[key] {
			w.leave(owner, key)
		}
	}
	t.scopes = need
}

// firstList bounds how long the first list of a kind is waited for. One whose
// conversion webhook is down, say, is never listed; the apply says so.
const firstList = 15 * time.Second

// Synced reports whether everything tracked for an owner has been listed once,
// may not be, or takes too long.
func (w *Watcher) Synced(owner types.NamespacedName) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.owners[owner]
	if t == nil {
		return false
	}
	for key := range t.scopes {
		if s := w.scopes[key]; s != nil && !s.synced && !s.blind && w.now().Sub(s.since) < firstList {
			return false
		}
	}
	return true
}

// Blind lists the tracked objects that the tenant may not watch.
func (w *Watcher) Blind(owner types.NamespacedName) []Ref {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.owners[owner]
	if t == nil {
		return nil
	}
	var out []Ref
	for _, ref := range t.refs {
		if s := w.scopes[w.keyOf(t.tenant, ref)]; s == nil || s.blind {
			out = append(out, ref)
		}
	}
	for _, ref := range t.others {
		if s := w.scopes[namedKey(t.tenant, ref)]; s == nil || s.blind {
			out = append(out, ref)
		}
	}
	Stages{}.sort(out)
	return out
}

// Lost gives a tracked object whose watch has been broken for long: where nobody
// answers, one request shows it as well as a thousand.
func (w *Watcher) Lost(owner types.NamespacedName) (Ref, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.owners[owner]
	if t == nil {
		return Ref{}, false
	}
	for key := range t.scopes {
		if s := w.scopes[key]; s == nil || !s.blind || s.failing.IsZero() {
			continue
		}
		for _, refs := range []map[ID]Ref{t.refs, t.others} {
			for _, ref := range refs {
				if key == w.keyOf(t.tenant, ref) || key == namedKey(t.tenant, ref) {
					return ref, true
				}
			}
		}
	}
	return Ref{}, false
}

// Live gives what is known of an object; known is false when it is not watched
// (yet). An object known not to exist is the zero Live.
func (w *Watcher) Live(t Tenant, ref Ref) (l Live, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l, s := w.find(t, ref)
	return l, s != nil && !s.blind && (s.synced || l.Exists)
}

// find looks where the owner is woken from: an owner that waits for the object
// by its name in the watch by name, which sees objects without the labels too,
// and any other in that by labels. In the other one it might find what is over,
// and would not be told so.
func (w *Watcher) find(t Tenant, ref Ref) (Live, *scope) {
	o, s := w.owners[t.Owner], w.scopes[w.keyOf(t, ref)]
	if o != nil {
		if _, waits := o.others[ref.ID]; waits {
			if named := w.scopes[namedKey(t, ref)]; s == nil || named != nil && named.synced && !named.blind {
				s = named
			}
		}
	}
	if s == nil {
		return Live{}, nil
	}
	return s.live[ref.ID].seenBy(t.Owner, o, ref.GroupKind), s
}

func (w *Watcher) receipt(owner types.NamespacedName, id ID) receipt {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.owners[owner]; t != nil {
		return t.receipts[id]
	}
	return receipt{}
}

func (w *Watcher) setReceipt(owner types.NamespacedName, id ID, r receipt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.owners[owner]; t != nil {
		t.receipts[id] = r
	}
}

// Undisturbed reports whether every tracked object of an owner is known to be
// as it was left.
func (w *Watcher) Undisturbed(owner types.NamespacedName) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.owners[owner]
	if t == nil {
		return false
	}
	for id, ref := range t.refs {
		l, s := w.find(t.tenant, ref)
		if s == nil || !s.synced || s.blind {
			return false
		}
		if l.Alone() || l.Exists && l.Owner != owner {
			continue // not ours to mend
		}
		if r, ok := t.receipts[id]; !ok || !r.holds(r.want, l) {
			return false
		}
	}
	return true
}

// concerned lists the owners that track an object in a scope.
func (w *Watcher) concerned(s *scope, id ID, label types.NamespacedName) []types.NamespacedName {
	if s.key.name == "" {
		if t := w.owners[label]; t != nil && s.users[label] {
			if _, ok := t.refs[id]; ok {
				return []types.NamespacedName{label}
			}
		}
		return nil
	}
	var out []types.NamespacedName
	for owner := range s.users {
		if w.owners[owner] != nil {
			out = append(out, owner)
		}
	}
	return out
}

// matters reports whether a change is worth a look of an owner. A version that
// its own rule has not told about is.
func (w *Watcher) matters(owner types.NamespacedName, id ID, old, l Live) bool {
	t := w.owners[owner]
	old, l = old.seenBy(owner, t, id.GroupKind), l.seenBy(owner, t, id.GroupKind)
	if l.Unjudged && old.ResourceVersion != l.ResourceVersion {
		return true
	}
	if old.Health != l.Health || old.Exists != l.Exists || old.Deleting != l.Deleting || !maps.Equal(old.Steering, l.Steering) {
		return true
	}
	if c := t.fights[id]; c != nil && w.now().Before(c.until) {
		return false // it is looked at again then
	}
	if _, other := t.others[id]; other && t.versions && old.ResourceVersion != l.ResourceVersion {
		return true
	}
	r, ok := t.receipts[id]
	return ok && !r.holds(r.want, l)
}

package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Health of an object, as kstatus computes it.
type Health = status.Status

// Healths.
const (
	Current     = status.CurrentStatus
	InProgress  = status.InProgressStatus
	Failed      = status.FailedStatus
	Terminating = status.TerminatingStatus
	NotFound    = status.NotFoundStatus
	Unknown     = status.UnknownStatus
)

// Live is what is kept of an object in the cluster.
type Live struct {
	Exists          bool
	UID             types.UID
	ResourceVersion string
	Deleting        bool
	// Owner by its labels.
	Owner types.NamespacedName
	// Fields is a digest of the set of fields that our manager owns and of when
	// it wrote them: it changes when somebody else writes one of them, or we do.
	Fields string
	// Left is set while fields belong to a manager that we take over from.
	Left bool
	// Others are the other managers of fields outside the status, last writer
	// first.
	Others []string
	// Steering holds the object's annotations and labels of our group that
	// steer the engine, by their short names.
	Steering map[string]string
	Health   Health
	Message  string
	// Unjudged is set while the owner's own rule has not told about this version:
	// it is to be read.
	Unjudged bool
	// Succeeded is set of a Job that has completed.
	Succeeded bool

	// verdicts of owners that have a rule for the kind; for all others, Health
	// is that of kstatus.
	verdicts map[types.NamespacedName]verdict
}

// verdict of an owner's rule on one version of an object. One that is not decided
// only says why.
type verdict struct {
	rule    string
	health  Health
	message string
	decided bool
}

// liveOf reduces an object; full is nil when only its metadata is known.
func (w *Watcher) liveOf(o metav1.Object, full *unstructured.Unstructured) Live {
	l := Live{
		Exists: true, UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(),
		Deleting: o.GetDeletionTimestamp() != nil,
		Owner:    w.ownerOf(o),
	}
	for _, key := range steering() {
		value, ok := o.GetAnnotations()[w.group+"/"+key]
		if !ok {
			value, ok = o.GetLabels()[w.group+"/"+key]
		}
		if !ok {
			continue
		}
		if l.Steering == nil {
			l.Steering = map[string]string{}
		}
		l.Steering[key] = value
	}
	w.managers(&l, o.GetManagedFields())
	if l.steers(keySSA, ssaMerge) {
		l.Left = false
	}
	l.Health, l.Message = health(full, l.Deleting)
	l.Succeeded = full != nil && isJob(full.GroupVersionKind().GroupKind()) && succeeded(full)
	return l
}

func (w *Watcher) managers(l *Live, entries []metav1.ManagedFieldsEntry) {
	slices.SortStableFunc(entries, func(a, b metav1.ManagedFieldsEntry) int {
		if a.Time == nil || b.Time == nil {
			return 0
		}
		return b.Time.Compare(a.Time.Time)
	})
	for _, f := range entries {
		if f.Subresource == "status" {
			continue
		}
		if f.Manager == w.manager && f.Operation == metav1.ManagedFieldsOperationApply {
			if f.FieldsV1 != nil {
				l.Fields = digestFields(f.FieldsV1.GetRawBytes(), f.Time)
			}
			continue
		}
		if f.Subresource == "" && w.predecessor(f.Manager) {
			l.Left = true
		}
		if !slices.Contains(l.Others, f.Manager) {
			l.Others = append(l.Others, f.Manager)
		}
	}
}

// predecessor tells managers whose fields become ours.
func (w *Watcher) predecessor(manager string) bool {
	return manager == w.manager || slices.ContainsFunc(w.predecessors, func(p string) bool { return strings.HasPrefix(manager, p) })
}

// steers reports whether the object in the cluster says so for a key.
func (l Live) steers(key, value string) bool { return strings.EqualFold(l.Steering[key], value) }

// Alone reports whether the object asks to be left alone.
func (l Live) Alone() bool { return l.steers(keySSA, ssaIgnore) || l.steers(keyReconcile, disabled) }

// digestFields does not depend on the order in which the fields were encoded.
// The time of the last write is part of it: who writes in our name is seen too.
func digestFields(raw []byte, at *metav1.Time) string {
	var set map[string]any
	if json.Unmarshal(raw, &set) == nil {
		if sorted, err := json.Marshal(set); err == nil {
			raw = sorted
		}
	}
	if at != nil {
		raw = append(raw, at.UTC().Format(time.RFC3339)...)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8])
}

// judge asks rules about an object, which may take long: not under the lock.
func (l *Live) judge(full *unstructured.Unstructured, rules map[types.NamespacedName]Rule) {
	if full == nil || l.Deleting || len(rules) == 0 {
		return
	}
	l.verdicts = make(map[types.NamespacedName]verdict, len(rules))
	for owner, rule := range rules {
		h, message, decided := rule.Health(full)
		l.verdicts[owner] = verdict{rule.Text, h, message, decided}
	}
}

// seenBy is an object in the eyes of an owner.
func (l Live) seenBy(owner types.NamespacedName, t *tracked, gk schema.GroupKind) Live {
	if t == nil || !l.Exists || l.Deleting {
		return l
	}
	rule, ok := t.judge[gk]
	if !ok {
		return l
	}
	v, ok := l.verdicts[owner]
	if !ok || v.rule != rule.Text {
		v = verdict{health: InProgress, message: "not judged yet"}
	}
	l.Health, l.Message, l.Unjudged = v.health, v.message, !v.decided
	return l
}

// Saw tells what a read of one of the Others gave, so that only what comes
// later counts as a change. For others who read it before it may be one.
func (w *Watcher) Saw(t Tenant, ref Ref, o metav1.Object) {
	l := w.liveOf(o, nil)
	w.waking(func() []types.NamespacedName {
		if s := w.scopes[namedKey(t, ref)]; s != nil {
			return w.answered(s, ref.ID, l, t.Owner)
		}
		return nil
	})
}

// observed takes in an object that an answer of the API server held.
func (w *Watcher) observed(t Tenant, ref Ref, u *unstructured.Unstructured) Live {
	l := w.liveOf(u, u)
	l.judge(u, w.rulesOf(t, ref, l.Owner))
	w.waking(func() (wake []types.NamespacedName) {
		for _, key := range []scopeKey{w.keyOf(t, ref), namedKey(t, ref)} {
			if s := w.scopes[key]; s != nil {
				wake = append(wake, w.answered(s, ref.ID, l, t.Owner)...)
			}
		}
		l = l.seenBy(t.Owner, w.owners[t.Owner], ref.GroupKind)
		return wake
	})
	return l
}

// rulesOf are the rules of whoever may ask for an object that was answered.
func (w *Watcher) rulesOf(t Tenant, ref Ref, label types.NamespacedName) map[types.NamespacedName]Rule {
	w.mu.Lock()
	defer w.mu.Unlock()
	owners := []types.NamespacedName{t.Owner}
	for _, key := range []scopeKey{w.keyOf(t, ref), namedKey(t, ref)} {
		if s := w.scopes[key]; s != nil {
			owners = append(owners, s.judges(label)...)
		}
	}
	return w.rules(owners, ref.GroupKind)
}

func (w *Watcher) rules(owners []types.NamespacedName, gk schema.GroupKind) map[types.NamespacedName]Rule {
	var out map[types.NamespacedName]Rule
	for _, owner := range owners {
		t := w.owners[owner]
		if t == nil {
			continue
		}
		if rule, ok := t.judge[gk]; ok {
			if out == nil {
				out = map[types.NamespacedName]Rule{}
			}
			out[owner] = rule
		}
	}
	return out
}

// answered puts what an answer to somebody held into a scope, and lists the
// others whom that concerns: the watch, which comes after it with the same
// version, tells them nothing new then. What the watch has passed already is
// over.
func (w *Watcher) answered(s *scope, id ID, l Live, to types.NamespacedName) []types.NamespacedName {
	if !s.live[id].Exists && (l.ResourceVersion == s.at || olderThan(l.ResourceVersion, s.at)) {
		return nil
	}
	if s.key.name == "" && (l.Owner.Name == "" || l.Owner.Namespace != s.key.owners) {
		return nil // the watch does not see it, and would not tell how it goes on
	}
	wake := w.take(s, id, l)
	if !s.synced {
		return nil // the first list wakes all
	}
	return slices.DeleteFunc(wake, func(owner types.NamespacedName) bool { return owner == to })
}

// take puts what is known of an object into a scope, unless more is known, and
// lists whom the change concerns.
func (w *Watcher) take(s *scope, id ID, l Live) []types.NamespacedName {
	old := s.live[id]
	if olderThan(l.ResourceVersion, old.ResourceVersion) {
		return nil
	}
	if old.ResourceVersion == l.ResourceVersion && old.Exists {
		verdicts := together(old.verdicts, l.verdicts)
		l = old
		l.verdicts = verdicts
	}
	s.live[id] = l
	return slices.DeleteFunc(w.concerned(s, id, l.Owner), func(owner types.NamespacedName) bool { return !w.matters(owner, id, old, l) })
}

// together are the verdicts on one version; one that is not decided takes the
// place of none.
func together(before, now map[types.NamespacedName]verdict) map[types.NamespacedName]verdict {
	if len(before) == 0 {
		return now
	}
	all := maps.Clone(before) // others read it
	for owner, v := range now {
		if old, ok := before[owner]; !ok || v.decided || old.rule != v.rule {
			all[owner] = v
		}
	}
	return all
}

// changed takes in an event and wakes whom it concerns.
func (w *Watcher) changed(s *scope, id ID, o metav1.Object, full *unstructured.Unstructured) {
	w.mu.Lock()
	if seen := s.live[id].ResourceVersion; seen == o.GetResourceVersion() || olderThan(o.GetResourceVersion(), seen) {
		s.reached(o.GetResourceVersion())
		w.mu.Unlock()
		return // it came with the answer to a request of ours
	}
	rules := w.rules(s.judges(w.ownerOf(o)), id.GroupKind)
	w.mu.Unlock()

	l := w.liveOf(o, full) // the expensive part
	l.judge(full, rules)

	w.waking(func() []types.NamespacedName {
		s.reached(l.ResourceVersion)
		return w.take(s, id, l)
	})
}

// gone takes in a deletion, or that an object lost its labels.
func (w *Watcher) gone(s *scope, id ID, version string) {
	w.waking(func() []types.NamespacedName {
		s.reached(version)
		old, ok := s.live[id]
		if !ok || olderThan(version, old.ResourceVersion) {
			return nil
		}
		delete(s.live, id)
		wake := w.concerned(s, id, old.Owner)
		for _, owner := range wake {
			w.owners[owner].ended(id, old)
		}
		return wake
	})
}

// waking does something under the lock, and wakes the owners that it lists after
// that.
func (w *Watcher) waking(do func() []types.NamespacedName) {
	w.mu.Lock()
	wake := do()
	w.mu.Unlock()
	for _, owner := range wake {
		w.wake(owner)
	}
}

func (w *Watcher) ownerOf(o metav1.Object) types.NamespacedName {
	labels := o.GetLabels()
	return types.NamespacedName{Namespace: labels[w.group+"/"+labelNamespace], Name: labels[w.group+"/"+labelName]}
}

// olderThan compares resource versions, which are numbers; what is no number
// is never older.
func olderThan(a, b string) bool {
	x, err := strconv.ParseUint(a, 10, 64)
	if err != nil {
		return false
	}
	y, err := strconv.ParseUint(b, 10, 64)
	return err == nil && x < y
}

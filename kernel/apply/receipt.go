package apply

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// Receipt is how an object was left, for keeping across restarts. What it holds
// means nothing to others.
type Receipt struct {
	ID                 ID
	Want, Fields, Seen string
	Creates            bool
	Ends, Ended        bool
}

// Receipts tells how the objects of an owner were left.
func (w *Watcher) Receipts(owner types.NamespacedName) []Receipt {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.owners[owner]
	if t == nil {
		return nil
	}
	t.unkept = false
	out := make([]Receipt, 0, len(t.receipts))
	for id, r := range t.receipts {
		out = append(out, Receipt{ID: id, Want: r.want, Fields: r.fields, Seen: string(r.uid), Creates: r.creates, Ends: r.ends, Ended: r.ended})
	}
	slices.SortFunc(out, func(a, b Receipt) int { return cmp.Compare(a.ID.String(), b.ID.String()) })
	return out
}

// Unkept reports whether a receipt of an owner has changed by itself since
// Receipts gave them: no apply says so.
func (w *Watcher) Unkept(owner types.NamespacedName) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.owners[owner]
	return t != nil && t.unkept
}

// Restore gives back receipts of the tracked objects of an owner; those that it
// has by now win.
func (w *Watcher) Restore(owner types.NamespacedName, receipts []Receipt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.owners[owner]
	if t == nil {
		return
	}
	for _, r := range receipts {
		_, tracked := t.refs[r.ID]
		if _, have := t.receipts[r.ID]; tracked && !have {
			t.receipts[r.ID] = receipt{want: r.Want, fields: r.Fields, uid: types.UID(r.Seen), creates: r.Creates, ends: r.Ends, ended: r.Ended}
		}
	}
}

// ended notes that a Job went after it had succeeded, when it was to.
func (t *tracked) ended(id ID, was Live) {
	if r := t.receipts[id]; r.ends && r.uid == was.UID && was.Succeeded {
		r.ended = true
		t.receipts[id], t.unkept = r, true
	}
}

// Ended reports whether an object is a Job that succeeded and was then deleted
// after the time that it names itself: it is not to be made again, and nobody
// waits for it.
func (w *Watcher) Ended(owner types.NamespacedName, ref Ref) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.owners[owner]
	if t == nil || !t.receipts[ref.ID].ended {
		return false
	}
	l, _ := w.find(t.tenant, ref)
	return !l.Exists
}

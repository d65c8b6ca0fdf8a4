package apply

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/fluxcd/cli-utils/pkg/object"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// plainBytes is how much of an inventory is written out; an object holds
	// 1.5 MiB in etcd, conditions and history included.
	plainBytes = 512 << 10
	// packedRefs is how many references one packed entry holds.
	packedRefs = 4000
	// packedSuffix marks a packed entry. To somebody who does not know it, it is
	// an object of a kind that no cluster has, so that nothing is lost by it.
	packedSuffix = "_inventory.headwater.dev_Packed"
	// unpackedBytes bounds what a packed entry is expanded to.
	unpackedBytes = 16 << 20
)

// Inventory writes references the way Flux does: <ns>_<name>_<group>_<kind>
// and the version, in the order of the apply. What grows past half a mebibyte is
// packed, in entries of thousands of references each.
func Inventory(refs []Ref) *kustomizev1.ResourceInventory {
	inv := &kustomizev1.ResourceInventory{Entries: make([]kustomizev1.ResourceRef, 0, len(refs))}
	size := 0
	for i, r := range refs {
		e := kustomizev1.ResourceRef{ID: r.ID.String(), Version: r.Version}
		if size += len(e.ID) + len(e.Version) + len(`{"id":"","v":""},`); size > plainBytes {
			inv.Entries = append(inv.Entries, pack(refs[i:])...)
			break
		}
		inv.Entries = append(inv.Entries, e)
	}
	return inv
}

// Refs reads an inventory; entries that are no references are left out.
func Refs(inv *kustomizev1.ResourceInventory) []Ref {
	if inv == nil {
		return nil
	}
	refs := make([]Ref, 0, len(inv.Entries))
	for _, e := range inv.Entries {
		if packed, ok := strings.CutSuffix(e.ID, packedSuffix); ok {
			refs = append(refs, unpack(strings.TrimPrefix(packed, "_"))...)
			continue
		}
		if r, ok := parseRef(e.ID, e.Version); ok {
			refs = append(refs, r)
		}
	}
	return refs
}

func parseRef(id, version string) (Ref, bool) {
	parsed, err := object.ParseObjMetadata(id)
	return Ref{ID: parsed, Version: version}, err == nil
}

func pack(refs []Ref) []kustomizev1.ResourceRef {
	var out []kustomizev1.ResourceRef
	for start := 0; start < len(refs); start += packedRefs {
		var b bytes.Buffer
		z := gzip.NewWriter(&b) // a Buffer takes every write
		for _, r := range refs[start:min(start+packedRefs, len(refs))] {
			_, _ = fmt.Fprintf(z, "%s %s\n", r.ID.String(), r.Version)
		}
		_ = z.Close()
		out = append(out, kustomizev1.ResourceRef{ID: "_" + base64.RawStdEncoding.EncodeToString(b.Bytes()) + packedSuffix, Version: "v1"})
	}
	return out
}

func unpack(text string) []Ref {
	raw, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil
	}
	lines, err := io.ReadAll(io.LimitReader(z, unpackedBytes))
	if err != nil {
		return nil
	}
	var refs []Ref
	for line := range strings.Lines(string(lines)) {
		id, version, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if r, ok := parseRef(id, version); ok {
			refs = append(refs, r)
		}
	}
	return refs
}

// Missing gives those of old that are not in now, whatever their version.
func Missing(old, now []Ref) []Ref {
	have := byID(now)
	var out []Ref
	for _, r := range old {
		if _, ok := have[r.ID]; !ok {
			out = append(out, r)
		}
	}
	return out
}

// Union gives now and then those of old that are not in it.
func Union(now, old []Ref) []Ref {
	return append(append([]Ref{}, now...), Missing(old, now)...)
}

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

package apply

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"strings"

	"github.com/fluxcd/cli-utils/pkg/object"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
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

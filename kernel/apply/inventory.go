package apply

import (
	"github.com/fluxcd/cli-utils/pkg/object"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
)

// Inventory writes references the way Flux does: <ns>_<name>_<group>_<kind>
// and the version, in the order of the apply.
func Inventory(refs []Ref) *kustomizev1.ResourceInventory {
	inv := &kustomizev1.ResourceInventory{Entries: make([]kustomizev1.ResourceRef, 0, len(refs))}
	for _, r := range refs {
		inv.Entries = append(inv.Entries, kustomizev1.ResourceRef{ID: r.ID.String(), Version: r.Version})
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
		id, err := object.ParseObjMetadata(e.ID)
		if err != nil {
			continue
		}
		refs = append(refs, Ref{ID: id, Version: e.Version})
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

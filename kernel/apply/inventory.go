package apply

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/fluxcd/cli-utils/pkg/object"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/ssa"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
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

// stageCount is how many stages there are; see Stages.of.
const stageCount = 5

// Stages knows kinds that are applied before the others. The zero value is the
// usual order.
type Stages map[schema.GroupKind]bool

// ParseStages reads kinds, as group/Kind or Kind of the core group.
func ParseStages(kinds []string) (Stages, error) {
	out := Stages{}
	for _, k := range kinds {
		group, kind, ok := strings.Cut(strings.TrimSpace(k), "/")
		if !ok {
			group, kind = "", group
		}
		if kind == "" || strings.Contains(kind, "/") {
			return nil, fmt.Errorf("%q is no kind: write group/Kind, or Kind for the core group", k)
		}
		out[schema.GroupKind{Group: group, Kind: kind}] = true
	}
	return out, nil
}

// of puts definitions (custom resources, namespaces, cluster roles) before
// classes, those before custom kinds and what others run under or refer to, and
// webhooks last, since they may stand in the way of everything else.
func (s Stages) of(gk schema.GroupKind) int {
	switch gk.Kind {
	case "CustomResourceDefinition", "Namespace", "ClusterRole":
		return 0
	case "Role", "ServiceAccount", "ResourceQuota", "LimitRange":
		return 2
	case "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration":
		return 4
	}
	switch {
	case strings.HasSuffix(gk.Kind, "Class"):
		return 1
	case s[gk]:
		return 2
	}
	return 3
}

// split gives the sets of objects that are applied one after the other.
func (s Stages) split(objects []*unstructured.Unstructured) [][]*unstructured.Unstructured {
	split := make([][]*unstructured.Unstructured, stageCount)
	for _, u := range objects {
		n := s.of(u.GroupVersionKind().GroupKind())
		split[n] = append(split[n], u)
	}
	var out [][]*unstructured.Unstructured
	for _, stage := range split {
		if len(stage) > 0 {
			out = append(out, stage)
		}
	}
	return out
}

// sort puts references in the order in which objects are applied.
func (s Stages) sort(refs []Ref) {
	rank := make(map[string]int, len(ssa.ReconcileOrder.First))
	for i, kind := range ssa.ReconcileOrder.First {
		rank[kind] = i - len(ssa.ReconcileOrder.First)
	}
	slices.SortStableFunc(refs, func(a, b Ref) int {
		if d := s.of(a.GroupKind) - s.of(b.GroupKind); d != 0 {
			return d
		}
		if d := rank[a.GroupKind.Kind] - rank[b.GroupKind.Kind]; d != 0 {
			return d
		}
		return strings.Compare(a.String(), b.String())
	})
}

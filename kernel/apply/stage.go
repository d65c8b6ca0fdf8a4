package apply

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/ssa"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

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

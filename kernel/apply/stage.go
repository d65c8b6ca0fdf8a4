package apply

import (
	"slices"
	"strings"

	"github.com/fluxcd/pkg/ssa"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// stageCount is how many stages there are; see stageOf.
const stageCount = 5

// stageOf puts definitions (custom resources, namespaces, cluster roles) before
// classes, those before what others run under or refer to, and webhooks last,
// since they may stand in the way of everything else.
func stageOf(kind string) int {
	switch kind {
	case "CustomResourceDefinition", "Namespace", "ClusterRole":
		return 0
	case "Role", "ServiceAccount", "ResourceQuota", "LimitRange":
		return 2
	case "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration":
		return 4
	}
	if strings.HasSuffix(kind, "Class") {
		return 1
	}
	return 3
}

// stages splits objects into the sets that are applied one after the other.
func stages(objects []*unstructured.Unstructured) [][]*unstructured.Unstructured {
	split := make([][]*unstructured.Unstructured, stageCount)
	for _, u := range objects {
		n := stageOf(u.GetKind())
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

// sortRefs puts references in the order in which objects are applied.
func sortRefs(refs []Ref) {
	order := func(r Ref) int { return slices.Index(ssa.ReconcileOrder.First, r.GroupKind.Kind) }
	slices.SortStableFunc(refs, func(a, b Ref) int {
		if d := stageOf(a.GroupKind.Kind) - stageOf(b.GroupKind.Kind); d != 0 {
			return d
		}
		if d := order(a) - order(b); d != 0 {
			return d
		}
		return strings.Compare(a.String(), b.String())
	})
}

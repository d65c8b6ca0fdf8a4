package helm

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/fluxcd/cli-utils/pkg/object"
	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/runtime/conditions"
	"github.com/fluxcd/pkg/ssa/jsondiff"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/kernel/apply"
	"headwater.dev/kernel/event"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/release"
)

// checkDrift compares the objects of the newest revision with the cluster, by a
// dry run of each as the tenant, and corrects what differs unless it is only
// to be reported.
func (l *loop) checkDrift(ctx context.Context, s *scope) error {
	s.driftChecked = true
	rel := s.history[0]
	objs, err := s.releases.Objects(rel)
	if err != nil {
		return err
	}
	for _, o := range objs {
		own(o, rel)
	}
	l.trackForDrift(s, objs)
	set, err := jsondiff.UnstructuredList(ctx, s.access.Client, objs,
		jsondiff.FieldOwner(release.FieldManager), jsondiff.Rationalize(true),
		jsondiff.ExclusionSelector{v2.DriftDetectionMetadataKey: v2.DriftDetectionDisabledValue},
		ignoreRules(s.drift()))
	if err != nil {
		return phase.Transient(v2.DriftDetectedReason, fmt.Errorf("detect drift of release %s: %w", fullName(s), s.hide(err)))
	}
	last := s.hr.Status.History.Latest()
	if !set.HasChanges() {
		conditions.MarkFalse(s.hr, v2.DriftedCondition, v2.NoDriftDetectedReason, "No drift detected for release %s", describeSnapshot(last))
		return nil
	}
	summary := describeDrift(set)
	message := fmt.Sprintf("Cluster state of release %s has drifted from the desired state: %s", describeSnapshot(last), summary)
	if s.drift().GetMode() == v2.DriftDetectionWarn {
		if conditions.GetMessage(s.hr, v2.DriftedCondition) != message {
			l.tell(ctx, s, event.Error, v2.DriftDetectedReason, message)
		}
		conditions.MarkTrue(s.hr, v2.DriftedCondition, v2.DriftDetectedReason, "%s", message)
		return nil
	}
	if err := correct(ctx, s.access.Client, set); err != nil {
		conditions.MarkTrue(s.hr, v2.DriftedCondition, v2.DriftDetectedReason, "%s", message)
		return phase.Transient(v2.DriftDetectedReason, fmt.Errorf("correct drift of release %s: %w", fullName(s), s.hide(err)))
	}
	l.tell(ctx, s, event.Info, "DriftCorrected", fmt.Sprintf("Cluster state of release %s has been corrected: %s", describeSnapshot(last), summary))
	conditions.MarkFalse(s.hr, v2.DriftedCondition, v2.NoDriftDetectedReason, "Drift of release %s has been corrected", describeSnapshot(last))
	return nil
}

// own adds the marks of ownership that Helm adds to objects when it writes
// them, and that no manifest shows.
func own(o *unstructured.Unstructured, rel *release.Release) {
	labels, annotations := o.GetLabels(), o.GetAnnotations()
	if labels == nil {
		labels = map[string]string{}
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	labels["app.kubernetes.io/managed-by"] = "Helm"
	annotations["meta.helm.sh/release-name"] = rel.Name
	annotations["meta.helm.sh/release-namespace"] = rel.Namespace
	o.SetLabels(labels)
	o.SetAnnotations(annotations)
}

func ignoreRules(d v2.DriftDetection) jsondiff.IgnoreRules {
	var rules jsondiff.IgnoreRules
	for _, r := range d.Ignore {
		rule := jsondiff.IgnoreRule{Paths: r.Paths}
		if t := r.Target; t != nil {
			rule.Selector = &jsondiff.Selector{
				Group: t.Group, Version: t.Version, Kind: t.Kind, Name: t.Name, Namespace: t.Namespace,
				AnnotationSelector: t.AnnotationSelector, LabelSelector: t.LabelSelector,
			}
		}
		rules = append(rules, rule)
	}
	return rules
}

// correct makes the cluster's objects what they were to be. Ignored paths are
// not in the differences and stay as they are.
func correct(ctx context.Context, c client.Client, set jsondiff.DiffSet) error {
	for _, d := range set {
		switch d.Type {
		case jsondiff.DiffTypeCreate:
			u, ok := d.DesiredObject.(*unstructured.Unstructured)
			if !ok {
				return fmt.Errorf("unexpected object %T", d.DesiredObject)
			}
			err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(u.DeepCopy()), client.FieldOwner(release.FieldManager), client.ForceOwnership)
			if err != nil {
				return fmt.Errorf("create %s: %w", apply.RefOf(u), err)
			}
		case jsondiff.DiffTypeUpdate:
			patch, err := json.Marshal(d.Patch)
			if err != nil {
				return err
			}
			err = c.Patch(ctx, d.ClusterObject, client.RawPatch(types.JSONPatchType, patch), client.FieldOwner(release.FieldManager))
			if err != nil {
				return fmt.Errorf("patch %s %s/%s: %w", d.GroupVersionKind().Kind, d.GetNamespace(), d.GetName(), err)
			}
		}
	}
	return nil
}

// describeDrift names objects and paths, never values.
func describeDrift(set jsondiff.DiffSet) string {
	var lines []string
	for _, d := range set {
		name := strings.TrimPrefix(d.GetNamespace()+"/", "/") + d.GetName()
		switch d.Type {
		case jsondiff.DiffTypeCreate:
			lines = append(lines, fmt.Sprintf("%s/%s removed", d.GroupVersionKind().Kind, name))
		case jsondiff.DiffTypeUpdate:
			paths := make([]string, 0, len(d.Patch))
			for _, op := range d.Patch {
				if op.Type != "test" {
					paths = append(paths, op.Path)
				}
			}
			lines = append(lines, fmt.Sprintf("%s/%s changed (%s)", d.GroupVersionKind().Kind, name, strings.Join(paths, ", ")))
		}
	}
	return list(lines)
}

// trackForDrift keeps watching a healthy release, so that a removed object is
// noticed at once.
func (l *loop) trackForDrift(s *scope, objs []*unstructured.Unstructured) {
	refs := make([]apply.Ref, 0, len(objs))
	for _, o := range objs {
		refs = append(refs, apply.RefOf(o))
	}
	l.watcher.Track(apply.Interest{Tenant: s.tenant(), Objects: refs})
}

// disturbed reports whether an object of a release with drift detection is
// known to be missing.
func (l *loop) disturbed(s *scope) bool {
	if !s.drift().MustDetectChanges() || s.hr.Status.Inventory == nil {
		return false
	}
	for _, e := range s.hr.Status.Inventory.Entries {
		id, err := object.ParseObjMetadata(e.ID)
		if err != nil {
			continue
		}
		if live, known := l.watcher.Live(s.tenant(), apply.Ref{ID: id, Version: e.Version}); known && !live.Exists {
			return true
		}
	}
	return false
}

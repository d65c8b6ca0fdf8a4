package extension

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"headwater.dev/kernel/release"
)

// upToDate says whether the newest release is what is desired and all of its
// objects are there as it made them.
func (m *Manager) upToDate(ctx context.Context, last *release.Release, values map[string]any, digest string) (bool, error) {
	have, _ := json.Marshal(last.Config)
	want, _ := json.Marshal(values)
	if last.Info.Status != "deployed" || last.Labels[chartLabel] != digest || string(have) != string(want) {
		return false, nil
	}
	objects, err := m.releases.Objects(last)
	if err != nil {
		return false, err
	}
	for _, o := range objects {
		changed, err := m.drifted(ctx, o, last.Version)
		if err != nil {
			return false, fmt.Errorf("look at %s %s: %w", o.GetKind(), o.GetName(), err)
		}
		if changed {
			m.config.Log.Info("an object of the extension was changed or deleted, putting it back", "kind", o.GetKind(), "name", o.GetName())
			return false, nil
		}
	}
	return true, nil
}

// seen is a state of an object that was found to be as a revision made it.
type seen struct {
	revision        int
	resourceVersion string
}

// drifted says whether an object is gone, or not as the release's revision
// made it. The API server answers that itself, by applying the object without
// storing it; an object that has not changed since is not asked about again.
func (m *Manager) drifted(ctx context.Context, o *unstructured.Unstructured, revision int) (bool, error) {
	gvk := o.GroupVersionKind()
	gvr := schema.GroupVersionResource{Group: gvk.Group, Version: gvk.Version, Resource: plural(gvk.Kind)}
	key := gvk.Kind + "/" + o.GetName()
	head, err := m.metadata.Resource(gvr).Namespace(o.GetNamespace()).Get(ctx, o.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if m.verified[key] == (seen{revision, head.ResourceVersion}) {
		return false, nil
	}
	api := m.dynamic.Resource(gvr).Namespace(o.GetNamespace())
	live, err := api.Get(ctx, o.GetName(), metav1.GetOptions{})
	if err != nil {
		return apierrors.IsNotFound(err), ignoreNotFound(err)
	}
	applied, err := api.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: release.FieldManager, Force: true, DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return false, err
	}
	if !equality.Semantic.DeepEqual(substance(live), substance(applied)) {
		return true, nil
	}
	m.verified[key] = seen{revision, live.GetResourceVersion()}
	return false, nil
}

// substance is an object without what says nothing about drift.
func substance(o *unstructured.Unstructured) map[string]any {
	content := map[string]any{}
	for key, value := range o.Object {
		if key != "metadata" && key != "status" {
			content[key] = value
		}
	}
	return content
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// plural is the resource of a kind of our chart.
func plural(kind string) string {
	if kind == "NetworkPolicy" {
		return "networkpolicies"
	}
	return strings.ToLower(kind) + "s"
}

package kubetest

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"headwater.dev/deploy"
)

// CRDs installs groups of the CustomResourceDefinitions of package deploy
// ("flux", "fluxconfig"), and returns when their kinds are served and can be
// discovered. Installing a group again does nothing.
func CRDs(t testing.TB, c *Cluster, groups ...string) {
	t.Helper()
	documents, err := deploy.CRDs(groups...)
	if err != nil {
		t.Fatalf("kubetest: %v", err)
	}
	client, err := dynamic.NewForConfig(c.Config)
	if err != nil {
		t.Fatalf("kubetest: make client: %v", err)
	}
	resource := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	var installed []*unstructured.Unstructured
	for _, document := range documents {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(document, &object.Object); err != nil {
			t.Fatalf("kubetest: parse CRD: %v", err)
		}
		applied, err := resource.Apply(t.Context(), object.GetName(), object, metav1.ApplyOptions{FieldManager: "kubetest", Force: true})
		if err != nil {
			t.Fatalf("kubetest: install CRD %s: %v", object.GetName(), err)
		}
		installed = append(installed, applied)
	}
	for _, object := range installed {
		Eventually(t, setupTimeout, func() error { return c.served(object) })
	}
}

// served returns nil when discovery offers the kind in every version that its
// definition serves.
func (c *Cluster) served(definition *unstructured.Unstructured) error {
	group, _, _ := unstructured.NestedString(definition.Object, "spec", "group")
	plural, _, _ := unstructured.NestedString(definition.Object, "spec", "names", "plural")
	versions, _, err := unstructured.NestedSlice(definition.Object, "spec", "versions")
	if err != nil {
		return fmt.Errorf("read versions of CRD %s: %w", definition.GetName(), err)
	}
	for _, item := range versions {
		version, ok := item.(map[string]any)
		if !ok || version["served"] != true {
			continue
		}
		groupVersion := fmt.Sprintf("%s/%s", group, version["name"])
		list, err := c.Client.Discovery().ServerResourcesForGroupVersion(groupVersion)
		if err != nil {
			return fmt.Errorf("discover %s: %w", groupVersion, err)
		}
		found := false
		for _, resource := range list.APIResources {
			found = found || resource.Name == plural
		}
		if !found {
			return fmt.Errorf("%s has no %s yet", groupVersion, plural)
		}
	}
	return nil
}

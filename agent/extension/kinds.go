package extension

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/yaml"

	"headwater.dev/deploy"
)

const (
	// fieldManager owns the kinds.
	fieldManager = "headwater-extension"
	// digestAnnotation on a kind names the definition that was applied.
	digestAnnotation = "headwater.dev/digest"
	partOf           = "app.kubernetes.io/part-of"
	product          = "headwater"
	// establishTimeout bounds how long new kinds may take to be served.
	establishTimeout = 30 * time.Second
)

func crdResource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
}

// definitions are the kinds that come with the extension.
func definitions() ([]*unstructured.Unstructured, error) {
	docs, err := deploy.CRDs()
	if err != nil {
		return nil, err
	}
	var all []*unstructured.Unstructured
	for _, doc := range docs {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(doc, &o.Object); err != nil {
			return nil, fmt.Errorf("read a CRD: %w", err)
		}
		unstructured.RemoveNestedField(o.Object, "status")
		sum := sha256.Sum256(doc)
		o.SetLabels(map[string]string{partOf: product})
		annotations := o.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[digestAnnotation] = hex.EncodeToString(sum[:])
		o.SetAnnotations(annotations)
		all = append(all, o)
	}
	return all, nil
}

// ensureKinds applies the kinds that are missing or of another definition and
// returns when all are served.
func (m *Manager) ensureKinds(ctx context.Context) error {
	wanted, err := definitions()
	if err != nil {
		return err
	}
	have, err := m.metadata.Resource(crdResource()).List(ctx, metav1.ListOptions{LabelSelector: partOf + "=" + product})
	if err != nil {
		return fmt.Errorf("list kinds: %w", err)
	}
	digests := map[string]string{}
	for _, o := range have.Items {
		digests[o.Name] = o.Annotations[digestAnnotation]
	}
	api := m.dynamic.Resource(crdResource())
	var applied []string
	for _, o := range wanted {
		if digests[o.GetName()] == o.GetAnnotations()[digestAnnotation] {
			continue
		}
		if _, err := api.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
			return fmt.Errorf("apply kind %s: %w", o.GetName(), err)
		}
		applied = append(applied, o.GetName())
	}
	return m.waitEstablished(ctx, applied)
}

func (m *Manager) waitEstablished(ctx context.Context, names []string) error {
	api := m.dynamic.Resource(crdResource())
	for _, name := range names {
		err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, establishTimeout, true, func(ctx context.Context) (bool, error) {
			o, err := api.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
			for _, c := range conditions {
				if c, ok := c.(map[string]any); ok && c["type"] == "Established" && c["status"] == "True" {
					return true, nil
				}
			}
			return false, nil
		})
		if err != nil {
			return fmt.Errorf("wait for kind %s to be served: %w", name, err)
		}
	}
	return nil
}

// removeKinds deletes the kinds of which no object is left. Deleting a kind
// deletes its objects, and those are the users'.
func (m *Manager) removeKinds(ctx context.Context) error {
	wanted, err := definitions()
	if err != nil {
		return err
	}
	var failures []error
	for _, o := range wanted {
		group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
		resource, _, _ := unstructured.NestedString(o.Object, "spec", "names", "plural")
		gvr := schema.GroupVersionResource{Group: group, Version: storageVersion(o), Resource: resource}
		left, err := m.metadata.Resource(gvr).List(ctx, metav1.ListOptions{Limit: 1})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err == nil && len(left.Items) > 0 {
			m.config.Log.Info("kind kept: objects of it are left", "kind", o.GetName())
			continue
		}
		if err == nil {
			err = m.dynamic.Resource(crdResource()).Delete(ctx, o.GetName(), metav1.DeleteOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			failures = append(failures, fmt.Errorf("remove kind %s: %w", o.GetName(), err))
		}
	}
	return errors.Join(failures...)
}

// storageVersion is the version that a definition stores.
func storageVersion(o *unstructured.Unstructured) string {
	versions, _, _ := unstructured.NestedSlice(o.Object, "spec", "versions")
	for _, v := range versions {
		if v, ok := v.(map[string]any); ok && v["storage"] == true {
			name, _ := v["name"].(string)
			return name
		}
	}
	return ""
}

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

// kind is one that comes with the extension. Its definition is large, so it is
// read again in the rare case that it is applied.
type kind struct {
	name, digest string
	resource     schema.GroupVersionResource
	doc          []byte
}

// kinds are those that come with the extension.
func kinds() ([]kind, error) {
	docs, err := deploy.CRDs()
	if err != nil {
		return nil, err
	}
	var all []kind
	for _, doc := range docs {
		k := kind{doc: doc}
		o, err := k.definition()
		if err != nil {
			return nil, err
		}
		group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
		resource, _, _ := unstructured.NestedString(o.Object, "spec", "names", "plural")
		sum := sha256.Sum256(doc)
		k.name, k.digest = o.GetName(), hex.EncodeToString(sum[:])
		k.resource = schema.GroupVersionResource{Group: group, Version: storageVersion(o), Resource: resource}
		all = append(all, k)
	}
	return all, nil
}

// definition is the CustomResourceDefinition to apply.
func (k kind) definition() (*unstructured.Unstructured, error) {
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(k.doc, &o.Object); err != nil {
		return nil, fmt.Errorf("read a CRD: %w", err)
	}
	unstructured.RemoveNestedField(o.Object, "status")
	o.SetLabels(map[string]string{partOf: product})
	annotations := o.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[digestAnnotation] = k.digest
	o.SetAnnotations(annotations)
	return o, nil
}

// ensureKinds applies the kinds that are missing or of another definition and
// returns when all are served.
func (m *Manager) ensureKinds(ctx context.Context) error {
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
	for _, k := range m.kinds {
		if digests[k.name] == k.digest {
			continue
		}
		o, err := k.definition()
		if err != nil {
			return err
		}
		if _, err := api.Apply(ctx, k.name, o, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
			return fmt.Errorf("apply kind %s: %w", k.name, err)
		}
		applied = append(applied, k.name)
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
	var failures []error
	for _, k := range m.kinds {
		left, err := m.metadata.Resource(k.resource).List(ctx, metav1.ListOptions{Limit: 1})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err == nil && len(left.Items) > 0 {
			m.config.Log.Info("kind kept: objects of it are left", "kind", k.name)
			continue
		}
		if err == nil {
			err = m.dynamic.Resource(crdResource()).Delete(ctx, k.name, metav1.DeleteOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			failures = append(failures, fmt.Errorf("remove kind %s: %w", k.name, err))
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

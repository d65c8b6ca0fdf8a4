package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"helm.sh/helm/v4/pkg/release/common"
	"helm.sh/helm/v4/pkg/storage/driver"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var crdKind = schema.GroupKind{Group: apiextensionsv1.GroupName, Kind: "CustomResourceDefinition"}

// Last returns the newest stored revision, whatever its status, or
// ErrNotFound. One list request.
func (c *Client) Last(ctx context.Context, name, storageNamespace string) (*Release, error) {
	history, err := c.History(ctx, name, storageNamespace)
	if err != nil {
		return nil, err
	}
	return history[0], nil
}

// History returns all stored revisions, the newest first, or ErrNotFound.
func (c *Client) History(_ context.Context, name, storageNamespace string) ([]*Release, error) {
	store, err := c.storage(storageNamespace)
	if err != nil {
		return nil, err
	}
	stored, err := store.History(name)
	if errors.Is(err, driver.ErrReleaseNotFound) || (err == nil && len(stored) == 0) {
		return nil, fmt.Errorf("release %s/%s: %w", storageNamespace, name, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read release %s/%s: %w", storageNamespace, name, err)
	}
	history := make([]*Release, 0, len(stored))
	for _, s := range stored {
		rel, err := result(s, nil)
		if err != nil {
			return nil, err
		}
		history = append(history, rel)
	}
	slices.SortFunc(history, func(a, b *Release) int { return b.Version - a.Version })
	return history, nil
}

// Unlock marks a release as failed that a crashed process left pending, so
// that the next action can go on from it. A release that is not pending, or
// that changed less than age ago, is left alone. It returns the newest stored
// revision.
//
// The caller knows that no other process of its own works on the release; age
// is the margin for processes that it does not know.
func (c *Client) Unlock(ctx context.Context, name, storageNamespace string, age time.Duration) (*Release, error) {
	rel, err := c.Last(ctx, name, storageNamespace)
	if err != nil {
		return nil, err
	}
	if !rel.Info.Status.IsPending() || time.Since(rel.Info.LastDeployed) < age {
		return rel, nil
	}
	store, err := c.storage(storageNamespace)
	if err != nil {
		return nil, err
	}
	was := rel.Info.Status
	rel.SetStatus(common.StatusFailed, fmt.Sprintf("Release unlocked from stale '%s' state", was))
	if err := store.Update(rel); err != nil {
		return nil, fmt.Errorf("unlock release %s/%s: %w", storageNamespace, name, err)
	}
	return rel, nil
}

// MarkFailed records that a deployed release has failed after its action had
// ended, for example because it did not become ready.
func (c *Client) MarkFailed(_ context.Context, rel *Release, storageNamespace, why string) error {
	store, err := c.storage(storageNamespace)
	if err != nil {
		return err
	}
	rel.SetStatus(common.StatusFailed, why)
	if err := store.Update(rel); err != nil {
		return fmt.Errorf("mark release %s/%s as failed: %w", storageNamespace, rel.Name, err)
	}
	return nil
}

// Objects returns the objects of a release's manifest, hooks excluded.
// Namespaced objects that name no namespace get the release's.
func (c *Client) Objects(rel *Release) ([]*unstructured.Unstructured, error) {
	objs, err := decode(bytes.NewReader([]byte(rel.Manifest)))
	if err != nil {
		return nil, fmt.Errorf("read manifest of release %s/%s: %w", rel.Namespace, rel.Name, err)
	}
	for _, o := range objs {
		if o.GetNamespace() != "" {
			continue
		}
		gvk := o.GroupVersionKind()
		m, err := c.conn.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		if meta.IsNoMatchError(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("find kind of %s %s: %w", gvk.Kind, o.GetName(), err)
		}
		if m.Scope.Name() == meta.RESTScopeNameNamespace {
			o.SetNamespace(rel.Namespace)
		}
	}
	return objs, nil
}

func convert(u *unstructured.Unstructured, into any) error {
	return runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, into)
}

package extension

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/api/config"
	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/release"
)

// remove uninstalls the extension, unless another item wants it to stay.
// Configurations go first: without controllers nothing could remove what they
// brought.
func (m *Manager) remove(ctx context.Context, item link.Item, wanted bool, desired link.Desired) error {
	if isFlux(item) && !wanted {
		err := m.uninstall(ctx, desired)
		if err != nil {
			m.report(refusedRemoval(item, err))
			if phase.Classify(err).Class != phase.ClassTransient {
				return nil // Woken when the configurations change.
			}
			return err
		}
	}
	m.report(link.Observed{ID: item.ID, Generation: item.Generation, OperationID: item.OperationID, Deleted: true})
	return nil
}

func (m *Manager) uninstall(ctx context.Context, desired link.Desired) error {
	if err := m.configurationsGone(ctx, desired); err != nil {
		return err
	}
	_, err := m.releases.Uninstall(ctx, release.Request{Name: releaseName, Namespace: Namespace}, release.Removal{})
	if err != nil && !errors.Is(err, release.ErrNotFound) {
		return fmt.Errorf("uninstall: %w", err)
	}
	if err := m.config.Settings.Keep(ctx, Namespace, secretName, "", nil); err != nil {
		return err
	}
	return m.removeKinds(ctx)
}

// configurationsGone returns nil when no FluxConfig is left. When all that are
// left are on their way out, the removal waits; otherwise it is refused.
func (m *Manager) configurationsGone(ctx context.Context, desired link.Desired) error {
	list, err := m.metadata.Resource(fluxConfigs()).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list FluxConfigs: %w", err)
	}
	going := map[string]bool{}
	for _, item := range desired.Items {
		if item.Configuration != nil && item.Delete {
			going[strings.ToLower(item.ID)] = true
		}
	}
	var staying []string
	for _, fc := range list.Items {
		if fc.DeletionTimestamp.IsZero() && !going[strings.ToLower(fc.Annotations[config.AnnotationResourceID])] {
			staying = append(staying, fc.Namespace+"/"+fc.Name)
		}
	}
	slices.Sort(staying)
	switch {
	case len(staying) > 0:
		return phase.Stalled("ConfigurationsExist", fmt.Errorf("the extension cannot be deleted while configurations need it: delete %s first", strings.Join(staying, ", ")))
	case len(list.Items) > 0:
		return phase.Transient("ConfigurationsGoing", fmt.Errorf("waiting until %d configurations are deleted", len(list.Items)))
	}
	return nil
}

// refusedRemoval says why the extension is still there.
func refusedRemoval(item link.Item, err error) link.Observed {
	e := phase.Classify(err)
	o := &resource.ExtensionObserved{Statuses: []resource.ExtensionStatus{
		{Code: e.Reason, DisplayStatus: "Not deleted", Level: levelWarning, Message: err.Error()},
	}}
	if e.Class == phase.ClassStalled {
		o.AcceptedGeneration = item.Generation
		o.Error = &resource.ErrorDetail{Code: e.Reason, Message: err.Error(), Target: item.ID}
	}
	return link.Observed{ID: item.ID, Generation: item.Generation, OperationID: item.OperationID, Extension: o}
}

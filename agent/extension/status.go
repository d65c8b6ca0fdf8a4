package extension

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/release/common"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/release"
)

// Levels of statuses.
const (
	levelError       = "Error"
	levelWarning     = "Warning"
	levelInformation = "Information"
)

// observation collects what is known of the installed extension.
type observation struct {
	item      link.Item
	protected string
	// release is the newest revision, and installed the version of the newest
	// one that was deployed.
	release   *release.Release
	installed string
	warnings  []string
	// secrets are what must not be said.
	secrets []string
	// kept says why an older version than the agent's stays.
	kept string
	// rolled says that the controllers have been available for this item;
	// available says that they are.
	rolled, available bool
	// pods says why the controllers are not available.
	pods    []resource.ExtensionStatus
	failure error
	// since is when the failure, or the wait for the controllers, began.
	since time.Time
}

// look reads what is installed and how the controllers are.
func (m *Manager) look(ctx context.Context, o *observation) error {
	if o.installed == "" {
		history, err := m.releases.History(ctx, releaseName, Namespace)
		if err != nil && !errors.Is(err, release.ErrNotFound) {
			return err
		}
		o.installed = installed(history)
	}
	d, err := m.kube.AppsV1().Deployments(Namespace).Get(ctx, deployment, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read Deployment %s: %w", deployment, err)
	}
	o.available = isAvailable(d)
	o.rolled = o.available || d.Annotations[acceptedAnnotation] == mark(o.item)
	if o.available {
		return m.remember(ctx, d, o)
	}
	pods, err := m.kube.CoreV1().Pods(Namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(d.Spec.Selector)})
	if err != nil {
		return fmt.Errorf("list pods of Deployment %s: %w", deployment, err)
	}
	o.pods = append(troubles(d), podTroubles(pods.Items)...)
	return nil
}

// installed is the version of the newest deployed release, "" for none.
func installed(history []*release.Release) string {
	for _, r := range history {
		if r.Info != nil && r.Info.Status == common.StatusDeployed {
			return versionOf(r)
		}
	}
	return ""
}

func versionOf(r *release.Release) string {
	if r == nil || r.Chart == nil || r.Chart.Metadata == nil {
		return ""
	}
	return r.Chart.Metadata.Version
}

// isAvailable says that the newest template runs.
func isAvailable(d *appsv1.Deployment) bool {
	s := d.Status
	return s.ObservedGeneration >= d.Generation && s.UpdatedReplicas >= 1 && s.AvailableReplicas >= 1 && s.Replicas == s.UpdatedReplicas
}

// acceptedAnnotation on the Deployment names the newest item that it has been
// available for. It is kept in the cluster, so that pods that fail later stay
// different from an operation that failed, whoever restarts in between.
const acceptedAnnotation = "headwater.dev/accepted"

func mark(item link.Item) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s %s", item.Generation, strings.ToLower(item.ID), item.OperationID))
}

// remember notes that the controllers are available as the item wants them.
func (m *Manager) remember(ctx context.Context, d *appsv1.Deployment, o *observation) error {
	if o.failure != nil || d.Annotations[acceptedAnnotation] == mark(o.item) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"resourceVersion": d.ResourceVersion, "annotations": map[string]string{acceptedAnnotation: mark(o.item)}}})
	if err != nil {
		return err
	}
	_, err = m.kube.AppsV1().Deployments(Namespace).Patch(ctx, deployment, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) { // Those wake the loop again.
		return fmt.Errorf("annotate Deployment %s: %w", deployment, err)
	}
	return nil
}

// troubles are failures to make pods at all, such as a quota.
func troubles(d *appsv1.Deployment) []resource.ExtensionStatus {
	var list []resource.ExtensionStatus
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
			list = append(list, resource.ExtensionStatus{Code: c.Reason, DisplayStatus: "Pods cannot be made", Level: levelError,
				Message: fmt.Sprintf("Deployment %s/%s: %s", d.Namespace, d.Name, c.Message), Time: stamp(c.LastTransitionTime.Time)})
		}
	}
	return list
}

// podTroubles are the reasons why pods do not run.
func podTroubles(pods []corev1.Pod) []resource.ExtensionStatus {
	var list []resource.ExtensionStatus
	add := func(p corev1.Pod, code, message string) {
		list = append(list, resource.ExtensionStatus{Code: code, DisplayStatus: "Pod is not ready", Level: levelError,
			Message: strings.TrimSuffix(fmt.Sprintf("Pod %s/%s: %s: %s", p.Namespace, p.Name, code, message), ": "), Time: stamp(p.CreationTimestamp.Time)})
	}
	for _, p := range pods {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				add(p, c.Reason, c.Message)
			}
		}
		for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			if w := c.State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
				add(p, w.Reason, w.Message)
			}
			if t := c.LastTerminationState.Terminated; t != nil && !c.Ready {
				add(p, t.Reason, fmt.Sprintf("container %s ended with code %d %s", c.Name, t.ExitCode, t.Message))
			}
		}
	}
	return list
}

// good says that everything is as asked for. Controllers that fail later are
// a status of the extension, not a failure of the operation.
func (o *observation) good() bool { return o.failure == nil && o.rolled }

// observed turns the observation into what the hub is told. A generation is
// accepted when its controllers have been available, or when it has failed for
// good: by the user's mistake, or because its time is over.
func (o *observation) observed(version string, late bool) link.Observed {
	e := &resource.ExtensionObserved{Statuses: []resource.ExtensionStatus{}, CurrentVersion: o.installed}
	out := link.Observed{ID: o.item.ID, Generation: o.item.Generation, OperationID: o.item.OperationID, ProtectedVersion: o.protected, Extension: e}
	when := ""
	if o.release != nil {
		e.AcceptedAt = o.release.Info.LastDeployed.UTC()
		when = stamp(o.release.Info.LastDeployed)
	}
	for _, w := range o.warnings {
		e.Statuses = append(e.Statuses, resource.ExtensionStatus{Code: "SettingWithoutEffect", DisplayStatus: "Setting has no effect", Level: levelWarning, Message: w, Time: when})
	}
	if o.kept != "" && o.installed != version {
		defer func() {
			e.Statuses = append(e.Statuses, resource.ExtensionStatus{Code: "UpgradeAvailable", DisplayStatus: "Upgrade available", Level: levelInformation,
				Message: "version " + version + " is available and not installed: " + o.kept, Time: when})
		}()
	}
	if o.failure != nil {
		o.failed(e, late)
		return out
	}
	if o.available {
		e.Statuses = append(e.Statuses, resource.ExtensionStatus{Code: "InstallationSucceeded", DisplayStatus: "Installed", Level: levelInformation,
			Message: "version " + cmp.Or(o.installed, version) + " is installed and its controllers are available", Time: when})
	} else {
		e.Statuses = append(e.Statuses, o.pods...)
	}
	if o.rolled || late {
		e.AcceptedGeneration = o.item.Generation
	}
	if !o.rolled && late {
		e.Error = &resource.ErrorDetail{Code: "ExtensionOperationFailed", Target: o.item.ID,
			Message: "the controllers of the extension did not become available in time" + first(o.pods)}
	}
	return out
}

// failed reports an operation that ended with an error.
func (o *observation) failed(e *resource.ExtensionObserved, late bool) {
	c := phase.Classify(o.failure)
	code := c.Reason
	if c.Class != phase.ClassStalled {
		code = "ExtensionOperationFailed"
	}
	e.Statuses = append(e.Statuses, resource.ExtensionStatus{Code: code, DisplayStatus: "Failed", Level: levelError, Message: o.failure.Error(), Time: stamp(o.since)})
	e.Statuses = append(e.Statuses, o.pods...)
	if c.Class == phase.ClassStalled || late {
		e.AcceptedGeneration = o.item.Generation
		e.Error = &resource.ErrorDetail{Code: code, Message: o.failure.Error(), Target: o.item.ID}
	}
}

func first(statuses []resource.ExtensionStatus) string {
	if len(statuses) == 0 {
		return ""
	}
	return ": " + statuses[0].Message
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

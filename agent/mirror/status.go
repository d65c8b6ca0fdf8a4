package mirror

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/api/config"
	"headwater.dev/api/resource"
)

// Bounds of a reported status: one configuration must not fill the line to the
// hub.
const (
	maxStatuses = 2000
	maxMessage  = 4 << 10
)

// statusesOf flattens what the controller found: the source, then each
// Kustomization followed by what it applied, sorted.
func statusesOf(fc *config.FluxConfig) []resource.ObjectStatus {
	list := []resource.ObjectStatus{}
	m := fc.Status.ManagedStatuses
	if m == nil {
		return list
	}
	sources := []struct {
		kind   string
		status *config.ManagedStatus
	}{{"GitRepository", m.GitRepository}, {"Bucket", m.Bucket}, {"OCIRepository", m.OCIRepository}}
	for _, s := range sources {
		if s.status != nil {
			list = append(list, objectStatus(s.kind, fc.Namespace+"/"+fc.Name, *s.status, nil))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(m.Kustomizations)) {
		k := m.Kustomizations[key]
		list = append(list, objectStatus("Kustomization", key, k.ManagedStatus, nil))
		list = append(list, childrenOf(key, k.ChildStatuses)...)
	}
	return list[:min(len(list), maxStatuses)]
}

func childrenOf(parent string, c *config.ChildStatuses) []resource.ObjectStatus {
	if c == nil {
		return nil
	}
	namespace, name := split(parent)
	by := &resource.ObjectReference{Namespace: namespace, Name: name}
	kinds := []struct {
		kind     string
		statuses map[string]config.ManagedStatus
	}{
		{"Bucket", c.Bucket}, {"GitRepository", c.GitRepository}, {"HelmChart", c.HelmChart},
		{"HelmRelease", c.HelmRelease}, {"HelmRepository", c.HelmRepository},
		{"Kustomization", c.Kustomization}, {"OCIRepository", c.OCIRepository},
	}
	var list []resource.ObjectStatus
	for _, k := range kinds {
		for _, key := range slices.Sorted(maps.Keys(k.statuses)) {
			list = append(list, objectStatus(k.kind, key, k.statuses[key], by))
		}
	}
	return list
}

func objectStatus(kind, key string, s config.ManagedStatus, by *resource.ObjectReference) resource.ObjectStatus {
	namespace, name := split(key)
	o := resource.ObjectStatus{
		Name: name, Namespace: namespace, Kind: kind,
		ComplianceState:  cmp.Or(s.ComplianceState, resource.Unknown),
		AppliedBy:        by,
		StatusConditions: []resource.StatusCondition{},
	}
	for _, c := range s.Conditions {
		o.StatusConditions = append(o.StatusConditions, resource.StatusCondition{
			LastTransitionTime: c.LastTransitionTime.UTC(),
			Message:            clip(c.Message), Reason: c.Reason, Status: string(c.Status), Type: c.Type,
		})
	}
	if h := s.HelmReleaseProperties; h != nil {
		o.HelmReleaseProperties = &resource.HelmReleaseProperties{
			LastRevisionApplied: h.LastRevisionApplied, FailureCount: h.FailureCount,
			InstallFailureCount: h.InstallFailureCount, UpgradeFailureCount: h.UpgradeFailureCount,
		}
		if r := h.HelmChartRef; r != nil {
			o.HelmReleaseProperties.HelmChartRef = &resource.ObjectReference{Name: r.Name, Namespace: r.Namespace}
		}
	}
	return o
}

// errorMessage is the failure that explains the others: a failure of its own
// before one that waits for another object, and among equals the first.
func errorMessage(fc *config.FluxConfig, list []resource.ObjectStatus) string {
	if fc.Status.ProvisioningState == resource.Failed && fc.Status.Message != "" {
		return clip(fc.Status.Message)
	}
	best, message := 0, ""
	for _, o := range list {
		c, weight := failure(o)
		if weight > best {
			best = weight
			message = clip(fmt.Sprintf("%s %s/%s: %s: %s", o.Kind, o.Namespace, o.Name, c.Reason, c.Message))
		}
	}
	return message
}

// failure finds the condition that says why an object has failed, with a
// weight that is higher the nearer it is to the cause; 0 means no failure.
func failure(o resource.ObjectStatus) (resource.StatusCondition, int) {
	for _, kind := range []struct{ condition, status string }{{"Stalled", "True"}, {"Ready", "False"}} {
		for _, c := range o.StatusConditions {
			if c.Type != kind.condition || c.Status != kind.status {
				continue
			}
			switch c.Reason {
			case "DependencyNotReady", "SourceNotReady", "ArtifactNotReady":
				return c, 1
			case "HealthCheckFailed", "ReconciliationFailed":
				return c, 2
			default:
				return c, 3
			}
		}
	}
	return resource.StatusCondition{}, 0
}

// compliance is the state of the whole at the newest generation.
func compliance(fc *config.FluxConfig) string {
	switch {
	case fc.Spec.Suspend:
		return resource.Suspended
	case fc.Status.ObservedGeneration < fc.Generation:
		return resource.Pending
	default:
		return cmp.Or(fc.Status.ComplianceState, resource.Pending)
	}
}

func timeOf(t *metav1.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	utc := t.UTC()
	return &utc
}

func split(key string) (namespace, name string) {
	namespace, name, found := strings.Cut(key, "/")
	if !found {
		return "", key
	}
	return namespace, name
}

// clip bounds a message without cutting a character.
func clip(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	end := maxMessage
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}

package mirror

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/api/config"
	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/kernel/phase"
)

func at() metav1.Time { return metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) }

func state(compliance, status, reason, message string) config.ManagedStatus {
	return config.ManagedStatus{ComplianceState: compliance, Conditions: []metav1.Condition{
		{Type: "Ready", Status: metav1.ConditionStatus(status), Reason: reason, Message: message, LastTransitionTime: at()}}}
}

func reconciled(m *config.ManagedStatuses) *config.FluxConfig {
	return &config.FluxConfig{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cfg", Generation: 3, Annotations: map[string]string{
			config.AnnotationGeneration: "7", annotationAcceptedAt: "2026-01-02T03:04:05Z"}},
		Status: config.FluxConfigStatus{ObservedGeneration: 3, ComplianceState: resource.NonCompliant, ManagedStatuses: m},
	}
}

func TestStatusesOf(t *testing.T) {
	release := state(resource.Compliant, "True", "UpgradeSucceeded", "ok")
	release.HelmReleaseProperties = &config.HelmReleaseProperties{LastRevisionApplied: 2, FailureCount: 1, HelmChartRef: &meta.NamespacedObjectReference{Namespace: "ns", Name: "ns-web"}}
	source := state(resource.Compliant, "True", "Succeeded", "stored")
	fc := reconciled(&config.ManagedStatuses{
		GitRepository: &source,
		Kustomizations: map[string]config.KustomizationStatus{
			"ns/cfg-b": {ManagedStatus: config.ManagedStatus{}},
			"ns/cfg-a": {ManagedStatus: state(resource.Compliant, "True", "ReconciliationSucceeded", "applied"),
				ChildStatuses: &config.ChildStatuses{HelmRelease: map[string]config.ManagedStatus{"web/web": release}, HelmRepository: map[string]config.ManagedStatus{"web/repo": {}}}},
		},
	})
	condition := func(reason, message string) []resource.StatusCondition {
		return []resource.StatusCondition{{LastTransitionTime: at().Time, Message: message, Reason: reason, Status: "True", Type: "Ready"}}
	}
	by := &resource.ObjectReference{Name: "cfg-a", Namespace: "ns"}
	want := []resource.ObjectStatus{
		{Name: "cfg", Namespace: "ns", Kind: "GitRepository", ComplianceState: resource.Compliant, StatusConditions: condition("Succeeded", "stored")},
		{Name: "cfg-a", Namespace: "ns", Kind: "Kustomization", ComplianceState: resource.Compliant, StatusConditions: condition("ReconciliationSucceeded", "applied")},
		{Name: "web", Namespace: "web", Kind: "HelmRelease", ComplianceState: resource.Compliant, AppliedBy: by, StatusConditions: condition("UpgradeSucceeded", "ok"),
			HelmReleaseProperties: &resource.HelmReleaseProperties{LastRevisionApplied: 2, FailureCount: 1, HelmChartRef: &resource.ObjectReference{Namespace: "ns", Name: "ns-web"}}},
		{Name: "repo", Namespace: "web", Kind: "HelmRepository", ComplianceState: resource.Unknown, AppliedBy: by, StatusConditions: []resource.StatusCondition{}},
		{Name: "cfg-b", Namespace: "ns", Kind: "Kustomization", ComplianceState: resource.Unknown, StatusConditions: []resource.StatusCondition{}},
	}
	if diff := cmp.Diff(want, statusesOf(fc)); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
}

func TestErrorMessageNamesTheCause(t *testing.T) {
	failed := func(reason, message string) config.ManagedStatus {
		return state(resource.NonCompliant, "False", reason, message)
	}
	source := failed("GitOperationFailed", "no such branch")
	cases := map[string]struct {
		why  string
		in   *config.ManagedStatuses
		want string
	}{
		"nothing": {"no failure, no message", nil, ""},
		"source first": {"dependents of a failed source only wait",
			&config.ManagedStatuses{GitRepository: &source, Kustomizations: map[string]config.KustomizationStatus{"ns/cfg-a": {ManagedStatus: failed("ArtifactNotReady", "wait")}}},
			"GitRepository ns/cfg: GitOperationFailed: no such branch"},
		"cause before dependents": {"apps waits for infra, which is broken",
			&config.ManagedStatuses{Kustomizations: map[string]config.KustomizationStatus{
				"ns/cfg-apps": {ManagedStatus: failed("DependencyNotReady", "wait")}, "ns/cfg-infra": {ManagedStatus: failed("BuildFailed", "bad yaml")}}},
			"Kustomization ns/cfg-infra: BuildFailed: bad yaml"},
		"child before health": {"the release explains why its Kustomization is unhealthy",
			&config.ManagedStatuses{Kustomizations: map[string]config.KustomizationStatus{"ns/cfg-apps": {ManagedStatus: failed("HealthCheckFailed", "release"),
				ChildStatuses: &config.ChildStatuses{HelmRelease: map[string]config.ManagedStatus{"web/web": failed("InstallFailed", "no image")}}}}},
			"HelmRelease web/web: InstallFailed: no image"},
		"unknown is no failure": {"work in progress is not an error",
			&config.ManagedStatuses{Kustomizations: map[string]config.KustomizationStatus{"ns/cfg-a": {ManagedStatus: state(resource.Pending, "Unknown", "Progressing", "…")}}}, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			fc := reconciled(c.in)
			if got := errorMessage(fc, statusesOf(fc)); got != c.want {
				t.Errorf("%s: got %q, want %q", c.why, got, c.want)
			}
		})
	}
}

func TestObserve(t *testing.T) {
	item := link.Item{ID: "/x", Name: "cfg", Generation: 8, ProtectedVersion: "v2", OperationID: "new"}
	stale, suspended, older := reconciled(nil), reconciled(nil), reconciled(nil)
	stale.Status.ObservedGeneration = 2
	suspended.Spec.Suspend = true
	suspended.Annotations[config.AnnotationProtectedVersion] = "v2"
	older.Annotations[config.AnnotationGeneration] = "40"
	same, again := reconciled(nil), reconciled(nil)
	for fc, operation := range map[*config.FluxConfig]string{same: "new", again: "old"} {
		fc.Annotations[config.AnnotationGeneration] = "8"
		fc.Labels = map[string]string{config.LabelOperationID: operation}
	}
	cases := map[string]struct {
		why                  string
		fc                   *config.FluxConfig
		failure              error
		accepted, status     int64
		compliance, code, ak string
	}{
		"in the cluster":                     {"the older generation is accepted", reconciled(nil), nil, 7, 7, resource.NonCompliant, "", ""},
		"not looked at yet":                  {"what the controller said before does not count", stale, nil, 7, 0, resource.Pending, "", ""},
		"suspended":                          {"suspension is seen at once, settings are acknowledged", suspended, nil, 7, 7, resource.Suspended, "", "v2"},
		"not there":                          {"waiting", nil, nil, 0, 0, resource.Pending, "", ""},
		"refused":                            {"a refusal answers the generation", nil, phase.Stalled("NotAllowed", errors.New("no")), 8, 0, resource.NonCompliant, "NotAllowed", ""},
		"API server away":                    {"a failure that goes away leaves it open", reconciled(nil), errors.New("refused"), 7, 7, resource.NonCompliant, "", ""},
		"this operation's":                   {"its generation is in the cluster", same, nil, 8, 8, resource.NonCompliant, "", ""},
		"made anew, and the API server away": {"the same generation, of the life before", again, errors.New("refused"), 0, 0, resource.NonCompliant, "", ""},
		"another life of it":                 {"the generation of a resource that was deleted by force is not ours", older, nil, 0, 0, resource.NonCompliant, "", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			o := observe(item, c.fc, c.failure)
			code := ""
			if o.Configuration.Error != nil {
				code = o.Configuration.Error.Code
			}
			got := []any{o.Configuration.AcceptedGeneration, o.Configuration.StatusGeneration, o.Configuration.ComplianceState, code, o.ProtectedVersion}
			if diff := cmp.Diff([]any{c.accepted, c.status, c.compliance, c.code, c.ak}, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.why, diff)
			}
		})
	}
}

func TestObserveWhatWasReached(t *testing.T) {
	fc := reconciled(nil)
	fc.Status.LastCompliantGeneration, fc.Status.LastHandledReconcileAt = fc.Generation, "2026-01-02T03:04:05Z"
	o := observe(link.Item{ID: "/x", Generation: 8}, fc, nil).Configuration
	if o.SettledGeneration != 7 || o.LastHandledReconcileAt != "2026-01-02T03:04:05Z" {
		t.Errorf("observed %+v", o)
	}
	fc.Generation++ // a later change has not been compliant
	if o := observe(link.Item{ID: "/x", Generation: 8}, fc, nil).Configuration; o.SettledGeneration != 0 {
		t.Errorf("observed %+v", o)
	}
}

func TestClipKeepsCharactersWhole(t *testing.T) {
	got := clip(strings.Repeat("é", maxMessage))
	if len(got) > maxMessage+len("…") || strings.ContainsRune(got, '\uFFFD') {
		t.Errorf("clipped to %d bytes", len(got))
	}
}

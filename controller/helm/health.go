package helm

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	"github.com/fluxcd/pkg/runtime/conditions"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/release"
)

// shownObjects is how many objects a message names.
const shownObjects = 3

// health of the objects of a release.
type health struct {
	// Pending and Failed name objects and why.
	Pending, Failed []string
}

func (h health) ready() bool { return len(h.Pending) == 0 && len(h.Failed) == 0 }

// awaitHealth returns nil when the newest revision is healthy, a parked error
// while it is on its way, and errUnhealthy when it has failed or its time is
// up.
func (l *loop) awaitHealth(ctx context.Context, s *scope) error {
	action, timeout, wait := waiting(s.hr)
	if !wait {
		return nil
	}
	rel := s.history[0]
	objs, err := s.releases.Objects(rel)
	if err != nil {
		return err
	}
	h, err := l.observeHealth(ctx, s, rel, objs)
	if err != nil {
		return err
	}
	if h.ready() {
		l.watches.drop(keyOf(s.hr))
		return nil
	}
	if len(h.Failed) > 0 {
		l.watches.drop(keyOf(s.hr))
		return &unhealthyError{message: "failed: " + list(h.Failed)}
	}
	left := waitingSince(s.hr, rel).Add(timeout).Sub(l.now())
	if left <= 0 {
		l.watches.drop(keyOf(s.hr))
		return &unhealthyError{message: fmt.Sprintf("timeout of %s exceeded, not ready: %s", timeout, list(h.Pending))}
	}
	message := fmt.Sprintf("Running '%s' action with timeout of %s: waiting for %s", action, timeout, list(h.Pending))
	conditions.MarkUnknown(s.hr, v2.ReleasedCondition, "Progressing", "%s", message)
	return phase.Progressing("Progressing", left, fmt.Errorf("%s", message))
}

// unhealthyError says that a release did not become ready.
type unhealthyError struct{ message string }

func (e *unhealthyError) Error() string { return e.message }

// waiting returns the action that made the newest revision, how long its
// objects may take, and whether anybody wants to know.
func waiting(hr *v2.HelmRelease) (v2.ReleaseAction, time.Duration, bool) {
	if last := hr.Status.History.Latest(); last.GetAction() == v2.ReleaseActionInstall {
		i := hr.GetInstall()
		return v2.ReleaseActionInstall, i.GetTimeout(hr.GetTimeout()).Duration, !i.DisableWait
	}
	u := hr.GetUpgrade()
	return v2.ReleaseActionUpgrade, u.GetTimeout(hr.GetTimeout()).Duration, !u.DisableWait
}

// waitForJobs reports whether Jobs have to complete.
func waitForJobs(hr *v2.HelmRelease, action v2.ReleaseAction) bool {
	if action == v2.ReleaseActionInstall {
		return !hr.GetInstall().DisableWaitForJobs
	}
	return !hr.GetUpgrade().DisableWaitForJobs
}

// waitingSince is when the wait began: when the revision was written, or when
// status was first set to waiting, whichever is later.
func waitingSince(hr *v2.HelmRelease, rel *release.Release) time.Time {
	since := rel.Info.LastDeployed
	c := conditions.Get(hr, v2.ReleasedCondition)
	if c == nil || c.Status != "Unknown" {
		return time.Now()
	}
	if c.LastTransitionTime.After(since) {
		return c.LastTransitionTime.Time
	}
	return since
}

func (l *loop) observeHealth(ctx context.Context, s *scope, rel *release.Release, objs []*unstructured.Unstructured) (health, error) {
	w, err := l.watches.follow(s.hr, fmt.Sprintf("%s/%s.v%d", rel.Namespace, rel.Name, rel.Version), s.access, objs)
	if err != nil {
		return health{}, err
	}
	custom, err := newCustomHealth(s.hr.Spec.HealthCheckExprs)
	if err != nil {
		return health{}, phase.Stalled("InvalidCELExpression", fmt.Errorf("spec.healthCheckExprs: %w", err))
	}
	action, _, _ := waiting(s.hr)
	jobs := waitForJobs(s.hr, action)
	var h health
	for _, o := range objs {
		live, err := w.live(s.access.Mapper, o)
		switch {
		case err != nil:
			h.Pending = append(h.Pending, fmt.Sprintf("%s (%s)", describeObject(o), err))
			continue
		case live == nil && w.synced():
			h.Pending = append(h.Pending, describeObject(o)+" (not found)")
			continue
		case live == nil:
			h.Pending = append(h.Pending, describeObject(o)+" (not observed yet)")
			continue
		}
		st, message := evaluateHealth(ctx, live, jobs, custom)
		switch st {
		case status.CurrentStatus:
		case status.FailedStatus:
			h.Failed = append(h.Failed, fmt.Sprintf("%s (%s)", describeObject(o), message))
		default:
			h.Pending = append(h.Pending, fmt.Sprintf("%s (%s)", describeObject(o), message))
		}
	}
	return h, nil
}

// evaluateHealth computes the status of an object.
func evaluateHealth(ctx context.Context, o *unstructured.Unstructured, jobs bool, custom customHealth) (status.Status, string) {
	if e := custom.find(o); e != nil {
		r, err := e.Evaluate(ctx, o)
		if err != nil {
			return status.InProgressStatus, err.Error()
		}
		return r.Status, r.Message
	}
	r, err := status.Compute(o)
	if err != nil {
		return status.InProgressStatus, err.Error()
	}
	if jobs && r.Status == status.CurrentStatus && o.GroupVersionKind().GroupKind().String() == "Job.batch" {
		if !completed(o) {
			return status.InProgressStatus, "Job has not completed"
		}
	}
	return r.Status, r.Message
}

func completed(job *unstructured.Unstructured) bool {
	conds, _, _ := unstructured.NestedSlice(job.Object, "status", "conditions")
	for _, c := range conds {
		m, ok := c.(map[string]any)
		if ok && m["type"] == "Complete" && m["status"] == "True" {
			return true
		}
	}
	return false
}

// list names some objects and counts the rest.
func list(lines []string) string {
	lines = sorted(lines)
	if len(lines) > shownObjects {
		return fmt.Sprintf("%s and %d more", strings.Join(lines[:shownObjects], ", "), len(lines)-shownObjects)
	}
	return strings.Join(lines, ", ")
}

// customHealth is the user's own idea of health, by group and kind; a kind of
// "" means the whole group.
type customHealth map[schema.GroupKind]*cel.StatusEvaluator

func newCustomHealth(checks []kustomize.CustomHealthCheck) (customHealth, error) {
	out := customHealth{}
	for i, c := range checks {
		gv, err := schema.ParseGroupVersion(c.APIVersion)
		if err != nil {
			return nil, fmt.Errorf("[%d].apiVersion: %w", i, err)
		}
		e, err := cel.NewStatusEvaluator(&c.HealthCheckExpressions)
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		out[schema.GroupKind{Group: gv.Group, Kind: c.Kind}] = e
	}
	return out, nil
}

func (c customHealth) find(o *unstructured.Unstructured) *cel.StatusEvaluator {
	gk := o.GroupVersionKind().GroupKind()
	if e, ok := c[gk]; ok {
		return e
	}
	return c[schema.GroupKind{Group: gk.Group}]
}

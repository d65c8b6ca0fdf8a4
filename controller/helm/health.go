package helm

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"headwater.dev/kernel/apply"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/release"
)

// shownObjects is how many objects a message names.
const shownObjects = 3

// lookAgain is how soon objects are looked at again that could not be judged.
const lookAgain = 5 * time.Second

// health of the objects of a release.
type health struct {
	// Pending and Failed name objects and why.
	Pending, Failed []string
	// GivenUp is set when a rule took too long: nothing but another look ends that.
	GivenUp bool
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
	h, err := l.observeHealth(ctx, s, objs)
	if err != nil {
		return err
	}
	if h.ready() {
		l.watcher.Forget(keyOf(s.hr))
		return nil
	}
	if len(h.Failed) > 0 {
		l.watcher.Forget(keyOf(s.hr))
		return &unhealthyError{message: "failed: " + list(h.Failed)}
	}
	left := waitingSince(s.hr, rel).Add(timeout).Sub(l.now())
	if left <= 0 {
		l.watcher.Forget(keyOf(s.hr))
		return &unhealthyError{message: fmt.Sprintf("timeout of %s exceeded, not ready: %s", timeout, list(h.Pending))}
	}
	message := fmt.Sprintf("Running '%s' action with timeout of %s: waiting for %s", action, timeout, list(h.Pending))
	conditions.MarkUnknown(s.hr, v2.ReleasedCondition, "Progressing", "%s", message)
	if h.GivenUp {
		left = min(left, lookAgain)
	}
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

// observeHealth takes the state of the objects from the watches. What this
// reconcile has just written is read once, because the watches may not have
// seen it yet.
func (l *loop) observeHealth(ctx context.Context, s *scope, objs []*unstructured.Unstructured) (health, error) {
	judge, err := judgeOf(s.hr)
	if err != nil {
		return health{}, phase.Stalled(meta.InvalidCELExpressionReason, fmt.Errorf("spec.healthCheckExprs: %w", err))
	}
	who := s.tenant()
	refs := make([]apply.Ref, 0, len(objs))
	for _, o := range objs {
		refs = append(refs, apply.RefOf(o))
	}
	l.watcher.Track(apply.Interest{Tenant: who, Objects: refs, Judge: judge})
	blind := l.watcher.Blind(who.Owner)
	var h health
	for _, ref := range refs {
		live, known := l.watcher.Live(who, ref)
		if s.wrote || slices.Contains(blind, ref) || live.Unjudged && !h.GivenUp {
			if live, err = l.watcher.Get(ctx, who, ref); err != nil {
				return health{}, fmt.Errorf("read %s: %w", ref, err)
			}
			known, h.GivenUp = true, h.GivenUp || live.Unjudged
		}
		switch {
		case !known:
			h.Pending = append(h.Pending, fmt.Sprintf("%s (not observed yet)", ref))
		case !live.Exists:
			h.Pending = append(h.Pending, fmt.Sprintf("%s (not found)", ref))
		case live.Health == apply.Failed:
			h.Failed = append(h.Failed, fmt.Sprintf("%s (%s)", ref, live.Message))
		case live.Health != apply.Current:
			h.Pending = append(h.Pending, fmt.Sprintf("%s (%s)", ref, live.Message))
		}
	}
	s.wrote = false
	return h, nil
}

// judgeOf is the user's own idea of health, and whether Jobs have to complete.
func judgeOf(hr *v2.HelmRelease) (apply.Judge, error) {
	out := apply.Judge{}
	if action, _, _ := waiting(hr); !waitForJobs(hr, action) {
		out[schema.GroupKind{Group: "batch", Kind: "Job"}] = apply.Rule{Text: "started", Health: func(u *unstructured.Unstructured) (apply.Health, string, bool) {
			health, message := verdict(status.Compute(u))
			return health, message, true
		}}
	}
	for i, c := range hr.Spec.HealthCheckExprs {
		gv, err := schema.ParseGroupVersion(c.APIVersion)
		if err != nil {
			return nil, fmt.Errorf("[%d].apiVersion: %w", i, err)
		}
		if c.Kind == "" {
			return nil, fmt.Errorf("[%d].kind: name the kind that the expressions are for", i)
		}
		rule, err := apply.Expressed(&c.HealthCheckExpressions)
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		out[schema.GroupKind{Group: gv.Group, Kind: c.Kind}] = rule
	}
	return out, nil
}

func verdict(r *status.Result, err error) (apply.Health, string) {
	if err != nil {
		return apply.InProgress, err.Error()
	}
	return r.Status, r.Message
}

// list names some objects and counts the rest.
func list(lines []string) string {
	slices.Sort(lines)
	if len(lines) > shownObjects {
		return fmt.Sprintf("%s and %d more", strings.Join(lines[:shownObjects], ", "), len(lines)-shownObjects)
	}
	return strings.Join(lines, ", ")
}

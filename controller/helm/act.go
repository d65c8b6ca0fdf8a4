package helm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/runtime/conditions"
	hrelease "helm.sh/helm/v4/pkg/release/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"headwater.dev/kernel/event"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/release"
)

// maxSteps bounds the steps of one reconcile; more would be a cycle.
const maxSteps = 8

// converge observes, decides and acts until the release is done, parked or
// given up. An unchanged release that was verified within the interval is left
// alone without a request.
func (l *loop) converge(ctx context.Context, s *scope) error {
	interval := s.hr.Spec.Interval.Duration
	s.requeue = interval
	if l.disturbed(s) {
		l.ledger.forget(keyOf(s.hr))
	}
	if left := l.ledger.fresh(keyOf(s.hr), s.inputs(), l.now(), interval); left > 0 && conditions.IsReady(s.hr) && !s.force {
		s.requeue = left
		return nil
	}
	chart, err := l.loadChart(ctx, s)
	if err != nil {
		return err
	}
	l.want(s, chart)
	failed := false
	for range maxSteps {
		sit, err := l.observe(ctx, s)
		if err != nil {
			return phase.Transient("StorageError", s.hide(err))
		}
		if d := decide(sit); failed && (d.Step == stepInstall || d.Step == stepUpgrade) {
			return l.retry(s)
		}
		done, err := l.act(ctx, s, sit)
		var bad *attemptError
		switch {
		case errors.As(err, &bad):
			failed = true
		case err != nil || done:
			return err
		}
	}
	return phase.Transient("Progressing", fmt.Errorf("release %s needs more than %d steps", fullName(s), maxSteps))
}

// attemptError is a failed install, upgrade or test, which counts and may be
// remediated.
type attemptError struct{ error }

// retry ends a reconcile whose attempt failed and that has attempts left.
func (l *loop) retry(s *scope) error {
	reason, message := outcome(s.hr)
	err := errors.New(message)
	if r := s.hr.GetActiveRetry(false); r != nil {
		return phase.RetryAfter(reason, r.GetRetryInterval(), err)
	}
	return phase.Transient(reason, err)
}

// outcome is what the Released condition, or that of the tests, says.
func outcome(hr *v2.HelmRelease) (string, string) {
	for _, t := range []string{v2.ReleasedCondition, v2.TestSuccessCondition} {
		if c := conditions.Get(hr, t); c != nil && c.Status == "False" {
			return c.Reason, c.Message
		}
	}
	return "RetriesExceeded", ""
}

// act takes the next step. It reports whether the release is done.
func (l *loop) act(ctx context.Context, s *scope, sit situation) (bool, error) {
	d := decide(sit)
	log.FromContext(ctx).V(1).Info("decided", "step", d.Step, "why", d.Why)
	switch d.Step {
	case stepDone:
		return true, l.finish(s)
	case stepAwait:
		return false, l.await(ctx, s)
	case stepInstall:
		return false, l.install(ctx, s)
	case stepUpgrade:
		if sit.Last != nil && sit.Last.Version >= sit.Stored.Version && !sit.Stored.Ours {
			s.hr.Status.ClearHistory() // somebody else made the revision that we remember
		}
		return false, l.upgrade(ctx, s)
	case stepTest:
		return false, l.test(ctx, s)
	case stepDrift:
		return false, l.checkDrift(ctx, s)
	case stepUnlock:
		return false, l.unlock(ctx, s)
	case stepRollback:
		return false, l.rollback(ctx, s, d.To)
	case stepUninstall:
		return false, l.uninstall(ctx, s, d.Why)
	case stepReplace:
		return false, l.replace(ctx, s, d.Why)
	default:
		reason, message := outcome(s.hr)
		if message == "" {
			message = d.Why
		}
		return true, phase.Stalled(reason, errors.New(message))
	}
}

// finish notes that everything is as wanted.
func (l *loop) finish(s *scope) error {
	s.hr.Status.ClearFailures()
	s.hr.Status.LastAttemptedConfigDigest = s.wanted.ConfigDigest
	if len(s.history) > 0 {
		inv, err := inventory(s)
		if err != nil {
			return err
		}
		s.hr.Status.Inventory = inv
	}
	if !s.drift().MustDetectChanges() {
		conditions.Delete(s.hr, v2.DriftedCondition)
		l.watcher.Forget(keyOf(s.hr))
	}
	l.ledger.verified(keyOf(s.hr), s.inputs(), l.now())
	return nil
}

// await waits, parked, for the objects of the newest revision.
func (l *loop) await(ctx context.Context, s *scope) error {
	err := l.awaitHealth(ctx, s)
	var bad *unhealthyError
	if errors.As(err, &bad) {
		rel := s.history[0]
		if err := s.releases.MarkFailed(ctx, rel, s.wanted.StorageNamespace, bad.message); err != nil {
			return phase.Transient("StorageError", s.hide(err))
		}
		action := s.hr.Status.History.Latest().GetAction()
		remember(s.hr, snapshot(rel, action, s.source.ociDigest), ignoreTests(s.hr))
		return l.attemptFailed(s, action, errors.New(bad.message))
	}
	if err != nil {
		return err
	}
	last := s.hr.Status.History.Latest()
	reason, verb := v2.UpgradeSucceededReason, "upgrade"
	if last.GetAction() == v2.ReleaseActionInstall {
		reason, verb = v2.InstallSucceededReason, "install"
	}
	message := fmt.Sprintf("Helm %s succeeded for release %s", verb, describeSnapshot(last))
	conditions.MarkTrue(s.hr, v2.ReleasedCondition, reason, "%s", message)
	conditions.Delete(s.hr, v2.RemediatedCondition)
	s.event = &event.Event{Severity: event.Info, Reason: reason, Message: message, Metadata: l.metadata(s)}
	return nil
}

// attempt is what an install or an upgrade has in common.
func (l *loop) attempt(ctx context.Context, s *scope, action v2.ReleaseAction, do func(release.Request) (*release.Release, error)) error {
	chart, err := l.loadChart(ctx, s)
	if err != nil {
		return err
	}
	hr := s.hr
	s.force, s.wanted.Force = false, false
	hr.Status.LastAttemptedReleaseAction = action
	hr.Status.LastAttemptedConfigDigest = s.wanted.ConfigDigest
	hr.Status.ObservedPostRenderersDigest = s.wanted.RenderDigest
	hr.Status.StorageNamespace = s.wanted.StorageNamespace
	conditions.Delete(hr, v2.TestSuccessCondition)
	l.watcher.Forget(keyOf(hr))
	l.ledger.forget(keyOf(hr))

	s.wrote, s.known = true, false
	start := l.now()
	rel, err := do(l.request(s, chart))
	hr.Status.LastAttemptedReleaseActionDuration = since(start, l.now())
	if rel != nil && rel.Version > 0 && (err == nil || l.isStored(ctx, s, rel)) {
		remember(hr, snapshot(rel, action, s.source.ociDigest), ignoreTests(hr))
	}
	if err != nil {
		return l.attemptFailed(s, action, err)
	}
	s.history, s.known = append([]*release.Release{rel}, s.history...), true
	conditions.MarkUnknown(hr, v2.ReleasedCondition, "Progressing", "release %s is written, its health is not known yet", fullName(s))
	return nil
}

// isStored reports whether a failed attempt left its revision in storage.
func (l *loop) isStored(ctx context.Context, s *scope, rel *release.Release) bool {
	last, err := s.releases.Last(ctx, s.wanted.Name, s.wanted.StorageNamespace)
	return err == nil && last.Version == rel.Version
}

// attemptFailed counts a failure and says it in the Released condition.
func (l *loop) attemptFailed(s *scope, action v2.ReleaseAction, err error) error {
	hr := s.hr
	hr.Status.Failures++
	reason, verb := v2.UpgradeFailedReason, "upgrade"
	if action == v2.ReleaseActionInstall {
		reason, verb = v2.InstallFailedReason, "install"
		hr.Status.InstallFailures++
	} else {
		hr.Status.UpgradeFailures++
	}
	message := fmt.Sprintf("Helm %s failed for release %s with chart %s@%s: %s",
		verb, fullName(s), s.wanted.ChartName, s.wanted.ChartVersion, s.hide(err))
	conditions.MarkFalse(hr, v2.ReleasedCondition, reason, "%s", message)
	conditions.Delete(hr, v2.RemediatedCondition)
	return &attemptError{errors.New(message)}
}

// install starts a new history: what status remembers is not in storage.
func (l *loop) install(ctx context.Context, s *scope) error {
	s.hr.Status.ClearHistory()
	return l.attempt(ctx, s, v2.ReleaseActionInstall, func(req release.Request) (*release.Release, error) {
		return s.releases.Install(ctx, req)
	})
}

func (l *loop) upgrade(ctx context.Context, s *scope) error {
	return l.attempt(ctx, s, v2.ReleaseActionUpgrade, func(req release.Request) (*release.Release, error) {
		return s.releases.Upgrade(ctx, upgradeOptions(s.hr, req))
	})
}

func (l *loop) unlock(ctx context.Context, s *scope) error {
	s.known = false
	rel, err := s.releases.Unlock(ctx, s.wanted.Name, s.wanted.StorageNamespace, 0)
	if err != nil {
		return phase.Transient("StorageError", s.hide(err))
	}
	action := v2.ReleaseActionUpgrade
	if rel.Version == 1 {
		action = v2.ReleaseActionInstall
	}
	snap := snapshot(rel, action, "")
	l.tell(ctx, s, event.Info, "PendingRelease", fmt.Sprintf("Unlocked Helm release %s", describeSnapshot(snap)))
	return nil
}

// tell records an event in the middle of a reconcile.
func (l *loop) tell(ctx context.Context, s *scope, severity event.Severity, reason, message string) {
	if l.events != nil {
		l.events.Record(ctx, s.hr, event.Event{Severity: severity, Reason: reason, Message: message, Metadata: l.metadata(s)})
	}
}

// hide returns the error without values that came from Secrets.
func (s *scope) hide(err error) error {
	if len(s.secrets) == 0 {
		return err
	}
	return errors.New(redacted(err.Error(), s.secrets))
}

// shorten cuts a release name to 53 characters; a digest keeps it unique.
func shorten(name string) string {
	const longest, digest = 53, 12
	if len(name) <= longest {
		return name
	}
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(name)))
	return name[:longest-digest-1] + "-" + sum[:digest]
}

// test runs the tests of the newest revision and notes the outcome of each.
func (l *loop) test(ctx context.Context, s *scope) error {
	hr, conf := s.hr, s.hr.GetTest()
	var filters []release.Filter
	for _, f := range conf.GetFilters() {
		filters = append(filters, release.Filter{Name: f.Name, Exclude: f.Exclude})
	}
	req := release.Request{Name: s.wanted.Name, Namespace: s.wanted.Namespace, StorageNamespace: s.wanted.StorageNamespace}
	req.HookTimeout = conf.GetTimeout(hr.GetTimeout()).Duration
	last := hr.Status.History.Latest()
	action := last.GetAction()
	s.known = false
	rel, err := s.releases.Test(ctx, req, filters)
	hooks := map[string]*v2.TestHookStatus{}
	if rel != nil {
		hooks = testHooks(rel)
		remember(hr, snapshot(rel, action, last.OCIDigest), ignoreTests(hr))
	}
	last = hr.Status.History.Latest()
	last.SetTestHooks(hooks)
	if err == nil {
		message := fmt.Sprintf("Helm test succeeded for release %s: %d test hook(s) completed successfully", describeSnapshot(last), len(hooks))
		conditions.MarkTrue(hr, v2.TestSuccessCondition, v2.TestSucceededReason, "%s", message)
		if e := s.event; e != nil {
			l.tell(ctx, s, e.Severity, e.Reason, e.Message)
		}
		s.event = &event.Event{Severity: event.Info, Reason: v2.TestSucceededReason, Message: message, Metadata: l.metadata(s)}
		return nil
	}
	message := fmt.Sprintf("Helm test failed for release %s: %s", describeSnapshot(last), s.hide(err))
	conditions.MarkFalse(hr, v2.TestSuccessCondition, v2.TestFailedReason, "%s", message)
	l.tell(ctx, s, event.Error, v2.TestFailedReason, message)
	if ignoreTests(hr) {
		return nil
	}
	if rel != nil {
		if err := s.releases.MarkFailed(ctx, rel, s.wanted.StorageNamespace, message); err != nil {
			return s.hide(err)
		}
		remember(hr, snapshot(rel, action, last.OCIDigest), false)
	}
	return l.attemptFailed(s, action, errors.New(message))
}

// testHooks are the tests that ran and how they ended.
func testHooks(rel *release.Release) map[string]*v2.TestHookStatus {
	out := map[string]*v2.TestHookStatus{}
	for _, h := range rel.Hooks {
		for _, e := range h.Events {
			if e != hrelease.HookTest {
				continue
			}
			out[h.Name] = &v2.TestHookStatus{
				LastStarted:   metav1.NewTime(h.LastRun.StartedAt),
				LastCompleted: metav1.NewTime(h.LastRun.CompletedAt),
				Phase:         h.LastRun.Phase.String(),
			}
		}
	}
	return out
}

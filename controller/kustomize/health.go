package kustomize

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/kernel/apply"
	"headwater.dev/kernel/event"
	"headwater.dev/kernel/phase"
)

// checkHealth parks the Kustomization until its objects are healthy: the
// Watcher brings it back. Content that was healthy once may be busy for as long
// as the timeout without being called unhealthy.
func (l *loop) checkHealth(ctx context.Context, s *scope) error {
	if !waits(s.obj) {
		conditions.Delete(s.obj, meta.HealthyCondition)
		l.memory.set(s.key, s.known)
		return nil
	}
	refs := s.checked()
	read, polled, err := l.look(ctx, s, refs)
	if err != nil {
		return retry(s.obj, meta.HealthCheckFailedReason, err)
	}
	v := judgeAll(refs, func(ref apply.Ref) apply.Live {
		live, ok := read[ref.ID]
		if !ok {
			live, _ = l.watcher.Live(s.tenant, ref)
		}
		if s.obj.Spec.Wait && live.Alone() || l.watcher.Ended(s.key, ref) {
			return apply.Live{Exists: true, Health: apply.Current}
		}
		return live
	})
	since, wasHealthy := s.known.unhealthySince, conditions.IsTrue(s.obj, meta.HealthyCondition)
	s.healthContent(l.now(), v)
	l.memory.set(s.key, s.known)
	if err := l.healthOutcome(s, v, polled); err != nil {
		return err
	}
	if len(v.waiting) == 0 && (!wasHealthy || describe(s.changes) != "" && s.obj.Status.LastAppliedRevision != s.revision()) {
		l.tellHealthy(ctx, s, since)
	}
	return nil
}

// tellHealthy says to the notification controller that a wait is over, as Flux
// does: after a failure that is the good news.
func (l *loop) tellHealthy(ctx context.Context, s *scope, since time.Time) {
	if since.IsZero() {
		since = s.started
	}
	l.events.Record(ctx, s.obj, event.Event{Severity: event.Info, Reason: meta.ProgressingReason, Metadata: l.metadata(s), Notify: true,
		Message: fmt.Sprintf("Health check passed in %s", l.now().Sub(since).Round(time.Millisecond))})
}

// checked are the objects whose health counts, without those that are left to
// others: whoever asks for that does not want to wait for them either.
func (s *scope) checked() []apply.Ref {
	refs := checked(s.obj, s.refs)
	switch {
	case !s.obj.Spec.Wait:
		return apply.Scoped(s.tenant, refs)
	case len(s.foreign) > 0:
		return apply.Missing(refs, s.foreign)
	}
	return refs
}

// look reads the objects that the tenant may not watch, and those that the rules
// of the Kustomization have not judged yet: of some only the metadata is watched,
// rules change, and some are given up. One that is given up now decides for the
// time being, so the rest waits. What needs another look by itself is polled.
func (l *loop) look(ctx context.Context, s *scope, refs []apply.Ref) (seen map[apply.ID]apply.Live, polled bool, err error) {
	counts := map[apply.ID]bool{}
	for _, ref := range refs {
		counts[ref.ID] = true
	}
	seen = map[apply.ID]apply.Live{}
	for _, ref := range l.watcher.Blind(s.key) {
		if _, done := seen[ref.ID]; done || !counts[ref.ID] {
			continue
		}
		if seen[ref.ID], err = l.read(ctx, s, ref); err != nil {
			return nil, false, err
		}
	}
	polled = len(seen) > 0
	if len(s.judge) == 0 {
		return seen, polled, nil
	}
	for _, ref := range refs {
		live, _ := l.watcher.Live(s.tenant, ref)
		if _, done := seen[ref.ID]; done || !live.Unjudged || s.obj.Spec.Wait && live.Alone() {
			continue
		}
		if seen[ref.ID], err = l.read(ctx, s, ref); err != nil || seen[ref.ID].Unjudged {
			return seen, true, err
		}
	}
	return seen, polled, nil
}

func (l *loop) read(ctx context.Context, s *scope, ref apply.Ref) (apply.Live, error) {
	live, err := l.watcher.Get(ctx, s.tenant, ref)
	if err != nil {
		return live, fmt.Errorf("health check: %w", err)
	}
	return live, nil
}

// healthContent keeps since when the present content is not healthy.
func (s *scope) healthContent(now time.Time, v verdict) {
	content := s.content(s.known.digest)
	fresh := s.known.content == ""
	if s.known.content != content {
		same := s.built == nil && s.known.wasHealthy // another revision of the same objects
		s.known.content, s.known.wasHealthy, s.known.unhealthySince = content, same, time.Time{}
	}
	if len(v.failed)+len(v.waiting) == 0 {
		s.known.unhealthySince, s.known.wasHealthy = time.Time{}, true
		return
	}
	if !s.known.unhealthySince.IsZero() {
		return
	}
	s.known.unhealthySince = now
	if fresh {
		s.known.unhealthySince = s.waitingSince(now)
	}
}

// content names what is waited for.
func (s *scope) content(digest string) string {
	return digest + "@" + s.revision() + fmt.Sprint(s.obj.Generation)
}

// markProgress says that health is waited for, and returns how.
func (s *scope) markProgress() string {
	message := fmt.Sprintf("Running health checks for revision %s with a timeout of %s", s.revision(), s.obj.GetTimeout())
	conditions.MarkUnknown(s.obj, meta.HealthyCondition, meta.ProgressingReason, "%s", message)
	conditions.MarkReconciling(s.obj, meta.ProgressingReason, "%s", message)
	conditions.MarkUnknown(s.obj, meta.ReadyCondition, meta.ProgressingReason, "%s", message)
	return message
}

// waitingSince is when the wait for the present revision began, which may have
// been before a restart.
func (s *scope) waitingSince(now time.Time) time.Time {
	c := conditions.Get(s.obj, meta.HealthyCondition)
	if c == nil || c.Status != metav1.ConditionUnknown || c.ObservedGeneration != s.obj.Generation || !strings.Contains(c.Message, s.revision()) {
		return now
	}
	return c.LastTransitionTime.Time
}

func (l *loop) healthOutcome(s *scope, v verdict, polled bool) error {
	k := s.obj
	timeout := k.GetTimeout()
	left := timeout - l.now().Sub(s.known.unhealthySince)
	switch {
	case len(v.failed) > 0:
		return l.unhealthy(s, fmt.Errorf("health check failed: failed early due to stalled resources: [%s]", shorten(v.failed)))
	case len(v.waiting) == 0:
		conditions.MarkTrue(k, meta.HealthyCondition, meta.SucceededReason, "Health check passed")
		return nil
	case left <= 0:
		return l.unhealthy(s, fmt.Errorf("health check failed: timeout waiting for: [%s]", shorten(v.waiting)))
	case s.known.wasHealthy && conditions.IsReady(k):
		s.recheck = left
		return nil
	}
	if rest := firstPatience - l.now().Sub(s.known.unhealthySince); rest > 0 && !polled && s.first() {
		return phase.Quietly(min(rest, max(left, time.Millisecond)), errors.New("health is waited for"))
	}
	message := s.markProgress()
	if polled {
		left = min(left, pollPeriod)
	}
	return phase.Progressing(meta.ProgressingReason, left, fmt.Errorf("%s", message))
}

// first reports whether the Kustomization has said nothing yet: its objects are
// recorded, and a wait that is over in a moment needs no write of its own.
func (s *scope) first() bool {
	k := s.obj
	return k.Annotations[annotationIntent] != "" && k.Status.LastAppliedRevision == "" && conditions.Get(k, meta.ReadyCondition) == nil
}

func (l *loop) unhealthy(s *scope, err error) error {
	conditions.MarkFalse(s.obj, meta.HealthyCondition, meta.HealthCheckFailedReason, "%s", err)
	if !conditions.IsFalse(s.obj, meta.ReadyCondition) {
		l.remember(s, meta.HealthCheckFailedReason)
	}
	return phase.RetryAfter(meta.HealthCheckFailedReason, s.obj.GetRetryInterval(), err)
}

// pending waits for objects that must get further before the rest is applied:
// to be served, or to be gone. That ends with spec.timeout, as all waiting does.
func (l *loop) pending(s *scope, refs []apply.Ref) error {
	names := make([]string, 0, len(refs))
	for _, ref := range refs {
		names = append(names, ref.String())
	}
	if content := s.content(s.built.Digest); s.known.pendingFor != content {
		s.known.pendingFor, s.known.pendingSince = content, l.now()
	}
	l.memory.set(s.key, s.known)
	timeout := s.obj.GetTimeout()
	left := timeout - l.now().Sub(s.known.pendingSince)
	if left <= 0 {
		return phase.RetryAfter(meta.ReconciliationFailedReason, s.obj.GetRetryInterval(),
			fmt.Errorf("timeout of %s waiting for %s, to be served or to be gone, before the rest is applied", timeout, shorten(names)))
	}
	return phase.Progressing(meta.ProgressingReason, min(left, pollPeriod), fmt.Errorf("Waiting for %s before the rest is applied", shorten(names)))
}

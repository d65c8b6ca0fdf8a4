package helm

import (
	"context"
	"errors"
	"fmt"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/runtime/conditions"
	hrelease "helm.sh/helm/v4/pkg/release/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/kernel/event"
	"headwater.dev/kernel/release"
)

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

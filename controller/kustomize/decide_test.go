package kustomize

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"headwater.dev/kernel/apply"
	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/depend"
	"headwater.dev/kernel/manifest"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/tenant"
)

func named(name string, dependsOn ...string) *kustomizev1.Kustomization {
	k := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, Generation: 1}}
	k.Spec.SourceRef = kustomizev1.CrossNamespaceSourceReference{Kind: "GitRepository", Name: "repo"}
	for _, d := range dependsOn {
		k.Spec.DependsOn = append(k.Spec.DependsOn, kustomizev1.DependencyReference{Name: d})
	}
	return k
}

func TestDependencyReady(t *testing.T) {
	ready := func(change func(*kustomizev1.Kustomization)) *kustomizev1.Kustomization {
		k := named("dep")
		k.Status.ObservedGeneration, k.Status.LastAppliedRevision = 1, "r1"
		conditions.MarkTrue(k, meta.ReadyCondition, "Succeeded", "ok")
		if change != nil {
			change(k)
		}
		return k
	}
	cases := map[string]struct {
		why  string
		dep  *kustomizev1.Kustomization
		expr string
		want bool
		err  bool
	}{
		"ready":           {"in its present form at this revision", ready(nil), "", true, false},
		"old form":        {"its specification changed since", ready(func(k *kustomizev1.Kustomization) { k.Generation = 2 }), "", false, false},
		"old revision":    {"the same source has moved on", ready(func(k *kustomizev1.Kustomization) { k.Status.LastAppliedRevision = "r0" }), "", false, false},
		"other source":    {"another source has other revisions", ready(func(k *kustomizev1.Kustomization) { k.Spec.SourceRef.Name, k.Status.LastAppliedRevision = "x", "r0" }), "", true, false},
		"not ready":       {"never ready", named("dep"), "", false, false},
		"expression":      {"replaces all that", named("dep"), "dep.metadata.name == 'dep' && self.metadata.name == 'app'", true, false},
		"expression says": {"not ready although Ready", ready(nil), "dep.status.lastAppliedRevision == 'r9'", false, false},
		"no such field":   {"not ready yet", named("dep"), "dep.status.nothing == 'x'", false, false},
		"malformed":       {"the user must act", ready(nil), "dep.(", false, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := dependencyReady(context.Background(), named("app"), c.dep, c.expr, "r1")
			if got != c.want || (err != nil) != c.err {
				t.Errorf("%s: %v, %v", c.why, got, err)
			}
		})
	}
}

func TestPrunesOnDeletion(t *testing.T) {
	for name, c := range map[string]struct {
		policy         string
		prune, suspend bool
		want           bool
	}{
		"mirror on":         {"", true, false, true},
		"mirror off":        {"", false, false, false},
		"delete":            {kustomizev1.DeletionPolicyDelete, false, false, true},
		"wait":              {kustomizev1.DeletionPolicyWaitForTermination, false, false, true},
		"orphan":            {kustomizev1.DeletionPolicyOrphan, true, false, false},
		"suspended deletes": {kustomizev1.DeletionPolicyDelete, true, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			k := named("k")
			k.Spec.DeletionPolicy, k.Spec.Prune, k.Spec.Suspend = c.policy, c.prune, c.suspend
			if got := prunesOnDeletion(k); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

func TestSameInputs(t *testing.T) {
	id := tenant.Identity{Namespace: "n", ServiceAccount: "s"}
	good := known{generation: 1, identity: id, artifact: "sha256:a", requested: ""}
	good.record.Inputs = manifest.Request{}.Inputs()
	cases := map[string]struct {
		why    string
		change func(*known)
		want   bool
	}{
		"same artifact":  {"nothing changed", func(*known) {}, true},
		"first":          {"nothing is known after a restart", func(k *known) { *k = known{} }, false},
		"specification":  {"another generation", func(k *known) { k.generation = 2 }, false},
		"identity":       {"another tenant may do other things", func(k *known) { k.identity.ServiceAccount = "x" }, false},
		"variables":      {"a ConfigMap changed", func(k *known) { k.record.Inputs = "x" }, false},
		"asked":          {"somebody asked for a reconcile", func(k *known) { k.requested = "earlier" }, false},
		"other artifact": {"an artifact without a record", func(k *known) { k.artifact = "sha256:b" }, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			n := good
			c.change(&n)
			s := &scope{obj: named("k"), tenant: apply.Tenant{Identity: id}, artifact: &meta.Artifact{Digest: "sha256:a"}}
			got, err := n.sameInputs(s, func() (*artifact.Content, error) { return &artifact.Content{Root: t.TempDir()}, nil })
			if got != c.want || err != nil {
				t.Errorf("%s: %v, %v", c.why, got, err)
			}
		})
	}
}

// TestHealthOutcome follows the health of one object over time.
func TestHealthOutcome(t *testing.T) {
	start := time.Unix(1000, 0)
	cases := map[string]struct {
		why     string
		before  known
		ready   bool
		live    apply.Live
		after   time.Duration // since the health in progress began
		class   phase.Class
		reason  string
		message string
	}{
		"healthy":     {why: "done", live: apply.Live{Exists: true, Health: apply.Current}, reason: ""},
		"in progress": {why: "parked", live: apply.Live{Exists: true, Health: apply.InProgress}, class: phase.ClassWaiting, reason: meta.ProgressingReason, message: "Running health checks for revision r1 with a timeout of 1m0s"},
		"too late":    {why: "the timeout has passed", live: apply.Live{Exists: true, Health: apply.InProgress, Message: "0 of 1"}, after: 2 * time.Minute, reason: meta.HealthCheckFailedReason, message: "timeout waiting for: [Deployment/n/web status: 'InProgress': 0 of 1]"},
		"failed":      {why: "not waited for", live: apply.Live{Exists: true, Health: apply.Failed}, reason: meta.HealthCheckFailedReason, message: "failed early due to stalled resources: [Deployment/n/web status: 'Failed']"},
		"missing":     {why: "may come", live: apply.Live{}, class: phase.ClassWaiting, reason: meta.ProgressingReason, message: "Running"},
		"busy again":  {why: "was healthy: no alarm before the timeout", before: known{wasHealthy: true}, ready: true, live: apply.Live{Exists: true, Health: apply.InProgress}, reason: ""},
	}
	ref := apply.Ref{Version: "v1"}
	ref.Namespace, ref.Name, ref.GroupKind = "n", "web", schema.GroupKind{Group: "apps", Kind: "Deployment"}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			now := start.Add(c.after)
			l := &loop{now: func() time.Time { return now }, memory: newMemory()}
			k := named("k")
			k.Spec.Wait, k.Spec.Timeout = true, &metav1.Duration{Duration: time.Minute}
			if c.ready {
				conditions.MarkTrue(k, meta.ReadyCondition, "Succeeded", "ok")
			}
			s := &scope{obj: k, artifact: &meta.Artifact{Revision: "r1"}, known: c.before}
			s.known.digest = "d"
			v := judgeAll([]apply.Ref{ref}, func(apply.Ref) apply.Live { return c.live })
			s.known.content = fmt.Sprintf("d@r1%d", k.Generation)
			s.healthContent(start, v)
			err := l.healthOutcome(s, v, false)
			if c.reason == "" {
				if err != nil {
					t.Fatalf("%s: %v", c.why, err)
				}
				return
			}
			e := phase.Classify(err)
			if err == nil || e.Reason != c.reason || e.Class != c.class || !strings.Contains(err.Error(), c.message) {
				t.Errorf("%s: %v (%+v)", c.why, err, e)
			}
		})
	}
}

func TestWatcherIsTheOnlyMemoryOfHealth(t *testing.T) {
	s := &scope{obj: named("k"), artifact: &meta.Artifact{Revision: "r2"}, known: known{digest: "d", content: "d@r11", wasHealthy: true}}
	s.healthContent(time.Unix(5, 0), verdict{})
	if !s.known.wasHealthy || !s.known.unhealthySince.IsZero() {
		t.Errorf("known = %+v", s.known)
	}
}

// TestWaitGoesOnAfterARestart: the timeout counts from the beginning of the
// wait, which the condition tells.
func TestWaitGoesOnAfterARestart(t *testing.T) {
	now, began := time.Unix(1000, 0), time.Unix(900, 0)
	cases := map[string]struct {
		why    string
		change func(*kustomizev1.Kustomization)
		want   time.Time
	}{
		"same revision": {"the wait goes on", func(*kustomizev1.Kustomization) {}, began},
		"other revision": {"another wait", func(k *kustomizev1.Kustomization) {
			k.Status.Conditions[0].Message = "Running health checks for revision r0"
		}, now},
		"other specification": {"another wait", func(k *kustomizev1.Kustomization) { k.Generation = 2 }, now},
		"was decided":         {"no wait", func(k *kustomizev1.Kustomization) { k.Status.Conditions[0].Status = metav1.ConditionFalse }, now},
		"nothing is known":    {"a new wait", func(k *kustomizev1.Kustomization) { k.Status.Conditions = nil }, now},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			k := named("k")
			k.Status.Conditions = []metav1.Condition{{Type: meta.HealthyCondition, Status: metav1.ConditionUnknown, ObservedGeneration: 1,
				Message: "Running health checks for revision r1 with a timeout of 1m0s", LastTransitionTime: metav1.NewTime(began)}}
			c.change(k)
			s := &scope{obj: k, artifact: &meta.Artifact{Revision: "r1"}}
			s.healthContent(now, verdict{waiting: []string{"x"}})
			if !s.known.unhealthySince.Equal(c.want) {
				t.Errorf("%s: since %s, want %s", c.why, s.known.unhealthySince, c.want)
			}
		})
	}
}

// TestPendingEnds: an object that neither comes nor goes ends the wait with
// spec.timeout, and another content begins anew.
func TestPendingEnds(t *testing.T) {
	now := time.Unix(1000, 0)
	l := &loop{now: func() time.Time { return now }, memory: newMemory()}
	k := named("k")
	k.Spec.Timeout = &metav1.Duration{Duration: time.Minute}
	s := &scope{obj: k, built: &manifest.Result{Digest: "d"}}
	ref := inputRef("Namespace", "", "stuck")
	for after, want := range map[time.Duration]string{0: "Waiting for Namespace/stuck", 2 * time.Minute: "timeout of 1m0s waiting for Namespace/stuck"} {
		s.known.pendingSince, s.known.pendingFor = now.Add(-after), s.content("d")
		e := phase.Classify(l.pending(s, []apply.Ref{ref}))
		if e.Progressing != (after == 0) || !strings.Contains(e.Error(), want) {
			t.Errorf("after %s: %v", after, e)
		}
	}
	k.Generation++
	if e := phase.Classify(l.pending(s, []apply.Ref{ref})); !e.Progressing || e.After != pollPeriod || !l.memory.get(s.key).pendingSince.Equal(now) {
		t.Errorf("a new wait: %v, kept %v", e, l.memory.get(s.key).pendingSince)
	}
}

// TestOverdue: an apply that ends with its time says which time that was, and is
// tried again soon; any other error is left as it is.
func TestOverdue(t *testing.T) {
	s := &scope{obj: &kustomizev1.Kustomization{Spec: kustomizev1.KustomizationSpec{Timeout: &metav1.Duration{Duration: time.Minute}}}}
	ctx, cancel := s.limited(t.Context(), 10_000)
	if at, _ := ctx.Deadline(); time.Until(at) < 17*time.Minute || time.Until(at) > 18*time.Minute {
		t.Errorf("ten thousand objects get %s", time.Until(at))
	}
	other := errors.New("other")
	if err := overdue(ctx, other); err != other {
		t.Errorf("in time: %v", err)
	}
	cancel()
	if err := overdue(ctx, other); err != other {
		t.Errorf("interrupted: %v", err)
	}
	past, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	ctx, cancel = s.limited(past, 0)
	defer cancel()
	if err := overdue(ctx, ctx.Err()); !errors.Is(err, context.DeadlineExceeded) || !apply.Transient(err) {
		t.Errorf("too late: %v", err)
	}
	if err := overdue(ctx, nil); err != nil {
		t.Errorf("done: %v", err)
	}
}

// TestReadyExprThatWasGivenUp: half a second is also what a process that stood
// still takes for a cheap expression. Nothing but a retry would end that.
func TestReadyExprThatWasGivenUp(t *testing.T) {
	ref := depend.Ref{Field: "spec.dependsOn[0]"}
	given := phase.Classify(notEvaluated(ref, fmt.Errorf("the expression %w", depend.ErrSlow)))
	if given.Class != phase.ClassTransient || given.Reason != meta.DependencyNotReadyReason {
		t.Errorf("given up: %+v", given)
	}
	malformed := phase.Classify(notEvaluated(ref, errors.New("syntax error")))
	if malformed.Class != phase.ClassStalled || malformed.Reason != meta.InvalidCELExpressionReason {
		t.Errorf("malformed: %+v", malformed)
	}
}

// TestUnanswered: a cluster that answers is asked for everything, whatever it
// says; one that does not would hold a worker for as long as there are objects.
func TestUnanswered(t *testing.T) {
	internal := apierrors.NewInternalError(errors.New("conversion webhook is down"))
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"read":      {nil, false},
		"answered":  {&apply.ObjectError{Verb: "read", Err: internal}, false},
		"no kind":   {fmt.Errorf("look up kind: %w", &apimeta.NoKindMatchError{}), false},
		"timed out": {fmt.Errorf("read: %w", &url.Error{Op: "Get", Err: context.DeadlineExceeded}), true},
		"refused":   {fmt.Errorf("read: %w", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), true},
	} {
		if got := unanswered(c.err); got != c.want {
			t.Errorf("%s: unanswered %v, want %v", name, got, c.want)
		}
	}
}

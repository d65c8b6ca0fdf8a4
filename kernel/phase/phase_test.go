package phase

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestClassify(t *testing.T) {
	cause := errors.New("cause")
	cases := map[string]struct {
		why    string
		in     error
		class  Class
		reason string
		after  time.Duration
		text   string
	}{
		"plain":     {"an unclassed error may go away", cause, ClassTransient, "Failed", 0, "cause"},
		"stalled":   {"the user must act", Stalled("Bad", cause), ClassStalled, "Bad", 0, "cause"},
		"wrapped":   {"wrapping adds words, not a verdict", fmt.Errorf("outer: %w", Stalled("Bad", cause)), ClassStalled, "Bad", 0, "outer: cause"},
		"waiting":   {"a watch will wake it", Waiting("Dep", time.Minute, cause), ClassWaiting, "Dep", time.Minute, "cause"},
		"transient": {"back off", Transient("Net", cause), ClassTransient, "Net", 0, "cause"},
		"retry":     {"a fixed interval", RetryAfter("Net", time.Second, cause), ClassTransient, "Net", time.Second, "cause"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := Classify(c.in)
			if got.Class != c.class || got.Reason != c.reason || got.After != c.after || got.Error() != c.text {
				t.Errorf("%s: got %+v", c.why, got)
			}
			if !errors.Is(got, cause) {
				t.Error("the cause is lost")
			}
		})
	}
}

func TestMark(t *testing.T) {
	cause := errors.New("because")
	cases := map[string]struct {
		why  string
		err  error
		want map[string]string
	}{
		"stalled": {"stalled objects are not being worked on", Stalled("Bad", cause),
			map[string]string{"Ready": "False Bad", "Stalled": "True Bad"}},
		"waiting": {"a missing dependency is not ready and in progress", Waiting("DependencyNotReady", 0, cause),
			map[string]string{"Ready": "False DependencyNotReady", "Reconciling": "True Progressing"}},
		"progressing": {"own work under way is unknown", Progressing("Progressing", 0, cause),
			map[string]string{"Ready": "Unknown Progressing", "Reconciling": "True Progressing"}},
		"transient": {"a retry is announced", Transient("Net", cause),
			map[string]string{"Ready": "False Net", "Reconciling": "True ProgressingWithRetry"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			obj := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Generation: 3}}
			conditions.MarkReconciling(obj, "Old", "old")
			mark(obj, Classify(c.err))
			got := map[string]string{}
			for _, x := range obj.Status.Conditions {
				got[x.Type] = string(x.Status) + " " + x.Reason
				if x.Message != "because" || x.ObservedGeneration != 3 {
					t.Errorf("%s: condition %+v", c.why, x)
				}
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("%s (-want +got):\n%s", c.why, d)
			}
		})
	}
}

func TestChainStopsAtTheFirstError(t *testing.T) {
	var ran []string
	step := func(name string, err error) Phase[struct{}] {
		return Phase[struct{}]{Name: name, Do: func(context.Context, *struct{}) error {
			ran = append(ran, name)
			return err
		}}
	}
	stop := errors.New("stop")
	err := Chain(t.Context(), &struct{}{}, []Phase[struct{}]{step("one", nil), step("two", stop), step("three", nil)})
	if !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	if d := cmp.Diff([]string{"one", "two"}, ran); d != "" {
		t.Errorf("phases that ran (-want +got):\n%s", d)
	}
}

func TestNewer(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{{"10", "9", true}, {"9", "10", false}, {"9", "9", false}, {"x", "9", false}, {"9", "", false}} {
		if got := newer(c.a, c.b); got != c.want {
			t.Errorf("newer(%q, %q) = %v", c.a, c.b, got)
		}
	}
}

func TestSameReady(t *testing.T) {
	a, b := &kustomizev1.Kustomization{}, &kustomizev1.Kustomization{}
	if sameReady(a, b) {
		t.Error("an object without a condition has news")
	}
	conditions.MarkFalse(a, meta.ReadyCondition, "R", "m")
	conditions.MarkFalse(b, meta.ReadyCondition, "R", "m")
	if !sameReady(a, b) {
		t.Error("the same condition is no news")
	}
	conditions.MarkFalse(b, meta.ReadyCondition, "R", "n")
	if sameReady(a, b) {
		t.Error("another message is news")
	}
}

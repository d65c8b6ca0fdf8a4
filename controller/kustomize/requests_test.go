package kustomize

import (
	"fmt"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"headwater.dev/dev/kubetest"
)

// TestRequestsOfAnApplication: five objects that are waited for cost at most
// twelve requests from nothing to Ready, and two of them only because the source
// comes later; and none while nothing changes, however often the interval passes.
func TestRequestsOfAnApplication(t *testing.T) {
	w := newWorld(t, "admin")
	files := map[string]string{
		"sa.yaml":  "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: web}\n",
		"a.yaml":   cm("a", "1"),
		"web.yaml": deployment,
		"svc.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n",
		"ing.yaml": "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web}\nspec: {defaultBackend: {service: {name: web, port: {number: 80}}}}\n",
	}
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) {
		s.Wait, s.Interval = true, metav1.Duration{Duration: time.Second}
	})
	w.ready("app", w.publish("repo", files))
	ours := func(from int) (out []string) {
		for _, a := range w.requests()[from:] {
			if a.UserAgent == hostAgent && a.Verb != "list" && a.Verb != "watch" {
				out = append(out, fmt.Sprintf("%s %s/%s", a.Verb, a.ObjectRef.Resource, a.ObjectRef.Subresource))
			}
		}
		return out
	}
	kubetest.Eventually(t, 5*time.Second, func() error { // the event comes after the status
		if n := w.reconciles("app"); n < 4 {
			return fmt.Errorf("%d reconciles", n)
		}
		return nil
	})
	if got := ours(0); len(got) > 12 {
		t.Errorf("%d requests: %v", len(got), got)
	}
	mark, before := len(w.requests()), w.reconciles("app")
	kubetest.Eventually(t, 15*time.Second, func() error {
		if n := w.reconciles("app"); n < before+4 {
			return fmt.Errorf("%d reconciles since", n-before)
		}
		return nil
	})
	if got := ours(mark); len(got) > 0 {
		t.Errorf("nothing changed, and there were %v", got)
	}
}

// reconciles counts those of a Kustomization, by the metric.
func (w *world) reconciles(name string) int {
	w.t.Helper()
	return int(w.metric("gotk_reconcile_duration_seconds", name))
}

// suspended waits until the loop has seen that a Kustomization is.
func (w *world) suspended(name string) {
	w.t.Helper()
	kubetest.Eventually(w.t, time.Minute, func() error {
		if w.metric("gotk_suspend_status", name) != 1 {
			return fmt.Errorf("%s is not yet suspended to the loop", name)
		}
		return nil
	})
}

// metric is the value of one, or the count of a histogram, of a Kustomization.
func (w *world) metric(family, name string) float64 {
	w.t.Helper()
	families, err := ctrlmetrics.Registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != family {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["kind"] == "Kustomization" && labels["namespace"] == w.ns && labels["name"] == name {
				if h := m.GetHistogram(); h != nil {
					return float64(h.GetSampleCount())
				}
				return m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

package kustomize

import (
	"fmt"
	"strings"
	"testing"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"headwater.dev/dev/kubetest"
	"headwater.dev/kernel/depend"
)

// TestSources: every kind of source is followed.
func TestSources(t *testing.T) {
	w := newWorld(t, "admin")
	hour := metav1.Duration{Duration: time.Hour}
	for kind, empty := range map[string]client.Object{
		"OCIRepository":    &sourcev1.OCIRepository{Spec: sourcev1.OCIRepositorySpec{URL: "oci://example.invalid/r", Interval: hour}},
		"Bucket":           &sourcev1.Bucket{Spec: sourcev1.BucketSpec{BucketName: "b", Endpoint: "example.invalid", Interval: hour}},
		"ExternalArtifact": &sourcev1.ExternalArtifact{},
	} {
		t.Run(kind, func(t *testing.T) {
			w := w.in(t)
			name := strings.ToLower(kind)
			empty.SetName(name)
			empty.SetNamespace(w.ns)
			w.kustomization(name, func(s *kustomizev1.KustomizationSpec) {
				s.SourceRef = kustomizev1.CrossNamespaceSourceReference{Kind: kind, Name: name}
			})
			w.create(empty)
			w.offer(empty, map[string]string{"a.yaml": cm(name, "1")}, "v1")
			k := w.ready(name, "v1")
			if k.Status.LastAppliedOriginRevision != "origin-v1" || k.Status.LastAttemptedRevision != "v1" {
				t.Errorf("status %+v", k.Status)
			}
			w.offer(empty, map[string]string{"a.yaml": cm(name, "2")}, "v2")
			w.ready(name, "v2")
			if got, err := w.configMap(name); err != nil || got.Data["key"] != "2" {
				t.Errorf("got %v, %v", got.Data, err)
			}
		})
	}
}

// offer makes files the artifact of a source.
func (w *world) offer(o client.Object, files map[string]string, revision string) {
	w.t.Helper()
	a := w.artifact(strings.ToLower(o.GetName()), o.GetName(), revision, files)
	a.Metadata = map[string]string{ociRevision: "origin-" + revision}
	if err := w.client.Get(w.ctx, client.ObjectKeyFromObject(o), o); err != nil {
		w.t.Fatal(err)
	}
	before := o.DeepCopyObject().(client.Object)
	switch s := o.(type) {
	case *sourcev1.OCIRepository:
		s.Status.Artifact = &a
	case *sourcev1.Bucket:
		s.Status.Artifact = &a
	case *sourcev1.ExternalArtifact:
		s.Status.Artifact = &a
	}
	if err := w.client.Status().Patch(w.ctx, o, client.MergeFrom(before)); err != nil {
		w.t.Fatal(err)
	}
}

const widgets = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.health.example.com}
spec:
  group: health.example.com
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

// TestEachHasItsOwnExpressions: the health of an object that another Kustomization
// applies is judged by one's own expressions, and anew when those change.
func TestEachHasItsOwnExpressions(t *testing.T) {
	w := newWorld(t, "cluster-admin")
	widget := "apiVersion: health.example.com/v1\nkind: Widget\nmetadata: {name: w}\nspec: {}\n"
	revision := w.publish("repo", map[string]string{"crd.yaml": widgets, "w.yaml": widget})
	w.kustomization("maker", nil)
	w.ready("maker", revision)
	judges := func(x kustomize.HealthCheckExpressions) []kustomize.CustomHealthCheck {
		return []kustomize.CustomHealthCheck{{APIVersion: "health.example.com/v1", Kind: "Widget", HealthCheckExpressions: x}}
	}
	other := w.publish("other", map[string]string{"a.yaml": cm("a", "1")})
	w.kustomization("waiter", func(s *kustomizev1.KustomizationSpec) {
		s.SourceRef.Name = "other"
		s.HealthChecks = []meta.NamespacedObjectKindReference{{APIVersion: "health.example.com/v1", Kind: "Widget", Name: "w", Namespace: w.ns}}
		s.HealthCheckExprs = judges(kustomize.HealthCheckExpressions{Current: "has(status.phase)"})
	})
	w.progressing("waiter", "Running health checks")
	w.change("waiter", func(k *kustomizev1.Kustomization) {
		k.Spec.HealthCheckExprs = judges(kustomize.HealthCheckExpressions{Failed: "has(metadata.name)", Current: "false"})
	})
	w.failed("waiter", meta.HealthCheckFailedReason, "Widget/"+w.ns+"/w status: 'Failed'")
	w.change("waiter", func(k *kustomizev1.Kustomization) {
		k.Spec.HealthCheckExprs = judges(kustomize.HealthCheckExpressions{Current: "has(metadata.name)"})
	})
	w.ready("waiter", other)
	k := w.get("maker")
	if err := w.client.Delete(w.ctx, k); err != nil { // takes the definition with it
		t.Fatal(err)
	}
	w.gone(k)
}

// TestHealthCheckExpressions: CEL decides, and is asked at each change.
func TestHealthCheckExpressions(t *testing.T) {
	w := newWorld(t, "cluster-admin")
	widget := "apiVersion: health.example.com/v1\nkind: Widget\nmetadata: {name: w}\nspec: {}\n"
	revision := w.publish("repo", map[string]string{"crd.yaml": widgets, "w.yaml": widget})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) {
		s.Wait = true
		s.HealthCheckExprs = []kustomize.CustomHealthCheck{{APIVersion: "health.example.com/v1", Kind: "Widget", HealthCheckExpressions: kustomize.HealthCheckExpressions{
			InProgress: "!has(status.phase)", Failed: "status.phase == 'Broken'", Current: "status.phase == 'Done'",
		}}}
	})
	w.progressing("app", "Running health checks")
	phase := func(value string) {
		t.Helper()
		u := &unstructured.Unstructured{}
		u.SetAPIVersion("health.example.com/v1")
		u.SetKind("Widget")
		kubetest.Eventually(t, 10*time.Second, func() error {
			return w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "w"}, u)
		})
		u.Object["status"] = map[string]any{"phase": value}
		if err := w.client.Status().Update(w.ctx, u); err != nil {
			t.Fatal(err)
		}
	}
	phase("Broken")
	w.failed("app", meta.HealthCheckFailedReason, "Widget/"+w.ns+"/w status: 'Failed'")
	phase("Done")
	w.ready("app", revision)
	w.kustomization("bad", func(s *kustomizev1.KustomizationSpec) {
		s.HealthCheckExprs = []kustomize.CustomHealthCheck{{APIVersion: "health.example.com/v1", Kind: "Widget", HealthCheckExpressions: kustomize.HealthCheckExpressions{Current: "status.("}}}
	})
	w.failed("bad", meta.InvalidCELExpressionReason, "spec.healthCheckExprs[0]")
	k := w.get("app")
	if err := w.client.Delete(w.ctx, k); err != nil {
		t.Fatal(err)
	}
	w.gone(k)
}

func (w *world) progressing(name, message string) {
	w.t.Helper()
	kubetest.Eventually(w.t, 15*time.Second, func() error {
		c := conditions.Get(w.get(name), meta.ReadyCondition)
		if c == nil || c.Status != metav1.ConditionUnknown || !strings.Contains(c.Message, message) {
			return fmt.Errorf("Ready is %v", c)
		}
		return nil
	})
}

// TestHealthChecksOfOthers: spec.healthChecks may name what others make; the
// timeout ends the wait, and becoming healthy ends the failure.
func TestHealthChecksOfOthers(t *testing.T) {
	w := newWorld(t, "admin")
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) {
		s.Timeout = &metav1.Duration{Duration: 30 * time.Second}
		s.HealthChecks = []meta.NamespacedObjectKindReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "theirs", Namespace: w.ns}}
	})
	w.progressing("app", "with a timeout of 30s")
	w.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "theirs", Namespace: w.ns}})
	k := w.ready("app", revision)
	if c := conditions.Get(k, meta.HealthyCondition); c == nil || c.Status != metav1.ConditionTrue {
		t.Errorf("Healthy is %v", c)
	}
}

const job = `apiVersion: batch/v1
kind: Job
metadata: {name: migrate}
spec:
  backoffLimit: 0
  template: {spec: {restartPolicy: Never, containers: [{name: m, image: example.invalid/m:1}]}}
`

// TestJobsAreWaitedFor until they have ended, not only started.
func TestJobsAreWaitedFor(t *testing.T) {
	w := newWorld(t, "admin")
	revision := w.publish("repo", map[string]string{"job.yaml": job})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.Wait = true })
	w.ready("app", revision)
	u := &unstructured.Unstructured{}
	u.SetAPIVersion("batch/v1")
	u.SetKind("Job")
	if err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "migrate"}, u); err != nil {
		t.Fatal(err)
	}
	if n, _, _ := unstructured.NestedInt64(u.Object, "status", "succeeded"); n != 1 {
		t.Errorf("ready before the job ended: %v", u.Object["status"])
	}
}

// TestA48FightNamesBoth: a fight is slowed down, and the condition says whose.
func TestA48FightNamesBoth(t *testing.T) {
	w := newWorld(t, "admin")
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	w.kustomization("app", nil)
	w.ready("app", revision)
	rounds := 0
	kubetest.Eventually(t, 20*time.Second, func() error {
		if a, err := w.configMap("a"); err == nil && a.Data["key"] == "1" {
			a.Data["key"] = "theirs"
			if w.client.Update(w.ctx, a, client.FieldOwner("autoscaler")) == nil {
				rounds++
			}
		}
		c := conditions.Get(w.get("app"), meta.ReadyCondition)
		if !strings.Contains(c.Message, `ConfigMap/`+w.ns+`/a is changed in turn by the field managers "kustomize-controller" and "autoscaler"`) {
			return fmt.Errorf("after %d rounds: %s", rounds, c.Message)
		}
		return nil
	})
	if rounds > fightsAtMost {
		t.Errorf("it took %d rounds", rounds)
	}
}

// fightsAtMost: three corrections in a minute, and the one that is refused.
const fightsAtMost = 5

// TestDependsAcrossKinds: a Kustomization waits for a HelmRelease, and is woken
// by it.
func TestDependsAcrossKinds(t *testing.T) {
	w := newWorld(t, "admin")
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	k := w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.Suspend = true })
	before := k.DeepCopy()
	k.Annotations = map[string]string{depend.Annotation: "HelmRelease/db\n"}
	k.Spec.Suspend = false
	if err := w.client.Patch(w.ctx, k, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	w.failed("app", meta.DependencyNotReadyReason, "dependency 'HelmRelease/"+w.ns+"/db' not found")
	hr := &helmv2.HelmRelease{ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: w.ns}, Spec: helmv2.HelmReleaseSpec{
		Interval: metav1.Duration{Duration: time.Hour}, ChartRef: &helmv2.CrossNamespaceSourceReference{Kind: "OCIRepository", Name: "c"},
	}}
	w.create(hr)
	hr.Status.ObservedGeneration = hr.Generation
	conditions.MarkTrue(hr, meta.ReadyCondition, "InstallSucceeded", "done")
	if err := w.client.Status().Update(w.ctx, hr); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	w.ready("app", revision)
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("woken after %s", took)
	}
	if err := w.client.Get(w.ctx, client.ObjectKeyFromObject(hr), hr); err != nil {
		t.Fatal(err)
	}
	hr.Annotations = map[string]string{depend.Annotation: "Kustomization/app"}
	if err := w.client.Update(w.ctx, hr); err != nil {
		t.Fatal(err)
	}
	w.failed("app", meta.DependencyNotReadyReason, fmt.Sprintf("dependency cycle Kustomization/%[1]s/app → HelmRelease/%[1]s/db → Kustomization/%[1]s/app", w.ns))
	w.change("app", func(k *kustomizev1.Kustomization) { k.Annotations[depend.Annotation] = "Deployment/x" })
	w.failed("app", meta.DependencyNotReadyReason, "line 1: kind \"Deployment\" is nothing to depend on")
}

// TestDeletionPolicies with an object whose end takes longer.
func TestDeletionPolicies(t *testing.T) {
	w := newWorld(t, "admin")
	slow := strings.Replace(cm("slow", "1"), "name: slow", "name: slow\n  finalizers: [example.com/slow]", 1)
	revision := w.publish("repo", map[string]string{"orphan/a.yaml": cm("orphan", "1"), "wait/a.yaml": slow, "delete/a.yaml": cm("deleted", "1")})
	made := map[string]*kustomizev1.Kustomization{}
	for name, policy := range map[string]string{"orphan": "Orphan", "wait": "WaitForTermination", "delete": "Delete"} {
		w.kustomization(name, func(s *kustomizev1.KustomizationSpec) {
			s.Path, s.DeletionPolicy, s.Prune = name, policy, policy == "Orphan"
		})
		made[name] = w.ready(name, revision)
	}
	for _, k := range made {
		if err := w.client.Delete(w.ctx, k); err != nil {
			t.Fatal(err)
		}
	}
	w.gone(made["orphan"])
	w.gone(made["delete"])
	if _, err := w.configMap("orphan"); err != nil {
		t.Errorf("orphan: %v", err)
	}
	if _, err := w.configMap("deleted"); !apierrors.IsNotFound(err) {
		t.Errorf("deleted: %v", err)
	}
	w.progressing("wait", "Waiting for 1 objects to be gone")
	c, err := w.configMap("slow")
	if err != nil || c.DeletionTimestamp == nil {
		t.Fatalf("slow: %v, %v", c.DeletionTimestamp, err)
	}
	c.Finalizers = nil
	if err := w.client.Update(w.ctx, c); err != nil {
		t.Fatal(err)
	}
	w.gone(made["wait"])
}

// TestMetrics: what dashboards for Flux read is there, and goes with the object.
func TestMetrics(t *testing.T) {
	w := newWorld(t, "admin")
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	w.kustomization("app", nil)
	k := w.ready("app", revision)
	has := func(want map[string]bool) error {
		families, err := ctrlmetrics.Registry.Gather()
		if err != nil {
			return err
		}
		got := map[string]bool{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				labels := map[string]string{}
				for _, l := range m.GetLabel() {
					labels[l.GetName()] = l.GetValue()
				}
				if labels["kind"] == "Kustomization" && labels["namespace"] == w.ns && labels["name"] == "app" && (labels["status"] == "" || labels["type"] == "Ready" && labels["status"] == "True" && m.GetGauge().GetValue() == 1) {
					got[f.GetName()] = true
				}
			}
		}
		for name, present := range want {
			if got[name] != present {
				return fmt.Errorf("%s is there: %v", name, got[name])
			}
		}
		return nil
	}
	names := []string{"gotk_reconcile_duration_seconds", "gotk_reconcile_condition", "gotk_suspend_status"}
	want, none := map[string]bool{}, map[string]bool{}
	for _, n := range names {
		want[n], none[n] = true, false
	}
	kubetest.Eventually(t, 5*time.Second, func() error { return has(want) })
	if err := w.client.Delete(w.ctx, k); err != nil {
		t.Fatal(err)
	}
	w.gone(k)
	kubetest.Eventually(t, 5*time.Second, func() error { return has(none) })
}

package helm

import (
	"fmt"
	"strings"
	"testing"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/kernel/depend"
)

// TestA40AuditOracle follows a release from a dependency of another kind over
// values, tests, drift, a failed upgrade and its rollback to the uninstall, and
// asks the audit log: all of it was done as the tenant.
func TestA40AuditOracle(t *testing.T) {
	w := newWorld(t)
	w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "values"}, Data: map[string][]byte{"values.yaml": []byte("greeting: secret\n")}})
	k := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "base"}}
	k.Spec.SourceRef = kustomizev1.CrossNamespaceSourceReference{Kind: "GitRepository", Name: "r"}
	k.Spec.Interval = metav1.Duration{Duration: patience}
	w.create(k)

	hr := w.helmRelease("demo", `{"test":true}`)
	hr.Annotations = map[string]string{depend.Annotation: "Kustomization/base"}
	hr.Spec.ValuesFrom = []v2.ValuesReference{{Kind: "Secret", Name: "values"}}
	hr.Spec.DriftDetection = &v2.DriftDetection{Mode: v2.DriftDetectionEnabled}
	hr.Spec.Test = &v2.Test{Enable: true}
	last := true
	hr.Spec.Upgrade = &v2.Upgrade{Remediation: &v2.UpgradeRemediation{Retries: 0, RemediateLastFailure: &last}}
	w.create(hr)
	w.publish("demo", "1.0.0")
	c := w.ready("demo", "False", v2.DependencyNotReadyReason)
	if !strings.Contains(c.Message, "'Kustomization/"+w.ns+"/base' is not ready") {
		t.Errorf("message %q does not name the dependency", c.Message)
	}
	k.Status.ObservedGeneration = k.Generation
	conditions.MarkTrue(k, meta.ReadyCondition, "ReconciliationSucceeded", "applied")
	if err := w.c.Status().Update(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	w.ready("demo", "True", v2.TestSucceededReason)

	cm := &corev1.ConfigMap{}
	key := client.ObjectKey{Namespace: w.ns, Name: "demo"}
	if err := w.c.Delete(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "demo"}}); err != nil {
		t.Fatal(err)
	}
	w.eventually(func() error { return w.c.Get(t.Context(), key, cm) })
	if got := w.greeting("demo"); got != "secret" {
		t.Errorf("greeting is %q", got)
	}
	w.update("demo", func(hr *v2.HelmRelease) { hr.Spec.Values.Raw = []byte(`{"invalid":true}`) })
	w.eventually(func() error {
		if got := w.get("demo"); !conditions.IsTrue(got, v2.RemediatedCondition) {
			return fmt.Errorf("not rolled back: %v", got.Status.Conditions)
		}
		return nil
	})
	if err := w.c.Delete(t.Context(), w.get("demo")); err != nil {
		t.Fatal(err)
	}
	w.eventually(func() error {
		if err := w.c.Get(t.Context(), key, &v2.HelmRelease{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the HelmRelease is still there: %v", err)
		}
		return nil
	})
	if err := w.c.Get(t.Context(), key, cm); !apierrors.IsNotFound(err) {
		t.Errorf("the object of the release is still there: %v", err)
	}
	w.onlyTheTenant("system:serviceaccount:" + w.ns + ":flux-applier")
}

// TestCycleAcrossKinds: named in full, and ended by mending one side.
func TestCycleAcrossKinds(t *testing.T) {
	w := newWorld(t)
	k := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "base", Annotations: map[string]string{depend.Annotation: "HelmRelease/demo"}}}
	k.Spec.SourceRef = kustomizev1.CrossNamespaceSourceReference{Kind: "GitRepository", Name: "r"}
	k.Spec.Interval = metav1.Duration{Duration: patience}
	w.create(k)
	hr := w.helmRelease("demo", `{}`)
	hr.Annotations = map[string]string{depend.Annotation: "Kustomization/base"}
	w.create(hr)
	c := w.ready("demo", "False", v2.DependencyNotReadyReason)
	if want := fmt.Sprintf("dependency cycle HelmRelease/%[1]s/demo → Kustomization/%[1]s/base → HelmRelease/%[1]s/demo", w.ns); !strings.Contains(c.Message, want) {
		t.Errorf("message %q", c.Message)
	}
	k.Annotations = nil
	if err := w.c.Update(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	c = w.ready("demo", "False", v2.DependencyNotReadyReason)
	w.eventually(func() error {
		c := conditions.Get(w.get("demo"), meta.ReadyCondition)
		if !strings.Contains(c.Message, "is not ready") {
			return fmt.Errorf("message %q", c.Message)
		}
		return nil
	})
	if conditions.IsStalled(w.get("demo")) {
		t.Errorf("stalled after the cycle ended: %v", c)
	}
}

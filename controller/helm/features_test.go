package helm

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/kernel/artifact"
)

func TestUnhealthyReleaseFailsAndIsRemoved(t *testing.T) {
	w := newWorld(t)
	hr := w.helmRelease("demo", `{"deployment":true}`)
	last := true
	hr.Spec.Install = &v2.Install{Timeout: &metav1.Duration{Duration: time.Second}, Remediation: &v2.InstallRemediation{RemediateLastFailure: &last}}
	w.create(hr)
	w.publish("demo", "1.0.0")
	c := w.ready("demo", "False", v2.InstallFailedReason)
	if want := "timeout of 1s exceeded, not ready: Deployment/" + w.ns + "/demo"; !strings.Contains(c.Message, want) {
		t.Errorf("message %q does not say %q", c.Message, want)
	}
	if got := w.get("demo"); got.Status.InstallFailures != 1 || conditions.GetReason(got, v2.RemediatedCondition) != v2.UninstallSucceededReason {
		t.Errorf("status: %+v", got.Status)
	}
	err := w.c.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: "demo"}, &corev1.ConfigMap{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("the failed release is still there: %v", err)
	}
}

func TestCrashedUpgradeIsTakenUp(t *testing.T) {
	w := newWorld(t)
	w.create(w.helmRelease("demo", `{}`))
	w.publish("demo", "1.0.0")
	w.ready("demo", "True", v2.InstallSucceededReason)
	// What a process leaves behind that is killed in the middle.
	w.eventually(func() error {
		var s corev1.Secret
		if err := w.c.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: "sh.helm.release.v1.demo.v1"}, &s); err != nil {
			return err
		}
		next := corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "sh.helm.release.v1.demo.v2", Labels: s.Labels}, Type: s.Type, Data: s.Data}
		next.Labels["version"], next.Labels["status"] = "2", "pending-upgrade"
		rel, err := decodeRelease(s.Data["release"])
		if err != nil {
			return err
		}
		rel.Version = 2
		rel.SetStatus("pending-upgrade", "Preparing upgrade")
		if next.Data["release"], err = encodeRelease(rel); err != nil {
			return err
		}
		return client.IgnoreAlreadyExists(w.c.Create(t.Context(), &next))
	})
	w.update("demo", func(hr *v2.HelmRelease) { hr.Spec.Values.Raw = []byte(`{"greeting":"bye"}`) })
	c := w.ready("demo", "True", v2.UpgradeSucceededReason)
	if !strings.Contains(c.Message, "demo.v3") {
		t.Errorf("message %q", c.Message)
	}
	if got := w.greeting("demo"); got != "bye" {
		t.Errorf("greeting is %q", got)
	}
}

func TestChartFromOCIRepository(t *testing.T) {
	w := newWorld(t)
	oci := &sourcev1.OCIRepository{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "chart"},
		Spec:       sourcev1.OCIRepositorySpec{URL: "oci://registry.test/chart", Interval: metav1.Duration{Duration: time.Hour}},
	}
	w.create(oci)
	hr := w.helmRelease("demo", `{}`)
	hr.Spec.Chart, hr.Spec.ChartRef = nil, &v2.CrossNamespaceSourceReference{Kind: "OCIRepository", Name: "chart"}
	w.create(hr)
	w.ready("demo", "Unknown", sourceReason)
	digest := "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	a, err := w.store.Publish(t.Context(), artifact.Put{
		Key:  artifact.Key{Kind: sourcev1.OCIRepositoryKind, Namespace: w.ns, Name: "chart"},
		File: "chart.tar.gz", Revision: "1.0.0@" + digest,
		Write: func(out io.Writer) error { return packChart(out, chartFiles("1.0.0")) },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.eventually(func() error {
		if err := w.c.Get(t.Context(), client.ObjectKeyFromObject(oci), oci); err != nil {
			return err
		}
		oci.Status.Artifact, oci.Status.ObservedGeneration = &a, oci.Generation
		conditions.MarkTrue(oci, meta.ReadyCondition, "Succeeded", "stored")
		return w.c.Status().Update(t.Context(), oci)
	})
	w.ready("demo", "True", v2.InstallSucceededReason)
	if s := w.get("demo").Status; s.LastAttemptedRevision != "1.0.0+0123456789ab" || s.LastAttemptedRevisionDigest != digest || s.History.Latest().OCIDigest != digest {
		t.Errorf("status: %+v", s)
	}
}

// TestChartFromExternalArtifact: another content of the same version is another
// release.
func TestChartFromExternalArtifact(t *testing.T) {
	w := newWorld(t)
	x := &sourcev1.ExternalArtifact{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "chart"}}
	w.create(x)
	hr := w.helmRelease("demo", `{}`)
	hr.Spec.Chart, hr.Spec.ChartRef = nil, &v2.CrossNamespaceSourceReference{Kind: sourcev1.ExternalArtifactKind, Name: "chart"}
	w.create(hr)
	w.ready("demo", "Unknown", sourceReason)
	publish := func(greeting string) meta.Artifact {
		files := chartFiles("1.0.0")
		files["values.yaml"] = "greeting: " + greeting
		a, err := w.store.Publish(t.Context(), artifact.Put{
			Key: artifact.Key{Kind: sourcev1.ExternalArtifactKind, Namespace: w.ns, Name: "chart"}, File: greeting + ".tar.gz", Revision: "latest@" + greeting,
			Write: func(out io.Writer) error { return packChart(out, files) },
		})
		if err != nil {
			t.Fatal(err)
		}
		w.eventually(func() error {
			if err := w.c.Get(t.Context(), client.ObjectKeyFromObject(x), x); err != nil {
				return err
			}
			x.Status.Artifact = &a
			conditions.MarkTrue(x, meta.ReadyCondition, "Succeeded", "stored")
			return w.c.Status().Update(t.Context(), x)
		})
		return a
	}
	publish("one")
	w.ready("demo", "True", v2.InstallSucceededReason)
	a := publish("two")
	w.ready("demo", "True", v2.UpgradeSucceededReason)
	if got := w.greeting("demo"); got != "two" {
		t.Errorf("greeting is %q", got)
	}
	s := w.get("demo").Status
	if want := "1.0.0+" + strings.TrimPrefix(a.Digest, "sha256:")[:12]; s.LastAttemptedRevision != want || s.LastAttemptedRevisionDigest != a.Digest {
		t.Errorf("status %+v, want revision %s", s, want)
	}
}

func TestValuesReferencesAndNames(t *testing.T) {
	w := newWorld(t)
	hr := w.helmRelease("demo", `{}`)
	hr.Spec.ReleaseName = "first"
	hr.Spec.ValuesFrom = []v2.ValuesReference{
		{Kind: "ConfigMap", Name: "absent", Optional: true},
		{Kind: "ConfigMap", Name: "given", ValuesKey: "word", TargetPath: "greeting"},
	}
	w.create(hr)
	w.publish("demo", "1.0.0")
	w.eventually(func() error {
		message := conditions.GetMessage(w.get("demo"), meta.ReadyCondition)
		if want := "spec.valuesFrom[1]: read ConfigMap '" + w.ns + "/given'"; !strings.Contains(message, want) {
			return fmt.Errorf("message %q does not say %q", message, want)
		}
		return nil
	})
	w.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "given"}, Data: map[string]string{"word": "ahoy"}})
	w.ready("demo", "True", v2.InstallSucceededReason)
	if got := w.greeting("first"); got != "ahoy" {
		t.Errorf("greeting is %q", got)
	}
	// Another name is another release; the former one goes.
	w.update("demo", func(hr *v2.HelmRelease) { hr.Spec.ReleaseName = "second" })
	w.eventually(func() error {
		err := w.c.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: "first"}, &corev1.ConfigMap{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("the former release is still there: %v", err)
		}
		return w.c.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: "second"}, &corev1.ConfigMap{})
	})
	w.ready("demo", "True", v2.InstallSucceededReason)
}

func TestForcedAndReset(t *testing.T) {
	w := newWorld(t)
	w.create(w.helmRelease("demo", `{}`))
	w.publish("demo", "1.0.0")
	w.ready("demo", "True", v2.InstallSucceededReason)
	w.update("demo", func(hr *v2.HelmRelease) {
		hr.Annotations = map[string]string{meta.ReconcileRequestAnnotation: "now", v2.ForceRequestAnnotation: "now"}
	})
	c := w.ready("demo", "True", v2.UpgradeSucceededReason)
	if !strings.Contains(c.Message, "demo.v2") {
		t.Errorf("message %q", c.Message)
	}
	if s := w.get("demo").Status; s.LastHandledForceAt != "now" || s.LastHandledReconcileAt != "now" {
		t.Errorf("status: %+v", s)
	}
	// A verification alone finds the revision that was made.
	w.update("demo", func(hr *v2.HelmRelease) { hr.Annotations[meta.ReconcileRequestAnnotation] = "later" })
	w.eventually(func() error {
		if at := w.get("demo").Status.LastHandledReconcileAt; at != "later" {
			return fmt.Errorf("handled %q", at)
		}
		return nil
	})
	if v := w.get("demo").Status.History.Latest().Version; v != 2 {
		t.Errorf("the verification made revision %d", v)
	}
}

func TestSuspendedReleaseOutlivesItsHelmRelease(t *testing.T) {
	w := newWorld(t)
	w.create(w.helmRelease("demo", `{}`))
	w.publish("demo", "1.0.0")
	w.ready("demo", "True", v2.InstallSucceededReason)
	w.update("demo", func(hr *v2.HelmRelease) { hr.Spec.Suspend = true })
	if err := w.c.Delete(t.Context(), w.get("demo")); err != nil {
		t.Fatal(err)
	}
	w.eventually(func() error {
		err := w.c.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: "demo"}, &v2.HelmRelease{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("the HelmRelease is still there: %v", err)
		}
		return nil
	})
	if got := w.greeting("demo"); got != "hello" {
		t.Errorf("greeting is %q", got)
	}
}

func TestChartTests(t *testing.T) {
	w := newWorld(t)
	hr := w.helmRelease("demo", `{"test":true}`)
	hr.Spec.Test = &v2.Test{Enable: true}
	w.create(hr)
	w.publish("demo", "1.0.0")
	c := w.ready("demo", "True", v2.TestSucceededReason)
	if want := "1 test hook(s) completed successfully"; !strings.HasSuffix(c.Message, want) {
		t.Errorf("message %q", c.Message)
	}
	if h := w.get("demo").Status.History.Latest().GetTestHooks()["demo-test"]; h == nil || h.Phase != "Succeeded" {
		t.Errorf("test hooks: %+v", h)
	}
}

func TestDriftIsCorrected(t *testing.T) {
	w := newWorld(t)
	hr := w.helmRelease("demo", `{}`)
	hr.Spec.DriftDetection = &v2.DriftDetection{Mode: v2.DriftDetectionEnabled, Ignore: []v2.IgnoreRule{{Paths: []string{"/data/extra"}}}}
	w.create(hr)
	w.publish("demo", "1.0.0")
	w.ready("demo", "True", v2.InstallSucceededReason)
	w.eventually(func() error {
		if !conditions.IsFalse(w.get("demo"), v2.DriftedCondition) {
			return fmt.Errorf("drift has not been looked for")
		}
		return nil
	})
	// A removed object is back without anybody asking.
	if err := w.c.Delete(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "demo"}}); err != nil {
		t.Fatal(err)
	}
	var cm corev1.ConfigMap
	key := client.ObjectKey{Namespace: w.ns, Name: "demo"}
	w.eventually(func() error { return w.c.Get(t.Context(), key, &cm) })
	// A changed one at the next verification; what is ignored stays.
	w.eventually(func() error {
		if err := w.c.Get(t.Context(), key, &cm); err != nil {
			return err
		}
		cm.Data["greeting"], cm.Data["extra"] = "tampered", "kept"
		return w.c.Update(t.Context(), &cm)
	})
	w.update("demo", func(hr *v2.HelmRelease) { hr.Annotations = map[string]string{meta.ReconcileRequestAnnotation: "now"} })
	w.eventually(func() error {
		if err := w.c.Get(t.Context(), key, &cm); err != nil {
			return err
		}
		if cm.Data["greeting"] != "hello" || cm.Data["extra"] != "kept" {
			return fmt.Errorf("data: %v", cm.Data)
		}
		return nil
	})
	if v := w.get("demo").Status.History.Latest().Version; v != 1 {
		t.Errorf("the release is at revision %d; a verification and a correction make none", v)
	}
	// Reported only.
	w.update("demo", func(hr *v2.HelmRelease) { hr.Spec.DriftDetection.Mode = v2.DriftDetectionWarn })
	w.eventually(func() error {
		cm.Data["greeting"] = "tampered"
		if err := w.c.Update(t.Context(), &cm); err != nil {
			return client.IgnoreNotFound(w.c.Get(t.Context(), key, &cm))
		}
		return nil
	})
	w.update("demo", func(hr *v2.HelmRelease) { hr.Annotations = map[string]string{meta.ReconcileRequestAnnotation: "later"} })
	w.eventually(func() error {
		message := conditions.GetMessage(w.get("demo"), v2.DriftedCondition)
		if want := "ConfigMap/" + w.ns + "/demo changed (/data/greeting)"; !strings.Contains(message, want) {
			return fmt.Errorf("message %q does not say %q", message, want)
		}
		return nil
	})
	if !conditions.IsReady(w.get("demo")) {
		t.Error("a drifted release that is only reported is not ready")
	}
}

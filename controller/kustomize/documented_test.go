package kustomize

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/kernel/manifest"
)

// TestSpecShapesObjects: what a Kustomization says of names, namespace, labels,
// patches, images, components and variables shows in the cluster, all at once.
func TestSpecShapesObjects(t *testing.T) {
	w := newWorld(t, "admin")
	w.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "vars", Namespace: w.ns}, Data: map[string]string{"color": "red", "size": "from the ConfigMap"}})
	revision := w.publish("repo", map[string]string{
		"base/kustomization.yaml": "resources: [deployment.yaml, config.yaml]\n",
		"base/deployment.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: registry.example/web:1, envFrom: [{configMapRef: {name: settings}}]}]}
`,
		"base/config.yaml":             cm("settings", "${color} ${size} ${shape:=round} $${kept}"),
		"component/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\npatches: [{target: {kind: ConfigMap}, patch: '[{\"op\": \"add\", \"path\": \"/data/component\", \"value\": \"yes\"}]'}]\n",
	})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) {
		s.Path, s.NamePrefix, s.NameSuffix = "base", "pre-", "-post"
		s.Components, s.IgnoreMissingComponents = []string{"../component", "../gone"}, true
		s.CommonMetadata = &kustomizev1.CommonMetadata{Labels: map[string]string{"team": "a"}, Annotations: map[string]string{"note": "b"}}
		s.Patches = []kustomize.Patch{{Target: &kustomize.Selector{Kind: "Deployment"}, Patch: `[{"op":"replace","path":"/spec/replicas","value":0}]`}}
		s.Images = []kustomize.Image{{Name: "registry.example/web", NewTag: "2"}}
		s.PostBuild = &kustomizev1.PostBuild{Substitute: map[string]string{"size": "large"}, SubstituteFrom: []kustomizev1.SubstituteReference{
			{Kind: "ConfigMap", Name: "vars"}, {Kind: "Secret", Name: "gone", Optional: true}}}
	})
	w.ready("app", revision)
	config, err := w.configMap("pre-settings-post")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"key": "red large round ${kept}", "component": "yes"}, config.Data); diff != "" {
		t.Errorf("variables and the component (-want +got):\n%s", diff)
	}
	d := &appsv1.Deployment{}
	if err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "pre-web-post"}, d); err != nil {
		t.Fatal(err)
	}
	c := d.Spec.Template.Spec.Containers[0]
	if *d.Spec.Replicas != 0 || c.Image != "registry.example/web:2" || c.EnvFrom[0].ConfigMapRef.Name != "pre-settings-post" {
		t.Errorf("replicas %d, image %s, settings of %s; want the patch, the new tag and the new name", *d.Spec.Replicas, c.Image, c.EnvFrom[0].ConfigMapRef.Name)
	}
	for _, o := range []client.Object{config, d} {
		if o.GetLabels()["team"] != "a" || o.GetAnnotations()["note"] != "b" {
			t.Errorf("%s: labels %v, annotations %v; want the common ones", o.GetName(), o.GetLabels(), o.GetAnnotations())
		}
	}
}

// TestSuspendAndResume: while it is suspended nothing happens, whatever is asked;
// resumed, it catches up.
func TestSuspendAndResume(t *testing.T) {
	w := newWorld(t, "admin")
	first := w.publish("repo", map[string]string{"a.yaml": cm("a", "1"), "b.yaml": cm("b", "1")})
	w.kustomization("app", nil)
	w.ready("app", first)
	w.change("app", func(k *kustomizev1.Kustomization) { k.Spec.Suspend = true })
	w.suspended("app")
	second := w.publish("repo", map[string]string{"a.yaml": cm("a", "2")})
	w.change("app", func(k *kustomizev1.Kustomization) {
		k.Annotations = map[string]string{meta.ReconcileRequestAnnotation: "while suspended"}
	})
	// another one that is not suspended shows that the revision was seen
	w.kustomization("other", func(s *kustomizev1.KustomizationSpec) { s.NamePrefix = "other-" })
	w.ready("other", second)
	if a, err := w.configMap("a"); err != nil || a.Data["key"] != "1" {
		t.Errorf("a = %v, %v; want it as it was", a.Data, err)
	}
	if k := w.get("app"); k.Status.LastAppliedRevision != first || k.Status.LastHandledReconcileAt != "" {
		t.Errorf("status moved while it was suspended: %s, %q", k.Status.LastAppliedRevision, k.Status.LastHandledReconcileAt)
	}
	w.change("app", func(k *kustomizev1.Kustomization) { k.Spec.Suspend = false })
	k := w.ready("app", second)
	if k.Status.LastHandledReconcileAt != "while suspended" {
		t.Errorf("lastHandledReconcileAt = %q, want what was asked meanwhile", k.Status.LastHandledReconcileAt)
	}
	if _, err := w.configMap("b"); !apierrors.IsNotFound(err) {
		t.Errorf("b: %v, want it pruned", err)
	}
}

// TestRetriesAtItsInterval: what failed is tried again after spec.retryInterval,
// long before spec.interval.
func TestRetriesAtItsInterval(t *testing.T) {
	w := newWorld(t, "view") // may not write
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) {
		s.RetryInterval = &metav1.Duration{Duration: 300 * time.Millisecond}
	})
	w.failed("app", meta.ReconciliationFailedReason, "is forbidden")
	w.create(&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "editor", Namespace: w.ns}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "flux-applier", Namespace: w.ns}}})
	w.ready("app", revision)
}

// TestBuildsInTime: a build gets no more time than there is, which spec.timeout
// bounds, and says so. (No timeout is below half a minute.)
func TestBuildsInTime(t *testing.T) {
	dir := t.TempDir()
	var all strings.Builder
	for i := range 2000 {
		all.WriteString("---\n" + cm(fmt.Sprintf("c-%d", i), "1") + "\n")
	}
	for name, text := range map[string]string{"kustomization.yaml": "namePrefix: x-\nresources: [all.yaml]\n", "all.yaml": all.String()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k := &kustomizev1.Kustomization{Spec: kustomizev1.KustomizationSpec{Timeout: &metav1.Duration{Duration: time.Second}}}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := buildInTime(ctx, &scope{obj: k, request: manifest.Request{Root: dir, Spec: &k.Spec}})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "spec.timeout 30s: the build was not over in time") {
		t.Errorf("error = %v, want that the time was over, and which time", err)
	}
}

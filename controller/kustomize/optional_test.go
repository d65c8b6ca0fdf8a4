package kustomize

import (
	"fmt"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/dev/kubetest"
)

// TestOptionalVariables: what is optional may be missing, later layers win over
// earlier ones and the inline values over all; what comes later acts at once.
func TestOptionalVariables(t *testing.T) {
	w := newWorld(t, "admin")
	w.secret("first", "a", "1")
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "${a}-${b:=none}-${c:=none}")})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) {
		s.PostBuild = &kustomizev1.PostBuild{Substitute: map[string]string{"c": "inline"}, SubstituteFrom: []kustomizev1.SubstituteReference{
			{Kind: "Secret", Name: "first"}, {Kind: "ConfigMap", Name: "second", Optional: true},
		}}
	})
	w.ready("app", revision)
	holds := func(want string) {
		t.Helper()
		kubetest.Eventually(t, 5*time.Second, func() error {
			if a, err := w.configMap("a"); err != nil || a.Data["key"] != want {
				return fmt.Errorf("a = %v, %v, want %s", a.Data, err, want)
			}
			return nil
		})
	}
	holds("1-none-inline")
	second := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "second", Namespace: w.ns}, Data: map[string]string{"a": "2", "b": "3", "c": "4"}}
	w.create(second)
	holds("2-3-inline")
	if err := w.client.Delete(w.ctx, second); err != nil {
		t.Fatal(err)
	}
	holds("1-none-inline")
	if err := w.client.Delete(w.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "first", Namespace: w.ns}}); err != nil {
		t.Fatal(err)
	}
	w.failed("app", meta.BuildFailedReason, "substitute from 'Secret/first' error: secrets \"first\" not found")
	w.secret("first", "a", "5")
	w.ready("app", revision)
	holds("5-none-inline")
}

package kustomize

import (
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestShards has a source, a dependency and the owner of an object that are of
// another shard than the Kustomization which is reconciled here.
func TestShards(t *testing.T) {
	elsewhere := newWorld(t, "admin")
	elsewhere.labels = map[string]string{childLabel: "another"}
	theirs := elsewhere.kustomization("theirs", nil)

	w := newWorld(t, "cluster-admin")
	w.labels = elsewhere.labels
	before := w.kustomization("before", nil)
	revision := w.publish("repo", map[string]string{
		"a.yaml":    cm("a", "1"),
		"role.yaml": "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: " + w.ns + "\n",
	})
	w.labels = nil
	w.create(&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: w.ns, Labels: map[string]string{
		kustomizev1.GroupVersion.Group + "/name": theirs.Name, kustomizev1.GroupVersion.Group + "/namespace": theirs.Namespace,
	}}})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) {
		s.DependsOn = []kustomizev1.DependencyReference{{Name: "before"}}
		s.RetryInterval = &metav1.Duration{Duration: time.Second}
	})
	w.failed("app", meta.DependencyNotReadyReason, "dependency '"+w.ns+"/before' is not ready")

	// The other shard has done its work.
	ready := before.DeepCopy()
	ready.Status.ObservedGeneration, ready.Status.LastAppliedRevision = ready.Generation, revision
	conditions.MarkTrue(ready, meta.ReadyCondition, meta.ReconciliationSucceededReason, "applied")
	if err := w.client.Status().Patch(w.ctx, ready, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	w.change("app", func(k *kustomizev1.Kustomization) {
		k.Annotations = map[string]string{meta.ReconcileRequestAnnotation: "now"}
	})
	w.failed("app", meta.ReconciliationFailedReason, "it belongs to "+theirs.Namespace+"/"+theirs.Name)
	if err := w.client.Delete(w.ctx, theirs); err != nil {
		t.Fatal(err)
	}
	w.ready("app", revision)
}

package kustomize

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/acl"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/kubetest"
	"headwater.dev/kernel/depend"
)

// controllersOwn are the kinds that the loop reads and writes in its own name.
func controllersOwn() []string {
	return []string{"kustomizations", "gitrepositories", "ocirepositories", "buckets", "externalartifacts", "helmreleases", "events", "leases", "serviceaccounts", "customresourcedefinitions"}
}

// TestA40AuditOracle follows a tenant's whole life, and asks the API server's
// audit log who did what: nothing of the tenant's was touched or read in the
// controller's own name, on any path.
func TestA40AuditOracle(t *testing.T) {
	w := newWorld(t, "admin")
	mark := len(w.requestsIn(w.c))
	w.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "vars", Namespace: w.ns}, Data: map[string]string{"v": "1"}})
	w.secret("keys", "w", "2")
	immutable := func(v string) string { return cm("fixed", v) + "immutable: true\n" }
	files := map[string]string{"app/a.yaml": cm("a", "${v}-${w}"), "app/b.yaml": cm("b", "1"), "app/web.yaml": deployment, "app/job.yaml": job, "app/fixed.yaml": immutable("1"), "next/n.yaml": cm("n", "1")}
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) {
		s.Path, s.Wait, s.Force = "app", true, true
		s.PostBuild = &kustomizev1.PostBuild{SubstituteFrom: []kustomizev1.SubstituteReference{{Kind: "ConfigMap", Name: "vars"}, {Kind: "Secret", Name: "keys"}}}
	})
	w.kustomization("next", func(s *kustomizev1.KustomizationSpec) {
		s.Path, s.DependsOn = "next", []kustomizev1.DependencyReference{{Name: "app"}}
		s.HealthChecks = []meta.NamespacedObjectKindReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", Namespace: w.ns}}
	})
	revision := w.publish("repo", files)
	w.ready("app", revision)
	w.ready("next", revision)
	// Drift, a prune, a recreation, and a change of what is read.
	a, err := w.configMap("a")
	if err != nil {
		t.Fatal(err)
	}
	a.Data["key"] = "drift"
	if err := w.client.Update(w.ctx, a); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, 3*time.Second, func() error {
		if a, err := w.configMap("a"); err != nil || a.Data["key"] != "1-2" {
			return fmt.Errorf("a = %v, %v", a.Data, err)
		}
		return nil
	})
	delete(files, "app/b.yaml")
	files["app/fixed.yaml"] = immutable("2")
	revision = w.publish("repo", files)
	w.ready("app", revision)
	w.ready("next", revision)
	vars, err := w.configMap("vars")
	if err != nil {
		t.Fatal(err)
	}
	vars.Data["v"] = "3"
	if err := w.client.Update(w.ctx, vars); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, 5*time.Second, func() error {
		if a, err := w.configMap("a"); err != nil || a.Data["key"] != "3-2" {
			return fmt.Errorf("a = %v, %v", a.Data, err)
		}
		return nil
	})
	for _, name := range []string{"app", "next"} {
		k := w.get(name)
		if err := w.client.Delete(w.ctx, k); err != nil {
			t.Fatal(err)
		}
		w.gone(k)
	}
	w.oracle(mark)
}

// oracle judges the requests about the namespace since a mark. The test itself
// acts as another user agent than the loop, whose requests all come through
// the host's configuration.
func (w *world) oracle(mark int) {
	w.t.Helper()
	tenant := "system:serviceaccount:" + w.ns + ":flux-applier"
	acted := map[string]int{}
	for _, a := range w.requestsIn(w.c)[mark:] {
		switch {
		case a.Acting != nil && a.Acting.Username != tenant:
			w.t.Errorf("%s %s/%s as %s", a.Verb, a.ObjectRef.Resource, a.ObjectRef.Name, a.Acting.Username)
		case a.Acting != nil:
			acted[a.Verb]++
		case a.UserAgent == hostAgent && !slices.Contains(controllersOwn(), a.ObjectRef.Resource):
			w.t.Errorf("%s %s/%s in the controller's own name", a.Verb, a.ObjectRef.Resource, a.ObjectRef.Name)
		}
	}
	for _, verb := range []string{"patch", "delete", "get", "watch"} {
		if acted[verb] == 0 {
			w.t.Errorf("no %s was made as the tenant: the oracle saw nothing", verb)
		}
	}
}

// TestA40ServiceAccountNames: what is no name of a service account is refused,
// and never becomes somebody else's.
func TestA40ServiceAccountNames(t *testing.T) {
	w := newWorld(t, "admin")
	w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	for i, name := range []string{"../other", "other:flux-applier", "system:masters", "Flux", "a b", "x/y"} {
		k := fmt.Sprintf("k%d", i)
		w.kustomization(k, func(s *kustomizev1.KustomizationSpec) { s.ServiceAccountName = name })
		w.failed(k, acl.AccessDeniedReason, "spec.serviceAccountName")
	}
	if _, err := w.configMap("a"); !apierrors.IsNotFound(err) {
		t.Errorf("a: %v", err)
	}
}

// TestA41NobodyIsNotTheController: a service account that does not exist has no
// rights, and its rights gone midway end the work.
func TestA41NobodyIsNotTheController(t *testing.T) {
	w := newWorld(t, "admin")
	w.kustomization("app", nil)
	w.ready("app", w.publish("repo", map[string]string{"a.yaml": cm("a", "1")}))
	if err := w.client.Delete(w.ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "applier", Namespace: w.ns}}); err != nil {
		t.Fatal(err)
	}
	w.publish("repo", map[string]string{"a.yaml": cm("a", "2")})
	w.failed("app", meta.ReconciliationFailedReason, "(Forbidden)")
	if a, err := w.configMap("a"); err != nil || a.Data["key"] != "1" {
		t.Errorf("a = %v, %v", a.Data, err)
	}
}

// TestA43CrossNamespace: no reference leaves the namespace.
func TestA43CrossNamespace(t *testing.T) {
	w := newWorld(t, "admin")
	w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	w.kustomization("source", func(s *kustomizev1.KustomizationSpec) { s.SourceRef.Namespace = "other" })
	w.failed("source", acl.AccessDeniedReason, "can't access 'GitRepository/other/repo', cross-namespace references have been blocked")
	w.kustomization("dependency", func(s *kustomizev1.KustomizationSpec) {
		s.DependsOn = []kustomizev1.DependencyReference{{Name: "x", Namespace: "other"}}
	})
	w.failed("dependency", acl.AccessDeniedReason, "can't access 'Kustomization/other/x'")
	w.kustomization("annotation", func(s *kustomizev1.KustomizationSpec) { s.Suspend = true })
	w.change("annotation", func(k *kustomizev1.Kustomization) {
		k.Spec.Suspend, k.Annotations = false, map[string]string{depend.Annotation: "HelmRelease/other/db"}
	})
	w.failed("annotation", acl.AccessDeniedReason, "can't access 'HelmRelease/other/db'")
}

// TestA44TamperedInventory: what a status claims is not deleted unless it
// carries the owner's labels, and labels in Git do not make another owner.
func TestA44TamperedInventory(t *testing.T) {
	w := newWorld(t, "admin")
	w.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "victim", Namespace: w.ns}})
	lying := strings.Replace(cm("a", "1"), "name: a", "name: a\n  labels: {kustomize.toolkit.fluxcd.io/name: other, kustomize.toolkit.fluxcd.io/namespace: elsewhere}", 1)
	w.kustomization("app", nil)
	k := w.ready("app", w.publish("repo", map[string]string{"a.yaml": lying}))
	if a, err := w.configMap("a"); err != nil || a.Labels[group+"/name"] != "app" {
		t.Errorf("labels %v, %v", a.Labels, err)
	}
	before := k.DeepCopy()
	k.Status.Inventory.Entries = append(k.Status.Inventory.Entries, kustomizev1.ResourceRef{ID: w.ns + "_victim__ConfigMap", Version: "v1"}, kustomizev1.ResourceRef{ID: "nonsense"})
	if err := w.client.Status().Patch(w.ctx, k, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	w.ready("app", w.publish("repo", map[string]string{"b.yaml": cm("b", "1")}))
	if err := w.client.Delete(w.ctx, k); err != nil {
		t.Fatal(err)
	}
	w.gone(k)
	if _, err := w.configMap("victim"); err != nil {
		t.Errorf("the victim is gone: %v", err)
	}
}

// TestA45NamespaceDeletion does not wedge.
func TestA45NamespaceDeletion(t *testing.T) {
	w := newWorld(t, "admin")
	w.kustomization("app", nil)
	k := w.ready("app", w.publish("repo", map[string]string{"a.yaml": cm("a", "1")}))
	if err := w.client.Delete(w.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}); err != nil {
		t.Fatal(err)
	}
	w.gone(k)
}

// TestA46ClusterScopedFromATenant: the tenant's rights are the limit, and the
// message says which object asked for more.
func TestA46ClusterScopedFromATenant(t *testing.T) {
	w := newWorld(t, "admin")
	w.publish("repo", map[string]string{"r.yaml": "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: " + w.ns + "}\nrules: [{apiGroups: ['*'], resources: ['*'], verbs: ['*']}]\n"})
	w.kustomization("app", nil)
	w.failed("app", meta.ReconciliationFailedReason, "ClusterRole/"+w.ns+" apply failed (Forbidden)")
}

// TestA47OneBadObject: fields that would not decode never get in, and what is
// odd in one object does not stop the others of its kind.
func TestA47OneBadObject(t *testing.T) {
	w := newWorld(t, "admin")
	k := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Name: "odd", Namespace: w.ns, Annotations: map[string]string{
		depend.Annotation: "\x00\n/////@(", meta.ReconcileRequestAnnotation: strings.Repeat("x", 10_000),
	}}}
	k.Spec = kustomizev1.KustomizationSpec{
		Interval: metav1.Duration{Duration: time.Hour}, Path: "../../..", TargetNamespace: "a_b",
		SourceRef: kustomizev1.CrossNamespaceSourceReference{Kind: "GitRepository", Name: "repo"},
	}
	if err := w.client.Create(w.ctx, k); err != nil && !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) {
		t.Fatal(err)
	}
	raw := []byte(`{"apiVersion":"kustomize.toolkit.fluxcd.io/v1","kind":"Kustomization","metadata":{"name":"bad"},"spec":{"interval":"soon","prune":true,"sourceRef":{"kind":"GitRepository","name":"repo"}}}`)
	err := w.c.Client.CoreV1().RESTClient().Post().AbsPath("/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/" + w.ns + "/kustomizations").Body(raw).Do(w.ctx).Error()
	if !apierrors.IsInvalid(err) {
		t.Errorf("an interval that is none: %v", err)
	}
	w.kustomization("good", nil)
	w.ready("good", w.publish("repo", map[string]string{"a.yaml": cm("a", "1")}))
}

const claim = `apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data%s}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: "%s"
  resources: {requests: {storage: 1Gi}}
`

// TestA49ForceKeepsData: spec.force does not delete what holds data; the object
// itself has to say so.
func TestA49ForceKeepsData(t *testing.T) {
	w := newWorld(t, "admin")
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.Force = true })
	w.ready("app", w.publish("repo", map[string]string{"c.yaml": fmt.Sprintf(claim, "", "one")}))
	uid := func() types.UID {
		t.Helper()
		pvc := &corev1.PersistentVolumeClaim{}
		if err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "data"}, pvc); err != nil {
			t.Fatal(err)
		}
		return pvc.UID
	}
	was := uid()
	w.publish("repo", map[string]string{"c.yaml": fmt.Sprintf(claim, "", "two")})
	w.failed("app", meta.ReconciliationFailedReason, "PersistentVolumeClaim/"+w.ns+"/data apply failed")
	if uid() != was {
		t.Error("the claim was deleted without consent")
	}
	revision := w.publish("repo", map[string]string{"c.yaml": fmt.Sprintf(claim, ", annotations: {kustomize.toolkit.fluxcd.io/force: enabled}", "two")})
	w.ready("app", revision)
	if uid() == was {
		t.Error("the claim was not recreated, with consent")
	}
}

// TestA50FailingOnesDoNotStarve: many that never become ready, and that fail,
// do not keep the healthy ones from it.
func TestA50FailingOnesDoNotStarve(t *testing.T) {
	w := newWorld(t, "admin")
	unready := strings.Replace(deployment, "labels: {app: web}}\n    spec", "labels: {app: web}, annotations: {simulate.headwater.dev/outcome: unready}}\n    spec", 1)
	files := map[string]string{"never/web.yaml": unready, "broken/x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: broken}\ndata: {a: [1]}\n"}
	for i := range 20 {
		files[fmt.Sprintf("good%d/a.yaml", i)] = cm(fmt.Sprintf("good%d", i), "1")
	}
	for i := range 20 {
		for _, path := range []string{"never", "broken"} {
			w.kustomization(fmt.Sprintf("%s%d", path, i), func(s *kustomizev1.KustomizationSpec) {
				s.Path, s.Wait, s.RetryInterval, s.NamePrefix = path, true, &metav1.Duration{Duration: 100 * time.Millisecond}, fmt.Sprintf("p%d-", i)
			})
		}
	}
	revision := w.publish("repo", files)
	start := time.Now()
	for i := range 20 {
		w.kustomization(fmt.Sprintf("good%d", i), func(s *kustomizev1.KustomizationSpec) { s.Path, s.Wait = fmt.Sprintf("good%d", i), true })
	}
	for i := range 20 {
		w.ready(fmt.Sprintf("good%d", i), revision)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("twenty healthy ones took %s beside forty others", took)
	}
	for i := range 20 {
		if k := w.get(fmt.Sprintf("never%d", i)); conditions.IsReady(k) {
			t.Errorf("%s is ready", k.Name)
		}
		w.suspend(fmt.Sprintf("broken%d", i))
		w.suspend(fmt.Sprintf("never%d", i))
	}
}

// suspend keeps a Kustomization from disturbing later tests.
func (w *world) suspend(name string) {
	w.t.Helper()
	k := w.get(name)
	before := k.DeepCopy()
	k.Spec.Suspend = true
	if err := w.client.Patch(w.ctx, k, client.MergeFrom(before)); err != nil {
		w.t.Fatal(err)
	}
}

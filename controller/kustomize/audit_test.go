package kustomize

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/kubetest"
	"headwater.dev/kernel/apply"
)

// unready is a Deployment that never becomes available.
func unready() string {
	return strings.Replace(deployment, "labels: {app: web}}\n    spec", "labels: {app: web}, annotations: {simulate.headwater.dev/outcome: unready}}\n    spec", 1)
}

// TestItselfIsNotWaitedFor: a Kustomization that lies in its own repository,
// as after a bootstrap, does not wait for itself.
func TestItselfIsNotWaitedFor(t *testing.T) {
	w := newWorld(t, "cluster-admin")
	itself := fmt.Sprintf("apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: app, namespace: %s}\n"+
		"spec: {interval: 1h, retryInterval: 1h, timeout: 1m, prune: true, wait: true, sourceRef: {kind: GitRepository, name: repo}}\n", w.ns)
	revision := w.publish("repo", map[string]string{"sync.yaml": itself, "a.yaml": strings.Replace(cm("a", "1"), "name: a", "name: a\n  namespace: "+w.ns, 1)})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.Wait, s.TargetNamespace = true, "" })
	k := w.ready("app", revision)
	if len(k.Status.Inventory.Entries) != 2 {
		t.Errorf("inventory %v", k.Status.Inventory.Entries)
	}
	w.change("app", func(k *kustomizev1.Kustomization) { k.Spec.Suspend = true }) // it would prune itself
}

// TestSkippedAreNotWaitedFor: an object that is left to others, whoever says
// so, may be missing or unhealthy.
func TestSkippedAreNotWaitedFor(t *testing.T) {
	w := newWorld(t, "admin")
	ignored := strings.Replace(cm("ignored", "1"), "name: ignored", "name: ignored\n  annotations: {kustomize.toolkit.fluxcd.io/ssa: Ignore}", 1)
	files := map[string]string{"a.yaml": cm("a", "1"), "i.yaml": ignored, "web.yaml": deployment}
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.Wait = true })
	w.ready("app", w.publish("repo", files))
	if _, err := w.configMap("ignored"); !apierrors.IsNotFound(err) {
		t.Errorf("ignored: %v", err)
	}
	d := &appsv1.Deployment{}
	kubetest.Eventually(t, 10*time.Second, func() error {
		if err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "web"}, d); err != nil {
			return err
		}
		d.Annotations["kustomize.toolkit.fluxcd.io/reconcile"] = "disabled"
		d.Spec.Template.Annotations = map[string]string{"simulate.headwater.dev/outcome": "unready"}
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		return w.client.Update(w.ctx, d)
	})
	kubetest.Eventually(t, 15*time.Second, func() error {
		if err := w.client.Get(w.ctx, client.ObjectKeyFromObject(d), d); err != nil || d.Status.ReadyReplicas > 0 || d.Status.ObservedGeneration != d.Generation {
			return fmt.Errorf("status %+v, %v", d.Status, err)
		}
		return nil
	})
	files["a.yaml"] = cm("a", "2")
	w.ready("app", w.publish("repo", files))
	if a, err := w.configMap("a"); err != nil || a.Data["key"] != "2" {
		t.Errorf("a = %v, %v", a.Data, err)
	}
}

// TestEventsOfAWait: what was done to objects is told before their health is
// waited for, and the end of the wait after it.
func TestEventsOfAWait(t *testing.T) {
	w := newWorld(t, "admin")
	first := w.publish("repo", map[string]string{"a.yaml": cm("a", "1"), "web.yaml": unready()})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.Wait = true })
	w.progressing("app", "Running health checks")
	told := func(want ...string) {
		t.Helper()
		kubetest.Eventually(t, 5*time.Second, func() error {
			got := running.receiver.of(w.ns, "app")
			i := 0
			for _, e := range got {
				if i < len(want) && strings.HasPrefix(e, want[i]) {
					i++
				}
			}
			if i < len(want) {
				return fmt.Errorf("received %q, want %q", got, want[i])
			}
			return nil
		})
	}
	created := "ConfigMap/" + w.ns + "/a created\nDeployment/" + w.ns + "/web created | " + first
	told(created)
	second := w.publish("repo", map[string]string{"a.yaml": cm("a", "1"), "web.yaml": deployment})
	k := w.ready("app", second)
	told(created, "Deployment/"+w.ns+"/web configured | "+second, "Health check passed | "+second, "Reconciliation finished | "+second)
	if err := w.client.Delete(w.ctx, k); err != nil {
		t.Fatal(err)
	}
	w.gone(k)
	told("Deployment/" + w.ns + "/web deleted\nConfigMap/" + w.ns + "/a deleted | " + second)
}

// TestTwoOwners: an object in two Kustomizations belongs to the one that
// applied it last, is not fought over in a loop, and goes with its owner only.
func TestTwoOwners(t *testing.T) {
	w := newWorld(t, "admin")
	revision := w.publish("repo", map[string]string{"one/a.yaml": cm("a", "1"), "two/a.yaml": cm("a", "2")})
	for _, name := range []string{"one", "two"} {
		w.kustomization(name, func(s *kustomizev1.KustomizationSpec) { s.Path = name })
		w.ready(name, revision)
	}
	mark := len(w.requests())
	revision = w.publish("repo", map[string]string{"one/a.yaml": cm("a", "1"), "two/a.yaml": cm("a", "2"), "one/b.yaml": cm("b", "1")})
	w.ready("one", revision)
	w.ready("two", revision)
	patches := 0
	for _, a := range w.requests()[mark:] {
		if a.Verb == "patch" && a.ObjectRef.Resource == "configmaps" && a.ObjectRef.Name == "a" {
			patches++
		}
	}
	if patches > 4 {
		t.Errorf("%d patches of one object", patches)
	}
	a, err := w.configMap("a")
	if err != nil {
		t.Fatal(err)
	}
	owner := a.Labels[group+"/name"]
	other := map[string]string{"one": "two", "two": "one"}[owner]
	k := w.get(other)
	if err := w.client.Delete(w.ctx, k); err != nil {
		t.Fatal(err)
	}
	w.gone(k)
	if _, err := w.configMap("a"); err != nil {
		t.Errorf("%s took %s's object with it: %v", other, owner, err)
	}
	k = w.get(owner)
	if err := w.client.Delete(w.ctx, k); err != nil {
		t.Fatal(err)
	}
	w.gone(k)
	if _, err := w.configMap("a"); !apierrors.IsNotFound(err) {
		t.Errorf("a: %v", err)
	}
}

// TestJobsThatGo: a Job that is deleted after its time has run once for what
// Git says, and runs again when that changes.
func TestJobsThatGo(t *testing.T) {
	w := newWorld(t, "admin")
	short := strings.Replace(job, "spec:\n  backoff", "spec:\n  ttlSecondsAfterFinished: 0\n  backoff", 1)
	files := map[string]string{"job.yaml": short, "a.yaml": cm("a", "1")}
	mark := len(w.requests())
	runs := func(want int) {
		t.Helper()
		kubetest.Eventually(t, 20*time.Second, func() error {
			err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "migrate"}, &batchv1.Job{})
			if !apierrors.IsNotFound(err) {
				return fmt.Errorf("it is still there: %v", err)
			}
			return nil
		})
		if n := w.applied(mark, "jobs", "migrate"); n != want {
			t.Errorf("applied %d times, want %d", n, want)
		}
	}
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.Wait = true })
	w.ready("app", w.publish("repo", files))
	runs(1)
	files["a.yaml"] = cm("a", "2")
	w.ready("app", w.publish("repo", files))
	runs(1)
	files["job.yaml"] = strings.Replace(short, "m:1", "m:2", 1)
	w.ready("app", w.publish("repo", files))
	runs(2)
}

// TestJobsThatGoAcrossARestart: that a Job has ended is known after a restart too,
// although no revision came after it.
func TestJobsThatGoAcrossARestart(t *testing.T) {
	w := newWorld(t, "admin")
	c := newChild(t, w)
	c.start("")
	files := map[string]string{"job.yaml": strings.Replace(job, "spec:\n  backoff", "spec:\n  ttlSecondsAfterFinished: 0\n  backoff", 1), "a.yaml": cm("a", "1")}
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.Wait = true })
	k := w.ready("app", w.publish("repo", files))
	kubetest.Eventually(t, 20*time.Second, func() error {
		_, receipts, _ := store{filepath.Join(c.dir, "kustomizations")}.load(client.ObjectKeyFromObject(k), k.UID)
		if !slices.ContainsFunc(receipts, func(r apply.Receipt) bool { return r.Ended }) {
			return fmt.Errorf("kept: %+v", receipts)
		}
		return nil
	})
	c.kill()
	mark := len(w.requests())
	files["a.yaml"] = cm("a", "2")
	revision := w.publish("repo", files)
	c.start("")
	w.ready("app", revision)
	if n := w.applied(mark, "jobs", "migrate"); n != 0 {
		t.Errorf("it was applied again, %d times", n)
	}
}

// TestRequestAfterAFailure: a reconcile request has every object looked at, also
// when the last apply failed.
func TestRequestAfterAFailure(t *testing.T) {
	w := newWorld(t, "admin")
	bad := "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 0}]}\n"
	w.publish("repo", map[string]string{"a.yaml": cm("a", "1"), "b.yaml": bad})
	w.kustomization("app", nil)
	w.failed("app", meta.ReconciliationFailedReason, "Service/"+w.ns+"/bad apply failed (Invalid)")
	looked := func(request string, want int) {
		t.Helper()
		mark := len(w.requests())
		patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, meta.ReconcileRequestAnnotation, request))
		if err := w.client.Patch(w.ctx, w.get("app"), patch); err != nil { // whatever is written at the same time
			t.Fatal(err)
		}
		kubetest.Eventually(t, 10*time.Second, func() error {
			if got := w.get("app").Status.LastHandledReconcileAt; got != request {
				return fmt.Errorf("request %q is handled, not %q", got, request)
			}
			return nil
		})
		if n := w.applied(mark, "configmaps", "a"); n != want {
			t.Errorf("request %q: a was looked at %d times, want %d", request, n, want)
		}
	}
	looked("one", 1)
	looked("two", 1)
}

// TestHealthChecksByName: of kinds without namespaces, and without a version.
func TestHealthChecksByName(t *testing.T) {
	w := newWorld(t, "cluster-admin")
	revision := w.publish("repo", map[string]string{"web.yaml": deployment})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) {
		s.HealthChecks = []meta.NamespacedObjectKindReference{{Kind: "Deployment", Name: "web"}, {APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRole", Name: w.ns}}
	})
	w.progressing("app", "Running health checks")
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}
	w.create(role)
	start := time.Now()
	w.ready("app", revision)
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("woken after %s", took)
	}
	if err := w.client.Delete(w.ctx, role); err != nil {
		t.Fatal(err)
	}
	w.kustomization("bad", func(s *kustomizev1.KustomizationSpec) {
		s.HealthChecks = []meta.NamespacedObjectKindReference{{APIVersion: "a/b/c", Kind: "X", Name: "x"}}
	})
	w.failed("bad", meta.HealthCheckFailedReason, "spec.healthChecks[0].apiVersion")
}

// TestPruneAtDeletionIsTriedAgain soon, whatever the retry interval: the
// namespace may be waiting for it.
func TestPruneAtDeletionIsTriedAgain(t *testing.T) {
	w := newWorld(t, "admin")
	w.kustomization("app", nil) // its retryInterval is an hour
	k := w.ready("app", w.publish("repo", map[string]string{"a.yaml": cm("a", "1")}))
	binding := &rbacv1.RoleBinding{}
	if err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: "applier"}, binding); err != nil {
		t.Fatal(err)
	}
	if err := w.client.Delete(w.ctx, binding); err != nil {
		t.Fatal(err)
	}
	if err := w.client.Delete(w.ctx, k); err != nil {
		t.Fatal(err)
	}
	w.failed("app", meta.PruneFailedReason, "ConfigMap/"+w.ns+"/a delete failed (Forbidden)")
	binding.ResourceVersion, binding.UID = "", ""
	w.create(binding)
	w.gone(k)
	if _, err := w.configMap("a"); !apierrors.IsNotFound(err) {
		t.Errorf("a: %v", err)
	}
}

// TestPruneDisabledInTheCluster: an annotation that only the object in the
// cluster carries counts, for a prune and for a deletion.
func TestPruneDisabledInTheCluster(t *testing.T) {
	w := newWorld(t, "admin")
	w.kustomization("app", nil)
	w.ready("app", w.publish("repo", map[string]string{"a.yaml": cm("a", "1"), "b.yaml": cm("b", "1"), "c.yaml": cm("c", "1")}))
	for _, name := range []string{"a", "b"} {
		c, err := w.configMap(name)
		if err != nil {
			t.Fatal(err)
		}
		c.Annotations = map[string]string{group + "/prune": "Disabled"}
		if err := w.client.Update(w.ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	k := w.ready("app", w.publish("repo", map[string]string{"b.yaml": cm("b", "1"), "c.yaml": cm("c", "1")}))
	if err := w.client.Delete(w.ctx, k); err != nil {
		t.Fatal(err)
	}
	w.gone(k)
	var left corev1.ConfigMapList
	if err := w.client.List(w.ctx, &left, client.InNamespace(w.ns), client.HasLabels{group + "/name"}); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range left.Items {
		names = append(names, c.Name)
	}
	if !slices.Equal(names, []string{"a", "b"}) {
		t.Errorf("left are %v", names)
	}
}

// TestSuspendedInTheMiddle: a Kustomization that is suspended while it waits
// does nothing more, and goes on where it was.
func TestSuspendedInTheMiddle(t *testing.T) {
	w := newWorld(t, "admin")
	w.publish("repo", map[string]string{"web.yaml": unready()})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.Wait = true })
	w.progressing("app", "Running health checks")
	w.change("app", func(k *kustomizev1.Kustomization) { k.Spec.Suspend = true })
	w.suspended("app")
	second := w.publish("repo", map[string]string{"web.yaml": deployment, "a.yaml": cm("a", "1")})
	w.kustomization("probe", nil)
	w.ready("probe", second)
	if k := w.get("app"); k.Status.LastAttemptedRevision == second || conditions.IsReady(k) {
		t.Errorf("suspended, and yet: %+v", k.Status)
	}
	w.change("app", func(k *kustomizev1.Kustomization) { k.Spec.Suspend = false })
	w.ready("app", second)
}

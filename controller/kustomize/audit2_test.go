package kustomize

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/kubetest"
)

// gizmo is a kind of a group of its own, of either scope.
func gizmo(group, scope string) (definition, object string) {
	definition = strings.NewReplacer("widgets", "gizmos", "Widget", "Gizmo", "widget", "gizmo", "health.example.com", group, "Namespaced", scope).Replace(widgets)
	return definition, "apiVersion: " + group + "/v1\nkind: Gizmo\nmetadata: {name: g}\nspec: {}\n"
}

func (w *world) gizmos(group, ns string) dynamic.ResourceInterface {
	w.t.Helper()
	d, err := dynamic.NewForConfig(w.c.Config)
	if err != nil {
		w.t.Fatal(err)
	}
	r := d.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: "gizmos"})
	if ns == "" {
		return r
	}
	return r.Namespace(ns)
}

// TestF05DefinitionDeleted: a definition that somebody deletes comes back, and
// what it defines, although it went with it.
func TestF05DefinitionDeleted(t *testing.T) {
	w := newWorld(t, "cluster-admin")
	crd, object := gizmo("deleted.example.com", "Namespaced")
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.Wait = true })
	k := w.ready("app", w.publish("repo", map[string]string{"crd.yaml": crd, "g.yaml": object, "a.yaml": cm("a", "1")}))
	was, err := w.gizmos("deleted.example.com", w.ns).Get(w.ctx, "g", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.client.Delete(w.ctx, &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "gizmos.deleted.example.com"}}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	kubetest.Eventually(t, 30*time.Second, func() error {
		now, err := w.gizmos("deleted.example.com", w.ns).Get(w.ctx, "g", metav1.GetOptions{})
		if err == nil && now.GetUID() == was.GetUID() {
			return fmt.Errorf("it is still the old one")
		}
		return err
	})
	t.Logf("back after %s", time.Since(start).Round(time.Millisecond))
	w.ready("app", k.Status.LastAppliedRevision)
	if err := w.client.Delete(w.ctx, k); err != nil {
		t.Fatal(err)
	}
	w.gone(k)
}

// TestScopes: targetNamespace moves what has a namespace and leaves alone what
// has none, also of kinds that the same Kustomization defines.
func TestScopes(t *testing.T) {
	w := newWorld(t, "cluster-admin")
	crd, object := gizmo("scopes.example.com", "Cluster")
	role := "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: " + w.ns + "}\nrules: []\n"
	list := "apiVersion: v1\nkind: ConfigMapList\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: l1}}\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: l2}}\n"
	files := map[string]string{"crd.yaml": crd, "g.yaml": object, "role.yaml": role, "l.yaml": list, "empty.yaml": "---\n---\n# nothing\n---\n" + cm("a", "1") + "---\n"}
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.Wait = true })
	k := w.ready("app", w.publish("repo", files))
	var got []string
	for _, e := range k.Status.Inventory.Entries {
		got = append(got, e.ID)
	}
	want := []string{"_gizmos.scopes.example.com_apiextensions.k8s.io_CustomResourceDefinition", "_" + w.ns + "_rbac.authorization.k8s.io_ClusterRole",
		w.ns + "_a__ConfigMap", w.ns + "_l1__ConfigMap", w.ns + "_l2__ConfigMap", "_g_scopes.example.com_Gizmo"}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("inventory %q, want %q", got, want)
	}
	delete(files, "g.yaml")
	w.ready("app", w.publish("repo", files))
	if _, err := w.gizmos("scopes.example.com", "").Get(w.ctx, "g", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the object without a namespace was not pruned: %v", err)
	}
	if err := w.client.Delete(w.ctx, k); err != nil {
		t.Fatal(err)
	}
	w.gone(k)
}

// TestOddObjects are refused with a message that names the object and says why.
func TestOddObjects(t *testing.T) {
	w := newWorld(t, "admin")
	big := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: big}\ndata: {k: " + strings.Repeat("x", 1_500_000) + "}\n"
	w.publish("repo", map[string]string{
		"generated/a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: a-}\n", "twice/a.yaml": cm("a", "1"), "twice/b.yaml": cm("a", "2"),
		"bare/a.yaml": cm("a", "1"), "kind/a.yaml": "apiVersion: nowhere.example.com/v1\nkind: Nothing\nmetadata: {name: n}\n", "big/a.yaml": big,
	})
	for name, c := range map[string]struct{ reason, message string }{
		"generated": {meta.BuildFailedReason, "name"},
		"twice":     {meta.BuildFailedReason, "ConfigMap"},
		"bare":      {meta.BuildFailedReason, "ConfigMap/a build failed: metadata.namespace is missing: set it, or spec.targetNamespace"},
		"kind":      {meta.ReconciliationFailedReason, "Nothing/" + w.ns + "/n apply failed: no matches for kind \"Nothing\""},
		"big":       {meta.ReconciliationFailedReason, "ConfigMap/" + w.ns + "/big apply failed"},
	} {
		w.kustomization(name, func(s *kustomizev1.KustomizationSpec) {
			s.Path = name
			if name == "bare" {
				s.TargetNamespace = ""
			}
		})
		w.failed(name, c.reason, c.message)
	}
}

// TestTimeout: the wait ends after spec.timeout, costs nothing while it lasts,
// and its failure ends when the object comes.
func TestTimeout(t *testing.T) {
	w := newWorld(t, "admin")
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) {
		s.Timeout = &metav1.Duration{Duration: time.Second} // half a minute is the least
		s.HealthChecks = []meta.NamespacedObjectKindReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "theirs", Namespace: w.ns}}
	})
	w.progressing("app", "with a timeout of 30s")
	began, mark := time.Now(), len(w.requests())
	w.failedIn(time.Minute, "app", meta.HealthCheckFailedReason, "health check failed: timeout waiting for: [ConfigMap/"+w.ns+"/theirs status: 'NotFound']")
	if took := time.Since(began); took < 15*time.Second || took > 60*time.Second {
		t.Errorf("it waited %s", took)
	}
	for _, a := range w.requests()[mark:] {
		if a.Acting != nil && a.Verb != "watch" && a.ObjectRef.Name != "a" { // whose apply may be under way
			t.Errorf("while it waited: %s %s/%s", a.Verb, a.ObjectRef.Resource, a.ObjectRef.Name)
		}
	}
	if k := w.get("app"); k.Status.LastAppliedRevision == revision || k.Status.LastAttemptedRevision != revision || k.Status.ObservedGeneration == k.Generation {
		t.Errorf("status %+v", k.Status)
	}
	w.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "theirs", Namespace: w.ns}})
	w.ready("app", revision)
}

// TestHistory: each content has one entry, with how it went last.
func TestHistory(t *testing.T) {
	w := newWorld(t, "admin")
	bad := "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 0}]}\n"
	w.kustomization("app", nil)
	first := w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	w.ready("app", first)
	second := w.publish("repo", map[string]string{"a.yaml": cm("a", "1"), "b.yaml": bad})
	w.failed("app", meta.ReconciliationFailedReason, "Service/"+w.ns+"/bad apply failed (Invalid)")
	third := w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	k := w.ready("app", third)
	h := k.Status.History
	if len(h) != 2 || h[0].LastReconciledStatus != meta.ReconciliationSucceededReason || h[0].TotalReconciliations != 2 || h[0].Metadata["revision"] != third ||
		h[1].LastReconciledStatus != meta.ReconciliationFailedReason || h[1].Metadata["revision"] != second || h[0].Digest == h[1].Digest {
		t.Errorf("history %+v", h)
	}
}

// TestDependsOnItself is a cycle too.
func TestDependsOnItself(t *testing.T) {
	w := newWorld(t, "admin")
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	w.kustomization("x", func(s *kustomizev1.KustomizationSpec) {
		s.DependsOn = []kustomizev1.DependencyReference{{Name: "x"}}
	})
	w.failed("x", meta.DependencyNotReadyReason, fmt.Sprintf("dependency cycle Kustomization/%[1]s/x → Kustomization/%[1]s/x", w.ns))
	w.kustomization("y", func(s *kustomizev1.KustomizationSpec) {
		s.DependsOn = []kustomizev1.DependencyReference{{Name: "later"}}
	})
	w.failed("y", meta.DependencyNotReadyReason, "dependency '"+w.ns+"/later' not found")
	start := time.Now()
	w.kustomization("later", nil)
	w.ready("y", revision)
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("woken after %s", took)
	}
}

// TestReadyOnesStayReady: a dependency that is busy does not disturb who is
// ready, until there is something to apply.
func TestReadyOnesStayReady(t *testing.T) {
	w := newWorld(t, "admin")
	other := w.publish("other", map[string]string{"a.yaml": cm("a", "1")})
	w.n = 10
	revision := w.publish("repo", map[string]string{"web.yaml": deployment})
	w.kustomization("base", func(s *kustomizev1.KustomizationSpec) { s.Wait = true })
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) {
		s.SourceRef.Name, s.DependsOn = "other", []kustomizev1.DependencyReference{{Name: "base"}}
	})
	w.ready("base", revision)
	w.ready("app", other)
	w.n = 15
	other = w.publish("other", map[string]string{"a.yaml": cm("a", "1"), "b.yaml": cm("b", "1")}) // by now its objects are watched
	was := conditions.Get(w.ready("app", other), meta.ReadyCondition)
	w.publish("repo", map[string]string{"web.yaml": unready()})
	w.progressing("base", "Running health checks")
	w.kustomization("probe", func(s *kustomizev1.KustomizationSpec) { s.SourceRef.Name = "other" })
	w.ready("probe", other)
	if now := conditions.Get(w.get("app"), meta.ReadyCondition); now.Status != was.Status || now.LastTransitionTime != was.LastTransitionTime {
		t.Errorf("Ready was %v and is %v", was, now)
	}
	w.n = 25
	other = w.publish("other", map[string]string{"a.yaml": cm("a", "2")})
	w.failed("app", meta.DependencyNotReadyReason, "dependency '"+w.ns+"/base' is not ready")
	w.publish("repo", map[string]string{"web.yaml": deployment})
	w.ready("app", other)
}

// TestHealthExpressionOfAPlainKind: expressions judge any kind, also those whose
// state is usually of no interest.
func TestHealthExpressionOfAPlainKind(t *testing.T) {
	w := newWorld(t, "admin")
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) {
		s.Wait = true
		s.HealthCheckExprs = []kustomize.CustomHealthCheck{{APIVersion: "v1", Kind: "ConfigMap", HealthCheckExpressions: kustomize.HealthCheckExpressions{
			InProgress: "!has(data.done)", Current: "data.done == 'yes'",
		}}}
	})
	w.progressing("app", "Running health checks")
	a, err := w.configMap("a")
	if err != nil {
		t.Fatal(err)
	}
	a.Data["done"] = "yes"
	if err := w.client.Update(w.ctx, a); err != nil {
		t.Fatal(err)
	}
	w.ready("app", revision)
}

// TestFailedPruneIsKept: what could not be deleted stays in the inventory, and
// goes when it may.
func TestFailedPruneIsKept(t *testing.T) {
	w := newWorld(t, "view")
	rules := []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"create", "patch"}}}
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "writer", Namespace: w.ns}, Rules: rules}
	w.create(role)
	w.create(&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "writer", Namespace: w.ns}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "writer"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "flux-applier", Namespace: w.ns}}})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) {
		s.RetryInterval = &metav1.Duration{Duration: 500 * time.Millisecond}
	})
	w.ready("app", w.publish("repo", map[string]string{"a.yaml": cm("a", "1"), "b.yaml": cm("b", "1")}))
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "2")})
	w.failed("app", meta.PruneFailedReason, "ConfigMap/"+w.ns+"/b delete failed (Forbidden)")
	w.holds("app", map[string]string{"a": "2", "b": "1"})
	if h := w.get("app").Status.History; h[0].LastReconciledStatus != meta.PruneFailedReason {
		t.Errorf("history %+v", h)
	}
	role.Rules[0].Verbs = append(role.Rules[0].Verbs, "delete")
	if err := w.client.Update(w.ctx, role); err != nil {
		t.Fatal(err)
	}
	w.ready("app", revision)
	w.holds("app", map[string]string{"a": "2"})
}

// TestSourceThatGoes: without its source a Kustomization keeps what it has, says
// so when it is asked, and goes on when the source is back.
func TestSourceThatGoes(t *testing.T) {
	w := newWorld(t, "admin")
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	w.kustomization("app", nil)
	w.ready("app", revision)
	repo := &sourcev1.GitRepository{ObjectMeta: metav1.ObjectMeta{Name: "repo", Namespace: w.ns}}
	if err := w.client.Delete(w.ctx, repo); err != nil {
		t.Fatal(err)
	}
	w.change("app", func(k *kustomizev1.Kustomization) {
		k.Annotations = map[string]string{meta.ReconcileRequestAnnotation: "now"}
	})
	w.failed("app", meta.ArtifactFailedReason, "source GitRepository/"+w.ns+"/repo not found")
	if k := w.get("app"); k.Status.LastHandledReconcileAt != "now" || len(k.Status.Inventory.Entries) != 1 {
		t.Errorf("status %+v", k.Status)
	}
	if _, err := w.configMap("a"); err != nil {
		t.Errorf("a: %v", err)
	}
	second := w.publish("repo", map[string]string{"a.yaml": cm("a", "2")})
	w.ready("app", second)
	w.publish("repo", map[string]string{"moved/a.yaml": cm("a", "2")})
	w.change("app", func(k *kustomizev1.Kustomization) { k.Spec.Path = "./gone" })
	w.failed("app", meta.ArtifactFailedReason, "path not found")
	if _, err := w.configMap("a"); err != nil {
		t.Errorf("a went with its path: %v", err)
	}
}

// TestA44ObjectOfAnotherTenant: an object without a namespace stays with the
// tenant that has it, until that one gives it up.
func TestA44ObjectOfAnotherTenant(t *testing.T) {
	a, b := newWorld(t, "cluster-admin"), newWorld(t, "cluster-admin")
	role := func(w *world, verb string) map[string]string {
		return map[string]string{"r.yaml": "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: " + a.ns + "}\nrules: [{apiGroups: [''], resources: [pods], verbs: [" + verb + "]}]\n"}
	}
	a.kustomization("app", nil)
	k := a.ready("app", a.publish("repo", role(a, "get")))
	b.kustomization("app", func(s *kustomizev1.KustomizationSpec) {
		s.RetryInterval = &metav1.Duration{Duration: 500 * time.Millisecond}
	})
	revision := b.publish("repo", role(b, "list"))
	b.failed("app", meta.ReconciliationFailedReason, "ClusterRole/"+a.ns+" apply failed: it belongs to "+a.ns+"/app of another namespace")
	got := &rbacv1.ClusterRole{}
	if err := a.client.Get(a.ctx, client.ObjectKey{Name: a.ns}, got); err != nil || got.Rules[0].Verbs[0] != "get" {
		t.Errorf("rules %v, %v", got.Rules, err)
	}
	if err := a.client.Delete(a.ctx, k); err != nil {
		t.Fatal(err)
	}
	a.gone(k)
	b.ready("app", revision)
	k = b.get("app")
	if err := b.client.Delete(b.ctx, k); err != nil {
		t.Fatal(err)
	}
	b.gone(k)
}

// TestF05AggregatedAPIDead: a group of the API whose server is down stops only
// those who use it.
func TestF05AggregatedAPIDead(t *testing.T) {
	w := newWorld(t, "cluster-admin")
	service := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{
		"group": "dead.example.com", "version": "v1", "groupPriorityMinimum": int64(1000), "versionPriority": int64(10), "insecureSkipTLSVerify": true,
		"service": map[string]any{"namespace": w.ns, "name": "nobody"},
	}}}
	service.SetAPIVersion("apiregistration.k8s.io/v1")
	service.SetKind("APIService")
	service.SetName("v1.dead.example.com")
	w.create(service)
	t.Cleanup(func() { _ = w.client.Delete(context.Background(), service) })
	crd, object := gizmo("alive.example.com", "Namespaced") // a group that nobody has asked for yet
	revision := w.publish("repo", map[string]string{"alive/crd.yaml": crd, "alive/g.yaml": object, "dead/x.yaml": "apiVersion: dead.example.com/v1\nkind: Thing\nmetadata: {name: x}\n", "dead/a.yaml": cm("a", "1")})
	w.kustomization("dead", func(s *kustomizev1.KustomizationSpec) { s.Path = "dead" })
	w.kustomization("alive", func(s *kustomizev1.KustomizationSpec) { s.Path, s.Wait = "alive", true })
	k := w.ready("alive", revision)
	w.failed("dead", meta.ReconciliationFailedReason, "Thing/"+w.ns+"/x apply failed (ServiceUnavailable)")
	if _, err := w.configMap("a"); err != nil {
		t.Errorf("what could be applied beside it: %v", err)
	}
	if err := w.client.Delete(w.ctx, service); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{k.Name, "dead"} {
		k := w.get(name)
		if err := w.client.Delete(w.ctx, k); err != nil {
			t.Fatal(err)
		}
		w.gone(k)
	}
}

// TestF01KilledWhileItIsDeleted: kill -9 in the middle of the deletion, and the
// next process ends it.
func TestF01KilledWhileItIsDeleted(t *testing.T) {
	w := newWorld(t, "admin")
	c := newChild(t, w)
	c.start("prune:2")
	w.kustomization("app", nil)
	k := w.ready("app", w.publish("repo", map[string]string{"a.yaml": cm("a", "1"), "b.yaml": cm("b", "1"), "c.yaml": cm("c", "1"), "d.yaml": cm("d", "1")}))
	if err := w.client.Delete(w.ctx, k); err != nil {
		t.Fatal(err)
	}
	c.dies()
	if n := w.count(); n == 0 {
		t.Error("everything was gone already")
	}
	c.start("")
	w.gone(k)
	if n := w.count(); n != 0 {
		t.Errorf("%d objects are left", n)
	}
}

// TestWarmRestartWithANewRevision: a revision that came while nobody looked, and
// touches none of the files, is recorded without a build or an apply.
func TestWarmRestartWithANewRevision(t *testing.T) {
	w := newWorld(t, "admin")
	c := newChild(t, w)
	c.start("")
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.Path, s.Wait = "app", true })
	w.ready("app", w.publish("repo", map[string]string{"app/a.yaml": cm("a", "1"), "other.yaml": "1"}))
	c.kill()
	revision := w.publish("repo", map[string]string{"app/a.yaml": cm("a", "1"), "other.yaml": "2"})
	mark := len(w.requests())
	c.start("build") // which it must not come to
	w.ready("app", revision)
	writes := 0
	for _, a := range w.requests()[mark:] {
		switch {
		case a.Acting != nil && a.Verb != "list" && a.Verb != "watch":
			t.Errorf("%s %s/%s as the tenant", a.Verb, a.ObjectRef.Resource, a.ObjectRef.Name)
		case a.UserAgent == hostAgent && a.Verb == "patch":
			writes++
		}
	}
	if writes != 1 {
		t.Errorf("%d writes, want one of the status", writes)
	}
}

// TestA40NothingElsewhere: whatever the tests before this one did, the loop
// asked in its own name for its own kinds alone, in every namespace and in
// none.
func TestA40NothingElsewhere(t *testing.T) {
	w := newWorld(t, "admin")
	w.kustomization("app", nil)
	w.ready("app", w.publish("repo", map[string]string{"a.yaml": cm("a", "1")}))
	f, err := os.Open(w.c.AuditLog())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	scan := bufio.NewScanner(f)
	scan.Buffer(nil, 4<<20)
	seen, wrong := 0, map[string]bool{}
	for scan.Scan() {
		var a audited
		if json.Unmarshal(scan.Bytes(), &a) != nil || a.UserAgent != hostAgent || a.ObjectRef.Resource == "" {
			continue
		}
		seen++
		if a.Acting == nil && !slices.Contains(controllersOwn(), a.ObjectRef.Resource) {
			wrong[a.Verb+" "+a.ObjectRef.Resource] = true
		}
	}
	if seen == 0 || len(wrong) > 0 {
		t.Errorf("of %d requests, in the controller's own name: %v", seen, wrong)
	}
}

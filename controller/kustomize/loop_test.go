package kustomize

import (
	"fmt"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/acl"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/kubetest"
)

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: example.invalid/web:1}]}
`

// TestApplyChangePrune follows an application through its life, and counts.
func TestApplyChangePrune(t *testing.T) {
	w := newWorld(t, "admin")
	first := w.publish("repo", map[string]string{"app/a.yaml": cm("a", "1"), "app/b.yaml": cm("b", "1"), "app/web.yaml": deployment, "other/o.yaml": cm("o", "1")})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.Path, s.Wait = "./app", true })
	k := w.ready("app", first)
	want := []string{w.ns + "_a__ConfigMap", w.ns + "_b__ConfigMap", w.ns + "_web_apps_Deployment"}
	var got []string
	for _, e := range k.Status.Inventory.Entries {
		got = append(got, e.ID)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("inventory: %s", diff)
	}
	if len(k.Status.History) != 1 || k.Status.History[0].LastReconciledStatus != meta.ReconciliationSucceededReason {
		t.Errorf("history = %+v", k.Status.History)
	}
	a, err := w.configMap("a")
	if err != nil || a.Labels["kustomize.toolkit.fluxcd.io/name"] != "app" || a.Labels["kustomize.toolkit.fluxcd.io/namespace"] != w.ns {
		t.Errorf("labels = %v, %v", a.GetLabels(), err)
	}
	w.budget("first", 0, 14)

	// Another path changed: one status write, and nothing as the tenant.
	mark := len(w.requests())
	second := w.publish("repo", map[string]string{"app/a.yaml": cm("a", "1"), "app/b.yaml": cm("b", "1"), "app/web.yaml": deployment, "other/o.yaml": cm("o", "2")})
	w.ready("app", second)
	w.budget("untouched", mark, 1)

	// Own path changed: the changed object is applied, the missing one pruned.
	mark = len(w.requests())
	third := w.publish("repo", map[string]string{"app/a.yaml": cm("a", "2"), "app/web.yaml": deployment})
	w.ready("app", third)
	if a, err = w.configMap("a"); err != nil || a.Data["key"] != "2" {
		t.Errorf("a = %v, %v", a.Data, err)
	}
	if _, err = w.configMap("b"); !apierrors.IsNotFound(err) {
		t.Errorf("b is still there: %v", err)
	}
	w.budget("changed", mark, 4) // apply, delete, status, event

	// Deleted: everything goes, as the tenant.
	if err := w.client.Delete(w.ctx, k); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, 10*time.Second, func() error {
		if _, err := w.configMap("a"); !apierrors.IsNotFound(err) {
			return fmt.Errorf("a: %v", err)
		}
		if err := w.client.Get(w.ctx, client.ObjectKeyFromObject(k), k); !apierrors.IsNotFound(err) {
			return fmt.Errorf("Kustomization: %v", err)
		}
		return nil
	})
	w.impersonated()
}

// budget bounds how many requests the loop made since a mark in the audit log.
func (w *world) budget(what string, mark, limit int) {
	w.t.Helper()
	var ours []string
	for _, a := range w.requests()[mark:] {
		kustomization := a.ObjectRef.Resource == "kustomizations" && a.Verb == "patch"
		if a.Acting != nil || kustomization || a.ObjectRef.Resource == "events" && a.User.Username == "" {
			if a.Verb != "watch" && a.Verb != "list" {
				ours = append(ours, a.Verb+" "+a.ObjectRef.Resource+"/"+a.ObjectRef.Subresource+" "+a.ObjectRef.Name)
			}
		}
	}
	if len(ours) > limit {
		w.t.Errorf("%s: %d requests, want at most %d:\n%s", what, len(ours), limit, strings.Join(ours, "\n"))
	}
}

// impersonated asserts that everything touched in the namespace for the tenant
// was touched as the tenant: the API server's audit log is the oracle.
func (w *world) impersonated() { w.impersonatedIn(w.c) }

func (w *world) impersonatedIn(c *kubetest.Cluster) {
	w.t.Helper()
	tenant := "system:serviceaccount:" + w.ns + ":flux-applier"
	acted := 0
	for _, a := range w.requestsIn(c) {
		ours := a.ObjectRef.Resource == "deployments" && a.ObjectRef.Subresource == "" || a.ObjectRef.Resource == "configmaps"
		switch {
		case a.Acting != nil && a.Acting.Username != tenant:
			w.t.Errorf("%s %s/%s as %s", a.Verb, a.ObjectRef.Resource, a.ObjectRef.Name, a.Acting.Username)
		case a.Acting != nil:
			acted++
		case (a.Verb == "patch" || a.Verb == "delete") && ours && !strings.HasPrefix(a.User.Username, "system:"):
			w.t.Errorf("%s %s/%s not as the tenant but as %s", a.Verb, a.ObjectRef.Resource, a.ObjectRef.Name, a.User.Username)
		}
	}
	if acted == 0 {
		w.t.Error("no request was made as the tenant")
	}
}

func TestDriftIsCorrected(t *testing.T) {
	w := newWorld(t, "admin")
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "1"), "web.yaml": deployment})
	w.kustomization("app", nil)
	w.ready("app", revision)
	a, err := w.configMap("a")
	if err != nil {
		t.Fatal(err)
	}
	a.Data["key"] = "drift"
	if err := w.client.Update(w.ctx, a); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, 3*time.Second, func() error {
		if a, err := w.configMap("a"); err != nil || a.Data["key"] != "1" {
			return fmt.Errorf("a = %v, %v", a.Data, err)
		}
		return nil
	})
	if err := w.client.Delete(w.ctx, a); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, 3*time.Second, func() error { _, err := w.configMap("a"); return err })
}

func TestLeftAlone(t *testing.T) {
	w := newWorld(t, "admin")
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "1"), "b.yaml": cm("b", "1")})
	w.kustomization("app", nil)
	w.ready("app", revision)
	a, err := w.configMap("a")
	if err != nil {
		t.Fatal(err)
	}
	a.Annotations = map[string]string{"kustomize.toolkit.fluxcd.io/reconcile": "disabled"}
	a.Data["key"] = "mine"
	if err := w.client.Update(w.ctx, a); err != nil {
		t.Fatal(err)
	}
	revision = w.publish("repo", map[string]string{"a.yaml": cm("a", "2"), "b.yaml": cm("b", "2")})
	w.ready("app", revision)
	if a, err = w.configMap("a"); err != nil || a.Data["key"] != "mine" {
		t.Errorf("a = %v, %v", a.Data, err)
	}
	if b, err := w.configMap("b"); err != nil || b.Data["key"] != "2" {
		t.Errorf("b = %v, %v", b.Data, err)
	}
}

func TestBadManifestNamesTheObject(t *testing.T) {
	w := newWorld(t, "admin")
	bad := "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: bad}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: x, image: y}]}}}\n"
	w.publish("repo", map[string]string{"a.yaml": cm("a", "1"), "bad.yaml": bad})
	w.kustomization("app", nil)
	w.failed("app", meta.ReconciliationFailedReason, "Deployment/"+w.ns+"/bad apply failed (Invalid)")
	w.failed("app", meta.ReconciliationFailedReason, "spec.template.metadata.labels")
	if _, err := w.configMap("a"); err != nil {
		t.Errorf("the good object was not applied: %v", err)
	}
	w.ready("app", w.publish("repo", map[string]string{"a.yaml": cm("a", "1")}))
}

func TestNamespaceIsTheLimit(t *testing.T) {
	w := newWorld(t, "admin")
	elsewhere := w.c.Namespace(t)
	w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.TargetNamespace = elsewhere })
	w.failed("app", meta.ReconciliationFailedReason, "ConfigMap/"+elsewhere+"/a apply failed (Forbidden)")
	w.impersonated2(elsewhere)
}

// TestWhatWasRefusedIsNotOwned: what a tenant may not make, it may not delete
// either; were it in the inventory, the Kustomization could never go.
func TestWhatWasRefusedIsNotOwned(t *testing.T) {
	w := newWorld(t, "admin")
	elsewhere := w.c.Namespace(t)
	stolen := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: stolen, namespace: " + elsewhere + "}\n"
	mine := strings.Replace(cm("a", "1"), "  name: a\n", "  name: a\n  namespace: "+w.ns+"\n", 1)
	w.publish("repo", map[string]string{"a.yaml": mine, "b.yaml": stolen})
	k := w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.TargetNamespace = "" })
	w.failed("app", meta.ReconciliationFailedReason, "ConfigMap/"+elsewhere+"/stolen apply failed (Forbidden)")
	// While it is being tried again, the intent to make it is there for a moment.
	kubetest.Eventually(t, 10*time.Second, func() error {
		for _, e := range w.get("app").Status.Inventory.Entries {
			if strings.Contains(e.ID, "stolen") {
				return fmt.Errorf("the inventory holds %s", e.ID)
			}
		}
		return nil
	})
	if err := w.client.Delete(w.ctx, k); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, 10*time.Second, func() error {
		err := w.client.Get(w.ctx, client.ObjectKeyFromObject(k), &kustomizev1.Kustomization{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is still there: %v", err)
	})
}

func (w *world) impersonated2(ns string) {
	w.t.Helper()
	got := &corev1.ConfigMapList{}
	if err := w.client.List(w.ctx, got, client.InNamespace(ns), client.HasLabels{"kustomize.toolkit.fluxcd.io/name"}); err != nil || len(got.Items) != 0 {
		w.t.Errorf("objects in the other namespace: %d, %v", len(got.Items), err)
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t, "admin")
	w.publish("repo", map[string]string{"app/a.yaml": cm("a", "1"), "remote/kustomization.yaml": "resources: ['https://127.0.0.1/x']", "vars/v.yaml": cm("v", "${gone}")})
	cases := map[string]struct {
		change          func(*kustomizev1.KustomizationSpec)
		reason, message string
	}{
		"source": {func(s *kustomizev1.KustomizationSpec) { s.SourceRef.Namespace = "other" }, acl.AccessDeniedReason, "can't access 'GitRepository/other/repo', cross-namespace references have been blocked"},
		"dependency": {func(s *kustomizev1.KustomizationSpec) {
			s.DependsOn = []kustomizev1.DependencyReference{{Namespace: "other", Name: "x"}}
		}, acl.AccessDeniedReason, "cross-namespace references have been blocked"},
		"identity": {func(s *kustomizev1.KustomizationSpec) { s.ServiceAccountName = "../kube-system/admin" }, acl.AccessDeniedReason, "spec.serviceAccountName"},
		"nobody":   {func(s *kustomizev1.KustomizationSpec) { s.ServiceAccountName = "nobody" }, meta.ReconciliationFailedReason, "Forbidden"},
		"remote":   {func(s *kustomizev1.KustomizationSpec) { s.Path = "remote" }, meta.BuildFailedReason, "remote base"},
		"path":     {func(s *kustomizev1.KustomizationSpec) { s.Path = "gone" }, meta.ArtifactFailedReason, "path not found"},
		"variable": {func(s *kustomizev1.KustomizationSpec) {
			s.Path, s.PostBuild = "vars", &kustomizev1.PostBuild{Substitute: map[string]string{"x": "1"}}
		}, meta.BuildFailedReason, `variable not set (strict mode): "gone"`},
		"variables": {func(s *kustomizev1.KustomizationSpec) {
			s.PostBuild = &kustomizev1.PostBuild{SubstituteFrom: []kustomizev1.SubstituteReference{{Kind: "ConfigMap", Name: "gone"}}}
		}, meta.BuildFailedReason, "substitute from 'ConfigMap/gone'"},
		"no source": {func(s *kustomizev1.KustomizationSpec) { s.SourceRef.Name = "gone" }, meta.ArtifactFailedReason, "not found"},
		"dependency gone": {func(s *kustomizev1.KustomizationSpec) {
			s.DependsOn = []kustomizev1.DependencyReference{{Name: "gone"}}
		}, meta.DependencyNotReadyReason, "not found"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := &world{t: t, ctx: t.Context(), c: w.c, h: w.h, client: w.client, ns: w.ns}
			k := "k-" + strings.ReplaceAll(name, " ", "-")
			w.kustomization(k, func(s *kustomizev1.KustomizationSpec) { s.Path = "app"; c.change(s) })
			w.failed(k, c.reason, c.message)
		})
	}
}

func TestDependencyChain(t *testing.T) {
	w := newWorld(t, "admin")
	files := map[string]string{}
	for i := range 10 {
		files[fmt.Sprintf("s%d/c.yaml", i)] = cm(fmt.Sprintf("c%d", i), "1")
	}
	for i := 9; i >= 0; i-- { // the last first: nothing helps
		w.kustomization(fmt.Sprintf("s%d", i), func(s *kustomizev1.KustomizationSpec) {
			s.Path, s.Wait = fmt.Sprintf("s%d", i), true
			if i > 0 {
				s.DependsOn = []kustomizev1.DependencyReference{{Name: fmt.Sprintf("s%d", i-1)}}
			}
		})
	}
	start := time.Now()
	revision := w.publish("repo", files)
	w.ready("s9", revision)
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("the chain took %s", took)
	}
	t.Logf("chain of 10: %s", time.Since(start).Round(time.Millisecond))
}

func TestDependencyCycle(t *testing.T) {
	w := newWorld(t, "admin")
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	depend := func(name string) func(*kustomizev1.KustomizationSpec) {
		return func(s *kustomizev1.KustomizationSpec) {
			s.DependsOn = []kustomizev1.DependencyReference{{Name: name}}
		}
	}
	w.kustomization("x", depend("y"))
	w.kustomization("y", depend("x"))
	w.failed("x", meta.DependencyNotReadyReason, fmt.Sprintf("dependency cycle Kustomization/%[1]s/x → Kustomization/%[1]s/y → Kustomization/%[1]s/x", w.ns))
	w.change("y", func(k *kustomizev1.Kustomization) { k.Spec.DependsOn = nil })
	w.ready("x", revision)
}

func TestDefinitionsComeFirst(t *testing.T) {
	w := newWorld(t, "cluster-admin")
	plural := strings.ReplaceAll(w.ns, "-", "") + "s"
	group := plural + ".example.com"
	crd := fmt.Sprintf("apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: %[1]s.%[2]s}\nspec:\n  group: %[2]s\n  scope: Namespaced\n  names: {kind: Thing%[1]s, plural: %[1]s, singular: one%[1]s}\n  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]\n", plural, group)
	thing := fmt.Sprintf("apiVersion: %s/v1\nkind: Thing%s\nmetadata: {name: t}\nspec: {}\n", group, plural)
	revision := w.publish("repo", map[string]string{"a/thing.yaml": thing, "crd.yaml": crd})
	w.kustomization("app", nil)
	k := w.ready("app", revision)
	if n := len(k.Status.Inventory.Entries); n != 2 {
		t.Errorf("%d entries in the inventory", n)
	}
	if err := w.client.Delete(w.ctx, k); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, 15*time.Second, func() error {
		if err := w.client.Get(w.ctx, client.ObjectKeyFromObject(k), k); !apierrors.IsNotFound(err) {
			return fmt.Errorf("Kustomization: %v", err)
		}
		return nil
	})
}

func TestForceRecreates(t *testing.T) {
	w := newWorld(t, "admin")
	immutable := func(v string) map[string]string {
		return map[string]string{"a.yaml": cm("a", v) + "immutable: true\n"}
	}
	w.kustomization("app", nil)
	w.ready("app", w.publish("repo", immutable("1")))
	revision := w.publish("repo", immutable("2"))
	w.failed("app", meta.ReconciliationFailedReason, "immutable")
	w.change("app", func(k *kustomizev1.Kustomization) { k.Spec.Force = true })
	w.ready("app", revision)
	if a, err := w.configMap("a"); err != nil || a.Data["key"] != "2" {
		t.Errorf("a = %v, %v", a.Data, err)
	}
}

func TestHealthIsWaitedFor(t *testing.T) {
	w := newWorld(t, "admin")
	unready := strings.Replace(deployment, "labels: {app: web}}\n    spec", "labels: {app: web}, annotations: {simulate.headwater.dev/outcome: unready}}\n    spec", 1)
	w.publish("repo", map[string]string{"web.yaml": unready})
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.Wait = true })
	kubetest.Eventually(t, 15*time.Second, func() error {
		k := w.get("app")
		for _, c := range k.Status.Conditions {
			if c.Type == meta.ReadyCondition && c.Status == metav1.ConditionUnknown && strings.Contains(c.Message, "Running health checks") {
				return nil
			}
		}
		return fmt.Errorf("conditions = %v", k.Status.Conditions)
	})
	revision := w.publish("repo", map[string]string{"web.yaml": deployment})
	w.ready("app", revision)
}

func TestOrphanedWhenTheTenantIsGone(t *testing.T) {
	w := newWorld(t, "admin")
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "1")})
	w.kustomization("app", nil)
	k := w.ready("app", revision)
	if err := w.client.Delete(w.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "flux-applier", Namespace: w.ns}}); err != nil {
		t.Fatal(err)
	}
	if err := w.client.Delete(w.ctx, k); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, 10*time.Second, func() error {
		if err := w.client.Get(w.ctx, client.ObjectKeyFromObject(k), k); !apierrors.IsNotFound(err) {
			return fmt.Errorf("Kustomization: %v", err)
		}
		return nil
	})
	if _, err := w.configMap("a"); err != nil {
		t.Errorf("nobody had the right to delete a: %v", err)
	}
}

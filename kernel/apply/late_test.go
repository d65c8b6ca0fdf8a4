package apply

import (
	"fmt"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/kubetest"
)

// TestUnwatchedObjectsAreAsked: what a tenant may not watch may ask to be left
// alone at any time, too.
func TestUnwatchedObjectsAreAsked(t *testing.T) {
	b := newBed(t, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "create", "patch"}})
	b.apply(b.cm("a", "1"))
	if got := b.apply(b.cm("a", "1")); got["a"] != Unchanged {
		t.Errorf("again: %v", got)
	}
	if got := b.apply(b.cm("a", "2")); got["a"] != Configured {
		t.Errorf("changed: %v", got)
	}
	cm := b.live("a")
	cm.Annotations = map[string]string{testGroup + "/reconcile": "disabled"}
	cm.Data["key"] = "mine"
	if err := b.admin.Update(t.Context(), cm); err != nil {
		t.Fatal(err)
	}
	if got := b.apply(b.cm("a", "3")); got["a"] != Skipped || b.live("a").Data["key"] != "mine" {
		t.Errorf("%v: data %v", got, b.live("a").Data)
	}
}

// TestPruneLooksAgain: what is taken over, or asks to stay, between the look
// and the deletion is not deleted; what only changed is.
func TestPruneLooksAgain(t *testing.T) {
	cases := map[string]struct {
		change func(*corev1.ConfigMap)
		stays  bool
	}{
		"taken over": {func(c *corev1.ConfigMap) { c.Labels[testGroup+"/name"] = "another" }, true},
		"kept":       {func(c *corev1.ConfigMap) { c.Annotations = map[string]string{testGroup + "/prune": "disabled"} }, true},
		"ignored":    {func(c *corev1.ConfigMap) { c.Annotations = map[string]string{testGroup + "/ssa": "Ignore"} }, true},
		"changed":    {func(c *corev1.ConfigMap) { c.Data["key"] = "2" }, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, all("configmaps"))
			b.apply(b.cm("a", "1"))
			looks := 0
			b.e.Fault = func(point string) {
				if looks++; looks > 1 {
					return
				}
				cm := b.live("a")
				c.change(cm)
				if err := b.admin.Update(t.Context(), cm); err != nil {
					t.Error(err)
				}
			}
			out, err := b.e.Prune(t.Context(), b.who, []Ref{RefOf(b.cm("a", ""))})
			if err != nil || len(out.Left) > 0 {
				t.Fatalf("got %+v, %v", out, err)
			}
			err = b.admin.Get(t.Context(), client.ObjectKey{Namespace: b.ns, Name: "a"}, &corev1.ConfigMap{})
			if stays := err == nil; stays != c.stays {
				t.Errorf("it stays: %v (%v), want %v", stays, err, c.stays)
			}
		})
	}
}

// definition makes a kind with versions, the last of which is stored; without
// a webhook that answers no object can be read in another.
func (b *bed) definition(kind string, versions ...string) {
	b.t.Helper()
	plural := strings.ToLower(kind) + "s"
	u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{
		"group": "late.example.com", "scope": "Namespaced", "names": map[string]any{"kind": kind, "plural": plural, "singular": strings.ToLower(kind)},
	}}}
	u.SetAPIVersion("apiextensions.k8s.io/v1")
	u.SetKind("CustomResourceDefinition")
	u.SetName(plural + ".late.example.com")
	var list []any
	for i, v := range versions {
		list = append(list, map[string]any{"name": v, "served": true, "storage": i == len(versions)-1, "schema": map[string]any{
			"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
	}
	spec := u.Object["spec"].(map[string]any)
	spec["versions"] = list
	if len(versions) > 1 {
		spec["conversion"] = map[string]any{"strategy": "Webhook", "webhook": map[string]any{
			"conversionReviewVersions": []any{"v1"}, "clientConfig": map[string]any{"url": "https://127.0.0.1:1/convert"}}}
	}
	if err := b.admin.Create(b.t.Context(), u); err != nil {
		b.t.Fatal(err)
	}
	kubetest.Eventually(b.t, 10*time.Second, func() error {
		return b.admin.List(b.t.Context(), listOf(kind, versions[0]), client.InNamespace("none"))
	})
}

func listOf(kind, version string) *unstructured.UnstructuredList {
	l := &unstructured.UnstructuredList{}
	l.SetAPIVersion("late.example.com/" + version)
	l.SetKind(kind + "List")
	return l
}

func (b *bed) custom(kind, version string) *unstructured.Unstructured {
	u := newObject(kind, "x")
	u.SetAPIVersion("late.example.com/" + version)
	u.SetNamespace(b.ns)
	return u
}

func lateRule() rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{"late.example.com"}, Resources: []string{"*"}, Verbs: []string{"*"}}
}

// TestPruneOfAVersionThatIsGone: an inventory may name a version of a kind that
// is not served any more; its objects still are.
func TestPruneOfAVersionThatIsGone(t *testing.T) {
	b := newBed(t, lateRule())
	b.definition("Gadget", "v1")
	x := b.custom("Gadget", "v1")
	b.apply(x)
	old := RefOf(b.custom("Gadget", "v1alpha1"))
	unknown := old
	unknown.GroupKind.Kind = "Nothing"
	out, err := b.e.Prune(t.Context(), b.who, []Ref{old, unknown})
	if err != nil || len(out.Changes) != 1 || out.Changes[0].Action != Deleted {
		t.Fatalf("got %+v, %v", out, err)
	}
	if err := b.admin.Get(t.Context(), client.ObjectKeyFromObject(x), x); !apierrors.IsNotFound(err) {
		t.Errorf("it is still there: %v", err)
	}
}

// TestA47KindThatCannotBeListed: one whose conversion webhook is down does not
// park its owners for ever; what goes wrong is said by the apply.
func TestA47KindThatCannotBeListed(t *testing.T) {
	b := newBed(t, lateRule())
	b.definition("Widget", "v1beta1", "v1")
	x := b.custom("Widget", "v1")
	b.e.setOwner(x, b.who.Owner)
	if err := b.admin.Create(t.Context(), x.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	wanted := b.custom("Widget", "v1beta1")
	b.e.Watcher.Track(Interest{Tenant: b.who, Objects: []Ref{RefOf(wanted)}})
	if b.e.Watcher.Synced(b.who.Owner) {
		t.Error("a list that failed counts as one")
	}
	w := b.e.Watcher
	w.mu.Lock()
	w.now = func() time.Time { return time.Now().Add(firstList) }
	w.mu.Unlock()
	if !w.Synced(b.who.Owner) {
		t.Error("the list is waited for, for ever")
	}
	if _, err := b.e.Apply(t.Context(), Request{Tenant: b.who, Objects: unstructuredOf(wanted)}); err == nil || !strings.Contains(err.Error(), "Widget/"+b.ns+"/x apply failed") {
		t.Errorf("error = %v", err)
	}
}

func (b *bed) job(ttl any) *unstructured.Unstructured {
	u := newObject("Job", "j")
	u.SetAPIVersion("batch/v1")
	u.SetNamespace(b.ns)
	u.Object["spec"] = map[string]any{"template": map[string]any{"spec": map[string]any{
		"restartPolicy": "Never", "containers": []any{map[string]any{"name": "c", "image": "example.invalid/c:1"}}}}}
	if ttl != nil {
		u.Object["spec"].(map[string]any)["ttlSecondsAfterFinished"] = ttl
	}
	return u
}

// TestJobsThatGoWhenTheyAreDone: a Job that succeeded and is deleted after the
// time that it names is not made again; any other one is.
func TestJobsThatGoWhenTheyAreDone(t *testing.T) {
	for name, c := range map[string]struct {
		ttl       any
		succeeded bool
		want      Action
	}{
		"done":           {int64(0), true, Unchanged},
		"deleted before": {int64(0), false, Created},
		"without a time": {nil, true, Created},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, rbacv1.PolicyRule{APIGroups: []string{"batch"}, Resources: []string{"jobs"}, Verbs: []string{"*"}})
			b.apply(b.job(c.ttl))
			j := &batchv1.Job{}
			if err := b.admin.Get(t.Context(), client.ObjectKey{Namespace: b.ns, Name: "j"}, j); err != nil {
				t.Fatal(err)
			}
			if c.succeeded {
				b.succeed(j)
			}
			ref := RefOf(b.job(c.ttl))
			kubetest.Eventually(t, 5*time.Second, func() error {
				if l, _ := b.e.Watcher.Live(b.who, ref); l.Succeeded != c.succeeded {
					return fmt.Errorf("live %+v", l)
				}
				return nil
			})
			if err := b.admin.Delete(t.Context(), j, client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
				t.Fatal(err)
			}
			kubetest.Eventually(t, 5*time.Second, func() error {
				if l, _ := b.e.Watcher.Live(b.who, ref); l.Exists {
					return fmt.Errorf("live %+v", l)
				}
				return nil
			})
			b.e.Watcher.Restore(b.who.Owner, b.e.Watcher.Receipts(b.who.Owner))
			if ended := b.e.Watcher.Ended(b.who.Owner, ref); ended != (c.want == Unchanged) || b.e.Watcher.Undisturbed(b.who.Owner) != ended {
				t.Errorf("ended: %v", ended)
			}
			if got := b.apply(b.job(c.ttl)); got["j"] != c.want {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}
}

func (b *bed) succeed(j *batchv1.Job) {
	b.t.Helper()
	now := metav1.Now()
	j.Status = batchv1.JobStatus{StartTime: &now, CompletionTime: &now, Succeeded: 1, UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{}}
	for _, kind := range []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobComplete} {
		j.Status.Conditions = append(j.Status.Conditions, batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	if err := b.admin.Status().Update(b.t.Context(), j); err != nil {
		b.t.Fatal(err)
	}
}

// TestA44LeftThenWanted: an object that was left to another tenant is not taken
// from it when Git stops leaving it.
func TestA44LeftThenWanted(t *testing.T) {
	b := newBed(t, all("configmaps"))
	b.e.Owned = func(_, other types.NamespacedName) bool { return other.Namespace == "elsewhere" }
	theirs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: b.ns, Labels: map[string]string{testGroup + "/name": "x", testGroup + "/namespace": "elsewhere"}}}
	if err := b.admin.Create(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	ref := RefOf(b.cm("a", ""))
	b.e.Watcher.Track(Interest{Tenant: b.who, Objects: []Ref{ref}, Others: []Ref{ref}}) // as what is left to others is
	kubetest.Eventually(t, 5*time.Second, func() error {
		if l, known := b.e.Watcher.Live(b.who, ref); !known || !l.Exists {
			return fmt.Errorf("live %+v", l)
		}
		return nil
	})
	_, err := b.e.Apply(t.Context(), Request{Tenant: b.who, Objects: unstructuredOf(b.cm("a", "1"))})
	if err == nil || !strings.Contains(err.Error(), "it belongs to elsewhere/x of another namespace") || len(b.live("a").Data) != 0 {
		t.Errorf("error %v, data %v", err, b.live("a").Data)
	}
}

// TestPruneGoesBackwards: what others run under goes after them, and not at all
// while they cannot go.
func TestPruneGoesBackwards(t *testing.T) {
	b := newBed(t, all("configmaps"), rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, Verbs: []string{"*"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "list", "watch", "create", "patch"}})
	of := func(kind string) *unstructured.Unstructured {
		u := newObject(kind, "x")
		u.SetNamespace(b.ns)
		return u
	}
	b.apply(of("ServiceAccount"), of("ConfigMap"), of("Secret"))
	out, err := b.e.Prune(t.Context(), b.who, []Ref{RefOf(of("ServiceAccount")), RefOf(of("ConfigMap")), RefOf(of("Secret"))})
	if err == nil || !strings.Contains(err.Error(), "Secret/"+b.ns+"/x delete failed (Forbidden)") {
		t.Errorf("error = %v", err)
	}
	if len(out.Changes) != 1 || out.Changes[0].GroupKind.Kind != "ConfigMap" || len(out.Left) != 2 {
		t.Errorf("changes %v, left %v", out.Changes, out.Left)
	}
	sa := &corev1.ServiceAccount{}
	if err := b.admin.Get(t.Context(), client.ObjectKey{Namespace: b.ns, Name: "x"}, sa); err != nil {
		t.Errorf("the service account went before what runs under it: %v", err)
	}
	out, err = b.e.Prune(t.Context(), b.who, []Ref{RefOf(of("ServiceAccount")), RefOf(b.cm("none", ""))})
	if err != nil || len(out.Changes) != 1 || out.Changes[0].GroupKind.Kind != "ServiceAccount" {
		t.Errorf("changes %v, %v", out, err)
	}
}

// TestTakeOverOfABusyObject: somebody else who writes the object in between is
// no reason to fail.
func TestTakeOverOfABusyObject(t *testing.T) {
	b := newBed(t, all("configmaps"))
	old := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: b.ns}, Data: map[string]string{"left": "behind"}}
	if err := b.admin.Create(t.Context(), old, client.FieldOwner("kubectl-client-side-apply")); err != nil {
		t.Fatal(err)
	}
	looks := 0
	b.e.Fault = func(point string) {
		if point != "take over" {
			return
		}
		if looks++; looks > 2 {
			return
		}
		cm := b.live("a")
		cm.Annotations = map[string]string{"busy": fmt.Sprint(looks)}
		if err := b.admin.Update(t.Context(), cm, client.FieldOwner("controller")); err != nil {
			t.Error(err)
		}
	}
	if got := b.apply(b.cm("a", "1")); got["a"] != Configured || looks != 3 {
		t.Errorf("%v after %d looks", got, looks)
	}
	if got := b.live("a"); len(got.Data) != 1 || got.Data["key"] != "1" || got.Annotations["busy"] != "2" {
		t.Errorf("data %v, annotations %v", got.Data, got.Annotations)
	}
}

// TestTakeOverFromServerSideKubectl: what kubectl applied on the server's side,
// with force, goes too.
func TestTakeOverFromServerSideKubectl(t *testing.T) {
	b := newBed(t, all("configmaps"))
	b.apply(b.cm("a", "1"))
	theirs := b.cm("a", "2")
	theirs.Object["data"].(map[string]any)["left"] = "behind"
	if err := b.admin.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(theirs), client.FieldOwner("kubectl"), client.ForceOwnership); err != nil {
		t.Fatal(err)
	}
	ref := RefOf(theirs)
	kubetest.Eventually(t, 5*time.Second, func() error {
		if l, _ := b.e.Watcher.Live(b.who, ref); !l.Left {
			return fmt.Errorf("live %+v", l)
		}
		return nil
	})
	if got := b.apply(b.cm("a", "1")); got["a"] != Configured {
		t.Errorf("got %v", got)
	}
	if got := b.live("a"); len(got.Data) != 1 || got.Data["key"] != "1" {
		t.Errorf("data %v", got.Data)
	}
	for _, m := range b.live("a").ManagedFields {
		if m.Manager == "kubectl" {
			t.Errorf("kubectl still owns %s", m.FieldsV1)
		}
	}
}

// TestTakeOverLeavesIgnoredFields: what spec.ignore names stays as it is while
// the fields of kubectl are taken over, whoever wrote it.
func TestTakeOverLeavesIgnoredFields(t *testing.T) {
	ignore, err := CompileIgnores([]kustomizev1.IgnoreRule{{Paths: []string{"/data/scale"}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		why     string
		adopted bool   // made by kubectl, not by us
		scaler  string // who writes the field last
		owned   bool   // it is still the scaler's afterwards
	}{
		"restarted":      {"kubectl writes another field of an object of ours", false, "autoscaler", true},
		"adopted":        {"an object that kubectl made, and somebody else has scaled", true, "autoscaler", true},
		"scaled by hand": {"the field itself is kubectl's, and becomes ours as it is", false, "kubectl-edit", false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, all("configmaps"))
			wanted := b.cm("a", "1")
			wanted.Object["data"].(map[string]any)["scale"] = "2"
			ref := RefOf(wanted)
			b.e.Watcher.Track(Interest{Tenant: b.who, Objects: []Ref{ref}})
			send := func() {
				t.Helper()
				if _, err := b.e.Apply(t.Context(), Request{Tenant: b.who, Objects: unstructuredOf(wanted), Ignore: ignore, Verify: true}); err != nil {
					t.Fatal(err)
				}
			}
			if c.adopted {
				old := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: b.ns}, Data: map[string]string{"key": "1", "scale": "2"}}
				if err := b.admin.Create(t.Context(), old, client.FieldOwner("kubectl-client-side-apply")); err != nil {
					t.Fatal(err)
				}
			} else {
				send()
			}
			for _, change := range []struct{ by, field, value string }{{c.scaler, "scale", "50"}, {"kubectl-rollout", "restarted", "now"}} {
				cm := b.live("a")
				cm.Data[change.field] = change.value
				if err := b.admin.Update(t.Context(), cm, client.FieldOwner(change.by)); err != nil {
					t.Fatal(err)
				}
			}
			send()
			got := b.live("a")
			if got.Data["scale"] != "50" || got.Data["key"] != "1" || got.Data["restarted"] != "" {
				t.Errorf("%s: data %v", c.why, got.Data)
			}
			owned := false
			for _, m := range got.ManagedFields {
				owned = owned || m.Manager == c.scaler && strings.Contains(string(m.FieldsV1.GetRawBytes()), "f:scale")
			}
			if owned != c.owned {
				t.Errorf("%s: the field is still %s's: %v", c.why, c.scaler, owned)
			}
		})
	}
}

// everywhere lets the tenant do everything with kinds of a group that have no
// namespace.
func (b *bed) everywhere(group, resource string) {
	b.t.Helper()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: b.ns + "-tenant"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{"*"}}}}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: b.ns + "-tenant"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "t", Namespace: b.ns}}}
	for _, o := range []client.Object{role, binding} {
		if err := b.admin.Create(b.t.Context(), o); err != nil {
			b.t.Fatal(err)
		}
	}
}

// TestPruneOfAReferenceFromBeforeItsKind: until a kind is known, its objects seem
// to have the namespace of the manifest. Such a reference is no stale object
// beside the real one, and does not delete it.
func TestPruneOfAReferenceFromBeforeItsKind(t *testing.T) {
	b := newBed(t)
	b.everywhere("networking.k8s.io", "ingressclasses")
	class := newObject("IngressClass", b.ns)
	class.SetAPIVersion("networking.k8s.io/v1")
	class.Object["spec"] = map[string]any{"controller": "example.com/none"}
	request := Request{Tenant: b.who, Objects: unstructuredOf(class)}
	kubetest.Eventually(t, 10*time.Second, func() error { // the rights come a moment later
		_, err := b.e.Apply(t.Context(), request)
		return err
	})
	now := RefOf(class)
	before := now
	before.Namespace = b.ns
	if stale := Stale(b.who, []Ref{before, now}, []Ref{now}); len(stale) > 0 {
		t.Errorf("stale: %v", stale)
	}
	out, err := b.e.Prune(t.Context(), b.who, []Ref{before}) // nobody watches it yet, so it is read
	if err == nil || !strings.Contains(err.Error(), "have no namespace") || len(out.Changes) > 0 || len(out.Left) != 1 {
		t.Errorf("pruned by the wrong reference: %+v, %v", out, err)
	}
	if err := b.admin.Get(t.Context(), client.ObjectKey{Name: b.ns}, class); err != nil {
		t.Errorf("it is gone: %v", err)
	}
	refs := Scoped(b.who, []Ref{before, now})
	if len(refs) != 1 || refs[0] != now {
		t.Errorf("references to one object: %v", refs)
	}
	if out, err = b.e.Prune(t.Context(), b.who, refs); err != nil || len(out.Changes) != 1 || out.Changes[0].Action != Deleted {
		t.Errorf("what is stale indeed: %+v, %v", out, err)
	}
}

// TestFieldThatIsNoLongerIgnored is ours again, although nothing else changed.
func TestFieldThatIsNoLongerIgnored(t *testing.T) {
	b := newBed(t, all("configmaps"))
	ignore, err := CompileIgnores([]kustomizev1.IgnoreRule{{Paths: []string{"/data/key"}}})
	if err != nil {
		t.Fatal(err)
	}
	b.apply(b.cm("other", "1")) // whose watch sees the rest
	wanted := b.cm("a", "1")
	b.e.Watcher.Track(Interest{Tenant: b.who, Objects: []Ref{RefOf(wanted)}})
	apply := func(ignore Ignores) Action {
		t.Helper()
		out, err := b.e.Apply(t.Context(), Request{Tenant: b.who, Objects: unstructuredOf(wanted), Ignore: ignore})
		if err != nil {
			t.Fatal(err)
		}
		return out.Changes[0].Action
	}
	apply(ignore)
	cm := b.live("a")
	cm.Data["key"] = "50"
	if err := b.admin.Update(t.Context(), cm, client.FieldOwner("autoscaler")); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, 5*time.Second, func() error {
		if l, _ := b.e.Watcher.Live(b.who, RefOf(wanted)); len(l.Others) == 0 {
			return fmt.Errorf("live %+v", l)
		}
		return nil
	})
	apply(ignore)
	if got := apply(ignore); got != Unchanged || b.live("a").Data["key"] != "50" {
		t.Errorf("while it is ignored: %s, data %v", got, b.live("a").Data)
	}
	if got := apply(nil); got != Configured || b.live("a").Data["key"] != "1" {
		t.Errorf("when it is no longer: %s, data %v", got, b.live("a").Data)
	}
}

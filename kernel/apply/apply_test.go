package apply

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

func unstructuredOf(list ...*unstructured.Unstructured) []*unstructured.Unstructured { return list }

func newObject(kind, name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetAPIVersion("v1")
	u.SetKind(kind)
	u.SetName(name)
	return u
}

func TestStages(t *testing.T) {
	kinds := []string{"Deployment", "MutatingWebhookConfiguration", "Namespace", "StorageClass", "ServiceAccount", "CustomResourceDefinition", "RoleBinding", "ClusterRole"}
	var objects []*unstructured.Unstructured
	for _, k := range kinds {
		objects = append(objects, newObject(k, "x"))
	}
	var got [][]string
	for _, stage := range (Stages{}).split(objects) {
		var names []string
		for _, u := range stage {
			names = append(names, u.GetKind())
		}
		got = append(got, names)
	}
	want := [][]string{{"Namespace", "CustomResourceDefinition", "ClusterRole"}, {"StorageClass"}, {"ServiceAccount"}, {"Deployment", "RoleBinding"}, {"MutatingWebhookConfiguration"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestInventoryIsFlux(t *testing.T) {
	refs := []Ref{
		{ID: ID{Namespace: "ns", Name: "app", GroupKind: schema.GroupKind{Group: "apps", Kind: "Deployment"}}, Version: "v1"},
		{ID: ID{Name: "system:x", GroupKind: schema.GroupKind{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}}, Version: "v1"},
	}
	inv := Inventory(refs)
	want := []kustomizev1.ResourceRef{{ID: "ns_app_apps_Deployment", Version: "v1"}, {ID: "_system__x_rbac.authorization.k8s.io_ClusterRole", Version: "v1"}}
	if diff := cmp.Diff(want, inv.Entries); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(refs, Refs(inv)); diff != "" {
		t.Errorf("round trip: %s", diff)
	}
	inv.Entries = append(inv.Entries, kustomizev1.ResourceRef{ID: "tampered"})
	if n := len(Refs(inv)); n != 2 {
		t.Errorf("%d references, want the tampered entry left out", n)
	}
	if diff := cmp.Diff(refs[1:], Missing(refs, refs[:1])); diff != "" {
		t.Errorf("missing: %s", diff)
	}
}

func TestReceiptHolds(t *testing.T) {
	left := receipt{want: "w", fields: "f", uid: "u"}
	good := Live{Exists: true, UID: "u", Fields: "f"}
	cases := map[string]struct {
		why  string
		r    receipt
		want string
		l    func(Live) Live
		hold bool
	}{
		"undisturbed":   {"as it was left", left, "w", func(l Live) Live { return l }, true},
		"other wish":    {"the source changed", left, "x", func(l Live) Live { return l }, false},
		"gone":          {"deleted", left, "w", func(Live) Live { return Live{} }, false},
		"another":       {"deleted and made by somebody else", left, "w", func(l Live) Live { l.UID = "v"; return l }, false},
		"foreign write": {"a field of ours was taken", left, "w", func(l Live) Live { l.Fields = "g"; return l }, false},
		"kubectl":       {"fields that we take over", left, "w", func(l Live) Live { l.Left = true; return l }, false},
		"status":        {"a new version alone is no drift", left, "w", func(l Live) Live { l.ResourceVersion = "9"; return l }, true},
		"going":         {"being deleted", left, "w", func(l Live) Live { l.Deleting = true; return l }, false},
		"create only":   {"IfNotPresent does not mind changes", receipt{want: "w", uid: "u", creates: true}, "w", func(l Live) Live { l.Fields = "g"; return l }, true},
		"never applied": {"no receipt", receipt{}, "w", func(l Live) Live { return l }, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := c.r.holds(c.want, c.l(good)); got != c.hold {
				t.Errorf("%s: %v, want %v", c.why, got, c.hold)
			}
		})
	}
}

// TestEndedIsUnkept: that a Job has ended is to be kept, although nothing was
// applied; once, and only when it is true.
func TestEndedIsUnkept(t *testing.T) {
	owner := types.NamespacedName{Namespace: "n", Name: "k"}
	ref := RefOf(newObject("Job", "j"))
	for name, c := range map[string]struct {
		r    receipt
		was  Live
		want bool
	}{
		"ended":          {receipt{want: "w", uid: "u", ends: true}, Live{Exists: true, UID: "u", Succeeded: true}, true},
		"without a time": {receipt{want: "w", uid: "u"}, Live{Exists: true, UID: "u", Succeeded: true}, false},
		"deleted before": {receipt{want: "w", uid: "u", ends: true}, Live{Exists: true, UID: "u"}, false},
		"another":        {receipt{want: "w", uid: "u", ends: true}, Live{Exists: true, UID: "v", Succeeded: true}, false},
	} {
		w := NewWatcher("m", "g", func(types.NamespacedName) {})
		w.Track(Interest{Tenant: Tenant{Owner: owner}, Objects: []Ref{ref}})
		w.setReceipt(owner, ref.ID, c.r)
		w.owners[owner].ended(ref.ID, c.was)
		if got := w.Unkept(owner); got != c.want {
			t.Errorf("%s: unkept %v, want %v", name, got, c.want)
		}
		if kept := w.Receipts(owner); len(kept) != 1 || kept[0].Ended != c.want || w.Unkept(owner) {
			t.Errorf("%s: kept %+v, unkept %v", name, kept, w.Unkept(owner))
		}
	}
}

// TestFight lets somebody change an object back every second for half an hour.
func TestFight(t *testing.T) {
	c := &corrections{}
	start := time.Unix(0, 0)
	corrected, told := 0, 0
	for s := range 1800 {
		until, began := c.correct(start.Add(time.Duration(s) * time.Second))
		if until.IsZero() {
			corrected++
		}
		if began {
			told++
		}
	}
	if corrected < 3 || corrected > 15 || told == 0 || told > 12 {
		t.Errorf("corrected %d times, told %d times", corrected, told)
	}
	// Two edits a day are no fight.
	c = &corrections{}
	for d := range 20 {
		if until, _ := c.correct(start.Add(time.Duration(d) * 12 * time.Hour)); !until.IsZero() {
			t.Fatal("a rare change is not corrected at once")
		}
	}
}

func TestFightNamesManagers(t *testing.T) {
	now := time.Unix(1000, 0)
	w := NewWatcher("kustomize-controller", "g", func(types.NamespacedName) {})
	w.now = func() time.Time { return now }
	owner := types.NamespacedName{Namespace: "n", Name: "k"}
	ref := RefOf(newObject("ConfigMap", "c"))
	w.Track(Interest{Tenant: Tenant{Owner: owner}, Objects: []Ref{ref}})
	was, live := receipt{want: "w", fields: "f", uid: "u"}, Live{Exists: true, UID: "u", Fields: "g", Others: []string{"hpa-controller"}}
	var f *Fight
	for range fightCorrections + 1 {
		f = w.mayCorrect(owner, ref, was, "w", live, true)
	}
	if f == nil || !f.New || !strings.Contains(f.String(), `"kustomize-controller" and "hpa-controller"`) {
		t.Fatalf("fight = %v", f)
	}
	if again := w.mayCorrect(owner, ref, was, "w", live, true); again == nil || again.New {
		t.Errorf("the same pause is told twice: %v", again)
	}
	now = f.Until
	if got := w.mayCorrect(owner, ref, was, "w", live, true); got != nil {
		t.Errorf("no correction after the pause: %v", got)
	}
}

func TestErrorsNameObjects(t *testing.T) {
	secret := objectError(newObject("Secret", "s"), "apply", errors.New(`.data.x: expected string, got &value.valueUnstructured{Value:"hunter2"}`))
	if msg := secret.Error(); strings.Contains(msg, "hunter2") || !strings.Contains(msg, "Secret/s apply failed") || !strings.Contains(msg, ".data.x") {
		t.Errorf("message = %s", msg)
	}
	var many []error
	for i := range 25 {
		many = append(many, objectError(newObject("ConfigMap", fmt.Sprint("c", i)), "apply", apierrors.NewTooManyRequests("slow down", 1)))
	}
	err := joined(many)
	if msg := err.Error(); !strings.Contains(msg, "ConfigMap/c9 ") || strings.Contains(msg, "ConfigMap/c10 ") || !strings.Contains(msg, "and 15 more") {
		t.Errorf("message = %s", msg)
	}
	if !Transient(err) {
		t.Error("throttling is transient")
	}
	if Transient(joined([]error{many[0], secret})) {
		t.Error("one lasting failure is enough")
	}
}

func TestJobHealth(t *testing.T) {
	for name, c := range map[string]struct {
		conditions []any
		want       Health
	}{
		"started":  {nil, InProgress},
		"complete": {[]any{map[string]any{"type": "Complete", "status": "True"}}, Current},
		"failed":   {[]any{map[string]any{"type": "Failed", "status": "True", "message": "BackoffLimitExceeded"}}, Failed},
	} {
		t.Run(name, func(t *testing.T) {
			u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "batch/v1", "kind": "Job", "status": map[string]any{"conditions": c.conditions}}}
			if got, _ := health(u, false); got != c.want {
				t.Errorf("health %s, want %s", got, c.want)
			}
		})
	}
}

func TestDigestFieldsIgnoresOrder(t *testing.T) {
	at, later := metav1.Unix(1, 0), metav1.Unix(2, 0)
	a, b := digestFields([]byte(`{"f:a":{},"f:b":{".":{}}}`), &at), digestFields([]byte(`{"f:b":{".":{}},"f:a":{}}`), &at)
	if a != b || a == digestFields([]byte(`{"f:a":{}}`), &at) || a == digestFields([]byte(`{"f:a":{},"f:b":{".":{}}}`), &later) {
		t.Errorf("digests %s, %s", a, b)
	}
}

package apply

import (
	"errors"
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestWhatIsThereIsAsked: objects that exist before the first apply and ask to
// be left alone are not touched, not even once.
func TestWhatIsThereIsAsked(t *testing.T) {
	b := newBed(t, all("configmaps"))
	cases := map[string]struct {
		annotations map[string]string
		owner       types.NamespacedName
		wanted      map[string]string // annotations of the wanted object
		action      Action
		err         string
	}{
		"disabled":    {annotations: map[string]string{testGroup + "/reconcile": "disabled"}, action: Skipped},
		"disabled-ci": {annotations: map[string]string{testGroup + "/reconcile": "Disabled"}, action: Skipped},
		"ignored":     {annotations: map[string]string{testGroup + "/ssa": "Ignore"}, action: Skipped},
		"once":        {wanted: map[string]string{testGroup + "/ssa": "IfNotPresent"}, action: Skipped},
		"plain":       {action: Configured},
		"override":    {wanted: map[string]string{testGroup + "/ssa": "Override"}, action: Configured},
		"neighbours":  {owner: types.NamespacedName{Namespace: b.ns, Name: "other"}, action: Configured},
		"stranger":    {owner: types.NamespacedName{Namespace: "elsewhere", Name: "other"}, err: "it belongs to elsewhere/other of another namespace: remove it there first"},
	}
	b.e.Owned = func(mine, other types.NamespacedName) bool { return other.Namespace == "elsewhere" }
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			old := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: b.ns, Annotations: c.annotations}, Data: map[string]string{"key": "0"}}
			if c.owner.Name != "" {
				old.Labels = map[string]string{testGroup + "/name": c.owner.Name, testGroup + "/namespace": c.owner.Namespace}
			}
			if err := b.admin.Create(t.Context(), old); err != nil {
				t.Fatal(err)
			}
			u := b.cm(name, "1")
			u.SetAnnotations(c.wanted)
			out, err := b.e.Apply(t.Context(), Request{Tenant: b.who, Objects: unstructuredOf(u)})
			if c.err != "" {
				var one *ObjectError
				if !errors.As(err, &one) || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v", err)
				}
			} else if err != nil || out.Changes[0].Action != c.action {
				t.Fatalf("got %+v, %v, want %s", out, err, c.action)
			}
			now := b.live(name)
			if c.action == Configured {
				if now.Data["key"] != "1" || now.Labels[testGroup+"/name"] != "owner" {
					t.Errorf("data %v, labels %v", now.Data, now.Labels)
				}
				return
			}
			if now.ResourceVersion != old.ResourceVersion {
				t.Errorf("it was touched: %v", now)
			}
			if c.err == "" && !out.Changes[0].Foreign {
				t.Error("it is not marked as left to others")
			}
		})
	}
}

func TestOtherManagersAreOverridden(t *testing.T) {
	b := newBed(t, all("configmaps"))
	b.e.Watcher.Override("clickops")
	write := func(name, manager string) {
		t.Helper()
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: b.ns}, Data: map[string]string{"added": "x"}}
		if err := b.admin.Create(t.Context(), cm, client.FieldOwner(manager)); err != nil {
			t.Fatal(err)
		}
	}
	write("a", "clickops-portal")
	write("b", "operator")
	write("merged", "kubectl-edit")
	merged := b.cm("merged", "1")
	merged.SetAnnotations(map[string]string{testGroup + "/ssa": "Merge"})
	b.apply(b.cm("a", "1"), b.cm("b", "1"), merged)
	for name, want := range map[string]int{"a": 1, "b": 2, "merged": 2} {
		if got := b.live(name).Data; len(got) != want {
			t.Errorf("%s has %v, want %d fields", name, got, want)
		}
	}
}

// TestIgnoredFields: what spec.ignore names is set at creation and others'
// afterwards, at the cost of one look and without a fight.
func TestIgnoredFields(t *testing.T) {
	b := newBed(t, all("configmaps"))
	rules, err := CompileIgnores([]kustomizev1.IgnoreRule{{Paths: []string{"/data/key"}}})
	if err != nil {
		t.Fatal(err)
	}
	apply := func(value, other string) Action {
		t.Helper()
		u := b.cm("a", value)
		u.Object["data"].(map[string]any)["other"] = other
		out, err := b.e.Apply(t.Context(), Request{Tenant: b.who, Objects: unstructuredOf(u), Ignore: rules})
		if err != nil || len(out.Fights) > 0 {
			t.Fatalf("got %+v, %v", out, err)
		}
		return out.Changes[0].Action
	}
	b.apply(b.cm("a", "1")) // tracks it
	if apply("1", "x"); b.live("a").Data["key"] != "1" {
		t.Errorf("not set at creation: %v", b.live("a").Data)
	}
	for i := range 6 {
		cm := b.live("a")
		cm.Data["key"] = "theirs" + string(rune('0'+i))
		if err := b.admin.Update(t.Context(), cm, client.FieldOwner("autoscaler")); err != nil {
			t.Fatal(err)
		}
		if apply("1", "x"); b.live("a").Data["key"] != cm.Data["key"] {
			t.Fatalf("round %d: theirs is gone: %v", i, b.live("a").Data)
		}
	}
	if got := apply("2", "y"); got != Configured || b.live("a").Data["other"] != "y" || b.live("a").Data["key"] != "theirs5" {
		t.Errorf("%s: data %v", got, b.live("a").Data)
	}
	if _, err := b.e.Apply(t.Context(), Request{Tenant: b.who, Objects: unstructuredOf(b.cm("a", "3"))}); err != nil || b.live("a").Data["key"] != "3" {
		t.Errorf("without the rule: %v, %v", b.live("a").Data, err)
	}
}

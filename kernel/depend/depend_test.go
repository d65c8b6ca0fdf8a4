package depend

import (
	"errors"
	"strings"
	"testing"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func kustomization(name, annotation string, dependsOn ...string) *kustomizev1.Kustomization {
	k := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, Annotations: map[string]string{Annotation: annotation}}}
	k.Spec.DependsOn = meta.MakeDependsOn(dependsOn)
	return k
}

func TestOf(t *testing.T) {
	cases := map[string]struct {
		annotation string
		spec       []string
		want       []string
		err        string
	}{
		"nothing":    {},
		"spec":       {"", []string{"a", "m/b"}, []string{"Kustomization/n/a ", "Kustomization/m/b "}, ""},
		"both":       {"HelmRelease/db", []string{"a"}, []string{"Kustomization/n/a ", "HelmRelease/n/db "}, ""},
		"lines":      {"\n HelmRelease/m/db \nKustomization/x@dep.status.x == 'a@b'\n", nil, []string{"HelmRelease/m/db ", "Kustomization/n/x dep.status.x == 'a@b'"}, ""},
		"other kind": {"Deployment/x\nHelmRelease/db", nil, []string{"HelmRelease/n/db "}, `line 1: kind "Deployment" is nothing to depend on`},
		"no kind":    {"db", nil, nil, `line 1: "db": write Kind/name`},
		"bad name":   {"HelmRelease/../db", nil, nil, `is no name of an object`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			refs, err := Of(kustomization("k", c.annotation, c.spec...))
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("got %v, want %q", err, c.err)
			}
			var got []string
			for _, r := range refs {
				got = append(got, r.Key.String()+" "+r.ReadyExpr)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestCycleAcrossKinds(t *testing.T) {
	hr := &helmv2.HelmRelease{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "db", Annotations: map[string]string{Annotation: "Kustomization/c"}}}
	all := map[string]Object{"HelmRelease/n/db": hr}
	for _, k := range []*kustomizev1.Kustomization{kustomization("a", "HelmRelease/db", "gone"), kustomization("c", "", "d", "a"), kustomization("d", "", "d"), kustomization("free", "", "a")} {
		all[KeyOf(k).String()] = k
	}
	get := func(k Key) (Object, error) {
		if o, ok := all[k.String()]; ok {
			return o, nil
		}
		return nil, errors.New("not found")
	}
	for start, want := range map[string]string{
		"Kustomization/n/a":    "Kustomization/n/a → HelmRelease/n/db → Kustomization/n/c → Kustomization/n/a",
		"HelmRelease/n/db":     "HelmRelease/n/db → Kustomization/n/c → Kustomization/n/a → HelmRelease/n/db",
		"Kustomization/n/d":    "Kustomization/n/d → Kustomization/n/d",
		"Kustomization/n/free": "",
	} {
		if got := Cycle(all[start], get); got != want {
			t.Errorf("%s: got %q, want %q", start, got, want)
		}
	}
}

func TestReady(t *testing.T) {
	hr := &helmv2.HelmRelease{ObjectMeta: metav1.ObjectMeta{Generation: 2}}
	conditions.MarkTrue(hr, meta.ReadyCondition, "R", "m")
	if Ready(hr) {
		t.Error("ready in a form that is past")
	}
	hr.Status.ObservedGeneration = 2
	if !Ready(hr) {
		t.Error("not ready")
	}
	hr.Name, hr.Namespace = "x", "n"
	hr.Spec.DependsOn = meta.MakeDependsOn([]string{"db@true"})
	if refs, err := Of(hr); err != nil || len(refs) != 1 || refs[0].Key.String() != "HelmRelease/n/db" || refs[0].ReadyExpr != "true" {
		t.Errorf("dependencies of a HelmRelease: %v, %v", refs, err)
	}
	if ok, err := Evaluate(t.Context(), "dep.metadata.generation == 2 && self.metadata.name == 'k'", kustomization("k", ""), hr); !ok || err != nil {
		t.Errorf("across kinds: %v, %v", ok, err)
	}
	if ok, err := Evaluate(t.Context(), "dep.status.nothing == 'x'", hr, hr); ok || err != nil {
		t.Errorf("what is not there is not ready: %v, %v", ok, err)
	}
	if _, err := Evaluate(t.Context(), "dep.(", hr, hr); err == nil {
		t.Error("malformed was taken")
	}
}

// Every level multiplies the work: without a bound this would hold a worker for hours.
const endless = "[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, " +
	"[1,2,3,4,5,6,7,8,9,10].all(e, [1,2,3,4,5,6,7,8,9,10].all(f, [1,2,3,4,5,6,7,8,9,10].all(g, [1,2,3,4,5,6,7,8,9,10].all(h, " +
	"[1,2,3,4,5,6,7,8,9,10].all(i, [1,2,3,4,5,6,7,8,9,10].all(j, a+b+c+d+e+f+g+h+i+j > 0))))))))))"

func TestA24ReadyExpressionsThatNeverEnd(t *testing.T) {
	k := &kustomizev1.Kustomization{}
	ready, err := Evaluate(t.Context(), endless, k, k)
	if ready || !errors.Is(err, ErrSlow) || !strings.Contains(err.Error(), "takes longer than") {
		t.Errorf("Evaluate() = %v, %v: want an error that says that it takes too long", ready, err)
	}
}

// What does not compile stays wrong, and is not to be mistaken for what was slow.
func TestOnlySlownessIsSlow(t *testing.T) {
	k := &kustomizev1.Kustomization{}
	if _, err := Evaluate(t.Context(), "dep.(", k, k); err == nil || errors.Is(err, ErrSlow) {
		t.Errorf("Evaluate() = %v: want an error that is not ErrSlow", err)
	}
}

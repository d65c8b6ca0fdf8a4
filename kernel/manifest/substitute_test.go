package manifest

import (
	"context"
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestSubstitute(t *testing.T) {
	doc := func(value string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  key: " + value + "\n"
	}
	cases := map[string]struct {
		why    string
		object string
		values map[string]string
		post   kustomizev1.PostBuild
		want   string // of data.key
		err    string
	}{
		"value":        {why: "plain", object: doc("a-${v}"), values: map[string]string{"v": "1"}, want: "a-1"},
		"inline wins":  {why: "spec.postBuild.substitute overrides", object: doc("x${v}"), values: map[string]string{"v": "1"}, post: kustomizev1.PostBuild{Substitute: map[string]string{"v": "2"}}, want: "x2"},
		"default":      {why: "bash default", object: doc("${v:=d}"), values: map[string]string{"x": "1"}, want: "d"},
		"function":     {why: "bash functions", object: doc("${v/old/new}"), values: map[string]string{"v": "old-x"}, want: "new-x"},
		"escaped":      {why: "$$ is a dollar", object: doc("$${v}"), values: map[string]string{"v": "1"}, want: "${v}"},
		"not again":    {why: "values are not evaluated", object: doc("${v}"), values: map[string]string{"v": "$${w}", "w": "1"}, want: "$${w}"},
		"no variables": {why: "without variables the text stays", object: doc("${v}"), want: "${v}"},
		"always":       {why: "strategy Always evaluates defaults", object: doc("${v:=d}"), post: kustomizev1.PostBuild{SubstituteStrategy: kustomizev1.SubstituteStrategyAlways}, want: "d"},
		"missing":      {why: "strict", object: doc("${v}"), values: map[string]string{"x": "1"}, err: `ConfigMap/c: post build failed: variable substitution failed: variable not set (strict mode): "v"`},
		"bad name":     {why: "names are checked", object: doc("x"), values: map[string]string{"a b": "1"}, err: `variable name "a b" is invalid`},
		"new document": {why: "line breaks are dropped: no further object", object: doc("${v}"), values: map[string]string{"v": "x\n---\napiVersion: v1\nkind: Secret"}, err: "not valid YAML"},
		"new field":    {why: "nor with the line breaks of YAML 1.1", object: doc("'${v}'"), values: map[string]string{"v": "x'\u2028  other: 'y\u0085"}, err: "not valid YAML"},
		"secret":       {why: "no value in errors", object: doc("\"${v}\""), values: map[string]string{"v": `hunter2": x "`}, err: "not valid YAML"},
		"recursion":    {why: "malformed expressions are errors", object: doc("${v"), values: map[string]string{"v": "1"}, err: "variable substitution failed"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			vars, err := NewVariables(&c.post, true, c.values)
			var r *Result
			if err == nil {
				r, err = Build(context.Background(), Request{Root: files(t, map[string]string{"c.yaml": c.object}), Spec: &kustomizev1.KustomizationSpec{}, Variables: vars})
			}
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("%s: error = %v, want %q", c.why, err, c.err)
				}
				if strings.Contains(err.Error(), "hunter2") {
					t.Errorf("error shows a value: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", c.why, err)
			}
			got, _, _ := unstructured.NestedString(r.Objects[0].Object, "data", "key")
			if got != c.want || len(r.Objects) != 1 {
				t.Errorf("%s: %q in %d objects, want %q", c.why, got, len(r.Objects), c.want)
			}
		})
	}
}

func TestSubstituteLeavesAlone(t *testing.T) {
	root := files(t, map[string]string{
		"a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, annotations: {kustomize.toolkit.fluxcd.io/substitute: disabled}}\ndata: {key: '${x}'}\n",
		"b.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b, labels: {kustomize.toolkit.fluxcd.io/substitute: disabled}}\ndata: {key: '${x}'}\n",
		"c.yaml": "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: c}\ndata: {key: '${x}'}\n",
	})
	vars, err := NewVariables(&kustomizev1.PostBuild{}, true, map[string]string{"v": "1"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Build(context.Background(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{}, Variables: vars})
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range r.Objects {
		if got, _, _ := unstructured.NestedString(u.Object, "data", "key"); got != "${x}" {
			t.Errorf("%s: %q", Name(u), got)
		}
	}
}

func FuzzSubstitute(f *testing.F) {
	for _, s := range []string{"x", "a\nb", "---", "{a: b}", "'", "\"", "&a", "*a", "!!int 3", "\u2028kind: Secret"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		vars, err := NewVariables(&kustomizev1.PostBuild{}, true, map[string]string{"v": value})
		if err != nil {
			t.Fatal(err)
		}
		raw := []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"key":"${v}","x":"y"}}`)
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(raw); err != nil {
			t.Fatal(err)
		}
		w, err := vars.substitute(u, raw, newWork(DefaultLimits()))
		if err != nil {
			return
		}
		data := w.Object["data"].(map[string]any)
		if w.GetKind() != "ConfigMap" || w.GetName() != "c" || len(w.Object) != 4 || len(data) != 2 || data["x"] != "y" {
			t.Errorf("value %q changed more than its place: %v", value, w.Object)
		}
	})
}

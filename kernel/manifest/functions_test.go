package manifest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/envsubst"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// TestSubstituteFunctions is the list of what Flux documents of the shell's
// expansions.
func TestSubstituteFunctions(t *testing.T) {
	values := map[string]string{"v": "Hello-World.txt", "empty": "", "n": "7", "path": "/a/b/c.tar.gz"}
	cases := []struct{ expression, want string }{
		{"${v}", "Hello-World.txt"}, {"$v", "$v"}, {"$${v}", "${v}"}, {"$$v", "$v"}, {"a$", "a$"},
		{"${missing}", ""}, {"${missing:-d}", "d"}, {"${missing:=d}", "d"}, {"${missing=d}", "d"},
		{"${empty:-d}", "d"}, {"${empty:=d}", "d"}, {"${v:-d}", "Hello-World.txt"},
		{"${missing:-${n}}", "7"}, {"${missing:=a ${n} b}", "a 7 b"},
		{"${#v}", "15"}, {"${v,}", "hello-World.txt"}, {"${v,,}", "hello-world.txt"}, {"${v^}", "Hello-World.txt"}, {"${v^^}", "HELLO-WORLD.TXT"},
		{"${v:6}", "World.txt"}, {"${v:6:5}", "World"}, {"${v:-4}", "Hello-World.txt"}, {"${v:100}", ""},
		{"${path#/a}", "/b/c.tar.gz"}, {"${path##*/}", "c.tar.gz"}, {"${path%.gz}", "/a/b/c.tar"}, {"${path%%.*}", "/a/b/c"},
		{"${v/o/0}", "Hell0-World.txt"}, {"${v//o/0}", "Hell0-W0rld.txt"}, {"${v/#Hello/Bye}", "Bye-World.txt"}, {"${v/%txt/md}", "Hello-World.md"}, {"${v//l/}", "Heo-Word.txt"},
	}
	for _, c := range cases {
		t.Run(c.expression, func(t *testing.T) {
			want, wantErr := envsubst.Eval(c.expression, func(name string) (string, bool) { return values[name], true })
			got, err := substituted(t, c.expression, values, false)
			if (wantErr == nil) != (err == nil) || got != want {
				t.Fatalf("%q, %v; the library gives %q, %v", got, err, want, wantErr)
			}
			if err == nil && got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// substituted runs one value of a ConfigMap through a build.
func substituted(t testing.TB, text string, values map[string]string, strict bool) (string, error) {
	t.Helper()
	vars, err := NewVariables(&kustomizev1.PostBuild{Substitute: values}, strict)
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "c"},
		"data": map[string]any{"key": ". " + text}}} // the dot keeps it text
	raw, err := u.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	done, err := vars.substitute(u, raw, newWork(DefaultLimits()))
	if err != nil {
		return "", err
	}
	got, _, err := unstructured.NestedString(done.Object, "data", "key")
	return strings.TrimPrefix(strings.TrimPrefix(got, "."), " "), err
}

func TestSubstituteStrict(t *testing.T) {
	values := map[string]string{"v": "x"}
	for expression, want := range map[string]string{
		"${v}": "", "${none}": `variable not set (strict mode): "none"`, "${none:=d}": "", "${none:-d}": "", "${none^^}": "not set",
		"${none/a/b}": "not set", "${#none}": "not set", "${v:=${none}}": "not set", "$${none}": "",
	} {
		_, err := substituted(t, expression, values, true)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: error = %v, want %q", expression, err, want)
		}
		if _, err := substituted(t, expression, values, false); err != nil {
			t.Errorf("%s, not strict: %v", expression, err)
		}
	}
}

// upstream is what Flux's library does with an object and variables: the text
// of the object, the variables without line feeds, the result read as YAML.
func upstream(u *unstructured.Unstructured, values map[string]string) (map[string]any, error) {
	raw, err := u.MarshalJSON()
	if err != nil {
		return nil, err
	}
	text, err := yaml.JSONToYAML(raw)
	if err != nil {
		return nil, err
	}
	out, err := envsubst.Eval(string(text), func(name string) (string, bool) { return strings.ReplaceAll(values[name], "\n", ""), true })
	if err != nil {
		return nil, err
	}
	var object map[string]any
	return object, yaml.Unmarshal([]byte(out), &object)
}

// TestDifferentialSubstitution puts random values into random places, and
// compares with Flux's library. Ours may refuse what that library lets through;
// it never gives something else.
func TestDifferentialSubstitution(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	expressions := []string{"${a}", "${a:=${b}}", "${b^^}", "${a//x/${b}}", "${b:1:3}", "$${a}", "${missing:-x: y}", "${#a}", "${a##*.}", "x", "\"${a}\"", "'${b}'", "${a}\n${b}"}
	values := []string{"", "x", "1", "true", "null", "~", "a: b", "{a: b}", "[1, 2]", "&a x", "*a", "!!binary aGVsbG8=", "x\ny", "x\n---\nkind: Secret", "'", "\"", "\\", "#c", " x ", "0x10", "1e3", "ü", "${b}", "$", "x # y", "- a", "|", ">-", "%", "@", "`", "a\tb"}
	same, refused := 0, 0
	for i := range 3000 {
		vars := map[string]string{"a": pick(values...), "b": pick(values...)}
		u := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap",
			"metadata": map[string]any{"name": "c", "annotations": map[string]any{"k" + pick(expressions...): pick(expressions...)}},
			"data":     map[string]any{"one": pick(expressions...), "two": "a " + pick(expressions...) + " b", "three": "l1\n" + pick(expressions...) + "\nl3\n"},
			"list":     []any{pick(expressions...), map[string]any{"x": pick(expressions...)}},
		}}
		want, wantErr := upstream(u, vars)
		v, err := NewVariables(&kustomizev1.PostBuild{Substitute: vars}, false)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := u.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		got, err := v.substitute(u, raw, newWork(DefaultLimits()))
		switch {
		case err != nil:
			refused++
			if wantErr == nil && !strings.Contains(err.Error(), "not valid YAML") && !strings.Contains(err.Error(), "not a Kubernetes object") {
				t.Errorf("%d: refused: %v; variables %q, object %v", i, err, vars, u.Object)
			}
		case wantErr != nil:
			t.Errorf("%d: let through what the library refuses (%v); variables %q", i, wantErr, vars)
		default:
			same++
			if diff := cmp.Diff(fmt.Sprint(want), fmt.Sprint(got.Object)); diff != "" {
				t.Errorf("%d: variables %q: %s", i, vars, diff)
			}
		}
	}
	if same < 300 {
		t.Errorf("only %d of 3000 were compared, %d refused", same, refused)
	}
}

// TestA33Injection: whatever a value holds, there is one object, with the
// fields that were there.
func TestA33Injection(t *testing.T) {
	object := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  one: ${v}\n  two: \"${v}\"\n  three: 'x${v}'\n  four: |\n    ${v}\n"
	for _, value := range []string{
		"x\n  five: y", "x\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}", "x\r\n  five: y", "x\u2028  five: y", "x\u0085  five: y",
		"x'\n  five: 'y", "x\"\n  five: \"y", "&a x", "*a", "<<: *a", "!!map {}", "x #", "x: y", "{five: y}", "? five\n: y", "%YAML 1.1", "...", "...\n---",
	} {
		t.Run(value, func(t *testing.T) {
			vars, err := NewVariables(&kustomizev1.PostBuild{Substitute: map[string]string{"v": value}}, true)
			if err != nil {
				t.Fatal(err)
			}
			r, err := Build(context.Background(), Request{Root: files(t, map[string]string{"c.yaml": object}), Spec: &kustomizev1.KustomizationSpec{}, Variables: vars})
			if err != nil {
				return // refused
			}
			data, _ := r.Objects[0].Object["data"].(map[string]any)
			if len(r.Objects) != 1 || len(data) != 4 || len(r.Objects[0].Object) != 4 || r.Objects[0].GetKind() != "ConfigMap" {
				t.Errorf("gives %v", r.Objects)
			}
			if _, there := data["five"]; there {
				t.Errorf("a field was added: %v", data)
			}
		})
	}
}

func FuzzExpression(f *testing.F) {
	for _, s := range []string{"${v}", "${v:=${w}}", "${v//a/${w}}", "${v##*a}", "$${", "${v:1:-1}", "${#v}", "${", "}", "${v^^", "\\/", "${v/\\//x}"} {
		f.Add(s, "value", "a*b")
	}
	f.Fuzz(func(t *testing.T, expression, v, w string) {
		values := map[string]string{"v": oneLine(v), "w": oneLine(w)}
		budget := newWork(Limits{Rendered: 1 << 20})
		if err := budget.admit(expression, values); err != nil {
			return
		}
		out, err := evaluate(expression, func(name string) (string, bool) { return values[name], true })
		if err == nil && int64(len(out)) > 1<<20-budget.rendered+16 {
			t.Errorf("%d bytes were admitted as %d", len(out), 1<<20-budget.rendered)
		}
	})
}

func FuzzYAML(f *testing.F) {
	for _, s := range []string{configMap("c"), "a: &a [*a]", "---\n---\n", "{", "\ufeffa: b", "apiVersion: v1\nkind: List\nitems: [{}]", "apiVersion: v1\nkind: List\nitems: {}", "? {}\n: x", "!!binary x", "<<: *a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		root := files(t, map[string]string{"x.yaml": body})
		r, err := Build(context.Background(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{}})
		if err != nil {
			return
		}
		again, err := Build(context.Background(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{}})
		if err != nil || again.Digest != r.Digest {
			t.Errorf("built %s, then %v, %v", r.Digest, again, err)
		}
	})
}

func FuzzKustomization(f *testing.F) {
	for _, content := range corpus() {
		f.Add(content["kustomization.yaml"] + content["app/kustomization.yaml"])
	}
	f.Add("resources: &a [*a]\n")
	f.Add("openapi: {path: x.yaml}\n")
	f.Add("generators: ['apiVersion: builtin\nkind: HelmChartInflationGenerator\n']\n")
	other := map[string]string{"d.yaml": configMap("d"), "net.yaml": configMap("net"), "settings.yaml": configMap("settings"),
		"patch.yaml": configMap("d"), "file.txt": "x", "comp/kustomization.yaml": "kind: Component\napiVersion: kustomize.config.k8s.io/v1alpha1\n"}
	f.Fuzz(func(t *testing.T, body string) {
		root := files(t, other)
		write(t, root, "kustomization.yaml", strings.TrimPrefix(body, "-> "))
		r, err := Build(context.Background(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{}, Limits: Limits{Reads: 200, Bytes: 1 << 20, Objects: 100, Rendered: 1 << 20}})
		if err == nil && r.Digest == "" {
			t.Error("no digest")
		}
	})
}

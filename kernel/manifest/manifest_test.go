package manifest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxkustomize "github.com/fluxcd/pkg/apis/kustomize"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// files writes an artifact; a value that starts with "-> " is a symbolic link.
func files(t testing.TB, content map[string]string) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "artifact")
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, body := range content {
		write(t, root, name, body)
	}
	return root
}

func write(t testing.TB, root, name, body string) {
	t.Helper()
	p := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if target, ok := strings.CutPrefix(body, "-> "); ok {
		if err := os.Symlink(target, p); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := os.WriteFile(p, []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
}

func configMap(name string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: " + name + "\ndata:\n  key: value\n"
}

func names(objects []*unstructured.Unstructured) []string {
	var out []string
	for _, u := range objects {
		out = append(out, Name(u))
	}
	return out
}

func TestBuild(t *testing.T) {
	deployment := `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "ghcr.io/x/web:1"}]}
`
	cases := map[string]struct {
		why   string
		files map[string]string
		spec  kustomizev1.KustomizationSpec
		want  []string
		check func(*testing.T, []*unstructured.Unstructured)
	}{
		"plain directory": {
			why: "all YAML below, in a stable order; a directory with a kustomization is taken as it is",
			files: map[string]string{
				"b.yaml": configMap("b"), "a/a.yml": configMap("a"), "readme.md": "no",
				"k/kustomization.yaml": "resources: [in.yaml]\nnamePrefix: p-\n", "k/in.yaml": configMap("in"), "k/not.yaml": configMap("not"),
			},
			want: []string{"ConfigMap/a", "ConfigMap/b", "ConfigMap/p-in"},
		},
		"path": {
			why:   "only the path is built; bases may be beside it",
			files: map[string]string{"apps/one/kustomization.yml": "resources: [../../base]\n", "base/kustomization.yaml": "resources: [x.yaml]", "base/x.yaml": configMap("x"), "other.yaml": configMap("other")},
			spec:  kustomizev1.KustomizationSpec{Path: "./apps/one"},
			want:  []string{"ConfigMap/x"},
		},
		"empty directory": {why: "nothing is a valid state", files: map[string]string{"README": "x"}},
		"list": {
			why:   "lists are taken apart",
			files: map[string]string{"l.yaml": "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: one}}\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: two}}\n"},
			want:  []string{"ConfigMap/one", "ConfigMap/two"},
		},
		"overlay": {
			why:   "everything a Kustomization can ask for on top",
			files: map[string]string{"d.yaml": deployment},
			spec: kustomizev1.KustomizationSpec{
				TargetNamespace: "team", NamePrefix: "pre-", NameSuffix: "-post",
				Images:         []fluxkustomize.Image{{Name: "ghcr.io/x/web", NewTag: "2"}},
				Patches:        []fluxkustomize.Patch{{Patch: "- {op: add, path: /spec/replicas, value: 3}", Target: &fluxkustomize.Selector{Kind: "Deployment"}}},
				CommonMetadata: &kustomizev1.CommonMetadata{Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"a": "2"}},
			},
			want: []string{"Deployment/team/pre-web-post"},
			check: func(t *testing.T, objects []*unstructured.Unstructured) {
				u := objects[0]
				containers, _, _ := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "containers")
				replicas, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas")
				got := []any{containers[0].(map[string]any)["image"], replicas, u.GetLabels()["l"], u.GetAnnotations()["a"]}
				if diff := cmp.Diff([]any{"ghcr.io/x/web:2", int64(3), "1", "2"}, got); diff != "" {
					t.Error(diff)
				}
			},
		},
		"components": {
			why: "missing components are left out when asked for",
			files: map[string]string{
				"app/kustomization.yaml": "resources: [x.yaml]", "app/x.yaml": configMap("x"),
				"comp/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nnameSuffix: -c\n",
			},
			spec: kustomizev1.KustomizationSpec{Path: "app", Components: []string{"../comp", "../gone"}, IgnoreMissingComponents: true},
			want: []string{"ConfigMap/x-c"},
		},
		"generators": {
			why:   "config map generators read files of the artifact",
			files: map[string]string{"kustomization.yaml": "configMapGenerator: [{name: g, files: [f.txt], options: {disableNameSuffixHash: true}}]", "f.txt": "hello"},
			want:  []string{"ConfigMap/g"},
			check: func(t *testing.T, objects []*unstructured.Unstructured) {
				if a := objects[0].GetAnnotations(); len(a) != 0 {
					t.Errorf("unexpected annotations %v", a)
				}
			},
		},
		"own schema": {
			why: "openapi of the artifact is used for this build",
			files: map[string]string{
				"kustomization.yaml": "resources: [r.yaml]\nopenapi: {path: schema.json}\npatches: [{patch: '{apiVersion: my.io/v1, kind: Mine, metadata: {name: m}, spec: {items: [{name: a, v: 2}]}}'}]\n",
				"r.yaml":             "apiVersion: my.io/v1\nkind: Mine\nmetadata: {name: m}\nspec: {items: [{name: a, v: 1}, {name: b, v: 1}]}\n",
				"schema.json":        mineSchema,
			},
			want: []string{"Mine/m"},
			check: func(t *testing.T, objects []*unstructured.Unstructured) {
				items, _, _ := unstructured.NestedSlice(objects[0].Object, "spec", "items")
				if len(items) != 2 {
					t.Errorf("items = %v, want a merge by name", items)
				}
			},
		},
		"link inside": {
			why:   "links within the artifact are followed",
			files: map[string]string{"kustomization.yaml": "resources: [link]", "link": "-> real", "real/kustomization.yaml": "resources: [x.yaml]", "real/x.yaml": configMap("x")},
			want:  []string{"ConfigMap/x"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r, err := Build(context.Background(), Request{Root: files(t, c.files), Spec: &c.spec})
			if err != nil {
				t.Fatalf("%s: %v", c.why, err)
			}
			if diff := cmp.Diff(c.want, names(r.Objects)); diff != "" {
				t.Errorf("%s: %s", c.why, diff)
			}
			if c.check != nil {
				c.check(t, r.Objects)
			}
		})
	}
}

const mineSchema = `{"definitions": {"io.my.v1.Mine": {
  "type": "object",
  "x-kubernetes-group-version-kind": [{"group": "my.io", "kind": "Mine", "version": "v1"}],
  "properties": {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
   "spec": {"type": "object", "properties": {"items": {"type": "array", "x-kubernetes-patch-merge-key": "name", "x-kubernetes-patch-strategy": "merge",
     "items": {"type": "object", "properties": {"name": {"type": "string"}, "v": {"type": "integer"}}}}}}}}}}`

func TestBuildStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Build(ctx, Request{Root: files(t, map[string]string{"a.yaml": configMap("a")}), Spec: &kustomizev1.KustomizationSpec{}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error = %v, want canceled", err)
	}
}

func BenchmarkBuild(b *testing.B) {
	root := files(b, map[string]string{"kustomization.yaml": "resources: [a.yaml, b.yaml, c.yaml, d.yaml, e.yaml]",
		"a.yaml": configMap("a"), "b.yaml": configMap("b"), "c.yaml": configMap("c"), "d.yaml": configMap("d"), "e.yaml": configMap("e")})
	for b.Loop() {
		if _, err := Build(context.Background(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{}}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBuildTransformed is a build that needs kustomize.
func BenchmarkBuildTransformed(b *testing.B) {
	root := files(b, map[string]string{"kustomization.yaml": "resources: [a.yaml, b.yaml, c.yaml, d.yaml, e.yaml]",
		"a.yaml": configMap("a"), "b.yaml": configMap("b"), "c.yaml": configMap("c"), "d.yaml": configMap("d"), "e.yaml": configMap("e")})
	for b.Loop() {
		if _, err := Build(context.Background(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{NamePrefix: "p-"}}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSame(b *testing.B) {
	root := files(b, map[string]string{"apps/one/kustomization.yaml": "resources: [a.yaml, b.yaml, c.yaml, d.yaml, e.yaml]",
		"apps/one/a.yaml": configMap("a"), "apps/one/b.yaml": configMap("b"), "apps/one/c.yaml": configMap("c"), "apps/one/d.yaml": configMap("d"), "apps/one/e.yaml": configMap("e")})
	r, err := Build(context.Background(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{Path: "apps/one"}})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if !r.Read.Same(root, nil) {
			b.Fatal("not the same")
		}
	}
}

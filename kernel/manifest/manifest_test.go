package manifest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
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

func TestBuildRefuses(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret.yaml")
	if err := os.WriteFile(outside, []byte(configMap("secret")), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		files map[string]string
		spec  kustomizev1.KustomizationSpec
		want  string
	}{
		"missing path":            {spec: kustomizev1.KustomizationSpec{Path: "./none"}, want: `path not found in the artifact: "./none"`},
		"path outside":            {spec: kustomizev1.KustomizationSpec{Path: "../.."}, want: "path not found in the artifact"},
		"parent resource":         {files: map[string]string{"kustomization.yaml": "resources: [../../etc]"}, want: "outside of the artifact"},
		"absolute file":           {files: map[string]string{"kustomization.yaml": "resources: [" + outside + "]"}, want: "outside of the artifact"},
		"generator file":          {files: map[string]string{"kustomization.yaml": "configMapGenerator: [{name: g, files: [k=../../../etc/passwd]}]"}, want: "outside of the artifact"},
		"link to a file":          {files: map[string]string{"kustomization.yaml": "resources: [x.yaml]", "x.yaml": "-> " + outside}, want: "outside of the artifact"},
		"link to a directory":     {files: map[string]string{"kustomization.yaml": "resources: [d]", "d": "-> /etc"}, want: "outside of the artifact"},
		"https base":              {files: map[string]string{"kustomization.yaml": "resources: ['https://user:pw@example.invalid/x.yaml']"}, want: `resources: remote base "https://example.invalid/x.yaml" is not allowed`},
		"metadata service":        {files: map[string]string{"kustomization.yaml": "resources: ['HTTP://169.254.169.254/latest']"}, want: "is not allowed"},
		"git base":                {files: map[string]string{"kustomization.yaml": "resources: ['git@example.invalid:org/repo.git//x']"}, want: "is not allowed"},
		"github shorthand":        {files: map[string]string{"kustomization.yaml": "bases: ['github.com/org/repo//x']"}, want: "is not allowed"},
		"remote component":        {spec: kustomizev1.KustomizationSpec{Components: []string{"https://example.invalid/c"}}, want: "must be local and relative"},
		"remote crds":             {files: map[string]string{"kustomization.yaml": "resources: [x.yaml]\ncrds: ['http://example.invalid/c.json']", "x.yaml": configMap("x")}, want: "crds: remote base"},
		"remote openapi":          {files: map[string]string{"kustomization.yaml": "resources: [x.yaml]\nopenapi: {path: 'http://example.invalid/c.json'}", "x.yaml": configMap("x")}, want: "path: remote base"},
		"remote env":              {files: map[string]string{"kustomization.yaml": "configMapGenerator: [{name: g, envs: ['http://example.invalid/e']}]"}, want: "envs: remote base"},
		"remote in plugin":        {files: map[string]string{"kustomization.yaml": "resources: [x.yaml]\ntransformers: [t.yaml]", "x.yaml": configMap("x"), "t.yaml": "apiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: t}\npath: http://example.invalid/p\n"}, want: "path: remote base"},
		"remote in inline plugin": {files: map[string]string{"kustomization.yaml": "resources: [x.yaml]\ntransformers:\n- |-\n  apiVersion: builtin\n  kind: PatchTransformer\n  metadata: {name: t}\n  path: http://example.invalid/p\n", "x.yaml": configMap("x")}, want: "path: remote base"},
		"helm charts":             {files: map[string]string{"kustomization.yaml": "helmCharts: [{name: c, repo: 'https://example.invalid'}]"}, want: "use a HelmRelease"},
		"exec plugin":             {files: map[string]string{"kustomization.yaml": "resources: [x.yaml]\ngenerators: [g.yaml]", "x.yaml": configMap("x"), "g.yaml": "apiVersion: evil/v1\nkind: Exec\nmetadata: {name: e}\n"}, want: "external plugins disabled"},
		"function plugin":         {files: map[string]string{"kustomization.yaml": "resources: [x.yaml]\ntransformers: [g.yaml]", "x.yaml": configMap("x"), "g.yaml": "apiVersion: evil/v1\nkind: Fn\nmetadata: {name: e, annotations: {config.kubernetes.io/function: 'exec: {path: /bin/sh}'}}\n"}, want: "external plugins disabled"},
		"environment":             {files: map[string]string{"kustomization.yaml": "configMapGenerator: [{name: g, envs: [e.env]}]", "e.env": "A=1\nHOME\n"}, want: "e.env: line 2: a variable without a value"},
		"self base":               {files: map[string]string{"kustomization.yaml": "resources: [.]"}, want: "cycle detected"},
		"base cycle":              {files: map[string]string{"kustomization.yaml": "resources: [a]", "a/kustomization.yaml": "resources: [../b]", "b/kustomization.yaml": "resources: [../a]"}, want: "cycle detected"},
		"component cycle":         {files: map[string]string{"kustomization.yaml": "components: [c]", "c/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\ncomponents: [.]"}, want: "cycle detected"},
		"broken YAML":             {files: map[string]string{"bad.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: [}\n"}, want: "bad.yaml"},
		"no kind":                 {files: map[string]string{"bad.yaml": "apiVersion: v1\nmetadata: {name: x}\n"}, want: "bad.yaml"},
		"alias bomb":              {files: map[string]string{"bomb.yaml": aliases()}, want: "bomb.yaml: its YAML aliases expand to too much"},
		"exponential bases":       {files: exponential(24), want: "reads files more than"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			limits := DefaultLimits()
			limits.Reads = 2000
			root := files(t, c.files)
			_, err := Build(context.Background(), Request{Root: root, Spec: &c.spec, Limits: limits})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error = %v, want %q", err, c.want)
			}
			if strings.Contains(err.Error(), root) || strings.Contains(err.Error(), mount) {
				t.Errorf("error shows where the artifact is: %v", err)
			}
		})
	}
}

func aliases() string {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\na0: &a0 [x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 9; i++ {
		p, n := string(rune('0'+i-1)), string(rune('0'+i))
		b.WriteString("a" + n + ": &a" + n + " [" + strings.TrimSuffix(strings.Repeat("*a"+p+",", 9), ",") + "]\n")
	}
	return b.String()
}

// exponential has n levels that each use the next one twice.
func exponential(n int) map[string]string {
	out := map[string]string{}
	level := func(i int) string { return "l" + string(rune('a'+i)) }
	for i := range n {
		for _, side := range []string{"x", "y"} {
			out[level(i)+side+"/kustomization.yaml"] = "namePrefix: " + side + "-\nresources: [../" + level(i+1) + "x, ../" + level(i+1) + "y]\n"
		}
	}
	for _, side := range []string{"x", "y"} {
		out[level(n)+side+"/kustomization.yaml"] = "resources: [c.yaml]\n"
		out[level(n)+side+"/c.yaml"] = configMap(side)
	}
	out["kustomization.yaml"] = "resources: [lax, lay]\n"
	return out
}

func TestBuildStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Build(ctx, Request{Root: files(t, map[string]string{"a.yaml": configMap("a")}), Spec: &kustomizev1.KustomizationSpec{}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error = %v, want canceled", err)
	}
}

// TestParallelBuilds mixes builds with and without a schema of their own: no
// build may see the schema of another (attack A32).
func TestParallelBuilds(t *testing.T) {
	resource := "apiVersion: my.io/v1\nkind: Mine\nmetadata: {name: m}\nspec: {items: [{name: a, v: 1}, {name: b, v: 1}]}\n"
	patch := "patches: [{patch: '{apiVersion: my.io/v1, kind: Mine, metadata: {name: m}, spec: {items: [{name: a, v: 2}]}}'}]\n"
	with := files(t, map[string]string{"kustomization.yaml": "resources: [r.yaml]\nopenapi: {path: schema.json}\n" + patch, "r.yaml": resource, "schema.json": mineSchema})
	without := files(t, map[string]string{"kustomization.yaml": "resources: [r.yaml]\n" + patch, "r.yaml": resource})
	var wg sync.WaitGroup
	for range 8 {
		for root, want := range map[string]int{with: 2, without: 1} {
			wg.Go(func() {
				r, err := Build(context.Background(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{}})
				if err != nil {
					t.Error(err)
					return
				}
				items, _, _ := unstructured.NestedSlice(r.Objects[0].Object, "spec", "items")
				if len(items) != want {
					t.Errorf("%d items, want %d", len(items), want)
				}
			})
		}
	}
	wg.Wait()
}

func TestRecord(t *testing.T) {
	content := map[string]string{
		"app/kustomization.yaml": "resources: [x.yaml, ../base]", "app/x.yaml": configMap("x"),
		"base/kustomization.yaml": "resources: [y.yaml]", "base/y.yaml": configMap("y"), "base/unused.yaml": configMap("u"),
		"plain/a.yaml": configMap("a"), "plain/notes.txt": "n",
	}
	cases := map[string]struct {
		why, path, name, body string
		want                  bool
	}{
		"untouched":            {"same content", "app", "", "", true},
		"other app":            {"a file that was not read", "app", "plain/a.yaml", "x", true},
		"unused file":          {"a file of a base that is not listed", "app", "base/unused.yaml", "x", true},
		"own file":             {"a file of the path", "app", "app/x.yaml", configMap("z"), false},
		"base file":            {"a file of a base", "app", "base/y.yaml", configMap("z"), false},
		"second kustomization": {"a file that was looked for and missing", "app", "app/kustomization.yml", "resources: []", false},
		"new plain file":       {"a plain directory gained a file", "plain", "plain/b.yaml", configMap("b"), false},
		"plain to kustomize":   {"a plain directory gained a kustomization", "plain", "plain/kustomization.yaml", "resources: []", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r, err := Build(context.Background(), Request{Root: files(t, content), Spec: &kustomizev1.KustomizationSpec{Path: c.path}})
			if err != nil {
				t.Fatal(err)
			}
			next := files(t, content)
			if c.name != "" {
				write(t, next, c.name, c.body)
			}
			if got := r.Read.Same(next); got != c.want {
				t.Errorf("%s: same = %v, want %v; record %v", c.why, got, c.want, r.Read)
			}
		})
	}
	if (Record{}).Same(t.TempDir()) {
		t.Error("no record is the same as nothing")
	}
}

func TestBuildIsDeterministic(t *testing.T) {
	root := files(t, map[string]string{"c.yaml": configMap("c"), "a.yaml": configMap("a"), "d/b.yaml": configMap("b")})
	first, err := Build(context.Background(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{}})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		again, err := Build(context.Background(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{}})
		if err != nil {
			t.Fatal(err)
		}
		if again.Digest != first.Digest {
			t.Fatalf("digest %s, then %s", first.Digest, again.Digest)
		}
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

func BenchmarkSame(b *testing.B) {
	root := files(b, map[string]string{"apps/one/kustomization.yaml": "resources: [a.yaml, b.yaml, c.yaml, d.yaml, e.yaml]",
		"apps/one/a.yaml": configMap("a"), "apps/one/b.yaml": configMap("b"), "apps/one/c.yaml": configMap("c"), "apps/one/d.yaml": configMap("d"), "apps/one/e.yaml": configMap("e")})
	r, err := Build(context.Background(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{Path: "apps/one"}})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if !r.Read.Same(root) {
			b.Fatal("not the same")
		}
	}
}

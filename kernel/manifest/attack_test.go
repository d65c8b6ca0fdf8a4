package manifest

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxkustomize "github.com/fluxcd/pkg/apis/kustomize"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// attack is an artifact that must be refused with these words.
type attack struct {
	files map[string]string
	spec  kustomizev1.KustomizationSpec
	want  string
}

// refuse builds every attack: it is refused, in a time that bounds what it
// costs, and the refusal tells neither where the artifact is nor a secret.
func refuse(t *testing.T, attacks map[string]attack) {
	t.Helper()
	for name, c := range attacks {
		t.Run(name, func(t *testing.T) {
			limits := DefaultLimits()
			limits.Reads, limits.Objects, limits.Rendered = 2000, 2000, 4<<20
			root := files(t, c.files)
			vars, err := NewVariables(c.spec.PostBuild, false)
			if err != nil {
				t.Fatal(err)
			}
			for _, in := range []Request{{Root: root}, {Files: inMemory(c.files)}} {
				if in.Root == "" && in.Files == nil {
					continue // links are for a disk
				}
				in.Spec, in.Limits, in.Variables = &c.spec, limits, vars
				start := time.Now()
				_, err = Build(context.Background(), in)
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("error = %.300v, want %q", err, c.want)
				}
				if took := time.Since(start); took > 20*time.Second {
					t.Errorf("took %v", took)
				}
				for _, secret := range []string{root, mount, "hunter22"} {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("error shows %q: %.300v", secret, err)
					}
				}
			}
		})
	}
}

// inMemory is an artifact in no directory; nil for one with links.
func inMemory(content map[string]string) fs.FS {
	out := fstest.MapFS{}
	for name, body := range content {
		if strings.HasPrefix(body, "-> ") {
			return nil
		}
		out[name] = &fstest.MapFile{Data: []byte(body), Mode: 0o644}
	}
	return out
}

func TestA01RemoteBases(t *testing.T) {
	refuse(t, map[string]attack{
		"https base":       {files: map[string]string{"kustomization.yaml": "resources: ['https://user:pw@example.invalid/x.yaml']"}, want: `resources: remote base "https://example.invalid/x.yaml" is not allowed`},
		"metadata service": {files: map[string]string{"kustomization.yaml": "resources: ['HTTP://169.254.169.254/latest']"}, want: "is not allowed"},
		"git base":         {files: map[string]string{"kustomization.yaml": "resources: ['git@example.invalid:org/repo.git//x']"}, want: "is not allowed"},
		"github shorthand": {files: map[string]string{"kustomization.yaml": "bases: ['github.com/org/repo//x']"}, want: "is not allowed"},
		"remote component": {spec: kustomizev1.KustomizationSpec{Components: []string{"https://example.invalid/c"}}, want: "must be local and relative"},
		"cluster IP":       {files: map[string]string{"kustomization.yaml": "resources: ['http://10.96.0.1:443/api']"}, want: "is not allowed"},
		"ssh":              {files: map[string]string{"kustomization.yaml": "resources: ['ssh://git@example.invalid/repo']"}, want: "is not allowed"},
		"file URL":         {files: map[string]string{"kustomization.yaml": "resources: ['file:///etc/passwd']"}, want: "is not allowed"},
		"nested":           {files: map[string]string{"kustomization.yaml": "resources: [b]", "b/kustomization.yaml": "components: ['https://example.invalid/c']"}, want: "components: remote base"},
		"by alias":         {files: map[string]string{"kustomization.yaml": "namePrefix: &x https://example.invalid/a\nresources: [*x]\n"}, want: "is not allowed"},
	})
}

// TestA01NothingIsAsked listens where a remote base would be fetched from.
func TestA01NothingIsAsked(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("asked for %s", r.URL)
		w.WriteHeader(http.StatusNotFound)
	}))
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	attacks := map[string]attack{}
	for field, text := range map[string]string{
		"resources": "resources: ['URL']", "bases": "bases: ['URL']", "components": "components: ['URL']", "crds": "resources: [x.yaml]\ncrds: ['URL']",
		"openapi": "resources: [x.yaml]\nopenapi: {path: 'URL'}", "patches": "resources: [x.yaml]\npatches: [{path: 'URL'}]",
		"generator": "configMapGenerator: [{name: g, files: ['k=URL']}]", "configurations": "resources: [x.yaml]\nconfigurations: ['URL']",
		"transformers": "resources: [x.yaml]\ntransformers: ['URL']", "generators": "resources: [x.yaml]\ngenerators: ['URL']",
		"validators": "resources: [x.yaml]\nvalidators: ['URL']", "replacements": "resources: [x.yaml]\nreplacements: [{path: 'URL'}]",
	} {
		attacks[field] = attack{want: "remote base", files: map[string]string{
			"x.yaml": configMap("x"), "kustomization.yaml": strings.ReplaceAll(text, "URL", "http://127.0.0.1:"+port+"/x.yaml")}}
	}
	refuse(t, attacks)
}

// TestRemoteBases is what --no-remote-bases=false lets through: single files.
func TestRemoteBases(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, configMap("fetched")) }))
	defer server.Close()
	root := files(t, map[string]string{"kustomization.yaml": "resources: [" + server.URL + "/x.yaml]\n"})
	r, err := Build(context.Background(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{}, RemoteBases: true})
	if err != nil || len(r.Objects) != 1 || r.Objects[0].GetName() != "fetched" {
		t.Fatalf("%v, %v", r, err)
	}
	if r.Read.Same(root, nil) || r.Read.Inputs != "" {
		t.Error("what was fetched is taken as unchanged for ever")
	}
	for _, base := range []string{"https://github.com/org/repo//x?ref=v1", "https://example.invalid/org/repo.git", "git@example.invalid:org/repo.git", "ssh://git@example.invalid/r", "github.com/org/repo", "https://example.invalid/org/repo"} {
		root := files(t, map[string]string{"kustomization.yaml": "resources: ['" + base + "']\n"})
		_, err := Build(context.Background(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{}, RemoteBases: true})
		if err == nil || !strings.Contains(err.Error(), "is a Git repository, which a build does not fetch") {
			t.Errorf("%s: %v", base, err)
		}
	}
}

func TestA02RemoteFiles(t *testing.T) {
	refuse(t, map[string]attack{
		"remote crds":             {files: map[string]string{"kustomization.yaml": "resources: [x.yaml]\ncrds: ['http://example.invalid/c.json']", "x.yaml": configMap("x")}, want: "crds: remote base"},
		"remote openapi":          {files: map[string]string{"kustomization.yaml": "resources: [x.yaml]\nopenapi: {path: 'http://example.invalid/c.json'}", "x.yaml": configMap("x")}, want: "path: remote base"},
		"remote env":              {files: map[string]string{"kustomization.yaml": "configMapGenerator: [{name: g, envs: ['http://example.invalid/e']}]"}, want: "envs: remote base"},
		"remote in plugin":        {files: map[string]string{"kustomization.yaml": "resources: [x.yaml]\ntransformers: [t.yaml]", "x.yaml": configMap("x"), "t.yaml": "apiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: t}\npath: http://example.invalid/p\n"}, want: "path: remote base"},
		"remote in inline plugin": {files: map[string]string{"kustomization.yaml": "resources: [x.yaml]\ntransformers:\n- |-\n  apiVersion: builtin\n  kind: PatchTransformer\n  metadata: {name: t}\n  path: http://example.invalid/p\n", "x.yaml": configMap("x")}, want: "path: remote base"},
	})
}

func TestA30OutsideTheArtifact(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret.yaml")
	if err := os.WriteFile(outside, []byte(configMap("hunter22")), 0o600); err != nil {
		t.Fatal(err)
	}
	refuse(t, map[string]attack{
		"missing path":        {spec: kustomizev1.KustomizationSpec{Path: "./none"}, want: `path not found in the artifact: "./none"`},
		"path outside":        {spec: kustomizev1.KustomizationSpec{Path: "../.."}, want: "path not found in the artifact"},
		"parent resource":     {files: map[string]string{"kustomization.yaml": "resources: [../../etc]"}, want: "outside of the artifact"},
		"absolute file":       {files: map[string]string{"kustomization.yaml": "resources: [" + outside + "]"}, want: "outside of the artifact"},
		"generator file":      {files: map[string]string{"kustomization.yaml": "configMapGenerator: [{name: g, files: [k=../../../etc/passwd]}]"}, want: "outside of the artifact"},
		"link to a file":      {files: map[string]string{"kustomization.yaml": "resources: [x.yaml]", "x.yaml": "-> " + outside}, want: "outside of the artifact"},
		"link to a directory": {files: map[string]string{"kustomization.yaml": "resources: [d]", "d": "-> /etc"}, want: "outside of the artifact"},
		"helm charts":         {files: map[string]string{"kustomization.yaml": "helmCharts: [{name: c, repo: 'https://example.invalid'}]"}, want: "use a HelmRelease"},
		"exec plugin":         {files: map[string]string{"kustomization.yaml": "resources: [x.yaml]\ngenerators: [g.yaml]", "x.yaml": configMap("x"), "g.yaml": "apiVersion: evil/v1\nkind: Exec\nmetadata: {name: e}\n"}, want: "external plugins disabled"},
		"function plugin":     {files: map[string]string{"kustomization.yaml": "resources: [x.yaml]\ntransformers: [g.yaml]", "x.yaml": configMap("x"), "g.yaml": "apiVersion: evil/v1\nkind: Fn\nmetadata: {name: e, annotations: {config.kubernetes.io/function: 'exec: {path: /bin/sh}'}}\n"}, want: "external plugins disabled"},
		"environment":         {files: map[string]string{"kustomization.yaml": "configMapGenerator: [{name: g, envs: [e.env]}]", "e.env": "A=1\nHOME\n"}, want: "e.env: line 2: a variable without a value"},
		"secret generator":    {files: map[string]string{"kustomization.yaml": "secretGenerator: [{name: g, envs: [../../../../etc/passwd]}]"}, want: "outside of the artifact"},
		"patch":               {files: map[string]string{"kustomization.yaml": "resources: [x.yaml]\npatches: [{path: ../../x.yaml}]", "x.yaml": configMap("x")}, want: "outside of the artifact"},
		"component":           {spec: kustomizev1.KustomizationSpec{Components: []string{"../../.."}}, files: map[string]string{"x.yaml": configMap("x")}, want: "outside of the artifact"},
		"link by link":        {files: map[string]string{"kustomization.yaml": "resources: [a/x.yaml]", "a": "-> b", "b": "-> ../.."}, want: "outside of the artifact"},
		"device":              {files: map[string]string{"kustomization.yaml": "configMapGenerator: [{name: g, files: [k=dev]}]", "dev": "-> /dev/zero"}, want: "outside of the artifact"},
	})
}

func TestA31Cycles(t *testing.T) {
	refuse(t, map[string]attack{
		"self base":         {files: map[string]string{"kustomization.yaml": "resources: [.]"}, want: "cycle detected"},
		"base cycle":        {files: map[string]string{"kustomization.yaml": "resources: [a]", "a/kustomization.yaml": "resources: [../b]", "b/kustomization.yaml": "resources: [../a]"}, want: "cycle detected"},
		"component cycle":   {files: map[string]string{"kustomization.yaml": "components: [c]", "c/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\ncomponents: [.]"}, want: "cycle detected"},
		"exponential bases": {files: exponential(24), want: "reads files more than"},
		"through a link":    {files: map[string]string{"kustomization.yaml": "resources: [a]", "a/kustomization.yaml": "resources: [back]", "a/back": "-> .."}, want: "cycle detected"},
		"links only":        {files: map[string]string{"kustomization.yaml": "resources: [a]", "a": "-> b", "b": "-> a"}, want: "a"},
	})
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

// TestA32ParallelBuilds mixes builds with schemas of their own, which clash, and
// without: no build may see the schema of another.
func TestA32ParallelBuilds(t *testing.T) {
	resource := "apiVersion: my.io/v1\nkind: Mine\nmetadata: {name: m}\nspec: {items: [{name: a, v: 1}, {name: b, v: 1}]}\n"
	patch := "patches: [{patch: '{apiVersion: my.io/v1, kind: Mine, metadata: {name: m}, spec: {items: [{name: a, v: 2}]}}'}]\n"
	with := files(t, map[string]string{"kustomization.yaml": "resources: [r.yaml]\nopenapi: {path: schema.json}\n" + patch, "r.yaml": resource, "schema.json": mineSchema})
	clashing := files(t, map[string]string{"kustomization.yaml": "resources: [r.yaml]\nopenapi: {path: schema.json}\n" + patch, "r.yaml": resource,
		"schema.json": strings.Replace(mineSchema, `"x-kubernetes-patch-strategy": "merge"`, `"x-kubernetes-patch-strategy": "replace"`, 1)})
	without := files(t, map[string]string{"kustomization.yaml": "resources: [r.yaml]\n" + patch, "r.yaml": resource})
	items := func(root string) string {
		r, err := Build(context.Background(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{}})
		if err != nil {
			return err.Error()
		}
		list, _, _ := unstructured.NestedSlice(r.Objects[0].Object, "spec", "items")
		return fmt.Sprint(list)
	}
	alone := map[string]string{}
	for _, root := range []string{without, with, clashing} {
		alone[root] = items(root)
	}
	if alone[with] == alone[without] || alone[with] == alone[clashing] || strings.Count(alone[with], "map") != 2 {
		t.Fatalf("the schemas make no difference: %v", alone)
	}
	var wg sync.WaitGroup
	for range 8 {
		for root, want := range alone {
			wg.Go(func() {
				if got := items(root); got != want {
					t.Errorf("%s beside others, %s alone", got, want)
				}
			})
		}
	}
	wg.Wait()
}

func TestA35HugeOutput(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	many := func(n int, item func(int) string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(item(i))
		}
		return b.String()
	}
	generators := "configMapGenerator:\n" + many(100, func(i int) string { return fmt.Sprintf("- {name: g%d, files: [k=big.txt]}\n", i) })
	patched := "resources: [all.yaml]\npatches:\n- {target: {kind: ConfigMap}, patch: '[{op: add, path: /data/big, value: " + big + "}]'}\n"
	objects := func(n int) string {
		return many(n, func(i int) string { return "---\n" + configMap(fmt.Sprintf("c%d", i)) })
	}
	list := "apiVersion: v1\nkind: List\nitems:\n" + many(3000, func(i int) string {
		return fmt.Sprintf("- {apiVersion: v1, kind: ConfigMap, metadata: {name: c%d}}\n", i)
	})
	prefixed := "resources: [all.yaml]\nnamePrefix: p-\n"
	with := func(value string) kustomizev1.KustomizationSpec {
		return kustomizev1.KustomizationSpec{PostBuild: &kustomizev1.PostBuild{Substitute: map[string]string{"v": value}}}
	}
	refuse(t, map[string]attack{
		"one file":           {files: map[string]string{"x.yaml": configMap("x") + "  big: " + strings.Repeat(big, 5)}, want: "more than the limit of 4194304 bytes"},
		"many of one file":   {files: map[string]string{"kustomization.yaml": generators, "big.txt": big}, want: "generates from more than the limit of 4194304 bytes"},
		"many objects":       {files: map[string]string{"x.yaml": objects(3000)}, want: "reads more than 2000 documents"},
		"many transformed":   {files: map[string]string{"kustomization.yaml": prefixed, "all.yaml": objects(3000)}, want: "transforms more than 2000 objects"},
		"a long plain list":  {files: map[string]string{"x.yaml": list}, want: "gives 3000 objects, more than the limit of 2000"},
		"a long list":        {files: map[string]string{"kustomization.yaml": prefixed, "all.yaml": list}, want: "transforms more than 2000 objects"},
		"a patch of a MB":    {files: map[string]string{"kustomization.yaml": patched, "all.yaml": objects(1900)}, want: "applies patches of"},
		"substitution":       {files: map[string]string{"x.yaml": configMap("x") + "  a: ${v//x/" + strings.Repeat("y", 1000) + "}\n"}, spec: with(big), want: "more than the limit of the build"},
		"pattern":            {files: map[string]string{"x.yaml": configMap("x") + "  a: ${v##*y}\n"}, spec: with(big), want: "would take too long"},
		"many expressions":   {files: map[string]string{"x.yaml": configMap("x") + "  a: \"" + strings.Repeat("${v}", 60_000) + "\"\n"}, spec: with("1"), want: "60000 expressions"},
		"nested expressions": {files: map[string]string{"x.yaml": configMap("x") + "  a: \"" + strings.Repeat("${v:-", 60_000) + "\"\n"}, spec: with("1"), want: "60000 expressions"},
	})
}

func TestA23YAML(t *testing.T) {
	refuse(t, map[string]attack{
		"broken YAML":       {files: map[string]string{"bad.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: [}\n"}, want: "bad.yaml"},
		"no kind":           {files: map[string]string{"bad.yaml": "apiVersion: v1\nmetadata: {name: x}\n"}, want: "bad.yaml"},
		"alias bomb":        {files: map[string]string{"bomb.yaml": aliases()}, want: "bomb.yaml: its YAML aliases expand to too much"},
		"100k documents":    {files: map[string]string{"x.yaml": strings.Repeat("---\n"+configMap("x"), 100_000)}, want: "more than 2000 documents"},
		"deep flow":         {files: map[string]string{"x.yaml": configMap("x") + "  d: " + strings.Repeat("[", 100_000) + "\n"}, want: "x.yaml"},
		"deep JSON":         {files: map[string]string{"kustomization.yaml": "resources: [x.json]", "x.json": strings.Repeat(`{"a":`, 100_000)}, want: "x.json"},
		"duplicate keys":    {files: map[string]string{"x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\nmetadata: {name: b}\n"}, want: "already defined"},
		"control character": {files: map[string]string{"x.yaml": configMap("x") + "  a: \x07\n"}, want: "control characters are not allowed"},
		"NUL":               {files: map[string]string{"x.yaml": configMap("x") + "  a: \x00\n"}, want: "control characters are not allowed"},
		"invalid UTF-8":     {files: map[string]string{"x.yaml": configMap("x") + "  a: \xff\n"}, want: "x.yaml"},
		"map as a key":      {files: map[string]string{"x.yaml": configMap("x") + "  {a: b}: c\n"}, want: "invalid map key"},
		"unknown anchor":    {files: map[string]string{"x.yaml": configMap("x") + "  a: *none\n"}, want: "x.yaml"},
		"self alias":        {files: map[string]string{"x.yaml": configMap("x") + "  a: &a [*a]\n"}, want: "x.yaml"},
		"alias and key":     {files: map[string]string{"x.yaml": configMap("x") + "  b: 1\n  b: 2\n---\n" + configMap("y") + "  a: &a [*a]\n"}, want: "expand to too much"},
		"hidden alias":      {files: map[string]string{"x.yaml": configMap("x") + "  b: 1\n  b: 2\n  a: !!seq &a\n  - *a\n"}, want: "expand to too much"},
		"UTF-16 alias":      {files: map[string]string{"x.yaml": utf16(configMap("x") + "  a: &a [*a]\n")}, want: "expand to too much"},
		"alias in a patch":  {files: map[string]string{"x.yaml": configMap("x"), "kustomization.yaml": "resources: [x.yaml]\npatches:\n- patch: |\n    apiVersion: v1\n    kind: ConfigMap\n    metadata: {name: x}\n    data: {a: &a [*a]}\n"}, want: "expand to too much"},
		"alias in the spec": {files: map[string]string{"x.yaml": configMap("x")}, spec: kustomizev1.KustomizationSpec{Patches: []fluxkustomize.Patch{{Patch: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: &a [*a]}\n"}}}, want: "expand to too much"},
		"alias of a schema": {files: map[string]string{"x.yaml": configMap("x"), "kustomization.yaml": "resources: [x.yaml]\nnamePrefix: p-\nopenapi: {path: s.yaml}\n", "s.yaml": "definitions: &a {x: *a}\n"}, want: "expand to too much"},
		"kustomization":     {files: map[string]string{"kustomization.yaml": "resources: &a [*a]\n"}, want: "kustomization.yaml"},
		"no mapping":        {files: map[string]string{"kustomization.yaml": "- a\n- b\n"}, want: "kustomization.yaml"},
	})
}

func utf16(s string) string {
	out := []byte{0xff, 0xfe}
	for _, r := range s {
		out = append(out, byte(r), byte(r>>8))
	}
	return string(out)
}

// TestA23SchemaOfItself: a schema that refers to itself ends the build, not the
// process.
func TestA23SchemaOfItself(t *testing.T) {
	schema := `{"definitions": {"io.my.v1.Mine": {"$ref": "#/definitions/io.my.v1.Mine", "x-kubernetes-group-version-kind": [{"group": "my.io", "kind": "Mine", "version": "v1"}]},
"a": {"$ref": "#/definitions/b"}, "b": {"$ref": "#/definitions/a"}}}`
	root := files(t, map[string]string{
		"kustomization.yaml": "resources: [r.yaml]\nopenapi: {path: schema.json}\npatches: [{patch: '{apiVersion: my.io/v1, kind: Mine, metadata: {name: m}, spec: {items: [{name: a, v: 2}]}}'}]\n",
		"r.yaml":             "apiVersion: my.io/v1\nkind: Mine\nmetadata: {name: m}\nspec: {items: [{name: a, v: 1}]}\n", "schema.json": schema,
	})
	if _, err := Build(context.Background(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{}}); err != nil {
		t.Logf("refused: %v", err)
	}
	r, err := Build(context.Background(), Request{Root: files(t, map[string]string{"x.yaml": configMap("x")}), Spec: &kustomizev1.KustomizationSpec{NamePrefix: "p-"}})
	if err != nil || len(r.Objects) != 1 {
		t.Errorf("the next build: %v", err)
	}
}

// TestA23Accepted is what looks odd and is YAML: it is read as kustomize does.
func TestA23Accepted(t *testing.T) {
	for name, text := range map[string]string{
		"BOM":         "\ufeff" + configMap("x"),
		"binary":      configMap("x") + "  b: !!binary aGVsbG8=\n",
		"number keys": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {1: a, true: b}\n",
		"CRLF":        strings.ReplaceAll(configMap("x"), "\n", "\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			root := files(t, map[string]string{"kustomization.yaml": "resources: [x.yaml]", "x.yaml": text})
			compare(t, root, "")
		})
	}
}

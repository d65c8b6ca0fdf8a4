package manifest

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
)

// TestA01NoWayAround listens where a remote base would be fetched from, and
// writes it in the ways in which kustomize understands more than it says.
func TestA01NoWayAround(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("asked for %s", r.URL)
		w.WriteHeader(http.StatusNotFound)
	}))
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	plugin := func(config string) map[string]string {
		return map[string]string{"kustomization.yaml": "resources: [x.yaml]\ntransformers: [t.yaml]\n", "t.yaml": config}
	}
	attacks := map[string]attack{}
	for name, text := range map[string]map[string]string{
		"case":                          {"kustomization.yaml": "Resources: ['URL']"},
		"folded letter":                 {"kustomization.yaml": "reſourceſ: ['URL']"},
		"bases in capitals":             {"kustomization.yaml": "BASES: ['URL']"},
		"case of a patch":               {"kustomization.yaml": "resources: [x.yaml]\npatches: [{Path: 'URL'}]"},
		"case of a file":                {"kustomization.yaml": "configMapGenerator: [{name: g, Files: ['k=URL']}]"},
		"duplicate key":                 {"kustomization.yaml": "namePrefix: a\nnamePrefix: b\nresources: ['URL']"},
		"duplicate list":                {"kustomization.yaml": "resources: [x.yaml]\nresources: ['URL']"},
		"nested duplicate":              {"kustomization.yaml": "resources: ['URL']\ncommonLabels: {a: b, a: c}"},
		"binary":                        {"kustomization.yaml": "!!binary cmVzb3VyY2Vz : ['URL']"},
		"line break":                    {"kustomization.yaml": "resources: [\"http://127.0.0.1:PORT/o/x.git\\n\"]"},
		"component with a line break":   {"kustomization.yaml": "resources: [x.yaml]\ncomponents: [\"git::http://127.0.0.1:PORT/o/x.git\\n//d\"]"},
		"transformer with a line break": {"kustomization.yaml": "resources: [x.yaml]\ntransformers: [\"http://127.0.0.1:PORT/o/x.git\\n\"]"},
		"merge":                         {"kustomization.yaml": "<<: {resources: ['URL']}"},
		"plugin in flow":                plugin("{apiVersion: builtin, kind: PatchTransformer, metadata: {name: t}, path: 'URL'}"),
		"plugin in JSON":                plugin(`{"apiVersion":"builtin","kind":"PatchTransformer","metadata":{"name":"t"},"path":"URL"}`),
		"plugin escaped":                plugin("apiVersion: \"built\\u0069n\"\nkind: PatchTransformer\nmetadata: {name: t}\npath: 'URL'\n"),
		"plugin with number":            plugin("apiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: t}\npath: 'URL'\n1: x\n"),
		"plugin inline":                 {"kustomization.yaml": "resources: [x.yaml]\ntransformers: ['{apiVersion: builtin, kind: PatchTransformer, metadata: {name: t}, path: \"URL\"}']\n"},
		"plugin inline, escaped":        {"kustomization.yaml": "resources: [x.yaml]\ntransformers: ['{apiVersion: builtin, kind: PatchTransformer, metadata: {name: t}, path: \"http:\\u002f\\u002f127.0.0.1:PORT/x\"}']\n"},
		"plugin in an odd directory": {"kustomization.yaml": "resources: [x.yaml]\ntransformers: [\"d\\n\"]\n", "d\n/kustomization.yaml": "resources: [t.yaml]\n",
			"d\n/t.yaml": "{apiVersion: builtin, kind: PatchTransformer, metadata: {name: t}, path: 'URL'}"},
		"plugin by a patch": {"kustomization.yaml": "resources: [x.yaml]\ntransformers: [d]\n",
			"d/kustomization.yaml": "resources: [t.yaml]\npatches: [{target: {kind: PatchTransformer}, patch: '[{op: replace, path: /apiVersion, value: builtin}]'}]\n",
			"d/t.yaml":             "apiVersion: x/v1\nkind: PatchTransformer\nmetadata: {name: t}\npath: 'URL'\n"},
		"plugin in a directory": {"kustomization.yaml": "resources: [x.yaml]\ntransformers: [d]\n", "d/kustomization.yaml": "resources: [e]\n", "d/e/kustomization.yaml": "resources: [t.yaml]\n",
			"d/e/t.yaml": "{apiVersion: builtin, kind: PatchTransformer, metadata: {name: t}, path: 'URL'}"},
		"plugin through a link": {"kustomization.yaml": "resources: [x.yaml]\ntransformers: [l]\n", "l": "-> d", "d/kustomization.yaml": "resources: [t.yaml]\n",
			"d/t.yaml": "{apiVersion: builtin, kind: PatchTransformer, metadata: {name: t}, path: 'URL'}"},
	} {
		a := attack{files: map[string]string{"x.yaml": configMap("x")}}
		below := attack{files: map[string]string{"below/x.yaml": configMap("x"), "kustomization.yaml": "resources: [below]"}}
		for file, content := range text {
			content = strings.ReplaceAll(content, "URL", "http://127.0.0.1:"+port+"/x.yaml")
			content = strings.ReplaceAll(content, "PORT", port)
			a.files[file], below.files["below/"+file] = content, content
		}
		a.want = "is not allowed"
		if name == "plugin by a patch" {
			a.want = "may list resources only"
		}
		below.want = a.want
		attacks[name], attacks[name+", below"] = a, below
	}
	refuse(t, attacks)
}

// TestA01AbsolutePlugin names a plugin configuration by where builds see it.
func TestA01AbsolutePlugin(t *testing.T) {
	refuse(t, map[string]attack{"absolute": {want: "is not allowed", files: map[string]string{
		"x.yaml": configMap("x"), "kustomization.yaml": "resources: [x.yaml]\ntransformers: [" + mount + "/t.yaml]\n",
		"t.yaml": "{apiVersion: builtin, kind: PatchTransformer, metadata: {name: t}, path: 'http://127.0.0.1:1/x.yaml'}"}}})
}

// TestA32SchemaByAnyName shows that a schema of one's own is seen as one however
// it is written: beside others it would be theirs too.
func TestA32SchemaByAnyName(t *testing.T) {
	for _, key := range []string{"openapi", "OpenAPI", "OPENAPI", "namePrefix: a\nnamePrefix: b\nOpenapi"} {
		root := files(t, map[string]string{"kustomization.yaml": "resources: [below]", "below/x.yaml": configMap("x"), "below/schema.json": mineSchema,
			"below/kustomization.yaml": "resources: [x.yaml]\n" + key + ": {path: schema.json}\n"})
		fs, err := openSandbox(t.Context(), Request{Root: root, Limits: DefaultLimits()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fs.ReadFile(mount + "/below/kustomization.yaml"); !fs.ownSchema || !errors.Is(err, errOwnSchema) {
			t.Errorf("%q: %v", key, err)
		}
		fs.Close()
		if _, err := Build(t.Context(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{}}); err != nil {
			t.Errorf("%q: %v", key, err)
		}
	}
}

// TestInlinePlugin shows that an inline configuration may hold what looks like
// an address or a path that leads out.
func TestInlinePlugin(t *testing.T) {
	root := files(t, map[string]string{"x.yaml": configMap("x"), "kustomization.yaml": "resources: [x.yaml]\ntransformers:\n- |-\n  apiVersion: builtin\n  kind: AnnotationsTransformer\n  metadata: {name: t}\n" +
		"  annotations: {see: 'https://example.invalid/../../../../../x'}\n  fieldSpecs: [{path: metadata/annotations, create: true}]\n"})
	r, err := Build(t.Context(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{}})
	if err != nil || len(r.Objects) != 1 || r.Objects[0].GetAnnotations()["see"] == "" {
		t.Fatalf("%v, %v", r, err)
	}
}

// TestPluginDirectories shows that directories of plugin configurations work.
func TestPluginDirectories(t *testing.T) {
	root := files(t, map[string]string{"kustomization.yaml": "resources: [x.yaml]\ntransformers: [d]\n", "x.yaml": configMap("x"), "d/kustomization.yaml": "resources: [e, t.yaml]\n",
		"d/t.yaml":               "{apiVersion: builtin, kind: PrefixTransformer, metadata: {name: t}, prefix: a-, fieldSpecs: [{path: metadata/name}]}",
		"d/e/kustomization.yaml": "resources: [t.yaml]\n", "d/e/t.yaml": "{apiVersion: builtin, kind: SuffixTransformer, metadata: {name: s}, suffix: -z, fieldSpecs: [{path: metadata/name}]}"})
	r, err := Build(t.Context(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{}})
	if err != nil || len(r.Objects) != 1 || r.Objects[0].GetName() != "a-x-z" {
		t.Fatalf("%v, %v", r, err)
	}
}

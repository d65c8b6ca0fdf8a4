package manifest

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// oracle builds with kustomize alone, on the files themselves.
func oracle(dir string) ([]string, error) {
	var out []string
	schema := func(run func() error) error { return withSharedSchema(context.Background(), run) }
	if data, err := os.ReadFile(filepath.Join(dir, konfig.DefaultKustomizationFileName())); err != nil || strings.Contains(string(data), "openapi:") {
		schema = func(run func() error) error { return withOwnSchema(context.Background(), run) }
	}
	err := schema(func() error {
		k := krusty.MakeKustomizer(&krusty.Options{LoadRestrictions: types.LoadRestrictionsNone, PluginConfig: types.DisabledPluginConfig()})
		m, err := k.Run(filesys.MakeFsOnDisk(), dir)
		if err != nil {
			return err
		}
		for _, r := range m.Resources() {
			text, err := r.AsYAML()
			if err != nil {
				return err
			}
			out = append(out, string(text))
		}
		return nil
	})
	return out, err
}

func asYAML(t testing.TB, objects []*unstructured.Unstructured) []string {
	t.Helper()
	var out []string
	for _, u := range objects {
		text, err := yaml.Marshal(u.Object)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(text))
	}
	return out
}

// TestDifferential: every build gives what kustomize alone gives, object by
// object, in the same order.
func TestDifferential(t *testing.T) {
	for name, content := range corpus() {
		t.Run(name, func(t *testing.T) {
			if name == "plugins" {
				content["app/t.yaml"] = "apiVersion: builtin\nkind: PrefixTransformer\nmetadata: {name: p}\nprefix: t-\nfieldSpecs: [{path: metadata/name}]\n"
			}
			root := files(t, content)
			path := ""
			if _, ok := content["app/kustomization.yaml"]; ok {
				path = "app"
			}
			compare(t, root, path)
		})
	}
}

// TestDifferentialOfTargetNamespace does the same with spec.targetNamespace over
// each of the corpus, with and without what refers to namespaces.
func TestDifferentialOfTargetNamespace(t *testing.T) {
	for name, content := range corpus() {
		if name == "plugins" || name == "BOM" { // nothing can be added to them as text
			continue
		}
		for _, bindings := range []bool{true, false} {
			t.Run(fmt.Sprint(name, bindings), func(t *testing.T) {
				if !bindings {
					for _, file := range []string{"app/rbac.yaml", "base/rbac.yaml", "app/crd.yaml", "base/crd.yaml"} {
						if _, ok := content[file]; ok {
							content[file] = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: " + strings.NewReplacer("/", "-", ".", "-").Replace(file) + "}\n"
						}
					}
				}
				root := files(t, content)
				spec := &kustomizev1.KustomizationSpec{TargetNamespace: "team"}
				file := "kustomization.yaml"
				if _, ok := content["app/kustomization.yaml"]; ok {
					spec.Path, file = "app", "app/kustomization.yaml"
				}
				r, err := Build(context.Background(), Request{Root: root, Spec: spec})
				text := content[file]
				if !strings.Contains(text, "namespace: prod\n") {
					text += "\nnamespace: team\n"
				}
				write(t, root, file, strings.ReplaceAll(text, "namespace: prod\n", "namespace: team\n"))
				want, wantErr := oracle(filepath.Join(root, spec.Path))
				if (wantErr == nil) != (err == nil) {
					t.Fatalf("error %v; kustomize alone: %v", err, wantErr)
				}
				if err != nil {
					return
				}
				if diff := cmp.Diff(want, asYAML(t, r.Objects)); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func compare(t *testing.T, root, path string) {
	t.Helper()
	want, wantErr := oracle(filepath.Join(root, path))
	r, err := Build(context.Background(), Request{Root: root, Spec: &kustomizev1.KustomizationSpec{Path: path}})
	if wantErr != nil || err != nil {
		if (wantErr == nil) != (err == nil) {
			t.Errorf("error %v; kustomize alone: %v", err, wantErr)
		}
		return
	}
	if diff := cmp.Diff(want, asYAML(t, r.Objects)); diff != "" {
		t.Error(diff)
	}
}

// TestDifferentialOfSample compares all directories of a repository of the
// world.
func TestDifferentialOfSample(t *testing.T) {
	data := os.Getenv("HEADWATER_TESTDATA")
	if data == "" {
		data = filepath.Join("..", "..", "..", "shared", "data")
	}
	root := filepath.Join(data, "repos", "gitops-flux2-kustomize-helm-mt")
	if _, err := os.Stat(root); err != nil {
		t.Skip("the sample repository is not here; set HEADWATER_TESTDATA")
	}
	n := 0
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != konfig.DefaultKustomizationFileName() {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		n++
		t.Run(rel, func(t *testing.T) { compare(t, root, rel) })
		return nil
	})
	if err != nil || n == 0 {
		t.Fatalf("%d kustomizations, %v", n, err)
	}
}

// TestDeterministic: the same bytes from many builds at once, of each of the corpus;
// fifty of some.
func TestDeterministic(t *testing.T) {
	for name, content := range corpus() {
		t.Run(name, func(t *testing.T) {
			root := files(t, content)
			spec := &kustomizev1.KustomizationSpec{}
			if _, ok := content["app/kustomization.yaml"]; ok {
				spec.Path = "app"
			}
			builds := 8
			switch name {
			case "resources", "overlay", "generators":
				builds = 50
			case "openapi": // each runs alone and parses the built-in schema again
				builds = 4
			}
			digests := make([]string, builds)
			var wg sync.WaitGroup
			for i := range digests {
				wg.Go(func() {
					r, err := Build(context.Background(), Request{Root: root, Spec: spec})
					if err != nil {
						digests[i] = err.Error()
						return
					}
					digests[i] = r.Digest
				})
			}
			wg.Wait()
			for _, d := range digests {
				if d != digests[0] {
					t.Fatalf("%s and %s", digests[0], d)
				}
			}
		})
	}
}

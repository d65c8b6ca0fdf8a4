package manifest

import (
	"context"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
)

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

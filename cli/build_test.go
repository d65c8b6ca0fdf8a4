package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree writes files below a directory of its own and gives the directory.
func tree(t *testing.T, content map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, body := range content {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const appsKustomization = `apiVersion: v1
kind: Namespace
metadata: {name: other}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: apps, namespace: team}
spec:
  path: ./elsewhere
  interval: 5m
  prune: true
  sourceRef: {kind: GitRepository, name: apps}
  targetNamespace: team
  commonMetadata: {labels: {team: a}}
  postBuild:
    substitute: {color: blue}
    substituteFrom: [{kind: ConfigMap, name: vars}]
`

func TestBuildKustomizationWithoutCluster(t *testing.T) {
	root := tree(t, map[string]string{
		".git/HEAD": "ref: refs/heads/main\n", "apps.yaml": appsKustomization,
		"base/kustomization.yaml": "resources: [c.yaml, s.yaml]\n",
		"base/c.yaml":             "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {color: '${color}', size: '${size:=10}', none: '${none}'}\n",
		"base/s.yaml":             "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: 'ENC[x]'}\nsops: {mac: 'ENC[y]'}\n",
		"apps/kustomization.yaml": "resources: [../base]\nnamePrefix: p-\n",
	})
	x := terminal{t: t, env: map[string]string{}}
	args := []string{"build", "kustomization", "apps", "--path", filepath.Join(root, "apps"), "--kustomization-file", filepath.Join(root, "apps.yaml"), "--dry-run"}
	got := x.run(args...)
	want := `---
apiVersion: v1
data:
  color: blue
  none: null
  size: 10
kind: ConfigMap
metadata:
  labels:
    team: a
  name: p-c
  namespace: team
---
apiVersion: v1
data:
  a: ENC[x]
kind: Secret
metadata:
  labels:
    team: a
  name: p-s
  namespace: team
sops:
  mac: ENC[y]
`
	if diff := cmp.Diff(want, got.out); diff != "" || got.code != 0 {
		t.Errorf("exit code %d, %s\n%s", got.code, got.err, diff)
	}
	if !strings.Contains(got.err, "the variables of ConfigMap vars are not known") {
		t.Errorf("said %q", got.err)
	}
	x.fails(1, "variable not set", append(args, "--strict-substitute")...)
	x.fails(1, "is not in --root", append(args, "--root", filepath.Join(root, "base"))...)
	x.fails(1, "outside of the artifact", append(args, "--root", filepath.Join(root, "apps"))...)
	x.fails(1, "--dry-run needs --kustomization-file", "build", "kustomization", "apps", "--path", root, "--dry-run")
	x.fails(1, "--path is missing", "build", "kustomization", "apps", "--kustomization-file", filepath.Join(root, "apps.yaml"), "--dry-run")
	x.fails(3, "holds no Kustomization none", "build", "kustomization", "none", "--path", root, "--kustomization-file", filepath.Join(root, "apps.yaml"), "--dry-run")
}

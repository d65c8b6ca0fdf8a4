package manifest

import (
	"os"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/google/go-cmp/cmp"
)

// An artifact in no directory builds as one on disk, and their records fit each
// other.
func TestFilesInNoDirectory(t *testing.T) {
	for name, content := range corpus() {
		root := files(t, content)
		spec := &kustomizev1.KustomizationSpec{}
		if info, err := os.Stat(root + "/app"); err == nil && info.IsDir() {
			spec.Path = "./app"
		}
		want, wantErr := Build(t.Context(), Request{Root: root, Spec: spec})
		got, err := Build(t.Context(), Request{Files: os.DirFS(root), Spec: spec})
		if (err == nil) != (wantErr == nil) || (err != nil && err.Error() != wantErr.Error()) {
			t.Errorf("%s: %v, on disk %v", name, err, wantErr)
		}
		if err != nil || wantErr != nil {
			continue
		}
		if diff := cmp.Diff(asYAML(t, want.Objects), asYAML(t, got.Objects)); diff != "" || got.Digest != want.Digest {
			t.Errorf("%s (-disk, +memory):\n%s", name, diff)
		}
		if want.Read.volatile {
			continue
		}
		if !want.Read.Same("", os.DirFS(root)) || !got.Read.Same(root, nil) {
			t.Errorf("%s: the records do not fit each other", name)
		}
		if err := os.WriteFile(root+"/kustomization.yaml", []byte("resources: [changed]"), 0o644); err != nil {
			t.Fatal(err)
		}
		if spec.Path == "" && got.Read.Same("", os.DirFS(root)) {
			t.Errorf("%s: a change goes unnoticed", name)
		}
	}
}

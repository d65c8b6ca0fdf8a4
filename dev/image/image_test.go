package image

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"headwater.dev/dev/registry"
)

// build makes an image of the smallest program of the repository.
func build(t *testing.T) *Image {
	t.Helper()
	root, err := FindRoot(".")
	if err != nil {
		t.Fatal(err)
	}
	img, err := Build(t.Context(), Program{Name: "pause", Package: "./dev/node/pause"}, Options{Root: root, Version: "1.2.3", Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func digest(t *testing.T, i interface{ Digest() (v1.Hash, error) }) v1.Hash {
	t.Helper()
	d, err := i.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestContent(t *testing.T) {
	img := build(t)
	one, err := img.ForPlatform("linux/arm64")
	if err != nil {
		t.Fatal(err)
	}
	cf, err := one.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if cf.Architecture != "arm64" || cf.Config.User != "65532:65532" || cf.Config.Labels["org.opencontainers.image.version"] != "1.2.3" {
		t.Errorf("configuration: %+v", cf)
	}
	if diff := cmp.Diff([]string{"/usr/local/bin/pause"}, cf.Config.Entrypoint); diff != "" {
		t.Error(diff)
	}
	rc := mutate.Extract(one)
	defer rc.Close()
	files := map[string]string{}
	for r := tar.NewReader(rc); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		head := make([]byte, 4)
		n, _ := io.ReadFull(r, head)
		files[strings.TrimSuffix(h.Name, "/")] = h.FileInfo().Mode().String() + " " + string(head[:n])
	}
	for name, want := range map[string]string{
		"usr/local/bin/pause": "-rwxr-xr-x \x7fELF", "tmp": "dtrwxrwxrwx ", "home/nonroot": "drwx------ ", "etc/passwd": "-rw-r--r-- root",
	} {
		if files[name] != want {
			t.Errorf("%s is %q, want %q", name, files[name], want)
		}
	}
}

func TestSameSourcesSameImage(t *testing.T) {
	if a, b := digest(t, build(t).Index), digest(t, build(t).Index); a != b {
		t.Errorf("two builds have digests %s and %s", a, b)
	}
}

func TestOutputs(t *testing.T) {
	img := build(t)
	dir := t.TempDir()
	for range 2 { // the second time replaces the first
		if err := img.WriteLayout(filepath.Join(dir, "oci")); err != nil {
			t.Fatal(err)
		}
	}
	index, err := layout.ImageIndexFromPath(filepath.Join(dir, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Manifests) != 1 || m.Manifests[0].Digest != digest(t, img.Index) || m.Manifests[0].Annotations[refName] != "headwater.dev/pause:1.2.3" {
		t.Errorf("layout lists %+v", m.Manifests)
	}

	file := filepath.Join(dir, "pause.tar")
	if err := img.WriteArchive(file, "linux/amd64"); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(img.Reference)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := tarball.ImageFromPath(file, &tag)
	if err != nil {
		t.Fatal(err)
	}
	cf, err := loaded.ConfigFile()
	if err != nil || cf.Architecture != "amd64" {
		t.Errorf("archive: %v, %v", cf, err)
	}
	if err := img.WriteArchive(file, "linux/s390x"); err == nil {
		t.Error("an archive was written for a platform that was not built")
	}
}

func TestPush(t *testing.T) {
	reg, err := registry.Start(registry.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	img := build(t)
	pushed, err := img.Push(t.Context(), reg.Reference("team"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(pushed, reg.Reference("team/pause@sha256:")) {
		t.Errorf("pushed as %s", pushed)
	}
	ref, err := name.ParseReference(reg.Reference("team/pause:1.2.3"))
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "arm64"}))
	if err != nil {
		t.Fatal(err)
	}
	want, err := img.ForPlatform("linux/arm64")
	if err != nil {
		t.Fatal(err)
	}
	if digest(t, pulled) != digest(t, want) {
		t.Error("the registry gives another image for linux/arm64")
	}
}

func TestBadRequests(t *testing.T) {
	ctx := t.Context()
	p := Program{Name: "pause", Package: "./dev/node/pause"}
	for what, o := range map[string]Options{
		"no version": {Root: "."}, "version with a slash": {Root: ".", Version: "a/b"}, "not linux": {Root: ".", Version: "1", Platforms: []string{"windows/amd64"}},
		"nonsense": {Root: ".", Version: "1", Platforms: []string{"x"}},
	} {
		if _, err := Build(ctx, p, o); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	cmd := NewCommand()
	cmd.SetArgs([]string{"nothing"})
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	if err := cmd.ExecuteContext(ctx); err == nil || !strings.Contains(err.Error(), "one of agent, hub") {
		t.Errorf("an unknown program: %v", err)
	}
	if _, err := FindRoot(os.TempDir()); err == nil {
		t.Error("a folder without the module was accepted")
	}
}

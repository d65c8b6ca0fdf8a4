package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const refName = "org.opencontainers.image.ref.name"

// WriteLayout adds the image to an OCI layout in a folder, which is made when missing. An image of the same name in it
// is replaced.
func (i *Image) WriteLayout(dir string) error {
	path, err := layout.FromPath(dir)
	if err != nil {
		if path, err = layout.Write(dir, empty.Index); err != nil {
			return fmt.Errorf("make OCI layout %s: %w", dir, err)
		}
	}
	err = path.ReplaceIndex(i.Index, match.Annotation(refName, i.Reference),
		layout.WithAnnotations(map[string]string{refName: i.Reference, "io.containerd.image.name": i.Reference}))
	if err != nil {
		return fmt.Errorf("write %s to OCI layout %s: %w", i.Reference, dir, err)
	}
	return nil
}

// WriteArchive writes the image for one platform as a docker-archive file, which `docker load`, `podman load` and
// `ctr images import` read.
func (i *Image) WriteArchive(file, platform string) error {
	one, err := i.ForPlatform(platform)
	if err != nil {
		return err
	}
	return WriteArchive(file, i.Reference, one)
}

// WriteArchive writes one image as a docker-archive file under a name. The file is complete or not there.
func WriteArchive(file, reference string, image v1.Image) error {
	ref, err := name.NewTag(reference)
	if err != nil {
		return fmt.Errorf("write image %s: %w", reference, err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("write image %s: %w", reference, err)
	}
	tmp := file + ".new"
	if err := tarball.WriteToFile(tmp, ref, image); err != nil {
		return fmt.Errorf("write image %s to %s: %w", reference, file, err)
	}
	if err := os.Rename(tmp, file); err != nil {
		return fmt.Errorf("write image %s: %w", reference, err)
	}
	return nil
}

// Push uploads the image for all its platforms to REGISTRY/NAME:VERSION and returns that name with its digest.
// Credentials are those of `docker login`.
func (i *Image) Push(ctx context.Context, registry string) (string, error) {
	target := strings.TrimSuffix(registry, "/") + strings.TrimPrefix(i.Reference, Repository)
	ref, err := name.ParseReference(target)
	if err != nil {
		return "", fmt.Errorf("push %s: %w", target, err)
	}
	if err := remote.WriteIndex(ref, i.Index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return "", fmt.Errorf("push %s: %w", target, err)
	}
	digest, err := i.Index.Digest()
	if err != nil {
		return "", fmt.Errorf("push %s: %w", target, err)
	}
	return ref.Context().Digest(digest.String()).String(), nil
}

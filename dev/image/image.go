// Package image builds OCI images of the programs of this repository from scratch, with the Go toolchain and nothing
// else: no container engine, no base image, no network. An image holds one static program, certificates to trust, a user
// without rights (65532) and a place for temporary files. The same sources give the same image, byte for byte.
package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	// Repository is what the names of our images begin with.
	Repository = "headwater.dev"
	// User is the numeric user and group that programs run as.
	User = "65532"

	binDir = "/usr/local/bin"
)

// Platforms are those that images are built for when nothing else is asked.
func Platforms() []string { return []string{"linux/amd64", "linux/arm64"} }

// Program is what an image is made of.
type Program struct {
	// Name is the file name of the program and the last part of the image's name: headwater.dev/NAME.
	Name string
	// Package is the Go package of the program, relative to the module's root ("./cmd/agent").
	Package string
}

// Programs are those that run in clusters.
func Programs() []Program {
	return []Program{{Name: "agent", Package: "./cmd/agent"}, {Name: "hub", Package: "./cmd/hub"}}
}

// Options say how to build.
type Options struct {
	// Root is the folder of the module headwater.dev.
	Root string
	// Version becomes the image's tag and label, and what the program says of itself. Without "v".
	Version string
	// Platforms like "linux/amd64"; none means Platforms().
	Platforms []string
	// Fast prefers a quick build to a small image.
	Fast bool
	// Progress is told about each step; nil means nobody is.
	Progress func(step string)
}

// Image is a program for one or more platforms.
type Image struct {
	// Reference is the image's full name, headwater.dev/NAME:VERSION.
	Reference string
	// Index lists the images of the platforms.
	Index v1.ImageIndex

	platforms map[string]v1.Image
}

// Build compiles a program for every platform and makes an image of it.
func Build(ctx context.Context, p Program, o Options) (*Image, error) {
	if o.Version == "" || strings.ContainsAny(o.Version, " /:@") {
		return nil, fmt.Errorf("build image of %s: version %q cannot be a tag", p.Name, o.Version)
	}
	if len(o.Platforms) == 0 {
		o.Platforms = Platforms()
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	base, err := baseLayer()
	if err != nil {
		return nil, fmt.Errorf("build image of %s: %w", p.Name, err)
	}
	img := &Image{Reference: Repository + "/" + p.Name + ":" + o.Version, platforms: map[string]v1.Image{}}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, name := range o.Platforms {
		platform, err := v1.ParsePlatform(name)
		if err != nil || platform.OS != "linux" || platform.Architecture == "" {
			return nil, fmt.Errorf("build image of %s: platform %q is not like linux/amd64", p.Name, name)
		}
		o.Progress(fmt.Sprintf("building %s for %s", img.Reference, name))
		one, err := buildOne(ctx, p, o, target{platform: *platform, base: base})
		if err != nil {
			return nil, fmt.Errorf("build image of %s for %s: %w", p.Name, name, err)
		}
		img.platforms[name] = one
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: one, Descriptor: v1.Descriptor{Platform: platform}})
	}
	img.Index = index
	return img, nil
}

// ForPlatform is the image for one platform ("linux/amd64"), or an error when it was not built.
func (i *Image) ForPlatform(name string) (v1.Image, error) {
	one, ok := i.platforms[name]
	if !ok {
		return nil, fmt.Errorf("image %s was not built for %s", i.Reference, name)
	}
	return one, nil
}

// target is one platform of an image, and the layer below the program.
type target struct {
	platform v1.Platform
	base     v1.Layer
}

func buildOne(ctx context.Context, p Program, o Options, t target) (v1.Image, error) {
	tmp, err := os.MkdirTemp("", "headwater-image-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the program: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	file := filepath.Join(tmp, p.Name)
	if err := compile(ctx, p, o, binary{platform: t.platform, file: file}); err != nil {
		return nil, err
	}
	program, err := programLayer(file, o.Fast)
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.Append(image,
		mutate.Addendum{Layer: t.base, MediaType: types.OCILayer, History: v1.History{CreatedBy: "headwater: files"}},
		mutate.Addendum{Layer: program, MediaType: types.OCILayer, History: v1.History{CreatedBy: "headwater: program"}})
	if err != nil {
		return nil, fmt.Errorf("put layers together: %w", err)
	}
	return configure(image, p, o, t.platform)
}

func configure(image v1.Image, p Program, o Options, platform v1.Platform) (v1.Image, error) {
	old, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	cf := old.DeepCopy()
	cf.OS, cf.Architecture, cf.Variant = platform.OS, platform.Architecture, platform.Variant
	cf.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	cf.Config = v1.Config{
		Entrypoint: []string{binDir + "/" + p.Name},
		Env:        []string{"PATH=" + binDir + ":/usr/bin:/bin", "HOME=/home/nonroot", "SSL_CERT_FILE=" + trustFile},
		User:       User + ":" + User,
		WorkingDir: "/home/nonroot",
		Labels: map[string]string{
			"org.opencontainers.image.title":    "Headwater " + p.Name,
			"org.opencontainers.image.version":  o.Version,
			"org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.source":   "https://headwater.dev",
		},
	}
	image, err = mutate.ConfigFile(image, cf)
	if err != nil {
		return nil, fmt.Errorf("set configuration: %w", err)
	}
	return image, nil
}

// FindRoot returns the folder of the module headwater.dev at or above a folder.
func FindRoot(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	for {
		data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(data), "module "+Repository+"\n") {
			return dir, nil
		}
		if filepath.Dir(dir) == dir {
			return "", errors.New("the sources are not here: run this in the folder of the module headwater.dev")
		}
		dir = filepath.Dir(dir)
	}
}

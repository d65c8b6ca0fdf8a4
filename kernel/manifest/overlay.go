package manifest

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxkustomize "github.com/fluxcd/pkg/apis/kustomize"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/provider"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/yaml"
)

// directory finds the directory of a Kustomization's path. What is wrong with
// a path shows only as "not found", so that it says nothing about other files.
func (s *sandbox) directory(specPath string) (string, error) {
	clean := path.Clean("/" + filepath.ToSlash(specPath))
	if strings.Contains(specPath, "\x00") || slices.Contains(strings.Split(filepath.ToSlash(specPath), "/"), "..") {
		return "", fmt.Errorf("%w: %q leaves it", ErrPath, specPath)
	}
	dir := path.Join(mount, clean)
	if !s.IsDir(dir) {
		if s.refused != nil {
			return "", s.refused
		}
		return "", fmt.Errorf("%w: %q", ErrPath, specPath)
	}
	return dir, nil
}

// overlay lays a kustomization file over dir: the one that is there, or one
// made for the YAML files below, with what the Kustomization asks for on top.
func (s *sandbox) overlay(dir string, spec *kustomizev1.KustomizationSpec) (*types.Kustomization, error) {
	k, file, err := s.find(dir)
	if err != nil {
		return nil, err
	}
	if err := s.merge(k, dir, spec); err != nil {
		return nil, err
	}
	if reflect.DeepEqual(k, &types.Kustomization{TypeMeta: k.TypeMeta}) {
		// kustomize refuses an empty file; an empty directory is a valid state
		k.BuildMetadata = []string{types.OriginAnnotations}
	}
	data, err := yaml.Marshal(k)
	if err != nil {
		return nil, fmt.Errorf("write kustomization of %s: %w", dir, err)
	}
	rel, err := s.rel(file)
	if err != nil {
		return nil, err
	}
	s.generated[rel] = data
	return k, nil
}

func (s *sandbox) find(dir string) (*types.Kustomization, string, error) {
	k := &types.Kustomization{TypeMeta: types.TypeMeta{
		APIVersion: types.KustomizationVersion, Kind: types.KustomizationKind,
	}}
	for _, name := range konfig.RecognizedKustomizationFileNames() {
		file := path.Join(dir, name)
		if !s.Exists(file) || s.IsDir(file) {
			continue
		}
		data, err := s.ReadFile(file)
		if err != nil && !s.ownSchema {
			return nil, "", err
		}
		if s.ownSchema { // the build will read it again, alone
			rel, _ := s.rel(file)
			if data, err = s.read(rel); err != nil {
				return nil, "", err
			}
		}
		if err := yaml.Unmarshal(data, k); err != nil {
			return nil, "", fmt.Errorf("%s: %w", name, err)
		}
		return k, file, nil
	}
	resources, err := s.scan(dir)
	k.Resources = resources
	return k, path.Join(dir, konfig.DefaultKustomizationFileName()), err
}

// scan finds the YAML files below a directory without a kustomization file. A
// directory with one is taken as it is and not looked into.
func (s *sandbox) scan(dir string) ([]string, error) {
	var found []string
	factory := provider.NewDefaultDepProvider().GetResourceFactory()
	err := s.Walk(dir, func(p string, info fs.FileInfo, err error) error {
		if err != nil || p == dir {
			return err
		}
		local := "." + strings.TrimPrefix(p, dir)
		if info.IsDir() {
			for _, name := range konfig.RecognizedKustomizationFileNames() {
				if file := path.Join(p, name); s.Exists(file) && !s.IsDir(file) {
					found = append(found, local)
					return filepath.SkipDir
				}
			}
			return nil
		}
		if ext := path.Ext(p); ext != ".yaml" && ext != ".yml" {
			return nil
		}
		if _, err := s.parse(p, factory); err != nil {
			return err
		}
		found = append(found, local)
		return nil
	})
	return found, err
}

// parse reads the objects of a file, once for a build.
func (s *sandbox) parse(p string, factory *resource.Factory) (found []*resource.Resource, err error) {
	if found, ok := s.parsed[p]; ok {
		return found, nil
	}
	local := strings.TrimPrefix(p, mount+"/")
	defer func() {
		if p := recover(); p != nil {
			found, err = nil, fmt.Errorf("%s is no Kubernetes YAML: %v", local, p)
		}
	}()
	data, err := s.ReadFile(p)
	if err != nil {
		return nil, err
	}
	if s.documents += int64(bytes.Count(data, []byte("\n---"))) + 1; s.documents > int64(s.limits.Objects) {
		return nil, s.refuse(fmt.Errorf("the build reads more than %d documents", s.limits.Objects))
	}
	found, err = factory.SliceFromBytes(data)
	if err != nil {
		return nil, fmt.Errorf("failed to decode Kubernetes YAML from %s: %w", local, err)
	}
	s.parsed[p] = found
	return found, nil
}

func (s *sandbox) merge(k *types.Kustomization, dir string, spec *kustomizev1.KustomizationSpec) error {
	if spec.TargetNamespace != "" {
		k.Namespace = spec.TargetNamespace
	}
	if spec.NamePrefix != "" {
		k.NamePrefix = spec.NamePrefix
	}
	if spec.NameSuffix != "" {
		k.NameSuffix = spec.NameSuffix
	}
	for _, p := range spec.Patches {
		k.Patches = append(k.Patches, types.Patch{Patch: p.Patch, Target: selector(p.Target)})
	}
	for _, image := range spec.Images {
		k.Images = mergeImage(k.Images, image)
	}
	if len(spec.BuildMetadata) > 0 {
		k.BuildMetadata = nil
		for _, o := range spec.BuildMetadata {
			k.BuildMetadata = append(k.BuildMetadata, string(o))
		}
	}
	for _, c := range spec.Components {
		if path.IsAbs(c) || isRemote(c) {
			return s.refuse(fmt.Errorf("spec.components: path %q must be local and relative", c))
		}
		if spec.IgnoreMissingComponents && !s.Exists(path.Join(dir, c)) && s.refused == nil {
			continue
		}
		k.Components = append(k.Components, c)
	}
	return s.refused
}

func selector(t *fluxkustomize.Selector) *types.Selector {
	if t == nil {
		return nil
	}
	out := &types.Selector{LabelSelector: t.LabelSelector, AnnotationSelector: t.AnnotationSelector}
	out.Group, out.Version, out.Kind = t.Group, t.Version, t.Kind
	out.Name, out.Namespace = t.Name, t.Namespace
	return out
}

// mergeImage overrides an image of the kustomization file field by field; tag
// and digest go together, since a new tag beside an old digest would have no
// effect.
func mergeImage(images []types.Image, image fluxkustomize.Image) []types.Image {
	i := slices.IndexFunc(images, func(x types.Image) bool { return x.Name == image.Name })
	if i < 0 {
		return append(images, types.Image{Name: image.Name, NewName: image.NewName, NewTag: image.NewTag, Digest: image.Digest})
	}
	if image.NewName != "" {
		images[i].NewName = image.NewName
	}
	if image.NewTag != "" || image.Digest != "" {
		images[i].NewTag, images[i].Digest = image.NewTag, image.Digest
	}
	return images
}

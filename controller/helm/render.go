package helm

import (
	"bytes"
	"fmt"
	"maps"
	"sync"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"helm.sh/helm/v4/pkg/postrenderer"
	"sigs.k8s.io/kustomize/api/krusty"
	kustypes "sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/kio"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"
	"sigs.k8s.io/yaml"
)

// renderer makes post-renderers. Kustomize builds share global schema tables
// and are therefore done one at a time.
type renderer struct{ kustomize sync.Mutex }

// For returns the post-renderer of a HelmRelease: the user's kustomizations in
// their order, then common metadata, then the labels of origin by which objects
// are found again.
func (r *renderer) For(hr *v2.HelmRelease) postrenderer.PostRenderer {
	var chain pipeline
	for i, p := range hr.Spec.PostRenderers {
		if p.Kustomize != nil {
			chain = append(chain, stage{fmt.Sprintf("spec.postRenderers[%d]", i), r.kustomization(*p.Kustomize)})
		}
	}
	if m := hr.Spec.CommonMetadata; m != nil {
		chain = append(chain, stage{"spec.commonMetadata", metadata(m.Labels, m.Annotations)})
	}
	origin := map[string]string{labelName: hr.Name, labelNS: hr.Namespace}
	return append(chain, stage{"labels of origin", metadata(origin, nil)})
}

// stage changes manifests.
type stage struct {
	name string
	run  func([]byte) ([]byte, error)
}

// pipeline runs stages in order.
type pipeline []stage

// Run implements Helm's PostRenderer.
func (p pipeline) Run(in *bytes.Buffer) (*bytes.Buffer, error) {
	data := in.Bytes()
	if len(bytes.TrimSpace(data)) == 0 {
		return in, nil
	}
	for _, s := range p {
		out, err := s.run(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		data = out
	}
	return bytes.NewBuffer(data), nil
}

// kustomization applies patches and images in memory; nothing is read from
// disk or fetched.
func (r *renderer) kustomization(k v2.Kustomize) func([]byte) ([]byte, error) {
	return func(in []byte) ([]byte, error) {
		conf := kustypes.Kustomization{Resources: []string{"manifests.yaml"}}
		conf.APIVersion, conf.Kind = kustypes.KustomizationVersion, kustypes.KustomizationKind
		for _, i := range k.Images {
			conf.Images = append(conf.Images, kustypes.Image{Name: i.Name, NewName: i.NewName, NewTag: i.NewTag, Digest: i.Digest})
		}
		for _, p := range k.Patches {
			patch := kustypes.Patch{Patch: p.Patch}
			if p.Target != nil {
				patch.Target = selector(p.Target.Group, p.Target.Version, p.Target.Kind, p.Target.Name)
				patch.Target.Namespace = p.Target.Namespace
				patch.Target.LabelSelector = p.Target.LabelSelector
				patch.Target.AnnotationSelector = p.Target.AnnotationSelector
			}
			conf.Patches = append(conf.Patches, patch)
		}
		text, err := yaml.Marshal(conf)
		if err != nil {
			return nil, err
		}
		fs := filesys.MakeFsInMemory()
		if err := fs.WriteFile("kustomization.yaml", text); err != nil {
			return nil, err
		}
		if err := fs.WriteFile("manifests.yaml", in); err != nil {
			return nil, err
		}
		r.kustomize.Lock()
		defer r.kustomize.Unlock()
		opts := krusty.MakeDefaultOptions()
		opts.LoadRestrictions = kustypes.LoadRestrictionsRootOnly
		out, err := krusty.MakeKustomizer(opts).Run(fs, ".")
		if err != nil {
			return nil, err
		}
		return out.AsYaml()
	}
}

func selector(group, version, kind, name string) *kustypes.Selector {
	s := &kustypes.Selector{}
	s.Group, s.Version, s.Kind, s.Name = group, version, kind, name
	return s
}

// metadata sets labels and annotations of every object, items of lists
// included.
func metadata(labels, annotations map[string]string) func([]byte) ([]byte, error) {
	return func(in []byte) ([]byte, error) {
		nodes, err := kio.ParseAll(string(in))
		if err != nil {
			return nil, err
		}
		for _, n := range nodes {
			if err := setMetadata(n, labels, annotations); err != nil {
				return nil, err
			}
		}
		out, err := kio.StringAll(nodes)
		return []byte(out), err
	}
}

func setMetadata(n *kyaml.RNode, labels, annotations map[string]string) error {
	if items := n.Field("items"); items != nil && n.Field("kind") != nil {
		return items.Value.VisitElements(func(e *kyaml.RNode) error { return setMetadata(e, labels, annotations) })
	}
	if len(labels) > 0 {
		all := n.GetLabels()
		maps.Copy(all, labels)
		if err := n.SetLabels(all); err != nil {
			return err
		}
	}
	if len(annotations) > 0 {
		all := n.GetAnnotations()
		maps.Copy(all, annotations)
		return n.SetAnnotations(all)
	}
	return nil
}

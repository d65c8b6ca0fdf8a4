package manifest

import (
	"path"
	"reflect"
	"strings"

	"sigs.k8s.io/kustomize/api/filters/namespace"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/provider"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/api/types"
)

// maxFlatDepth of directories that include each other.
const maxFlatDepth = 20

// buildAnnotations have meaning for kustomize's own steps.
const buildAnnotations = "internal.config.kubernetes.io/"

// flat collects the objects of kustomizations that only list resources, and may
// put them into one namespace, as kustomize does, but in time that grows with their number rather than with its
// square. It reports false for everything that needs more than that, and for
// everything that is wrong: kustomize then does it, or says what is wrong.
func (s *sandbox) flat(dir string, k *types.Kustomization) ([]*resource.Resource, bool) {
	f := &flattening{sandbox: s, factory: provider.NewDefaultDepProvider().GetResourceFactory(), seen: map[string]bool{}}
	plain := *k
	plain.Namespace = ""
	if f.kustomizations(dir) != 1 || !f.directory(dir, &plain, 0) {
		return nil, false
	}
	if k.Namespace != "" && !f.move(k.Namespace) {
		return nil, false
	}
	return f.found, true
}

// move puts the objects into a namespace, with kustomize's own filter. Kinds
// that hold the namespaces of others are left to kustomize.
func (f *flattening) move(to string) bool {
	for _, r := range f.found {
		switch r.GetKind() {
		case "Namespace", "APIService", "CustomResourceDefinition", "RoleBinding", "ClusterRoleBinding",
			"ValidatingWebhookConfiguration", "MutatingWebhookConfiguration", "Node", "PersistentVolume":
			return false
		}
	}
	f.seen = map[string]bool{}
	for _, r := range f.found {
		if err := r.ApplyFilter(namespace.Filter{Namespace: to, SetRoleBindingSubjects: namespace.DefaultSubjectsOnly}); err != nil || !f.unique(r) {
			return false
		}
	}
	return true
}

// unique reports whether an object is the first of its identity.
func (f *flattening) unique(r *resource.Resource) bool {
	id := r.CurId()
	key := id.Gvk.String() + "|" + id.EffectiveNamespace() + "|" + id.Name
	first := !f.seen[key]
	f.seen[key] = true
	return first
}

type flattening struct {
	*sandbox
	factory *resource.Factory
	found   []*resource.Resource
	seen    map[string]bool // identities
}

// directory adds what a directory holds; k is its kustomization if known.
func (f *flattening) directory(dir string, k *types.Kustomization, depth int) bool {
	if depth > maxFlatDepth {
		return false
	}
	if k == nil {
		if k = f.kustomizationOf(dir); k == nil {
			return false
		}
	}
	if !onlyResources(k) {
		return false
	}
	for _, r := range k.Resources {
		p := path.Join(dir, r)
		if r == "" || path.IsAbs(r) || isRemote(r) || strings.ContainsAny(r, "?#\n") {
			return false
		}
		if f.IsDir(p) {
			real, _, err := f.CleanedAbs(p)
			if err != nil || !f.directory(string(real), nil, depth+1) {
				return false
			}
			continue
		}
		if !f.file(p) {
			return false
		}
	}
	return true
}

// kustomizations counts the kustomization files of a directory; kustomize
// refuses to choose.
func (f *flattening) kustomizations(dir string) int {
	n := 0
	for _, name := range konfig.RecognizedKustomizationFileNames() {
		if f.Exists(path.Join(dir, name)) {
			n++
		}
	}
	return n
}

// kustomizationOf reads the kustomization of a directory the way kustomize
// does; nil when there is anything to say about it.
func (f *flattening) kustomizationOf(dir string) *types.Kustomization {
	var data []byte
	for _, name := range konfig.RecognizedKustomizationFileNames() {
		file := path.Join(dir, name)
		if !f.Exists(file) {
			continue
		}
		read, err := f.ReadFile(file)
		if err != nil || data != nil {
			return nil
		}
		data = read
	}
	k := &types.Kustomization{}
	if data == nil || k.Unmarshal(data) != nil || k.CheckDeprecatedFields() != nil {
		return nil
	}
	k.FixKustomization()
	if k.CheckEmpty() != nil || len(k.EnforceFields()) > 0 {
		return nil
	}
	return k
}

func onlyResources(k *types.Kustomization) bool {
	return k.Kind != types.ComponentKind && len(k.Resources) > 0 &&
		reflect.DeepEqual(k, &types.Kustomization{TypeMeta: k.TypeMeta, MetaData: k.MetaData, Resources: k.Resources})
}

func (f *flattening) file(p string) bool {
	found, err := f.parse(p, f.factory)
	if err != nil {
		return false
	}
	for _, r := range found {
		if internal(r) || !f.unique(r) {
			return false
		}
		if len(r.GetAnnotations()) == 0 { // kustomize leaves no empty field behind
			if err := r.SetAnnotations(nil); err != nil {
				return false
			}
		}
	}
	f.found = append(f.found, found...)
	return true
}

func internal(r *resource.Resource) bool {
	for key := range r.GetAnnotations() {
		if strings.HasPrefix(key, buildAnnotations) || strings.HasPrefix(key, "config.kubernetes.io/") || strings.HasPrefix(key, "alpha.config.kubernetes.io/") {
			return true
		}
	}
	return false
}

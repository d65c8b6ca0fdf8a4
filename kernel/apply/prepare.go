package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/fluxcd/pkg/ssa/normalize"
	"github.com/fluxcd/pkg/ssa/utils"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

var (
	errNoKind      = errors.New("no matches for kind")
	errBelongs     = errors.New("it belongs to")
	errNoNamespace = errors.New("metadata.namespace is missing: set it, or spec.targetNamespace of the Kustomization")
)

// Steering annotations and labels, below the engine's group.
const (
	labelName      = "name"
	labelNamespace = "namespace"

	keySSA       = "ssa"
	keyForce     = "force"
	keyPrune     = "prune"
	keyReconcile = "reconcile"

	disabled = "disabled"
	enabled  = "enabled"

	ssaIgnore       = "Ignore"
	ssaMerge        = "Merge"
	ssaIfNotPresent = "IfNotPresent"
)

// steering are the keys that an object in the cluster may carry too.
func steering() []string { return []string{keySSA, keyPrune, keyReconcile, keyForce} }

// prepare gives normalised copies with the labels of their owner.
func (e *Engine) prepare(r Request) ([]*unstructured.Unstructured, error) {
	out := make([]*unstructured.Unstructured, 0, len(r.Objects))
	seen := make(map[ID]bool, len(r.Objects))
	for _, u := range r.Objects {
		id := RefOf(u).ID
		if seen[id] {
			return nil, fmt.Errorf("%s is there twice: remove one", nameOf(id))
		}
		seen[id] = true
		u = u.DeepCopy()
		utils.RemoveCABundleFromCRD(u)
		if err := normalize.UnstructuredList([]*unstructured.Unstructured{u}); err != nil {
			return nil, r.objectError(u, "normalisation", err)
		}
		unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
		unstructured.RemoveNestedField(u.Object, "metadata", "managedFields")
		e.setOwner(u, r.Owner)
		out = append(out, u)
	}
	return out, nil
}

func (e *Engine) key(name string) string { return e.Group + "/" + name }

func (e *Engine) setOwner(u *unstructured.Unstructured, owner types.NamespacedName) {
	labels := u.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[e.key(labelName)], labels[e.key(labelNamespace)] = owner.Name, owner.Namespace
	u.SetLabels(labels)
}

// steers reports whether an object says so for a key, as annotation or label.
func (e *Engine) steers(u *unstructured.Unstructured, key, value string) bool {
	return strings.EqualFold(u.GetAnnotations()[e.key(key)], value) || strings.EqualFold(u.GetLabels()[e.key(key)], value)
}

// kinds looks each kind up once: one that is not known costs a request each time.
type kinds struct {
	mapper meta.RESTMapper
	found  sync.Map
}

func (k *kinds) of(gvk schema.GroupVersionKind) (*meta.RESTMapping, error) {
	look, _ := k.found.LoadOrStore(gvk, sync.OnceValues(func() (*meta.RESTMapping, error) {
		return k.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}))
	return look.(func() (*meta.RESTMapping, error))()
}

// mapping is the resource of a kind.
func (r Request) mapping(gvk schema.GroupVersionKind) (*meta.RESTMapping, error) {
	if r.kinds == nil {
		return r.Access.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	return r.kinds.of(gvk)
}

// fit finds the resource of an object and corrects its namespace.
func fit(r Request, u *unstructured.Unstructured) (*meta.RESTMapping, error) {
	gvk := u.GroupVersionKind()
	m, err := r.mapping(gvk)
	if err != nil {
		if meta.IsNoMatchError(err) {
			return nil, fmt.Errorf("%w %q in version %q: install its CustomResourceDefinition first", errNoKind, gvk.Kind, gvk.GroupVersion())
		}
		return nil, fmt.Errorf("look up kind %q: %w", gvk.Kind, err)
	}
	if m.Scope.Name() == meta.RESTScopeNameRoot {
		u.SetNamespace("")
		return m, nil
	}
	if u.GetNamespace() == "" {
		return nil, errNoNamespace
	}
	return m, nil
}

// digestOf names what is wanted of an object. Fields that others may change are
// part of it: when one is ours again, it has to be looked at.
func digestOf(u *unstructured.Unstructured, ignored []pointer) (string, error) {
	raw, err := json.Marshal(u.Object)
	if err != nil {
		return "", fmt.Errorf("encode: %w", err)
	}
	for _, p := range ignored {
		raw = fmt.Appendf(raw, "%q", []string(p))
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:16]), nil
}

// Scoped takes the namespace from references to objects that have none, where
// the kinds are known, and gives each object once. An API server that is not
// reached is asked once.
func Scoped(t Tenant, refs []Ref) []Ref {
	out := make([]Ref, 0, len(refs))
	wide, seen := map[schema.GroupVersionKind]bool{}, make(map[ID]bool, len(refs))
	down := false
	for _, r := range refs {
		clusterWide, known := wide[r.GVK()]
		if r.Namespace != "" && !known && !down {
			m, err := servedAs(t, r)
			down = unreachable(err)
			clusterWide = err == nil && m.Scope.Name() == meta.RESTScopeNameRoot
			wide[r.GVK()] = clusterWide
		}
		if clusterWide {
			r.Namespace = ""
		}
		if !seen[r.ID] {
			seen[r.ID] = true
			out = append(out, r)
		}
	}
	return out
}

// Stale gives those of old that are not in now. A reference from before its
// kind was known may name a namespace that the object does not have.
func Stale(t Tenant, old, now []Ref) []Ref {
	return Missing(Scoped(t, Missing(old, now)), now)
}

// Fit corrects the namespaces of objects to the scope of their kinds, where the
// kinds are known already, and gives their references. What is wrong with a kind
// the apply says, object by object; an API server that is not reached is an
// error at once.
func Fit(t Tenant, objects []*unstructured.Unstructured) ([]Ref, error) {
	r := Request{Tenant: t, kinds: &kinds{mapper: t.Access.Mapper}}
	refs := make([]Ref, 0, len(objects))
	for _, u := range objects {
		_, err := fit(r, u)
		if errors.Is(err, errNoNamespace) {
			return nil, objectError(u, "build", err)
		}
		if err != nil && unreachable(err) {
			return nil, err
		}
		refs = append(refs, RefOf(u))
	}
	Stages{}.sort(refs)
	return refs, nil
}

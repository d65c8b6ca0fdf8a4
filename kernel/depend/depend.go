// Package depend knows who waits for whom: Kustomizations and HelmReleases, for
// each other and across the two kinds.
//
// spec.dependsOn names objects of the same kind, as Flux documents. The
// annotation headwater.dev/depends-on names objects of either kind, one a line:
// Kind/name or Kind/namespace/name, with @expression for a CEL expression over
// self and dep that replaces the usual test of readiness.
package depend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/cel"
	"github.com/fluxcd/pkg/runtime/conditions"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
)

// Annotation names dependencies of any kind.
const Annotation = "headwater.dev/depends-on"

// patience bounds one evaluation of a readyExpr. Usual ones take microseconds;
// one that multiplies lists must not hold a worker.
const patience = 500 * time.Millisecond

// ErrSlow says that an evaluation was given up. That is no verdict on the
// expression: a process that stood still for a moment gives up cheap ones too.
var ErrSlow = errors.New("takes longer than " + patience.String())

// maxPath bounds how far a cycle is searched for.
const maxPath = 1000

// Object is a kind that others can depend on.
type Object interface {
	client.Object
	conditions.Getter
}

// Key is an object of a kind.
type Key struct {
	Kind string
	types.NamespacedName
}

// String is Kind/namespace/name.
func (k Key) String() string { return k.Kind + "/" + k.NamespacedName.String() }

// Ref is a dependency.
type Ref struct {
	Key
	// ReadyExpr replaces the usual test of readiness; empty for none.
	ReadyExpr string
	// Field is where it was named, for messages.
	Field string
}

// KeyOf is the key of an object; its kind is empty when nobody can depend on it.
func KeyOf(o client.Object) Key {
	k := Key{NamespacedName: client.ObjectKeyFromObject(o)}
	switch o.(type) {
	case *kustomizev1.Kustomization:
		k.Kind = kustomizev1.KustomizationKind
	case *helmv2.HelmRelease:
		k.Kind = helmv2.HelmReleaseKind
	}
	return k
}

// New makes an empty object of a kind.
func New(kind string) (Object, error) {
	switch kind {
	case kustomizev1.KustomizationKind:
		return &kustomizev1.Kustomization{}, nil
	case helmv2.HelmReleaseKind:
		return &helmv2.HelmRelease{}, nil
	}
	return nil, fmt.Errorf("kind %q is nothing to depend on: write %s or %s", kind, kustomizev1.KustomizationKind, helmv2.HelmReleaseKind)
}

// Of lists what an object depends on: spec.dependsOn, then the annotation. The
// error names the line of the annotation that cannot be read; what could be is
// returned beside it.
func Of(o client.Object) ([]Ref, error) {
	self := KeyOf(o)
	var out []Ref
	for i, r := range ofSpec(o) {
		ref := Ref{Key: self, ReadyExpr: r.ReadyExpr, Field: fmt.Sprintf("spec.dependsOn[%d]", i)}
		ref.Name = r.Name
		if r.Namespace != "" {
			ref.Namespace = r.Namespace
		}
		out = append(out, ref)
	}
	var failed error
	n := 0
	for line := range strings.Lines(o.GetAnnotations()[Annotation]) {
		n++
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		ref, err := parse(line, self.Namespace)
		ref.Field = fmt.Sprintf("metadata.annotations[%s] line %d", Annotation, n)
		if err != nil {
			failed = fmt.Errorf("%s: %w", ref.Field, err)
			continue
		}
		out = append(out, ref)
	}
	return out, failed
}

func ofSpec(o client.Object) []meta.DependencyReference {
	switch d := o.(type) {
	case *kustomizev1.Kustomization:
		return d.Spec.DependsOn
	case *helmv2.HelmRelease:
		return d.Spec.DependsOn
	}
	return nil
}

func parse(line, ns string) (Ref, error) {
	name, expr, _ := strings.Cut(line, "@")
	parts := strings.Split(strings.TrimSpace(name), "/")
	if len(parts) == 2 {
		parts = []string{parts[0], ns, parts[1]}
	}
	if len(parts) != 3 {
		return Ref{}, fmt.Errorf("%q: write Kind/name or Kind/namespace/name", name)
	}
	if _, err := New(parts[0]); err != nil {
		return Ref{}, err
	}
	if len(validation.IsDNS1123Label(parts[1])) > 0 || len(validation.IsDNS1123Subdomain(parts[2])) > 0 {
		return Ref{}, fmt.Errorf("%q is no name of an object", name)
	}
	return Ref{Key: Key{Kind: parts[0], NamespacedName: types.NamespacedName{Namespace: parts[1], Name: parts[2]}}, ReadyExpr: strings.TrimSpace(expr)}, nil
}

// Keys are the keys of what an object depends on, for an index.
func Keys(o client.Object) []string {
	refs, _ := Of(o) // what cannot be read is said when the object is reconciled
	keys := make([]string, 0, len(refs))
	for _, r := range refs {
		keys = append(keys, r.Key.String())
	}
	return keys
}

// Ready reports whether an object is ready in its present form.
func Ready(o Object) bool {
	var observed int64
	switch d := o.(type) {
	case *kustomizev1.Kustomization:
		observed = d.Status.ObservedGeneration
	case *helmv2.HelmRelease:
		observed = d.Status.ObservedGeneration
	}
	return o.GetGeneration() == observed && conditions.IsTrue(o, meta.ReadyCondition)
}

// Evaluate asks a readyExpr over the dependent and the dependency. An
// expression that does not evaluate yet is not ready; one that does not compile
// is an error, and ErrSlow that it was given up after half a second.
func Evaluate(ctx context.Context, expr string, self, dep client.Object) (bool, error) {
	e, err := cel.NewExpression(expr, cel.WithCompile(), cel.WithStructVariables("self", "dep"))
	if err != nil {
		return false, err
	}
	vars := map[string]any{}
	for name, o := range map[string]client.Object{"self": self, "dep": dep} {
		if vars[name], err = runtime.DefaultUnstructuredConverter.ToUnstructured(o); err != nil {
			return false, fmt.Errorf("convert %s: %w", name, err)
		}
	}
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ready, err := e.EvaluateBoolean(bounded, vars)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return false, fmt.Errorf("the expression %w: make it cheaper", ErrSlow)
	}
	return ready && err == nil, nil // an evaluation that came to its end counts, however late
}

// Cycle follows dependencies and describes a way back to the object, if there
// is one. Objects that get does not find end a way.
func Cycle(o client.Object, get func(Key) (Object, error)) string {
	start := KeyOf(o)
	seen := map[Key]bool{}
	var walk func(at client.Object, path []string) string
	walk = func(at client.Object, path []string) string {
		refs, _ := Of(at)
		for _, ref := range refs {
			if ref.Key == start {
				return strings.Join(append(path, start.String()), " → ")
			}
			if seen[ref.Key] || len(seen) > maxPath {
				continue
			}
			seen[ref.Key] = true
			next, err := get(ref.Key)
			if err != nil {
				continue
			}
			if found := walk(next, append(path, ref.Key.String())); found != "" {
				return found
			}
		}
		return ""
	}
	return walk(o, []string{start.String()})
}

// Get reads an object.
func Get(ctx context.Context, r client.Reader, key Key) (Object, error) {
	o, err := New(key.Kind)
	if err != nil {
		return nil, err
	}
	return o, r.Get(ctx, key.NamespacedName, o)
}

// Changed lets through updates that change the annotation.
func Changed() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false }, DeleteFunc: func(event.DeleteEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			return e.ObjectOld.GetAnnotations()[Annotation] != e.ObjectNew.GetAnnotations()[Annotation]
		},
	}
}

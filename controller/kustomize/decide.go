package kustomize

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"

	"headwater.dev/kernel/apply"
	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/depend"
)

const (
	// listPatience is how long a list of the live objects may take before it is
	// looked at again.
	listPatience = 5 * time.Second
	// pollPeriod is for objects that the tenant may read and not watch.
	pollPeriod = 5 * time.Second
	// firstPatience is how long the health of a first apply is waited for before
	// the status says so.
	firstPatience = 2 * time.Second
	// newPatience is how old a Kustomization gets, by times in whole seconds,
	// before its status says that it waits for a source or another object.
	newPatience = 2 * time.Second
	// shownObjects bounds how many objects a message names.
	shownObjects = 10
)

// crossNamespace refuses references that leave the namespace.
func crossNamespace(k *kustomizev1.Kustomization, refused bool) error {
	if !refused {
		return nil
	}
	if ref := k.Spec.SourceRef; ref.Namespace != "" && ref.Namespace != k.Namespace {
		return fmt.Errorf("can't access '%s/%s/%s', cross-namespace references have been blocked", ref.Kind, ref.Namespace, ref.Name)
	}
	refs, _ := depend.Of(k) // what cannot be read is said later
	for _, d := range refs {
		if d.Namespace != k.Namespace {
			return fmt.Errorf("can't access '%s', cross-namespace references have been blocked", d.Key)
		}
	}
	return nil
}

func serviceAccountName(name string) error {
	if bad := validation.IsDNS1123Subdomain(name); name != "" && len(bad) > 0 {
		return fmt.Errorf("spec.serviceAccountName %q is no name of a service account: %s", name, bad[0])
	}
	return nil
}

// dependencyName says the kind only where it is not the usual one.
func dependencyName(key depend.Key) string {
	if key.Kind == kustomizev1.KustomizationKind {
		return key.NamespacedName.String()
	}
	return key.String()
}

// dependencyReady: a dependency is ready when it is in its present form, and,
// coming from the same source, has applied the same revision. An expression
// replaces all of that.
func dependencyReady(ctx context.Context, k *kustomizev1.Kustomization, dep depend.Object, expr, revision string) (bool, error) {
	if expr != "" {
		return depend.Evaluate(ctx, expr, k, dep)
	}
	if !depend.Ready(dep) {
		return false, nil
	}
	if d, ok := dep.(*kustomizev1.Kustomization); ok && d.Spec.SourceRef.Kind == k.Spec.SourceRef.Kind && sourceKey(d) == sourceKey(k) {
		return d.Status.LastAppliedRevision == revision, nil
	}
	return true, nil
}

// sameInputs reports whether a build would give what was applied last: nothing
// but the artifact may have changed, and none of the files that were read.
func (n known) sameInputs(s *scope, files func() (*artifact.Content, error)) (bool, error) {
	if n.generation == 0 || n.generation != s.obj.Generation || n.identity != s.tenant.Identity ||
		n.record.Inputs != s.request.Inputs() || n.requested != requestOf(s.obj) {
		return false, nil
	}
	if n.artifact == s.artifact.Digest {
		return true, nil
	}
	c, err := files()
	if err != nil {
		return false, err
	}
	return n.record.Same(c.Root, c.Files), nil
}

func requestOf(k *kustomizev1.Kustomization) string {
	at, _ := meta.ReconcileAnnotationValue(k.GetAnnotations())
	return at
}

// others are the objects of spec.healthChecks that the build does not give.
func others(k *kustomizev1.Kustomization, refs []apply.Ref) []apply.Ref {
	if k.Spec.Wait {
		return nil
	}
	return apply.Missing(checked(k, refs), refs)
}

// versionOf is the API version of an object to be checked, which is that of
// Deployments when it is left out, as in Flux.
func versionOf(h meta.NamespacedObjectKindReference) (schema.GroupVersion, error) {
	if h.APIVersion == "" {
		return schema.GroupVersion{Group: "apps", Version: "v1"}, nil
	}
	return schema.ParseGroupVersion(h.APIVersion)
}

// checked are the objects whose health counts. A Kustomization that is among
// its own objects never waits for itself.
func checked(k *kustomizev1.Kustomization, refs []apply.Ref) []apply.Ref {
	itself := func(r apply.Ref) bool {
		return r.GroupKind.Kind == kustomizev1.KustomizationKind && r.GroupKind.Group == group && r.Name == k.Name && r.Namespace == k.Namespace
	}
	if k.Spec.Wait {
		if !slices.ContainsFunc(refs, itself) {
			return refs
		}
		return slices.DeleteFunc(slices.Clone(refs), itself)
	}
	var out []apply.Ref
	for _, h := range k.Spec.HealthChecks {
		gv, err := versionOf(h)
		if err != nil {
			continue // checkSpec refuses it
		}
		ref := apply.Ref{Version: gv.Version}
		ref.GroupKind = schema.GroupKind{Group: gv.Group, Kind: h.Kind}
		ref.Namespace, ref.Name = h.Namespace, h.Name
		if ref.Namespace == "" {
			ref.Namespace = k.Namespace
		}
		if !itself(ref) {
			out = append(out, ref)
		}
	}
	return out
}

// verdict on the health of a set of objects.
type verdict struct {
	waiting, failed []string
}

func judgeAll(refs []apply.Ref, live func(apply.Ref) apply.Live) verdict {
	var v verdict
	for _, ref := range refs {
		l := live(ref)
		if !l.Exists {
			l.Health = apply.NotFound
		}
		what := fmt.Sprintf("%s status: '%s'", ref, l.Health)
		if l.Message != "" {
			what += ": " + l.Message
		}
		switch l.Health {
		case apply.Current:
		case apply.Failed:
			v.failed = append(v.failed, what)
		default:
			v.waiting = append(v.waiting, what)
		}
	}
	return v
}

func shorten(names []string) string {
	if len(names) > shownObjects {
		return strings.Join(names[:shownObjects], ", ") + fmt.Sprintf(" and %d more", len(names)-shownObjects)
	}
	return strings.Join(names, ", ")
}

// prunesOnDeletion decides what happens to the objects of a Kustomization that
// is deleted.
func prunesOnDeletion(k *kustomizev1.Kustomization) bool {
	if k.Spec.Suspend {
		return false
	}
	switch k.GetDeletionPolicy() {
	case kustomizev1.DeletionPolicyMirrorPrune:
		return k.Spec.Prune
	case kustomizev1.DeletionPolicyDelete, kustomizev1.DeletionPolicyWaitForTermination:
		return true
	}
	return false
}

// describe lists what happened, for an event; nothing when nothing did.
func describe(changes []apply.Change) string {
	var lines []string
	for _, c := range changes {
		switch c.Action {
		case apply.Unchanged, apply.Skipped:
		default:
			lines = append(lines, c.Ref.String()+" "+string(c.Action))
		}
	}
	if len(lines) > 5*shownObjects {
		lines = append(lines[:5*shownObjects], fmt.Sprintf("and %d more", len(lines)-5*shownObjects))
	}
	return strings.Join(lines, "\n")
}

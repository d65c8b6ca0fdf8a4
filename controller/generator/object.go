package generator

import (
	"context"
	"fmt"
	"maps"
	"reflect"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	swapi "github.com/fluxcd/source-watcher/api/v2/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/controller/generator/compose"
	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/phase"
)

// mine reports whether an object is the generator's: it carries its label, or
// names it as its source, as after a restore from a backup.
func mine(x *sourcev1.ExternalArtifact, g *swapi.ArtifactGenerator) bool {
	if uid, ok := x.Labels[swapi.ArtifactGeneratorLabel]; ok && uid == string(g.UID) {
		return true
	}
	by := x.Spec.SourceRef
	return by != nil && by.APIVersion == swapi.GroupVersion.String() && by.Kind == swapi.ArtifactGeneratorKind && by.Name == g.Name &&
		(by.Namespace == "" || by.Namespace == g.Namespace)
}

// claim gives the object of a name, nil when there is none, and refuses one
// that is somebody else's.
func (l *loop) claim(ctx context.Context, s *scope, name string) (*sourcev1.ExternalArtifact, error) {
	if x := s.owned[name]; x != nil {
		return x, nil
	}
	var x sourcev1.ExternalArtifact
	err := l.live.Get(ctx, client.ObjectKey{Namespace: s.obj.Namespace, Name: name}, &x)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, phase.Transient(meta.ReconciliationFailedReason, fmt.Errorf("read ExternalArtifact %q: %w", name, err))
	}
	if !mine(&x, s.obj) {
		return nil, phase.Waiting(ownershipConflict, l.requeueDependency,
			fmt.Errorf("ExternalArtifact %q exists and is not of this generator: delete it or choose another name", name))
	}
	return &x, nil
}

// wanted is the object of an artifact, without its status.
func wanted(g *swapi.ArtifactGenerator, o compose.Output) *sourcev1.ExternalArtifact {
	x := &sourcev1.ExternalArtifact{
		TypeMeta: metav1.TypeMeta{APIVersion: sourcev1.GroupVersion.String(), Kind: sourcev1.ExternalArtifactKind},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: g.Namespace, Name: o.Name, Labels: maps.Clone(o.Labels),
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: swapi.GroupVersion.String(), Kind: swapi.ArtifactGeneratorKind, Name: g.Name, UID: g.UID, Controller: new(true),
			}},
		},
		Spec: sourcev1.ExternalArtifactSpec{SourceRef: &meta.NamespacedObjectKindReference{
			APIVersion: swapi.GroupVersion.String(), Kind: swapi.ArtifactGeneratorKind, Name: g.Name, Namespace: g.Namespace,
		}},
	}
	if x.Labels == nil {
		x.Labels = map[string]string{}
	}
	if m := g.Spec.CommonMetadata; m != nil {
		maps.Copy(x.Labels, m.Labels)
		x.Annotations = maps.Clone(m.Annotations)
	}
	x.Labels[swapi.ArtifactGeneratorLabel] = string(g.UID)
	return x
}

// upToDate reports whether an object holds everything that is wanted of it.
func upToDate(live, want *sourcev1.ExternalArtifact) bool {
	holds := func(have, want map[string]string) bool {
		for k, v := range want {
			if got, ok := have[k]; !ok || got != v {
				return false
			}
		}
		return true
	}
	return live.DeletionTimestamp.IsZero() && reflect.DeepEqual(live.Spec, want.Spec) &&
		metav1.IsControlledBy(live, &metav1.ObjectMeta{UID: want.OwnerReferences[0].UID}) &&
		holds(live.Labels, want.Labels) && holds(live.Annotations, want.Annotations)
}

// writeObject makes the object of an artifact what it should be; live is what
// there is, nil for nothing.
func (l *loop) writeObject(ctx context.Context, s *scope, o compose.Output, live *sourcev1.ExternalArtifact, a *meta.Artifact) error {
	want := wanted(s.obj, o)
	// What the generator no longer asks for is only found by applying it, once
	// for each generation.
	renamed := conditions.GetObservedGeneration(s.obj, meta.ReadyCondition) != s.obj.Generation
	if live == nil || renamed || !upToDate(live, want) {
		if err := l.apply(ctx, want, live); err != nil {
			return fmt.Errorf("apply ExternalArtifact %q: %w", o.Name, err)
		}
	}
	before := &sourcev1.ExternalArtifact{ObjectMeta: metav1.ObjectMeta{Namespace: want.Namespace, Name: want.Name, Generation: 1}}
	if live != nil {
		before.Generation, before.Status = live.Generation, *live.Status.DeepCopy()
	}
	after := before.DeepCopy()
	after.Status.Artifact = a
	if live != nil && sameArtifact(live.Status.Artifact, a) {
		after.Status.Artifact = live.Status.Artifact
	}
	conditions.MarkTrue(after, meta.ReadyCondition, meta.SucceededReason, "Artifact is ready")
	if reflect.DeepEqual(before.Status, after.Status) {
		return nil
	}
	if err := l.client.Status().Patch(ctx, after, client.MergeFrom(before), client.FieldOwner(fieldOwner)); err != nil {
		return fmt.Errorf("write status of ExternalArtifact %q: %w", o.Name, err)
	}
	return nil
}

func (l *loop) apply(ctx context.Context, want, live *sourcev1.ExternalArtifact) error {
	obj, err := runtime.DefaultUnstructuredConverter.ToUnstructured(want)
	if err != nil {
		return err
	}
	delete(obj, "status")
	unstructured.RemoveNestedField(obj, "metadata", "creationTimestamp")
	u := &unstructured.Unstructured{Object: obj}
	if live != nil {
		u.SetUID(live.UID) // never one that somebody made meanwhile
	}
	return l.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(fieldOwner), client.ForceOwnership)
}

// sameArtifact compares everything that readers of an artifact see.
func sameArtifact(a, b *meta.Artifact) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Digest == b.Digest && a.Revision == b.Revision && a.URL == b.URL && a.Path == b.Path && maps.Equal(a.Metadata, b.Metadata)
}

// prune removes the generated objects that are not in the inventory any more,
// with their artifacts, and records the inventory.
func (l *loop) prune(ctx context.Context, s *scope) error {
	if s.current {
		return nil
	}
	stays := map[string]bool{}
	for _, ref := range s.inventory {
		stays[ref.Name] = true
	}
	goes := map[string]bool{}
	for _, ref := range s.obj.Status.Inventory {
		goes[ref.Name] = !stays[ref.Name]
	}
	for name := range s.owned {
		goes[name] = !stays[name]
	}
	for name, gone := range goes {
		if !gone {
			continue
		}
		if err := l.drop(ctx, s.obj, name); err != nil {
			return phase.Transient(meta.ReconciliationFailedReason, err)
		}
	}
	s.obj.Status.Inventory, s.obj.Status.ObservedSourcesDigest = s.inventory, s.digest
	return nil
}

// drop removes an artifact and its object, unless it became somebody else's.
func (l *loop) drop(ctx context.Context, g *swapi.ArtifactGenerator, name string) error {
	var x sourcev1.ExternalArtifact
	err := l.live.Get(ctx, client.ObjectKey{Namespace: g.Namespace, Name: name}, &x)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("read ExternalArtifact %q: %w", name, err)
	}
	exists := err == nil
	if exists && !mine(&x, g) {
		return nil
	}
	// The content goes first: once the object is gone, the name is free.
	if err := l.store.Remove(artifact.Key{Kind: sourcev1.ExternalArtifactKind, Namespace: g.Namespace, Name: name}); err != nil {
		return fmt.Errorf("remove artifact of ExternalArtifact %q: %w", name, err)
	}
	if !exists {
		return nil
	}
	err = l.client.Delete(ctx, &x, client.Preconditions{UID: &x.UID})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete ExternalArtifact %q: %w", name, err)
	}
	return nil
}

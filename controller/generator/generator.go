package generator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	swapi "github.com/fluxcd/source-watcher/api/v2/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/controller/generator/compose"
	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/event"
	"headwater.dev/kernel/phase"
)

// ownershipConflict is the reason of a generator whose artifact has the name of
// somebody else's.
const ownershipConflict = "OwnershipConflict"

type loop struct {
	client client.Client
	live   client.Reader
	store  *artifact.Store
	reader artifact.Reader
	// lockdown refuses sources in other namespaces.
	lockdown          bool
	requeueDependency time.Duration
}

// scope is what one reconcile has read so far.
type scope struct {
	obj *swapi.ArtifactGenerator
	// failed says that the object was not ready before.
	failed bool
	// sources are the artifacts by alias, digest identifies them all.
	sources map[string]input
	digest  string
	// owned are the generated objects by name.
	owned map[string]*sourcev1.ExternalArtifact
	// current says that there is nothing to do.
	current bool
	// changed counts the artifacts that are new.
	changed int
	// inventory is what there is now.
	inventory []swapi.ExternalArtifactReference
}

// input is the artifact of a source.
type input struct {
	name     string
	artifact meta.Artifact
	// origin is the revision that the source itself was made of.
	origin string
}

func (l *loop) begin(g *swapi.ArtifactGenerator) *scope {
	return &scope{obj: g, failed: conditions.IsFalse(g, meta.ReadyCondition)}
}

func (l *loop) phases() []phase.Phase[scope] {
	return []phase.Phase[scope]{
		{Name: "check the specification", Do: l.check},
		{Name: "find the sources", Do: l.findSources},
		{Name: "compare with what there is", Do: l.compare},
		{Name: "build the artifacts", Do: l.build},
		{Name: "remove what is not asked for any more", Do: l.prune},
	}
}

func (l *loop) finalizers() []phase.Phase[scope] {
	return []phase.Phase[scope]{
		{Name: "find the generated objects", Do: l.findOwned},
		{Name: "remove them", Do: l.prune},
	}
}

func (l *loop) check(_ context.Context, s *scope) error { return checkSpec(s.obj, l.lockdown) }

// checkSpec refuses what is not allowed and what can never work.
func checkSpec(g *swapi.ArtifactGenerator, lockdown bool) error {
	invalid := func(err error) error { return phase.Stalled(swapi.ValidationFailedReason, err) }
	var aliases []string
	outputs := map[string]bool{}
	for i, a := range g.Spec.OutputArtifacts {
		if outputs[a.Name] {
			return invalid(fmt.Errorf("spec.artifacts[%d].name: %q is there twice", i, a.Name))
		}
		outputs[a.Name] = true
	}
	for i, ref := range g.Spec.Sources {
		field := fmt.Sprintf("spec.sources[%d]", i)
		key := sourceKey(ref, g.Namespace)
		if slices.Contains(aliases, ref.Alias) || ref.Alias == swapiArtifactAlias {
			return invalid(fmt.Errorf("%s.alias: %q is taken: give each source its own", field, ref.Alias))
		}
		if newSource(ref.Kind) == nil {
			return invalid(fmt.Errorf("%s.kind: %q is not one of %s", field, ref.Kind, strings.Join(kinds(), ", ")))
		}
		if lockdown && key.Namespace != g.Namespace {
			return phase.Stalled(swapi.AccessDeniedReason,
				fmt.Errorf("%s: can't access '%s/%s', cross-namespace references have been blocked", field, ref.Kind, key))
		}
		if ref.Kind == sourcev1.ExternalArtifactKind && key.Namespace == g.Namespace && outputs[ref.Name] {
			return invalid(fmt.Errorf("%s: ExternalArtifact %q is made by this generator and can't be its source", field, ref.Name))
		}
		aliases = append(aliases, ref.Alias)
	}
	if err := checkOutputs(&g.Spec, aliases); err != nil {
		return invalid(err)
	}
	return nil
}

// swapiArtifactAlias is taken by the generated artifact.
const swapiArtifactAlias = "artifact"

func checkOutputs(spec *swapi.ArtifactGeneratorSpec, aliases []string) error {
	if spec.PathPattern != "" {
		p, err := compose.ParsePathPattern(spec.PathPattern)
		if err == nil && !slices.Contains(aliases, p.Alias) {
			err = fmt.Errorf("no source has the alias %q", p.Alias)
		}
		if err != nil {
			return fmt.Errorf("spec.pathPattern: %w", err)
		}
	}
	for i, a := range spec.OutputArtifacts {
		field := fmt.Sprintf("spec.artifacts[%d]", i)
		for name, ref := range map[string]string{"revision": a.Revision, "originRevision": a.OriginRevision} {
			if ref != "" && !slices.Contains(aliases, strings.TrimPrefix(ref, "@")) {
				return fmt.Errorf("%s.%s: no source has the alias %q", field, name, strings.TrimPrefix(ref, "@"))
			}
		}
		for j, op := range a.Copy {
			if err := compose.CheckCopy(op, aliases); err != nil {
				return fmt.Errorf("%s.copy[%d].%w", field, j, err)
			}
		}
	}
	return nil
}

// findSources reads the artifacts of all sources, and parks until they are
// there.
func (l *loop) findSources(ctx context.Context, s *scope) error {
	if err := l.refuseCycle(ctx, s.obj); err != nil {
		return err
	}
	s.sources = map[string]input{}
	observed := map[string]swapi.ObservedSource{}
	for _, ref := range s.obj.Spec.Sources {
		in, err := l.findSource(ctx, ref, s.obj.Namespace)
		if err != nil {
			return err
		}
		s.sources[ref.Alias] = in
		observed[ref.Alias] = swapi.ObservedSource{
			Digest: in.artifact.Digest, Revision: in.artifact.Revision, OriginRevision: in.origin, URL: in.artifact.URL,
		}
	}
	s.digest = swapi.HashObservedSources(observed)
	return nil
}

func (l *loop) findSource(ctx context.Context, ref swapi.SourceReference, namespace string) (input, error) {
	key := sourceKey(ref, namespace)
	in := input{name: ref.Kind + " '" + key.String() + "'"}
	obj := newSource(ref.Kind)
	err := l.client.Get(ctx, key, obj)
	if apierrors.IsNotFound(err) {
		return in, phase.Waiting(swapi.SourceFetchFailedReason, l.requeueDependency, fmt.Errorf("source %s not found", in.name))
	}
	if err != nil {
		return in, phase.Transient(swapi.SourceFetchFailedReason, fmt.Errorf("read source %s: %w", in.name, err))
	}
	a := obj.(sourcev1.Source).GetArtifact()
	if a == nil {
		return in, phase.Waiting(swapi.SourceFetchFailedReason, l.requeueDependency, fmt.Errorf("source %s has no artifact yet", in.name))
	}
	in.artifact, in.origin = *a, a.Metadata[swapi.ArtifactOriginRevisionAnnotation]
	if in.origin == "" && ref.Kind == sourcev1.GitRepositoryKind {
		in.origin = a.Revision
	}
	return in, nil
}

// refuseCycle refuses a generator that, over others, is its own source: each
// round would make a new artifact for the next.
func (l *loop) refuseCycle(ctx context.Context, g *swapi.ArtifactGenerator) error {
	seen := map[client.ObjectKey]bool{}
	next := []*swapi.ArtifactGenerator{g}
	for len(next) > 0 {
		at := next[0]
		next = next[1:]
		for _, ref := range at.Spec.Sources {
			maker, err := l.maker(ctx, ref, at.Namespace)
			if err != nil {
				return phase.Transient(swapi.SourceFetchFailedReason, err)
			}
			if maker == nil {
				continue
			}
			key := client.ObjectKeyFromObject(maker)
			if key == client.ObjectKeyFromObject(g) {
				return phase.Stalled(swapi.ValidationFailedReason,
					fmt.Errorf("ExternalArtifact '%s' is made, over other generators, of what this one makes: remove one of these sources", sourceKey(ref, at.Namespace)))
			}
			if !seen[key] {
				seen[key] = true
				next = append(next, maker)
			}
		}
	}
	return nil
}

// maker is the generator that makes a source, nil when none does.
func (l *loop) maker(ctx context.Context, ref swapi.SourceReference, namespace string) (*swapi.ArtifactGenerator, error) {
	if ref.Kind != sourcev1.ExternalArtifactKind {
		return nil, nil
	}
	key := sourceKey(ref, namespace)
	var x sourcev1.ExternalArtifact
	if err := l.client.Get(ctx, key, &x); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	by := x.Spec.SourceRef
	if by == nil || by.Kind != swapi.ArtifactGeneratorKind {
		return nil, nil
	}
	var g swapi.ArtifactGenerator
	if err := l.client.Get(ctx, client.ObjectKey{Namespace: x.Namespace, Name: by.Name}, &g); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return &g, nil
}

// compare finds out whether there is anything to do.
func (l *loop) compare(ctx context.Context, s *scope) error {
	if err := l.findOwned(ctx, s); err != nil {
		return err
	}
	g := s.obj
	if !conditions.IsReady(g) || conditions.GetObservedGeneration(g, meta.ReadyCondition) != g.Generation || g.Status.ObservedSourcesDigest != s.digest {
		return nil
	}
	if s.current = l.intact(ctx, s); s.current {
		return nil
	}
	// The cache may not have seen yet what this loop wrote last.
	if err := l.listOwned(ctx, l.live, s); err != nil {
		return err
	}
	s.current = l.intact(ctx, s)
	return nil
}

// intact reports whether everything in the inventory is as it was left.
func (l *loop) intact(ctx context.Context, s *scope) bool {
	if len(s.owned) != len(s.obj.Status.Inventory) {
		return false
	}
	for _, ref := range s.obj.Status.Inventory {
		x := s.owned[ref.Name]
		if x == nil || !x.DeletionTimestamp.IsZero() || !mine(x, s.obj) || x.Status.Artifact == nil || x.Status.Artifact.Digest != ref.Digest || !conditions.IsReady(x) {
			return false
		}
		if x.Status.Artifact.URL != l.store.URL(x.Status.Artifact.Path) || l.store.Verify(ctx, *x.Status.Artifact) != nil {
			return false
		}
	}
	s.inventory = s.obj.Status.Inventory
	return true
}

func (l *loop) findOwned(ctx context.Context, s *scope) error { return l.listOwned(ctx, l.client, s) }

// listOwned reads the objects that carry the generator's label.
func (l *loop) listOwned(ctx context.Context, from client.Reader, s *scope) error {
	var list sourcev1.ExternalArtifactList
	err := from.List(ctx, &list, client.InNamespace(s.obj.Namespace), client.MatchingLabels{swapi.ArtifactGeneratorLabel: string(s.obj.UID)})
	if err != nil {
		return phase.Transient(meta.ReconciliationFailedReason, fmt.Errorf("list ExternalArtifacts: %w", err))
	}
	s.owned = map[string]*sourcev1.ExternalArtifact{}
	for i := range list.Items {
		s.owned[list.Items[i].Name] = &list.Items[i]
	}
	return nil
}

func (l *loop) success(s *scope) phase.Success {
	out := phase.Success{
		Reason: meta.SucceededReason, Interval: s.obj.GetRequeueAfter(),
		Message: fmt.Sprintf("reconciliation succeeded, generated %d artifact(s)", len(s.inventory)),
	}
	if s.changed > 0 || s.failed {
		out.Event = &event.Event{Severity: event.Info, Reason: out.Reason, Message: out.Message}
	}
	return out
}

// buildFailed classes what went wrong with an artifact.
func buildFailed(name string, err error) error {
	var classed *phase.Error
	if errors.As(err, &classed) {
		return err
	}
	return phase.Transient(meta.BuildFailedReason, fmt.Errorf("artifact %q: %w", name, err))
}

package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/controller/source/charts"
	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/phase"
)

// Reasons of charts, as upstream names them.
const (
	invalidChartReference = "InvalidChartReference"
	chartPullError        = "ChartPullError"
	valuesFilesError      = "ValuesFilesError"
	dependencyBuildError  = "DependencyBuildError"
	chartPackageError     = "ChartPackageError"
	sourceUnavailable     = "SourceUnavailable"
	noSourceArtifact      = "NoSourceArtifact"
	// chartVerificationError is the reason of signatures that do not fit.
	chartVerificationError = "ChartVerificationError"
)

// chartScope is one reconcile of a HelmChart.
type chartScope struct {
	base
	obj *sourcev1.HelmChart
	// source is what the chart comes from, with its artifact; a registry has
	// none.
	source sourcev1.Source
	plan   plan
	// verified is what the check of the chart's signature came to.
	verified verdict
}

// stored reports whether the stored chart is the wanted one. One whose
// signature was not checked before is not: what is stored in its version may
// have come from elsewhere.
func (s *chartScope) stored() bool {
	o := s.obj
	return o.Status.Artifact.HasRevision(s.plan.version) && o.Status.ObservedGeneration == o.Generation && o.Status.ObservedChartName == s.plan.name &&
		s.verified != newlyGood
}

// plan is which version of the chart is wanted, and how it is made.
type plan struct {
	name, version string
	build         func(context.Context) (made, error)
}

// made is a chart that is ready to be published.
type made struct {
	write    func(io.Writer) error
	packaged bool // by us, rather than taken as it was
	values   []string
}

func (l *loops) helmChart() *phase.Reconciler[*sourcev1.HelmChart, chartScope] {
	return &phase.Reconciler[*sourcev1.HelmChart, chartScope]{
		Client: l.client, Live: l.host.Manager.GetAPIReader(), Events: l.events,
		FieldOwner: fieldOwner, Finalizer: sourcev1.SourceFinalizer,
		New:       func() *sourcev1.HelmChart { return &sourcev1.HelmChart{} },
		Suspended: func(o *sourcev1.HelmChart) bool { return o.Spec.Suspend },
		Status: func(o *sourcev1.HelmChart) phase.Fields {
			return phase.Fields{ObservedGeneration: &o.Status.ObservedGeneration, HandledReconcileAt: &o.Status.LastHandledReconcileAt}
		},
		Begin: func(o *sourcev1.HelmChart) *chartScope {
			return &chartScope{base: newBase(sourcev1.HelmChartKind, o, &o.Status.Artifact), obj: o}
		},
		Phases: []phase.Phase[chartScope]{
			{Name: "check the specification", Do: checkChart},
			{Name: "look for the stored chart", Do: func(ctx context.Context, s *chartScope) error { return l.recall(ctx, &s.base) }},
			{Name: "find the source", Do: l.chartSource},
			{Name: "find the wanted version", Do: l.chartPlan},
			{Name: "build and store the chart", Do: l.chartBuild},
		},
		Finalize: []phase.Phase[chartScope]{
			{Name: "remove the artifacts", Do: func(_ context.Context, s *chartScope) error { return l.forget(&s.base) }},
		},
		Success:  func(s *chartScope) phase.Success { return s.success(s.obj.GetRequeueAfter()) },
		Metadata: func(s *chartScope) map[string]string { return metadata(s.obj.Status.Artifact) },
		Gone: func(n types.NamespacedName) {
			l.gone(sourcev1.HelmChartKind)(n)
			l.notes(sourcev1.HelmChartKind).Forget(n)
		},
	}
}

// checkChart refuses what cannot work, before anything is done.
func checkChart(_ context.Context, s *chartScope) error {
	if v := s.obj.Spec.Verify; v != nil && s.obj.Spec.SourceRef.Kind != sourcev1.HelmRepositoryKind {
		return s.chartFailed(phase.Stalled(chartVerificationError, errors.New("spec.verify: signatures are checked of charts from a HelmRepository of type oci only")))
	}
	return nil
}

// chartSource reads the source; a missing one, or one without artifact, is
// waited for.
func (l *loops) chartSource(ctx context.Context, s *chartScope) error {
	ref := s.obj.Spec.SourceRef
	var src sourcev1.Source
	switch ref.Kind {
	case sourcev1.HelmRepositoryKind:
		src = &sourcev1.HelmRepository{}
	case sourcev1.GitRepositoryKind:
		src = &sourcev1.GitRepository{}
	case sourcev1.BucketKind:
		src = &sourcev1.Bucket{}
	default:
		return fetchFailed(s.obj, phase.Stalled(sourceUnavailable, fmt.Errorf("spec.sourceRef.kind: %q is not supported: use HelmRepository, GitRepository or Bucket", ref.Kind)))
	}
	after := l.host.Options.RequeueDependency
	err := l.client.Get(ctx, client.ObjectKey{Namespace: s.obj.Namespace, Name: ref.Name}, src.(client.Object))
	if apierrors.IsNotFound(err) {
		return fetchFailed(s.obj, phase.Waiting(sourceUnavailable, after, fmt.Errorf("failed to get source: %s '%s/%s' not found", ref.Kind, s.obj.Namespace, ref.Name)))
	}
	if err != nil {
		return fetchFailed(s.obj, phase.Transient(sourceUnavailable, fmt.Errorf("failed to get source: %w", err)))
	}
	s.source = src
	if repo, ok := src.(*sourcev1.HelmRepository); ok && isOCI(repo) {
		return nil
	}
	if src.GetArtifact() == nil {
		return fetchFailed(s.obj, phase.Waiting(noSourceArtifact, after, fmt.Errorf("no artifact available for %s source '%s'", ref.Kind, ref.Name)))
	}
	return nil
}

// chartPlan finds out which version is wanted.
func (l *loops) chartPlan(ctx context.Context, s *chartScope) error {
	ctx, cancel := context.WithTimeout(ctx, defaultTimeout)
	defer cancel()
	var err error
	if repo, ok := s.source.(*sourcev1.HelmRepository); ok {
		s.plan, err = l.planRemote(ctx, s, repo)
	} else {
		s.plan, err = l.planTree(ctx, s)
	}
	if err != nil {
		return s.chartFailed(err)
	}
	return nil
}

// planRemote finds the version in a repository or registry.
func (l *loops) planRemote(ctx context.Context, s *chartScope, repo *sourcev1.HelmRepository) (plan, error) {
	o := s.obj
	found, err := l.findChart(ctx, repo, o.Spec.Chart, o.Spec.Version)
	if err != nil {
		return plan{}, err
	}
	if err := l.chartVerify(ctx, s, repo, &found); err != nil {
		return plan{}, err
	}
	metadata := ""
	if len(o.Spec.ValuesFiles) > 0 {
		metadata = strconv.FormatInt(o.Generation, 10)
	}
	p := plan{name: o.Spec.Chart}
	if p.version, err = charts.WithMetadata(found.version, metadata); err != nil {
		return plan{}, phase.Stalled(invalidChartReference, err)
	}
	p.build = func(ctx context.Context) (made, error) {
		data, err := found.pull(ctx)
		if err != nil {
			return made{}, err
		}
		b, err := charts.OpenArchive(data)
		if err == nil && (b.Meta.Name != path0(o.Spec.Chart) || b.Meta.Version != found.version) {
			err = fmt.Errorf("the archive holds chart %q in version %q, not %q in version %q", b.Meta.Name, b.Meta.Version, o.Spec.Chart, found.version)
		}
		if err != nil {
			return made{}, phase.Transient(chartPullError, err)
		}
		if len(o.Spec.ValuesFiles) == 0 {
			return made{write: func(w io.Writer) error { _, err := w.Write(data); return err }}, nil
		}
		return finish(o, b, metadata, b.ReadOwn)
	}
	return p, nil
}

// chartVerify checks who signed the chart, and pins it to what was checked.
func (l *loops) chartVerify(ctx context.Context, s *chartScope, repo *sourcev1.HelmRepository, found *remoteChart) error {
	o := s.obj
	if o.Spec.Verify == nil {
		conditions.Delete(o, sourcev1.SourceVerifiedCondition)
		return nil
	}
	if !isOCI(repo) {
		return phase.Stalled(chartVerificationError, errors.New("spec.verify: signatures are checked of charts from a HelmRepository of type oci only"))
	}
	verdict, err := l.verifyChart(ctx, o, repo, found)
	s.verified = verdict
	switch {
	case err != nil:
		err = fmt.Errorf("chart verification error: %w", err)
		conditions.MarkFalse(o, sourcev1.SourceVerifiedCondition, sourcev1.VerificationError, "%s", err)
		e := phase.Classify(err)
		e.Reason = chartVerificationError
		return e
	case verdict != unchecked:
		conditions.MarkTrue(o, sourcev1.SourceVerifiedCondition, meta.SucceededReason, "verified signature of version %s", found.version)
	default:
		conditions.Delete(o, sourcev1.SourceVerifiedCondition)
	}
	return nil
}

// chartSecrets names the Secrets of a chart's own that concern it.
func chartSecrets(o client.Object) []string {
	if v := o.(*sourcev1.HelmChart).Spec.Verify; v != nil {
		return names(v.SecretRef)
	}
	return nil
}

// path0 gives the last segment of a chart's name, which in a registry may have
// several.
func path0(chart string) string { return chart[strings.LastIndexByte(chart, '/')+1:] }

// planTree reads the version from the chart's files in another artifact.
func (l *loops) planTree(ctx context.Context, s *chartScope) (plan, error) {
	o, a := s.obj, *s.source.GetArtifact()
	tree, err := l.reader.Tree(ctx, a)
	if err != nil {
		return plan{}, phase.Transient(noSourceArtifact, err)
	}
	defer tree.Release()
	b, err := charts.OpenDir(tree.Root, o.Spec.Chart)
	if err != nil {
		return plan{}, phase.Stalled(invalidChartReference, err)
	}
	metadata := treeMetadata(o, a.Revision)
	p := plan{name: b.Meta.Name}
	if p.version, err = charts.WithMetadata(b.Meta.Version, metadata); err != nil {
		return plan{}, phase.Stalled(invalidChartReference, err)
	}
	p.build = func(ctx context.Context) (made, error) {
		tree, err := l.reader.Tree(ctx, a)
		if err != nil {
			return made{}, phase.Transient(noSourceArtifact, err)
		}
		defer tree.Release()
		b, err := charts.OpenDir(tree.Root, o.Spec.Chart)
		if err != nil {
			return made{}, phase.Stalled(invalidChartReference, err)
		}
		if err := l.addDependencies(ctx, o.Namespace, b, place{root: tree.Root, dir: o.Spec.Chart}); err != nil {
			return made{}, err
		}
		return finish(o, b, metadata, charts.ReadTree(tree.Root))
	}
	return p, nil
}

// treeMetadata is what the version of a chart from another artifact gets
// appended: the revision when every revision counts, and the generation when
// values are merged in.
func treeMetadata(o *sourcev1.HelmChart, revision string) string {
	var parts []string
	if o.Spec.ReconcileStrategy == sourcev1.ReconcileStrategyRevision {
		hash := revision[strings.LastIndexByte(revision, ':')+1:]
		parts = append(parts, hash[:min(12, len(hash))])
	}
	if len(o.Spec.ValuesFiles) > 0 {
		parts = append(parts, strconv.FormatInt(o.Generation, 10))
	}
	return strings.Join(parts, ".")
}

// finish merges values, sets the version and packs.
func finish(o *sourcev1.HelmChart, b *charts.Bundle, metadata string, read func(string) ([]byte, error)) (made, error) {
	used, err := b.MergeValues(o.Spec.ValuesFiles, o.Spec.IgnoreMissingValuesFiles, read)
	if err != nil {
		return made{}, phase.Stalled(valuesFilesError, err)
	}
	if err := b.SetVersion(metadata); err != nil {
		return made{}, phase.Transient(chartPackageError, err)
	}
	return made{write: b.Pack, packaged: true, values: used}, nil
}

// chartBuild makes and publishes the chart when it is not the one that is
// stored.
func (l *loops) chartBuild(ctx context.Context, s *chartScope) error {
	o := s.obj
	stored := conditions.Get(o, sourcev1.ArtifactInStorageCondition)
	reason, message := sourcev1.ChartPullSucceededReason, fmt.Sprintf("pulled '%s' chart with version '%s'", s.plan.name, s.plan.version)
	if s.stored() && stored != nil {
		reason, message = stored.Reason, stored.Message
	} else {
		build, cancel := context.WithTimeout(ctx, packTimeout)
		defer cancel()
		m, err := s.plan.build(build)
		if err != nil {
			return s.chartFailed(err)
		}
		err = l.publish(ctx, &s.base, artifact.Put{
			File: fmt.Sprintf("%s-%s.tgz", path0(s.plan.name), s.plan.version), Latest: "latest.tar.gz", Revision: s.plan.version, Write: m.write,
		})
		if err != nil {
			s.unverify()
			return storageFailed(o, sourcev1.ArchiveOperationFailedReason, err)
		}
		if m.packaged {
			reason, message = sourcev1.ChartPackageSucceededReason, fmt.Sprintf("packaged '%s' chart with version '%s'", s.plan.name, s.plan.version)
			if len(m.values) > 0 {
				message += fmt.Sprintf(" and merged values files %v", m.values)
			}
		}
		o.Status.ObservedValuesFiles = m.values
		s.announce(message)
		s.event.Reason = reason
	}
	o.Status.ObservedChartName = s.plan.name
	o.Status.ObservedSourceArtifactRevision = ""
	if a := s.source.GetArtifact(); a != nil {
		o.Status.ObservedSourceArtifactRevision = a.Revision
	}
	o.Status.URL = l.store.LatestURL(s.key, "latest.tar.gz")
	return l.stored(&s.base, reason, message)
}

// unverify has the signature checked again, since what it is of was not stored.
func (s *chartScope) unverify() {
	if s.verified == newlyGood {
		conditions.Delete(s.obj, sourcev1.SourceVerifiedCondition)
	}
}

// chartFailed sets the condition that fits the error.
func (s *chartScope) chartFailed(err error) error {
	s.unverify()
	e := phase.Classify(err)
	failed, other := sourcev1.FetchFailedCondition, sourcev1.BuildFailedCondition
	switch e.Reason {
	case valuesFilesError, dependencyBuildError, chartPackageError, chartVerificationError:
		failed, other = other, failed
	}
	conditions.Delete(s.obj, other)
	conditions.MarkTrue(s.obj, failed, e.Reason, "%s", e.Error())
	if e.Reason == meta.FailedReason {
		return phase.Transient(chartPullError, err)
	}
	return err
}

// chartRemote names the source of a chart, for the gate.
func chartRemote(o client.Object) string { return o.GetNamespace() + "/" + chartSourceKey(o) }

// chartSourceKey names the source of a chart, for the index by source.
func chartSourceKey(o client.Object) string {
	ref := o.(*sourcev1.HelmChart).Spec.SourceRef
	return ref.Kind + "/" + ref.Name
}

package helm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/acl"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/release"
)

const (
	fieldOwner   = "helm-controller"
	labelName    = "helm.toolkit.fluxcd.io/name"
	labelNS      = "helm.toolkit.fluxcd.io/namespace"
	sourceReason = "SourceNotReady"
)

// chartSource is where the chart comes from.
type chartSource struct {
	kind     string
	key      types.NamespacedName
	artifact meta.Artifact
	// ociDigest tells contents of one version apart; it becomes part of the
	// version.
	ociDigest string
}

// sourceOf returns the reference to the object with the chart's artifact.
func sourceOf(hr *v2.HelmRelease) chartSource {
	if ref := hr.Spec.ChartRef; ref != nil {
		ns := ref.Namespace
		if ns == "" {
			ns = hr.Namespace
		}
		return chartSource{kind: ref.Kind, key: types.NamespacedName{Namespace: ns, Name: ref.Name}}
	}
	if hr.Spec.Chart == nil {
		return chartSource{}
	}
	key := types.NamespacedName{Namespace: hr.Spec.Chart.GetNamespace(hr.Namespace), Name: hr.GetHelmChartName()}
	return chartSource{kind: sourcev1.HelmChartKind, key: key}
}

// denied is the refusal of a reference into another namespace.
func denied(kind string, key types.NamespacedName) error {
	return phase.Stalled(acl.AccessDeniedReason,
		fmt.Errorf("can't access '%s/%s', cross-namespace references have been blocked", kind, key))
}

// bringChart creates or updates the HelmChart of spec.chart and deletes the
// one that is no longer named.
func (l *loop) bringChart(ctx context.Context, s *scope) error {
	hr, src := s.hr, sourceOf(s.hr)
	if l.noCrossNamespace && src.key.Namespace != hr.Namespace {
		if hr.Spec.Chart != nil {
			ref := hr.Spec.Chart.Spec.SourceRef
			return denied(ref.Kind, types.NamespacedName{Namespace: src.key.Namespace, Name: ref.Name})
		}
		return denied(src.kind, src.key)
	}
	if old := chartInStatus(hr); old != nil && (hr.Spec.Chart == nil || *old != src.key) {
		if err := l.deleteChartAt(ctx, hr, *old); err != nil {
			return err
		}
		hr.Status.HelmChart = ""
	}
	if hr.Spec.Chart == nil {
		return nil
	}
	want := chartObject(hr, src.key)
	var live sourcev1.HelmChart
	err := l.client.Get(ctx, src.key, &live)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("read HelmChart '%s': %w", src.key, err)
	}
	// What is no longer named in the template's metadata is only found by
	// applying it, once for each generation.
	renamed := hr.Spec.Chart.ObjectMeta != nil && hr.Status.LastAttemptedGeneration != hr.Generation
	if err != nil || renamed || !upToDate(&live, want) {
		if err := l.applyChart(ctx, want); err != nil {
			return fmt.Errorf("apply HelmChart '%s': %w", src.key, err)
		}
	}
	hr.Status.HelmChart = src.key.String()
	return nil
}

func chartInStatus(hr *v2.HelmRelease) *types.NamespacedName {
	ns, name := hr.Status.GetHelmChart()
	if name == "" {
		return nil
	}
	return &types.NamespacedName{Namespace: ns, Name: name}
}

// chartObject is the HelmChart that spec.chart asks for.
func chartObject(hr *v2.HelmRelease, key types.NamespacedName) *sourcev1.HelmChart {
	t := hr.Spec.Chart
	chart := &sourcev1.HelmChart{
		TypeMeta:   metav1.TypeMeta{APIVersion: sourcev1.GroupVersion.String(), Kind: sourcev1.HelmChartKind},
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name},
		Spec: sourcev1.HelmChartSpec{
			Chart:   t.Spec.Chart,
			Version: t.Spec.Version,
			SourceRef: sourcev1.LocalHelmChartSourceReference{
				APIVersion: t.Spec.SourceRef.APIVersion, Kind: t.Spec.SourceRef.Kind, Name: t.Spec.SourceRef.Name,
			},
			Interval:                 t.GetInterval(hr.Spec.Interval),
			ReconcileStrategy:        t.Spec.ReconcileStrategy,
			ValuesFiles:              t.Spec.ValuesFiles,
			IgnoreMissingValuesFiles: t.Spec.IgnoreMissingValuesFiles,
		},
	}
	// The defaults of the kind, so that an unchanged object is recognised.
	if chart.Spec.Version == "" {
		chart.Spec.Version = "*"
	}
	if chart.Spec.ReconcileStrategy == "" {
		chart.Spec.ReconcileStrategy = sourcev1.ReconcileStrategyChartVersion
	}
	if v := t.Spec.Verify; v != nil {
		chart.Spec.Verify = &sourcev1.HelmChartVerification{Provider: v.Provider, SecretRef: v.SecretRef}
	}
	chart.Labels = map[string]string{}
	if t.ObjectMeta != nil {
		maps.Copy(chart.Labels, t.ObjectMeta.Labels)
		chart.Annotations = maps.Clone(t.ObjectMeta.Annotations)
	}
	chart.Labels[labelName], chart.Labels[labelNS] = hr.Name, hr.Namespace
	return chart
}

// upToDate reports whether the live object holds everything that is wanted.
func upToDate(live, want *sourcev1.HelmChart) bool {
	return live.DeletionTimestamp.IsZero() &&
		reflect.DeepEqual(live.Spec, want.Spec) &&
		contains(live.Labels, want.Labels) && contains(live.Annotations, want.Annotations)
}

func contains(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func (l *loop) applyChart(ctx context.Context, chart *sourcev1.HelmChart) error {
	obj, err := runtime.DefaultUnstructuredConverter.ToUnstructured(chart)
	if err != nil {
		return err
	}
	delete(obj, "status")
	unstructured.RemoveNestedField(obj, "metadata", "creationTimestamp")
	return l.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(&unstructured.Unstructured{Object: obj}),
		client.FieldOwner(fieldOwner), client.ForceOwnership)
}

func (l *loop) deleteChart(ctx context.Context, s *scope) error {
	if key := chartInStatus(s.hr); key != nil {
		return l.deleteChartAt(ctx, s.hr, *key)
	}
	return nil
}

// deleteChartAt deletes a HelmChart that this HelmRelease made.
func (l *loop) deleteChartAt(ctx context.Context, hr *v2.HelmRelease, key types.NamespacedName) error {
	var chart sourcev1.HelmChart
	if err := l.client.Get(ctx, key, &chart); err != nil {
		return client.IgnoreNotFound(err)
	}
	if chart.Labels[labelName] != hr.Name || chart.Labels[labelNS] != hr.Namespace {
		return nil
	}
	err := l.client.Delete(ctx, &chart, client.Preconditions{UID: &chart.UID})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete HelmChart '%s': %w", key, err)
	}
	return nil
}

// withArtifact is a source object.
type withArtifact interface {
	client.Object
	conditions.Getter
	GetArtifact() *meta.Artifact
}

// findChart reads the chart's artifact from the object that has it, and parks
// until there is one.
func (l *loop) findChart(ctx context.Context, s *scope) error {
	s.source = sourceOf(s.hr)
	name := fmt.Sprintf("%s '%s'", s.source.kind, s.source.key)
	obj, observed, err := l.readSource(ctx, s.source)
	if apierrors.IsNotFound(err) {
		if s.hr.Spec.Chart != nil {
			return phase.Progressing(sourceReason, l.requeueDependency, fmt.Errorf("%s is not ready: it has just been created", name))
		}
		return phase.Waiting(sourceReason, l.requeueDependency, fmt.Errorf("%s is not found", name))
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if why := unready(obj, observed); why != "" {
		if !conditions.Has(obj, meta.ReadyCondition) {
			return phase.Progressing(sourceReason, l.requeueDependency, fmt.Errorf("%s is not ready: %s", name, why))
		}
		return phase.Waiting(sourceReason, l.requeueDependency, fmt.Errorf("%s is not ready: %s", name, why))
	}
	s.source.artifact = *obj.GetArtifact()
	switch s.source.kind {
	case sourcev1.OCIRepositoryKind:
		if _, d, ok := strings.Cut(s.source.artifact.Revision, "@"); ok {
			s.source.ociDigest = d
		}
	case sourcev1.ExternalArtifactKind:
		// Whoever composes a chart seldom counts its version up.
		s.source.ociDigest = s.source.artifact.Digest
	}
	return nil
}

// readSource returns the source and the generation that it has observed.
func (l *loop) readSource(ctx context.Context, src chartSource) (withArtifact, int64, error) {
	switch src.kind {
	case sourcev1.HelmChartKind:
		obj := &sourcev1.HelmChart{}
		err := l.client.Get(ctx, src.key, obj)
		return obj, obj.Status.ObservedGeneration, err
	case sourcev1.OCIRepositoryKind:
		obj := &sourcev1.OCIRepository{}
		err := l.client.Get(ctx, src.key, obj)
		return obj, obj.Status.ObservedGeneration, err
	case sourcev1.ExternalArtifactKind:
		// Its maker writes status and specification together.
		obj := &sourcev1.ExternalArtifact{}
		err := l.client.Get(ctx, src.key, obj)
		return obj, obj.Generation, err
	default:
		return nil, 0, phase.Stalled("InvalidChartReference",
			fmt.Errorf("spec.chartRef.kind %s is not supported; use OCIRepository, HelmChart or ExternalArtifact", src.kind))
	}
}

// unready tells why a source has no artifact for its current specification. A
// source that fails now but has an artifact is good enough.
func unready(obj withArtifact, observed int64) string {
	message := conditions.GetMessage(obj, meta.ReadyCondition)
	switch {
	case observed != obj.GetGeneration() && conditions.IsFalse(obj, meta.ReadyCondition):
		return message
	case observed != obj.GetGeneration():
		return "latest generation of object has not been reconciled"
	case conditions.IsStalled(obj):
		return conditions.GetMessage(obj, meta.StalledCondition)
	case obj.GetArtifact() == nil && message != "":
		return message
	case obj.GetArtifact() == nil:
		return "does not have an artifact"
	}
	return ""
}

// loadChart reads the chart anew; an action changes it.
func (l *loop) loadChart(ctx context.Context, s *scope) (*release.Chart, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	f, err := l.reader.File(ctx, s.source.artifact)
	if err != nil {
		return nil, phase.Transient(v2.ArtifactFailedReason, fmt.Errorf("fetch artifact of %s '%s': %w", s.source.kind, s.source.key, err))
	}
	defer f.Release()
	chart, err := release.LoadArchive(f.Path)
	if err != nil {
		err = fmt.Errorf("chart of %s '%s': %w", s.source.kind, s.source.key, err)
		if errors.Is(err, release.ErrChartTooLarge) {
			return nil, phase.Stalled(v2.ArtifactFailedReason, err)
		}
		return nil, phase.Transient(v2.ArtifactFailedReason, err)
	}
	if s.source.ociDigest != "" {
		chart.Metadata.Version = withDigest(chart.Metadata.Version, s.source.ociDigest)
	}
	return chart, nil
}

// withDigest appends the first 12 characters of a digest to a version as build
// metadata, so that a moved tag is a new version.
func withDigest(version, digest string) string {
	v, err := semver.NewVersion(version)
	if err != nil {
		return version
	}
	_, hex, ok := strings.Cut(digest, ":")
	if !ok || len(hex) < 12 {
		return version
	}
	build := hex[:12]
	if m := v.Metadata(); m != "" {
		build = m + "." + build
	}
	next, err := v.SetMetadata(build)
	if err != nil {
		return version
	}
	return next.String()
}

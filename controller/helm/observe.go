package helm

import (
	"context"
	"errors"
	"fmt"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"

	"headwater.dev/kernel/release"
)

// want works out the release that is asked for and notes the attempt in
// status. New inputs start the count of failures anew.
func (l *loop) want(s *scope, chart *release.Chart) {
	hr := s.hr
	s.wanted = wanted{
		Name:             releaseName(hr),
		Namespace:        hr.GetReleaseNamespace(),
		StorageNamespace: hr.GetStorageNamespace(),
		ChartName:        chart.Name(),
		ChartVersion:     chart.Metadata.Version,
		ConfigDigest:     configDigest(s.values),
		RenderDigest:     renderDigest(hr.Spec),
		Force:            s.force,
	}
	st := &hr.Status
	if st.LastAttemptedGeneration != hr.Generation || st.LastAttemptedRevision != s.wanted.ChartVersion ||
		st.LastAttemptedConfigDigest != s.wanted.ConfigDigest || st.LastAttemptedRevisionDigest != s.source.ociDigest {
		st.ClearFailures()
	}
	st.LastAttemptedGeneration = hr.Generation
	st.LastAttemptedRevision = s.wanted.ChartVersion
	st.LastAttemptedRevisionDigest = s.source.ociDigest
}

// observe reads what storage holds and returns everything that decides.
func (l *loop) observe(ctx context.Context, s *scope) (situation, error) {
	if !s.known {
		history, err := s.releases.History(ctx, s.wanted.Name, s.wanted.StorageNamespace)
		if err != nil && !errors.Is(err, release.ErrNotFound) {
			return situation{}, err
		}
		s.history, s.known = history, true
	}
	hr, history := s.hr, s.history
	sit := situation{
		Wanted:               s.wanted,
		Last:                 hr.Status.History.Latest(),
		LastStorageNamespace: hr.Status.StorageNamespace,
		RenderDigest:         attemptedRender(hr),
		ValuesPreserved:      hr.GetUpgrade().PreserveValues,
		AttemptedConfig:      hr.Status.LastAttemptedConfigDigest,
		Released:             conditions.IsTrue(hr, v2.ReleasedCondition),
		Reinstall:            hr.GetUpgrade().GetChartNameChangeStrategy() == v2.ChartNameChangeStrategyReinstall,
		Attempts:             attemptsOf(hr),
	}
	if len(history) > 0 {
		rel := history[0]
		sit.Stored = &stored{
			Version:      rel.Version,
			Status:       rel.Info.Status,
			ChartName:    rel.Chart.Name(),
			ChartVersion: rel.Chart.Metadata.Version,
			ConfigDigest: configDigest(rel.Config),
			Ours: sit.Last != nil && sit.Last.Targets(rel.Name, rel.Namespace, rel.Version) &&
				sit.Last.Digest == releaseDigest(rel),
		}
		sit.Good = goodRevision(hr, history)
	}
	sit.Drift = s.drift().MustDetectChanges() && !s.driftChecked
	sit.Tests = hr.GetTest().Enable && !tested(sit.Last)
	return sit, nil
}

// goodRevision is the newest remembered revision before the last one that was
// once deployed and that storage still holds.
func goodRevision(hr *v2.HelmRelease, history []*release.Release) int {
	good := hr.Status.History.Previous(ignoreTests(hr))
	if good == nil {
		return 0
	}
	for _, rel := range history {
		if good.Targets(rel.Name, rel.Namespace, rel.Version) && (rel.Info.Status == "superseded" || rel.Info.Status == "deployed") {
			return rel.Version
		}
	}
	return 0
}

func attemptsOf(hr *v2.HelmRelease) attempts {
	a := attempts{Action: hr.Status.LastAttemptedReleaseAction}
	r := hr.GetActiveRemediation()
	if r == nil {
		return attempts{}
	}
	a.Failures = r.GetFailureCount(hr)
	a.Exhausted = r.RetriesExhausted(hr)
	a.RemediateLast = r.MustRemediateLastFailure()
	a.Uninstall = r.GetStrategy() == v2.UninstallRemediationStrategy
	a.Retry = hr.GetActiveRetry(false) != nil
	return a
}

func ignoreTests(hr *v2.HelmRelease) bool {
	if r := hr.GetActiveRemediation(); r != nil {
		return r.MustIgnoreTestFailures(hr.GetTest().IgnoreFailures)
	}
	return hr.GetTest().IgnoreFailures
}

func tested(s *v2.Snapshot) bool { return s != nil && s.TestHooks != nil }

// attemptedRender is the render digest of the last attempt.
func attemptedRender(hr *v2.HelmRelease) string {
	return hr.Status.ObservedPostRenderersDigest
}

// inputs is a digest of everything that a verification depends on; it changes
// when anything has to be looked at again.
func (s *scope) inputs() string {
	at, _ := meta.ReconcileAnnotationValue(s.hr.Annotations)
	return digestOf([]any{
		s.hr.UID, s.hr.Generation, at, s.source.kind, s.source.key.String(),
		s.source.artifact.Digest, s.source.artifact.Revision, configDigest(s.values),
	})
}

// releaseName is the name of the release, cut to what Helm allows.
func releaseName(hr *v2.HelmRelease) string { return shorten(hr.GetReleaseName()) }

func fullName(s *scope) string { return fmt.Sprintf("%s/%s", s.wanted.Namespace, s.wanted.Name) }

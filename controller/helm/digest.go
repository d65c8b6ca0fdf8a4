package helm

import (
	"encoding/json"
	"fmt"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/opencontainers/go-digest"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/kernel/release"
)

// digestOf returns a digest of the JSON form of v, in which maps are sorted.
// It is empty when v cannot be encoded, which nothing decoded from JSON or
// YAML is.
func digestOf(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return digest.FromBytes(data).String()
}

// configDigest is the digest of composed values; none and empty are equal.
func configDigest(values map[string]any) string {
	if values == nil {
		values = map[string]any{}
	}
	return digestOf(values)
}

// renderDigest is the digest of what changes manifests after rendering.
func renderDigest(spec v2.HelmReleaseSpec) string {
	if len(spec.PostRenderers) == 0 && spec.CommonMetadata == nil && spec.PostRenderStrategy == "" {
		return ""
	}
	return digestOf([]any{spec.PostRenderers, spec.CommonMetadata, spec.PostRenderStrategy})
}

// releaseDigest is the digest of everything in a stored revision that no later
// action of the same revision changes.
func releaseDigest(rel *release.Release) string {
	hooks := make([]string, 0, len(rel.Hooks))
	for _, h := range rel.Hooks {
		hooks = append(hooks, h.Path+"\n"+h.Manifest)
	}
	return digestOf(map[string]any{
		"name": rel.Name, "namespace": rel.Namespace, "version": rel.Version,
		"status": rel.Info.Status, "chart": rel.Chart.Metadata,
		"config": configDigest(rel.Config), "manifest": rel.Manifest, "hooks": hooks,
	})
}

// snapshot is what status remembers of a revision.
func snapshot(rel *release.Release, action v2.ReleaseAction, ociDigest string) *v2.Snapshot {
	s := &v2.Snapshot{
		APIVersion:    v2.CurrentSnapshotAPIVersion,
		Digest:        releaseDigest(rel),
		Name:          rel.Name,
		Namespace:     rel.Namespace,
		Version:       rel.Version,
		Status:        rel.Info.Status.String(),
		Action:        action,
		ChartName:     rel.Chart.Name(),
		ChartVersion:  rel.Chart.Metadata.Version,
		AppVersion:    rel.Chart.AppVersion(),
		ConfigDigest:  configDigest(rel.Config),
		FirstDeployed: metav1.NewTime(rel.Info.FirstDeployed),
		LastDeployed:  metav1.NewTime(rel.Info.LastDeployed),
		OCIDigest:     ociDigest,
	}
	if !rel.Info.Deleted.IsZero() {
		s.Deleted = metav1.NewTime(rel.Info.Deleted)
	}
	return s
}

// remember puts a revision into the history of status, in place of what is
// known of the same revision, and keeps the tests that have been run.
func remember(hr *v2.HelmRelease, s *v2.Snapshot, ignoreTests bool) {
	for i, old := range hr.Status.History {
		if old.Targets(s.Name, s.Namespace, s.Version) {
			if s.TestHooks == nil {
				s.TestHooks = old.TestHooks
			}
			if s.Action == "" {
				s.Action = old.Action
			}
			hr.Status.History[i] = s
			return
		}
	}
	if last := hr.Status.History.Latest(); last != nil && last.Status == "deployed" && s.Status == "deployed" {
		last.Status = "superseded"
	}
	hr.Status.History = append(v2.Snapshots{s}, hr.Status.History...)
	hr.Status.History.Truncate(ignoreTests)
}

// describeSnapshot names a revision for people: "namespace/name.v1 with chart c@1".
func describeSnapshot(s *v2.Snapshot) string {
	return fmt.Sprintf("%s with chart %s", s.FullReleaseName(), s.VersionedChartName())
}

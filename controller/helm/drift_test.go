package helm

import (
	"testing"

	v2 "github.com/fluxcd/helm-controller/api/v2"
)

func TestDriftWhenNothingIsSaid(t *testing.T) {
	tests := map[string]struct {
		why    string
		said   *v2.DriftDetection
		detect bool
		want   v2.DriftDetectionMode
	}{
		"as upstream":       {"nothing is asked for", nil, false, ""},
		"the operator's":    {"--detect-drift is for releases that say nothing", nil, true, v2.DriftDetectionEnabled},
		"the release's":     {"who says something is heard", &v2.DriftDetection{Mode: v2.DriftDetectionWarn}, true, v2.DriftDetectionWarn},
		"the release's off": {"", &v2.DriftDetection{Mode: v2.DriftDetectionDisabled}, true, v2.DriftDetectionDisabled},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			s := (&loop{detectDrift: c.detect}).begin(&v2.HelmRelease{Spec: v2.HelmReleaseSpec{DriftDetection: c.said}})
			if got := s.drift(); got.Mode != c.want || got.MustDetectChanges() != (c.want == v2.DriftDetectionEnabled || c.want == v2.DriftDetectionWarn) {
				t.Errorf("%s: %q", c.why, got.Mode)
			}
		})
	}
}

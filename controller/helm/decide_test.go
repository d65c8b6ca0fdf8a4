package helm

import (
	"testing"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// inSync is a situation in which nothing is left to do.
func inSync(change ...func(*situation)) situation {
	s := situation{
		Wanted:   wanted{Name: "app", Namespace: "team", StorageNamespace: "team", ChartName: "chart", ChartVersion: "1.0.0", ConfigDigest: "sha256:a"},
		Stored:   &stored{Version: 3, Status: "deployed", ChartName: "chart", ChartVersion: "1.0.0", ConfigDigest: "sha256:a", Ours: true},
		Last:     &v2.Snapshot{Name: "app", Namespace: "team", Version: 3},
		Released: true, LastStorageNamespace: "team", Reinstall: true,
	}
	for _, c := range change {
		c(&s)
	}
	return s
}

func inState(st string) func(*situation) {
	return func(s *situation) { s.Stored.Status = statusOf(st) }
}

func tried(a attempts) func(*situation) { return func(s *situation) { s.Attempts = a } }

func TestDecide(t *testing.T) {
	absent := func(s *situation) { s.Stored, s.Last, s.Released = nil, nil, false }
	newChart := func(s *situation) { s.Wanted.ChartVersion = "2.0.0" }
	exhausted := func(action v2.ReleaseAction) attempts {
		return attempts{Action: action, Failures: 1, Exhausted: true}
	}
	cases := map[string]struct {
		why  string
		in   situation
		want decision
	}{
		"InSync":           {"nothing changed", inSync(), decision{Step: stepDone}},
		"Absent":           {"no release yet", inSync(absent), decision{Step: stepInstall}},
		"UninstalledApart": {"somebody removed the release", inSync(func(s *situation) { s.Stored = nil }), decision{Step: stepInstall}},
		"KeptHistory":      {"a removed release whose record was kept", inSync(inState("uninstalled")), decision{Step: stepInstall}},
		"InstallExhausted": {"an install failed and was removed", inSync(absent, tried(exhausted("install"))), decision{Step: stepGiveUp}},
		"InstallRetries":   {"an install failed, was removed, may be retried", inSync(absent, tried(attempts{Action: "install", Failures: 1})), decision{Step: stepInstall}},
		"Pending":          {"a process crashed in an upgrade", inSync(inState("pending-upgrade")), decision{Step: stepUnlock}},
		"PendingForeign":   {"pending comes before everything else", inSync(inState("pending-install"), newChart), decision{Step: stepUnlock}},
		"Uninstalling":     {"a process crashed in a removal", inSync(inState("uninstalling")), decision{Step: stepUninstall}},
		"Foreign":          {"storage holds a revision that we did not make", inSync(func(s *situation) { s.Stored.Ours = false }), decision{Step: stepUpgrade}},
		"NewChart":         {"the chart has a new version", inSync(newChart), decision{Step: stepUpgrade}},
		"NewValues":        {"values changed", inSync(func(s *situation) { s.Wanted.ConfigDigest = "sha256:b" }), decision{Step: stepUpgrade}},
		"NewRender":        {"post-renderers changed", inSync(func(s *situation) { s.Wanted.RenderDigest = "sha256:r" }), decision{Step: stepUpgrade}},
		"Forced":           {"an annotation forces a revision", inSync(func(s *situation) { s.Wanted.Force = true }), decision{Step: stepUpgrade}},
		"Superseded":       {"the newest revision is not deployed", inSync(inState("superseded")), decision{Step: stepUpgrade}},
		"PreservedValues": {"stored values are merged and say nothing", inSync(func(s *situation) {
			s.ValuesPreserved, s.Stored.ConfigDigest, s.AttemptedConfig = true, "sha256:merged", "sha256:a"
		}), decision{Step: stepDone}},
		"UpgradeExhausted": {"the upgrade failed before it was stored", inSync(newChart, tried(exhausted("upgrade"))), decision{Step: stepGiveUp}},
		"UpgradeRetry":     {"retry on failure never gives up", inSync(newChart, tried(attempts{Action: "upgrade", Failures: 9, Exhausted: true, Retry: true})), decision{Step: stepUpgrade}},
		"Await":            {"written, health unknown", inSync(func(s *situation) { s.Released = false }), decision{Step: stepAwait}},
		"Test":             {"healthy, tests to run", inSync(func(s *situation) { s.Tests = true }), decision{Step: stepTest}},
		"Drift":            {"drift is looked for last", inSync(func(s *situation) { s.Drift = true }), decision{Step: stepDrift}},
		"TestBeforeDrift":  {"tests come before drift", inSync(func(s *situation) { s.Drift, s.Tests = true, true }), decision{Step: stepTest}},
		"AwaitBeforeTest":  {"tests run on healthy releases", inSync(func(s *situation) { s.Tests, s.Released = true, false }), decision{Step: stepAwait}},

		"FailedChanged":   {"counters were reset by new inputs", inSync(inState("failed"), tried(attempts{Action: "upgrade"})), decision{Step: stepUpgrade}},
		"FailedExhausted": {"no retries, no remediation", inSync(inState("failed"), tried(exhausted("upgrade"))), decision{Step: stepGiveUp}},
		"FailedRetry":     {"retry without remediation", inSync(inState("failed"), tried(attempts{Action: "install", Failures: 2, Exhausted: true, Retry: true})), decision{Step: stepUpgrade}},
		"FailedInstall":   {"a failed install is removed", inSync(inState("failed"), tried(attempts{Action: "install", Failures: 1, Uninstall: true})), decision{Step: stepUninstall}},
		"FailedUpgrade": {"a failed upgrade goes back", inSync(inState("failed"), tried(attempts{Action: "upgrade", Failures: 1}),
			func(s *situation) { s.Good = 2 }), decision{Step: stepRollback, To: 2}},
		"FailedLast": {"the last failure is remediated too", inSync(inState("failed"), tried(attempts{Action: "upgrade", Failures: 2, Exhausted: true, RemediateLast: true}),
			func(s *situation) { s.Good = 2 }), decision{Step: stepRollback, To: 2}},
		"FailedNoWayBack":    {"nothing to go back to, retries left", inSync(inState("failed"), tried(attempts{Action: "upgrade", Failures: 1})), decision{Step: stepUpgrade}},
		"FailedNoWay":        {"nothing to go back to, no retries", inSync(inState("failed"), tried(attempts{Action: "upgrade", Failures: 2, Exhausted: true, RemediateLast: true})), decision{Step: stepGiveUp}},
		"RolledBack":         {"after the rollback of the last failure", inSync(newChart, tried(attempts{Action: "upgrade", Failures: 2, Exhausted: true, RemediateLast: true})), decision{Step: stepGiveUp}},
		"RolledBackRetries":  {"after a rollback, retries left", inSync(newChart, tried(attempts{Action: "upgrade", Failures: 1})), decision{Step: stepUpgrade}},
		"Renamed":            {"another release name", inSync(func(s *situation) { s.Wanted.Name = "new" }), decision{Step: stepReplace}},
		"MovedTarget":        {"another target namespace", inSync(func(s *situation) { s.Wanted.Namespace = "new" }), decision{Step: stepReplace}},
		"MovedStorage":       {"another storage namespace", inSync(func(s *situation) { s.Wanted.StorageNamespace = "new" }), decision{Step: stepReplace}},
		"OtherChart":         {"another chart is another release", inSync(func(s *situation) { s.Wanted.ChartName = "new" }), decision{Step: stepReplace}},
		"OtherChartInPlace":  {"another chart, in place", inSync(func(s *situation) { s.Wanted.ChartName, s.Reinstall = "new", false }), decision{Step: stepUpgrade}},
		"RevertedAfterError": {"the wish was taken back; the old revision is still there", inSync(func(s *situation) { s.Released = false }, tried(attempts{Action: "upgrade"})), decision{Step: stepAwait}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := decide(tc.in)
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreFields(decision{}, "Why")); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.why, diff)
			}
			if got.Why == "" {
				t.Error("a decision without a reason")
			}
		})
	}
}

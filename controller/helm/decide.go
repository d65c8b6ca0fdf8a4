package helm

import (
	"fmt"

	v2 "github.com/fluxcd/helm-controller/api/v2"

	"headwater.dev/kernel/release"
)

// step is what to do next for a release.
type step string

const (
	// stepDone: the release is what is wanted and known to be healthy.
	stepDone step = "done"
	// stepInstall makes the first revision.
	stepInstall step = "install"
	// stepUpgrade makes the next revision.
	stepUpgrade step = "upgrade"
	// stepUnlock frees a release that a crashed process left pending.
	stepUnlock step = "unlock"
	// stepRollback remediates by going back to the last good revision.
	stepRollback step = "rollback"
	// stepUninstall remediates by removing the release.
	stepUninstall step = "uninstall"
	// stepReplace removes the release of a former name, namespace or chart.
	stepReplace step = "replace"
	// stepAwait: the release is written; its objects have to become ready.
	stepAwait step = "await"
	// stepTest runs the chart's tests.
	stepTest step = "test"
	// stepDrift compares the cluster with the release.
	stepDrift step = "check drift"
	// stepGiveUp: attempts are used up; something has to change first.
	stepGiveUp step = "give up"
)

// decision is a step and why it is taken.
type decision struct {
	Step step
	// Why is for logs; for stepGiveUp users read it.
	Why string
	// To is the revision that stepRollback goes back to.
	To int
}

// wanted is the release that the HelmRelease asks for.
type wanted struct {
	Name, Namespace, StorageNamespace string
	ChartName, ChartVersion           string
	// ConfigDigest is of the composed values; RenderDigest of post-renderers
	// and common metadata.
	ConfigDigest, RenderDigest string
	// Force asks for a new revision though nothing changed.
	Force bool
}

// stored is the newest revision that storage holds.
type stored struct {
	Version                 int
	Status                  release.Status
	ChartName, ChartVersion string
	ConfigDigest            string
	// Ours says that it is the revision that status remembers, unaltered.
	Ours bool
}

// situation is everything that decides about the next step.
type situation struct {
	Wanted wanted
	// Stored is nil when storage holds no release of the name.
	Stored *stored
	// Last is the newest revision that status remembers; nil when none.
	Last *v2.Snapshot
	// LastStorageNamespace is where Last is stored.
	LastStorageNamespace string
	// Good is the newest remembered revision before Last that is worth going
	// back to; 0 when none.
	Good int
	// RenderDigest of the last attempt.
	RenderDigest string
	// ValuesPreserved: values are merged over the former ones, so that stored
	// values say nothing; AttemptedConfig is compared instead.
	ValuesPreserved bool
	AttemptedConfig string
	// Released says that the release has been found healthy since.
	Released bool
	// Tests says that tests are wanted and have not passed for this revision.
	Tests bool
	// Drift says that drift is to be looked for and has not been this time.
	Drift bool
	// Reinstall on another chart name instead of upgrading in place.
	Reinstall bool
	// Attempts of the action attempted last.
	Attempts attempts
}

// attempts is what is left of an action's retries.
type attempts struct {
	// Action is install or upgrade; empty when none was attempted.
	Action   v2.ReleaseAction
	Failures int64
	// Exhausted: no retries are left.
	Exhausted bool
	// Remediate even when exhausted.
	RemediateLast bool
	// Uninstall instead of rolling back.
	Uninstall bool
	// Retry without remediation.
	Retry bool
}

// decide returns the next step. It is a function of its argument alone.
//
//	            ┌──────────── install ◄── uninstall ◄─┐
//	            ▼                                     │
//	(none) ─► written ─► await ─► test ─► drift ─► done│ remediation
//	            ▲          └── failed ────────────────┤
//	            └── upgrade ◄── rollback ◄────────────┘
func decide(s situation) decision {
	if why := moved(s); why != "" {
		return decision{Step: stepReplace, Why: why}
	}
	if s.Stored == nil {
		return decideAbsent(s, "no release in storage")
	}
	switch st := s.Stored; {
	case st.Status.IsPending():
		return decision{Step: stepUnlock, Why: fmt.Sprintf("release is left in state %s", st.Status)}
	case st.Status == "uninstalling":
		return decision{Step: stepUninstall, Why: "the removal of the release was interrupted"}
	case st.Status == "uninstalled":
		return decideAbsent(s, "release has been uninstalled")
	case s.Reinstall && s.Last != nil && st.ChartName != s.Wanted.ChartName:
		return decision{Step: stepReplace, Why: fmt.Sprintf("chart %s becomes %s", st.ChartName, s.Wanted.ChartName)}
	case !st.Ours:
		return decision{Step: stepUpgrade, Why: "release in storage is not the one that was made last"}
	case st.Status == "failed":
		return decideFailed(s)
	}
	if why := differs(s); why != "" {
		if s.Attempts.used(v2.ReleaseActionUpgrade) {
			return s.Attempts.giveUp()
		}
		return decision{Step: stepUpgrade, Why: why}
	}
	switch {
	case !s.Released:
		return decision{Step: stepAwait, Why: "release is written and not yet found healthy"}
	case s.Tests:
		return decision{Step: stepTest, Why: "tests are enabled"}
	case s.Drift:
		return decision{Step: stepDrift, Why: "drift detection is enabled"}
	default:
		return decision{Step: stepDone, Why: "release is in sync"}
	}
}

// moved tells why the remembered release is not where it is wanted.
func moved(s situation) string {
	switch {
	case s.Last == nil:
		return ""
	case s.Last.Name != s.Wanted.Name:
		return fmt.Sprintf("release name %s becomes %s", s.Last.Name, s.Wanted.Name)
	case s.Last.Namespace != s.Wanted.Namespace:
		return fmt.Sprintf("target namespace %s becomes %s", s.Last.Namespace, s.Wanted.Namespace)
	case s.LastStorageNamespace != "" && s.LastStorageNamespace != s.Wanted.StorageNamespace:
		return fmt.Sprintf("storage namespace %s becomes %s", s.LastStorageNamespace, s.Wanted.StorageNamespace)
	}
	return ""
}

func decideAbsent(s situation, why string) decision {
	if s.Attempts.used(v2.ReleaseActionInstall) {
		return s.Attempts.giveUp()
	}
	return decision{Step: stepInstall, Why: why}
}

func decideFailed(s situation) decision {
	a := s.Attempts
	switch {
	case a.Failures == 0 || a.Action == "":
		return decision{Step: stepUpgrade, Why: "release is failed and has not been attempted as it is wanted now"}
	case a.Retry:
		return decision{Step: stepUpgrade, Why: "release is failed and is retried"}
	case a.Exhausted && !a.RemediateLast:
		return a.giveUp()
	case a.Uninstall:
		return decision{Step: stepUninstall, Why: "release is failed"}
	case s.Good > 0:
		return decision{Step: stepRollback, Why: "release is failed", To: s.Good}
	case a.Exhausted:
		return a.giveUp()
	default:
		return decision{Step: stepUpgrade, Why: "release is failed and there is no good revision to go back to"}
	}
}

// differs tells why the deployed release is not what is wanted.
func differs(s situation) string {
	st := s.Stored
	config := st.ConfigDigest
	if s.ValuesPreserved {
		config = s.AttemptedConfig
	}
	switch {
	case st.Status != "deployed":
		return fmt.Sprintf("newest release is %s", st.Status)
	case st.ChartName != s.Wanted.ChartName || st.ChartVersion != s.Wanted.ChartVersion:
		return fmt.Sprintf("chart %s@%s becomes %s@%s", st.ChartName, st.ChartVersion, s.Wanted.ChartName, s.Wanted.ChartVersion)
	case config != s.Wanted.ConfigDigest:
		return "values have changed"
	case s.RenderDigest != s.Wanted.RenderDigest:
		return "post-renderers or common metadata have changed"
	case s.Wanted.Force:
		return "forced by annotation"
	}
	return ""
}

// used reports whether the action has been attempted as often as allowed.
func (a attempts) used(action v2.ReleaseAction) bool {
	return a.Action == action && a.Failures > 0 && a.Exhausted && !a.Retry
}

func (a attempts) giveUp() decision {
	return decision{Step: stepGiveUp, Why: fmt.Sprintf("Failed to %s after %d attempt(s)", a.Action, a.Failures)}
}

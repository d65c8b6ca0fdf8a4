package extension

import (
	"errors"
	"fmt"

	"github.com/Masterminds/semver/v3"

	"headwater.dev/api/resource"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/release"
)

// edition is the chart that is to be installed. kept says why the installed one
// stays although the agent brings another; image is then that one's.
type edition struct {
	chart  *release.Chart
	digest string
	kept   string
	image  any
}

// edition chooses between the version that is installed and the agent's.
func (m *Manager) edition(e *resource.ExtensionProperties, last *release.Release) (edition, error) {
	kept, err := stay(e, versionOf(last), m.config.Version)
	if err != nil {
		return edition{}, err
	}
	if kept != "" {
		return edition{chart: last.Chart, digest: last.Labels[chartLabel], kept: kept, image: last.Config["image"]}, nil
	}
	chart, digest, err := loadChart(m.config.Version)
	return edition{chart: chart, digest: digest}, err
}

// stay says why the installed version stays; "" when the agent's is to be
// installed. A pinned version must be one of the two. Without one, minor
// versions are followed when autoUpgradeMinorVersion says so and
// autoUpgradeMode allows it; a new major version is never installed unasked.
func stay(e *resource.ExtensionProperties, installed, brought string) (string, error) {
	if e.Version != nil && *e.Version != "" {
		switch *e.Version {
		case brought:
			return "", nil
		case installed:
			return "version " + installed + " is asked for", nil
		}
		there := ""
		if installed != "" && installed != brought {
			there = ", and version " + installed + " is installed"
		}
		return "", phase.Stalled("VersionNotAvailable", fmt.Errorf("version %s is not available: the agent of this cluster brings version %s%s; "+
			"leave version empty, or upgrade the agent", *e.Version, brought, there))
	}
	have, err := semver.NewVersion(installed)
	want, err2 := semver.NewVersion(brought)
	if installed == brought || errors.Join(err, err2) != nil {
		return "", nil
	}
	switch {
	case have.Major() != want.Major():
		return fmt.Sprintf("version %s is another major version, which is installed only when version names it", brought), nil
	case !e.AutoUpgradeMinorVersion:
		return "autoUpgradeMinorVersion is false", nil
	case e.AutoUpgradeMode == "none":
		return "autoUpgradeMode is none", nil
	case e.AutoUpgradeMode == "patch" && have.Minor() != want.Minor():
		return "autoUpgradeMode is patch", nil
	}
	return "", nil
}

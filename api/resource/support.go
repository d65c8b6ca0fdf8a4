package resource

import (
	"cmp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// Releases are the versions of the extension microsoft.flux that a hub offers,
// newest first. Make one with NewReleases.
type Releases struct{ all []*semver.Version }

// supportedMinors is how many minor versions are supported: the newest and the
// two before it.
const supportedMinors = 3

// NewReleases sorts versions; what is not a semantic version is left out.
func NewReleases(versions ...string) Releases {
	var r Releases
	for _, v := range versions {
		if parsed, err := semver.NewVersion(strings.TrimSpace(v)); err == nil {
			r.all = append(r.all, parsed)
		}
	}
	slices.SortFunc(r.all, func(a, b *semver.Version) int { return b.Compare(a) })
	r.all = slices.CompactFunc(r.all, func(a, b *semver.Version) bool { return a.Equal(b) })
	return r
}

// newest is the newest version of a train, the newest of all when the train has
// none; nil when there is nothing.
func (r Releases) newest() *semver.Version {
	for _, v := range r.all {
		if v.Prerelease() == "" {
			return v
		}
	}
	if len(r.all) == 0 {
		return nil
	}
	return r.all[0]
}

// Supported reports whether version is supported: of the newest minor version or
// of one of the two before it, or newer. What is not a version is; nobody can
// tell how old it is. oldest is the oldest supported minor version, "1.2".
func (r Releases) Supported(version string) (ok bool, oldest string) {
	newest := r.newest()
	v, err := semver.NewVersion(version)
	if err != nil || newest == nil {
		return true, ""
	}
	minor := uint64(0)
	if newest.Minor() >= supportedMinors {
		minor = newest.Minor() - supportedMinors + 1
	}
	least := semver.New(newest.Major(), minor, 0, "", "")
	here := semver.New(v.Major(), v.Minor(), 0, "", "")
	return !here.LessThan(least), strings.TrimSuffix(least.String(), ".0")
}

// Offer lists the supported versions of a release train, newest first: train
// Stable has no pre-releases, every other has them too. major selects one major
// version when it is not empty; latest keeps the newest only. When a train has
// none, as in a development build, the newest of all is offered.
func (r Releases) Offer(train, major string, latest bool) []string {
	stable := strings.EqualFold(cmp.Or(train, "Stable"), "Stable")
	var out []string
	for _, v := range r.all {
		ok, _ := r.Supported(v.String())
		if ok && (!stable || v.Prerelease() == "") {
			out = append(out, v.Original())
		}
	}
	if len(out) == 0 && len(r.all) > 0 {
		out = []string{r.all[0].Original()}
	}
	if major != "" {
		out = slices.DeleteFunc(out, func(v string) bool {
			first, _, _ := strings.Cut(strings.TrimPrefix(v, "v"), ".")
			return first != strings.TrimPrefix(major, "v")
		})
	}
	if latest && len(out) > 1 {
		out = out[:1]
	}
	return out
}

package resource

import (
	"slices"
	"testing"
)

func TestSupported(t *testing.T) {
	r := NewReleases("1.4.2", "1.5.0", "1.6.0-rc.1", "1.3.0", "1.2.9", "nonsense", "1.5.0")
	for version, want := range map[string]bool{
		"1.5.0": true, "1.5.7": true, "1.4.0": true, "1.3.0": true, "1.2.9": false, "0.9.0": false, "1.6.0-rc.1": true, "2.0.0": true, "dev": true, "": true,
	} {
		if got, oldest := r.Supported(version); got != want || want == false && oldest != "1.3" {
			t.Errorf("%s: %v %s, want %v", version, got, oldest, want)
		}
	}
	if ok, _ := NewReleases("2.1.0").Supported("2.0.0"); !ok {
		t.Error("there are fewer than two minor versions before")
	}
	if ok, oldest := NewReleases("2.1.0").Supported("1.9.0"); ok || oldest != "2.0" {
		t.Errorf("another major version: %v %s", ok, oldest)
	}
	if ok, _ := NewReleases().Supported("1.0.0"); !ok {
		t.Error("without a catalogue nothing is refused")
	}
}

func TestOffer(t *testing.T) {
	r := NewReleases("1.4.2", "1.5.0", "1.6.0-rc.1", "1.3.0", "1.2.9")
	for _, c := range []struct {
		train, major string
		latest       bool
		want         []string
	}{
		{"", "", false, []string{"1.5.0", "1.4.2", "1.3.0"}},
		{"stable", "", true, []string{"1.5.0"}},
		{"Preview", "", false, []string{"1.6.0-rc.1", "1.5.0", "1.4.2", "1.3.0"}},
		{"", "1", false, []string{"1.5.0", "1.4.2", "1.3.0"}},
		{"", "2", false, nil},
	} {
		if got := r.Offer(c.train, c.major, c.latest); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v", c, got)
		}
	}
	if got := NewReleases("0.1.0-dev").Offer("", "", false); !slices.Equal(got, []string{"0.1.0-dev"}) {
		t.Errorf("a development build offers itself: %v", got)
	}
}

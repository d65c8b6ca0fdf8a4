package link

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"headwater.dev/api/resource"
)

func TestTextIsCutAtACharacter(t *testing.T) {
	cases := map[string]struct {
		why, in string
		most    int
		want    string
	}{
		"fits":          {"nothing to do", "über", 5, "über"},
		"cut":           {"the mark counts", "abcdefgh", 6, "abc…"},
		"cut inside":    {"half a character is none", "aüüü", 5, "a…"},
		"NUL":           {"the hub refuses it", "a\x00b", 10, "a\uFFFDb"},
		"not UTF-8":     {"JSON would replace it later, of another length", "a\xffb", 10, "a\uFFFDb"},
		"no room":       {"the mark alone", "abcdefgh", 3, "…"},
		"other control": {"who shows it has to mind it", "a\x1b[31m", 10, "a\x1b[31m"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := text(c.in, c.most); got != c.want || !utf8.ValidString(got) {
				t.Errorf("%s: %q, want %q", c.why, got, c.want)
			}
		})
	}
}

func TestFitLeavesWhatFits(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	o := Observed{ID: "/x", Generation: 3, Configuration: &resource.FluxConfigurationObserved{
		AcceptedGeneration: 3, AcceptedAt: at, StatusGeneration: 2, SettledGeneration: 1, ComplianceState: resource.NonCompliant, SourceUpdatedAt: &at,
		Error: &resource.ErrorDetail{Code: "a", Message: "b", Details: []resource.ErrorDetail{{Code: "c"}}},
		Statuses: []resource.ObjectStatus{{Name: "a", Kind: "HelmRelease", ComplianceState: resource.Compliant, AppliedBy: &resource.ObjectReference{Name: "k"},
			StatusConditions:      []resource.StatusCondition{{Type: "Ready", Status: "False", Reason: "R", Message: "m", LastTransitionTime: at}},
			HelmReleaseProperties: &resource.HelmReleaseProperties{FailureCount: 2}}}}}
	if d := cmp.Diff(o, o.Fit()); d != "" {
		t.Errorf("changed (-was +is):\n%s", d)
	}
	e := Observed{ID: "/x", Generation: 1, Extension: &resource.ExtensionObserved{AcceptedGeneration: 1, CurrentVersion: "1.2.3", Statuses: []resource.ExtensionStatus{{Level: "Error", Message: "m"}}}}
	if d := cmp.Diff(e, e.Fit()); d != "" {
		t.Errorf("changed (-was +is):\n%s", d)
	}
}

// TestFitMakesRoom has more to say than a report can hold: what is wrong is kept
// for longest, and what was handed in stays as it was.
func TestFitMakesRoom(t *testing.T) {
	object := func(i int, state string, message int) resource.ObjectStatus {
		return resource.ObjectStatus{Name: fmt.Sprint("app-", i), Kind: "HelmRelease", ComplianceState: state,
			StatusConditions: []resource.StatusCondition{{Type: "Ready", Status: "False", Message: strings.Repeat("<", message)}}}
	}
	var large, many []resource.ObjectStatus
	for i := range 200 {
		large = append(large, object(i, resource.NonCompliant, 30<<10))
	}
	for i := range 5000 {
		state := resource.Compliant
		if i%500 == 499 {
			state = resource.NonCompliant
		}
		many = append(many, object(i, state, 100))
	}
	fit := func(list []resource.ObjectStatus) []resource.ObjectStatus {
		t.Helper()
		o := Observed{Generation: 1, Configuration: &resource.FluxConfigurationObserved{Statuses: list}}
		fitted := o.Fit()
		raw, err := json.Marshal(fitted.Configuration)
		if err != nil || len(raw) > MaxObserved {
			t.Fatalf("%d bytes, %v", len(raw), err)
		}
		return fitted.Configuration.Statuses
	}
	if got := fit(large); len(got) != 200 || got[199].StatusConditions[0].Message == "" {
		t.Errorf("%d of 200 statuses are left", len(got))
	}
	if n := len(large[0].StatusConditions[0].Message); n != 30<<10 {
		t.Errorf("what was handed in has %d bytes now", n)
	}
	if got := fit(many); len(got) != 10 || got[0].Name != "app-499" {
		t.Errorf("%d statuses are left, want the 10 that are not compliant", len(got))
	}
	statuses := make([]resource.ExtensionStatus, 1500)
	for i := range statuses {
		statuses[i] = resource.ExtensionStatus{Level: "Loud", Code: strings.Repeat("c", 600), Message: strings.Repeat("m", 40<<10)}
	}
	e := Observed{Generation: 1, Extension: &resource.ExtensionObserved{Statuses: statuses}}.Fit()
	if raw, err := json.Marshal(e.Extension); err != nil || len(raw) > MaxObserved || len(e.Extension.Statuses) < 1000 {
		t.Errorf("%d bytes, %d statuses, %v", len(raw), len(e.Extension.Statuses), err)
	}
}

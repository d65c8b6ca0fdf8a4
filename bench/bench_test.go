package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSummary(t *testing.T) {
	upTo := func(n int) []time.Duration {
		var all []time.Duration
		for i := n; i > 0; i-- {
			all = append(all, time.Duration(i)*time.Second)
		}
		return all
	}
	cases := map[string]struct {
		why  string
		in   []time.Duration
		want string
	}{
		"one":    {"every quantile of one value is that value", upTo(1), "median 1.00 s, p95 1.00 s, max 1.00 s (n=1)"},
		"ten":    {"p95 of ten values is the largest: nine of them are only 90 %", upTo(10), "median 5.00 s, p95 10.00 s, max 10.00 s (n=10)"},
		"twenty": {"p95 of twenty values leaves one out", upTo(20), "median 10.00 s, p95 19.00 s, max 20.00 s (n=20)"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, summary(c.in)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.why, diff)
			}
		})
	}
}

func TestChoose(t *testing.T) {
	for _, s := range scenarios() {
		got, err := choose(s.name)
		if err != nil || len(got) != 1 || got[0].name != s.name {
			t.Errorf("choose(%q) = %d scenarios, %v", s.name, len(got), err)
		}
	}
	if got, err := choose(""); err != nil || len(got) != len(scenarios()) {
		t.Errorf("no name chooses %d scenarios (%v), want all", len(got), err)
	}
	if _, err := choose("nothing"); err == nil || !strings.Contains(err.Error(), "push-notified") {
		t.Errorf("an unknown name gives %v, want the names that there are", err)
	}
}

package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFigure(t *testing.T) {
	cases := map[string]struct {
		why  string
		in   figure
		want [3]string
	}{
		"met":      {"the bound itself is allowed", figure{value: 1024, most: 1024, unit: "MiB"}, [3]string{"1024 MiB", "≤ 1024 MiB", "met"}},
		"missed":   {"little over it is not", figure{value: 60.1, most: 60, unit: "s"}, [3]string{"60.1 s", "≤ 60 s", "**missed**"}},
		"no bound": {"what is for information has no verdict", figure{value: 0.25, unit: "s"}, [3]string{"0.2 s", "", ""}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			want, verdict := c.in.target()
			if diff := cmp.Diff(c.want, [3]string{c.in.String(), want, verdict}); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.why, diff)
			}
		})
	}
	names := map[string]bool{}
	for _, s := range fleetScenarios(10) {
		if s.run == nil || names[s.name] {
			t.Errorf("scenario %q has no way to run, or is there twice", s.name)
		}
		names[s.name] = true
	}
}

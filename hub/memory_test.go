package hub

import (
	"runtime/debug"
	"testing"
)

func TestMemoryLimit(t *testing.T) {
	const mib = 1 << 20
	cases := map[string]struct {
		why  string
		in   usage
		want int64
	}{
		"nothing known": {"without figures the aim holds", usage{}, memoryAim},
		"small":         {"what fits stays within the aim", usage{held: 300 * mib, free: 20 * mib, objects: 180 * mib, live: 120 * mib, stacks: 60 * mib}, memoryAim},
		"garbage":       {"garbage is no reason to give way", usage{held: 1500 * mib, free: 50 * mib, objects: 1100 * mib, live: 300 * mib, stacks: 200 * mib}, memoryAim},
		"large":         {"a fleet that does not fit gets 15 % of what lives: 2000 - 1400 + 1200 + 0.15 × 1600, in whole steps", usage{held: 2000 * mib, objects: 1400 * mib, live: 1200 * mib, stacks: 400 * mib}, 2048 * mib},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := c.in.limit(); got != c.want {
				t.Errorf("%s: %d MiB, want %d", c.why, got/mib, c.want/mib)
			}
		})
	}
	if u := readUsage(); u.held <= 0 || u.objects <= 0 || u.stacks <= 0 || u.held < u.objects {
		t.Errorf("the runtime tells %+v", u)
	}
}

func TestMindMemory(t *testing.T) {
	limit, percent := debug.SetMemoryLimit(-1), debug.SetGCPercent(100)
	defer debug.SetGCPercent(percent)
	defer debug.SetMemoryLimit(limit)
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "1GiB")
	mindMemory(t.Context())
	if got := debug.SetMemoryLimit(-1); got != limit {
		t.Errorf("a limit that somebody set became %d", got)
	}
	t.Setenv("GOMEMLIMIT", "")
	mindMemory(t.Context())
	if got := debug.SetMemoryLimit(-1); got != memoryAim {
		t.Errorf("the limit is %d, want %d", got, memoryAim)
	}
	if got := debug.SetGCPercent(100); got != gcPercent {
		t.Errorf("collections come after %d %%, want %d", got, gcPercent)
	}
}

package process

import (
	"math"
	"runtime"
	"runtime/debug"
	"testing"
)

func TestPaceNext(t *testing.T) {
	tests := map[string]struct {
		why         string
		limit, live int64
		want        int64
		changed     bool
	}{
		"first":  {"there is no limit yet", 0, 40 << 20, 84 << 20, true},
		"small":  {"a small heap needs no limit", 0, 8 << 20, smallBytes, true},
		"grows":  {"the heap needs more", smallBytes, 40 << 20, 84 << 20, true},
		"shrink": {"the heap needs less", 84 << 20, 8 << 20, smallBytes, true},
		"same":   {"a small change is not worth a stop", 84 << 20, 40<<20 + 4000, 84<<20 + 7000, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := pace{limit: tt.limit}
			if got, changed := p.next(tt.live); got != tt.want || changed != tt.changed {
				t.Errorf("%s: %d, %v", tt.why, got, changed)
			}
		})
	}
}

func TestPaceAdjust(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	t.Setenv("GOMEMLIMIT", "1GiB")
	var p pace
	if p.adjust(); debug.SetMemoryLimit(-1) != before {
		t.Error("a limit that somebody set was changed")
	}
	t.Setenv("GOMEMLIMIT", "")
	runtime.GC()
	p.adjust()
	if got := debug.SetMemoryLimit(-1); got < roomBytes || got == math.MaxInt64 {
		t.Errorf("the limit is %d", got)
	}
}

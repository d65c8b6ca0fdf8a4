package hub

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// gcPercent is how much the heap may grow between collections. Most of it is
	// connections that live long, so a small surplus costs little.
	gcPercent = 40
	// memoryAim is what the hub tries to stay within, in bytes: a fleet of ten
	// thousand, with what the embedded etcd maps besides, then takes no more than a
	// gibibyte.
	memoryAim = 800 << 20
	// memorySurplus is how much there has to be at least for garbage, as a part of
	// what lives: with a larger fleet than fits the aim gives way, or the hub would do
	// little but collect.
	memorySurplus = 0.15
	// memoryEvery is how often that is looked at.
	memoryEvery = 10 * time.Second
)

// mindMemory bounds the memory of this process until ctx ends, unless whoever runs
// it has set GOGC or GOMEMLIMIT.
func mindMemory(ctx context.Context) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	limit := int64(memoryAim)
	debug.SetMemoryLimit(limit)
	go func() {
		tick := time.NewTicker(memoryEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if wanted := readUsage().limit(); wanted != limit {
				limit = wanted
				debug.SetMemoryLimit(limit)
			}
		}
	}()
}

// usage is what the runtime tells of this process's memory, in bytes.
type usage struct {
	// held is everything that was got from the system and not given back; free is
	// what of it holds nothing, objects what holds values, dead ones included.
	held, free, objects int64
	// live is what of the objects was in use at the last collection, stacks what the
	// goroutines' stacks take.
	live, stacks int64
}

func readUsage() usage {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	n := func(i int) int64 {
		if samples[i].Value.Kind() != metrics.KindUint64 {
			return 0 // a runtime that does not tell
		}
		return int64(samples[i].Value.Uint64()) //nolint:gosec // no memory has that many bytes
	}
	return usage{held: n(0) - n(1), free: n(2), objects: n(3), live: n(4), stacks: n(5)}
}

// limit is the memory that the runtime should stay within: the aim, or more when
// that would leave too little for garbage. It moves in steps of 16 MiB.
func (u usage) limit() int64 {
	const step = 16 << 20
	needed := u.held - u.free - u.objects + u.live
	needed += int64(memorySurplus * float64(u.live+u.stacks))
	return max(memoryAim, (needed+step-1)/step*step)
}

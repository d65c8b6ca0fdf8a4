package process

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// roomBytes is what the runtime may hold beside seven quarters of the live
	// heap before it collects more often and gives pages back sooner; smallBytes
	// are never too much.
	roomBytes  = 14 << 20
	smallBytes = 48 << 20
	// paceStep is the smallest change of the limit that is worth making.
	paceStep = 2 << 20

	liveBytes = "/gc/heap/live:bytes"
)

// pace keeps the runtime's soft memory limit a little above what the live heap
// needs. Without one a burst of work leaves the heap half full of holes that
// are given back minutes later. GOMEMLIMIT, where it is set, stays.
type pace struct{ limit int64 }

// adjust sets the limit to fit the live heap of the last collection.
func (p *pace) adjust() {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	s := []metrics.Sample{{Name: liveBytes}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		return
	}
	limit, changed := p.next(int64(s[0].Value.Uint64()))
	if changed {
		p.limit = limit
		debug.SetMemoryLimit(limit)
	}
}

// next is the limit for a live heap, and whether that is news.
func (p *pace) next(live int64) (int64, bool) {
	limit := max(live/4*7+roomBytes, smallBytes)
	return limit, max(limit-p.limit, p.limit-limit) >= paceStep
}

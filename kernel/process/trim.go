package process

import (
	"context"
	"log/slog"
	"runtime/debug"
	"time"
)

const (
	// startup is how long a program is given to come up before what only that
	// needed is given back.
	startup = 15 * time.Second
	// lookEvery is how often the program's own pages are counted after that, and
	// programBytes how many of them stay.
	lookEvery    = 250 * time.Millisecond
	programBytes = 20 << 20
)

// KeepSmall gives memory back that is not needed any more, until ctx ends. Some
// seconds after the start that is garbage, and the pages of code and tables that
// libraries' initialisers touched. A program that links the clients of every
// cloud touches some sixty MiB of them when it starts, and then none of them in
// most clusters.
//
// Later it is the program's pages again whenever more than a bound of them are
// mapped: the kernel maps sixteen where one is needed, and never takes one back
// from a machine that has room. What is in use returns within microseconds from
// the page cache. The heap gets a soft limit a little above its need, as long as
// GOMEMLIMIT gives none. It returns at once, and does nothing when ctx ends
// before.
func KeepSmall(ctx context.Context, log *slog.Logger) {
	go func() {
		if !sleep(ctx, startup) {
			return
		}
		debug.FreeOSMemory()
		program, err := fixedProgram()
		var p pace
		for limit := int64(0); ; limit = programBytes {
			p.adjust()
			if err == nil && program != "" {
				err = trim(program, limit)
			}
			if err != nil && program != "" {
				log.Debug("pages of the program stay", "why", err.Error())
				program = ""
			}
			if !sleep(ctx, lookEvery) {
				return
			}
		}
	}()
}

// trim takes the program's pages out of the process when there are more bytes
// of them than limit.
func trim(program string, limit int64) error {
	bytes, err := mappedBytes()
	if err != nil || bytes <= limit {
		return err
	}
	return dropProgramPages(program)
}

// sleep reports whether ctx goes on after the time.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

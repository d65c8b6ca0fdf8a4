package process

import (
	"context"
	"log/slog"
	"runtime/debug"
	"time"
)

// startup is how long a program is given to come up before what only that
// needed is given back.
const startup = 15 * time.Second

// TrimAfterStart gives the memory back that only starting needed, once, some
// seconds later: garbage, and the pages of code and tables that libraries'
// initialisers touched. It returns at once and does nothing when ctx ends
// before. A program that links the clients of every cloud touches some sixty
// MiB of them when it starts, and then none of them in most clusters.
func TrimAfterStart(ctx context.Context, log *slog.Logger) {
	timer := time.AfterFunc(startup, func() {
		debug.FreeOSMemory()
		if err := dropProgramPages(); err != nil {
			log.Debug("could not give back the pages of start", "error", err.Error())
		}
	})
	context.AfterFunc(ctx, func() { timer.Stop() })
}

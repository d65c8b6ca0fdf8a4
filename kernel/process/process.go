// Package process is what every program of ours starts with: its version, its
// logger and the context that ends on a signal.
package process

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "0.1.0-dev"

// Version is the version of the program, a semantic version without "v".
func Version() string { return version }

// Context returns a context that ends on SIGINT or SIGTERM. A second signal
// ends the process at once.
func Context() context.Context {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx
}

// Logger returns a logger to w. Level is debug, info or error; format is json
// or text.
func Logger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	switch level {
	case "debug":
		l = slog.LevelDebug
	case "info", "":
		l = slog.LevelInfo
	case "error":
		l = slog.LevelError
	default:
		return nil, fmt.Errorf("log level %q: use debug, info or error", level)
	}
	o := &slog.HandlerOptions{Level: l}
	switch format {
	case "json", "":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	default:
		return nil, fmt.Errorf("log format %q: use json or text", format)
	}
}

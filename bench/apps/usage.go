package apps

import (
	"context"
	"fmt"
	"iter"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// ticks of CPU time in a second, as /proc counts for programs on every Linux.
const ticks = 100

// usage is what the loops have used up to a moment.
type usage struct {
	cpu      time.Duration
	requests float64
}

// begin also makes the peak of memory start from now.
func (w *world) begin(ctx context.Context) (usage, error) {
	if err := os.WriteFile(w.proc("clear_refs"), []byte("5"), 0); err != nil {
		return usage{}, fmt.Errorf("reset the peak of memory (Linux only): %w", err)
	}
	return w.used(ctx)
}

func (w *world) used(ctx context.Context) (usage, error) {
	stat, err := os.ReadFile(w.proc("stat"))
	if err != nil {
		return usage{}, fmt.Errorf("read the loops' CPU time: %w", err)
	}
	cpu, err := computed(string(stat))
	if err != nil {
		return usage{}, err
	}
	requests, err := w.requests(ctx)
	return usage{cpu, requests}, err
}

func (w *world) proc(file string) string { return fmt.Sprintf("/proc/%d/%s", w.loops.PID(), file) }

// since is what was used after a moment.
func (w *world) since(ctx context.Context, before usage) (usage, error) {
	now, err := w.used(ctx)
	return usage{now.cpu - before.cpu, now.requests - before.requests}, err
}

// peak is the most that was resident since begin, in MiB.
func (w *world) peak() (float64, error) {
	status, err := os.ReadFile(w.proc("status"))
	if err != nil {
		return 0, fmt.Errorf("read the peak of memory: %w", err)
	}
	found := regexp.MustCompile(`(?m)^VmHWM:\s*(\d+) kB$`).FindSubmatch(status)
	if found == nil {
		return 0, fmt.Errorf("%s names no peak of memory", w.proc("status"))
	}
	kib, err := strconv.ParseFloat(string(found[1]), 64)
	return kib / 1024, err
}

// computed is the time in user and kernel that a line of /proc/PID/stat tells.
func computed(stat string) (time.Duration, error) {
	// The name, in parentheses, may hold spaces; after it comes field 3.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("read CPU time: only %d fields after the name", len(fields))
	}
	var sum int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read CPU time: %w", err)
		}
		sum += n
	}
	return time.Duration(sum) * time.Second / ticks, nil
}

// sum adds the values of all series of a metric in the text format.
func sum(lines iter.Seq[string], prefix string) (float64, error) {
	var total float64
	for line := range lines {
		if !strings.HasPrefix(line, prefix) {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64)
		if err != nil {
			return 0, fmt.Errorf("read metric %s…}: %w", prefix, err)
		}
		total += n
	}
	return total, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"

	"headwater.dev/dev/hostpod"
)

const (
	idleFor = time.Minute
	// ticks of CPU time in a second, as /proc counts for programs on every Linux.
	ticks = 100
)

// usage is what programs have used up to a moment.
type usage struct {
	when     time.Time
	cpu      time.Duration
	pids     string
	requests float64 // answered by the API server, watches left out
}

func idle(ctx context.Context, b *bed) (string, error) {
	before, err := b.usage(ctx)
	if err != nil {
		return "", err
	}
	select { // this minute is what is measured
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(idleFor):
	}
	after, err := b.usage(ctx)
	if err != nil {
		return "", err
	}
	if before.pids != after.pids {
		return "", fmt.Errorf("programs were replaced in between: %s, then %s", before.pids, after.pids)
	}
	var total, own float64
	for _, p := range b.system.Members[0].Processes() {
		pss, anonymous, err := memory(p)
		if err != nil {
			return "", err
		}
		total, own = total+pss, own+anonymous
	}
	span := after.when.Sub(before.when).Seconds()
	return fmt.Sprintf("%.0f MiB PSS (%.0f MiB of it anonymous), %.1f %% of a core, %.1f requests/s", total, own,
		100*(after.cpu-before.cpu).Seconds()/span, (after.requests-before.requests)/span), nil
}

func (b *bed) usage(ctx context.Context) (usage, error) {
	u := usage{when: time.Now()}
	processes := b.system.Members[0].Processes()
	if len(processes) < 2 {
		return u, fmt.Errorf("agent and controllers should run, but there are only: %+v", processes)
	}
	for _, p := range processes {
		if p.PID == 0 {
			return u, fmt.Errorf("%s/%s does not run: %s", p.Namespace, p.Deployment, p.Problem)
		}
		used, err := cpu(p.PID)
		if err != nil {
			return u, err
		}
		u.cpu += used
		u.pids += fmt.Sprintf("%s=%d ", p.Deployment, p.PID)
	}
	var err error
	u.requests, err = b.requests(ctx)
	return u, err
}

// cpu is the time that a process has computed, in user and kernel.
func cpu(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read a process's CPU time: %w", err)
	}
	// The name, in parentheses, may hold spaces; after it comes field 3.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has only %d fields after the name", pid, len(fields))
	}
	user, userErr := strconv.ParseInt(fields[11], 10, 64)
	system, systemErr := strconv.ParseInt(fields[12], 10, 64)
	if err := errors.Join(userErr, systemErr); err != nil {
		return 0, fmt.Errorf("read a process's CPU time: %w", err)
	}
	return time.Duration(user+system) * time.Second / ticks, nil
}

// memory is a process's share of what it has in memory, and what of it is its
// own data, in MiB. Pages that processes share are split between them, so sums
// count them once.
func memory(p hostpod.Process) (pss, anonymous float64, err error) {
	file := fmt.Sprintf("/proc/%d/smaps_rollup", p.PID)
	share, err := number(file, `(?m)^Pss:\s*(\d+) kB$`)
	if err != nil {
		return 0, 0, err
	}
	own, err := number(file, `(?m)^Anonymous:\s*(\d+) kB$`)
	return float64(share) / 1024, float64(own) / 1024, err
}

// requests is how many requests the API server has answered, watches left out.
func (b *bed) requests(ctx context.Context) (float64, error) {
	config, err := b.system.Members[0].Config()
	if err != nil {
		return 0, err
	}
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return 0, fmt.Errorf("make the cluster's client: %w", err)
	}
	text, err := api.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return 0, fmt.Errorf("read the API server's metrics: %w", err)
	}
	var sum float64
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "apiserver_request_total{") || strings.Contains(line, `verb="WATCH"`) {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64)
		if err != nil {
			return 0, fmt.Errorf("read the API server's metrics: %w", err)
		}
		sum += n
	}
	return sum, nil
}

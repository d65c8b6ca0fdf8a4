package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"headwater.dev/dev"
)

// patience is how long one step of a scenario may take before it counts as failed.
const patience = 2 * time.Minute

// scenario measures one thing on a system on which the sample is compliant.
type scenario struct {
	name     string
	measures string // what the number is, in one sentence
	target   string
	run      func(context.Context, *bed) (string, error)
}

// scenarios are in the order in which they run: idle sees nothing but the sample.
func scenarios() []scenario {
	return []scenario{
		{"run", "from the start of the system to the sample Compliant, with all programs built", "≤ 60 s", startUp},
		{"idle", "the 60 s after that: agent and controllers together (requests: those of all clients of the cluster, watches left out)",
			"≤ 150 MiB, ≤ 2 % of a core", idle},
		{"push-notified", "from the end of a push, the source being notified, to the ConfigMap's new value in the cluster", "≤ 3 s", pushNotified},
		{"push-interval", "the same without notifying, interval 5 s, each push right after the last was applied", "≤ 8 s (interval + 3 s)", pushInterval},
		{"status", "from a Kustomization's Ready condition in the cluster to the hub's answer, failures and repairs in turn", "≤ 2 s", status},
	}
}

func names() string {
	var all []string
	for _, s := range scenarios() {
		all = append(all, s.name)
	}
	return strings.Join(all, ", ")
}

// choose returns the scenario of that name, or all for an empty one.
func choose(name string) ([]scenario, error) {
	if name == "" {
		return scenarios(), nil
	}
	for _, s := range scenarios() {
		if s.name == name {
			return []scenario{s}, nil
		}
	}
	return nil, fmt.Errorf("-run=%s: no such scenario; there are %s", name, names())
}

// measure runs scenarios on a system of their own and prints their rows to out.
// All run, also when one fails.
func measure(ctx context.Context, chosen []scenario, out, progress io.Writer) (err error) {
	m, err := thisMachine(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "headwater-bench-")
	if err != nil {
		return fmt.Errorf("make state folder: %w", err)
	}
	defer os.RemoveAll(dir)
	b, err := prepare(ctx, filepath.Join(dir, "system"), progress)
	if b != nil {
		defer func() { err = errors.Join(err, takeDown(ctx, b.system)) }()
	}
	if err != nil {
		return err
	}
	// Rows appear when all is measured: progress would tear the table.
	var rows strings.Builder
	var failed error
	for _, s := range chosen {
		fmt.Fprintf(progress, "%s: %s\n", s.name, s.measures)
		measured, err := s.run(ctx, b)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("scenario %s: %w", s.name, err))
			continue
		}
		fmt.Fprintf(&rows, "| %s | %s | %s | %s | %s: %s | %s | %s |\n", time.Now().UTC().Format(time.DateOnly), m.describe, m.commit,
			m.load, s.name, s.measures, s.target, measured)
	}
	_, err = fmt.Fprintf(out, "| date | machine | commit | load before | scenario | target | measured |\n|---|---|---|---|---|---|---|\n%s", rows.String())
	return errors.Join(failed, err)
}

// takeDown also works when the user has interrupted.
func takeDown(ctx context.Context, s *dev.System) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	return s.Down(ctx)
}

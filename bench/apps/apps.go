// Package apps measures the loops of the Flux API on many applications: a control
// plane of its own (etcd, API server, controller manager, no node), a Git server
// and the program agent, all on this machine. An application is a Kustomization
// of five objects, with prune and wait.
package apps

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
)

// Config says what to measure.
type Config struct {
	// Agent is the program that runs the loops.
	Agent string
	// Sizes are the numbers of applications, measured one after the other.
	Sizes []int
	// Never is how many Kustomizations that never become ready there are.
	Never int
}

// Figure is a number that was measured, with the most that it may be. A figure
// that may be anything (Most 0) is for information.
type Figure struct {
	Scenario, What string
	Value, Most    float64
	Unit           string
}

// Row is the figure's line of a Markdown table: scenario, target, measured, and
// whether it met its target.
func (f Figure) Row() string {
	target, verdict := "", ""
	if f.Most > 0 {
		target, verdict = fmt.Sprintf("≤ %s %s", amount(f.Most), f.Unit), "met"
		if f.Value > f.Most {
			verdict = "**missed**"
		}
	}
	return fmt.Sprintf("| %s: %s | %s | %s %s | %s |\n", f.Scenario, f.What, target, amount(f.Value), f.Unit, verdict)
}

// amount has the digits that say something.
func amount(v float64) string {
	switch {
	case v == math.Trunc(v) || v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v < 0.1:
		return strconv.FormatFloat(v, 'f', 3, 64)
	case v < 10:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 1, 64)
}

// ParseSizes reads numbers of applications, separated by commas.
func ParseSizes(text string) ([]int, error) {
	var sizes []int
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || n < 1 || n > 9999 {
			return nil, fmt.Errorf("-n=%s: %q is no number of applications from 1 to 9999", text, part)
		}
		sizes = append(sizes, n)
	}
	return sizes, nil
}

// report prints figures as they come and keeps their rows.
type report struct {
	progress io.Writer
	rows     strings.Builder
}

func (r *report) add(figures ...Figure) {
	for _, f := range figures {
		fmt.Fprint(r.progress, "  ", f.Row())
		r.rows.WriteString(f.Row())
	}
}

// Measure runs all scenarios for every size and prints a row for each figure.
func Measure(ctx context.Context, c Config, out, progress io.Writer) error {
	return inWorld(ctx, c, out, progress, func(w *world, r *report) error {
		floors := map[int]float64{}
		for _, n := range c.Sizes {
			took, err := w.floor(ctx, n)
			if err != nil {
				return fmt.Errorf("floor of %d: %w", n, err)
			}
			floors[n] = took.Seconds()
			r.add(Figure{Scenario: scenario("floor", n), What: "the same objects applied by a plain client with 8 writers", Value: took.Seconds(), Unit: "s"})
		}
		if err := w.startLoops(ctx); err != nil {
			return err
		}
		took, err := w.chain(ctx)
		if err != nil {
			return fmt.Errorf("chain: %w", err)
		}
		r.add(Figure{"chain", "ten Kustomizations, each depending on the one before, with wait", took.Seconds(), 3, "s"})
		for _, n := range c.Sizes {
			if err := w.life(ctx, n, floors[n], r); err != nil {
				return err
			}
		}
		return nil
	})
}

// life is that of n applications from their installation to their end.
func (w *world) life(ctx context.Context, n int, floor float64, r *report) error {
	steps := []struct {
		name string
		run  func(context.Context, int) ([]Figure, error)
	}{
		{"install", func(ctx context.Context, n int) ([]Figure, error) { return w.install(ctx, n, floor) }},
		{"change", w.change}, {"steady", w.steady}, {"drift", w.drift}, {"uninstall", w.uninstall},
	}
	for _, step := range steps {
		figures, err := step.run(ctx, n)
		if err != nil {
			return fmt.Errorf("%s: %w", scenario(step.name, n), err)
		}
		r.add(figures...)
	}
	return nil
}

func scenario(name string, n int) string { return fmt.Sprintf("%s, N = %d", name, n) }

// Starve installs the applications alone, then beside those that never become
// ready, then alone once more, for every size.
func Starve(ctx context.Context, c Config, out, progress io.Writer) error {
	return inWorld(ctx, c, out, progress, func(w *world, r *report) error {
		if err := w.startLoops(ctx); err != nil {
			return err
		}
		for _, n := range c.Sizes {
			figures, err := w.starve(ctx, n, c.Never)
			if err != nil {
				return fmt.Errorf("%s: %w", scenario("starve", n), err)
			}
			r.add(figures...)
		}
		return nil
	})
}

// inWorld brings a world up for something and prints what it reported, also when
// it ended early.
func inWorld(ctx context.Context, c Config, out, progress io.Writer, do func(*world, *report) error) (err error) {
	dir, err := os.MkdirTemp("", "headwater-apps-")
	if err != nil {
		return fmt.Errorf("make state folder: %w", err)
	}
	defer os.RemoveAll(dir)
	w, err := newWorld(ctx, dir, c.Agent, progress)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	r := &report{progress: progress}
	err = do(w, r)
	if err != nil {
		err = fmt.Errorf("%w; the end of the loops' log:\n%s", err, w.tail())
	}
	_, printed := fmt.Fprintf(out, "| scenario | target | measured | |\n|---|---|---|---|\n%s", r.rows.String())
	return errors.Join(err, printed)
}

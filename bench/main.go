// Command bench measures Headwater on this machine. It brings a system up, runs
// scenarios on it and prints a row of bench/RESULTS.md for each.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"headwater.dev/bench/apps"
	"headwater.dev/kernel/process"
)

func main() {
	var c config
	flag.StringVar(&c.only, "run", "", "run the scenario of this name alone; the names are "+names()+
		"; run only when named: fleet, a hub with simulated agents; kustomizations, the life of -n applications; starve, -n applications beside others that never become ready")
	flag.StringVar(&c.sizes, "n", "", "numbers of applications, separated by commas; default 100,300,500,1000 for -run=kustomizations, 500 for -run=starve")
	flag.IntVar(&c.apps.Never, "never", 50, "how many Kustomizations never become ready in -run=starve")
	flag.StringVar(&c.apps.Agent, "agent", "bin/agent", "the program whose loops -run=kustomizations and -run=starve measure")
	flag.IntVar(&c.fleet.agents, "agents", 10_000, "how many agents -run=fleet simulates")
	flag.StringVar(&c.fleet.hub, "hub", "bin/hub", "the hub that -run=fleet measures")
	flag.StringVar(&c.fleet.profiles, "profiles", "", "a folder for profiles of that hub: heap, CPU when idle and under load; none when empty")
	flag.Parse()
	if err := c.run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// config is what the command line says.
type config struct {
	only, sizes string
	fleet       fleetConfig
	apps        apps.Config
}

func (c config) run() error {
	ctx := process.Context()
	switch c.only {
	case "fleet":
		return measureFleet(ctx, c.fleet, os.Stdout, os.Stderr)
	case "kustomizations":
		return c.measureApps(ctx, apps.Measure, "100,300,500,1000")
	case "starve":
		return c.measureApps(ctx, apps.Starve, "500")
	}
	chosen, err := choose(c.only)
	if err != nil {
		return err
	}
	return measure(ctx, chosen, os.Stdout, os.Stderr)
}

// measureApps measures what does without hub and agent, and says on what machine.
func (c config) measureApps(ctx context.Context, run func(context.Context, apps.Config, io.Writer, io.Writer) error, sizes string) error {
	m, err := thisMachine(ctx)
	if err != nil {
		return err
	}
	if c.sizes != "" {
		sizes = c.sizes
	}
	if c.apps.Sizes, err = apps.ParseSizes(sizes); err != nil {
		return err
	}
	var rows strings.Builder // progress would tear the table
	err = run(ctx, c.apps, &rows, os.Stderr)
	_, printed := fmt.Fprintf(os.Stdout, "\n%s, %s, commit %s, load before %s\n\n%s", time.Now().UTC().Format(time.DateOnly), m.describe, m.commit, m.load, rows.String())
	return errors.Join(err, printed)
}

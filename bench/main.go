// Command bench measures Headwater on this machine. It brings a system up, runs
// scenarios on it and prints a row of bench/RESULTS.md for each.
package main

import (
	"flag"
	"fmt"
	"os"

	"headwater.dev/kernel/process"
)

func main() {
	only := flag.String("run", "", "run the scenario of this name alone; the names are "+names()+"; fleet is a hub with simulated agents and runs only when named")
	agents := flag.Int("agents", 10_000, "how many agents -run=fleet simulates")
	hub := flag.String("hub", "bin/hub", "the hub that -run=fleet measures")
	profiles := flag.String("profiles", "", "a folder for profiles of that hub: heap, CPU when idle and under load; none when empty")
	flag.Parse()
	err := run(*only, fleetConfig{agents: *agents, hub: *hub, profiles: *profiles})
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(only string, fleet fleetConfig) error {
	if only == "fleet" {
		return measureFleet(process.Context(), fleet, os.Stdout, os.Stderr)
	}
	chosen, err := choose(only)
	if err != nil {
		return err
	}
	return measure(process.Context(), chosen, os.Stdout, os.Stderr)
}

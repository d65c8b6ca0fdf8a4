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
	only := flag.String("run", "", "run the scenario of this name alone; the names are "+names())
	flag.Parse()
	chosen, err := choose(*only)
	if err == nil {
		err = measure(process.Context(), chosen, os.Stdout, os.Stderr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

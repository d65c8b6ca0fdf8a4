// Command headwater is the user's command line.
package main

import (
	"fmt"
	"os"

	"headwater.dev/cli"
	"headwater.dev/kernel/process"
)

func main() {
	if err := cli.Run(process.Context(), process.Version(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

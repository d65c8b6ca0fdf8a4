// Command headwater is the user's command line.
package main

import (
	"os"

	"headwater.dev/cli"
	"headwater.dev/kernel/process"
)

func main() {
	streams := cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	os.Exit(cli.Run(process.Context(), os.Args[1:], streams, os.Getenv))
}

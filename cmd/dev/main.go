// Command dev brings up the whole of Headwater on one machine. It is a tool of
// developers and never shipped.
package main

import (
	"fmt"
	"os"

	"headwater.dev/dev"
	"headwater.dev/dev/node"
	"headwater.dev/kernel/process"
)

func main() {
	node.Reexec() // a real node's first process is this program again
	if err := dev.NewCommand(process.Version()).ExecuteContext(process.Context()); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

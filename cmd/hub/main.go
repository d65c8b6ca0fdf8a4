// Command hub is the control plane: "hub serve" serves users and agents.
package main

import (
	"fmt"
	"os"

	"headwater.dev/hub"
	"headwater.dev/kernel/process"
)

func main() {
	if err := hub.NewCommand(process.Version()).ExecuteContext(process.Context()); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// Command agent is every process that runs in a cluster: "agent connect" keeps
// the line to the hub, "agent controllers" runs the loops.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"headwater.dev/agent"
	"headwater.dev/controller"
	"headwater.dev/kernel/process"
)

func main() {
	root := &cobra.Command{
		Use:           "agent",
		Short:         "Headwater in a cluster",
		Version:       process.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(agent.NewCommand(), controller.NewCommand())
	if err := root.ExecuteContext(process.Context()); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

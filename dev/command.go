package dev

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"headwater.dev/dev/image"
	"headwater.dev/dev/k8s"
)

// NewCommand returns the command dev with its subcommands.
func NewCommand(version string) *cobra.Command {
	root := &cobra.Command{
		Use:           "dev",
		Short:         "The whole of Headwater on one machine",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(upCommand(), runCommand(), superviseCommand(), downCommand(), statusCommand(), envCommand(), prepareCommand(), image.NewCommand())
	return root
}

// bind adds the flags of Options that dev up and dev supervise share.
func (o *Options) bind(f *pflag.FlagSet) {
	f.StringVar(&o.Dir, "dir", "", "folder for all state (default .dev of the module)")
	f.StringVar(&o.Bin, "bin", "", "folder with hub, headwater and agent (default bin of the module)")
	f.IntVar(&o.Clusters, "clusters", 1, "how many clusters to start")
	f.StringVar((*string)(&o.Node), "node", string(Simulated), "their nodes: kwok (simulated), containerd (real; Linux, root) or none")
	f.StringVar(&o.Kubeconfig, "kubeconfig", "", "connect the cluster of this file instead of starting one")
	f.BoolVar(&o.Simulate, "simulate", false, "with --kubeconfig: run agent and controllers as processes of this machine")
	f.StringVar(&o.Listen, "listen", "127.0.0.1", "address of this machine that servers and hub listen on; a cluster elsewhere has to reach it")
}

func upCommand() *cobra.Command {
	var o Options
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring the system up and leave it running",
		Example: "  dev up\n  dev up --clusters=3\n  sudo dev up --node=containerd\n" +
			"  dev up --kubeconfig=$HOME/.kube/config --simulate",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Progress = cmd.ErrOrStderr()
			if err := Start(cmd.Context(), o, given(cmd)); err != nil {
				return err
			}
			return next(cmd.OutOrStdout(), o)
		},
	}
	o.bind(cmd.Flags())
	return cmd
}

func runCommand() *cobra.Command {
	var o Options
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Bring the system up, deploy the sample through the hub and show what happens",
		Long:  "Brings the system up unless it runs already, pushes the sample to its Git server, creates a fluxConfiguration\nthrough the hub's API and ends with what runs. Exits 0 only when the configuration is Compliant.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Progress = cmd.ErrOrStderr()
			return Run(cmd.Context(), o, given(cmd), cmd.OutOrStdout())
		},
	}
	o.bind(cmd.Flags())
	return cmd
}

// given returns the flags that the user gave, to hand on to the supervisor.
func given(cmd *cobra.Command) []string {
	var args []string
	cmd.Flags().Visit(func(f *pflag.Flag) { args = append(args, "--"+f.Name+"="+f.Value.String()) })
	return args
}

// superviseCommand is what dev up runs in the background. It is also the way
// to have the system in the foreground.
func superviseCommand() *cobra.Command {
	var o Options
	cmd := &cobra.Command{
		Use:   "supervise",
		Short: "Bring the system up and down again on SIGTERM or interrupt (dev up does this in the background)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Progress = cmd.ErrOrStderr()
			return Supervise(cmd.Context(), o)
		},
	}
	o.bind(cmd.Flags())
	return cmd
}

func downCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the system and remove all its state",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := stateDir(dir)
			if err != nil {
				return err
			}
			return Stop(cmd.Context(), dir, cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder with the state (default .dev of the module)")
	return cmd
}

func statusCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what runs; fails when a part is down",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := stateDir(dir)
			if err != nil {
				return err
			}
			status, err := ReadStatus(dir)
			if err != nil {
				return err
			}
			if err := status.Print(cmd.OutOrStdout()); err != nil {
				return err
			}
			if !status.Healthy() {
				return errors.New("a part of the system is down")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder with the state (default .dev of the module)")
	return cmd
}

func envCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:     "env",
		Short:   "Print the variables that a shell needs to work with the system",
		Example: "  eval \"$(dev env)\"",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := stateDir(dir)
			if err != nil {
				return err
			}
			content, err := os.ReadFile(filepath.Join(dir, "env"))
			if errors.Is(err, os.ErrNotExist) {
				return ErrNotRunning
			}
			if err != nil {
				return fmt.Errorf("read environment: %w", err)
			}
			_, err = cmd.OutOrStdout().Write(content)
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder with the state (default .dev of the module)")
	return cmd
}

func prepareCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "prepare",
		Short: "Build Kubernetes' components, once, and print where they are",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			binary, err := k8s.Ensure(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), binary)
			return err
		},
	}
}

func stateDir(dir string) (string, error) {
	if dir != "" {
		return filepath.Abs(dir)
	}
	root, err := k8s.ModuleRoot()
	if err != nil {
		return "", fmt.Errorf("find .dev (or name it with --dir): %w", err)
	}
	return filepath.Join(root, ".dev"), nil
}

// next tells what can be done now.
func next(out io.Writer, o Options) error {
	dir, err := stateDir(o.Dir)
	if err != nil {
		return err
	}
	status, err := ReadStatus(dir)
	if err != nil {
		return err
	}
	if err := status.Print(out); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, `
The system is up. What it needs to be used is in a file:

  source %[1]s/env

KUBECONFIG            all clusters, a context each     HEADWATER_HUB, HEADWATER_CA   the hub and its authority
AZURE_*               credentials of the hub           GIT_URL, GIT_SSH_URL          Git; GIT_USER may do everything
OCI_REGISTRY          images and artifacts             HELM_REPOSITORY               charts

  kubectl get deployments -A
  headwater connectedk8s list -g $RESOURCE_GROUP -o table
  headwater k8s-configuration flux create -g $RESOURCE_GROUP -c $CLUSTER -t connectedClusters \
    -n apps --namespace apps -u $GIT_URL/apps.git --branch main -k name=apps path=./apps prune=true
  headwater k8s-configuration flux show -g $RESOURCE_GROUP -c $CLUSTER -t connectedClusters -n apps

dev status shows how its parts do; dev down stops them and leaves nothing behind.
`, dir)
	return err
}

package controller

import (
	"context"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"headwater.dev/kernel/host"
	"headwater.dev/kernel/process"
)

// gcPercent is how much the heap may grow between collections unless GOGC says
// otherwise. It costs a tenth more CPU while much is applied, and saves a
// quarter of the memory.
const gcPercent = 50

// NewCommand returns the command that runs the loops until its context ends.
func NewCommand() *cobra.Command {
	var o host.Options
	var enable []string
	c := &cobra.Command{
		Use:   "controllers",
		Short: "Run the loops that turn FluxConfigs and Flux objects into what they describe",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return run(c.Context(), o, enable)
		},
	}
	o.BindFlags(c.Flags())
	c.Flags().StringSliceVar(&enable, "enable", Names(), "Loops to run.")
	return c
}

func run(ctx context.Context, o host.Options, enable []string) error {
	log, err := process.Logger(os.Stderr, o.LogLevel, "json")
	if err != nil {
		return err
	}
	useLogger(log)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	config, err := host.RESTConfig(o.Kubeconfig)
	if err != nil {
		return err
	}
	config.UserAgent = "headwater-controllers/" + process.Version()
	h, err := host.New(config, o)
	if err != nil {
		return err
	}
	if err := Setup(ctx, h, enable); err != nil {
		return err
	}
	process.KeepSmall(ctx, log)
	log.Info("running", "loops", enable, "version", process.Version())
	return h.Run(ctx)
}

// useLogger gives every library one logger.
func useLogger(log *slog.Logger) {
	l := logr.FromSlogHandler(log.Handler())
	ctrl.SetLogger(l)
	klog.SetLogger(l)
}

package agent

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"headwater.dev/agent/extension"
	"headwater.dev/kernel/host"
	"headwater.dev/kernel/process"
	"headwater.dev/kernel/trace"
)

// options of the command; the environment gives defaults where a supervisor
// has to choose.
type options struct {
	kubeconfig, namespace, logLevel, healthAddr, image, pullPolicy string
}

// NewCommand returns the command that connects the cluster until its context
// ends.
func NewCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "connect",
		Short: "Connect this cluster to its hub and carry out what the hub desires",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return run(c.Context(), o) },
	}
	f := c.Flags()
	f.StringVar(&o.kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "Kubeconfig of the cluster; in a pod its service account is used.")
	f.StringVar(&o.namespace, "namespace", cmp.Or(os.Getenv("POD_NAMESPACE"), "headwater-system"), "Namespace of the agent's identity and configuration.")
	f.StringVar(&o.logLevel, "log-level", cmp.Or(os.Getenv("LOG_LEVEL"), "info"), "Log level: debug, info or error.")
	f.StringVar(&o.healthAddr, "health-addr", cmp.Or(os.Getenv("HEALTH_ADDR"), ":9440"), "Address of the health endpoint; 0 turns it off.")
	f.StringVar(&o.image, "extension-image", cmp.Or(os.Getenv("HEADWATER_IMAGE"), "headwater.dev/agent:"+process.Version()), "Image that the extension's controllers run.")
	f.StringVar(&o.pullPolicy, "extension-image-pull-policy", os.Getenv("HEADWATER_IMAGE_PULL_POLICY"), "Pull policy of that image.")
	return c
}

func run(ctx context.Context, o options) error {
	logger, err := process.Logger(os.Stderr, o.logLevel, "json")
	if err != nil {
		return err
	}
	log := logr.FromSlogHandler(logger.Handler())
	klog.SetLogger(log)
	config, err := host.RESTConfig(o.kubeconfig)
	if err != nil {
		return err
	}
	config.UserAgent = "headwater-agent/" + process.Version()
	if err := serveHealth(ctx, o.healthAddr); err != nil {
		return err
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	c := Config{
		REST: config, Version: process.Version(), Log: log,
		Image: extension.Image{Reference: o.image, PullPolicy: o.pullPolicy},
	}
	if err := identify(ctx, kube, o.namespace, &c); err != nil {
		return err
	}
	if err := recall(ctx, kube, &c); err != nil {
		return err
	}
	var stop func()
	if c.Traces, stop, err = trace.Start(ctx, "headwater-agent", process.Version()); err != nil {
		return err
	}
	defer stop()
	a, err := New(c)
	if err != nil {
		return err
	}
	process.KeepSmall(ctx, logger)
	log.Info("running", "hub", c.Hub, "cluster", c.Cluster, "version", c.Version)
	return a.Run(ctx)
}

// serveHealth answers the kubelet's probes. The agent is healthy while it
// runs: a hub that is away is no reason to restart it.
func serveHealth(ctx context.Context, address string) error {
	if address == "0" || address == "" {
		return nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen on --health-addr: %w", err)
	}
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }),
		ReadHeaderTimeout: 5 * time.Second,
	}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() { _ = server.Serve(listener) }()
	return nil
}

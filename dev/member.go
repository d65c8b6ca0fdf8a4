package dev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"headwater.dev/dev/cluster"
	"headwater.dev/dev/hostpod"
	"headwater.dev/dev/image"
	"headwater.dev/dev/node"
)

// Member is a cluster of the system.
type Member struct {
	// Name is what the hub calls it.
	Name string
	// Kubeconfig is a file with an administrator's access.
	Kubeconfig string

	control *cluster.Cluster // nil for a cluster that was there before
	real    *node.Node       // nil for other kinds
	runner  *hostpod.Runner  // nil where pods are real
	stop    context.CancelFunc
	ended   chan error // the runner's
}

// Config returns an administrator's client configuration without a client-side rate limit.
func (m *Member) Config() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", m.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig of %s: %w", m.Name, err)
	}
	config.QPS = -1
	return config, nil
}

// Processes returns our programs that run on this machine for the cluster.
func (m *Member) Processes() []hostpod.Process {
	if m.runner == nil {
		return nil
	}
	return m.runner.Processes()
}

// Err returns why a part of the cluster ended, or nil.
func (m *Member) Err() error {
	switch {
	case m.real != nil:
		return m.real.Err()
	case m.control != nil:
		return m.control.Err()
	default:
		return nil
	}
}

// launch is what starting a member takes from the system.
type launch struct {
	options  Options
	binary   string // k8sdev
	root     string // the module's folder; for real nodes
	version  string // of the images that the charts ask for; for real nodes
	ports    []int  // that a real node's pods have to reach
	registry string // host that a real node pulls from without TLS
	journal  *journal
}

// startMember starts a cluster with its node. On failure nothing of it is left running.
func startMember(ctx context.Context, name string, l launch) (*Member, error) {
	m := &Member{Name: name}
	if err := m.start(ctx, l); err != nil {
		return nil, errors.Join(err, m.Stop())
	}
	return m, nil
}

func (m *Member) start(ctx context.Context, l launch) (err error) {
	dir := l.options.path("clusters", m.Name)
	if l.options.Node == Real {
		m.real, err = node.Start(ctx, node.Config{
			Name: m.Name, Dir: dir, Binary: l.binary, Root: l.root,
			Version: l.version, Programs: []image.Program{{Name: "agent", Package: "./cmd/agent"}},
			Services: l.ports, Registries: []string{l.registry}, Progress: l.journal,
		})
		if err != nil {
			return err
		}
		m.Kubeconfig = m.real.Cluster().Kubeconfig()
		return nil
	}
	m.control, err = cluster.Start(ctx, cluster.Options{Name: m.Name, Dir: dir, Binary: l.binary, NoWebhooks: l.options.Node == Simulated})
	if err != nil {
		return err
	}
	m.Kubeconfig = m.control.Kubeconfig()
	if err := m.control.StartControllers(ctx); err != nil {
		return err
	}
	if l.options.Node == NoNode {
		return nil
	}
	if err := m.control.StartScheduler(); err != nil {
		return err
	}
	kubelet, err := m.kubelet()
	if err != nil {
		return err
	}
	if err := m.control.StartSimulatedNode(ctx, m.nodeName(), kubelet.Port); err != nil {
		return err
	}
	return m.simulate(l.options, kubelet)
}

func (m *Member) nodeName() string { return m.Name + "-node" }

// kubelet gives the simulated node a place where its pods' logs are.
func (m *Member) kubelet() (*hostpod.Kubelet, error) {
	port, err := cluster.FreePort()
	if err != nil {
		return nil, err
	}
	k := &hostpod.Kubelet{Port: port, ClientCA: m.control.Authority()}
	k.Cert, k.Key, err = m.control.ServingCertificate("system:node:"+m.nodeName(), []string{m.nodeName()}, []net.IP{net.IPv4(127, 0, 0, 1)})
	return k, err
}

// adopt takes a cluster that was there before.
func adopt(o Options) (*Member, error) {
	m := &Member{Name: "cluster-1", Kubeconfig: o.Kubeconfig}
	if o.Simulate {
		return m, m.simulate(o, nil)
	}
	return m, nil
}

// simulate runs the cluster's Headwater Deployments on this machine.
func (m *Member) simulate(o Options, kubelet *hostpod.Kubelet) error {
	config, err := m.Config()
	if err != nil {
		return err
	}
	dir := o.path("clusters", m.Name)
	if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o700); err != nil {
		return fmt.Errorf("create log folder: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(dir, "logs", "hostpod.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open log of host processes: %w", err)
	}
	m.runner, err = hostpod.New(hostpod.Config{
		Config: config, Programs: o.Bin, Dir: filepath.Join(dir, "pods"), Logs: filepath.Join(dir, "logs"),
		Logger: slog.New(slog.NewTextHandler(log, nil)), Kubelet: kubelet,
	})
	if err != nil {
		return errors.Join(err, log.Close())
	}
	// Not bound to the context of the start: it ends with Stop.
	ctx, stop := context.WithCancel(context.Background())
	m.stop, m.ended = stop, make(chan error, 1)
	go func() { m.ended <- errors.Join(m.runner.Run(ctx), log.Close()) }()
	return nil
}

// Stop ends everything that was started for the cluster.
func (m *Member) Stop() error {
	var failed error
	if m.stop != nil {
		m.stop()
		failed = <-m.ended
		m.stop = nil
	}
	if m.real != nil {
		failed = errors.Join(failed, m.real.Stop())
	}
	if m.control != nil {
		failed = errors.Join(failed, m.control.Stop())
	}
	return failed
}

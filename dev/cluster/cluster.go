// Package cluster runs real Kubernetes control planes as child processes,
// without root and side by side: etcd and kube-apiserver to begin with,
// kube-controller-manager, kube-scheduler and simulated nodes when they are
// asked for. A cluster's files (keys, data, logs, kubeconfig) are in one folder.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"headwater.dev/dev/child"
)

const (
	// startTimeout is the longest time that one component may take to start,
	// on a machine that has much else to do.
	startTimeout = 2 * time.Minute
	// attempts is how often a start is tried when its port was taken meanwhile.
	attempts = 3
)

// Options of a cluster.
type Options struct {
	// Name tells clusters apart in messages.
	Name string
	// Dir is the folder for the cluster's files. Empty: a temporary one, which Stop removes.
	Dir string
	// Binary is the path of k8sdev, as k8s.Ensure returns it.
	Binary string
	// AuditLog makes the API server write every request to AuditLog().
	AuditLog bool
	// NoWebhooks makes the API server skip admission webhooks: pods that nothing runs cannot answer them.
	NoWebhooks bool
	// Etcd are the addresses of an etcd that somebody else runs; empty: one of the cluster's own.
	Etcd []string
	// Placement is where the processes run; zero: on this machine, reachable by 127.0.0.1 only.
	Placement Placement
}

// Placement puts the control plane somewhere else than next to this process,
// such as the network namespace of a real node.
type Placement struct {
	// Launch is the start of every command line, like "nsenter -t 1 -n --".
	Launch []string
	// Address is where nodes and pods reach the API server; nil: nowhere.
	Address net.IP
	// Port of the API server; 0: a free one.
	Port int
}

// Cluster is a running control plane.
type Cluster struct {
	options Options
	dir     string
	port    int
	pki     *pki
	client  kubernetes.Interface

	mu       sync.Mutex
	children []*child.Child // in the order of their start
	running  map[string]*child.Child
}

// Start starts etcd and the API server, and returns when the API server
// answers that it is ready.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	var failed error
	for range attempts {
		c, err := start(ctx, o)
		if err == nil {
			return c, nil
		}
		failed = err
		if !errors.Is(err, errPortTaken) || o.Placement.Port != 0 {
			break
		}
	}
	return nil, fmt.Errorf("start cluster %s: %w", o.Name, failed)
}

func start(ctx context.Context, o Options) (*Cluster, error) {
	c := &Cluster{options: o, dir: o.Dir, port: o.Placement.Port, running: map[string]*child.Child{}}
	if err := c.prepare(); err != nil {
		return nil, err
	}
	if err := c.startAPI(ctx); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

// prepare makes the folder, the keys and the administrator's kubeconfig.
func (c *Cluster) prepare() (err error) {
	if c.dir == "" {
		if c.dir, err = os.MkdirTemp("", "headwater-cluster-"); err != nil {
			return fmt.Errorf("create cluster folder: %w", err)
		}
	}
	if c.dir, err = filepath.Abs(c.dir); err != nil {
		return fmt.Errorf("find cluster folder: %w", err)
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return fmt.Errorf("create cluster folder: %w", err)
	}
	if c.port == 0 {
		if c.port, err = FreePort(); err != nil {
			return err
		}
	}
	if c.pki, err = newPKI(c.path("pki")); err != nil {
		return err
	}
	return c.WriteKubeconfig(c.Kubeconfig(), "headwater-dev-admin", "system:masters")
}

// Name returns the cluster's name.
func (c *Cluster) Name() string { return c.options.Name }

// Dir returns the folder with the cluster's files.
func (c *Cluster) Dir() string { return c.dir }

// Server returns the API server's URL, as seen from where its processes run.
func (c *Cluster) Server() string { return fmt.Sprintf("https://127.0.0.1:%d", c.port) }

// Kubeconfig returns the path of the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return c.path("kubeconfig") }

// Logs returns the folder with one log per component.
func (c *Cluster) Logs() string { return c.path("logs") }

// AuditLog returns the path of the API server's audit log, one JSON event a
// line. The file exists when Options.AuditLog was set.
func (c *Cluster) AuditLog() string { return filepath.Join(c.Logs(), "audit.log") }

// Config returns an administrator's client configuration without a client-side
// rate limit. Each call returns a new one.
func (c *Cluster) Config() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig of cluster %s: %w", c.options.Name, err)
	}
	config.QPS = -1
	return config, nil
}

// WriteKubeconfig writes a kubeconfig file for a new client with the given user
// name and groups.
func (c *Cluster) WriteKubeconfig(file, user string, groups ...string) error {
	return c.pki.kubeconfig(file, c.Server(), subject{user: user, groups: groups})
}

// ServingCertificate issues a certificate for a server in the cluster, such as
// a kubelet, and returns the paths of certificate and key.
func (c *Cluster) ServingCertificate(user string, names []string, ips []net.IP) (cert, key string, err error) {
	file := user + "-server"
	if _, err := c.pki.leaf(file, subject{user: user, names: names, ips: ips}, c.pki.root); err != nil {
		return "", "", err
	}
	return c.pki.path(file + ".crt"), c.pki.path(file + ".key"), nil
}

// Authority returns the path of the certificate that signed all others.
func (c *Cluster) Authority() string { return c.pki.path("ca.crt") }

// Err returns why a component ended that should run, or nil.
func (c *Cluster) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, process := range c.children {
		if err := process.Exited(); err != nil {
			return fmt.Errorf("cluster %s: %w", c.options.Name, err)
		}
	}
	return nil
}

// Stop ends all processes at once, and removes a temporary folder. The data is
// not flushed: a cluster lives once.
func (c *Cluster) Stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var failed error
	for i := len(c.children) - 1; i >= 0; i-- {
		failed = errors.Join(failed, c.children[i].Stop(0))
	}
	c.children, c.running = nil, map[string]*child.Child{}
	if c.options.Dir == "" {
		failed = errors.Join(failed, os.RemoveAll(c.dir))
	}
	return failed
}

// run starts a component, once: a second call for the same name returns the
// running process.
func (c *Cluster) run(component string, args ...string) (*child.Child, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if process, ok := c.running[component]; ok {
		return process, nil
	}
	line := append([]string{}, c.options.Placement.Launch...)
	line = append(line, c.options.Binary, component)
	line = append(line, args...)
	process, err := child.Start(child.Spec{
		Name: component, Path: line[0], Args: line[1:], Dir: c.dir,
		Log: filepath.Join(c.Logs(), component+".log"),
	})
	if err != nil {
		return nil, err
	}
	c.children = append(c.children, process)
	c.running[component] = process
	return process, nil
}

// defaultAccount returns nil when workloads can be created in the default namespace.
func (c *Cluster) defaultAccount(ctx context.Context) error {
	_, err := c.client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
	return err
}

func (c *Cluster) path(name string) string { return filepath.Join(c.dir, name) }

// PIDs returns the ids of the running components' processes.
func (c *Cluster) PIDs() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	pids := make([]int, 0, len(c.children))
	for _, process := range c.children {
		pids = append(pids, process.PID())
	}
	return pids
}

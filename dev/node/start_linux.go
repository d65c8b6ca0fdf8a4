package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"headwater.dev/dev/child"
	"headwater.dev/dev/cluster"
)

// startTimeout is the longest time that one part may take to start on a busy machine.
const startTimeout = 2 * time.Minute

// Node is a running cluster with one real node.
type Node struct {
	cfg     Config
	state   state
	holder  *child.Child
	netns   netns
	cluster *cluster.Cluster

	mu       sync.Mutex
	children []*child.Child // in the order of their start
	forwards []*forwarder
}

// Start brings up control plane and node, and returns when the node is Ready, the images are there and cluster DNS
// answers. When it fails it leaves nothing behind but logs.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	if err := Check(); err != nil {
		return nil, err
	}
	if cfg.Name == "" || cfg.Dir == "" || cfg.Binary == "" || cfg.Root == "" {
		return nil, errors.New("start node: Config needs Name, Dir, Binary and Root")
	}
	if cfg.Progress == nil {
		cfg.Progress = io.Discard
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("start node %s: %w", cfg.Name, err)
	}
	cfg.Dir = dir
	sum := sha256.Sum256([]byte(dir))
	n := &Node{cfg: cfg, state: state{Dir: filesDir(dir), Node: cfg.Name, Cgroup: "headwater-" + hex.EncodeToString(sum[:6])}}
	if err := n.start(ctx); err != nil {
		return nil, fmt.Errorf("start node %s: %w", cfg.Name, errors.Join(err, n.Stop()))
	}
	return n, nil
}

func (n *Node) start(ctx context.Context) error {
	if err := CleanUp(n.cfg.Dir); err != nil {
		return err
	}
	for _, dir := range []string{"kubelet", "sysctl", "cni", "images"} {
		if err := os.MkdirAll(n.state.path(dir), 0o700); err != nil {
			return fmt.Errorf("make the node's folder: %w", err)
		}
	}
	if err := n.hold(ctx); err != nil {
		return err
	}
	n.say("namespaces are ready")
	for _, port := range n.cfg.Services {
		if err := n.Serve(port); err != nil {
			return err
		}
	}
	both, bothCtx := errgroup.WithContext(ctx)
	both.Go(func() error { return n.startControlPlane(bothCtx) })
	both.Go(func() error { return n.startRuntime(bothCtx) })
	if err := both.Wait(); err != nil {
		return err
	}
	return n.join(ctx)
}

// hold starts the process that holds the namespaces.
func (n *Node) hold(ctx context.Context) error {
	if err := n.state.save(); err != nil {
		return err
	}
	var err error
	n.holder, err = child.Start(child.Spec{
		Name: "node " + n.cfg.Name, Path: "/proc/self/exe", Args: []string{argHold, n.state.file()}, Log: n.log("node"),
	})
	if err != nil {
		return err
	}
	err = n.holder.Await(ctx, startTimeout, func(context.Context) error {
		_, err := os.Stat(n.state.path("ready"))
		return err
	})
	if err != nil {
		return err
	}
	if n.state, err = loadState(n.state.file()); err != nil {
		return err
	}
	n.netns, err = openNetns(n.state.PID)
	return err
}

// startControlPlane opens the door to the API server and starts what is behind it.
func (n *Node) startControlPlane(ctx context.Context) error {
	l, port, err := openDoor()
	if err != nil {
		return err
	}
	n.addForward(l, func() (net.Conn, error) { return n.netns.dial(local(port)) })
	n.cluster, err = cluster.Start(ctx, cluster.Options{
		Name: n.cfg.Name, Dir: n.cfg.Dir, Binary: n.cfg.Binary,
		Placement: cluster.Placement{Launch: n.launch(enterNet), Address: net.ParseIP(Address), Port: port},
	})
	if err != nil {
		return err
	}
	n.say("API server is ready")
	if err := n.cluster.StartControllers(ctx); err != nil {
		return err
	}
	return n.cluster.StartScheduler()
}

// openDoor listens on a free port. One that was just found to be free can be taken for a moment: by a process that is
// being started and has not yet closed what it inherited.
func openDoor() (l net.Listener, port int, err error) {
	for range 10 {
		if port, err = cluster.FreePort(); err != nil {
			return nil, 0, err
		}
		if l, err = net.Listen("tcp4", local(port)); err == nil {
			return l, port, nil
		}
	}
	return nil, 0, fmt.Errorf("open a door to the API server: %w", err)
}

// Cluster is the control plane. Its Kubeconfig works on the machine and inside.
func (n *Node) Cluster() *cluster.Cluster { return n.cluster }

// Serve lets pods reach a port of the machine's 127.0.0.1 at Address:port, until Stop.
func (n *Node) Serve(port int) error {
	l, err := n.netns.listen(net.JoinHostPort(Address, strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("let pods reach port %d of this machine: %w", port, err)
	}
	n.addForward(l, dialer(local(port)))
	return nil
}

// Command returns the start of a command line that runs what follows it inside the node's namespaces.
func (n *Node) Command() []string { return n.launch(enterAll) }

// Err returns why a part ended that should run, or nil.
func (n *Node) Err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range append([]*child.Child{n.holder}, n.children...) {
		if err := c.Exited(); err != nil {
			return fmt.Errorf("node %s: %w", n.cfg.Name, err)
		}
	}
	return n.cluster.Err()
}

// Stop ends every process, and leaves no mount, no cgroup and no file of the node but its logs. A second call does
// nothing.
func (n *Node) Stop() error {
	n.mu.Lock()
	children, forwards := n.children, n.forwards
	n.children, n.forwards = nil, nil
	n.mu.Unlock()
	var failed error
	if n.cluster != nil {
		failed = errors.Join(failed, n.cluster.Stop())
	}
	if n.holder != nil { // the first process inside ends with it, and all others with that one
		failed = errors.Join(failed, n.holder.Stop(0))
	}
	for _, c := range children {
		failed = errors.Join(failed, c.Stop(0))
	}
	for _, f := range forwards {
		failed = errors.Join(failed, f.close())
	}
	if n.netns.file != nil {
		failed = errors.Join(failed, n.netns.close())
		n.netns = netns{}
	}
	return errors.Join(failed, CleanUp(n.cfg.Dir))
}

// filesDir is where the node's files are below Config.Dir.
func filesDir(dir string) string { return filepath.Join(dir, "node") }

// CleanUp removes what a node with this Config.Dir left when its program was killed: cgroups and files, but not the logs.
// Its processes and mounts ended with the program. Start does the same before anything else.
func CleanUp(dir string) error {
	s, err := loadState(state{Dir: filesDir(dir)}.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := removeCgroups(s.Cgroups); err != nil {
		return fmt.Errorf("clean up node %s, which may still run: %w", s.Node, err)
	}
	removeFolders()
	if err := os.RemoveAll(s.Dir); err != nil {
		return fmt.Errorf("remove the files of node %s: %w", s.Node, err)
	}
	return nil
}

// launch is the start of a command line that runs what follows inside.
func (n *Node) launch(where string) []string {
	self, err := os.Executable()
	if err != nil {
		self = "/proc/self/exe"
	}
	return []string{self, argEnter, n.state.file(), where}
}

// run starts a process inside.
func (n *Node) run(name, where string, args ...string) (*child.Child, error) {
	line := append(n.launch(where), args...)
	c, err := child.Start(child.Spec{Name: name, Path: line[0], Args: line[1:], Dir: n.state.Dir, Log: n.log(name)})
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.children = append(n.children, c)
	return c, nil
}

func (n *Node) addForward(l net.Listener, dial func() (net.Conn, error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.forwards = append(n.forwards, forward(l, dial))
}

// log is the path of a part's log, beside those of the control plane.
func (n *Node) log(name string) string { return filepath.Join(n.cfg.Dir, "logs", name+".log") }

func (n *Node) say(step string) { fmt.Fprintf(n.cfg.Progress, "cluster %s: %s\n", n.cfg.Name, step) }

// Package dev brings up the whole of Headwater on one machine: clusters, a Git
// server, an OCI registry, a Helm repository, the hub, and the clusters'
// connection to it.
package dev

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"headwater.dev/dev/k8s"
	"headwater.dev/dev/node"
)

// ResourceGroup is where the clusters are registered.
const ResourceGroup = "fleet"

// Location is what the group and the clusters say where they are.
const Location = "local"

// Kind of a cluster's node.
type Kind string

const (
	// Simulated nodes are played by kwok; our own programs run as processes of this machine.
	Simulated Kind = "kwok"
	// Real nodes run containers; Linux and root only.
	Real Kind = "containerd"
	// NoNode leaves the clusters without a node, and unconnected.
	NoNode Kind = "none"
)

// Options of Up.
type Options struct {
	// Dir keeps all state. Empty: .dev in the module's folder.
	Dir string
	// Bin is the folder with the programs hub, headwater and agent. Empty: bin in the module's folder.
	Bin string
	// Clusters is how many to start, called cluster-1 and so on; 1 when zero.
	Clusters int
	// Node is the kind of their nodes; Simulated when empty.
	Node Kind
	// Kubeconfig is a file with access to a cluster to connect instead of starting one.
	Kubeconfig string
	// Simulate runs our programs of that cluster as processes of this machine, as for simulated nodes.
	Simulate bool
	// Listen is the address that servers and hub listen on and are known by; 127.0.0.1 when empty.
	// A cluster elsewhere has to reach it.
	Listen string
	// Progress gets a line for each step; nil means nobody looks.
	Progress io.Writer
}

// complete fills in what is not set and refuses what cannot be.
func (o Options) complete() (Options, error) {
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if o.Clusters == 0 {
		o.Clusters = 1
	}
	if o.Node == "" {
		o.Node = Simulated
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1"
	}
	if err := o.validate(); err != nil {
		return o, err
	}
	return o, o.locate()
}

func (o Options) validate() error {
	switch {
	case o.Clusters < 0 || o.Clusters > 100:
		return fmt.Errorf("--clusters=%d: give a number from 1 to 100", o.Clusters)
	case o.Kubeconfig != "" && o.Clusters != 1:
		return errors.New("--kubeconfig connects one cluster: leave out --clusters")
	case o.Simulate && o.Kubeconfig == "":
		return errors.New("--simulate is for a cluster of your own: add --kubeconfig, or leave it out (--node=kwok is the default)")
	case o.Kubeconfig != "" && o.Node != Simulated:
		return errors.New("--node is for clusters that are started here: leave it out with --kubeconfig")
	}
	switch o.Node {
	case Simulated, NoNode:
		return nil
	case Real:
		return node.Check()
	default:
		return fmt.Errorf("--node=%s: use %s, %s or %s", o.Node, Simulated, Real, NoNode)
	}
}

// locate makes all paths absolute.
func (o *Options) locate() error {
	root, err := k8s.ModuleRoot()
	if err != nil && (o.Dir == "" || o.Bin == "") {
		return fmt.Errorf("find .dev and bin: %w", err)
	}
	if o.Dir == "" {
		o.Dir = filepath.Join(root, ".dev")
	}
	if o.Bin == "" {
		o.Bin = filepath.Join(root, "bin")
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return err
	}
	if o.Bin, err = filepath.Abs(o.Bin); err != nil {
		return err
	}
	if o.Kubeconfig != "" {
		if o.Kubeconfig, err = filepath.Abs(o.Kubeconfig); err != nil {
			return err
		}
		if _, err := os.Stat(o.Kubeconfig); err != nil {
			return fmt.Errorf("--kubeconfig: %w", err)
		}
	}
	for _, program := range []string{"hub", "headwater", "agent"} {
		if _, err := os.Stat(filepath.Join(o.Bin, program)); err != nil {
			return fmt.Errorf("program %s is missing, run make build: %w", program, err)
		}
	}
	return nil
}

// advertised is the host by which servers and hub are known.
func (o Options) advertised() string {
	if o.Node == Real {
		return node.Address
	}
	return o.Listen
}

// path returns a path below the state folder.
func (o Options) path(elements ...string) string {
	return filepath.Join(append([]string{o.Dir}, elements...)...)
}

// journal writes lines with the seconds since the start. Several goroutines may
// use it.
type journal struct {
	begin time.Time

	mu  sync.Mutex
	out io.Writer
}

func (j *journal) say(format string, args ...any) {
	_, _ = fmt.Fprintf(j, format+"\n", args...) // who does not listen misses it
}

// Write makes the lines of others lines of the journal.
func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, err := fmt.Fprintf(j.out, "%6.1f s  %s", time.Since(j.begin).Seconds(), line)
	return len(line), err
}

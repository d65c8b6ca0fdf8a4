// Package node runs a whole Kubernetes cluster with one real node on a Linux machine, as root, next to whatever else the
// machine does: kubelet, containerd, runc, a CNI bridge, kube-proxy (nftables) and cluster DNS in network, mount,
// process and cgroup namespaces of their own. Ending one process ends all of it. Several clusters can run side by side.
//
// # How the namespaces are made
//
// Start runs this very program again (see Reexec) in a cgroup of its own. That process clones itself once more into the
// new namespaces and becomes their first process: it mounts, makes the network, and then only collects orphans. All
// other processes enter the namespaces from outside (nsenter), so that they are children of the caller with logs and
// exit codes. The control plane, started by package cluster, only shares the network.
//
// # Network
//
// The node's network has no way out: a loopback, the node's bridge 10.200.0.1/24, pods on 10.244.0.0/24, services on
// 10.96.0.0/16. There are two doors, both made of sockets that this process holds on either side:
//
//   - 127.0.0.1:PORT of the machine leads to the API server on 127.0.0.1:PORT of the node, so one kubeconfig is right
//     on both sides;
//   - Address:PORT (10.200.0.1) of the node leads to 127.0.0.1:PORT of the machine, for each port in Config.Services
//     and each call of Serve. So pods reach the hub and the Git, OCI and Helm servers of the machine, which should
//     advertise themselves under Address.
//
// Publish makes Address:PORT work on the machine too, so that one URL of a service is right for pods, for the machine's
// programs and for the user.
package node

import (
	"errors"
	"io"

	"headwater.dev/dev/image"
)

const (
	// Address is where pods reach the node, and through it the services of the machine.
	Address = "10.200.0.1"

	nodeNetwork    = Address + "/24"
	podNetwork     = "10.244.0.0/24"
	serviceNetwork = "10.96.0.0/16"
)

// ErrUnsupported says that a real node cannot run here. The error that wraps it tells why and what to do.
var ErrUnsupported = errors.New("a real node cannot run on this machine")

// Config describes a cluster with one real node.
type Config struct {
	// Name of the cluster, and of its node. Required.
	Name string
	// Dir keeps the cluster's files. Required.
	Dir string
	// Binary is the path of k8sdev, as k8s.Ensure returns it. Required.
	Binary string
	// Root is the folder of the module headwater.dev, where programs are built. Required.
	Root string
	// Version of the images of Programs.
	Version string
	// Programs are built, and their images imported into the node as headwater.dev/NAME:VERSION.
	Programs []image.Program
	// Archives are image files (docker-archive or OCI) to import as well.
	Archives []string
	// Services are TCP ports of the machine's 127.0.0.1 that pods reach at Address.
	Services []int
	// Registries are hosts with ports that the node pulls images from without TLS, like 10.200.0.1:5000.
	Registries []string
	// Progress gets a line for each step; nil means nobody looks.
	Progress io.Writer
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"

	"k8s.io/client-go/kubernetes"
)

const (
	podNetwork     = "10.244.0.0/16"
	serviceNetwork = "10.96.0.0/16"
	issuer         = "https://kubernetes.default.svc.cluster.local"
)

// etcdSocket and peerSocket are relative to the cluster's folder, which is the
// working directory of all components: no other user of the machine reaches
// etcd, and the length of the folder's path does not matter.
const (
	etcdSocket = "unix://etcd.sock"
	peerSocket = "unix://etcd-peer.sock"
)

// auditPolicy records who did what to which object, once per request.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
`

var errPortTaken = errors.New("port is taken")

// startAPI starts etcd and the API server.
func (c *Cluster) startAPI(ctx context.Context) error {
	if err := c.startEtcd(); err != nil {
		return err
	}
	args, err := c.apiServerArgs()
	if err != nil {
		return err
	}
	server, err := c.run("kube-apiserver", args...)
	if err != nil {
		return err
	}
	config, err := c.Config()
	if err != nil {
		return err
	}
	if c.client, err = kubernetes.NewForConfig(config); err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	err = server.Await(ctx, startTimeout, func(ctx context.Context) error {
		return c.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
	if server.Exited() != nil && strings.Contains(server.Tail(), "address already in use") {
		return fmt.Errorf("%w: %w", errPortTaken, err)
	}
	if ended := c.Err(); ended != nil { // the first that ended is the cause
		return ended
	}
	return err
}

// startEtcd starts etcd, if it is the cluster's own.
func (c *Cluster) startEtcd() error {
	if len(c.options.Etcd) > 0 {
		return nil
	}
	_, err := c.run("etcd", "--data-dir=etcd", "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+etcdSocket, "--advertise-client-urls="+etcdSocket,
		"--listen-peer-urls="+peerSocket, "--initial-advertise-peer-urls="+peerSocket, "--initial-cluster=default="+peerSocket)
	return err
}

// etcdServers are where the API server finds etcd.
func (c *Cluster) etcdServers() string {
	if len(c.options.Etcd) > 0 {
		return strings.Join(c.options.Etcd, ",")
	}
	return etcdSocket
}

// apiServerArgs issues the API server's certificates and returns its flags.
func (c *Cluster) apiServerArgs() ([]string, error) {
	place := c.options.Placement
	addresses := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 96, 0, 1)}
	args := []string{"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"}
	if place.Address != nil {
		addresses = append(addresses, place.Address)
		args = []string{"--advertise-address=" + place.Address.String()}
	}
	services := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	for file, leaf := range map[string]struct {
		subject subject
		issuer  *identity
	}{
		"apiserver":                {subject{user: "kube-apiserver", names: services, ips: addresses}, c.pki.root},
		"apiserver-kubelet-client": {subject{user: "kube-apiserver-kubelet-client", groups: []string{"system:masters"}}, c.pki.root},
		"front-proxy-client":       {subject{user: "front-proxy-client"}, c.pki.front},
	} {
		if _, err := c.pki.leaf(file, leaf.subject, leaf.issuer); err != nil {
			return nil, err
		}
	}
	if c.options.AuditLog {
		if err := os.WriteFile(c.path("audit-policy.yaml"), []byte(auditPolicy), 0o644); err != nil {
			return nil, fmt.Errorf("write audit policy: %w", err)
		}
		args = append(args, "--audit-policy-file=audit-policy.yaml", "--audit-log-path="+c.AuditLog(), "--audit-log-mode=blocking")
	}
	if c.options.NoWebhooks {
		args = append(args, "--disable-admission-plugins=MutatingAdmissionWebhook,ValidatingAdmissionWebhook")
	}
	return append(args,
		"--etcd-servers="+c.etcdServers(), "--secure-port="+strconv.Itoa(c.port),
		"--service-cluster-ip-range="+serviceNetwork, "--allow-privileged",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--client-ca-file="+c.pki.path("ca.crt"),
		"--tls-cert-file="+c.pki.path("apiserver.crt"), "--tls-private-key-file="+c.pki.path("apiserver.key"),
		"--service-account-issuer="+issuer,
		"--service-account-key-file="+c.pki.path("sa.pub"), "--service-account-signing-key-file="+c.pki.path("sa.key"),
		"--kubelet-preferred-address-types=InternalIP", "--kubelet-certificate-authority="+c.pki.path("ca.crt"),
		"--kubelet-client-certificate="+c.pki.path("apiserver-kubelet-client.crt"),
		"--kubelet-client-key="+c.pki.path("apiserver-kubelet-client.key"),
		"--requestheader-client-ca-file="+c.pki.path("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+c.pki.path("front-proxy-client.crt"), "--proxy-client-key-file="+c.pki.path("front-proxy-client.key"),
		"--profiling=false",
	), nil
}

// StartControllers starts kube-controller-manager and returns when it works:
// namespaces get their service account and are emptied on deletion, owned
// objects are collected, Deployments get Pods. A second call does nothing.
func (c *Cluster) StartControllers(ctx context.Context) error {
	kubeconfig := c.path("controller-manager.kubeconfig")
	if err := c.WriteKubeconfig(kubeconfig, "system:kube-controller-manager"); err != nil {
		return err
	}
	manager, err := c.run("kube-controller-manager", append(clientFlags(kubeconfig),
		"--service-account-private-key-file="+c.pki.path("sa.key"), "--root-ca-file="+c.pki.path("ca.crt"),
		"--cluster-signing-cert-file="+c.pki.path("ca.crt"), "--cluster-signing-key-file="+c.pki.path("ca.key"),
		"--use-service-account-credentials", "--kube-api-qps=1000", "--kube-api-burst=1000",
		"--allocate-node-cidrs", "--cluster-cidr="+podNetwork)...)
	if err != nil {
		return err
	}
	return manager.Await(ctx, startTimeout, c.defaultAccount)
}

// StartScheduler starts kube-scheduler. A second call does nothing.
func (c *Cluster) StartScheduler() error {
	kubeconfig := c.path("scheduler.kubeconfig")
	if err := c.WriteKubeconfig(kubeconfig, "system:kube-scheduler"); err != nil {
		return err
	}
	_, err := c.run("kube-scheduler", clientFlags(kubeconfig)...)
	return err
}

// clientFlags are common to the components that are clients of the API
// server. They serve nothing: their state is seen in the cluster.
func clientFlags(kubeconfig string) []string {
	return []string{
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--leader-elect=false", "--secure-port=0", "--profiling=false",
	}
}

// FreePort returns a TCP port of 127.0.0.1 that nobody listens on. It lies
// below the range that the kernel takes the ports of connections from, so it
// stays free until somebody asks for that very port.
func FreePort() (int, error) {
	const first, last = 20000, 32000
	for range 200 {
		port := first + rand.IntN(last-first)
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		if err := listener.Close(); err != nil {
			return 0, fmt.Errorf("release port %d: %w", port, err)
		}
		return port, nil
	}
	return 0, fmt.Errorf("no free port between %d and %d on 127.0.0.1", first, last)
}

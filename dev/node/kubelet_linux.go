package node

import (
	"context"
	"fmt"
	"net"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"headwater.dev/dev/child"
)

// join starts what makes the namespaces a node of the cluster, and waits until it is Ready.
func (n *Node) join(ctx context.Context) error {
	kubelet, err := n.startKubelet()
	if err != nil {
		return err
	}
	if err := n.startProxy(); err != nil {
		return err
	}
	dns, err := n.startDNS()
	if err != nil {
		return err
	}
	config, err := n.cluster.Config()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	err = kubelet.Await(ctx, startTimeout, func(ctx context.Context) error { return n.ready(ctx, client) })
	if err != nil {
		return err
	}
	err = dns.Await(ctx, startTimeout, func(context.Context) error {
		c, err := n.netns.dial(net.JoinHostPort(Address, "53"))
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		return err
	}
	n.say("node is ready")
	return nil
}

// ready returns nil when pods run on the node.
func (n *Node) ready(ctx context.Context, client kubernetes.Interface) error {
	node, err := client.CoreV1().Nodes().Get(ctx, n.cfg.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute {
			return fmt.Errorf("node %s has the taint %s", n.cfg.Name, t.Key)
		}
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return nil
		} else if c.Type == corev1.NodeReady {
			return fmt.Errorf("node %s is not ready: %s", n.cfg.Name, c.Message)
		}
	}
	return fmt.Errorf("node %s says nothing of its state yet", n.cfg.Name)
}

func (n *Node) startKubelet() (*child.Child, error) {
	user := "system:node:" + n.cfg.Name
	kubeconfig := n.state.path("kubelet.kubeconfig")
	if err := n.cluster.WriteKubeconfig(kubeconfig, user, "system:nodes"); err != nil {
		return nil, err
	}
	cert, key, err := n.cluster.ServingCertificate(user, []string{n.cfg.Name, "localhost"}, []net.IP{net.IPv4(127, 0, 0, 1), net.ParseIP(Address)})
	if err != nil {
		return nil, err
	}
	file, err := n.component("kubelet.yaml", map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"failCgroupV1": false, "cgroupDriver": "cgroupfs", "enforceNodeAllocatable": []string{}, "failSwapOn": false,
		"containerRuntimeEndpoint": "unix://" + socket, "podLogsDir": n.state.path("podlogs"),
		"address": Address, "healthzBindAddress": "127.0.0.1",
		"authentication": map[string]any{
			"x509": map[string]any{"clientCAFile": n.cluster.Authority()}, "webhook": map[string]any{"enabled": true},
			"anonymous": map[string]any{"enabled": false},
		},
		"authorization": map[string]any{"mode": "Webhook"}, "tlsCertFile": cert, "tlsPrivateKeyFile": key,
		"resolvConf": "", "clusterDomain": "cluster.local", "clusterDNS": []string{Address},
		"evictionHard":                map[string]string{"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
		"imageGCHighThresholdPercent": 100, "makeIPTablesUtilChains": false, "serializeImagePulls": false,
		"maxPods": 110, "registryPullQPS": 0, "eventRecordQPS": 0,
	})
	if err != nil {
		return nil, err
	}
	return n.run("kubelet", enterAll, n.cfg.Binary, "kubelet", "--config="+file, "--kubeconfig="+kubeconfig,
		"--node-ip="+Address, "--hostname-override="+n.cfg.Name)
}

func (n *Node) startProxy() error {
	kubeconfig := n.state.path("kube-proxy.kubeconfig")
	if err := n.cluster.WriteKubeconfig(kubeconfig, "system:kube-proxy"); err != nil {
		return err
	}
	file, err := n.component("kube-proxy.yaml", map[string]any{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables",
		"clientConnection": map[string]any{"kubeconfig": kubeconfig}, "hostnameOverride": n.cfg.Name, "clusterCIDR": podNetwork,
		"nftables": map[string]any{"minSyncPeriod": "200ms"},
		// No settings of the kernel are changed.
		"conntrack":          map[string]any{"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
		"healthzBindAddress": "127.0.0.1", "metricsBindAddress": "127.0.0.1",
	})
	if err != nil {
		return err
	}
	_, err = n.run("kube-proxy", enterAll, n.cfg.Binary, "kube-proxy", "--config="+file)
	return err
}

// startDNS answers the names of services. It needs to read no more than kube-proxy does.
func (n *Node) startDNS() (*child.Child, error) {
	return n.run("dns", enterNet, n.cfg.Binary, "minidns", "--kubeconfig="+n.state.path("kube-proxy.kubeconfig"), "--listen="+Address+":53")
}

// component writes a component's configuration file.
func (n *Node) component(name string, config map[string]any) (string, error) {
	data, err := yaml.Marshal(config)
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", name, err)
	}
	file := n.state.path(name)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return file, nil
}

package agent

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"headwater.dev/api/link"
)

// heart describes the cluster for heartbeats. Nodes are counted now and then
// only, page by page, so that a large cluster costs no memory.
type heart struct {
	kube    kubernetes.Interface
	version string
	now     func() time.Time

	last link.Heartbeat
	at   time.Time
}

const (
	countEvery = 5 * time.Minute
	nodePage   = 100
)

// beat is called by one goroutine.
func (h *heart) beat(ctx context.Context) link.Heartbeat {
	if h.at.IsZero() || h.now().Sub(h.at) >= countEvery {
		if next, err := h.count(ctx); err == nil {
			h.last, h.at = next, h.now()
		}
	}
	h.last.AgentVersion = h.version
	return h.last
}

func (h *heart) count(ctx context.Context) (link.Heartbeat, error) {
	version, err := h.kube.Discovery().ServerVersion()
	if err != nil {
		return link.Heartbeat{}, err
	}
	beat := link.Heartbeat{KubernetesVersion: strings.TrimPrefix(version.GitVersion, "v"), Distribution: "generic", Infrastructure: "generic"}
	page := metav1.ListOptions{Limit: nodePage}
	for {
		nodes, err := h.kube.CoreV1().Nodes().List(ctx, page)
		if err != nil {
			return link.Heartbeat{}, err
		}
		for _, node := range nodes.Items {
			beat.TotalNodeCount++
			beat.TotalCoreCount += int(node.Status.Capacity.Cpu().Value())
			describeNode(&beat, node)
		}
		if page.Continue = nodes.Continue; page.Continue == "" {
			return beat, nil
		}
	}
}

// describeNode recognises well-known clusters by what their nodes say.
func describeNode(beat *link.Heartbeat, node corev1.Node) {
	kubelet := node.Status.NodeInfo.KubeletVersion
	for part, name := range map[string]string{"+k3s": "k3s", "+rke2": "rke2", "-eks-": "eks", "-gke.": "gke"} {
		if strings.Contains(kubelet, part) {
			beat.Distribution = name
		}
	}
	provider, _, found := strings.Cut(node.Spec.ProviderID, "://")
	if infrastructure := map[string]string{"azure": "azure", "aws": "aws", "gce": "gcp", "vsphere": "vsphere"}[provider]; found && infrastructure != "" {
		beat.Infrastructure = infrastructure
	}
}

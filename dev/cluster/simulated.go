package cluster

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// simulatedAnnotation marks the nodes that kwok plays the kubelet of, so that
// real nodes can be beside them.
const simulatedAnnotation = "kwok.x-k8s.io/node"

// kubeletPort stands for the kubelet's port in stages.yaml.
const kubeletPort = "KUBELET_PORT"

//go:embed stages.yaml
var stages []byte

// StartSimulatedNode adds a node whose kubelet is played by kwok, and returns
// when it is ready. Its pods become ready at once, those that end (restart
// policy Never or OnFailure) succeed at once; no container runs. The
// annotation simulate.headwater.dev/outcome on a pod changes that: "unready"
// as when the image cannot be pulled, "failed" as when its program fails.
// The port of 127.0.0.1 is where the API server looks for the kubelet to get
// logs from; 0: nowhere. It is the same for all of a cluster's nodes.
func (c *Cluster) StartSimulatedNode(ctx context.Context, name string, kubelet int) error {
	content := bytes.ReplaceAll(stages, []byte(kubeletPort), []byte(strconv.Itoa(kubelet)))
	if err := os.WriteFile(c.path("stages.yaml"), content, 0o644); err != nil {
		return fmt.Errorf("write stages of simulated nodes: %w", err)
	}
	kwok, err := c.run("kwok", "--kubeconfig="+c.Kubeconfig(), "--config=stages.yaml",
		"--manage-nodes-with-annotation-selector="+simulatedAnnotation+"=fake", "--cidr="+podNetwork,
		"--node-ip=127.0.0.1", "--node-port=0", "--node-lease-duration-seconds=40")
	if err != nil {
		return err
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name:        name,
		Annotations: map[string]string{simulatedAnnotation: "fake"},
		Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
			"type": "kwok",
		},
	}}
	nodes := c.client.CoreV1().Nodes()
	if _, err := nodes.Create(ctx, node, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create node %s: %w", name, err)
	}
	return kwok.Await(ctx, startTimeout, func(ctx context.Context) error { return c.nodeReady(ctx, name) })
}

// nodeReady returns nil when pods can be scheduled on the node.
func (c *Cluster) nodeReady(ctx context.Context, name string) error {
	node, err := c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, taint := range node.Spec.Taints {
		if taint.Effect == corev1.TaintEffectNoSchedule || taint.Effect == corev1.TaintEffectNoExecute {
			return fmt.Errorf("node %s has the taint %s", name, taint.Key)
		}
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("node %s is not ready", name)
}

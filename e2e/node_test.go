package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/dev"
	"headwater.dev/dev/image"
	"headwater.dev/dev/node"
)

// podPatience is how long pods that do their work may take to be ready.
const podPatience = 2 * time.Minute

// TestRealNode does the main job where agent and controllers are pods of our
// image on a real node.
func TestRealNode(t *testing.T) {
	if err := node.Check(); err != nil {
		t.Skipf("this machine cannot run a real node: %v", err)
	}
	dir, err := os.MkdirTemp("", "headwater-node-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(t.Context(), 2*upPatience)
	defer cancel()
	state := filepath.Join(dir, "system")
	s, err := dev.Up(ctx, dev.Options{Dir: state, Node: dev.Real, Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	down := func() {
		if s == nil {
			return
		}
		if err := s.Down(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
		s = nil
	}
	defer down()
	if p := s.Members[0].Processes(); len(p) != 0 {
		t.Errorf("%d of our programs run outside of pods", len(p))
	}
	var out bytes.Buffer
	if err := s.Sample(ctx, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for namespace, name := range map[string]string{"flux-system": "flux-controllers", "headwater-system": "headwater-agent"} {
		awaitPod(ctx, t, s, namespace, name)
	}
	down()
	if _, err := os.Stat(state); !os.IsNotExist(err) {
		t.Errorf("the state folder is still there: %v", err)
	}
	if left := processesOf(t, state); len(left) != 0 {
		t.Errorf("still running after Down: %v", left)
	}
}

// processesOf are the command lines of this machine that name a folder.
func processesOf(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(files) == 0 {
		t.Fatalf("found %d processes: %v", len(files), err)
	}
	var found []string
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		if strings.Contains(string(line), dir) {
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// awaitPod returns when the only pod of a namespace is a Deployment's and runs;
// work may be done before its first readiness probe.
func awaitPod(ctx context.Context, t *testing.T, s *dev.System, namespace, deployment string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, podPatience)
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	client := kube(t, s)
	for {
		pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(pods.Items) == 1 && runs(pods.Items[0], deployment) {
			return
		}
		select {
		case <-ctx.Done():
			t.Errorf("%s: want one ready pod of %s from our image (%v), got:", namespace, deployment, err)
			for _, p := range pods.Items {
				t.Errorf("%s %s %+v", p.Name, p.Status.Phase, p.Status.ContainerStatuses)
			}
			return
		case <-tick.C:
		}
	}
}

// runs reports whether containerd runs our image in the pod.
func runs(pod corev1.Pod, name string) bool {
	states := pod.Status.ContainerStatuses
	return strings.HasPrefix(pod.Name, name) && pod.Status.Phase == corev1.PodRunning && len(states) == 1 && states[0].Ready &&
		strings.HasPrefix(states[0].ContainerID, "containerd://") && strings.HasPrefix(pod.Spec.Containers[0].Image, image.Repository+"/agent:")
}

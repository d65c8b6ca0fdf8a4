package cluster_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"headwater.dev/dev/cluster"
	"headwater.dev/dev/k8s"
)

func binary(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts Kubernetes; run without -short")
	}
	path, err := k8s.Ensure(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestClustersSideBySide(t *testing.T) {
	path := binary(t)
	var clusters []*cluster.Cluster
	for _, name := range []string{"one", "two"} {
		c, err := cluster.Start(t.Context(), cluster.Options{Name: name, Dir: filepath.Join(t.TempDir(), name), Binary: path})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Stop() })
		clusters = append(clusters, c)
	}
	uids := map[string]string{}
	for _, c := range clusters {
		config, err := c.Config()
		if err != nil {
			t.Fatal(err)
		}
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		namespace, err := client.CoreV1().Namespaces().Get(t.Context(), metav1.NamespaceDefault, metav1.GetOptions{})
		if err != nil {
			t.Fatalf("cluster %s: %v", c.Name(), err)
		}
		if other, ok := uids[string(namespace.UID)]; ok {
			t.Errorf("clusters %s and %s are one", c.Name(), other)
		}
		uids[string(namespace.UID)] = c.Name()
	}
	if err := clusters[0].Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := clusters[1].Err(); err != nil {
		t.Errorf("stopping one cluster ended another: %v", err)
	}
}

func TestStopLeavesNothing(t *testing.T) {
	c, err := cluster.Start(t.Context(), cluster.Options{Name: "gone", Binary: binary(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop() })
	pids := c.PIDs()
	if len(pids) != 2 {
		t.Errorf("%d processes, want etcd and kube-apiserver", len(pids))
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d is still there: %v", pid, err)
		}
	}
	if _, err := os.Stat(c.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder %s is still there: %v", c.Dir(), err)
	}
}

func TestFailureNamesTheReason(t *testing.T) {
	t.Run("component", func(t *testing.T) {
		_, err := cluster.Start(t.Context(), cluster.Options{Name: "broken", Dir: t.TempDir(), Binary: "/bin/false"})
		if err == nil || !strings.Contains(err.Error(), "broken") || !strings.Contains(err.Error(), "etcd") {
			t.Errorf("error %v, want one that names cluster and component", err)
		}
	})
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := cluster.Start(ctx, cluster.Options{Name: "late", Dir: t.TempDir(), Binary: binary(t)})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want the deadline", err)
		}
	})
}

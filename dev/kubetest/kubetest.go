// Package kubetest gives tests a real Kubernetes API server. All tests of a
// test binary share one cluster, started by the first that asks; tests keep
// apart by namespaces.
//
//	func TestMain(m *testing.M) { kubetest.Main(m) }
//
//	func TestX(t *testing.T) {
//		c := kubetest.Start(t)
//		kubetest.CRDs(t, c, "flux")
//		namespace := c.Namespace(t)
//		…
//	}
package kubetest

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"headwater.dev/dev/cluster"
	"headwater.dev/dev/k8s"
)

// setupTimeout bounds what the harness itself asks of the API server.
const setupTimeout = time.Minute

// shared is the cluster of this test binary. It has to outlive any one test,
// and the testing package has no place for such a thing.
var shared struct {
	sync.Mutex
	managed bool // Main runs and will stop the cluster
	cluster *Cluster
	failed  error // of the first start; there is no second
	another *Cluster
}

// Cluster is the test binary's cluster, seen by its administrator.
type Cluster struct {
	Config     *rest.Config // without rate limit; copy it before changing it
	Kubeconfig string       // path of a file with the same
	Client     kubernetes.Interface
	cluster    *cluster.Cluster
}

// Option asks for more than etcd and the API server.
type Option func(context.Context, *cluster.Cluster) error

// WithControllers adds kube-controller-manager: namespaces get service
// accounts and are emptied when deleted, owned objects are collected.
func WithControllers() Option {
	return func(ctx context.Context, c *cluster.Cluster) error { return c.StartControllers(ctx) }
}

// WithNode adds kube-controller-manager, kube-scheduler and a simulated node:
// Deployments become available and Jobs complete, though nothing runs.
func WithNode() Option {
	return func(ctx context.Context, c *cluster.Cluster) error {
		if err := c.StartControllers(ctx); err != nil {
			return err
		}
		if err := c.StartScheduler(); err != nil {
			return err
		}
		return c.StartSimulatedNode(ctx, "node-1", 0)
	}
}

// Main runs the tests of a binary, stops the cluster and exits. To be called
// by TestMain.
func Main(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	shared.Lock()
	shared.managed = true
	shared.Unlock()
	defer func() {
		shared.Lock()
		defer shared.Unlock()
		for _, c := range []*Cluster{shared.cluster, shared.another} {
			if c == nil {
				continue
			}
			if err := c.cluster.Stop(); err != nil {
				fmt.Fprintln(os.Stderr, "kubetest: stop cluster:", err)
				code = 1
			}
		}
	}()
	return m.Run()
}

// Start returns the cluster, starting what is missing of it: about three
// seconds the first time. With -short the test is skipped.
func Start(t testing.TB, options ...Option) *Cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a Kubernetes API server; run without -short")
	}
	shared.Lock()
	defer shared.Unlock()
	if !shared.managed {
		t.Fatal("kubetest: TestMain must call kubetest.Main, which stops the cluster at the end")
	}
	if shared.cluster == nil && shared.failed == nil {
		shared.cluster, shared.failed = start("kubetest")
	}
	if shared.failed != nil {
		t.Fatalf("kubetest: %v", shared.failed)
	}
	c := shared.cluster
	for _, option := range options {
		if err := option(t.Context(), c.cluster); err != nil {
			t.Fatalf("kubetest: %v", err)
		}
	}
	t.Cleanup(func() {
		if err := c.cluster.Err(); err != nil {
			t.Errorf("kubetest: %v", err)
		}
	})
	return c
}

// Another returns a second cluster of etcd and API server, which the tests of a
// binary share too. It knows nothing of the first.
func Another(t testing.TB) *Cluster {
	t.Helper()
	Start(t) // refuses -short and a binary without Main
	shared.Lock()
	defer shared.Unlock()
	if shared.another == nil {
		c, err := start("kubetest-another")
		if err != nil {
			t.Fatalf("kubetest: %v", err)
		}
		shared.another = c
	}
	return shared.another
}

// start is not bound to the context of the test that happens to be first.
func start(name string) (*Cluster, error) {
	ctx := context.Background()
	binary, err := k8s.Ensure(ctx, os.Stderr)
	if err != nil {
		return nil, err
	}
	return startWith(ctx, cluster.Options{Name: name, Binary: binary, AuditLog: true})
}

func startWith(ctx context.Context, o cluster.Options) (*Cluster, error) {
	running, err := cluster.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Kubeconfig: running.Kubeconfig(), cluster: running}
	if c.Config, err = running.Config(); err != nil {
		return nil, err
	}
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return c, nil
}

// AuditLog returns the path of a file to which the API server has written
// every request it answered, one audit.k8s.io/v1 Event a line.
func (c *Cluster) AuditLog() string { return c.cluster.AuditLog() }

// Namespace creates a namespace with a name of its own and with the service
// account "default". Its deletion begins when the test ends; it completes only
// in a cluster with controllers.
func (c *Cluster) Namespace(t testing.TB) string {
	t.Helper()
	namespace, err := c.Client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("kubetest: create namespace: %v", err)
	}
	name := namespace.Name
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
		defer cancel()
		if err := c.Client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("kubetest: delete namespace %s: %v", name, err)
		}
	})
	_, err = c.Client.CoreV1().ServiceAccounts(name).Create(t.Context(),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatalf("kubetest: create service account in %s: %v", name, err)
	}
	return name
}

// patience is what Eventually waits at the least: a machine that builds and tests
// at once gets nothing done for many seconds.
const patience = time.Minute

// Eventually calls check until it returns nil, with growing pauses of at most
// a quarter of a second, and fails the test with its last error after the timeout,
// or after a minute when that is longer.
func Eventually(t testing.TB, timeout time.Duration, check func() error) {
	t.Helper()
	Within(t, max(timeout, patience), check)
}

// Within is Eventually with exactly this timeout, which tells what a test means
// from what would happen later all the same.
func Within(t testing.TB, timeout time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %v", timeout, err)
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("test ended while waiting: %v", err)
		case <-time.After(pause):
		}
	}
}

package kubetest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"headwater.dev/dev/child"
	"headwater.dev/dev/cluster"
	"headwater.dev/dev/k8s"
)

// members is how many etcds a Replicated cluster has: one may be missing.
const members = 3

// Etcd is an etcd of three members, on ports of 127.0.0.1.
type Etcd struct {
	binary, dir string
	names       string   // --initial-cluster
	clients     []string // addresses
	peers       []string
	running     []*child.Child
}

// Replicated returns a cluster of the test's own whose API server stores in an
// etcd of three members, and that etcd. Both end with the test.
func Replicated(t testing.TB) (*Cluster, *Etcd) {
	t.Helper()
	Start(t) // refuses -short and a binary without Main
	binary, err := k8s.Ensure(t.Context(), os.Stderr)
	if err != nil {
		t.Fatalf("kubetest: %v", err)
	}
	e := &Etcd{binary: binary, dir: t.TempDir(), running: make([]*child.Child, members)}
	var names []string
	for i := range 2 * members {
		port, err := cluster.FreePort()
		if err != nil {
			t.Fatalf("kubetest: %v", err)
		}
		address := fmt.Sprintf("http://127.0.0.1:%d", port)
		if i < members {
			e.clients = append(e.clients, address)
			continue
		}
		e.peers = append(e.peers, address)
		names = append(names, fmt.Sprintf("m%d=%s", i-members, address))
	}
	e.names = strings.Join(names, ",")
	t.Cleanup(func() {
		for i := range members {
			e.kill(i)
		}
	})
	for i := range members {
		e.start(t, i)
	}
	c, err := startWith(context.WithoutCancel(t.Context()), cluster.Options{Name: "kubetest-replicated", Binary: binary, AuditLog: true, Etcd: e.clients})
	if err != nil {
		t.Fatalf("kubetest: %v", err)
	}
	t.Cleanup(func() { _ = c.cluster.Stop() })
	c.Config = rest.CopyConfig(c.Config)
	c.Config.Wrap(func(next http.RoundTripper) http.RoundTripper { return persistent{next} })
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		t.Fatalf("kubetest: make client: %v", err)
	}
	return c, e
}

// persistent repeats what the API server could not do because etcd had no leader,
// as it may have none for a moment on a busy machine. What it repeats may have been
// done the first time.
type persistent struct{ next http.RoundTripper }

func (p persistent) RoundTrip(r *http.Request) (*http.Response, error) {
	for deadline := time.Now().Add(patience); ; {
		resp, err := p.next.RoundTrip(r)
		if err != nil || resp.StatusCode < http.StatusInternalServerError || r.Body != nil && r.GetBody == nil || time.Now().After(deadline) {
			return resp, err
		}
		_ = resp.Body.Close()
		select {
		case <-r.Context().Done():
			return nil, r.Context().Err()
		case <-time.After(100 * time.Millisecond):
		}
		r = r.Clone(r.Context())
		if r.GetBody != nil {
			if r.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

func (e *Etcd) start(t testing.TB, i int) {
	t.Helper()
	name := fmt.Sprintf("m%d", i)
	var err error
	e.running[i], err = child.Start(child.Spec{Name: name, Path: e.binary, Dir: e.dir, Log: filepath.Join(e.dir, name+".log"), Args: []string{
		"etcd", "--name=" + name, "--data-dir=" + name, "--unsafe-no-fsync", "--log-level=error", "--heartbeat-interval=200", "--election-timeout=2000",
		"--listen-client-urls=" + e.clients[i], "--advertise-client-urls=" + e.clients[i],
		"--listen-peer-urls=" + e.peers[i], "--initial-advertise-peer-urls=" + e.peers[i], "--initial-cluster=" + e.names,
	}})
	if err != nil {
		t.Fatalf("kubetest: start etcd: %v", err)
	}
}

// kill is kill -9.
func (e *Etcd) kill(i int) {
	if e.running[i] != nil {
		_ = e.running[i].Stop(0)
		e.running[i] = nil
	}
}

// LoseLeader kills the leader, waits until the others have a new one, and
// starts the killed member again. It returns the new leader's number.
func (e *Etcd) LoseLeader(t testing.TB) int {
	t.Helper()
	old := e.leader(t, -1)
	e.kill(old)
	now := e.leader(t, old)
	e.start(t, old)
	return now
}

// leader is the member that leads, and is not except.
func (e *Etcd) leader(t testing.TB, except int) (found int) {
	t.Helper()
	Eventually(t, setupTimeout, func() error {
		for i, address := range e.clients {
			if i == except {
				continue
			}
			if leads(t.Context(), address) {
				found = i
				return nil
			}
		}
		return fmt.Errorf("no member of etcd leads")
	})
	return found
}

func leads(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{address}, Context: ctx, Logger: zap.NewNop()})
	if err != nil {
		return false
	}
	defer func() { _ = c.Close() }()
	status, err := c.Status(ctx, address)
	return err == nil && status.Header != nil && status.Leader == status.Header.MemberId
}

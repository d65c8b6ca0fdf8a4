package ha

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"headwater.dev/client"
	"headwater.dev/hub"
	"headwater.dev/hub/store/etcdtest"
	"headwater.dev/kernel/process"
)

// asHub in the environment makes the test binary a hub; it holds the arguments.
const asHub = "HEADWATER_HA_HUB"

func TestMain(m *testing.M) {
	if args := os.Getenv(asHub); args != "" {
		command := hub.NewCommand("test")
		command.SetArgs(strings.Split(args, "\n"))
		command.SetOut(os.Stderr)
		if err := command.ExecuteContext(process.Context()); err != nil {
			fmt.Fprintln(os.Stderr, "hub:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	etcdtest.Main(m)
}

// replica is one hub process.
type replica struct {
	args    []string
	address string
	door    string // the network's way to it
	log     string
	process *exec.Cmd
	pid     atomic.Int64
}

func (r *replica) PID() int { return int(r.pid.Load()) }

func (r *replica) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(r.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	r.process = exec.Command(os.Args[0])
	r.process.Env = append(os.Environ(), asHub+"="+strings.Join(r.args, "\n"))
	r.process.Stderr = log
	r.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.process.Start(); err != nil {
		t.Fatalf("start a hub: %v", err)
	}
	r.pid.Store(int64(r.process.Process.Pid))
}

func (r *replica) kill() {
	_ = r.process.Process.Kill()
	_ = r.process.Wait() // it says that it was killed
}

// end asks the hub to end and waits until it has.
func (r *replica) end() error {
	began := time.Now()
	err := errors.Join(r.process.Process.Signal(syscall.SIGTERM), r.process.Wait())
	if took := time.Since(began); err == nil && took > 15*time.Second {
		err = fmt.Errorf("it took %s", took)
	}
	return err
}

// world is everything that runs.
type world struct {
	*network
	etcd     *etcdtest.Cluster
	replicas []*replica
	url      string
	dir      string
	balancer *balancer
	key      *rsa.PrivateKey
}

// newWorld starts three of each behind a balancer.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{network: newNetwork(), dir: t.TempDir()}
	var members [3]node // each is there before anybody can call it
	w.etcd = etcdtest.Start(t, etcdtest.Config{Members: 3,
		Advertise: func(i int, address string) string {
			return w.listen(t, fmt.Sprintf("127.0.3.%d", i+1), func() (string, node) { return address, members[i] })
		},
		Started: func(i int, m *etcdtest.Member) { members[i] = m; w.join(m) },
	})
	var endpoints []string
	for i, m := range w.etcd.Members {
		endpoints = append(endpoints, "http://"+w.listen(t, fmt.Sprintf("127.0.4.%d", i+1), func() (string, node) { return m.Address, m }))
	}
	w.balancer = newBalancer(t)
	w.url = "https://" + w.balancer.address
	for i := range 3 {
		r := &replica{address: free(t, fmt.Sprintf("127.0.1.%d", i+1)), log: filepath.Join(w.dir, fmt.Sprintf("hub-%d.log", i))}
		r.args = []string{"serve", "--data-dir", filepath.Join(w.dir, "shared"), "--listen", r.address, "--external-url", w.url,
			"--etcd-endpoints", strings.Join(endpoints, ","), "--metrics-listen", ""}
		r.start(t)
		w.replicas = append(w.replicas, r)
		t.Cleanup(func() {
			r.kill()
			if t.Failed() {
				show(t, r.log)
			}
		})
		w.join(r)
		r.door = w.listen(t, fmt.Sprintf("127.0.5.%d", i+1), func() (string, node) { return r.address, r })
		w.balancer.add(t, r.door)
		w.balancer.await(t, i+1) // the first makes the keys that all share
	}
	var err error
	if w.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	return w
}

// show logs the end of a hub's log.
func show(t *testing.T, path string) {
	raw, _ := os.ReadFile(path)
	lines := strings.Split(string(raw), "\n")
	for _, line := range lines[max(0, len(lines)-200):] {
		if !strings.Contains(line, `"level":"INFO","msg":"request"`) {
			t.Logf("%s: %s", filepath.Base(path), line)
		}
	}
}

// leader is the member that leads; waiting for one is part of asking.
func (w *world) leader(t *testing.T) *etcdtest.Member {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: w.etcd.Endpoints(), DialTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-time.After(100 * time.Millisecond) {
		for i, m := range w.etcd.Members {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			s, err := c.Status(ctx, w.etcd.Endpoints()[i])
			cancel()
			if err == nil && s.Leader == s.Header.MemberId {
				return m
			}
		}
	}
	t.Fatal("etcd has no leader")
	return nil
}

// user is a client with the administrator's rights.
func (w *world) user(t *testing.T) *client.Client {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(w.dir, "shared", "admin.json"))
	if err != nil {
		t.Fatal(err)
	}
	var admin struct{ TenantID, ClientID, ClientSecret, SubscriptionID string }
	if err := json.Unmarshal(raw, &admin); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{Hub: w.url, CA: w.authority(t), TenantID: admin.TenantID, SubscriptionID: admin.SubscriptionID,
		ClientID: admin.ClientID, ClientSecret: admin.ClientSecret})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) authority(t *testing.T) []byte {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(w.dir, "shared", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// free is an address that nobody listens at.
func free(t *testing.T, ip string) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// balancer is what stands before replicas: it asks each whether it is ready,
// spreads connections over those that are, and drops those of the others.
type balancer struct {
	address string
	probe   *http.Client

	mu       sync.Mutex
	backends []*backend
	turn     int
}

type backend struct {
	address string
	ready   bool
	open    map[net.Conn]bool
}

func newBalancer(t *testing.T) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.1.100:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	b := &balancer{address: l.Addr().String(), probe: &http.Client{Timeout: time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}} // only whether it answers
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go b.serve(c)
		}
	}()
	return b
}

func (b *balancer) add(t *testing.T, address string) {
	o := &backend{address: address, open: map[net.Conn]bool{}}
	b.mu.Lock()
	b.backends = append(b.backends, o)
	b.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go func() {
		for ctx.Err() == nil {
			res, err := b.probe.Get("https://" + address + "/readyz")
			if err == nil {
				res.Body.Close()
			}
			b.mark(o, err == nil && res.StatusCode == http.StatusOK)
			<-time.After(200 * time.Millisecond)
		}
	}()
}

func (b *balancer) mark(o *backend, ready bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if o.ready && !ready {
		for c := range o.open {
			c.Close()
		}
	}
	o.ready = ready
}

func (b *balancer) readyCount() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, o := range b.backends {
		if o.ready {
			n++
		}
	}
	return n
}

func (b *balancer) await(t *testing.T, n int) {
	t.Helper()
	eventually(t, 40*time.Second, func() error {
		if got := b.readyCount(); got < n {
			return fmt.Errorf("%d of %d hubs are ready", got, n)
		}
		return nil
	})
}

func (b *balancer) serve(c net.Conn) {
	b.mu.Lock()
	var chosen *backend
	for range b.backends {
		b.turn++
		if o := b.backends[b.turn%len(b.backends)]; o.ready {
			chosen = o
			break
		}
	}
	if chosen != nil {
		chosen.open[c] = true
	}
	b.mu.Unlock()
	if chosen == nil {
		c.Close()
		return
	}
	defer func() {
		b.mu.Lock()
		delete(chosen.open, c)
		b.mu.Unlock()
	}()
	far, err := net.DialTimeout("tcp", chosen.address, time.Second)
	if err != nil {
		c.Close()
		return
	}
	splice(c, far)
}

// eventually repeats until done is content.
// eventually waits for a minute at the least: the machine may be busy with other things.
func eventually(t *testing.T, patience time.Duration, done func() error) {
	t.Helper()
	patience = max(patience, time.Minute)
	deadline := time.Now().Add(patience)
	for {
		err := done()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("within %s: %v", patience, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

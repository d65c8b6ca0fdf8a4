// Package etcdtest runs clusters of real etcd processes for tests, so that they
// can be killed, paused and cut off. The program is the test binary itself:
//
//	func TestMain(m *testing.M) { etcdtest.Main(m) }
package etcdtest

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// variable of the environment that makes the test binary a member.
const variable = "HEADWATER_ETCDTEST_MEMBER"

// startPatience bounds the wait for a cluster to answer.
const startPatience = time.Minute

// Main is for TestMain: it runs the tests, or is a member of a cluster.
func Main(m *testing.M) {
	Become()
	os.Exit(m.Run())
}

// Become makes this process a member when it was started as one, and returns
// otherwise; for a TestMain that does more.
func Become() {
	spec := os.Getenv(variable)
	if spec == "" {
		return
	}
	if err := serve(spec); err != nil {
		fmt.Fprintln(os.Stderr, "etcd member:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Config says what cluster to start.
type Config struct {
	// Members is how many; 1 when zero.
	Members int
	// Quota bounds each member's database, in bytes; etcd's default when zero.
	Quota int64
	// TLS makes clients and members prove who they are; see Cluster.CA.
	TLS bool
	// Advertise maps the address that a member hears its peers at to the address
	// that they shall use, such as that of a proxy; nil for the same.
	Advertise func(member int, address string) string
	// Started, when set, is called with each member as soon as its process runs.
	Started func(member int, m *Member)
}

// Cluster is a running cluster.
type Cluster struct {
	Members []*Member
	// CA, Cert and Key are PEM files for clients of a cluster with TLS.
	CA, Cert, Key string
}

// Member is one etcd process, on an address of its own: 127.0.2.1 and on.
type Member struct {
	// Address is where it hears clients.
	Address string
	spec    spec
	process *exec.Cmd
	pid     atomic.Int64
}

// spec travels in the environment.
type spec struct {
	Name, Dir, Client, Peer, Advertised, Cluster string
	Quota                                        int64
	CA, Cert, Key                                string
}

// Start starts a cluster and returns when it has a leader. It ends with the test.
func Start(t testing.TB, c Config) *Cluster {
	t.Helper()
	n := max(c.Members, 1)
	cluster := &Cluster{}
	var initial []string
	scheme := "http"
	if c.TLS {
		scheme = "https"
		cluster.CA, cluster.Cert, cluster.Key = certificates(t, n)
	}
	for i := range n {
		ip := fmt.Sprintf("127.0.2.%d", i+1)
		m := &Member{Address: free(t, ip)}
		peer := free(t, ip)
		advertised := peer
		if c.Advertise != nil {
			advertised = c.Advertise(i, peer)
		}
		m.spec = spec{Name: fmt.Sprintf("member-%d", i), Dir: filepath.Join(t.TempDir(), "data"), Quota: c.Quota,
			Client: scheme + "://" + m.Address, Peer: "http://" + peer, Advertised: "http://" + advertised,
			CA: cluster.CA, Cert: cluster.Cert, Key: cluster.Key}
		initial = append(initial, m.spec.Name+"="+m.spec.Advertised)
		cluster.Members = append(cluster.Members, m)
	}
	for i, m := range cluster.Members {
		m.spec.Cluster = strings.Join(initial, ",")
		m.Start(t)
		if c.Started != nil {
			c.Started(i, m)
		}
	}
	t.Cleanup(func() {
		for _, m := range cluster.Members {
			m.end()
		}
	})
	for _, m := range cluster.Members {
		m.await(t)
	}
	return cluster
}

// Endpoints are the URLs for clients.
func (c *Cluster) Endpoints() []string {
	var all []string
	for _, m := range c.Members {
		all = append(all, m.spec.Client)
	}
	return all
}

// PID is that of the member's process.
func (m *Member) PID() int { return int(m.pid.Load()) }

// Start starts the member, the first time or after Kill, with the data it has.
func (m *Member) Start(t testing.TB) {
	t.Helper()
	raw, err := json.Marshal(m.spec)
	if err != nil {
		t.Fatal(err)
	}
	m.process = exec.Command(os.Args[0])
	m.process.Env = append(os.Environ(), variable+"="+string(raw))
	m.process.Stderr = os.Stderr
	// No member outlives the tests, however they end.
	m.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.process.Start(); err != nil {
		t.Fatalf("start an etcd member: %v", err)
	}
	m.pid.Store(int64(m.process.Process.Pid))
}

// Kill ends the process without a warning.
func (m *Member) Kill() { m.end() }

func (m *Member) end() {
	_ = m.process.Process.Kill()
	_ = m.process.Wait() // it says that it was killed
}

// Signal sends SIGSTOP or SIGCONT, say.
func (m *Member) Signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := m.process.Process.Signal(s); err != nil {
		t.Fatalf("signal an etcd member: %v", err)
	}
}

// await waits until the member hears clients, which it does once it has joined.
func (m *Member) await(t testing.TB) {
	t.Helper()
	deadline := time.Now().Add(startPatience)
	for {
		c, err := net.DialTimeout("tcp", m.Address, time.Second)
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("etcd member %s did not start within %s: %v", m.spec.Name, startPatience, err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// free is an address of an IP that nobody listens at.
func free(t testing.TB, ip string) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// serve is a member's whole life.
func serve(raw string) error {
	var s spec
	if err := json.Unmarshal([]byte(raw), &s); err != nil {
		return err
	}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.LogLevel, cfg.LogOutputs = s.Name, s.Dir, "fatal", []string{"stderr"}
	cfg.QuotaBackendBytes = s.Quota
	cfg.MaxRequestBytes = 4 << 20
	cfg.UnsafeNoFsync = true // what is tested is processes that die, not machines
	for _, address := range []struct {
		from string
		to   *[]url.URL
	}{{s.Client, &cfg.ListenClientUrls}, {s.Peer, &cfg.ListenPeerUrls}, {s.Advertised, &cfg.AdvertisePeerUrls}} {
		u, err := url.Parse(address.from)
		if err != nil {
			return err
		}
		*address.to = []url.URL{*u}
	}
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	cfg.InitialCluster = s.Cluster
	cfg.ClientTLSInfo.TrustedCAFile, cfg.ClientTLSInfo.CertFile, cfg.ClientTLSInfo.KeyFile = s.CA, s.Cert, s.Key
	cfg.ClientTLSInfo.ClientCertAuth = s.CA != ""
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer e.Close()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	select {
	case err := <-e.Err():
		return err
	case <-stop:
		return nil
	}
}

package hub

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"

	"headwater.dev/agent/uplink"
	"headwater.dev/api/link"
	"headwater.dev/client"
)

// command runs the hub's command line and answers what it says.
func command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := NewCommand("test")
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// linked is a real uplink of the cluster of a fake agent.
type linked struct {
	connected atomic.Int32
	mu        sync.Mutex
	names     map[string]bool
	stop      func()
}

func (l *linked) has(name string) func() bool {
	return func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.names[name]
	}
}

func connect(t *testing.T, f *fake, ca []byte) *linked {
	t.Helper()
	l := &linked{names: map[string]bool{}}
	u, err := uplink.New(uplink.Config{Hub: f.hub.URL(), CA: ca, Cluster: f.cluster, Key: f.key, Log: testr.New(t),
		Connected: func() { l.connected.Add(1) }, Heartbeat: func(context.Context) link.Heartbeat { return link.Heartbeat{AgentVersion: "1"} },
		Desired: func(d link.Desired) {
			l.mu.Lock()
			defer l.mu.Unlock()
			for _, item := range d.Items {
				l.names[item.Name] = true
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- u.Run(ctx) }()
	l.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(l.stop)
	return l
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestAuthorityIsReplaced is the drill of the guide, with a real agent and
// clients: nobody who trusts both authorities notices, the hub is not restarted,
// and who was forgotten is told by TLS.
func TestAuthorityIsReplaced(t *testing.T) {
	var ahead atomic.Int64
	r, user, f, id := waiting(t, Config{Clock: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	if _, err := command(t, "ca", "switch", "--data-dir", r.dir); err == nil || !strings.Contains(err.Error(), "hub ca prepare") {
		t.Errorf("a switch to nothing: %v", err)
	}
	former := read(t, filepath.Join(r.dir, "ca.crt"))
	if said, err := command(t, "ca", "prepare", "--data-dir", r.dir); err != nil || !strings.Contains(said, bundle) {
		t.Fatalf("prepare: %q, %v", said, err)
	}
	both := filepath.Join(t.TempDir(), bundle)
	if err := os.WriteFile(both, read(t, filepath.Join(r.dir, bundle)), 0o600); err != nil {
		t.Fatal(err)
	}
	everything := filepath.Join(t.TempDir(), "hub.yaml") // the file of "hub serve", with what other commands need not
	if err := os.WriteFile(everything, []byte("data-dir: "+r.dir+"\nlisten: 127.0.0.1:0\nlog-level: info\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := command(t, "ca", "prepare", "--config", everything); err != nil || !bytes.Equal(read(t, both), read(t, filepath.Join(r.dir, bundle))) {
		t.Errorf("prepare makes another authority when it is repeated: %v", err)
	}
	if !bytes.Equal(former, read(t, filepath.Join(r.dir, "ca.crt"))) {
		t.Fatal("prepare changes what is used")
	}
	if info, err := os.Stat(filepath.Join(r.dir, nextKey)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v, %v", nextKey, info, err)
	}

	agent := connect(t, f, read(t, both))
	put := func(name string) {
		t.Helper()
		if _, err := client.Put[any](t.Context(), user, id+name, client.VersionConfiguration, wanted("s3cret")); err != nil {
			t.Fatal(err)
		}
	}
	put("-before")
	await(t, "the first change", agent.has("apps-before"))
	old := trusting(t, filepath.Join(r.dir, "ca.crt")) // made before the switch
	if _, err := command(t, "ca", "switch", "--data-dir", r.dir); err != nil {
		t.Fatal(err)
	}
	ahead.Add(int64(lookEvery))
	for why, tc := range map[string]struct {
		client *http.Client
		want   bool
	}{
		"the former authority alone": {old, false},
		"both":                       {trusting(t, both), true},
		"the new one alone":          {trusting(t, filepath.Join(r.dir, "ca.crt")), true},
	} {
		resp, err := tc.client.Get(r.URL() + "/readyz")
		var unknown x509.UnknownAuthorityError
		if tc.want != (err == nil) || err != nil && !errors.As(err, &unknown) {
			t.Errorf("who trusts %s: %v", why, err)
		}
		if err == nil {
			resp.Body.Close()
		}
	}
	weak := trusting(t, both).Transport.(*http.Transport).TLSClientConfig
	weak.MinVersion, weak.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if c, err := tls.Dial("tcp", strings.TrimPrefix(r.URL(), "https://"), weak); err == nil {
		c.Close()
		t.Error("TLS 1.1 is spoken after the switch")
	}
	put("-after")
	await(t, "a change over the connection that stayed", agent.has("apps-after"))
	if n := agent.connected.Load(); n != 1 {
		t.Errorf("the agent had to connect %d times", n)
	}
	agent.stop()
	again := connect(t, f, read(t, both))
	await(t, "the agent to connect under the new authority", again.has("apps-after"))
	again.stop()

	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = run(t, Config{DataDir: r.dir})
	resp, err := trusting(t, both).Get(r.URL() + "/readyz")
	if err != nil {
		t.Fatalf("after a restart: %v", err)
	}
	resp.Body.Close()
}

// TestASwitchCutShort leaves the former authority in use until the switch is
// finished by running it again.
func TestASwitchCutShort(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	former, err := loadAuthority(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	log := &buffer{}
	g := &generated{dir: dir, names: []string{"hub.example"}, clock: func() time.Time { return now }, log: slog.New(slog.NewTextHandler(log, nil))}
	first, err := g.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := prepareAuthority(dir, now); err != nil {
		t.Fatal(err)
	}
	// The process ended between the two files, within one tick of the file system's
	// clock.
	caKey := filepath.Join(dir, "ca.key")
	info, err := os.Stat(caKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeWhole(caKey, read(t, filepath.Join(dir, nextKey)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(caKey, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	now = now.Add(lookEvery)
	if same, err := g.get(nil); err != nil || same != first || !strings.Contains(log.String(), "former one goes on") {
		t.Errorf("a running hub: %v, %s", err, log.String())
	}
	if _, err := loadAuthority(dir, now); err == nil || !strings.Contains(err.Error(), "hub ca switch") {
		t.Errorf("a hub that starts: %v", err)
	}
	if err := switchAuthority(dir); err != nil {
		t.Fatal(err)
	}
	now = now.Add(lookEvery)
	second, err := g.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	next, err := loadAuthority(dir, now)
	if err != nil || next.Leaf.Equal(former.Leaf) {
		t.Fatalf("the authority is still the former: %v", err)
	}
	if err := second.Leaf.CheckSignatureFrom(next.Leaf); err != nil {
		t.Errorf("the hub's certificate is not of the next authority: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, nextKey)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the next authority's key is left behind: %v", err)
	}
}

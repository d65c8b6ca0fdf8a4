package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"headwater.dev/dev/kubetest"
	"headwater.dev/hub"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// terminal is where a test types commands.
type terminal struct {
	t   *testing.T
	env map[string]string
	in  string
}

// said is what a command answered.
type said struct {
	code     int
	out, err string
}

func (x terminal) run(args ...string) said {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.t.Context(), 5*time.Minute)
	defer cancel()
	var out, complaints bytes.Buffer
	code := Run(ctx, args, Streams{In: strings.NewReader(x.in), Out: &out, Err: &complaints}, func(name string) string { return x.env[name] })
	return said{code: code, out: out.String(), err: complaints.String()}
}

// ok runs a command that has to succeed and returns its output.
func (x terminal) ok(args ...string) string {
	x.t.Helper()
	s := x.run(args...)
	if s.code != 0 {
		x.t.Fatalf("headwater %s: exit code %d\n%s", strings.Join(args, " "), s.code, s.err)
	}
	return s.out
}

// object runs a command that has to succeed and reads its JSON.
func (x terminal) object(args ...string) object {
	x.t.Helper()
	out := x.ok(args...)
	var o object
	if err := json.Unmarshal([]byte(out), &o); err != nil {
		x.t.Fatalf("headwater %s prints no JSON object: %v\n%s", strings.Join(args, " "), err, out)
	}
	return o
}

// fails runs a command that has to fail with a code and words in its complaint.
func (x terminal) fails(code int, words string, args ...string) {
	x.t.Helper()
	s := x.run(args...)
	if s.code != code || !strings.Contains(s.err, words) {
		x.t.Errorf("headwater %s: exit code %d and %q, want %d and %q", strings.Join(args, " "), s.code, s.err, code, words)
	}
}

const testSubscription = "22222222-2222-2222-2222-222222222222"

// recorder is a hub that takes everything and remembers what it was asked.
type recorder struct {
	mu       sync.Mutex
	requests []string
	body     object
	// config is what GET of a configuration answers.
	config object
}

// record starts a recorder and gives a terminal that speaks to it.
func record(t *testing.T) (*recorder, terminal) {
	t.Helper()
	r := &recorder{config: object{"properties": object{"sourceKind": "GitRepository", "kustomizations": object{"infra": object{"prune": true}}}}}
	server := httptest.NewTLSServer(http.HandlerFunc(r.handle))
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return r, terminal{t: t, env: map[string]string{"HEADWATER_HUB": server.URL, "HEADWATER_CA": ca, "AZURE_TENANT_ID": "tenant",
		"AZURE_CLIENT_ID": "client", "AZURE_CLIENT_SECRET": "secret", "AZURE_SUBSCRIPTION_ID": testSubscription, "HEADWATER_CONFIG_DIR": t.TempDir()}}
}

func (r *recorder) handle(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if strings.HasSuffix(req.URL.Path, "/token") {
		fmt.Fprint(w, `{"access_token":"t","expires_in":3600}`)
		return
	}
	r.requests = append(r.requests, req.Method+" "+req.URL.RequestURI())
	if req.Method == http.MethodGet {
		_ = json.NewEncoder(w).Encode(r.config) // a broken connection shows in the test
		return
	}
	r.body = nil
	raw, err := io.ReadAll(req.Body)
	if err == nil && len(raw) > 0 {
		err = json.Unmarshal(raw, &r.body)
	}
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
	}
	fmt.Fprint(w, `{}`)
}

// last is the last request that was not a read.
func (r *recorder) last() string {
	for i := len(r.requests) - 1; i >= 0; i-- {
		if !strings.HasPrefix(r.requests[i], "GET ") {
			return r.requests[i]
		}
	}
	return ""
}

// startHub runs a real hub and gives a terminal of its administrator.
func startHub(t *testing.T, change ...func(*hub.Config)) (*hub.Hub, terminal) {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	config := hub.Config{DataDir: dir, Listen: "127.0.0.1:0", Locations: []string{"local"}}
	for _, f := range change {
		f(&config)
	}
	h, err := hub.New(ctx, config)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the hub ended: %v", err)
		}
	})
	raw, err := os.ReadFile(filepath.Join(dir, "admin.json"))
	if err != nil {
		t.Fatal(err)
	}
	var admin struct{ TenantID, ClientID, ClientSecret, SubscriptionID string }
	if err := json.Unmarshal(raw, &admin); err != nil {
		t.Fatal(err)
	}
	return h, terminal{t: t, env: map[string]string{"HEADWATER_HUB": h.URL(), "HEADWATER_CA": filepath.Join(dir, "ca.crt"),
		"AZURE_TENANT_ID": admin.TenantID, "AZURE_CLIENT_ID": admin.ClientID, "AZURE_CLIENT_SECRET": admin.ClientSecret,
		"AZURE_SUBSCRIPTION_ID": admin.SubscriptionID, "HEADWATER_CONFIG_DIR": t.TempDir()}}
}

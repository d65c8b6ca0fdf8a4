package uplink

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"headwater.dev/api/link"
)

// patience is for a machine that is busy with other things.
const patience = time.Minute

const cluster = "/subscriptions/S/resourceGroups/rg/providers/Microsoft.Kubernetes/connectedClusters/edge"

// clusterKey is made once: RSA keys are slow to make.
var clusterKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// hub speaks the gateway's half of api/link over real TLS.
type hub struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	desired link.Desired
	changed chan struct{}
	reports []link.Report
	tokens  map[string]bool
	ids     map[string]bool
	// epochs are what agents said they knew.
	epochs   []string
	streams  int
	polls    int
	skew     time.Duration
	down     bool
	buffered bool
	mute     bool
	answer   func(link.Report) (int, string)
}

func newHub(t *testing.T) *hub {
	h := &hub{t: t, changed: make(chan struct{}), tokens: map[string]bool{}, ids: map[string]bool{}}
	h.desired = link.Desired{Cluster: cluster, Revision: 1}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+link.PathToken, h.token)
	mux.HandleFunc("GET "+link.PathDesired, h.serveDesired)
	mux.HandleFunc("POST "+link.PathObserved, h.observed)
	h.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		down, skew := h.down, h.skew
		h.mu.Unlock()
		if down {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Date", time.Now().Add(skew).UTC().Format(http.TimeFormat))
		mux.ServeHTTP(w, r)
	}))
	h.EnableHTTP2 = true
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	h.StartTLS()
	t.Cleanup(func() { h.CloseClientConnections(); h.Close() })
	return h
}

func (h *hub) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})
}

// set changes something under the lock.
func (h *hub) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

// want publishes a new desired state.
func (h *hub) want(items ...link.Item) {
	h.set(func() {
		h.desired = link.Desired{Cluster: h.desired.Cluster, Revision: h.desired.Revision + 1, Items: items}
		close(h.changed)
		h.changed = make(chan struct{})
	})
}

func (h *hub) token(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var claims jwt.RegisteredClaims
	_, err := jwt.ParseWithClaims(r.FormValue("client_assertion"), &claims,
		func(*jwt.Token) (any, error) { return &clusterKey().PublicKey, nil },
		jwt.WithAudience(h.URL+link.PathToken), jwt.WithIssuer(cluster), jwt.WithSubject(cluster),
		jwt.WithIssuedAt(), jwt.WithLeeway(time.Minute),
		jwt.WithTimeFunc(func() time.Time { return time.Now().Add(h.skew) }))
	if err != nil || h.ids[claims.ID] || r.FormValue("client_assertion_type") != link.ClientAssertionType {
		w.WriteHeader(http.StatusUnauthorized)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": "invalid_client", "error_description": "assertion not accepted"})
		return
	}
	h.ids[claims.ID] = true
	access := uuid.NewString()
	h.tokens[access] = true
	_ = json.NewEncoder(w).Encode(link.Token{AccessToken: access, TokenType: "Bearer", ExpiresIn: 900})
}

// known answers 401 unless the request carries a live token.
func (h *hub) known(w http.ResponseWriter, r *http.Request) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tokens[r.Header.Get("Authorization")[len("Bearer "):]] {
		return true
	}
	w.WriteHeader(http.StatusUnauthorized)
	return false
}

func (h *hub) serveDesired(w http.ResponseWriter, r *http.Request) {
	h.set(func() { h.epochs = append(h.epochs, r.URL.Query().Get("epoch")+"/"+r.URL.Query().Get("known")) })
	if !h.known(w, r) {
		return
	}
	if r.FormValue("stream") != "true" {
		h.set(func() { h.polls++ })
		h.mu.Lock()
		desired := h.desired
		h.mu.Unlock()
		if r.FormValue("revision") == "0" {
			_ = json.NewEncoder(w).Encode(link.Message{Desired: &desired})
			return
		}
		select {
		case <-r.Context().Done():
		case <-time.After(200 * time.Millisecond):
			w.WriteHeader(http.StatusNoContent)
		}
		return
	}
	h.set(func() { h.streams++ })
	for {
		h.mu.Lock()
		desired, changed, buffered, mute := h.desired, h.changed, h.buffered, h.mute
		h.mu.Unlock()
		_ = json.NewEncoder(w).Encode(link.Message{Desired: &desired})
		if !buffered {
			w.(http.Flusher).Flush()
		}
		ping := time.NewTicker(50 * time.Millisecond)
		for waiting := true; waiting; {
			select {
			case <-r.Context().Done():
				return
			case <-changed:
				waiting = false
			case <-ping.C:
				if !mute && !buffered {
					_ = json.NewEncoder(w).Encode(link.Message{Ping: &link.Ping{}})
					w.(http.Flusher).Flush()
				}
			}
		}
	}
}

func (h *hub) observed(w http.ResponseWriter, r *http.Request) {
	if !h.known(w, r) {
		return
	}
	var report link.Report
	if err := json.NewDecoder(r.Body).Decode(&report); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.answer != nil {
		if status, code := h.answer(report); status != 0 {
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"code": code, "message": "no"}})
			return
		}
	}
	h.reports = append(h.reports, report)
	_, _ = w.Write([]byte("{}"))
}

// accepted returns the newest accepted observation of an item.
func (h *hub) accepted(id string) (link.Observed, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := len(h.reports) - 1; i >= 0; i-- {
		for _, o := range h.reports[i].Items {
			if o.ID == id {
				return o, true
			}
		}
	}
	return link.Observed{}, false
}

// connect runs an uplink to the hub until the test ends and returns what it
// delivered.
func connect(t *testing.T, h *hub, change func(*Config)) (*Uplink, <-chan link.Desired) {
	t.Helper()
	delivered := make(chan link.Desired, 100)
	c := Config{
		Hub: h.URL, CA: h.ca(), Cluster: cluster, Key: clusterKey(), Log: testr.New(t),
		Proxy:     func(*http.Request) (*url.URL, error) { return nil, nil },
		Desired:   func(d link.Desired) { delivered <- d },
		Heartbeat: func(context.Context) link.Heartbeat { return link.Heartbeat{KubernetesVersion: "v1.37.2"} },
	}
	if change != nil {
		change(&c)
	}
	u, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	u.timing = timing{
		firstMessage: 2 * time.Second, silence: 2 * time.Second, pollFor: time.Minute,
		pollWait: time.Second, request: 20 * time.Second, gather: time.Millisecond, heartbeat: 50 * time.Millisecond,
		retry: 5 * time.Millisecond, retryMax: 50 * time.Millisecond,
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return u, delivered
}

// receive waits for the next delivery.
func receive(t *testing.T, delivered <-chan link.Desired) link.Desired {
	t.Helper()
	select {
	case d := <-delivered:
		return d
	case <-time.After(patience):
		t.Fatal("nothing was delivered")
		return link.Desired{}
	}
}

// answered waits until the agent knows that the hub has everything: the hub has it
// before its answer is there, and without that the agent would send it again.
func answered(t *testing.T, u *Uplink) {
	t.Helper()
	eventually(t, "all reports are answered", func() bool { return len(u.outbox.peek(1, 1<<20)) == 0 })
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("did not happen: %s", what)
		}
	}
}

package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/gateway"
	"headwater.dev/hub/store"
	"headwater.dev/hub/store/memory"
	"headwater.dev/hub/vault"
)

const (
	group    = "/subscriptions/S/resourceGroups/RG/providers/Microsoft.Kubernetes/connectedClusters/"
	provider = "/providers/Microsoft.KubernetesConfiguration/"
	patience = time.Minute
)

var (
	edgeID  = group + "Edge"
	otherID = group + "Edge2" // its id begins with the other's
)

// clusterKeys are made once: RSA keys are slow to make.
var clusterKeys = sync.OnceValue(func() [2]*rsa.PrivateKey {
	var keys [2]*rsa.PrivateKey
	for i := range keys {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		keys[i] = key
	}
	return keys
})

// hub is a gateway with what it needs, behind a TLS server.
type hub struct {
	t        *testing.T
	store    store.Store
	vault    *vault.Vault
	auth     *auth.Auth
	gateway  *gateway.Gateway
	server   *httptest.Server
	registry *prometheus.Registry
	offset   atomic.Int64
	stop     func()
}

func (h *hub) now() time.Time { return time.Now().Add(time.Duration(h.offset.Load())) }

func (h *hub) advance(d time.Duration) { h.offset.Add(int64(d)) }

func newHub(t *testing.T, s store.Store) *hub {
	t.Helper()
	return newHubWith(t, s, nil)
}

// newHubWith is one whose gateway is changed before it is made.
func newHubWith(t *testing.T, s store.Store, change func(*gateway.Config)) *hub {
	t.Helper()
	h := &hub{t: t, store: s, registry: prometheus.NewRegistry()}
	if s == nil {
		h.store = memory.New()
	}
	h.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.auth.Handles(r.URL.Path) {
			h.auth.Handler().ServeHTTP(w, r)
			return
		}
		h.gateway.Handler().ServeHTTP(w, r)
	}))
	h.server.EnableHTTP2 = true
	h.server.StartTLS()
	t.Cleanup(func() { h.server.CloseClientConnections(); h.server.Close() })
	var err error
	dir := t.TempDir()
	h.vault, err = vault.New(t.Context(), vault.Config{Store: h.store, KeyFile: filepath.Join(dir, "vault.key"), Clock: h.now})
	if err != nil {
		t.Fatal(err)
	}
	h.auth, err = auth.New(t.Context(), auth.Config{Store: h.store, Dir: dir, ExternalURL: h.server.URL, Clock: h.now})
	if err != nil {
		t.Fatal(err)
	}
	c := gateway.Config{Store: h.store, Vault: h.vault, Auth: h.auth, ExternalURL: h.server.URL + "/", Clock: h.now, Registerer: h.registry}
	if change != nil {
		change(&c)
	}
	h.gateway = gateway.New(c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.gateway.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(h.stop)
	h.putCluster(edgeID, &clusterKeys()[0].PublicKey)
	h.putCluster(otherID, &clusterKeys()[1].PublicKey)
	return h
}

func key(id string) string { return strings.ToLower(id) }

// put writes the desired part of a resource as the users' door does.
func put[P any](h *hub, d resource.Desired[P]) store.Record {
	h.t.Helper()
	if d.UpdatedAt.IsZero() {
		d.UpdatedAt = h.now()
	}
	d.Name = d.ID[strings.LastIndexByte(d.ID, '/')+1:]
	value, err := json.Marshal(d)
	if err != nil {
		h.t.Fatal(err)
	}
	r, err := h.store.Put(h.t.Context(), store.Put{Key: key(d.ID), Value: value, Expect: store.AnyRevision})
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

func certificate(public *rsa.PublicKey) string {
	return base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(public))
}

func (h *hub) putCluster(id string, public *rsa.PublicKey) {
	h.t.Helper()
	put(h, resource.Desired[resource.ClusterProperties]{
		ID: id, Properties: resource.ClusterProperties{AgentPublicKeyCertificate: certificate(public)},
	})
}

func configID(cluster, name string) string    { return cluster + provider + "fluxConfigurations/" + name }
func extensionID(cluster, name string) string { return cluster + provider + "extensions/" + name }

func (h *hub) putConfig(cluster, name string, edit func(*resource.Desired[resource.FluxConfigurationProperties])) store.Record {
	h.t.Helper()
	d := resource.Desired[resource.FluxConfigurationProperties]{
		ID: configID(cluster, name), OperationID: "op", CorrelationID: "corr",
		Properties: resource.FluxConfigurationProperties{Scope: "cluster", Namespace: "ns", SourceKind: "GitRepository"},
	}
	if edit != nil {
		edit(&d)
	}
	return put(h, d)
}

func (h *hub) get(id string) (store.Record, bool) {
	h.t.Helper()
	r, err := h.store.Get(h.t.Context(), key(id))
	return r, err == nil
}

// snapshot is all resources.
func (h *hub) snapshot() []store.Record {
	h.t.Helper()
	var all []store.Record
	for _, prefix := range []string{"/subscriptions/", "/vault/"} {
		if _, err := store.Each(h.t.Context(), h.store, prefix, func(r store.Record) error { all = append(all, r); return nil }); err != nil {
			h.t.Fatal(err)
		}
	}
	return all
}

// agent speaks the cluster's half of the protocol.
type agent struct {
	*hub
	id       string
	key      *rsa.PrivateKey
	token    string
	session  string
	sequence int64
}

func (h *hub) agent(id string, key *rsa.PrivateKey) *agent {
	h.t.Helper()
	a := &agent{hub: h, id: id, key: key, session: uuid.NewString()}
	status, body := a.request(a.form(nil))
	if status != http.StatusOK {
		h.t.Fatalf("token of %s: %d %s", id, status, body)
	}
	var token link.Token
	if err := json.Unmarshal(body, &token); err != nil || token.TokenType != "Bearer" || token.ExpiresIn != 900 {
		h.t.Fatalf("token %+v, %v", token, err)
	}
	a.token = token.AccessToken
	return a
}

func (h *hub) edge() *agent { h.t.Helper(); return h.agent(edgeID, clusterKeys()[0]) }

// form is a token request; edit changes the claims of its assertion.
func (a *agent) form(edit func(jwt.MapClaims)) url.Values {
	claims := jwt.MapClaims{
		"iss": a.id, "sub": a.id, "aud": a.server.URL + link.PathToken, "jti": uuid.NewString(),
		"iat": a.now().Unix(), "exp": a.now().Add(2 * time.Minute).Unix(),
	}
	if edit != nil {
		edit(claims)
	}
	return a.signed(jwt.SigningMethodRS256, a.key, claims)
}

func (a *agent) signed(method jwt.SigningMethod, key any, claims jwt.MapClaims) url.Values {
	assertion, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return url.Values{
		"grant_type": {"client_credentials"}, "client_assertion_type": {link.ClientAssertionType}, "client_assertion": {assertion},
	}
}

func (a *agent) request(form url.Values) (int, []byte) {
	a.t.Helper()
	resp, err := a.server.Client().PostForm(a.server.URL+link.PathToken, form)
	if err != nil {
		a.t.Fatal(err)
	}
	return read(a.t, resp)
}

func read(t *testing.T, resp *http.Response) (int, []byte) {
	t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

// do sends a request with the agent's token.
func (a *agent) do(ctx context.Context, method, path string, body io.Reader) *http.Response {
	a.t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, a.server.URL+path, body)
	if err != nil {
		a.t.Fatal(err)
	}
	if a.token != "" {
		r.Header.Set("Authorization", "Bearer "+a.token)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.server.Client().Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	return resp
}

// poll asks what is desired without a name, as agents of a former version do.
func (a *agent) poll(query string) (int, link.Desired) {
	a.t.Helper()
	b := *a
	b.session = ""
	return b.asks(query)
}

// asks asks what is desired under the name of its process.
func (a *agent) asks(query string) (int, link.Desired) {
	a.t.Helper()
	r, err := http.NewRequestWithContext(a.t.Context(), http.MethodGet, a.server.URL+link.PathDesired+"?stream=false&"+query, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	if a.token != "" {
		r.Header.Set("Authorization", "Bearer "+a.token)
	}
	if a.session != "" {
		r.Header.Set(link.HeaderSession, a.session)
	}
	resp, err := a.server.Client().Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	status, body := read(a.t, resp)
	var m link.Message
	if status == http.StatusOK {
		if err := json.Unmarshal(body, &m); err != nil || m.Desired == nil {
			a.t.Fatalf("poll: %v in %s", err, body)
		}
		return status, *m.Desired
	}
	return status, link.Desired{}
}

// report sends one report with the next sequence.
func (a *agent) report(heartbeat *link.Heartbeat, items ...link.Observed) (int, string) {
	a.t.Helper()
	a.sequence++
	body, err := json.Marshal(link.Report{Session: a.session, Sequence: a.sequence, Heartbeat: heartbeat, Items: items})
	if err != nil {
		a.t.Fatal(err)
	}
	return a.post(body)
}

// post sends a report as it is; the answer's error code comes back.
func (a *agent) post(body []byte) (int, string) {
	a.t.Helper()
	status, answer := read(a.t, a.do(a.t.Context(), http.MethodPost, link.PathObserved, bytes.NewReader(body)))
	var e struct {
		Error struct{ Code, Message string }
	}
	if err := json.Unmarshal(answer, &e); err != nil {
		a.t.Fatalf("report answered %d %s", status, answer)
	}
	return status, e.Error.Code
}

// follow is an open stream.
type follow struct {
	t        *testing.T
	messages chan link.Message // closed at the end
	cancel   func()
}

func (a *agent) follow() *follow {
	a.t.Helper()
	ctx, cancel := context.WithCancel(a.t.Context())
	resp := a.do(ctx, http.MethodGet, link.PathDesired+"?revision=0&stream=true", nil)
	if resp.StatusCode != http.StatusOK {
		a.t.Fatalf("stream: %d", resp.StatusCode)
	}
	f := &follow{t: a.t, messages: make(chan link.Message, 100), cancel: cancel}
	go func() {
		defer close(f.messages)
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 64<<20)
		for lines.Scan() {
			var m link.Message
			if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
				a.t.Errorf("line %q: %v", lines.Bytes(), err)
			}
			f.messages <- m
		}
	}()
	a.t.Cleanup(cancel)
	return f
}

// next is the next message with something desired.
func (f *follow) next() link.Desired {
	f.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case m, ok := <-f.messages:
			if !ok {
				f.t.Fatal("the stream ended")
			}
			if m.Desired != nil { // and no ping
				return *m.Desired
			}
		case <-deadline:
			f.t.Fatal("no message")
		}
	}
}

// until reads on until a message satisfies the condition.
func (f *follow) until(what string, ok func(link.Desired) bool) link.Desired {
	f.t.Helper()
	for range 20 {
		if d := f.next(); ok(d) {
			return d
		}
	}
	f.t.Fatalf("20 messages without %s", what)
	return link.Desired{}
}

// ended waits for the stream's end.
func (f *follow) ended(why string) {
	f.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case _, ok := <-f.messages:
			if !ok {
				return
			}
		case <-deadline:
			f.t.Fatalf("the stream did not end: %s", why)
		}
	}
}

func ids(d link.Desired) string {
	var out []string
	for _, i := range d.Items {
		out = append(out, fmt.Sprintf("%s/%d", i.Name, i.Generation))
	}
	return strings.Join(out, " ")
}

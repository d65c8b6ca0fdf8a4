package rest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"

	"github.com/google/go-cmp/cmp"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
	"headwater.dev/hub/store/memory"
	"headwater.dev/hub/vault"
)

const (
	testTenant       = "aaaaaaaa-0000-0000-0000-000000000001"
	testSubscription = "bbbbbbbb-0000-0000-0000-000000000002"
	inSubscription   = "/subscriptions/" + testSubscription
	inGroup          = inSubscription + "/resourceGroups/fleet"
	inCluster        = inGroup + "/providers/Microsoft.Kubernetes/connectedClusters/Berlin"
	inConfigurations = inCluster + "/providers/Microsoft.KubernetesConfiguration/fluxConfigurations"
	inExtensions     = inCluster + "/providers/Microsoft.KubernetesConfiguration/extensions"
)

var testKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func testCertificate() string {
	return base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&testKey().PublicKey))
}

// hub is the users' door over a store in memory, with real tokens and TLS.
type hub struct {
	t          *testing.T
	server     *httptest.Server
	rest       *Server
	store      store.Store
	vault      *vault.Vault
	auth       *auth.Auth
	admin      auth.Admin
	token      string
	mu         sync.Mutex
	now        time.Time
	ids        int
	transcript strings.Builder
}

func start(t *testing.T, change ...func(*Config)) *hub {
	t.Helper()
	h := &hub{t: t, store: memory.New(), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	dir := t.TempDir()
	h.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.auth.Handles(r.URL.Path) {
			h.auth.Handler().ServeHTTP(w, r)
			return
		}
		h.rest.ServeHTTP(w, r)
	}))
	h.server.StartTLS()
	t.Cleanup(h.server.Close)
	var err error
	h.auth, err = auth.New(t.Context(), auth.Config{Store: h.store, Dir: dir, ExternalURL: h.server.URL,
		TenantID: testTenant, SubscriptionID: testSubscription, Clock: h.clock})
	if err != nil {
		t.Fatal(err)
	}
	if h.vault, err = vault.New(t.Context(), vault.Config{Store: h.store, KeyFile: filepath.Join(dir, "vault.key"), Clock: h.clock}); err != nil {
		t.Fatal(err)
	}
	c := Config{Store: h.store, Vault: h.vault, Directory: h.auth, Clock: h.clock, NewID: h.newID}
	for _, f := range change {
		f(&c)
	}
	if h.rest, err = New(c); err != nil {
		t.Fatal(err)
	}
	if err := h.rest.Bootstrap(t.Context(), testSubscription, true); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "admin.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &h.admin); err != nil {
		t.Fatal(err)
	}
	h.token = h.login(h.admin.ClientID, h.admin.ClientSecret)
	return h
}

func (h *hub) clock() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *hub) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

func (h *hub) newID() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ids++
	return fmt.Sprintf("00000000-0000-0000-0000-%012d", h.ids)
}

func (h *hub) login(id, secret string) string {
	h.t.Helper()
	resp, err := h.server.Client().PostForm(h.server.URL+"/"+testTenant+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}, "scope": {h.server.URL + "/.default"}})
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.AccessToken == "" {
		h.t.Fatalf("no token: %s %v", resp.Status, err)
	}
	return answer.AccessToken
}

// answered is what the door answered.
type answered struct {
	status int
	header http.Header
	body   string
}

// object is the body as a JSON object.
func (a answered) object(t *testing.T) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(a.body), &m); err != nil {
		t.Fatalf("body %q: %v", a.body, err)
	}
	return m
}

// code is the code of an error body, "" of a success.
func (a answered) code() string {
	var e arm.ErrorBody
	_ = json.Unmarshal([]byte(a.body), &e) // a success has no code
	return e.Error.Code
}

func (a answered) property(t *testing.T, path string) any {
	t.Helper()
	var v any = a.object(t)
	for _, step := range strings.Split(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[step]
	}
	return v
}

// send sends a request with the administrator's token; header is "Name: value".
func (h *hub) send(method, path, body string, header ...string) answered {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, h.server.URL+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+h.token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	resp, err := h.server.Client().Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return answered{resp.StatusCode, resp.Header, string(raw)}
}

// must sends a request and wants a status.
func (h *hub) must(status int, method, path, body string) answered {
	h.t.Helper()
	a := h.send(method, path, body)
	if a.status != status {
		h.t.Fatalf("%s %s: %d, want %d: %s", method, path, a.status, status, a.body)
	}
	return a
}

// furnish makes the group and the cluster.
func (h *hub) furnish() {
	h.t.Helper()
	h.must(201, "PUT", inGroup+"?api-version=2022-09-01", `{"location":"local"}`)
	h.must(201, "PUT", inCluster+"?api-version=2024-01-01",
		`{"location":"local","properties":{"agentPublicKeyCertificate":"`+testCertificate()+`"}}`)
}

// report plays the gateway: it writes the observed part of a resource.
func (h *hub) report(id string, v any) {
	h.t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.store.Put(h.t.Context(), store.Put{Key: arm.Fold(id), Part: store.Observed, Value: raw, Expect: store.AnyRevision}); err != nil {
		h.t.Fatal(err)
	}
}

// accept plays an agent that takes the newest generation.
func (h *hub) accept(id string) {
	h.t.Helper()
	h.report(id, map[string]any{"acceptedGeneration": h.record(id).Generation, "acceptedAt": h.clock(), "statuses": []any{}})
}

func (h *hub) record(id string) store.Record {
	h.t.Helper()
	r, err := h.store.Get(h.t.Context(), arm.Fold(id))
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

func (h *hub) desired(id string) resource.Desired[map[string]any] {
	h.t.Helper()
	var d resource.Desired[map[string]any]
	if err := json.Unmarshal(h.record(id).Desired, &d); err != nil {
		h.t.Fatal(err)
	}
	return d
}

// step sends a request and writes it with its answer into the transcript.
func (h *hub) step(why, method, path, body string) answered {
	h.t.Helper()
	a := h.send(method, path, body)
	fmt.Fprintf(&h.transcript, "# %s\n%s %s\n", why, method, path)
	if body != "" {
		fmt.Fprintln(&h.transcript, pretty(body))
	}
	fmt.Fprintf(&h.transcript, "-> %d\n", a.status)
	for _, name := range []string{arm.HeaderAsyncOperation, arm.HeaderRetryAfter, "Content-Type"} {
		if v := a.header.Get(name); v != "" {
			fmt.Fprintf(&h.transcript, "%s: %s\n", name, v)
		}
	}
	fmt.Fprintf(&h.transcript, "%s\n\n", pretty(a.body))
	return a
}

func pretty(s string) string {
	var b bytes.Buffer
	if json.Indent(&b, []byte(strings.TrimSpace(s)), "", "  ") != nil {
		return s
	}
	return b.String()
}

var keyText = regexp.MustCompile(`MII[A-Za-z0-9+/=]{100,}`)

// golden compares the transcript with testdata; UPDATE=1 rewrites it.
func (h *hub) golden(name string) {
	h.t.Helper()
	got := strings.NewReplacer(strings.TrimPrefix(h.server.URL, "https://"), "hub.test", h.admin.ClientID, "CLIENT").Replace(h.transcript.String())
	got = keyText.ReplaceAllString(got, "KEY")
	file := filepath.Join("testdata", name+".golden")
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			h.t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		h.t.Fatalf("%v (UPDATE=1 makes it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		h.t.Errorf("%s differs (UPDATE=1 accepts) (-want +got):\n%s", file, diff)
	}
}

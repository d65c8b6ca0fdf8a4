package enrolment_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"

	"headwater.dev/api/link"
	"headwater.dev/hub/access"
	"headwater.dev/hub/activity"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/enrolment"
	"headwater.dev/hub/gateway"
	"headwater.dev/hub/rest"
	"headwater.dev/hub/store"
	"headwater.dev/hub/store/memory"
	"headwater.dev/hub/vault"
)

const (
	tenant   = "aaaaaaaa-0000-0000-0000-000000000001"
	sub      = "/subscriptions/bbbbbbbb-0000-0000-0000-000000000002"
	group    = sub + "/resourceGroups/fleet"
	other    = sub + "/resourceGroups/other"
	clusters = "/providers/Microsoft.Kubernetes/connectedClusters/"
	tokens   = "/providers/Headwater.Identity/enrolmentTokens"
	pending  = "/providers/Headwater.Identity/enrolments"
)

// hub is both doors over a store in memory, without limits.
type hub struct {
	server *httptest.Server
	store  store.Store
	auth   *auth.Auth
	admin  auth.Admin
	mu     sync.Mutex
	offset time.Duration
}

func (h *hub) clock() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Add(h.offset)
}

func (h *hub) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.offset += d
}

func start(t *testing.T) *hub {
	t.Helper()
	h := &hub{store: memory.New()}
	var door, agents, joining http.Handler
	h.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case h.auth.Handles(r.URL.Path):
			h.auth.Handler().ServeHTTP(w, r)
		case r.URL.Path == link.PathEnrol:
			joining.ServeHTTP(w, r)
		case strings.HasPrefix(r.URL.Path, "/agents/"):
			agents.ServeHTTP(w, r)
		default:
			door.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(h.server.Close)
	dir := t.TempDir()
	var err error
	h.auth, err = auth.New(t.Context(), auth.Config{Store: h.store, Dir: dir, ExternalURL: h.server.URL, TenantID: tenant,
		SubscriptionID: strings.TrimPrefix(sub, "/subscriptions/"), Clock: h.clock})
	if err != nil {
		t.Fatal(err)
	}
	v, err := vault.New(t.Context(), vault.Config{Store: h.store, KeyFile: filepath.Join(dir, "vault.key"), Clock: h.clock})
	if err != nil {
		t.Fatal(err)
	}
	rights := access.New(access.Config{Store: h.store, Auth: h.auth, Canon: rest.Canon, Clock: h.clock})
	log := activity.New(activity.Config{Store: h.store, Clock: h.clock})
	var users *rest.Server
	desk := enrolment.New(enrolment.Config{Store: h.store, ExternalURL: h.server.URL, Canon: rest.Canon, Clock: h.clock,
		Connect: func(ctx context.Context, c enrolment.Connection) error { return users.Connect(ctx, rest.Joining(c)) }})
	users, err = rest.New(rest.Config{Store: h.store, Vault: v, Directory: h.auth, Clock: h.clock, Gates: []auth.Gate{log.Gate},
		Locks: rights.Locks, Mounts: []rest.Mount{rights, log, desk}})
	if err != nil {
		t.Fatal(err)
	}
	if err := users.Bootstrap(t.Context(), h.auth.SubscriptionID(), true); err != nil {
		t.Fatal(err)
	}
	door, joining = users, desk.Handler()
	agents = gateway.New(gateway.Config{Store: h.store, Vault: v, Auth: h.auth, ExternalURL: h.server.URL, Clock: h.clock}).Handler()
	raw, err := os.ReadFile(filepath.Join(dir, "admin.json"))
	if err == nil {
		err = json.Unmarshal(raw, &h.admin)
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// person is somebody with a token.
type person struct {
	t          *testing.T
	hub        *hub
	id, secret string
	oid        string
}

func (h *hub) owner(t *testing.T) *person {
	p := &person{t: t, hub: h, id: h.admin.ClientID, secret: h.admin.ClientSecret}
	p.must(201, "PUT", group, `{"location":"local"}`)
	p.must(201, "PUT", other, `{"location":"local"}`)
	return p
}

// somebody is a new service principal with a role at a scope.
func (h *hub) somebody(t *testing.T, role auth.Role, scope string) *person {
	t.Helper()
	p, secret, err := h.auth.CreatePrincipal(t.Context(), "somebody", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.auth.Assign(t.Context(), p.ObjectID, role, scope); err != nil {
		t.Fatal(err)
	}
	return &person{t: t, hub: h, id: p.ID, secret: secret, oid: p.ObjectID}
}

func (p *person) token() string {
	p.t.Helper()
	resp, err := p.hub.server.Client().PostForm(p.hub.server.URL+"/"+tenant+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {p.id}, "client_secret": {p.secret}, "scope": {p.hub.server.URL + "/.default"}})
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.AccessToken == "" {
		p.t.Fatalf("no token: %s %v", resp.Status, err)
	}
	return answer.AccessToken
}

func (p *person) send(method, path, body string) (int, string) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.hub.server.URL+path+"?api-version=2022-10-01-preview", strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.token())
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.hub.server.Client().Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

func (p *person) must(status int, method, path, body string) string {
	p.t.Helper()
	got, answer := p.send(method, path, body)
	if got != status {
		p.t.Fatalf("%s %s: %d, want %d: %s", method, path, got, status, answer)
	}
	return answer
}

// issue makes a token with properties at a scope and returns its text.
func (p *person) issue(scope, name, properties string) string {
	p.t.Helper()
	var made struct{ Properties struct{ Token string } }
	if err := json.Unmarshal([]byte(p.must(201, "PUT", scope+tokens+"/"+name, `{"properties":`+properties+`}`)), &made); err != nil || made.Properties.Token == "" {
		p.t.Fatalf("no token: %v", err)
	}
	return made.Properties.Token
}

// agent is a cluster that wants to be let in.
type agent struct {
	t    *testing.T
	hub  *hub
	key  *rsa.PrivateKey
	id   string
	name string
}

// clusterKeys are made once: RSA keys are slow to make.
var clusterKeys = sync.OnceValue(func() (keys [3]*rsa.PrivateKey) {
	for i := range keys {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		keys[i] = key
	}
	return keys
})

func (h *hub) agent(t *testing.T, key int, id string) *agent {
	return &agent{t: t, hub: h, key: clusterKeys()[key], id: id}
}

func (a *agent) public() string {
	return base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&a.key.PublicKey))
}

type proof struct {
	jwt.Claims
	TokenHash string `json:"tkh"`
}

// body is what an honest agent sends, after change had its way.
func (a *agent) body(token string, change func(*link.Enrolment, *proof)) []byte {
	a.t.Helper()
	sum := sha256.Sum256([]byte(token))
	e := link.Enrolment{Token: token, Cluster: a.id, PublicKey: a.public()}
	c := proof{Claims: jwt.Claims{Issuer: a.id, Subject: a.id, Audience: jwt.Audience{a.hub.server.URL + link.PathEnrol}, ID: uuid.NewString(),
		Expiry: jwt.NewNumericDate(a.hub.clock().Add(time.Minute))}, TokenHash: hex.EncodeToString(sum[:])}
	if change != nil {
		change(&e, &c)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: a.key}, nil)
	if err == nil {
		e.Proof, err = jwt.Signed(signer).Claims(c).Serialize()
	}
	if err != nil {
		a.t.Fatal(err)
	}
	raw, err := json.Marshal(e)
	if err != nil {
		a.t.Fatal(err)
	}
	return raw
}

// post answers the status and, by that, the state or the code of the error.
func (a *agent) post(body []byte) (int, string) {
	resp, err := a.hub.server.Client().Post(a.hub.server.URL+link.PathEnrol, "application/json", bytes.NewReader(body))
	if err != nil {
		a.t.Error(err)
		return 0, ""
	}
	defer resp.Body.Close()
	var answer struct {
		link.Enrolled
		Error struct{ Code string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		a.t.Error(err)
	}
	if resp.StatusCode/100 == 2 {
		a.name = answer.Name
		return resp.StatusCode, answer.State
	}
	return resp.StatusCode, answer.Error.Code
}

func (a *agent) ask(token string) string {
	a.t.Helper()
	_, said := a.post(a.body(token, nil))
	return said
}

// wants asks and compares.
func (a *agent) wants(token, want, why string) {
	a.t.Helper()
	if got := a.ask(token); got != want {
		a.t.Errorf("%s: %s, want %s", why, got, want)
	}
}

// connects reports whether the agents' door lets the key in.
func (a *agent) connects() bool {
	a.t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: a.key}, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	assertion, err := jwt.Signed(signer).Claims(jwt.Claims{Issuer: a.id, Subject: a.id, Audience: jwt.Audience{a.hub.server.URL + link.PathToken},
		ID: uuid.NewString(), Expiry: jwt.NewNumericDate(a.hub.clock().Add(time.Minute))}).Serialize()
	if err != nil {
		a.t.Fatal(err)
	}
	resp, err := a.hub.server.Client().PostForm(a.hub.server.URL+link.PathToken, url.Values{"grant_type": {"client_credentials"},
		"client_assertion_type": {link.ClientAssertionType}, "client_assertion": {assertion}})
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

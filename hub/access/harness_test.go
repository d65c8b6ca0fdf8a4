package access_test

import (
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

	"github.com/google/uuid"

	"headwater.dev/api/arm"
	"headwater.dev/hub/access"
	"headwater.dev/hub/activity"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/rest"
	"headwater.dev/hub/store"
	"headwater.dev/hub/store/memory"
	"headwater.dev/hub/vault"
)

const (
	tenant   = "aaaaaaaa-0000-0000-0000-000000000001"
	sub      = "/subscriptions/bbbbbbbb-0000-0000-0000-000000000002"
	group    = sub + "/resourceGroups/fleet"
	cluster  = group + "/providers/Microsoft.ContainerService/managedClusters/berlin"
	roles    = "/providers/Microsoft.Authorization/roleDefinitions"
	assigned = "/providers/Microsoft.Authorization/roleAssignments"
	locks    = "/providers/Microsoft.Authorization/locks"
	people   = "/providers/Headwater.Identity/servicePrincipals"
)

// hub is the users' door with rights and the activity log, over a store in memory.
type hub struct {
	server *httptest.Server
	store  store.Store
	auth   *auth.Auth
	admin  auth.Admin
	mu     sync.Mutex
	now    time.Time
}

func (h *hub) clock() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(time.Microsecond) // no two moments are one
	return h.now
}

func (h *hub) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

func start(t *testing.T) *hub {
	t.Helper()
	h := &hub{store: memory.New(), now: time.Now()}
	var door http.Handler
	h.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.auth.Handles(r.URL.Path) {
			h.auth.Handler().ServeHTTP(w, r)
			return
		}
		door.ServeHTTP(w, r)
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
	a := access.New(access.Config{Store: h.store, Auth: h.auth, Canon: rest.Canon, Clock: h.clock})
	log := activity.New(activity.Config{Store: h.store, Clock: h.clock})
	users, err := rest.New(rest.Config{Store: h.store, Vault: v, Directory: h.auth, Clock: h.clock, Gates: []auth.Gate{log.Gate},
		Locks: a.Locks, Mounts: []rest.Mount{a, log}})
	if err != nil {
		t.Fatal(err)
	}
	if err := users.Bootstrap(t.Context(), h.auth.SubscriptionID(), true); err != nil {
		t.Fatal(err)
	}
	door = users
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
	t              *testing.T
	hub            *hub
	token, id, oid string
	secret         string
}

func (h *hub) login(t *testing.T, id, secret string) *person {
	t.Helper()
	resp, err := h.server.Client().PostForm(h.server.URL+"/"+tenant+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}, "scope": {h.server.URL + "/.default"}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.AccessToken == "" {
		t.Fatalf("no token: %s %v", resp.Status, err)
	}
	p := &person{t: t, hub: h, token: answer.AccessToken, id: id, secret: secret}
	var me struct{ ObjectID string }
	if err := json.Unmarshal([]byte(p.must(200, "GET", "/providers/Headwater.Identity/me", "").body), &me); err != nil {
		t.Fatal(err)
	}
	p.oid = me.ObjectID
	return p
}

func (h *hub) owner(t *testing.T) *person { return h.login(t, h.admin.ClientID, h.admin.ClientSecret) }

// somebody is a new service principal with a role at a scope; none without one.
func (h *hub) somebody(t *testing.T, role auth.Role, scope string) *person {
	t.Helper()
	p, secret, err := h.auth.CreatePrincipal(t.Context(), "somebody", 0)
	if err != nil {
		t.Fatal(err)
	}
	if role != "" {
		if _, err := h.auth.Assign(t.Context(), p.ObjectID, role, scope); err != nil {
			t.Fatal(err)
		}
	}
	return h.login(t, p.ID, secret)
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) code() string {
	var e arm.ErrorBody
	_ = json.Unmarshal([]byte(a.body), &e) // a success has no code
	return e.Error.Code
}

// names are those of the items of a list.
func (a answer) names(t *testing.T) []string {
	t.Helper()
	var page arm.Page[struct{ Name string }]
	if err := json.Unmarshal([]byte(a.body), &page); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	names := []string{}
	for _, item := range page.Value {
		names = append(names, item.Name)
	}
	return names
}

func (p *person) send(method, path, body string) answer {
	p.t.Helper()
	if !strings.Contains(path, "api-version=") {
		separator := "?"
		if strings.Contains(path, "?") {
			separator = "&"
		}
		path += separator + "api-version=2022-04-01"
	}
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.hub.server.URL+strings.ReplaceAll(path, " ", "%20"), strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
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
	return answer{resp.StatusCode, resp.Header, string(raw)}
}

func (p *person) must(status int, method, path, body string) answer {
	p.t.Helper()
	a := p.send(method, path, body)
	if a.status != status {
		p.t.Fatalf("%s %s: %d, want %d: %s", method, path, a.status, status, a.body)
	}
	return a
}

// refused wants an error with a code.
func (p *person) refused(code, method, path, body string) answer {
	p.t.Helper()
	a := p.send(method, path, body)
	if a.code() != code {
		p.t.Errorf("%s %s: %d %s, want %s", method, path, a.status, a.body, code)
	}
	return a
}

// furnish makes the group and a cluster.
func (p *person) furnish() {
	p.t.Helper()
	p.must(201, "PUT", group, `{"location":"local"}`)
	p.must(201, "PUT", cluster, `{"location":"local"}`)
}

func give(role auth.Role, to string) string {
	return `{"properties":{"roleDefinitionId":"` + sub + roles + "/" + string(role) + `","principalId":"` + to + `"}}`
}

func newName() string { return "/" + uuid.NewString() }

package auth_test

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

	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
	"headwater.dev/hub/store/memory"
)

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// directory is an Auth behind a TLS server.
type directory struct {
	*auth.Auth
	server *httptest.Server
	store  store.Store
	clock  *clock
	dir    string
	admin  auth.Admin
}

func newDirectory(t *testing.T) *directory {
	t.Helper()
	d := &directory{store: memory.New(), clock: &clock{now: time.Now()}, dir: t.TempDir()}
	d.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !d.Handles(r.URL.Path) {
			http.Error(w, "not the directory's", http.StatusTeapot)
			return
		}
		d.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(d.server.Close)
	d.Auth = d.open(t)
	d.admin = readAdmin(t, d.dir)
	return d
}

func (d *directory) open(t *testing.T) *auth.Auth {
	t.Helper()
	a, err := auth.New(t.Context(), auth.Config{Store: d.store, Dir: d.dir, ExternalURL: d.server.URL, Clock: d.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func readAdmin(t *testing.T, dir string) auth.Admin {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "admin.json"))
	if err != nil {
		t.Fatal(err)
	}
	var admin auth.Admin
	if err := json.Unmarshal(data, &admin); err != nil {
		t.Fatal(err)
	}
	return admin
}

// post sends a form to the directory and reads the JSON that comes back.
func (d *directory) post(t *testing.T, path string, form url.Values, edit func(*http.Request)) (int, http.Header, map[string]any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.server.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if edit != nil {
		edit(r)
	}
	return d.do(t, r)
}

func (d *directory) get(t *testing.T, path string) (int, map[string]any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	status, _, body := d.do(t, r)
	return status, body
}

func (d *directory) do(t *testing.T, r *http.Request) (int, http.Header, map[string]any) {
	t.Helper()
	resp, err := d.server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	body := map[string]any{}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(data, &body); err != nil {
			t.Fatalf("%s: %v in %s", r.URL.Path, err, data)
		}
	}
	return resp.StatusCode, resp.Header, body
}

func (d *directory) form(edits ...string) url.Values {
	form := url.Values{
		"grant_type":    {"client_credentials"},
		"client_id":     {d.admin.ClientID},
		"client_secret": {d.admin.ClientSecret},
		"scope":         {d.server.URL + "/.default"},
	}
	for i := 0; i < len(edits); i += 2 {
		form.Set(edits[i], edits[i+1])
		if edits[i+1] == "" {
			form.Del(edits[i])
		}
	}
	return form
}

func (d *directory) token(t *testing.T, edits ...string) string {
	t.Helper()
	status, _, body := d.post(t, "/"+d.admin.TenantID+"/oauth2/v2.0/token", d.form(edits...), nil)
	token, _ := body["access_token"].(string)
	if status != http.StatusOK || token == "" {
		t.Fatalf("token: %d %v", status, body)
	}
	return token
}

// request is one that carries a token.
func request(token string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

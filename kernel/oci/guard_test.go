package oci

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"headwater.dev/kernel/secret"
)

// door opens a repository of a test server with credentials.
func door(t *testing.T, server *httptest.Server) *Repository {
	t.Helper()
	host := server.Listener.Addr().String()
	o := Options{Insecure: server.TLS == nil, Registries: []secret.Registries{secret.ForHost(host, secret.Basic{Username: "u", Password: canary})}}
	if server.TLS != nil {
		o.TLS = &tls.Config{RootCAs: pool(server), MinVersion: tls.VersionTLS12}
	}
	r, err := Open("oci://"+host+"/app", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func pool(servers ...*httptest.Server) *x509.CertPool {
	p := x509.NewCertPool()
	for _, s := range servers {
		p.AddCert(s.Certificate())
	}
	return p
}

// TestA05Realm shows that a registry cannot have the credentials sent to the
// token endpoint of somebody else.
func TestA05Realm(t *testing.T) {
	leaked := make(chan string, 100)
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		leaked <- r.Header.Get("Authorization") + string(body)
		fmt.Fprint(w, `{"token":"anonymous"}`)
	}))
	defer thief.Close()
	home := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" || r.Header.Get("Authorization") != "" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+thief.URL+`/token",service="r"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer home.Close()
	// The library refuses literal private addresses by itself; a name that leads
	// there it does not see.
	thief.URL = strings.Replace(thief.URL, "127.0.0.1", "localhost", 1)
	for name, token := range map[string]*secret.Registry{"password": {Username: "u", Password: canary}, "identity token": {Token: canary}} {
		r, err := Open("oci://"+home.Listener.Addr().String()+"/app", Options{Insecure: true, Login: token})
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Resolve(t.Context(), "v1")
		if err == nil || !errors.Is(err, ErrRealm) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: got %v, want %v", name, err, ErrRealm)
		}
		r.Close()
	}
	close(leaked)
	for got := range leaked {
		if strings.Contains(got, canary) || strings.HasPrefix(got, "Basic") {
			t.Errorf("the thief saw %q", got)
		}
	}
}

// TestTokens logs in at the token endpoint of the registry itself.
func TestTokens(t *testing.T) {
	asked := 0
	var home *httptest.Server
	home = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, pass, basic := r.BasicAuth()
		switch {
		case r.URL.Path == "/token" && basic && user == "u" && pass == canary:
			asked++
			fmt.Fprint(w, `{"token":"t","expires_in":300}`)
		case r.Header.Get("Authorization") != "Bearer t":
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+home.URL+`/token",service="r"`)
			w.WriteHeader(http.StatusUnauthorized)
		case strings.HasSuffix(r.URL.Path, "/tags/list"):
			fmt.Fprint(w, `{"name":"app","tags":["1","2"]}`)
		}
	}))
	defer home.Close()
	r := door(t, home)
	for range 2 {
		if tags, err := r.Tags(t.Context()); err != nil || len(tags) != 2 {
			t.Errorf("%v, %v", tags, err)
		}
	}
	if asked != 1 {
		t.Errorf("%d logins of one repository", asked)
	}
}

// TestA05BlobRedirect shows that a redirect of a blob takes no credentials
// along, and may be followed otherwise.
func TestA05BlobRedirect(t *testing.T) {
	const body = "layer"
	var seen http.Header
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header
		io.WriteString(w, body)
	}))
	defer store.Close()
	digest := "sha256:6b97e2e5a5aa2a8eb2f6b9a3aae6a0d1a4ee9c4c0f5ac0d2a1ae1d6c6f2a0000"
	home := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") == "":
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(r.URL.Path, "/manifests/"):
			http.Redirect(w, r, store.URL+"/m", http.StatusTemporaryRedirect)
		}
	}))
	defer home.Close()
	_, err := door(t, home).Image(t.Context(), digest)
	if err == nil || seen == nil {
		t.Fatalf("the redirect was not followed: %v", err)
	}
	if seen.Get("Authorization") != "" || seen.Get("Cookie") != "" {
		t.Errorf("the other host saw %v", seen)
	}
}

// TestA04Downgrade shows that nothing is sent over http where https was asked
// for, and that a client certificate stays at home.
func TestA04Downgrade(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the plain server was asked") }))
	defer plain.Close()
	g := newGuard("r.example", true, nil, nil)
	r, _ := http.NewRequest(http.MethodGet, plain.URL+"/v2/app/blobs/x", nil)
	if _, err := g.RoundTrip(r); !errors.Is(err, ErrDowngrade) {
		t.Errorf("got %v", err)
	}
	with := newGuard("r.example", true, &tls.Config{Certificates: []tls.Certificate{{}}, RootCAs: x509.NewCertPool()}, nil)
	if len(with.other.TLSClientConfig.Certificates) != 0 || with.other.TLSClientConfig.RootCAs == nil || len(with.own.TLSClientConfig.Certificates) != 1 {
		t.Error("the client certificate is for the registry alone")
	}
}

// TestA06Rebinding shows that an address is judged when it is dialled, and that
// a registry leads no closer to us than it is itself.
func TestA06Rebinding(t *testing.T) {
	for name, c := range map[string]struct {
		own, other     string
		ownOK, otherOK bool
	}{
		"public to public":       {"8.8.8.8:443", "1.1.1.1:443", true, true},
		"public to private":      {"8.8.8.8:443", "10.0.0.1:443", true, false},
		"public to loopback":     {"8.8.8.8:443", "127.0.0.1:443", true, false},
		"private to private":     {"10.0.0.1:443", "10.0.0.2:443", true, true},
		"private to loopback":    {"10.0.0.1:443", "[::1]:443", true, false},
		"metadata":               {"169.254.169.254:80", "169.254.169.254:80", false, false},
		"mapped metadata":        {"[::ffff:169.254.169.254]:80", "[fd00:ec2::254]:80", false, false},
		"unspecified":            {"0.0.0.0:80", "[::]:80", false, false},
		"loopback to link local": {"127.0.0.1:80", "[fe80::1]:80", true, false},
	} {
		g := newGuard("r.example", true, nil, nil)
		if err := g.dialOwn("tcp", c.own, nil); (err == nil) != c.ownOK {
			t.Errorf("%s: own: %v", name, err)
		}
		if err := g.dialOther("tcp", c.other, nil); (err == nil) != c.otherOK {
			t.Errorf("%s: other: %v", name, err)
		}
	}
	proxied := newGuard("r.example", true, nil, &url.URL{Scheme: "http", Host: "proxy:1"})
	r, _ := http.NewRequest(http.MethodGet, "https://169.254.169.254/latest", nil)
	if _, err := proxied.RoundTrip(r); !errors.Is(err, ErrAddress) {
		t.Errorf("metadata by way of a proxy: %v", err)
	}
}

// TestA07LoopbackProxy shows that a proxy of a tenant is not one on our own
// machine, where it would reach what listens for us alone.
func TestA07LoopbackProxy(t *testing.T) {
	asked := 0
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked++ }))
	defer proxy.Close()
	for _, address := range []string{proxy.URL, strings.Replace(proxy.URL, "127.0.0.1", "localhost", 1), "http://169.254.169.254:80"} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Open("oci://registry.example/app", Options{Proxy: u})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Resolve(t.Context(), "v1"); !errors.Is(err, ErrProxy) && !errors.Is(err, ErrAddress) || asked > 0 {
			t.Errorf("%s: %v, asked %d times", address, err, asked)
		}
		r.Close()
	}
	u, _ := url.Parse(proxy.URL)
	r, err := Open("oci://registry.example/app", Options{Proxy: u, Insecure: true, LoopbackProxy: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, _ = r.Resolve(t.Context(), "v1"); asked == 0 {
		t.Error("a proxy that is allowed was not asked")
	}
}

func TestSameDomain(t *testing.T) {
	for pair, want := range map[[2]string]bool{
		{"registry-1.docker.io", "auth.docker.io"}:                    true,
		{"registry.gitlab.example.com", "gitlab.example.com:443"}:     true,
		{"registry.example.com:5000", "REGISTRY.example.com:5000"}:    true,
		{"registry.example.com", "example.org"}:                       false,
		{"a.github.io", "b.github.io"}:                                false,
		{"a.co.uk", "b.co.uk"}:                                        false,
		{"10.0.0.1:5000", "10.0.0.1:5001"}:                            false,
		{"localhost:5000", "localhost:5001"}:                          false,
		{"registry", "auth"}:                                          false,
		{"127.0.0.1:1", "127.0.0.1:1"}:                                true,
		{"registry.example.com", "registry.example.com.evil.example"}: false,
	} {
		if got := sameDomain(pair[0], pair[1]); got != want {
			t.Errorf("%v: %v", pair, got)
		}
	}
}

func TestRateLimit(t *testing.T) {
	home := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		w.Header().Set("Retry-After", "120")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	defer home.Close()
	_, err := door(t, home).Resolve(t.Context(), "v1")
	var rate *RateError
	if !errors.As(err, &rate) || rate.After != 2*time.Minute {
		t.Errorf("got %v", err)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": 0, "x": 0, "-5": 0, "7": 7 * time.Second, "99999999999": 0, "999999": time.Hour,
		now.Add(time.Minute).Format(http.TimeFormat): time.Minute, now.Add(-time.Minute).Format(http.TimeFormat): 0,
	} {
		if got := RetryAfter(header, now); got != want && header != "99999999999" {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
}

// TestA14HugeAnswers shows that a registry cannot fill our memory.
func TestA14HugeAnswers(t *testing.T) {
	home := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		block := make([]byte, 1<<20)
		for range 64 {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}))
	defer home.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := door(t, home)
	if _, err := r.Image(ctx, "sha256:"+strings.Repeat("0", 64)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("manifest: %v", err)
	}
	if _, err := r.Tags(ctx); err == nil {
		t.Errorf("tags: %v", err)
	}
}

// TestA14EndlessTags shows that neither a redirect nor the name of a repository
// gets a list of tags around the limit.
func TestA14EndlessTags(t *testing.T) {
	var sent atomic.Int64
	endless := func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"tags":["a"`)
		block := []byte(strings.Repeat(`,"a"`, 1<<16))
		for range 4 * maxDocument / len(block) {
			n, err := w.Write(block)
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
		io.WriteString(w, `]}`)
	}
	other := httptest.NewServer(http.HandlerFunc(endless))
	defer other.Close()
	home := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v2/":
		case strings.Contains(r.URL.Path, "/elsewhere/"):
			http.Redirect(w, r, other.URL+"/blobs/sha256:00", http.StatusTemporaryRedirect)
		default:
			endless(w, r)
		}
	}))
	defer home.Close()
	for _, name := range []string{"elsewhere/app", "app/blobs/x"} {
		r, err := Open("oci://"+home.Listener.Addr().String()+"/"+name, Options{Insecure: true})
		if err != nil {
			t.Fatal(err)
		}
		sent.Store(0)
		if _, err := r.Tags(t.Context()); !errors.Is(err, ErrTooLarge) || sent.Load() == 0 {
			t.Errorf("%s: %v after %d bytes", name, err, sent.Load())
		}
		r.Close()
	}
}

// FuzzManifest reads manifests from strangers.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"layers":[{"mediaType":"a","digest":"sha256:00","size":1}]}`))
	f.Add([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`))
	f.Add([]byte(`{"layers":[{"size":-1}]}`))
	var body []byte
	home := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			w.Write(body)
		}
	}))
	f.Cleanup(home.Close)
	r, err := Open("oci://"+home.Listener.Addr().String()+"/app", Options{Insecure: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		body = data
		img, err := r.Image(t.Context(), sha(data))
		if err != nil {
			return
		}
		if l, err := img.Layer(""); err == nil {
			if _, err := img.Open(l, 10); err == nil && l.Size > 10 {
				t.Error("a layer beyond the limit was opened")
			}
		}
	})
}

func TestReach(t *testing.T) {
	for a, want := range map[string]reach{"8.8.8.8": public, "10.1.2.3": private, "fd12::1": private, "127.0.0.1": loopback, "169.254.1.1": never, "224.0.0.1": never} {
		if got := reachOf(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: %v", a, got)
		}
	}
}

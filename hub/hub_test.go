package hub

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func (r *running) get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := r.http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestServing(t *testing.T) {
	r := run(t, Config{MetricsListen: "127.0.0.1:0"})
	tests := map[string]struct {
		why, path string
		status    int
		has       string
	}{
		"alive":       {"without a token, without a word", "/healthz", 200, ""},
		"live":        {"as Kubernetes names it", "/livez", 200, ""},
		"ready":       {"without a token, without a word", "/readyz", 200, ""},
		"endpoints":   {"clients ask before they have a token", "/metadata/endpoints?api-version=2022-09-01", 200, r.URL()},
		"directory":   {"likewise", "/" + r.admin.TenantID + "/v2.0/.well-known/openid-configuration", 200, "token_endpoint"},
		"resources":   {"nothing else is anonymous", "/subscriptions?api-version=2022-12-01", 401, "AuthenticationFailed"},
		"agents":      {"nor is the agents' door", "/agents/v1/desired", 401, ""},
		"no path":     {"paths are not told to strangers", "/no/such/path", 401, "AuthenticationFailed"},
		"metrics":     {"they have a listener of their own", "/metrics", 401, "AuthenticationFailed"},
		"twice slash": {"az joins with one too many", "//metadata/endpoints?api-version=2015-01-01", 200, r.URL()},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			status, body := r.get(t, r.URL()+tc.path)
			if status != tc.status || !strings.Contains(body, tc.has) || tc.has == "" && status == 200 && body != "" {
				t.Errorf("%s: got %d %q, want %d with %q", tc.why, status, body, tc.status, tc.has)
			}
		})
	}
	status, body := r.get(t, "http://"+r.MetricsAddr()+"/metrics")
	for _, want := range []string{"headwater_rest_requests_total", "headwater_gateway_connected_agents", "go_goroutines"} {
		if status != 200 || !strings.Contains(body, want) {
			t.Errorf("metrics: %d without %s", status, want)
		}
	}
	for _, file := range []string{"ca.key", "admin.json", "vault.key", "signing.key"} {
		info, err := os.Stat(filepath.Join(r.dir, file))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v, want mode 0600", file, info.Mode(), err)
		}
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	r := run(t, Config{})
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(filepath.Join(r.dir, "ca.crt"))
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	for version, want := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(r.URL(), "https://"), &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS10, MaxVersion: version})
		if (err == nil) != want {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			_ = conn.Close()
		}
	}
}

func TestStartRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	tests := map[string]struct {
		in   Config
		want string
	}{
		"no directory":   {Config{}, "--data-dir"},
		"port taken":     {Config{DataDir: t.TempDir(), Listen: taken.Addr().String()}, "address already in use"},
		"plain HTTP":     {Config{DataDir: t.TempDir(), ExternalURL: "http://hub.example"}, "https://"},
		"no certificate": {Config{DataDir: t.TempDir(), TLSCert: "/nowhere.crt", TLSKey: "/nowhere.key"}, "nowhere.crt"},
		"keeper":         {Config{DataDir: t.TempDir(), KeeperURLs: []string{"nothing://"}}, "nothing"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			h, err := New(t.Context(), tc.in)
			if err == nil {
				h.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestCertificateIsRenewed(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	authority, err := loadAuthority(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	again, err := loadAuthority(dir, now)
	if err != nil || !again.Leaf.Equal(authority.Leaf) {
		t.Fatalf("a restart makes another authority: %v", err)
	}
	g := &generated{dir: dir, names: []string{"hub.example", "127.0.0.1"}, clock: func() time.Time { return now }}
	first, err := g.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(authority.Leaf)
	for _, name := range []string{"hub.example", "127.0.0.1"} {
		if _, err := first.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: pool, CurrentTime: now}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	now = now.Add(certificateLife - renewBefore - time.Minute)
	if same, err := g.get(nil); err != nil || same != first {
		t.Errorf("renewed early: %v", err)
	}
	now = now.Add(2 * time.Minute)
	second, err := g.get(nil)
	if err != nil || second == first {
		t.Fatalf("not renewed: %v", err)
	}
	if _, err := second.Leaf.Verify(x509.VerifyOptions{DNSName: "hub.example", Roots: pool, CurrentTime: now}); err != nil {
		t.Error(err)
	}
}

// TestA85ClocksThatDifferByADay connects with the clock of a cluster that is wrong: a
// hub that was just started for the first time must be reached all the same.
func TestA85ClocksThatDifferByADay(t *testing.T) {
	h := run(t, Config{})
	for why, skew := range map[string]time.Duration{"a day behind": -24 * time.Hour, "a day ahead": 24 * time.Hour} {
		c := trusting(t, filepath.Join(h.dir, "ca.crt"))
		c.Transport.(*http.Transport).TLSClientConfig.Time = func() time.Time { return time.Now().Add(skew) }
		res, err := c.Get(h.URL() + "/healthz")
		if err != nil {
			t.Errorf("%s: %v", why, err)
			continue
		}
		res.Body.Close()
	}
}

func TestGivenCertificateIsReadAgain(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	one, two := t.TempDir(), t.TempDir()
	for _, dir := range []string{one, two} {
		if _, err := loadAuthority(dir, now); err != nil {
			t.Fatal(err)
		}
	}
	f := &files{cert: filepath.Join(one, "ca.crt"), key: filepath.Join(one, "ca.key"), clock: func() time.Time { return now }}
	first, err := f.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca.crt", "ca.key"} {
		err := errors.Join(os.Rename(filepath.Join(two, name), filepath.Join(one, name)), os.Chtimes(filepath.Join(one, name), now, now.Add(time.Hour)))
		if err != nil {
			t.Fatal(err)
		}
	}
	if same, err := f.get(nil); err != nil || same != first {
		t.Errorf("looked at the files too early: %v", err)
	}
	now = now.Add(lookEvery)
	if second, err := f.get(nil); err != nil || second == first {
		t.Errorf("not read again: %v", err)
	}
	if err := os.Remove(f.cert); err != nil {
		t.Fatal(err)
	}
	now = now.Add(lookEvery)
	if kept, err := f.get(nil); err != nil || kept == nil {
		t.Errorf("a missing file takes the former certificate away: %v", err)
	}
}

func TestDrain(t *testing.T) {
	r := run(t, Config{})
	if status, _ := r.get(t, r.URL()+"/healthz"); status != 200 {
		t.Fatalf("the hub is not alive: %d", status)
	}
	r.http.Transport.(*http.Transport).CloseIdleConnections()
	if err := r.stop(); err != nil {
		t.Errorf("the hub ended with %v", err)
	}
	if _, err := net.DialTimeout("tcp", strings.TrimPrefix(r.URL(), "https://"), time.Second); err == nil {
		t.Error("the door is still open")
	}
}

// TestDrainLetsRequestsFinish stops a hub while a request is under way: no new one
// is let in, and the one that was is answered.
func TestDrainLetsRequestsFinish(t *testing.T) {
	r := run(t, Config{})
	token := r.bearer(t)
	body, rest := io.Pipe()
	reading := make(chan struct{})
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { close(reading) }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, r.URL()+"/subscriptions/"+r.admin.SubscriptionID+"/resourceGroups/g?api-version=2022-09-01", body)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"Authorization": "Bearer " + token, "Content-Type": "application/json", "Expect": "100-continue"} {
		req.Header.Set(name, value)
	}
	r.http.Transport.(*http.Transport).ExpectContinueTimeout = time.Minute
	answered := make(chan error, 1)
	go func() {
		res, err := r.http.Do(req)
		if err == nil {
			res.Body.Close()
			if res.StatusCode != http.StatusCreated {
				err = errors.New(res.Status)
			}
		}
		answered <- err
	}()
	select {
	case <-reading:
	case err := <-answered:
		t.Fatalf("answered before it was asked: %v", err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	await(t, "the end of new connections", func() bool {
		c, err := net.DialTimeout("tcp", strings.TrimPrefix(r.URL(), "https://"), time.Second)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if _, err := io.WriteString(rest, `{"location":"local"}`); err != nil {
		t.Fatal(err)
	}
	rest.Close()
	if err := <-answered; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("the hub ended with %v", err)
	}
}

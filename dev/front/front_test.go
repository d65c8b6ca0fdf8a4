package front

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func listen(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Listen(cfg, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, body)
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestAuthorityStaysTheSame(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	first, err := OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(first.PEM())
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}

	again, err := OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := listen(t, Config{Authority: again, Hosts: []string{"git.example.org", "10.200.0.1"}})
	resp, err := client.Get(s.URL() + "/x")
	if err != nil {
		t.Fatalf("a client that trusts the first authority: %v", err)
	}
	resp.Body.Close()
	for _, name := range []string{"git.example.org", "10.200.0.1", "localhost"} {
		if err := resp.TLS.PeerCertificates[0].VerifyHostname(name); err != nil {
			t.Errorf("certificate: %v", err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "ca.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", info.Mode(), err)
	}
}

func TestCounters(t *testing.T) {
	s := listen(t, Config{})
	for range 2 {
		resp, err := http.Post(s.URL()+"/a/b", "text/plain", strings.NewReader("12345"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	s.Inject(Fault{Contains: "/broken", Status: http.StatusBadGateway})
	resp, err := http.Get(s.URL() + "/broken")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	want := Count{Requests: 2, Received: 10, Sent: int64(2 * len("POST /a/b 12345"))}
	if diff := cmp.Diff(want, s.Requests("POST", "/a")); diff != "" {
		t.Errorf("posts (-want +got):\n%s", diff)
	}
	if all := s.Requests("", ""); all.Requests != 3 || all.Failed != 1 {
		t.Errorf("all: %+v", all)
	}
	if none := s.Requests("PUT", ""); none.Requests != 0 {
		t.Errorf("nothing was put, but: %+v", none)
	}
}

func TestFaultsAreUsedUpAndTakenBack(t *testing.T) {
	var f Faults
	f.Inject(Fault{Contains: "/a", Status: 500, Times: 2})
	remove := f.Inject(Fault{Status: 503})
	var got []int
	for _, path := range []string{"/a", "/b", "/a", "/a"} {
		fault, _ := f.Take(path)
		got = append(got, fault.Status)
	}
	if diff := cmp.Diff([]int{500, 503, 500, 503}, got); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
	remove()
	remove()
	if fault, hit := f.Take("/a"); hit {
		t.Errorf("a fault that was taken back hits: %+v", fault)
	}
}

func TestCloseEndsHangingRequests(t *testing.T) {
	s := listen(t, Config{})
	s.Inject(Fault{Hang: true, Times: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		result <- err
	}()
	used := func() bool {
		s.Faults.mu.Lock()
		defer s.Faults.mu.Unlock()
		return len(s.active) == 0
	}
	for tick := time.Tick(time.Millisecond); !used() && ctx.Err() == nil; { // until the request has arrived
		<-tick
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the hanging request ended with %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("a second close: %v", err)
	}
}

func TestBasic(t *testing.T) {
	ok := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	s, err := Listen(Config{}, Basic("test", map[string]string{"ann": "secret"}, ok))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for login, want := range map[string]int{"": 401, "ann:wrong@": 401, "bob:secret@": 401, "ann:@": 401, "ann:secret@": 200} {
		resp, err := http.Get(strings.Replace(s.URL(), "://", "://"+login, 1))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%q gets %d, want %d", login, resp.StatusCode, want)
		}
	}
}

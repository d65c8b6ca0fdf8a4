package git

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// hostile is a server of its own making.
func hostile(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL + "/x.git"
}

// try fetches with a deadline and gives the time it took and the error.
func try(t *testing.T, raw string, c Credentials, limit time.Duration) (time.Duration, error) {
	t.Helper()
	mirrors, err := OpenMirrors(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewRemote(raw, c)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	start := time.Now()
	_, _, err = mirrors.For(r).Update(ctx, r, Reference{Branch: "main"}, func(Target) bool { return false })
	return time.Since(start), err
}

// TestA04RedirectNeverCarriesCredentials has servers redirect to another host,
// another scheme and another port.
func TestA04RedirectNeverCarriesCredentials(t *testing.T) {
	var asked atomic.Int32
	thief := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer thief.Close()
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer plain.Close()
	cert, key, _ := certificate(t)
	var target string
	from := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target+r.URL.Path+"?"+r.URL.RawQuery, http.StatusFound)
	}))
	from.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	from.StartTLS()
	defer from.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: from.Certificate().Raw})
	for _, target = range []string{thief.URL, strings.Replace(thief.URL, "127.0.0.1", "localhost", 1), plain.URL, strings.Replace(from.URL, "https", "http", 1)} {
		for name, c := range map[string]Credentials{
			"basic": {CA: ca, Username: "u", Password: password}, "bearer": {CA: ca, BearerToken: password},
			"certificate": {CA: ca, ClientCert: cert, ClientKey: key},
		} {
			if _, err := try(t, from.URL+"/x", c, 10*time.Second); err == nil || asked.Load() != 0 || strings.Contains(err.Error(), password) {
				t.Errorf("%s to %s: %v, asked %d times", name, target, err, asked.Load())
			}
		}
	}
}

// TestA06AddressIsCheckedWhenDialled leads to services inside, by redirects and
// as submodules do: the address counts, whatever the name was.
func TestA06AddressIsCheckedWhenDialled(t *testing.T) {
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a service inside was asked") }))
	defer inside.Close()
	for name, target := range map[string]string{
		"metadata service": "http://169.254.169.254", "unspecified": "http://0.0.0.0", "mapped IPv4": "http://[::ffff:169.254.169.254]",
	} {
		from := hostile(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, target+r.URL.Path+"?"+r.URL.RawQuery, http.StatusFound)
		})
		if _, err := try(t, from, Credentials{}, 10*time.Second); !errors.Is(err, ErrAddress) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := try(t, target+"/latest", Credentials{}, 10*time.Second); !errors.Is(err, ErrAddress) {
			t.Errorf("%s itself: %v", name, err)
		}
	}
	f := serve(t, false)
	key := Credentials{Identity: f.keys["ed25519"], KnownHosts: []byte(f.KnownHosts())}
	for _, limit := range []reach{public, private} {
		for _, raw := range []string{inside.URL + "/x", strings.Replace(inside.URL, "127.0.0.1", "localhost", 1) + "/x", f.SSHURL("public")} {
			c := key
			c.limit = limit
			if _, err := try(t, raw, c, 10*time.Second); !errors.Is(err, ErrAddress) {
				t.Errorf("%s with limit %d: %v", raw, limit, err)
			}
		}
	}
}

// TestA06Reach is about who may lead to what.
func TestA06Reach(t *testing.T) {
	for _, c := range []struct {
		from, to string
		want     bool
	}{
		{"8.8.8.8", "1.1.1.1", true}, {"8.8.8.8", "10.0.0.1", false}, {"8.8.8.8", "127.0.0.1", false}, {"8.8.8.8", "::1", false},
		{"8.8.8.8", "fd12::1", false}, {"8.8.8.8", "169.254.169.254", false}, {"8.8.8.8", "::ffff:10.0.0.1", false},
		{"10.0.0.1", "192.168.1.1", true}, {"10.0.0.1", "8.8.8.8", true}, {"10.0.0.1", "127.0.0.1", false}, {"10.0.0.1", "fe80::1", false},
		{"127.0.0.1", "::1", true}, {"127.0.0.1", "169.254.169.254", false}, {"127.0.0.1", "fd00:ec2::254", false}, {"127.0.0.1", "0.0.0.0", false},
	} {
		var s seen
		s.closest.Store(int32(reachOf(netip.MustParseAddr(c.from))))
		if got := s.elsewhere().admits(netip.MustParseAddr(c.to)); got != c.want {
			t.Errorf("from %s to %s: %v", c.from, c.to, got)
		}
	}
	// A name that led to a public address first cannot lead inside then.
	f := serve(t, false)
	rebound, err := NewRemote(f.URL("public"), Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	rebound.seen.closest.Store(int32(public))
	if _, err := rebound.open(t.Context()); !errors.Is(err, ErrAddress) {
		t.Errorf("DNS rebinding: %v", err)
	}
	// Where a server was never seen, as behind a proxy, it counts as public. A
	// submodule's server leads no closer than its repository's.
	r, err := NewRemote("https://example.com/x", Credentials{Username: "u", Password: password})
	if err != nil {
		t.Fatal(err)
	}
	if c := r.For("https://other.example.com/y"); c.limit != public || c.Password != "" {
		t.Errorf("limit %d", c.limit)
	}
	r.seen.closest.Store(int32(private))
	m, err := NewRemote("https://other.example.com/y", r.For("https://other.example.com/y"))
	if err != nil {
		t.Fatal(err)
	}
	m.seen.closest.Store(int32(loopback))
	for _, raw := range []string{"https://third.example.com/z", "https://other.example.com:1/y", "https://other.example.com/z"} {
		if c := m.For(raw); c.limit != private {
			t.Errorf("%s: limit %d", raw, c.limit)
		}
	}
}

// TestA11QuotesReachTheServerAsOneWord records the command that a path becomes.
func TestA11QuotesReachTheServerAsOneWord(t *testing.T) {
	for path, want := range map[string]string{
		"/a'; touch x; '":  `'/a'\''; touch x; '\'''`,
		"/a b$(id)`id`":    "'/a b$(id)`id`'",
		"/--upload-pack=x": "'/--upload-pack=x'",
		"/x!y":             `'/x'\!'y'`,
	} {
		if got := shellQuote(remotePath(path)); got != want {
			t.Errorf("%q: %s, want %s", path, got, want)
		}
	}
}

// TestA14EndlessAnswers has servers that never come to an end.
func TestA14EndlessAnswers(t *testing.T) {
	line := func(s string) string { return fmt.Sprintf("%04x%s", len(s)+4, s) }
	h := strings.Repeat("a1", 20)
	greet := line("version 2\n") + line("ls-refs\n") + line("fetch=shallow\n") + "0000"
	answers := func(first, then string, pause time.Duration) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			kind := "advertisement"
			if r.Method == http.MethodPost {
				kind = "result"
			}
			w.Header().Set("Content-Type", "application/x-git-upload-pack-"+kind)
			switch {
			case kind == "advertisement" && first == "":
			case kind == "advertisement":
				_, _ = io.WriteString(w, first)
				return
			case bytes.Contains(body, []byte("command=ls-refs")) && strings.HasPrefix(then, line("packfile\n")):
				_, _ = io.WriteString(w, line(h+" refs/heads/main\n")+"0000")
				return
			}
			_, rest, _ := strings.Cut(then, "|")
			_, err := io.WriteString(w, strings.TrimSuffix(strings.TrimSuffix(then, rest), "|"))
			for err == nil && r.Context().Err() == nil {
				if _, err = io.WriteString(w, rest); pause > 0 {
					_ = http.NewResponseController(w).Flush()
					select {
					case <-time.After(pause):
					case <-r.Context().Done():
					}
				}
			}
		}
	}
	pack := "PACK\x00\x00\x00\x02\x00\x00\xff\xff"
	for name, c := range map[string]struct {
		h    http.HandlerFunc
		want error
	}{
		"slow-loris":         {answers("", "00ff|x", 50*time.Millisecond), context.DeadlineExceeded},
		"references of v0":   {answers("", line("# service=git-upload-pack\n")+"0000|"+line(h+" refs/heads/x\n"), 0), ErrProtocol},
		"capabilities":       {answers("", line("version 2\n")+"|"+line("x\n"), 0), ErrProtocol},
		"references of v2":   {answers(greet, "|"+line(h+" refs/heads/mainx\n"), 0), ErrProtocol},
		"progress":           {answers(greet, line("packfile\n")+"|"+line("\x02still there\n"), 0), context.DeadlineExceeded},
		"empty packets":      {answers(greet, line("packfile\n")+"|"+line("\x01"), 0), context.DeadlineExceeded},
		"slow pack":          {answers(greet, line("packfile\n")+line("\x01"+pack)+"|"+line("\x01x"), 50*time.Millisecond), nil},
		"an object too long": {answers(greet, line("packfile\n")+line("\x01"+pack+"\xbf\xff\xff\xff\xff\xff\xff\x7f")+"|"+line("\x01x"), 0), ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			limit := 1500 * time.Millisecond
			if c.want == ErrProtocol { // what is wrong is found at once, unless the machine is busy
				limit = time.Minute
			}
			took, err := try(t, hostile(t, c.h), Credentials{}, limit)
			if err == nil || took > 10*time.Second && c.want != ErrProtocol || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%v after %s", err, took)
			}
		})
	}
}

// TestA14HangingServers accepts connections and says nothing, at every stage.
func TestA14HangingServers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f := serve(t, false)
	c := Credentials{Identity: f.keys["ed25519"], KnownHosts: []byte(f.KnownHosts())}
	for _, scheme := range []string{"http", "https", "ssh"} {
		if took, err := try(t, scheme+"://"+l.Addr().String()+"/x", c, 300*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) || took > 5*time.Second {
			t.Errorf("%s: %v after %s", scheme, err, took)
		}
	}
}

// TestA10HostKeys is about servers that show another key than is known.
func TestA10HostKeys(t *testing.T) {
	f := serve(t, false)
	f.commit("public", "main", map[string]string{"a": "1"})
	other, err := ssh.ParsePrivateKey(f.keys["ecdsa"])
	if err != nil {
		t.Fatal(err)
	}
	host := strings.Fields(f.KnownHosts())[0]
	for name, known := range map[string]string{
		"another kind of key": host + " " + string(ssh.MarshalAuthorizedKey(other.PublicKey())),
		"revoked":             "@revoked " + strings.SplitAfter(f.KnownHosts(), "\n")[0] + f.KnownHosts(),
		"other port":          strings.ReplaceAll(f.KnownHosts(), ":", ":1"),
		"wildcard only":       "!" + host + ",* " + strings.SplitN(f.KnownHosts(), " ", 2)[1],
	} {
		_, err := try(t, f.SSHURL("public"), Credentials{Identity: f.keys["ed25519"], KnownHosts: []byte(known)}, 10*time.Second)
		if !errors.Is(err, ErrHostKey) && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestA28PackBombs are packs that are small on the wire and large in memory.
func TestA28PackBombs(t *testing.T) {
	blob := object(typeBlob, nil, []byte("base"))
	distance := func(n int) []byte {
		out := []byte{byte(n & 0x7f)}
		for n >>= 7; n > 0; n >>= 7 {
			n--
			out = append([]byte{byte(n&0x7f) | 0x80}, out...)
		}
		return out
	}
	deep := [][]byte{blob}
	for range maxChain + 10 {
		deep = append(deep, object(typeOfsDelta, distance(len(deep[len(deep)-1])), insert(4, "base")))
	}
	// Every delta copies its base many times.
	growing, size := [][]byte{object(typeBlob, nil, make([]byte, 1<<16))}, 1<<16
	for range 12 {
		d := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(size)), uint64(16*size))
		for range 16 {
			d = append(d, 0x80|0x70, byte(size), byte(size>>8), byte(size>>16))
		}
		growing = append(growing, object(typeOfsDelta, distance(len(growing[len(growing)-1])), d))
		size *= 16
	}
	lying := append([]byte{typeBlob<<4 | 4}, object(typeBlob, nil, make([]byte, 32<<20))[5:]...) // says 4 bytes
	a, b, c := nameOf("blob", "a"), nameOf("blob", "b"), nameOf("blob", "c")
	for name, data := range map[string][]byte{
		"chain too deep":     pack(deep...),
		"growing deltas":     pack(growing...),
		"longer than it is":  pack(lying),
		"cycle of three":     pack(object(typeRefDelta, a[:], insert(1, "b")), object(typeRefDelta, b[:], insert(1, "c")), object(typeRefDelta, c[:], insert(1, "a"))),
		"base is in no pack": pack(object(typeRefDelta, a[:], insert(1, "b"))),
		"base is itself":     pack(object(typeRefDelta, b[:], insert(1, "b"))),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := indexOf(t, data)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 5*maxObject {
			t.Errorf("%s: %d MiB were allocated", name, used>>20)
		}
	}
}

// TestA28ObjectsTooLargeForMemory is about trees and commits that would have to
// be held in memory, and about blobs that need not be.
func TestA28ObjectsTooLargeForMemory(t *testing.T) {
	p := &packFile{}
	e := entry{typ: typeTree}
	r := &objectReader{zr: io.NopCloser(neverEnding{})}
	if _, err := r.content(&e, maxObject+1); !errors.Is(err, ErrProtocol) {
		t.Errorf("%v, %v", p, err)
	}
	d := binary.AppendUvarint(binary.AppendUvarint(nil, 4), maxObject+1)
	if _, err := applyDelta([]byte("base"), d); !errors.Is(err, ErrProtocol) {
		t.Errorf("delta to more than an object may have: %v", err)
	}
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

// TestA29ServerCannotSwapTheCommitOfATag has a server that says of a signed tag
// that it leads to another commit than it does.
func TestA29ServerCannotSwapTheCommitOfATag(t *testing.T) {
	f := serve(t, false)
	one := f.commit("public", "main", map[string]string{"v": "1"})
	dir := f.clone()
	git(t, dir, "tag", "-a", "-m", "x", "v1")
	git(t, dir, "push", "-q", "origin", "v1")
	two := f.commit("public", "main", map[string]string{"v": "2"})
	r, err := NewRemote(f.URL("public"), Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []Reference{{Branch: "main"}, {Tag: "v1"}} { // the mirror has both commits
		if _, _, err := f.update(f.URL("public"), Credentials{}, ref); err != nil {
			t.Fatal(err)
		}
	}
	lie := hostile(t, func(w http.ResponseWriter, req *http.Request) {
		rec := httptest.NewRecorder()
		version2(f).ServeHTTP(rec, req)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		_, _ = w.Write(bytes.ReplaceAll(rec.Body.Bytes(), []byte("peeled:"+one), []byte("peeled:"+two)))
	})
	m := f.mirrors.For(r)
	liar, err := NewRemote(strings.Replace(lie, "x.git", "public.git", 1), Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	_, s, err := m.Update(t.Context(), liar, Reference{Tag: "v1"}, func(Target) bool { return false })
	if s != nil || !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "does not lead to commit") {
		t.Errorf("%v, %v", s, err)
	}
}

// TestA07LoopbackProxy shows that nothing on our own machine is asked because a
// tenant calls it a proxy.
func TestA07LoopbackProxy(t *testing.T) {
	asked := atomic.Int32{}
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer inside.Close()
	f := serve(t, false)
	ssh := Credentials{Identity: f.keys["ed25519"], KnownHosts: []byte(f.KnownHosts())}
	for _, address := range []string{inside.URL, strings.Replace(inside.URL, "127.0.0.1", "localhost", 1), strings.Replace(inside.URL, "http:", "socks5:", 1), "http://169.254.169.254:80"} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		for raw, c := range map[string]Credentials{"https://git.example/x": {}, "http://git.example/x": {}, f.SSHURL("public"): ssh} {
			c.Proxy = u
			if _, err := try(t, raw, c, 10*time.Second); err == nil || u.Scheme == "http" && !errors.Is(err, ErrAddress) {
				t.Errorf("%s by way of %s: %v", raw, address, err)
			}
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the service on this machine was asked %d times", n)
	}
}

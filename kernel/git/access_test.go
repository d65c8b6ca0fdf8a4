package git

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// tunnels is a proxy that wants a user name and password, and counts the
// connections it made.
type tunnels struct {
	net.Listener
	made atomic.Int32
}

func listenProxy(t *testing.T, serve func(*tunnels, net.Conn)) *tunnels {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tunnels{Listener: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(p, c)
			}()
		}
	}()
	return p
}

// join connects both ends until one is done.
func (p *tunnels) join(c net.Conn, r io.Reader, to string) {
	up, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer up.Close()
	p.made.Add(1)
	go func() {
		_, _ = io.Copy(up, r)
		up.Close()
	}()
	_, _ = io.Copy(c, up)
}

// connectProxy speaks CONNECT.
func connectProxy(p *tunnels, c net.Conn) {
	br := bufio.NewReader(c)
	req, err := http.ReadRequest(br)
	if err != nil {
		return
	}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("proxy:"+password))
	if req.Method != http.MethodConnect || req.Header.Get("Proxy-Authorization") != want {
		_, _ = io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
		return
	}
	_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	p.join(c, br, req.Host)
}

// socksProxy speaks SOCKS5 (RFC 1928) with user name and password (RFC 1929).
func socksProxy(p *tunnels, c net.Conn) {
	br := bufio.NewReader(c)
	read := func(n int) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(br, b); err != nil {
			return make([]byte, n)
		}
		return b
	}
	methods := read(int(read(2)[1]))
	if !strings.Contains(string(methods), "\x02") {
		_, _ = c.Write([]byte{5, 0xff})
		return
	}
	_, _ = c.Write([]byte{5, 2})
	user := string(read(int(read(2)[1])))
	if pass := string(read(int(read(1)[0]))); user != "proxy" || pass != password {
		_, _ = c.Write([]byte{1, 1})
		return
	}
	_, _ = c.Write([]byte{1, 0})
	host := ""
	switch read(4)[3] {
	case 1:
		host = net.IP(read(4)).String()
	case 3:
		host = string(read(int(read(1)[0])))
	}
	port := binary.BigEndian.Uint16(read(2))
	_, _ = c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	p.join(c, br, net.JoinHostPort(host, strconv.Itoa(int(port))))
}

func TestProxies(t *testing.T) {
	f := serve(t, true)
	h := f.commit("private", "main", map[string]string{"a": "1"})
	https := Credentials{Username: "dev", Password: password, CA: f.Authority().PEM()}
	ssh := Credentials{Identity: f.keys["ed25519"], KnownHosts: []byte(f.KnownHosts())}
	for scheme, serveProxy := range map[string]func(*tunnels, net.Conn){"http": connectProxy, "socks5": socksProxy} {
		p := listenProxy(t, serveProxy)
		for kind, c := range map[string]Credentials{f.URL("private"): https, f.SSHURL("private"): ssh} {
			before := p.made.Load()
			c.LoopbackProxy = true
			c.Proxy = &url.URL{Scheme: scheme, Host: p.Addr().String(), User: url.UserPassword("proxy", password)}
			got, _, err := f.update(kind, c, Reference{Branch: "main"})
			if err != nil || got != "main@sha1:"+h || p.made.Load() == before {
				t.Errorf("%s through %s: %q, %v", kind, scheme, got, err)
			}
			c.Proxy = &url.URL{Scheme: scheme, Host: p.Addr().String(), User: url.UserPassword("proxy", password+"-wrong")}
			if _, _, err = f.update(kind, c, Reference{Branch: "main"}); err == nil || strings.Contains(err.Error(), password) {
				t.Errorf("%s through %s with a wrong password: %v", kind, scheme, err)
			}
			c.LoopbackProxy = false
			if _, _, err = f.update(kind, c, Reference{Branch: "main"}); !errors.Is(err, ErrAddress) && scheme != "socks5" {
				t.Errorf("%s through %s on this machine (A07): %v", kind, scheme, err)
			}
			if err == nil {
				t.Errorf("%s through %s on this machine (A07) was fetched", kind, scheme)
			}
		}
	}
}

// certificate gives a certificate for clients and the pool that trusts it.
func certificate(t *testing.T) (cert, key []byte, pool *x509.CertPool) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(c)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), pool
}

func TestClientCertificate(t *testing.T) {
	f := serve(t, true)
	f.commit("public", "main", map[string]string{"a": "1"})
	cert, key, pool := certificate(t)
	front := httptest.NewUnstartedServer(version0(f))
	front.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	front.StartTLS()
	defer front.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})
	c := Credentials{CA: ca, ClientCert: cert, ClientKey: key}
	if _, files, err := f.update(front.URL+"/public.git", c, Reference{Branch: "main"}); err != nil || files["a"] != "1" {
		t.Errorf("with the certificate: %v, %v", files, err)
	}
	if _, _, err := f.update(front.URL+"/public.git", Credentials{CA: ca}, Reference{Branch: "main"}); err == nil {
		t.Error("without the certificate it was fetched")
	}
	otherCert, otherKey, _ := certificate(t)
	if _, _, err := f.update(front.URL+"/public.git", Credentials{CA: ca, ClientCert: otherCert, ClientKey: otherKey}, Reference{Branch: "main"}); err == nil {
		t.Error("with another certificate it was fetched")
	}
	if _, _, err := f.update(front.URL+"/public.git", Credentials{CA: ca, ClientCert: cert, ClientKey: otherKey}, Reference{Branch: "main"}); !errors.Is(err, ErrInvalid) {
		t.Errorf("certificate and key of different pairs: %v", err)
	}
}

// TestBearerToken has a server that wants a token instead of a password.
func TestBearerToken(t *testing.T) {
	f := serve(t, true)
	f.commit("public", "main", map[string]string{"a": "1"})
	next := version0(f)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+password {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.Header.Del("Authorization")
		next.ServeHTTP(w, r)
	}))
	defer s.Close()
	if _, files, err := f.update(s.URL+"/public.git", Credentials{BearerToken: password, Username: "not", Password: "used"}, Reference{Branch: "main"}); err != nil || files["a"] != "1" {
		t.Errorf("%v, %v", files, err)
	}
	if _, _, err := f.update(s.URL+"/public.git", Credentials{BearerToken: "other"}, Reference{Branch: "main"}); !errors.Is(err, ErrAuth) {
		t.Errorf("another token: %v", err)
	}
}

// TestMirrorsAreForOnePrincipal finds a mirror again when only a token changed.
func TestMirrorsAreForOnePrincipal(t *testing.T) {
	mirrors, err := OpenMirrors(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(raw string, c Credentials) *Mirror {
		r, err := NewRemote(raw, c)
		if err != nil {
			t.Fatal(err)
		}
		return mirrors.For(r)
	}
	const where = "https://example.com/x"
	first := at(where, Credentials{Username: "u", Password: "one", Principal: "p"})
	if at(where, Credentials{BearerToken: "two", Principal: "p"}) != first {
		t.Error("a new token of the same principal has another mirror")
	}
	for name, other := range map[string]*Mirror{
		"another principal": at(where, Credentials{Password: "one", Principal: "q"}),
		"no principal":      at(where, Credentials{Username: "u", Password: "one"}),
		"another way":       at(where, Credentials{Principal: "p", Proxy: &url.URL{Scheme: "http", Host: "proxy"}}),
		"another URL":       at(where+"y", Credentials{Principal: "p"}),
	} {
		if other == first {
			t.Errorf("%s has the same mirror", name)
		}
	}
}

func TestRateLimits(t *testing.T) {
	now := time.Now()
	reset := strconv.FormatInt(now.Add(90*time.Second).Unix(), 10)
	for name, c := range map[string]struct {
		status int
		header http.Header
		after  time.Duration
		want   bool
	}{
		"429":                     {429, http.Header{}, 0, true},
		"429 with Retry-After":    {429, http.Header{"Retry-After": {"120"}}, 2 * time.Minute, true},
		"503":                     {503, http.Header{}, 0, false},
		"503 with Retry-After":    {503, http.Header{"Retry-After": {"7"}}, 7 * time.Second, true},
		"403":                     {403, http.Header{}, 0, false},
		"403 with Retry-After":    {403, http.Header{"Retry-After": {"60"}}, time.Minute, true},
		"403 with nothing left":   {403, http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {reset}}, 89 * time.Second, true},
		"403 with something left": {403, http.Header{"X-Ratelimit-Remaining": {"4"}, "X-Ratelimit-Reset": {reset}}, 0, false},
		"401 with Retry-After":    {401, http.Header{"Retry-After": {"60"}}, 0, false},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for k, v := range c.header {
				w.Header()[k] = v
			}
			w.WriteHeader(c.status)
		}))
		r, err := NewRemote(s.URL+"/x", Credentials{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.open(context.Background())
		s.Close()
		var limited *RateLimited
		if errors.As(err, &limited) != c.want || limited != nil && (limited.After < c.after-time.Second || limited.After > c.after+time.Second) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

package oci

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/publicsuffix"
)

// maxDocument bounds manifests, lists of tags and lists of referrers.
const maxDocument = 8 << 20

// maxRetryAfter bounds how long a registry can make us wait.
const maxRetryAfter = time.Hour

var (
	// ErrAddress says that a registry, or where it leads, has an address that
	// must not be asked.
	ErrAddress = errors.New("it leads to an address that is not asked")
	// ErrProxy says that a proxy is on this very machine.
	ErrProxy = errors.New("the proxy is on the controllers' own machine, which is refused (--loopback-proxies allows it)")
	// ErrDowngrade says that a registry leads from https to http.
	ErrDowngrade = errors.New("it leads from https to http, which is refused")
	// ErrRealm says that a registry wants to see credentials at a place that is
	// not its own.
	ErrRealm = errors.New("it wants the credentials at a host of another domain, which is refused")
)

// reach orders addresses by how close to this process they are.
type reach int32

const (
	public reach = iota
	private
	loopback
	never // link-local, with the metadata services of clouds; multicast; unspecified
)

func reachOf(a netip.Addr) reach {
	switch a = a.Unmap(); {
	case a.IsLoopback():
		return loopback
	case !a.IsGlobalUnicast() || a == netip.MustParseAddr("fd00:ec2::254"):
		return never
	case a.IsPrivate():
		return private
	}
	return public
}

// guard sends the requests of a registry's client. Requests for the registry
// itself go as they are. Others come from redirects and from the token endpoint
// that the registry names: those keep their credentials only within the
// registry's domain, and lead no closer to this process than the registry is.
// Addresses are judged when they are dialled, after names were resolved.
type guard struct {
	host       string // of the registry, with port
	secure     bool
	proxied    bool
	public     bool // the registry must be, too
	local      bool // the proxy may be here
	own, other *http.Transport
	closest    atomic.Int32 // reach of the registry, once dialled
	withheld   atomic.Bool  // credentials were asked for elsewhere
	retry      atomic.Int64 // of the last refusal for the rate, in nanoseconds
}

func newGuard(host string, secure bool, config *tls.Config, proxy *url.URL) *guard {
	g := &guard{host: host, secure: secure, proxied: proxy != nil}
	g.own = dialling(g.dialOwn, config, proxy)
	g.other = dialling(g.dialOther, withoutCertificate(config), proxy)
	return g
}

// withoutCertificate keeps the authorities that are trusted, and not the
// certificate that tells who we are.
func withoutCertificate(config *tls.Config) *tls.Config {
	if config == nil {
		return nil
	}
	c := config.Clone()
	c.Certificates, c.GetClientCertificate = nil, nil
	return c
}

func dialling(control func(string, string, syscall.RawConn) error, config *tls.Config, proxy *url.URL) *http.Transport {
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 15 * time.Second, Control: control}).DialContext,
		TLSHandshakeTimeout:    15 * time.Second,
		ResponseHeaderTimeout:  30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		TLSClientConfig:        config,
		MaxIdleConns:           4,
		IdleConnTimeout:        10 * time.Second,
		ForceAttemptHTTP2:      true,
	}
	if proxy != nil {
		t.Proxy = http.ProxyURL(proxy)
	}
	return t
}

func (g *guard) dialOwn(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err == nil && g.proxied && !g.local && reachOf(at.Addr()) == loopback {
		return ErrProxy
	}
	if err != nil || reachOf(at.Addr()) == never || g.public && reachOf(at.Addr()) != public {
		return ErrAddress
	}
	g.closest.Store(int32(reachOf(at.Addr())))
	return nil
}

func (g *guard) dialOther(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return ErrAddress
	}
	if g.proxied {
		return g.dialOwn("", address, nil) // it is the proxy that is dialled
	}
	if r := reachOf(at.Addr()); r == never || int32(r) > g.closest.Load() {
		return ErrAddress
	}
	return nil
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if g.secure && r.URL.Scheme != "https" {
		return nil, ErrDowngrade
	}
	t := g.own
	if !strings.EqualFold(r.URL.Host, g.host) {
		var err error
		if r, err = g.elsewhere(r); err != nil {
			return nil, err
		}
		t = g.other
	}
	resp, err := t.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		g.retry.Store(int64(RetryAfter(resp.Header.Get("Retry-After"), time.Now())))
	}
	if !g.forBlob(r) {
		resp.Body = &bounded{resp.Body, maxDocument}
	}
	return resp, nil
}

// blobPath ends the path of a blob, and of nothing else: no name of a
// repository or tag has a colon.
var blobPath = regexp.MustCompile(`/blobs/[a-z0-9]+:[0-9a-f]+$`)

// forBlob tells whether a request is for a blob, or follows from one. Who reads
// a blob knows its size.
func (g *guard) forBlob(r *http.Request) bool {
	for r.Response != nil && r.Response.Request != nil { // redirected
		r = r.Response.Request
	}
	return strings.EqualFold(r.URL.Host, g.host) && blobPath.MatchString(r.URL.Path)
}

// elsewhere makes a request fit for a host that is not the registry's.
func (g *guard) elsewhere(r *http.Request) (*http.Request, error) {
	if ip, err := netip.ParseAddr(strings.Trim(r.URL.Hostname(), "[]")); err == nil && reachOf(ip) == never {
		return nil, ErrAddress
	}
	sends := r.Header.Get("Authorization") != "" || r.Method != http.MethodGet && r.Method != http.MethodHead
	if !sends || sameDomain(g.host, r.URL.Host) {
		return r, nil
	}
	g.withheld.Store(true)
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return nil, ErrRealm // its body is the credential
	}
	r = r.Clone(r.Context())
	r.Header.Del("Authorization")
	r.Header.Del("Cookie")
	return r, nil
}

// sameDomain tells whether two hosts have one owner: they are below one
// registrable domain, as a registry and its token service are. Addresses and
// single names must be the same, port included.
func sameDomain(a, b string) bool {
	if strings.EqualFold(a, b) {
		return true
	}
	x, errX := publicsuffix.EffectiveTLDPlusOne(hostname(a))
	y, errY := publicsuffix.EffectiveTLDPlusOne(hostname(b))
	if errX != nil || errY != nil || x != y {
		return false
	}
	_, errX = netip.ParseAddr(hostname(a))
	_, errY = netip.ParseAddr(hostname(b))
	return errX != nil && errY != nil
}

func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}

// RetryAfter reads the header of that name: seconds or a date.
func RetryAfter(header string, now time.Time) time.Duration {
	d := time.Duration(0)
	if n, err := strconv.Atoi(strings.TrimSpace(header)); err == nil && n > 0 {
		d = time.Duration(min(n, int(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(header); err == nil {
		d = at.Sub(now)
	}
	return max(0, min(d, maxRetryAfter))
}

// CloseIdleConnections frees the connections.
func (g *guard) CloseIdleConnections() {
	g.own.CloseIdleConnections()
	g.other.CloseIdleConnections()
}

// bounded is a body that fails when it is longer than it may be.
type bounded struct {
	io.ReadCloser
	left int64
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		b.Close() // not everybody who reads it does
		return 0, fmt.Errorf("%w: the answer has more than %d bytes", ErrTooLarge, maxDocument)
	}
	return n, err
}

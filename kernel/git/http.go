package git

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// newHTTPClient makes a client for one remote. Redirects are followed by
// httpWire, under its own rules.
func newHTTPClient(u *url.URL, c Credentials, own *seen) (*http.Client, error) {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialHTTP(u, c, own),
		TLSHandshakeTimeout:   15 * time.Second,
		MaxIdleConns:          2,
		IdleConnTimeout:       30 * time.Second,
		ForceAttemptHTTP2:     true,
		ExpectContinueTimeout: time.Second,
	}
	if c.Proxy != nil {
		t.Proxy = http.ProxyURL(c.Proxy)
	}
	if u.Scheme == "https" {
		config := &tls.Config{MinVersion: tls.VersionTLS12}
		if len(c.CA) > 0 {
			config.RootCAs = x509.NewCertPool()
			if !config.RootCAs.AppendCertsFromPEM(c.CA) {
				return nil, fmt.Errorf("%w certificate authority: no PEM certificate found", ErrInvalid)
			}
		}
		if len(c.ClientCert) > 0 || len(c.ClientKey) > 0 {
			pair, err := tls.X509KeyPair(c.ClientCert, c.ClientKey)
			if err != nil {
				return nil, fmt.Errorf("%w client certificate: certificate and key do not form a pair", ErrInvalid)
			}
			config.Certificates = []tls.Certificate{pair}
		}
		t.TLSClientConfig = config
	}
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// dialHTTP dials the server that the user named, or the proxy. Another host is
// where a redirect leads: it may be no closer than the server.
func dialHTTP(u *url.URL, c Credentials, own *seen) func(context.Context, string, string) (net.Conn, error) {
	via, err := http.ProxyFromEnvironment(&http.Request{URL: u})
	if c.Proxy != nil {
		via, err = c.Proxy, nil
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, splitErr := net.SplitHostPort(address)
		switch {
		case splitErr != nil:
			return nil, splitErr
		case err == nil && via != nil && strings.EqualFold(host, via.Hostname()):
			return ProxyDialer(c.LoopbackProxy || c.Proxy == nil).DialContext(ctx, network, address)
		case strings.EqualFold(host, u.Hostname()):
			return own.dial(ctx, network, address, c.limit)
		}
		return dialer(c.limit.and(own.elsewhere())).DialContext(ctx, network, address)
	}
}

// reach orders addresses by how close to this process they are. Zero is no
// address.
type reach int32

const (
	public reach = iota + 1
	private
	loopback
	never // link-local, with the metadata services of clouds; multicast; unspecified
)

func reachOf(a netip.Addr) reach {
	switch a = a.Unmap(); {
	case a.IsLoopback():
		return loopback
	case !a.IsGlobalUnicast() || a == netip.AddrFrom16([16]byte{0: 0xfd, 2: 0x0e, 3: 0xc2, 14: 0x02, 15: 0x54}):
		return never
	case a.IsPrivate():
		return private
	}
	return public
}

// admits reports whether an address is within a limit.
func (r reach) admits(a netip.Addr) bool {
	at := reachOf(a)
	return at != never && (r == 0 || at <= r)
}

// and gives the narrower limit.
func (r reach) and(other reach) reach {
	if r == 0 || other == 0 {
		return max(r, other)
	}
	return min(r, other)
}

// seen is where a server was found: how close its addresses were.
type seen struct{ closest atomic.Int32 }

// elsewhere is the limit for where the server leads.
func (s *seen) elsewhere() reach { return max(reach(s.closest.Load()), public) }

// dial connects to the server itself, which cannot come closer than it was found
// at first.
func (s *seen) dial(ctx context.Context, network, address string, limit reach) (net.Conn, error) {
	conn, err := dialer(limit.and(reach(s.closest.Load()))).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if ap, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		s.closest.CompareAndSwap(0, int32(reachOf(ap.Addr())))
	}
	return conn, nil
}

// ProxyDialer connects to proxies, and to those on this machine only where that
// is allowed: services there trust who is on the machine.
func ProxyDialer(loopback bool) *net.Dialer {
	if loopback {
		return dialer(0)
	}
	return dialer(private)
}

// dialer connects within a limit. It looks at what is dialled, after the name was
// resolved, so that no name can change in between.
func dialer(limit reach) *net.Dialer {
	return &net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil || !limit.admits(ap.Addr()) {
			return ErrAddress
		}
		return nil
	}}
}

// httpWire talks to a server over HTTP: a request for every call.
type httpWire struct {
	remote *Remote
	base   *url.URL
}

func (w *httpWire) close() { w.remote.client.CloseIdleConnections() }

// greet implements wire. Only this request follows redirects; what comes after
// goes where it ended.
func (w *httpWire) greet(ctx context.Context) (*packets, error) {
	const suffix = "/info/refs"
	for range 5 {
		u := *w.base
		u.Path = strings.TrimSuffix(u.Path, "/") + suffix
		u.RawQuery = "service=git-upload-pack"
		resp, err := w.do(ctx, http.MethodGet, &u, nil)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode < 300 || resp.StatusCode > 399 {
			return answer(resp, "application/x-git-upload-pack-advertisement")
		}
		resp.Body.Close()
		next, err := follow(&u, resp.Header.Get("Location"), w.remote.creds)
		if err != nil {
			return nil, err
		}
		if next.Path, err = cutSuffix(next.Path, suffix); err != nil {
			return nil, err
		}
		next.RawQuery = ""
		w.base = next
	}
	return nil, fmt.Errorf("%w: more than 5 redirects", ErrProtocol)
}

func cutSuffix(path, suffix string) (string, error) {
	if p, ok := strings.CutSuffix(path, suffix); ok {
		return p, nil
	}
	return "", fmt.Errorf("%w: it redirects to something that is no Git repository", ErrProtocol)
}

// follow decides whether a redirect may be followed: never from https to http,
// and to another host only when there are no credentials that the other host,
// or whoever can make this one redirect, could obtain.
func follow(from *url.URL, location string, c Credentials) (*url.URL, error) {
	to, err := from.Parse(location)
	if err != nil || to.Host == "" || (to.Scheme != "http" && to.Scheme != "https") {
		return nil, fmt.Errorf("%w: it redirects to something that is no http or https URL", ErrProtocol)
	}
	if from.Scheme == "https" && to.Scheme == "http" {
		return nil, fmt.Errorf("%w: it redirects from https to http, which is refused", ErrProtocol)
	}
	upgrade := from.Scheme == "http" && to.Scheme == "https" && from.Port() == "" && to.Port() == "" && from.Hostname() == to.Hostname()
	same := strings.EqualFold(from.Host, to.Host) && from.Scheme == to.Scheme
	private := c.Username != "" || c.Password != "" || c.BearerToken != "" || len(c.ClientCert) > 0
	if private && !same && !upgrade {
		return nil, fmt.Errorf("%w: it redirects to %s; credentials are not sent to another host: change the URL of the repository", ErrProtocol, printable(to.Host))
	}
	to.User, to.Fragment = nil, ""
	return to, nil
}

// call implements wire.
func (w *httpWire) call(ctx context.Context, body []byte) (*packets, error) {
	u := *w.base
	u.Path = strings.TrimSuffix(u.Path, "/") + "/git-upload-pack"
	resp, err := w.do(ctx, http.MethodPost, &u, body)
	if err != nil {
		return nil, err
	}
	return answer(resp, "application/x-git-upload-pack-result")
}

func (w *httpWire) do(ctx context.Context, method string, u *url.URL, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%w Git URL: no request can be made of it", ErrInvalid)
	}
	req.Header.Set("User-Agent", "git/"+agent)
	req.Header.Set("Git-Protocol", "version=2")
	if body != nil {
		req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
		req.Header.Set("Accept", "application/x-git-upload-pack-result")
	}
	switch c := w.remote.creds; {
	case c.BearerToken != "":
		req.Header.Set("Authorization", "Bearer "+c.BearerToken)
	case c.Username != "" || c.Password != "":
		req.SetBasicAuth(c.Username, c.Password)
	}
	resp, err := w.remote.client.Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // without the URL and its query
		}
		return nil, err
	}
	return resp, nil
}

// answer turns a response into packets, or into an error of the right class.
func answer(resp *http.Response, contentType string) (*packets, error) {
	var err error
	if after, limited := rateLimit(resp, time.Now()); limited {
		return nil, discard(resp, &RateLimited{After: after})
	}
	switch resp.StatusCode {
	case http.StatusOK:
		if got := resp.Header.Get("Content-Type"); !strings.HasPrefix(got, contentType) {
			err = fmt.Errorf("%w: content type %q is not that of a Git server: check the URL", ErrProtocol, printable(got))
			break
		}
		return newPackets(resp.Body, resp.Body), nil
	case http.StatusUnauthorized:
		err = fmt.Errorf("%w: the server answered 401 Unauthorized", ErrAuth)
	case http.StatusForbidden:
		err = fmt.Errorf("%w: the server answered 403 Forbidden", ErrAuth)
	case http.StatusNotFound, http.StatusGone:
		err = ErrRepository
	default:
		err = fmt.Errorf("%w: the server answered %d %s", ErrProtocol, resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	return nil, discard(resp, err)
}

// discard ends a response that is not read.
func discard(resp *http.Response, err error) error {
	io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10))
	resp.Body.Close()
	return err
}

// rateLimit reports whether a response is a refusal for having asked too often,
// and how long to wait: by 429, by an overloaded server that says when to come
// back, or by 403 as GitHub does when nothing of the quota remains.
func rateLimit(resp *http.Response, now time.Time) (time.Duration, bool) {
	after := resp.Header.Get("Retry-After")
	switch resp.StatusCode {
	case http.StatusTooManyRequests:
	case http.StatusServiceUnavailable, http.StatusForbidden:
		if after == "" && (resp.StatusCode != http.StatusForbidden || resp.Header.Get("X-RateLimit-Remaining") != "0") {
			return 0, false
		}
	default:
		return 0, false
	}
	if reset, err := strconv.ParseInt(resp.Header.Get("X-RateLimit-Reset"), 10, 64); err == nil && after == "" {
		return min(max(time.Unix(reset, 0).Sub(now), 0), 24*time.Hour), true
	}
	return retryAfter(after, now), true
}

// retryAfter reads the header of that name: seconds or a date. It is at most a
// day.
func retryAfter(value string, now time.Time) time.Duration {
	d := time.Duration(0)
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), 24*time.Hour)
}

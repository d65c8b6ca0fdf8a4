package charts

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"headwater.dev/kernel/oci"
	"headwater.dev/kernel/secret"
)

var (
	// ErrUnauthorized says that the server refused the credentials, or wants
	// some.
	ErrUnauthorized = errors.New("the server refuses the credentials")
	// ErrPrivate says that another host has an address that is not public.
	ErrPrivate = errors.New("it leads to a private address")
)

// Web gets files from one Helm repository, and from the other hosts that its
// index may point to.
//
// Credentials go to the repository's own host and port alone, also after a
// redirect. Other hosts must have public addresses, so that an index cannot
// make us ask services inside the cluster.
type Web struct {
	base  *url.URL
	basic secret.Basic
	// PassOn sends the credentials also to the host that a chart's URL names.
	PassOn bool
	client *http.Client
}

// Rules say where a repository may lead.
type Rules struct {
	// Private are hosts ("host" or "host:port") that may be asked although
	// their addresses are not public.
	Private []string
	// Stranger means that nobody vouches for the repository itself: it was
	// named by a chart. It must be public, too.
	Stranger bool
}

// NewWeb checks the URL of a repository; a nil configuration means the system's
// certificate authorities.
func NewWeb(raw string, basic secret.Basic, config *tls.Config, rules Rules) (*Web, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, errors.New("invalid repository URL: want http:// or https:// and a host")
	}
	if user := u.User; user != nil && basic == (secret.Basic{}) {
		basic.Username = user.Username()
		basic.Password, _ = user.Password()
	}
	u.User = nil
	w := &Web{base: u, basic: basic}
	own := &net.Dialer{Timeout: 15 * time.Second, Control: refuseMetadata}
	other := &net.Dialer{Timeout: 15 * time.Second, Control: refusePrivate}
	p := perHost{host: u.Host, private: rules.Private, own: transport(own, config), other: transport(other, nil), listed: transport(own, nil)}
	if rules.Stranger {
		p.host = ""
	}
	w.client = &http.Client{Transport: p, CheckRedirect: redirect}
	return w, nil
}

func transport(d *net.Dialer, config *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: d.DialContext, TLSClientConfig: config,
		TLSHandshakeTimeout: 15 * time.Second, ResponseHeaderTimeout: 30 * time.Second, MaxResponseHeaderBytes: 64 << 10, MaxIdleConns: 4, IdleConnTimeout: 10 * time.Second, ForceAttemptHTTP2: true,
	}
}

// refusePrivate is asked with the address that is about to be dialled, after
// its name was resolved.
func refusePrivate(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return ErrPrivate
	}
	if a := ap.Addr().Unmap(); !a.IsGlobalUnicast() || a.IsPrivate() {
		return ErrPrivate
	}
	return nil
}

// refuseMetadata refuses addresses of which none is a repository's: link-local,
// where clouds have their metadata, multicast, unspecified.
func refuseMetadata(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return ErrPrivate
	}
	if a := ap.Addr().Unmap(); !a.IsLoopback() && !a.IsGlobalUnicast() || a == netip.MustParseAddr("fd00:ec2::254") {
		return ErrPrivate
	}
	return nil
}

// perHost sends requests for the repository's own host one way and all others
// another.
type perHost struct {
	host               string
	private            []string
	own, other, listed http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (p perHost) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.EqualFold(r.URL.Host, p.host) {
		return p.own.RoundTrip(r)
	}
	for _, h := range p.private {
		if strings.EqualFold(r.URL.Host, h) || strings.EqualFold(r.URL.Hostname(), h) {
			return p.listed.RoundTrip(r)
		}
	}
	if proxy, err := http.ProxyFromEnvironment(r); err == nil && proxy != nil {
		// The proxy decides what may be reached by name.
		if a, err := netip.ParseAddr(r.URL.Hostname()); err == nil && refusePrivate("", netip.AddrPortFrom(a, 0).String(), nil) != nil {
			return nil, ErrPrivate
		}
		return p.listed.RoundTrip(r)
	}
	return p.other.RoundTrip(r)
}

// redirect follows up to 5 redirects, never from https to http, and takes the
// credentials away from those that lead to another host.
func redirect(r *http.Request, via []*http.Request) error {
	if len(via) > 5 {
		return errors.New("more than 5 redirects")
	}
	if via[len(via)-1].URL.Scheme == "https" && r.URL.Scheme != "https" {
		return errors.New("it redirects from https to http, which is refused")
	}
	if !strings.EqualFold(r.URL.Host, via[0].URL.Host) || r.URL.Scheme != via[0].URL.Scheme {
		r.Header.Del("Authorization")
	}
	r.Header.Del("Referer")
	return nil
}

// Resolve makes a full URL of one in an index.
func (w *Web) Resolve(ref string) (*url.URL, error) {
	base := *w.base
	if !strings.HasSuffix(base.Path, "/") {
		base.Path += "/"
	}
	u, err := base.Parse(ref)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, errors.New("the index gives the chart a URL that is neither http nor https")
	}
	if base.Scheme == "https" && u.Scheme == "http" {
		return nil, errors.New("the index of an https repository gives the chart an http URL, which is refused")
	}
	u.User = nil
	if u.RawQuery == "" && strings.EqualFold(u.Host, base.Host) {
		u.RawQuery = base.RawQuery
	}
	return u, nil
}

// File is what a request gave.
type File struct {
	Size int64
	ETag string
	// Same says that the file still has the ETag that was given.
	Same bool
}

// Get reads a file of at most limit bytes. Its errors name no query and no
// credentials.
func (w *Web) Get(ctx context.Context, u *url.URL, limit int64) ([]byte, error) {
	var buf bytes.Buffer
	_, err := w.Save(ctx, &buf, Want{URL: u, Limit: limit})
	return buf.Bytes(), err
}

// Want is a file that is wanted.
type Want struct {
	URL *url.URL
	// ETag is that of the version which is known; it may be empty.
	ETag string
	// Limit bounds the file in bytes.
	Limit int64
}

// Save writes a file to out as it arrives. Its errors name no query and no
// credentials.
func (w *Web) Save(ctx context.Context, out io.Writer, want Want) (File, error) {
	f, err := w.try(ctx, out, want)
	if err != nil {
		shown := url.URL{Scheme: want.URL.Scheme, Host: want.URL.Host, Path: want.URL.Path}
		return File{}, fmt.Errorf("GET %s: %w", shown.String(), err)
	}
	return f, nil
}

func (w *Web) try(ctx context.Context, out io.Writer, want Want) (File, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, want.URL.String(), nil)
	if err != nil {
		return File{}, errors.New("no request can be made of the URL")
	}
	req.Header.Set("User-Agent", "headwater/1")
	if want.ETag != "" {
		req.Header.Set("If-None-Match", want.ETag)
	}
	own := strings.EqualFold(want.URL.Host, w.base.Host) && want.URL.Scheme == w.base.Scheme
	if w.basic != (secret.Basic{}) && (own || w.PassOn) {
		req.SetBasicAuth(w.basic.Username, w.basic.Password)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return File{}, err
	}
	defer resp.Body.Close()
	switch after := oci.RetryAfter(resp.Header.Get("Retry-After"), time.Now()); {
	case resp.StatusCode == http.StatusOK:
	case resp.StatusCode == http.StatusNotModified:
		return File{ETag: want.ETag, Same: true}, nil
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		return File{}, fmt.Errorf("%w: it answered %d %s", ErrUnauthorized, resp.StatusCode, http.StatusText(resp.StatusCode))
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusServiceUnavailable && after > 0:
		return File{}, &oci.RateError{Doing: "get the file", After: after}
	default:
		return File{}, fmt.Errorf("the server answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	n, err := io.Copy(out, io.LimitReader(resp.Body, want.Limit+1))
	if err == nil && n > want.Limit {
		err = fmt.Errorf("the file is larger than %d bytes", want.Limit)
	}
	return File{Size: n, ETag: resp.Header.Get("ETag")}, err
}

// Close frees the connections.
func (w *Web) Close() { w.client.CloseIdleConnections() }

// CloseIdleConnections lets http.Client reach the transports.
func (p perHost) CloseIdleConnections() {
	for _, t := range []http.RoundTripper{p.own, p.other, p.listed} {
		if c, ok := t.(interface{ CloseIdleConnections() }); ok {
			c.CloseIdleConnections()
		}
	}
}

// String gives the URL of the repository without credentials.
func (w *Web) String() string { return w.base.Redacted() }

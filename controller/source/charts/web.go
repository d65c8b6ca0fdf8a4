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

// NewWeb checks the URL of a repository; a nil configuration means the system's
// certificate authorities.
func NewWeb(raw string, basic secret.Basic, config *tls.Config) (*Web, error) {
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
	own := &net.Dialer{Timeout: 15 * time.Second}
	other := &net.Dialer{Timeout: 15 * time.Second, Control: refusePrivate}
	w.client = &http.Client{
		Transport:     perHost{host: u.Host, own: transport(own, config), other: transport(other, nil), proxied: transport(own, nil)},
		CheckRedirect: redirect,
	}
	return w, nil
}

func transport(d *net.Dialer, config *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: d.DialContext, TLSClientConfig: config,
		TLSHandshakeTimeout: 15 * time.Second, MaxIdleConns: 4, IdleConnTimeout: 10 * time.Second, ForceAttemptHTTP2: true,
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

// perHost sends requests for the repository's own host one way and all others
// another.
type perHost struct {
	host                string
	own, other, proxied http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (p perHost) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.EqualFold(r.URL.Host, p.host) {
		return p.own.RoundTrip(r)
	}
	if proxy, err := http.ProxyFromEnvironment(r); err == nil && proxy != nil {
		return p.proxied.RoundTrip(r) // the proxy decides what may be reached
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
	Data []byte
	ETag string
	// Same says that the file still has the ETag that was given.
	Same bool
}

// Get reads a file of at most limit bytes. Its errors name no query and no
// credentials.
func (w *Web) Get(ctx context.Context, u *url.URL, etag string, limit int64) (File, error) {
	f, err := w.try(ctx, u, etag, limit)
	if err != nil {
		shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
		return File{}, fmt.Errorf("GET %s: %w", shown.String(), err)
	}
	return f, nil
}

func (w *Web) try(ctx context.Context, u *url.URL, etag string, limit int64) (File, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return File{}, errors.New("no request can be made of the URL")
	}
	req.Header.Set("User-Agent", "headwater/1")
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	own := strings.EqualFold(u.Host, w.base.Host) && u.Scheme == w.base.Scheme
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
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotModified:
		return File{ETag: etag, Same: true}, nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return File{}, fmt.Errorf("%w: it answered %d %s", ErrUnauthorized, resp.StatusCode, http.StatusText(resp.StatusCode))
	default:
		return File{}, fmt.Errorf("the server answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	var buf bytes.Buffer
	if n := resp.ContentLength; n > 0 && n <= limit {
		buf.Grow(int(n))
	}
	n, err := io.Copy(&buf, io.LimitReader(resp.Body, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("the file is larger than %d bytes", limit)
	}
	return File{Data: buf.Bytes(), ETag: resp.Header.Get("ETag")}, err
}

// Close frees the connections.
func (w *Web) Close() { w.client.CloseIdleConnections() }

// CloseIdleConnections lets http.Client reach the transports.
func (p perHost) CloseIdleConnections() {
	for _, t := range []http.RoundTripper{p.own, p.other, p.proxied} {
		if c, ok := t.(interface{ CloseIdleConnections() }); ok {
			c.CloseIdleConnections()
		}
	}
}

// String gives the URL of the repository without credentials.
func (w *Web) String() string { return w.base.Redacted() }

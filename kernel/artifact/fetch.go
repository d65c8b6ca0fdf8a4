package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"syscall"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/opencontainers/go-digest"
)

// maxDownload bounds the bytes of one artifact over HTTP.
const maxDownload = 1 << 30

// newClient makes a client for artifact servers, which may be anybody's: URLs of
// ExternalArtifacts are written by other controllers. It has no proxy, follows
// no redirect, and never asks link-local addresses, where the metadata services
// of clouds are.
func newClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: 15 * time.Second, Control: refuseLinkLocal}).DialContext,
			TLSHandshakeTimeout:    15 * time.Second,
			ResponseHeaderTimeout:  30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConnsPerHost:    4,
			IdleConnTimeout:        30 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("artifact servers must not redirect")
		},
	}
}

// refuseLinkLocal is asked with the address that is about to be dialled, after
// its name was resolved.
func refuseLinkLocal(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %s", ErrAddress, address)
	}
	if a := at.Addr().Unmap(); !a.IsLoopback() && !a.IsGlobalUnicast() || a == netip.MustParseAddr("fd00:ec2::254") {
		return fmt.Errorf("%w: %s", ErrAddress, a)
	}
	return nil
}

// open opens the content of a, from the store or from its URL. The caller
// checks the digest of what it reads.
func (r *reader) open(ctx context.Context, d digest.Digest, a meta.Artifact) (io.ReadCloser, error) {
	if r.store != nil {
		f, _, err := r.store.open(d)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, ErrNotFound) {
			return nil, err
		}
	}
	u, err := url.Parse(a.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("artifact URL %q: want http or https and a host", a.URL)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	// The archive is compressed itself; its bytes are wanted as they are.
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return limitBody(resp.Body, maxDownload), nil
	case http.StatusNotFound, http.StatusGone:
		err = fmt.Errorf("GET %s: %w", u.Redacted(), ErrNotFound)
	default:
		err = fmt.Errorf("GET %s: server answered %s", u.Redacted(), resp.Status)
	}
	resp.Body.Close()
	return nil, err
}

// download writes the artifact to the file path.
func (r *reader) download(ctx context.Context, d digest.Digest, a meta.Artifact, it *item) (int64, error) {
	src, err := r.open(ctx, d, a)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	f, err := os.OpenFile(it.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o400)
	if err != nil {
		return 0, err
	}
	v := d.Verifier()
	n, err := io.Copy(io.MultiWriter(f, v), contextReader{ctx, src})
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil && !v.Verified() {
		err = ErrDigest
	}
	return n, err
}

// limitBody fails with ErrTooLarge once more than n bytes were read.
func limitBody(body io.ReadCloser, n int64) io.ReadCloser {
	return &limitedBody{ReadCloser: body, left: n}
}

type limitedBody struct {
	io.ReadCloser
	left int64
}

func (l *limitedBody) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return n, fmt.Errorf("%w: too many bytes", ErrTooLarge)
	}
	return n, err
}

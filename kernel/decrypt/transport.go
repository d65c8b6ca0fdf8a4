package decrypt

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// NewTransport carries requests to key services. Unless the addresses of Vault
// are given, it refuses to connect to this machine and its link, where metadata
// services are, whatever name led there.
func NewTransport(vaultAddresses []string) *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	if len(vaultAddresses) == 0 {
		dialer.Control = refuseOwn
	}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 30 * time.Second,
		MaxIdleConns: 10, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: 64 << 10,
	}
}

var errOwnAddress = errors.New("addresses of the machine and its link are not allowed")

func refuseOwn(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("dial %s: %w", address, err)
	}
	ip := at.Addr().Unmap()
	if ip.IsLoopback() || ip.IsUnspecified() || ip.IsLinkLocalUnicast() || ip.IsMulticast() {
		return errOwnAddress
	}
	return nil
}

// oneHost sends requests to one host only, so that an answer cannot lead a
// token elsewhere.
type oneHost struct {
	host string
	base http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t oneHost) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != t.host {
		return nil, errors.New("redirected to another host")
	}
	return t.base.RoundTrip(r)
}

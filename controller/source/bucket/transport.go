package bucket

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"
)

// ErrAddress says that a storage has an address that is never asked: link-local
// ones, where the metadata services of clouds are, and those of no host.
var ErrAddress = errors.New("the endpoint leads to an address that is not asked")

// ErrProxy says that a proxy is on this machine, where tenants' proxies are not.
var ErrProxy = errors.New("the proxy is on the controllers' own machine, which is refused (--loopback-proxies allows it)")

// NewTransport makes the transport of one conversation; the caller closes its
// idle connections in the end. config and proxy may be nil. Addresses are
// judged when they are dialled, after names were resolved.
//
// A proxy on this machine's loopback interface is refused unless loopbackProxy
// is given: it could be any service that listens only for its neighbours.
func NewTransport(config *tls.Config, proxy *url.URL, loopbackProxy ...bool) *http.Transport {
	control := refuseLinkLocal
	if proxy != nil && !slices.Contains(loopbackProxy, true) {
		control = refuseLoopback
	}
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 15 * time.Second, Control: control}).DialContext,
		TLSHandshakeTimeout:    15 * time.Second,
		ResponseHeaderTimeout:  30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		TLSClientConfig:        config,
		MaxIdleConnsPerHost:    Parallel,
		IdleConnTimeout:        10 * time.Second,
		// Objects are wanted as they are, also those that are compressed.
		DisableCompression: true,
		ForceAttemptHTTP2:  true,
	}
	if proxy != nil {
		t.Proxy = http.ProxyURL(proxy)
	}
	return t
}

func refuseLinkLocal(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return ErrAddress
	}
	a := at.Addr().Unmap()
	if !a.IsLoopback() && !a.IsGlobalUnicast() || a == netip.MustParseAddr("fd00:ec2::254") {
		return ErrAddress
	}
	return nil
}

// refuseLoopback refuses what refuseLinkLocal refuses, and the own machine.
func refuseLoopback(network, address string, c syscall.RawConn) error {
	if at, err := netip.ParseAddrPort(address); err == nil && at.Addr().Unmap().IsLoopback() {
		return ErrProxy
	}
	return refuseLinkLocal(network, address, c)
}

// Plain takes the URL out of an error of a request: its query may hold a key.
func Plain(err error) error {
	var request *url.Error
	if !errors.As(err, &request) {
		return err
	}
	host := "the storage"
	if u, parseErr := url.Parse(request.URL); parseErr == nil && u.Host != "" {
		host = u.Host
	}
	return fmt.Errorf("%s %s: %w", strings.ToUpper(request.Op), host, request.Err)
}

// Package uplink is the cluster's connection to the hub. It is the only
// package that knows the hub's address, and it only ever dials out: it proves
// who the cluster is with the cluster's own key, keeps one stream of what the
// hub desires (long polls where a proxy holds streams back), and sends what
// was observed until the hub has accepted it.
package uplink

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"headwater.dev/api/link"
)

// Config says which hub to talk to, and as which cluster.
type Config struct {
	// Hub is the hub's https URL.
	Hub string
	// CA is PEM of the authorities that may have signed the hub's certificate;
	// empty means those of the system.
	CA []byte
	// Cluster is the ARM id of this cluster.
	Cluster string
	// Key is the cluster's private key; Keyring, when set, has it and those that
	// follow it.
	Key     *rsa.PrivateKey
	Keyring Keyring
	// Proxy chooses a proxy per request; nil follows HTTPS_PROXY and NO_PROXY.
	Proxy func(*http.Request) (*url.URL, error)
	// Desired is called with everything the hub wants, in the order in which
	// the hub said it, never concurrently. It must not block.
	Desired func(link.Desired)
	// Heartbeat describes the cluster; it is sent every minute or so.
	Heartbeat func(context.Context) link.Heartbeat
	// Connected, when set, is called before the first message of each
	// connection is delivered. It must not block.
	Connected func()
	// Known is the newest that the hub desired of this cluster before this process
	// began; what is older is refused. Remember, when set, is called with what is
	// newer, before that is delivered: nothing is delivered that it has not kept.
	Known    Mark
	Remember func(context.Context, Mark) error
	// Tracer takes the spans of reports; nil for none.
	Tracer trace.Tracer
	Log    logr.Logger
}

// Mark is how far the hub's wishes have come: they only grow, the epoch first.
type Mark struct{ Epoch, Revision int64 }

// Uplink is the connection. Report may be called at any time, also before Run.
type Uplink struct {
	config Config
	hub    *url.URL
	http   *http.Client
	tokens *tokens
	outbox *outbox
	timing timing
	// session names this process, in its questions and in its reports.
	session atomic.Pointer[string]
	// sequence of the last report; touched by the sending goroutine only.
	sequence int64
	// rekey asks for a new key.
	rekey chan struct{}
	// connected wakes the sender after the hub was reached again.
	connected chan struct{}
	// newest revision that was delivered; touched by the receiving goroutine
	// only.
	revision int64
	// epoch and known are the newest that was ever delivered, over all
	// connections; touched by the receiving goroutine only.
	epoch, known int64
}

// timing holds the durations that tests shorten.
type timing struct {
	// firstMessage bounds the wait for the first line of a stream. Passing it
	// means that something between buffers the stream.
	firstMessage time.Duration
	// silence ends a stream that carries not even pings.
	silence time.Duration
	// pollFor is how long to poll before a stream is tried again.
	pollFor time.Duration
	// pollWait is how long the hub may hold a poll.
	pollWait time.Duration
	// request bounds every other exchange.
	request time.Duration
	// gather is how long a report waits for company.
	gather time.Duration
	// heartbeat is the time between heartbeats, before jitter.
	heartbeat time.Duration
	// retry is the first and retryMax the longest pause after a failure.
	retry, retryMax time.Duration
}

func defaultTiming() timing {
	return timing{
		firstMessage: 15 * time.Second,
		silence:      3 * link.PingEvery,
		pollFor:      10 * time.Minute,
		pollWait:     30 * time.Second,
		request:      30 * time.Second,
		gather:       50 * time.Millisecond,
		heartbeat:    90 * time.Second, // 45 to 90 with jitter
		retry:        500 * time.Millisecond,
		retryMax:     30 * time.Second,
	}
}

// New checks the configuration and prepares the connection; it does not dial.
func New(c Config) (*Uplink, error) {
	hub, err := url.Parse(strings.TrimRight(c.Hub, "/"))
	if err != nil {
		return nil, fmt.Errorf("hub URL %q: %w", c.Hub, err)
	}
	if hub.Scheme != "https" || hub.Host == "" || hub.User != nil || hub.RawQuery != "" {
		return nil, fmt.Errorf("hub URL %q must look like https://host[:port]", c.Hub)
	}
	if c.Keyring == nil && c.Key != nil {
		c.Keyring = single{c.Key}
	}
	if c.Cluster == "" || c.Keyring == nil || c.Desired == nil {
		return nil, errors.New("an uplink needs the cluster's id, its private key and a receiver")
	}
	transport, err := newTransport(c)
	if err != nil {
		return nil, err
	}
	u := &Uplink{
		config:    c,
		hub:       hub,
		http:      &http.Client{Transport: transport, CheckRedirect: refuseRedirect},
		outbox:    newOutbox(),
		timing:    defaultTiming(),
		rekey:     make(chan struct{}, 1),
		connected: make(chan struct{}, 1),
		epoch:     c.Known.Epoch,
		known:     c.Known.Revision,
	}
	u.begin()
	u.tokens = newTokens(u)
	return u, nil
}

// begin gives this process a new name.
func (u *Uplink) begin() {
	name := uuid.NewString()
	u.session.Store(&name)
	u.sequence = 0
}

// newTransport makes one connection do for the stream and the reports, and
// notices a dead peer by HTTP/2 pings.
func newTransport(c Config) (*http.Transport, error) {
	t := &http.Transport{
		Proxy:                 c.Proxy,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: time.Minute,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   2,
		// A stream carries the hub's own pings, so this one is for when they fail to come.
		HTTP2: &http.HTTP2Config{SendPingTimeout: link.PingEvery * 3 / 2, PingTimeout: 15 * time.Second},
	}
	if t.Proxy == nil {
		t.Proxy = http.ProxyFromEnvironment
	}
	if len(c.CA) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(c.CA) {
			return nil, errors.New("the hub's CA holds no PEM certificate")
		}
		t.TLSClientConfig.RootCAs = pool
	}
	return t, nil
}

// refuseRedirect keeps the token and the cluster's reports at the hub.
func refuseRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Report takes what was observed of one item. It never blocks. Only the newest
// observation of an item is kept, and it is kept until the hub accepted it.
func (u *Uplink) Report(o link.Observed) { u.outbox.put(o) }

// Run keeps the connection until ctx ends. It returns nil then, and never
// gives up before: a hub that is away only delays.
func (u *Uplink) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return u.receive(ctx) })
	g.Go(func() error { return u.send(ctx) })
	g.Go(func() error { return u.rotate(ctx) })
	err := g.Wait()
	u.http.CloseIdleConnections()
	return err
}

// Package hub is the control plane: it keeps what every cluster shall be and
// what it is, behind a door for users and one for agents. It has no way to
// reach a cluster.
package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"headwater.dev/api/link"
	"headwater.dev/hub/activity"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/enrolment"
	"headwater.dev/hub/gateway"
	"headwater.dev/hub/limit"
	"headwater.dev/hub/rest"
	"headwater.dev/hub/store/etcd"
	"headwater.dev/hub/vault"
)

// Config says how a hub is run. Only DataDir is required.
type Config struct {
	// DataDir holds keys, certificates and, without EtcdEndpoints, the records.
	DataDir string
	// KeysFrom is a directory of keys that all replicas share; those that are there
	// are copied to DataDir at the start. None when empty.
	KeysFrom string
	// Listen is the address of both doors; port 0 chooses a free one.
	Listen string
	// ExternalURL is the address that clients and agents know the hub by,
	// https://host[:port]; that of the listener when empty.
	ExternalURL string
	// Hostnames are further names and addresses for the generated certificate.
	Hostnames []string
	// TLSCert and TLSKey are PEM files to serve instead of the generated
	// certificate; they are read again when they change.
	TLSCert, TLSKey string
	// EtcdEndpoints are the URLs of an external etcd; embedded when empty.
	EtcdEndpoints []string
	// EtcdCA, EtcdCert and EtcdKey are PEM files for an external etcd over TLS.
	EtcdCA, EtcdCert, EtcdKey string
	// EtcdQuota bounds the embedded etcd's database, in bytes; 8 GiB when zero.
	EtcdQuota int64
	// KeeperURLs name the vault's keys in key services, the one that wraps first;
	// a local file when empty.
	KeeperURLs []string
	// MetricsListen is the address of /metrics, plain HTTP; none when empty.
	MetricsListen string
	// Profiling also serves /debug/pprof/ there.
	Profiling bool
	// TenantID and SubscriptionID are chosen at the first start when empty.
	TenantID, SubscriptionID string
	// Unregistered leaves the resource providers of a new subscription
	// unregistered, as Azure does.
	Unregistered bool
	// ImportSources admits the import of sourceControlConfigurations (Flux v1), so
	// that they can be migrated.
	ImportSources bool
	// ExtensionVersions are the versions of the extension microsoft.flux that are
	// out; this program's own when empty.
	ExtensionVersions []string
	// People says who else is let in, and how much each may ask.
	People People
	// Locations are the locations that are offered to clients.
	Locations []string
	// Traces takes the spans of requests; nil for none.
	Traces trace.TracerProvider
	// Clock is time.Now when nil.
	Clock func() time.Time
	// Logger may be nil.
	Logger *slog.Logger
}

// drain is how long open requests may take at the end.
const drain = 4 * time.Second

// bodyPatience bounds how long a whole request may take to arrive, also one whose
// body nobody reads. The agents' door lifts it for streams.
const bodyPatience = time.Minute

// Hub is a control plane that is about to run or runs.
type Hub struct {
	config    Config
	log       *slog.Logger
	url       string
	listener  net.Listener
	metrics   net.Listener
	store     *etcd.Store
	auth      *auth.Auth
	vault     *vault.Vault
	gateway   *gateway.Gateway
	limiter   *limit.Limiter
	activity  *activity.Log
	users     *rest.Server
	enrolment *enrolment.Desk
	server    *http.Server
	registry  *prometheus.Registry
}

// New opens the listeners and the storage, makes what a first start needs, and
// leaves the hub ready for Run. Close it when Run is never called.
func New(ctx context.Context, c Config) (_ *Hub, err error) {
	h := &Hub{config: c, log: c.Logger, registry: prometheus.NewRegistry()}
	if h.log == nil {
		h.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if c.DataDir == "" {
		return nil, errors.New("start hub: no data directory; give one with --data-dir")
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("start hub: %w", err)
			h.Close()
		}
	}()
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, err
	}
	if err := takeKeys(c.KeysFrom, c.DataDir); err != nil {
		return nil, err
	}
	h.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := h.listen(); err != nil {
		return nil, err
	}
	certificate, err := h.certificates()
	if err != nil {
		return nil, err
	}
	if err := h.open(ctx); err != nil {
		return nil, err
	}
	handler, err := h.doors(ctx)
	if err != nil {
		return nil, err
	}
	h.server = &http.Server{
		Handler: traced(c.Traces, handler), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: bodyPatience, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate, NextProtos: []string{"h2", "http/1.1"}},
		// The hub says little to agents in headers: a table of them saves less than those of
		// ten thousand agents take. (One for what agents say must not be smaller than they may
		// think at first: they would be cut off.)
		HTTP2:    &http.HTTP2Config{MaxEncoderHeaderTableSize: 1},
		ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelDebug),
	}
	return h, nil
}

// URL is the address that clients know the hub by.
func (h *Hub) URL() string { return h.url }

// MetricsAddr is where /metrics is served, "" when it is not.
func (h *Hub) MetricsAddr() string {
	if h.metrics == nil {
		return ""
	}
	return h.metrics.Addr().String()
}

func (h *Hub) listen() (err error) {
	address := h.config.Listen
	if address == "" {
		address = "127.0.0.1:0"
	}
	if h.listener, err = net.Listen("tcp", address); err != nil {
		return err
	}
	h.url = strings.TrimSuffix(h.config.ExternalURL, "/")
	if h.url == "" {
		host, port, err := net.SplitHostPort(h.listener.Addr().String())
		if err != nil {
			return err
		}
		if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
			host = "localhost"
		}
		h.url = "https://" + net.JoinHostPort(host, port)
	}
	if h.config.MetricsListen == "" {
		return nil
	}
	h.metrics, err = net.Listen("tcp", h.config.MetricsListen)
	return err
}

// open brings the storage up.
func (h *Hub) open(ctx context.Context) error {
	c, err := h.config.storage()
	if err != nil {
		return err
	}
	c.Logger = h.log
	h.store, err = etcd.Open(ctx, c)
	return err
}

// storage says which etcd a hub uses.
func (c Config) storage() (etcd.Config, error) {
	if len(c.EtcdEndpoints) == 0 {
		if c.DataDir == "" {
			return etcd.Config{}, errors.New("give a data directory with --data-dir, or an external etcd with --etcd-endpoints")
		}
		return etcd.Config{Dir: filepath.Join(c.DataDir, "etcd"), QuotaBytes: c.EtcdQuota}, nil
	}
	secured, err := clientTLS(c.EtcdCA, c.EtcdCert, c.EtcdKey)
	return etcd.Config{Endpoints: c.EtcdEndpoints, TLS: secured}, err
}

// doors wires the parts: everything below /agents/v1/ is the agents' door, the
// directory's endpoints are its own, the rest is the users' door.
func (h *Hub) doors(ctx context.Context) (http.Handler, error) {
	c := h.config
	records := tracedStore(c.Traces, h.store)
	v, err := vault.New(ctx, vault.Config{Store: records, KeyFile: filepath.Join(c.DataDir, "vault.key"), KeeperURLs: c.KeeperURLs,
		Clock: c.Clock, Logger: h.log})
	if err != nil {
		return nil, err
	}
	issuers, err := c.People.issuers()
	if err != nil {
		return nil, err
	}
	h.vault = v
	h.auth, err = auth.New(ctx, auth.Config{Store: h.store, Dir: c.DataDir, ExternalURL: h.url, TenantID: c.TenantID,
		SubscriptionID: c.SubscriptionID, Issuers: issuers, Clock: c.Clock, Logger: h.log})
	if err != nil {
		return nil, err
	}
	h.gateway = gateway.New(gateway.Config{Store: records, Vault: v, Auth: h.auth, ExternalURL: h.url, Clock: c.Clock,
		Logger: h.log, Registerer: h.registry, Happened: h.happened, Delivering: delivering(c.Traces)})
	doorway := rest.Config{Store: records, Vault: v, Directory: h.auth, Locations: c.Locations,
		ImportSources: c.ImportSources, ExtensionVersions: c.ExtensionVersions,
		Metrics: h.registry, Clock: c.Clock, Logger: h.log}
	h.govern(&doorway)
	if h.users, err = rest.New(doorway); err != nil {
		return nil, err
	}
	if err := h.users.Bootstrap(ctx, h.auth.SubscriptionID(), !c.Unregistered); err != nil {
		return nil, err
	}
	people := h.limiter.Addresses(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.auth.Handles(r.URL.Path) {
			h.auth.Handler().ServeHTTP(w, r)
			return
		}
		h.users.ServeHTTP(w, r)
	}))
	joining := h.limiter.Addresses(h.enrolment.Handler())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; {
		case path == "/healthz", path == "/livez":
			w.WriteHeader(http.StatusOK)
		case path == "/readyz":
			h.ready(w, r)
		case path == link.PathEnrol:
			joining.ServeHTTP(w, r)
		case strings.HasPrefix(path, "/agents/v1/"):
			h.gateway.Handler().ServeHTTP(w, r)
		default:
			people.ServeHTTP(w, r)
		}
	}), nil
}

// ready says in a status code whether the storage answers, and nothing else.
func (h *Hub) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if err := h.store.Healthy(ctx); err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// Run serves until ctx ends, lets open requests finish, and closes the hub.
func (h *Hub) Run(ctx context.Context) error {
	defer h.Close()
	h.log.Info("hub is ready", "url", h.url, "listen", h.listener.Addr().String(), "metrics", h.MetricsAddr(), "dataDir", h.config.DataDir)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return ignoreClosed(h.server.Serve(newGreeter(h.listener, h.server.TLSConfig))) })
	group.Go(func() error { return h.gateway.Run(ctx) })
	group.Go(func() error { return h.vault.Run(ctx) })
	group.Go(func() error { return h.activity.Run(ctx) })
	group.Go(func() error {
		select {
		case err := <-h.store.Failed():
			return fmt.Errorf("storage failed: %w", err)
		case <-ctx.Done():
			return nil
		}
	})
	metrics := &http.Server{Handler: h.insight(), ReadHeaderTimeout: 10 * time.Second}
	if h.metrics != nil {
		group.Go(func() error { return ignoreClosed(metrics.Serve(h.metrics)) })
	}
	group.Go(func() error {
		<-ctx.Done()
		h.log.Info("hub is stopping")
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		err := h.server.Shutdown(last)
		if errors.Is(err, context.DeadlineExceeded) {
			err = h.server.Close()
		}
		return errors.Join(err, metrics.Close())
	})
	return group.Wait()
}

// insight is what operators see: metrics and, when asked for, profiles.
func (h *Hub) insight() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(h.registry, promhttp.HandlerOpts{}))
	if h.config.Profiling {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Close gives everything back that New opened.
func (h *Hub) Close() {
	for _, l := range []net.Listener{h.listener, h.metrics} {
		if l != nil {
			_ = l.Close()
		}
	}
	if h.store != nil {
		if err := h.store.Close(); err != nil {
			h.log.Error("storage did not close", "error", err)
		}
		h.store = nil
	}
}

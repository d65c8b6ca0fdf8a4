package tenant

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

const (
	// idle is how long the connections to a cluster, and an identity, are kept
	// that nobody asks for.
	idle = time.Hour
	// dialTimeout and answerTimeout bound how long a cluster that does not
	// answer holds a worker.
	dialTimeout   = 10 * time.Second
	answerTimeout = 40 * time.Second
)

// Cluster is another cluster and how to reach it.
type Cluster struct {
	// Key is a digest of everything in Config: connections are kept by it.
	Key    string
	Config *rest.Config
}

// remote is a connection pool to another cluster.
type remote struct {
	cluster
	pool *http.Transport // nil when client-go keeps the connections
	used time.Time
}

// cluster is what all identities at one cluster share.
type cluster struct {
	config    *rest.Config
	base      http.RoundTripper
	mapper    meta.RESTMapper
	discovery discovery.CachedDiscoveryInterface
}

// At returns the access of a service account at another cluster, or for an
// empty one that of the cluster's own credentials, which are the tenant's. The
// namespace is required. Connections are shared by all identities at a cluster
// and closed when they were not asked for in an hour.
func (c *Clients) At(to Cluster, id Identity) (*Access, error) {
	if to.Key == "" || id.Namespace == "" {
		return nil, ErrNoIdentity
	}
	id.Cluster = to.Key
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.remotes[to.Key]
	if r == nil {
		c.dropIdle()
		var err error
		if r, err = dial(to.Config); err != nil {
			return nil, err
		}
		c.remotes[to.Key] = r
	}
	r.used = c.now()
	if a, ok := c.made[id]; ok {
		return a, nil
	}
	a, err := c.open(r.cluster, id)
	if err != nil {
		return nil, err
	}
	c.made[id] = a
	return a, nil
}

// dropIdle forgets clusters. Who still holds an Access of one can go on.
func (c *Clients) dropIdle() {
	for key, r := range c.remotes {
		if c.now().Sub(r.used) < idle {
			continue
		}
		delete(c.remotes, key)
		for id := range c.made {
			if id.Cluster == key {
				delete(c.made, id)
			}
		}
		if r.pool != nil {
			r.pool.CloseIdleConnections()
		}
	}
}

func dial(config *rest.Config) (*remote, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1
	r := &remote{cluster: cluster{config: config}}
	var err error
	if config.ExecProvider != nil { // allowed by policy; client-go runs it
		r.base, err = rest.TransportFor(config)
	} else {
		r.pool, r.base, err = transportOf(config)
	}
	if err != nil {
		return nil, fmt.Errorf("open transport to the remote cluster: %w", err)
	}
	h := &http.Client{Transport: r.base}
	mapper, err := apiutil.NewDynamicRESTMapper(config, h)
	if err != nil {
		return nil, fmt.Errorf("make mapper of the remote cluster: %w", err)
	}
	r.mapper = newSparing(mapper)
	d, err := discovery.NewDiscoveryClientForConfigAndClient(config, h)
	if err != nil {
		return nil, fmt.Errorf("make discovery client of the remote cluster: %w", err)
	}
	r.discovery = memory.NewMemCacheClient(d)
	return r, nil
}

// sparing spares those who look up kinds the wait for a cluster that does not
// answer: who comes while one waits gets that one's error, and so does who comes
// until as much time has passed again. Kinds that were found before are known
// meanwhile.
type sparing struct {
	meta.RESTMapper
	now func() time.Time

	mu    sync.Mutex
	found map[schema.GroupVersionKind]*meta.RESTMapping
	err   error
	until time.Time
}

func newSparing(m meta.RESTMapper) *sparing {
	return &sparing{RESTMapper: m, now: time.Now, found: map[schema.GroupVersionKind]*meta.RESTMapping{}}
}

// RESTMapping implements meta.RESTMapper.
func (m *sparing) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	began, key := m.now(), kind.WithVersion(strings.Join(versions, " "))
	if m.err != nil && began.Before(m.until) {
		if was := m.found[key]; was != nil {
			return was, nil
		}
		return nil, m.err
	}
	got, err := m.RESTMapper.RESTMapping(kind, versions...)
	m.err = nil
	if network := net.Error(nil); errors.As(err, &network) {
		now := m.now()
		m.err, m.until = err, now.Add(now.Sub(began))
	}
	if err == nil {
		m.found[key] = got
	}
	return got, err
}

// transportOf does not use client-go's cache of transports, which never
// forgets one.
func transportOf(config *rest.Config) (*http.Transport, http.RoundTripper, error) {
	tls, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, nil, err
	}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second, Control: refuseLinkLocal}
	pool := &http.Transport{
		Proxy: config.Proxy, TLSClientConfig: tls, TLSHandshakeTimeout: dialTimeout, DialContext: dialer.DialContext,
		MaxIdleConnsPerHost: 25, IdleConnTimeout: 90 * time.Second, ResponseHeaderTimeout: answerTimeout,
	}
	utilnet.SetTransportDefaults(pool) // HTTP/2, with health checks of its connections
	pool.Proxy = config.Proxy          // not what the environment of this process says
	rt, err := rest.HTTPWrappersForConfig(config, pool)
	return pool, rt, err
}

// refuseLinkLocal keeps tenants from the metadata service of a cloud, whatever
// name they give it. It sees the very address that is dialled.
func refuseLinkLocal(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("judge address: %w", err)
	}
	if ip := at.Addr().Unmap(); ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return fmt.Errorf("%s is no address of a cluster", ip)
	}
	return nil
}

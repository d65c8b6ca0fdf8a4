// Package tenant gives access to the API server in the name of a tenant.
//
// Everything done for a tenant is done as that tenant: each Access sends the
// tenant's service account as the impersonated user with every request. All of
// them share one connection pool, one REST mapper and one discovery cache, so
// that a further tenant costs a header and no connection.
package tenant

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// ErrNoIdentity is returned for an identity without a service account: the
// controller's own rights are never a fallback.
var ErrNoIdentity = errors.New("no service account to act as: set spec.serviceAccountName or the controller's default service account")

// Identity is a service account that is acted as.
type Identity struct {
	Namespace      string
	ServiceAccount string
	// Cluster is the key of another cluster, empty for this process's own.
	Cluster string
}

// Username is the user name of the service account.
func (i Identity) Username() string {
	return "system:serviceaccount:" + i.Namespace + ":" + i.ServiceAccount
}

// Access reaches the API server as one identity. It is safe for concurrent
// use and holds no cache of objects.
type Access struct {
	// Config impersonates too, for libraries that make their own clients; they
	// share connections with all others.
	Config *rest.Config
	// HTTP sends requests as the identity.
	HTTP      *http.Client
	Client    client.Client
	Dynamic   dynamic.Interface
	Metadata  metadata.Interface
	Mapper    meta.RESTMapper
	Discovery discovery.CachedDiscoveryInterface
}

// Clients makes an Access per identity and keeps it while it is used.
type Clients struct {
	home   cluster
	scheme *runtime.Scheme
	now    func() time.Time

	mu      sync.Mutex
	made    map[Identity]*Access
	used    map[Identity]time.Time // of those in this cluster
	remotes map[string]*remote
}

// New returns Clients over the controller's own configuration.
func New(config *rest.Config, scheme *runtime.Scheme, mapper meta.RESTMapper) (*Clients, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1 // API Priority and Fairness limits us, fairly and at the right place
	base, err := rest.TransportFor(config)
	if err != nil {
		return nil, fmt.Errorf("open transport to the API server: %w", err)
	}
	d, err := discovery.NewDiscoveryClientForConfigAndClient(config, &http.Client{Transport: base})
	if err != nil {
		return nil, fmt.Errorf("make discovery client: %w", err)
	}
	return &Clients{
		home:   cluster{config: config, base: base, mapper: mapper, discovery: memory.NewMemCacheClient(d)},
		scheme: scheme, now: time.Now,
		made: map[Identity]*Access{}, used: map[Identity]time.Time{}, remotes: map[string]*remote{},
	}, nil
}

// As returns the access of a service account. An empty namespace or name is
// ErrNoIdentity.
func (c *Clients) As(id Identity) (*Access, error) {
	if id.Namespace == "" || id.ServiceAccount == "" || id.Cluster != "" {
		return nil, ErrNoIdentity
	}
	return c.access(id)
}

// Own returns the controller's own access: for its own objects, and for
// everything when multi-tenancy is turned off.
func (c *Clients) Own() (*Access, error) { return c.access(Identity{}) }

func (c *Clients) access(id Identity) (*Access, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used[id] = c.now()
	if a, ok := c.made[id]; ok {
		return a, nil
	}
	c.forgetIdle()
	a, err := c.open(c.home, id)
	if err != nil {
		return nil, err
	}
	c.made[id] = a
	return a, nil
}

// forgetIdle forgets identities of this cluster that nobody has asked for in an
// hour: namespaces come and go. Who still holds an Access can go on.
func (c *Clients) forgetIdle() {
	for id, used := range c.used {
		if c.now().Sub(used) >= idle {
			delete(c.used, id)
			delete(c.made, id)
		}
	}
}

func (c *Clients) open(at cluster, id Identity) (*Access, error) {
	config := rest.CopyConfig(at.config)
	rt := at.base
	if id.ServiceAccount != "" {
		user := id.Username()
		config.Impersonate = rest.ImpersonationConfig{UserName: user}
		rt = transport.NewImpersonatingRoundTripper(transport.ImpersonationConfig{UserName: user}, rt)
	}
	a := &Access{Config: config, HTTP: &http.Client{Transport: rt}, Mapper: at.mapper, Discovery: at.discovery}
	var err error
	if a.Client, err = client.New(at.config, client.Options{HTTPClient: a.HTTP, Scheme: c.scheme, Mapper: at.mapper}); err != nil {
		return nil, fmt.Errorf("make client of %s: %w", id.Username(), err)
	}
	if a.Dynamic, err = dynamic.NewForConfigAndClient(at.config, a.HTTP); err != nil {
		return nil, fmt.Errorf("make dynamic client of %s: %w", id.Username(), err)
	}
	if a.Metadata, err = metadata.NewForConfigAndClient(at.config, a.HTTP); err != nil {
		return nil, fmt.Errorf("make metadata client of %s: %w", id.Username(), err)
	}
	return a, nil
}

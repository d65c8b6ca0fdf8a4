// Package release performs Helm actions for one identity: install, upgrade,
// roll back, test and uninstall releases, and read what is stored of them.
//
// Guarantees:
//   - Every request of an action, including those of hooks, of the template
//     function "lookup" and of CRDs, is made with the connection that the
//     caller injects, and therefore with its (impersonated) identity.
//   - An action never waits for readiness: it returns when the objects are
//     written. Hooks are the exception; they run to completion within
//     Options.HookTimeout. WaitReady is the separate, blocking wait.
//   - A release left pending by a crashed process is released by Unlock.
//   - Charts are loaded within bounds of size, number and depth.
package release

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	"helm.sh/helm/v4/pkg/action"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release/common"
	rspb "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage"
	"helm.sh/helm/v4/pkg/storage/driver"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

// FieldManager owns the fields that releases write.
const FieldManager = "helm-controller"

// ErrNotFound says that storage holds no release of the name.
var ErrNotFound = driver.ErrReleaseNotFound

// Release is a stored release as Helm keeps it.
type Release = rspb.Release

// Chart is a loaded chart.
type Chart = chart.Chart

// Status of a release.
type Status = common.Status

// Connection is how a Client reaches the cluster, and as whom.
type Connection struct {
	// Config of the identity; it carries the impersonation.
	Config *rest.Config
	// HTTP client to share; nil makes one from Config.
	HTTP *http.Client
	// Mapper to share; nil makes a lazy one.
	Mapper meta.RESTMapper
	// Dynamic client of the same identity; nil makes one from Config.
	Dynamic dynamic.Interface
	// Cache of what the server is capable of, shared by all identities of a
	// cluster; nil makes one for this Client.
	Cache *Cache
	// Log receives Helm's own log lines; nil discards them.
	Log slog.Handler
}

// Client performs actions over one connection. It is safe for concurrent use
// on different releases.
type Client struct {
	conn      Connection
	discovery discovery.DiscoveryInterface
}

var setFieldManager = sync.OnceFunc(func() { kube.ManagedFieldsManager = FieldManager })

// New returns a client over the connection. It makes no request.
func New(conn Connection) (*Client, error) {
	if conn.Config == nil {
		return nil, errors.New("release client without a connection")
	}
	setFieldManager()
	var err error
	if conn.HTTP == nil {
		if conn.HTTP, err = rest.HTTPClientFor(conn.Config); err != nil {
			return nil, fmt.Errorf("make http client: %w", err)
		}
	}
	if conn.Mapper == nil {
		if conn.Mapper, err = apiutil.NewDynamicRESTMapper(conn.Config, conn.HTTP); err != nil {
			return nil, fmt.Errorf("make rest mapper: %w", err)
		}
	}
	if conn.Dynamic == nil {
		if conn.Dynamic, err = dynamic.NewForConfigAndClient(conn.Config, conn.HTTP); err != nil {
			return nil, fmt.Errorf("make dynamic client: %w", err)
		}
	}
	if conn.Cache == nil {
		conn.Cache = NewCache()
	}
	if conn.Log == nil {
		conn.Log = slog.DiscardHandler
	}
	d, err := discovery.NewDiscoveryClientForConfigAndClient(conn.Config, conn.HTTP)
	if err != nil {
		return nil, fmt.Errorf("make discovery client: %w", err)
	}
	return &Client{conn: conn, discovery: d}, nil
}

// NewForConfig returns a client with a connection of its own.
func NewForConfig(cfg *rest.Config) (*Client, error) {
	return New(Connection{Config: cfg})
}

// storage returns the releases kept as Secrets in the namespace.
func (c *Client) storage(namespace string) (*storage.Storage, error) {
	if namespace == "" {
		return nil, errors.New("release storage without a namespace")
	}
	core, err := corev1.NewForConfigAndClient(c.conn.Config, c.conn.HTTP)
	if err != nil {
		return nil, fmt.Errorf("make client of release storage: %w", err)
	}
	d := driver.NewSecrets(core.Secrets(namespace))
	d.SetLogger(c.conn.Log)
	s := storage.Init(d)
	s.SetLogger(c.conn.Log)
	return s, nil
}

// configuration assembles what a Helm action needs. It loads no schema; the
// server's capabilities come from the shared cache.
func (c *Client) configuration(req Request) (*action.Configuration, *kubeClient, error) {
	store, err := c.storage(req.storageNamespace())
	if err != nil {
		return nil, nil, err
	}
	caps, err := c.conn.Cache.capabilities(c.discovery)
	if err != nil {
		return nil, nil, err
	}
	getter := &getter{conn: c.conn, discovery: c.discovery, namespace: req.Namespace}
	k := newKubeClient(getter, req)
	cfg := action.NewConfiguration(action.ConfigurationSetLogger(c.conn.Log))
	cfg.RESTClientGetter = getter
	cfg.Releases = store
	cfg.KubeClient = k
	cfg.Capabilities = caps
	cfg.HookOutputFunc = discardHookOutput
	return cfg, k, nil
}

// Package rest is the users' door: the Azure Resource Manager API over the
// hub's records.
//
// It writes only the desired part of a record and derives everything it says
// about progress from both parts, so that any replica gives the same answer.
// It cannot reach a cluster.
package rest

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
	"headwater.dev/kernel/process"
)

// Directory says who a request comes from and what they may do.
type Directory interface {
	Authenticate(r *http.Request) (auth.Principal, error)
	Rights(ctx context.Context, p auth.Principal) (auth.Rights, error)
	Challenge() string
	TenantID() string
}

// Vault keeps protected settings until the cluster's agent has them.
type Vault interface {
	Keep(ctx context.Context, id string, values map[string]string, recipient *rsa.PublicKey) (string, error)
	Forget(ctx context.Context, id, version string) error
	ForgetUntil(ctx context.Context, id, version string, revision int64) error
	Digest(id string, values map[string]string) string
}

// Mount is a part of the API that another package serves behind this door.
type Mount interface {
	// Demand says what a request needs; ok is false when its path is not the
	// mount's. Paths come with their literals in lower case.
	Demand(r *http.Request) (demand auth.Demand, ok bool, err error)
	// Serve answers a request that was admitted.
	Serve(w http.ResponseWriter, r *http.Request, who auth.Principal, rights auth.Rights) error
}

// Config is what the door needs.
type Config struct {
	Store     store.Store
	Vault     Vault
	Directory Directory
	// Locations that clients may choose from; ["local"] when empty. Others are
	// accepted too: a location is a name here.
	Locations []string
	// PageSize is how many resources a page of a list holds; 100 when zero.
	PageSize int
	// Gates are passed, in order, by everything that somebody signed in is about
	// to do; Locks, which may be nil, by what its rights allow.
	Gates []auth.Gate
	Locks auth.Gate
	// Mounts are the parts of the API that other packages serve.
	Mounts []Mount
	// ExtensionVersions are the versions of the extension microsoft.flux that are
	// out; this program's own when empty. The newest minor version and the two
	// before it are supported.
	ExtensionVersions []string
	// ImportSources admits the import of sourceControlConfigurations (Flux v1).
	ImportSources bool
	// DeletePatience is how long a request waits for the deletion of a group
	// before it answers that it goes on; 2 s when zero.
	DeletePatience time.Duration
	// Metrics, when set, gets the door's metrics.
	Metrics prometheus.Registerer
	// Clock is time.Now, NewID a random UUID, when nil.
	Clock  func() time.Time
	NewID  func() string
	Logger *slog.Logger
}

// Server is the door. Use it from any number of goroutines.
type Server struct {
	store     store.Store
	vault     Vault
	directory Directory
	locations []string
	pageSize  int
	releases  resource.Releases
	// importSources and deletePatience are those of Config.
	importSources  bool
	deletePatience time.Duration
	// endings are the deletions of groups that this replica is at, by key and
	// revision.
	endingsMu sync.Mutex
	endings   map[string]*ending
	gates     []auth.Gate
	locks     auth.Gate
	mounts    []Mount
	clock     func() time.Time
	newID     func() string
	log       *slog.Logger
	handler   http.Handler
}

// New makes the door.
func New(c Config) (*Server, error) {
	s := &Server{store: c.Store, vault: c.Vault, directory: c.Directory, locations: c.Locations,
		pageSize: c.PageSize, gates: c.Gates, locks: c.Locks, mounts: c.Mounts, clock: c.Clock, newID: c.NewID, log: c.Logger}
	s.endings = map[string]*ending{}
	s.importSources, s.deletePatience = c.ImportSources, c.DeletePatience
	if s.deletePatience == 0 {
		s.deletePatience = deletePatience
	}
	if len(c.ExtensionVersions) == 0 {
		c.ExtensionVersions = []string{process.Version()}
	}
	s.releases = resource.NewReleases(c.ExtensionVersions...)
	if len(s.locations) == 0 {
		s.locations = []string{"local"}
	}
	if s.pageSize <= 0 {
		s.pageSize = 100
	}
	if s.clock == nil {
		s.clock = time.Now
	}
	if s.locks == nil {
		s.locks = func(_ context.Context, _ *auth.Attempt, next func() error) error { return next() }
	}
	if s.newID == nil {
		s.newID = uuid.NewString
	}
	if s.log == nil {
		s.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	metered, err := meter(c.Metrics)
	if err != nil {
		return nil, err
	}
	s.handler = trace(s.newID, s.observe(metered, recovered(s.log, fold(limit(s.routes())))))
	return s, nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Bootstrap makes the hub's first subscription, with the providers registered
// when register is set. It may be repeated: what exists is left alone.
func (s *Server) Bootstrap(ctx context.Context, subscription string, register bool) error {
	value, err := json.Marshal(subscriptionRecord{SubscriptionID: subscription, DisplayName: "Headwater", State: "Enabled"})
	if err != nil {
		return err
	}
	_, err = s.store.Put(ctx, store.Put{Key: "/subscriptions/" + arm.Fold(subscription), Part: store.Desired, Value: value})
	if errors.Is(err, store.ErrExists) {
		return nil
	}
	if err != nil {
		return err
	}
	if !register {
		return nil
	}
	for _, p := range providers() {
		if err := s.setRegistered(ctx, subscription, p.namespace, true); err != nil {
			return err
		}
	}
	return nil
}

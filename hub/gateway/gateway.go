// Package gateway is the agents' door: it hands every cluster's agent what is
// desired of that cluster, and takes in what the agent observed.
//
// Agents dial in; the gateway never dials out. A message is believed for one
// cluster only, the one whose key the agent proved to hold, and is checked
// against that cluster's record every time: a cluster that was removed, or was
// given another key, is shut out at once.
//
// The gateway is the only writer of observed parts. It keeps nothing that
// another replica would need; what it remembers makes it faster or detects
// repetition.
package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"headwater.dev/api/link"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
	"headwater.dev/hub/vault"
)

// Config is what a gateway needs.
type Config struct {
	Store store.Store
	Vault *vault.Vault
	Auth  *auth.Auth
	// ExternalURL is the hub's address as agents know it, https://host[:port].
	ExternalURL string
	// Clock is time.Now when nil.
	Clock func() time.Time
	// Logger may be nil.
	Logger *slog.Logger
	// Registerer takes the gateway's metrics; nil for none.
	Registerer prometheus.Registerer
	// Happened takes what belongs into the activity log; nil for none. It must not
	// fail for long.
	Happened func(context.Context, Happening)
	// Delivering makes a span of an item's delivery below the item's TraceParent and
	// answers that span; nil for none.
	Delivering func(context.Context, link.Item) string
}

const (
	// storePatience is how long streams stay open while the store does not answer:
	// a moment is no reason to send a fleet away, and for longer another replica
	// may serve it.
	storePatience = 15 * time.Second
	// drainPatience bounds the wait for open streams at the end of Run.
	drainPatience = 5 * time.Second
	// defaultWritePatience is the usual writePatience.
	defaultWritePatience = 30 * time.Second
	// readPatience bounds the time an agent may take to send one report.
	readPatience = 30 * time.Second
)

// Gateway is the agents' door. Make it with New, mount Handler, and keep Run
// running.
type Gateway struct {
	store store.Store
	vault *vault.Vault
	auth  *auth.Auth
	// audience is that of assertions for a token, handover that of those that hand
	// over to a next key.
	audience string
	handover string
	happened func(context.Context, Happening)
	// delivering is nil when nobody traces.
	delivering func(context.Context, link.Item) string
	clock      func() time.Time
	log        *slog.Logger
	metrics    *metrics
	streams    *streams
	sessions   *sessions
	quotas     *quotas
	// pingEvery is how often a silent stream carries a ping; writePatience bounds the
	// time an agent may take to read one message.
	pingEvery, writePatience time.Duration
	// looking bounds how many streams look at once for what is desired.
	looking chan struct{}
	// admission bounds the agents that connect at once.
	admission *admission
	// strangers bounds failures; known are those who did not fail.
	strangers *strangers
	known     *acquaintances
	handler   http.Handler

	draining  chan struct{}
	drainOnce sync.Once
}

// New makes a gateway.
func New(c Config) *Gateway {
	g := &Gateway{
		store:      c.Store,
		vault:      c.Vault,
		auth:       c.Auth,
		audience:   trimSlash(c.ExternalURL) + link.PathToken,
		handover:   trimSlash(c.ExternalURL) + link.PathKey,
		happened:   c.Happened,
		delivering: c.Delivering,
		clock:      c.Clock,
		log:        c.Logger,
		streams:    newStreams(),
		draining:   make(chan struct{}),
		looking:    make(chan struct{}, lookAtOnce),
		pingEvery:  link.PingEvery, writePatience: defaultWritePatience,
	}
	if g.clock == nil {
		g.clock = time.Now
	}
	if g.log == nil {
		g.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if g.happened == nil {
		g.happened = func(context.Context, Happening) {}
	}
	g.strangers, g.known = newStrangers(g.clock), newAcquaintances()
	g.sessions = newSessions(g.clock)
	g.quotas = newQuotas(g.clock)
	g.admission = newAdmission(g.clock)
	g.metrics = newMetrics(c.Registerer)
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+link.PathToken, g.serveToken)
	mux.HandleFunc("POST "+link.PathKey, g.serveKey)
	mux.HandleFunc("GET "+link.PathDesired, g.serveDesired)
	mux.HandleFunc("POST "+link.PathObserved, g.serveObserved)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fail(w, &refusal{status: http.StatusNotFound, code: "PathNotFound", message: "there is no such path at the agents' door"})
	})
	g.handler = mux
	return g
}

// Handler serves everything below /agents/v1/. The server it is mounted in must
// not cut answers off after a fixed time: streams last for minutes.
func (g *Gateway) Handler() http.Handler { return g.handler }

// Run wakes the streams of a cluster when something desired of it changed. It
// returns nil when ctx ended and the streams have gone.
func (g *Gateway) Run(ctx context.Context) error {
	well := g.clock() // when the store was last followed
	for ctx.Err() == nil {
		began, err := g.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		g.metrics.watches.Inc()
		g.log.Warn("store watch ended, watching anew", "error", err)
		if began {
			well = g.clock()
		}
		if g.clock().Sub(well) > storePatience {
			g.streams.wakeAll() // to find out that they cannot be served here
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	g.drainOnce.Do(func() { close(g.draining) })
	if !g.streams.wait(drainPatience) {
		g.log.Warn("streams were still open at the end", "count", g.streams.count())
	}
	return nil
}

// follow watches until that breaks, and tells whether it began.
func (g *Gateway) follow(ctx context.Context) (began bool, err error) {
	_, page, err := g.store.List(ctx, store.List{Prefix: resources, Limit: 1})
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := g.store.Watch(ctx, resources, page.Revision)
	if err != nil {
		return false, err
	}
	g.streams.wakeAll() // for what changed before the watch began
	for e := range events {
		if e.Err != nil {
			return true, e.Err
		}
		cluster, ok := clusterOf(e.Key)
		// What was observed wakes nobody, unless it ends an agent's welcome.
		if e.Part == store.Observed && !e.Deleted && (e.Key != cluster || !bytes.Contains(e.Value, []byte(duplicateMark)) && !g.rekeyed(e)) {
			continue
		}
		if _, item := itemOf(cluster, e.Key); ok && (item || e.Key == cluster) {
			g.streams.wake(cluster)
		}
	}
	return true, errors.New("the watch was closed")
}

// refusal is a clean error for the agent. Its text never holds a secret.
type refusal struct {
	status  int
	code    string
	message string
	// stranger says that nobody knows who was refused.
	stranger bool
	// after is the pause that the agent is asked for; 0 for none.
	after time.Duration
}

// wait tells the agent how long to pause.
func (r *refusal) wait(w http.ResponseWriter) {
	if r.after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((r.after+time.Second-1)/time.Second)))
	}
}

func (r *refusal) Error() string { return r.code + ": " + r.message }

// fail answers with an error in ARM's shape.
func fail(w http.ResponseWriter, r *refusal) {
	body := map[string]any{"error": map[string]string{"code": r.code, "message": r.message}}
	answer(w, r.status, body)
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false) // which would make what is within bounds six times as long
	_ = e.Encode(body)     // the agent is gone: nobody to tell
}

// problem turns any error into an answer; what is not meant for the agent goes
// to the log.
func (g *Gateway) problem(w http.ResponseWriter, r *http.Request, err error) {
	var known *refusal
	var denial *auth.Denial
	switch {
	case errors.As(err, &known):
		known.wait(w)
		fail(w, known)
	case errors.As(err, &denial):
		w.Header().Set("WWW-Authenticate", "Bearer")
		fail(w, &refusal{status: denial.Status, code: denial.Code, message: denial.Message})
	case r.Context().Err() != nil:
		// The agent hung up.
	default:
		g.log.Error("agent's request failed", "path", r.URL.Path, "error", err)
		w.Header().Set("Retry-After", "2")
		fail(w, &refusal{status: http.StatusServiceUnavailable, code: "ServiceUnavailable", message: "the hub cannot reach its storage; try again"})
	}
}

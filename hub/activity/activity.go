// Package activity is the hub's activity log: who did what, when, from where,
// with what outcome, and which fields changed. Entries are only ever added, and
// go when they are old or too many; nothing can change one. They hold names of
// fields, never values, so no secret can be in them.
package activity

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"headwater.dev/api/arm"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
)

const (
	// DefaultRetention is how long entries are kept, DefaultMax how many.
	DefaultRetention = 90 * 24 * time.Hour
	DefaultMax       = 100_000
	// pruneEvery is how often what is old or too much is removed.
	pruneEvery = time.Hour
	// pruneShare is the part of the largest number that may be written before that
	// is done early: a loop that runs wild fills the store within minutes.
	pruneShare = 10
	// patience is how long writing one entry may take.
	patience = 5 * time.Second
	// deniedEvery and deniedBurst bound the entries of what one principal may
	// not do: they must not push the others out.
	deniedEvery = 10 * time.Second
	deniedBurst = 60
	maxDenied   = 10_000
)

// Config is what the log needs.
type Config struct {
	Store store.Store
	// Retention is how long entries are kept; DefaultRetention when zero.
	Retention time.Duration
	// Max is how many entries are kept; DefaultMax when zero.
	Max int
	// Clock is time.Now when nil.
	Clock func() time.Time
	// Logger may be nil.
	Logger *slog.Logger
}

// Log is the activity log. Use it from any number of goroutines.
type Log struct {
	store     store.Store
	retention time.Duration
	max       int
	clock     func() time.Time
	log       *slog.Logger
	written   atomic.Int64
	// grown holds a token when it is time to prune early.
	grown chan struct{}

	mu     sync.Mutex
	denied map[string]*rate.Limiter
}

// New makes it.
func New(c Config) *Log {
	l := &Log{store: c.Store, retention: c.Retention, max: c.Max, clock: c.Clock, log: c.Logger,
		denied: map[string]*rate.Limiter{}, grown: make(chan struct{}, 1)}
	if l.retention <= 0 {
		l.retention = DefaultRetention
	}
	if l.max <= 0 {
		l.max = DefaultMax
	}
	if l.clock == nil {
		l.clock = time.Now
	}
	if l.log == nil {
		l.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return l
}

// Entry is one thing that somebody did or tried to do.
type Entry struct {
	ID              string            `json:"id"`
	At              time.Time         `json:"at"`
	Caller          string            `json:"caller"`
	CallerObjectID  string            `json:"callerObjectId"`
	CallerName      string            `json:"callerName,omitempty"`
	CallerIssuer    string            `json:"callerIssuer,omitempty"`
	From            string            `json:"from"`
	Action          string            `json:"action"`
	Scope           string            `json:"scope,omitempty"`
	ResourceID      string            `json:"resourceId"`
	Method          string            `json:"method"`
	Status          int               `json:"status"`
	Accepted        bool              `json:"accepted,omitempty"`
	Code            string            `json:"code,omitempty"`
	Correlation     string            `json:"correlation"`
	RequestID       string            `json:"requestId"`
	ClientRequestID string            `json:"clientRequestId,omitempty"`
	Changes         []Change          `json:"changes,omitempty"`
	Notes           map[string]string `json:"notes,omitempty"`
}

const prefix = "/activity/"

// key sorts entries newest first.
func key(at time.Time, id string) string {
	return fmt.Sprintf("%s%s-%s", prefix, inverse(at), id)
}

// inverse orders times from new to old. What lies before 1970, or after what an
// int64 of nanoseconds reaches, counts as the earliest and the latest.
func inverse(at time.Time) string {
	nanos := at.UnixNano()
	if at.Before(time.Unix(0, 0)) {
		nanos = 0
	} else if at.After(time.Unix(0, math.MaxInt64)) {
		nanos = math.MaxInt64
	}
	return fmt.Sprintf("%019d", math.MaxInt64-nanos)
}

// Gate logs every attempt to change something, however it ends.
func (l *Log) Gate(ctx context.Context, a *auth.Attempt, next func() error) error {
	if !a.Write() {
		return next()
	}
	before, known := l.desired(ctx, a)
	a.Looked, a.Missing = known, before == nil
	err := next()
	if a.Status == 403 && !l.room(a.Who.ObjectID) {
		return err
	}
	// What was done is logged also when the client has gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	e := l.entry(a)
	if err == nil && known {
		if after, ok := l.desired(ctx, a); ok {
			e.Changes = diff(before, after)
		}
	}
	if e.Status < 400 && len(e.Changes) == 0 && known && !e.Accepted && a.Method != "POST" {
		e.Notes = with(e.Notes, "unchanged", "true")
	}
	if failed := l.put(ctx, e); failed != nil {
		l.log.Error("activity not logged", "error", failed, "action", e.Action, "scope", e.Scope, "caller", e.Caller,
			"callerObjectId", e.CallerObjectID, "from", e.From, "status", e.Status, "requestId", e.RequestID)
	}
	return err
}

func with(notes map[string]string, name, value string) map[string]string {
	out := map[string]string{name: value}
	for k, v := range notes {
		out[k] = v
	}
	return out
}

// desired reads what is asked of the attempt's resource; nil when there is none.
// known is false when the attempt is not about a record of its own.
func (l *Log) desired(ctx context.Context, a *auth.Attempt) (value json.RawMessage, known bool) {
	if a.Scope == "" || !ownRecord(a.Action) {
		return nil, false
	}
	r, err := l.store.Get(ctx, arm.Fold(a.Scope))
	if errors.Is(err, store.ErrNotFound) {
		return nil, true
	}
	return r.Desired, err == nil
}

// ownRecord reports whether the scope of an action is the record it changes:
// rights are about another resource.
func ownRecord(action string) bool {
	provider, _, _ := strings.Cut(strings.ToLower(action), "/")
	return provider != "microsoft.authorization" && provider != "headwater.identity"
}

func (l *Log) entry(a *auth.Attempt) Entry {
	e := Entry{ID: newID(), At: l.clock().UTC(), Caller: a.Who.ID, CallerObjectID: a.Who.ObjectID, CallerName: a.Who.Name,
		CallerIssuer: a.Who.Issuer, From: a.From, Action: a.Action, Scope: a.Scope, ResourceID: a.Scope, Method: a.Method, Status: a.Status,
		Code: a.Code, Correlation: a.Correlation, RequestID: a.RequestID, Notes: a.Notes(),
		Accepted: a.Status < 400 && a.Header.Get(arm.HeaderAsyncOperation) != ""}
	if len(a.ClientRequestID) <= 64 {
		e.ClientRequestID = a.ClientRequestID
	}
	if a.Resource != "" {
		e.ResourceID = a.Resource
	}
	return e
}

// Add logs something that did not come through a door. ID and time are the log's.
func (l *Log) Add(ctx context.Context, e Entry) error {
	e.ID, e.At = newID(), l.clock().UTC()
	return l.put(ctx, e)
}

func newID() string {
	var random [8]byte
	_, _ = rand.Read(random[:]) // it never fails
	return hex.EncodeToString(random[:])
}

func (l *Log) put(ctx context.Context, e Entry) error {
	value, err := json.Marshal(e)
	if err == nil {
		_, err = l.store.Put(ctx, store.Put{Key: key(e.At, e.ID), Value: value})
	}
	if err == nil && l.written.Add(1)%int64(max(l.max/pruneShare, 1)) == 0 {
		select {
		case l.grown <- struct{}{}:
		default: // it is time already
		}
	}
	return err
}

// room reports whether one more refusal of a principal is logged.
func (l *Log) room(who string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.denied[who]
	if !ok {
		if len(l.denied) >= maxDenied {
			clear(l.denied)
		}
		b = rate.NewLimiter(rate.Every(deniedEvery), deniedBurst)
		l.denied[who] = b
	}
	return b.AllowN(l.clock(), 1)
}

// Run removes what is old or too much, every hour and whenever much was written,
// until ctx ends.
func (l *Log) Run(ctx context.Context) error {
	ticker := time.NewTicker(pruneEvery)
	defer ticker.Stop()
	for {
		if removed, err := l.Prune(ctx); err != nil && ctx.Err() == nil {
			l.log.Error("activity log not pruned", "error", err)
		} else if removed > 0 {
			l.log.Info("activity log pruned", "removed", removed)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-l.grown:
		}
	}
}

// Prune removes the entries that are older than the retention and, when there are
// more than the largest number, the oldest of those who wrote the most. It answers
// how many. Replicas may do so at once.
func (l *Log) Prune(ctx context.Context) (int, error) {
	oldest := prefix + inverse(l.clock().Add(-l.retention))
	most, err := l.share(ctx, oldest)
	if err != nil {
		return 0, err
	}
	kept, removed := map[string]int{}, 0
	_, err = store.Each(ctx, l.store, prefix, func(r store.Record) error {
		if r.Key < oldest {
			if most == math.MaxInt {
				return nil
			}
			who := writer(r)
			if kept[who]++; kept[who] <= most {
				return nil
			}
		}
		err := l.store.Delete(ctx, r.Key, store.AnyRevision)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		removed++
		return err
	})
	return removed, err
}

// share is how many entries newer than oldest each writer may keep.
func (l *Log) share(ctx context.Context, oldest string) (int, error) {
	count := func(visit func(store.Record)) error {
		_, err := store.Each(ctx, l.store, prefix, func(r store.Record) error {
			if r.Key < oldest {
				visit(r)
			}
			return nil
		})
		return err
	}
	n, wrote := 0, map[string]int{}
	if err := count(func(store.Record) { n++ }); err != nil || n <= l.max {
		return math.MaxInt, err // entries are read only when there are too many
	}
	err := count(func(r store.Record) { wrote[writer(r)]++ })
	return share(wrote, l.max), err
}

// writer is whose deed an entry tells; nobody's when it cannot be read.
func writer(r store.Record) string {
	var e struct {
		Who string `json:"callerObjectId"`
	}
	_ = json.Unmarshal(r.Desired, &e) // a damaged entry counts among those of nobody
	return e.Who
}

// share is how many entries each may keep so that together they are at most limit:
// who has fewer leaves the rest to the others. It is at least one.
func share(wrote map[string]int, limit int) int {
	counts := slices.Sorted(maps.Values(wrote))
	for i, n := range counts {
		each := limit / (len(counts) - i)
		if n > each {
			return max(each, 1)
		}
		limit -= n
	}
	return math.MaxInt
}

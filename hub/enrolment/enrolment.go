// Package enrolment lets clusters in by double opt-in: somebody with the right
// to connect clusters makes a token of limited scope, life and number of uses,
// an agent presents it with proof that it holds its key, and a person, or a rule
// that was given with the token, approves.
//
// A token is kept as a hash. One use is one agent's key for one cluster: an agent
// may ask again and again, but nobody else with its use. Who approves needs the
// right to make the cluster at that moment; for a rule that is who made the
// token. A cluster that is there is never replaced.
package enrolment

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"headwater.dev/api/arm"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
)

// Connection is a cluster to be made for an agent that was let in.
type Connection struct {
	Who               auth.Principal
	ID                arm.ID
	Location          string
	Tags              map[string]string
	PublicKey         string
	From, Correlation string
}

// Config is what enrolment needs.
type Config struct {
	Store store.Store
	// ExternalURL is the hub's address as agents know it, https://host[:port].
	ExternalURL string
	// Connect makes a cluster with the rights of Connection.Who, and fails with
	// arm.CodePreconditionFailed when it is there.
	Connect func(context.Context, Connection) error
	// Canon brings ids to their usual casing; nil leaves them.
	Canon func(arm.ID) arm.ID
	// Clock is time.Now when nil; Logger may be nil.
	Clock  func() time.Time
	Logger *slog.Logger
}

// Desk serves tokens and enrolments at the users' door, and Handler at the
// agents'. Use it from any number of goroutines.
type Desk struct {
	store    store.Store
	audience string
	connect  func(context.Context, Connection) error
	canon    func(arm.ID) arm.ID
	clock    func() time.Time
	log      *slog.Logger
}

// New makes it.
func New(c Config) *Desk {
	d := &Desk{store: c.Store, audience: audience(c.ExternalURL), connect: c.Connect, canon: c.Canon, clock: c.Clock, log: c.Logger}
	if d.canon == nil {
		d.canon = func(id arm.ID) arm.ID { return id }
	}
	if d.clock == nil {
		d.clock = time.Now
	}
	if d.log == nil {
		d.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return d
}

const (
	root           = "/providers/headwater.identity/"
	typeToken      = "Headwater.Identity/enrolmentTokens"
	typeEnrolment  = "Headwater.Identity/enrolments"
	makeClusters   = "Microsoft.Kubernetes/connectedClusters/write"
	attempts       = 32
	maxTokens      = 1000
	patience       = 30 * time.Second
	kindTokens     = "enrolmenttokens"
	kindEnrolments = "enrolments"
)

// target is what a path names.
type target struct {
	scope, kind, name, verb string
}

// parse takes a path apart; ok is false when it is not one of ours.
func parse(path string) (t target, ok bool) {
	at := strings.LastIndex(path, root)
	if at <= 0 {
		return target{}, false
	}
	rest := strings.Split(path[at+len(root):], "/")
	if len(rest) > 3 || rest[0] != kindTokens && rest[0] != kindEnrolments {
		return target{}, false
	}
	t = target{scope: path[:at], kind: rest[0]}
	if len(rest) > 1 {
		t.name = rest[1]
	}
	if len(rest) > 2 {
		t.verb = strings.ToLower(rest[2])
	}
	return t, true
}

// entry is a method on a kind: what it needs and what it does.
type entry struct {
	action   string
	filtered bool
	serve    func(*call) error
}

func (d *Desk) table() map[string]entry {
	return map[string]entry{
		"GET enrolmenttokens":          {typeToken + "/read", true, d.listTokens},
		"GET enrolmenttokens name":     {typeToken + "/read", false, d.getToken},
		"PUT enrolmenttokens name":     {typeToken + "/write", false, d.putToken},
		"DELETE enrolmenttokens name":  {typeToken + "/delete", false, d.deleteToken},
		"GET enrolments":               {typeEnrolment + "/read", true, d.listEnrolments},
		"GET enrolments name":          {typeEnrolment + "/read", false, d.getEnrolment},
		"POST enrolments name approve": {typeEnrolment + "/approve/action", false, d.approveCall},
		"POST enrolments name reject":  {typeEnrolment + "/reject/action", false, d.rejectCall},
		"DELETE enrolments name":       {typeEnrolment + "/delete", false, d.deleteEnrolment},
	}
}

// call is one request that was admitted.
type call struct {
	ctx context.Context
	w   http.ResponseWriter
	r   *http.Request
	target
	who    auth.Principal
	rights auth.Rights
	now    time.Time
}

// Demand says what a request needs; ok is false when its path is another's.
func (d *Desk) Demand(r *http.Request) (auth.Demand, bool, error) {
	t, e, ok, err := d.resolve(r)
	if err != nil || !ok {
		return auth.Demand{}, ok, err
	}
	return auth.Demand{Action: e.action, Scope: t.scope, Resource: t.id(), Filtered: e.filtered}, true, nil
}

func (d *Desk) resolve(r *http.Request) (target, entry, bool, error) {
	t, ok := parse(r.URL.Path)
	if !ok {
		return t, entry{}, false, nil
	}
	key := r.Method + " " + t.kind
	if r.Method == http.MethodHead {
		key = http.MethodGet + " " + t.kind
	}
	if t.name != "" {
		key += " name"
	}
	if t.verb != "" {
		key += " " + t.verb
	}
	e, ok := d.table()[key]
	if !ok {
		return t, e, true, arm.Errorf(arm.CodeMethodNotAllowed, "%s is not possible on %s.", r.Method, r.URL.Path)
	}
	id, err := arm.ParseID(t.scope)
	if err != nil {
		return t, e, true, arm.Errorf(arm.CodeInvalidID, "%v", err)
	}
	id = d.canon(id)
	switch n := len(id.Segments()); {
	case id.Subscription() == "" || n > 2 || n == 2 && id.ResourceGroup() == "":
		return t, e, true, arm.Errorf(arm.CodeInvalidID, "Enrolments and their tokens are of a subscription or a resource group, not of '%s'.", t.scope)
	}
	t.scope = id.String()
	return t, e, true, nil
}

// Serve answers a request that was admitted.
func (d *Desk) Serve(w http.ResponseWriter, r *http.Request, who auth.Principal, rights auth.Rights) error {
	t, e, _, err := d.resolve(r)
	if err != nil {
		return err
	}
	return e.serve(&call{ctx: r.Context(), w: w, r: r, target: t, who: who, rights: rights, now: d.clock().UTC()})
}

// id is the ARM id of what the path names, or of the collection.
func (t target) id() string {
	id := t.scope + "/providers/" + map[string]string{kindTokens: typeToken, kindEnrolments: typeEnrolment}[t.kind]
	if t.name != "" {
		id += "/" + t.name
	}
	return id
}

// body reads the JSON object of a request into v.
func (c *call) body(v any) error {
	control := http.NewResponseController(c.w)
	_ = control.SetReadDeadline(time.Now().Add(patience)) // a connection without deadlines goes without
	raw, err := io.ReadAll(c.r.Body)
	if err == nil { // what is left of a body that did not come must not be waited for
		_ = control.SetReadDeadline(time.Time{})
	}
	if err != nil {
		return arm.Errorf(arm.CodeInvalidBody, "The request body could not be read.")
	}
	if len(raw) == 0 {
		raw = []byte("{}")
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return arm.Errorf(arm.CodeInvalidBody, "The request body must be a JSON object: %v.", err)
	}
	return nil
}

func (c *call) reply(status int, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json; charset=utf-8")
	c.w.WriteHeader(status)
	_, _ = c.w.Write(raw) // the client is gone: nobody to tell
	return nil
}

// list answers with what lies at or below the scope and the caller may read.
func (d *Desk) list(c *call, family, action string, show func(store.Record) (map[string]any, error)) error {
	items := []any{}
	_, err := store.Each(c.ctx, d.store, family+arm.Fold(c.scope)+"/", func(r store.Record) error {
		id := strings.TrimPrefix(r.Key, family)
		if !c.rights.Allows(action, id) {
			return nil
		}
		m, err := show(r)
		if err == nil && m != nil {
			items = append(items, m)
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, arm.Page[any]{Value: items})
}

// update reads a record, lets change decide, and writes it unless somebody else
// was quicker; then it begins anew. change answers false for nothing to write.
func update[T any](ctx context.Context, s store.Store, key string, change func(*T) (ttl time.Duration, write bool, err error)) (T, error) {
	var v T
	for range attempts {
		r, err := s.Get(ctx, key)
		if err != nil {
			return v, err
		}
		var now T
		if err := json.Unmarshal(r.Desired, &now); err != nil {
			return v, err
		}
		ttl, write, err := change(&now)
		if v = now; err != nil || !write {
			return v, err
		}
		raw, err := json.Marshal(now)
		if err != nil {
			return v, err
		}
		_, err = s.Put(ctx, store.Put{Key: key, Value: raw, Expect: r.Revision, TTL: ttl})
		if !errors.Is(err, store.ErrConflict) {
			return v, err
		}
	}
	return v, store.ErrConflict
}

// missing reports whether there is nothing under a key, or can never be.
func missing(err error) bool {
	return errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrInvalid)
}

// stamp is a time as the API writes it.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func clip(s string) string {
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:100], "") + "…"
	}
	return s
}

package gateway

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
	"headwater.dev/hub/vault"
)

const (
	// coalesce is how long a woken stream waits for further changes.
	coalesce = 20 * time.Millisecond
	// maxPoll bounds how long a poll may wait.
	maxPoll = time.Minute
)

// maxDesired bounds the items of one message, in bytes. Protected settings are not
// sent again once they were taken, so that the next message has room for others.
const maxDesired = link.MaxStreamed / 4 * 3

// lockedPatience is how long an item waits for a key that opens its protected
// settings, then it goes without; lockedEvery is how often a stream looks.
const lockedPatience, lockedEvery = 10 * time.Minute, 20 * time.Second

// accepted is what all observed parts of items have in common.
type accepted struct {
	AcceptedGeneration int64 `json:"acceptedGeneration"`
}

// desired is everything the hub wants of a cluster, and the newest revision in
// which any of it was written.
func (g *Gateway) desired(ctx context.Context, c cluster) (link.Desired, int64, error) {
	d := link.Desired{Cluster: c.id, Epoch: c.observed.Epoch, Items: []link.Item{}, RotateKey: c.rotateAt.After(c.keys.Keys.RotatedAt)}
	newest, bytes, left := c.record.DesiredRevision, 0, 0
	revision, err := store.Each(ctx, g.store, c.record.Key+items, func(r store.Record) error {
		k, ok := itemOf(c.record.Key, r.Key)
		if !ok {
			return nil
		}
		newest = max(newest, r.DesiredRevision)
		if len(d.Items) == link.MaxItems {
			g.log.Error("cluster has too many items, the rest is left out", "cluster", c.record.Key, "most", link.MaxItems)
			return nil
		}
		item, ok, err := g.item(ctx, c, k, r)
		if err != nil || !ok {
			return err
		}
		if bytes += len(r.Desired) + base64.StdEncoding.EncodedLen(len(item.Sealed)); bytes > maxDesired {
			left++
			return nil
		}
		d.Items = append(d.Items, item)
		return nil
	})
	if left > 0 {
		g.log.Warn("a cluster is told of a part at a time: it has too many protected settings that its agent has not taken yet", "cluster", c.record.Key, "left", left)
		time.AfterFunc(lockedEvery, func() { g.streams.wake(c.record.Key) })
	}
	d.Revision = max(revision, c.record.Revision)
	return d, newest, err
}

// item is one record as its agent gets it. ok is false for a change that no
// agent took in 48 hours: it has failed, and nothing stale is handed out; and for
// one whose protected settings no key opens yet.
func (g *Gateway) item(ctx context.Context, c cluster, k kind, r store.Record) (item link.Item, ok bool, err error) {
	var d resource.Desired[json.RawMessage]
	if err := json.Unmarshal(r.Desired, &d); err != nil {
		return item, false, fmt.Errorf("read %s: %w", r.Key, err)
	}
	var o accepted
	if len(r.Observed) > 0 {
		if err := json.Unmarshal(r.Observed, &o); err != nil {
			return item, false, fmt.Errorf("read what was observed of %s: %w", r.Key, err)
		}
	}
	if change := d.LastChange(r.Generation); o.AcceptedGeneration < change.Generation && g.clock().Sub(change.At) > resource.AgentPatience {
		return item, false, nil
	}
	item = link.Item{
		ID: d.ID, Name: d.Name, Generation: r.Generation,
		OperationID: d.OperationID, CorrelationID: d.CorrelationID, TraceParent: d.TraceParent, ReconcileRequestedAt: d.ReconcileRequestedAt,
		Delete: d.Deleting, ProtectedVersion: d.ProtectedVersion, Pending: o.AcceptedGeneration < r.Generation,
	}
	if k == extension {
		item.Extension = &resource.ExtensionProperties{}
		err = json.Unmarshal(d.Properties, item.Extension)
	} else {
		item.Configuration = &resource.FluxConfigurationProperties{}
		err = json.Unmarshal(d.Properties, item.Configuration)
	}
	if err != nil {
		return item, false, fmt.Errorf("read properties of %s: %w", r.Key, err)
	}
	if d.ProtectedVersion != "" && !d.Deleting {
		item.Sealed, err = g.sealed(ctx, c, r.Key, d.ProtectedVersion)
		if errors.Is(err, vault.ErrLocked) {
			g.log.Error("protected settings cannot be opened now", "id", r.Key, "error", err)
			if err = nil; g.clock().Sub(d.UpdatedAt) < lockedPatience {
				time.AfterFunc(lockedEvery, func() { g.streams.wake(c.record.Key) })
				return item, false, nil
			}
		}
	}
	return item, err == nil, err
}

// sealed is the protected settings of an item while the vault has them.
func (g *Gateway) sealed(ctx context.Context, c cluster, key, version string) ([]byte, error) {
	sealed, err := g.vault.Release(ctx, key, version, c.key, c.keys.FormerFingerprints()...)
	switch {
	case errors.Is(err, vault.ErrGone):
		return nil, nil
	case errors.Is(err, vault.ErrOtherKey):
		g.log.Warn("protected settings are sealed to a former key of the cluster; they must be put again", "id", key)
		return nil, nil
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, vault.ErrLocked), ctx.Err() != nil:
		return nil, err
	case err != nil:
		// One damaged entry must not keep the rest from the cluster.
		g.log.Error("protected settings not released", "id", key, "error", err)
		return nil, nil
	}
	return sealed, nil
}

// serveDesired answers with a stream or, for stream=false, with one message.
func (g *Gateway) serveDesired(w http.ResponseWriter, r *http.Request) {
	var p auth.Principal
	var q query
	var s *stream
	err := apart(func() error {
		leave, err := g.admission.enter(r.Context(), true)
		if err != nil {
			return err
		}
		defer leave()
		var c cluster
		if p, c, err = g.caller(r); err != nil {
			return err
		}
		if q, err = parseQuery(r); err != nil {
			return err
		}
		if err = g.quotas.allow(c.record.Key, desiredQuota, 1); err != nil {
			return err
		}
		if q.stream || q.revision == 0 { // not for each poll of an agent that is there
			if err = g.admission.begin(); err != nil {
				return err
			}
		}
		s = g.streams.open(c.record.Key, c.fingerprint)
		return g.welcome(r.Context(), c, q, r.Header.Get(link.HeaderSession))
	})
	if s != nil {
		defer g.streams.close(s)
	}
	if err != nil {
		g.problem(w, r, err)
		return
	}
	// A server's limit on reading a request must not end the wait for changes.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if !q.stream {
		g.poll(w, r, p, s, q)
		return
	}
	g.metrics.connected.Inc()
	defer g.metrics.connected.Dec()
	r.Header.Del("Authorization") // not to be kept for as long as the agent is connected
	g.stream(w, r, p, s)
}

// welcome notes that an agent connects, and which, and begins a new epoch for it
// when it knows more than this hub: the hub was restored from a backup since. The
// agent then takes what is desired now, though its revision is older.
func (g *Gateway) welcome(ctx context.Context, c cluster, q query, session string) error {
	if len(session) > maxSession {
		return &refusal{status: http.StatusBadRequest, code: "InvalidHeader", message: fmt.Sprintf("the header %s has at most %d bytes", link.HeaderSession, maxSession)}
	}
	_, now, err := g.store.List(ctx, store.List{Prefix: c.record.Key, Limit: 1})
	if err != nil {
		return err
	}
	ahead := func(o resource.ClusterObserved) bool {
		return q.epoch > o.Epoch || q.epoch == o.Epoch && q.known > now.Revision
	}
	var begin func(*resource.ClusterObserved)
	if ahead(c.observed) {
		g.log.Warn("an agent knows more than this hub, which must have gone back: a new epoch begins", "cluster", c.record.Key,
			"known", q.known, "revision", now.Revision)
		begin = func(o *resource.ClusterObserved) {
			if ahead(*o) {
				o.Epoch = min(max(o.Epoch, q.epoch), math.MaxInt64-1) + 1
			}
		}
	}
	return g.introduce(ctx, c, visit{session: session, asks: true}, begin, true)
}

// poll answers when there is something newer than the agent knows, or with 204
// when there is nothing after the wait.
func (g *Gateway) poll(w http.ResponseWriter, r *http.Request, p auth.Principal, s *stream, q query) {
	extend(w, q.wait+g.writePatience)
	timeout := time.NewTimer(q.wait)
	defer timeout.Stop()
	for {
		c, err := g.current(r.Context(), p)
		if err != nil {
			g.problem(w, r, err)
			return
		}
		d, newest, err := g.desired(r.Context(), c)
		if err != nil {
			g.problem(w, r, err)
			return
		}
		if q.revision == 0 || newest > q.revision || d.Revision < q.revision {
			g.metrics.messages.Inc()
			g.trace(r.Context(), d.Items)
			answer(w, http.StatusOK, link.Message{Desired: &d})
			return
		}
		select {
		case <-s.changed:
		case <-timeout.C:
			w.WriteHeader(http.StatusNoContent)
			return
		case <-s.evicted:
			w.WriteHeader(http.StatusNoContent)
			return
		case <-g.draining:
			w.WriteHeader(http.StatusNoContent)
			return
		case <-r.Context().Done():
			return
		}
	}
}

// stream sends everything desired, and again after every change, until the
// token ends, the agent hangs up or is shut out, or the hub stops.
func (g *Gateway) stream(w http.ResponseWriter, r *http.Request, p auth.Principal, s *stream) {
	expiry := time.NewTimer(p.Expires.Sub(g.clock()))
	defer expiry.Stop()
	ping := time.NewTicker(g.pingEvery)
	defer ping.Stop()
	sender := &sender{w: w, control: http.NewResponseController(w), patience: g.writePatience}
	for {
		line, err := g.line(r.Context(), p)
		if err != nil {
			g.endStream(w, r, sender, err)
			return
		}
		g.metrics.messages.Inc()
		if sender.send(line) != nil {
			return
		}
		for idle := true; idle; {
			select {
			case <-s.changed:
				idle = false
			case <-ping.C:
				if sender.ping(g.clock()) != nil {
					return
				}
			case <-expiry.C:
				return
			case <-s.evicted:
				return
			case <-g.draining:
				return
			case <-r.Context().Done():
				return
			}
		}
		if !g.gather(r.Context(), s) {
			return
		}
	}
}

// endStream tells why, when nothing was sent yet; otherwise the agent finds out
// when it connects again.
func (g *Gateway) endStream(w http.ResponseWriter, r *http.Request, s *sender, err error) {
	if !s.begun {
		g.problem(w, r, err)
		return
	}
	if r.Context().Err() == nil {
		g.log.Info("stream ended", "reason", err)
	}
}

// gather waits a moment so that changes made together arrive together.
func (g *Gateway) gather(ctx context.Context, s *stream) bool {
	select {
	case <-time.After(coalesce):
	case <-ctx.Done():
		return false
	}
	select {
	case <-s.changed:
	default:
	}
	return true
}

// line is everything desired of an agent's cluster, as one line of a stream.
func (g *Gateway) line(ctx context.Context, p auth.Principal) (line []byte, err error) {
	err = g.inTurn(ctx, func() error {
		c, err := g.current(ctx, p)
		if err != nil {
			return err
		}
		d, _, err := g.desired(ctx, c)
		if err != nil {
			return err
		}
		g.trace(ctx, d.Items)
		line, err = link.Message{Desired: &d}.Line()
		return err
	})
	return line, err
}

// trace makes a span of each delivery of what somebody asked for in a trace and
// the cluster has not accepted yet; the agent continues below it.
func (g *Gateway) trace(ctx context.Context, list []link.Item) {
	if g.delivering == nil {
		return
	}
	for i := range list {
		if list[i].Pending && list[i].TraceParent != "" {
			list[i].TraceParent = g.delivering(ctx, list[i])
		}
	}
}

// sender writes the messages of a stream, each apart from the stream's own stack.
type sender struct {
	w       http.ResponseWriter
	control *http.ResponseController
	// patience bounds the time an agent may take to read one message.
	patience time.Duration
	begun    bool
}

func (s *sender) ping(now time.Time) error {
	return apart(func() error {
		line, err := link.Message{Ping: &link.Ping{Time: now.UTC()}}.Line()
		if err != nil {
			return err
		}
		return s.write(line)
	})
}

func (s *sender) send(line []byte) error {
	return apart(func() error { return s.write(line) })
}

func (s *sender) write(line []byte) error {
	if !s.begun {
		s.begun = true
		s.w.Header().Set("Content-Type", "application/x-ndjson")
		s.w.Header().Set("Cache-Control", "no-store")
		s.w.Header().Set("X-Accel-Buffering", "no") // for proxies that heed it
	}
	extend(s.w, s.patience)
	if _, err := s.w.Write(line); err != nil {
		return err
	}
	if err := s.control.Flush(); err != nil {
		return err
	}
	// Over HTTP/2 a deadline that passes ends the stream though nothing is being written.
	_ = s.control.SetWriteDeadline(time.Time{})
	return nil
}

// extend lets an answer last for another while, whatever the server's own limit
// is. Where the connection cannot do that, the server's limit stays.
func extend(w http.ResponseWriter, d time.Duration) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(d))
}

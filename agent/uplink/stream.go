package uplink

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"headwater.dev/api/link"
)

// retrySpread bounds what is added to the pause that the hub asked for.
const retrySpread = 5 * time.Second

// heldBackStreams is how many streams in a row have to carry nothing until the agent
// polls instead: one may be the fault of a hub that is short of time, as when its
// whole fleet comes back, and polls would cost it more.
const heldBackStreams = 2

// errHeldBack means that a stream was opened but nothing came through, as
// behind a proxy that collects an answer before it passes it on.
var errHeldBack = errors.New("the stream was opened but carried nothing: a proxy seems to hold it back")

// errSilent means that a stream stopped carrying even pings.
var errSilent = errors.New("the stream fell silent")

// receive delivers what the hub desires until ctx ends.
func (u *Uplink) receive(ctx context.Context) error {
	retry := newBackoff(u.timing)
	var pollUntil time.Time
	silent := 0
	for ctx.Err() == nil {
		exchange := u.stream
		if time.Now().Before(pollUntil) {
			exchange = u.poll
		}
		delivered, err := exchange(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errHeldBack) {
			if silent++; silent == heldBackStreams {
				silent, pollUntil, u.revision = 0, time.Now().Add(u.timing.pollFor), 0
				u.config.Log.Info("polling the hub", "reason", err.Error(), "for", u.timing.pollFor.String())
				continue
			}
		}
		if delivered {
			silent = 0
			retry.reset()
		}
		if err != nil {
			u.config.Log.Info("not connected to the hub, will retry", "error", err.Error())
		}
		pause(ctx, longer(retry.next(), err))
	}
	return nil
}

// longer is the pause that the hub asked for, and up to as long again so that a
// fleet that was sent away does not come back at one moment; wait when that is
// longer or the hub asked for none.
func longer(wait time.Duration, err error) time.Duration {
	var r *refusal
	if !errors.As(err, &r) || r.after == 0 {
		return wait
	}
	return max(wait, r.after+rand.N(min(r.after, retrySpread)))
}

// stream holds one stream open as long as it lasts. A nil error means that the
// hub ended it in order, as it does when the token expires.
func (u *Uplink) stream(ctx context.Context) (delivered bool, err error) {
	token, err := u.tokens.get(ctx)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alarm := &alarm{cancel: cancel}
	defer alarm.stop()
	alarm.set(u.timing.firstMessage, errHeldBack)
	res, err := u.open(ctx, token, url.Values{"revision": {"0"}, "stream": {"true"}})
	if err != nil {
		return false, causeOf(ctx, err)
	}
	defer res.Body.Close()

	lines := bufio.NewScanner(res.Body)
	lines.Buffer(make([]byte, 0, 16<<10), link.MaxStreamed)
	for lines.Scan() {
		alarm.set(u.timing.silence, errSilent)
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var m link.Message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return delivered, fmt.Errorf("read a message of the hub: %w", err)
		}
		if m.Desired == nil {
			continue
		}
		if err := u.deliver(ctx, *m.Desired, !delivered); err != nil {
			return delivered, err
		}
		delivered = true
	}
	return delivered, causeOf(ctx, lines.Err())
}

// alarm ends a stream that does not show life in time. It is used by one
// goroutine.
type alarm struct {
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

// set moves the alarm to d from now, with a new reason.
func (a *alarm) set(d time.Duration, reason error) {
	a.stop()
	a.timer = time.AfterFunc(d, func() { a.cancel(reason) })
}

func (a *alarm) stop() {
	if a.timer != nil {
		a.timer.Stop()
	}
}

// poll asks once for something newer than what is known.
func (u *Uplink) poll(ctx context.Context) (delivered bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, u.timing.pollWait+u.timing.request)
	defer cancel()
	token, err := u.tokens.get(ctx)
	if err != nil {
		return false, err
	}
	first := u.revision == 0
	res, err := u.open(ctx, token, url.Values{
		"revision": {strconv.FormatInt(u.revision, 10)},
		"stream":   {"false"},
		"wait":     {u.timing.pollWait.String()},
	})
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNoContent {
		u.isConnected()
		return true, nil
	}
	var m link.Message
	if err := json.NewDecoder(io.LimitReader(res.Body, link.MaxStreamed)).Decode(&m); err != nil {
		return false, fmt.Errorf("read the hub's answer: %w", err)
	}
	if m.Desired == nil {
		return false, errors.New("the hub's answer holds nothing desired")
	}
	return true, u.deliver(ctx, *m.Desired, first)
}

// open asks for what is desired and returns a successful answer.
func (u *Uplink) open(ctx context.Context, token string, query url.Values) (*http.Response, error) {
	query.Set("epoch", strconv.FormatInt(u.epoch, 10))
	query.Set("known", strconv.FormatInt(u.known, 10))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.url(link.PathDesired)+"?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set(link.HeaderSession, *u.session.Load())
	res, err := u.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the hub what is desired: %w", err)
	}
	if res.StatusCode/100 != 2 {
		defer res.Body.Close()
		return nil, u.refused(res, token)
	}
	return res, nil
}

// deliver checks a message and hands it on. The first of a connection also
// makes everything that was reported before be reported again.
func (u *Uplink) deliver(ctx context.Context, d link.Desired, first bool) error {
	if fold(d.Cluster) != fold(u.config.Cluster) {
		return fmt.Errorf("the hub spoke to cluster %q; this is %q", clip(d.Cluster), u.config.Cluster)
	}
	if len(d.Items) > link.MaxItems {
		return fmt.Errorf("the hub desires %d items; at most %d are taken", len(d.Items), link.MaxItems)
	}
	if d.Epoch < u.epoch || d.Epoch == u.epoch && d.Revision < u.known {
		return fmt.Errorf("the hub went back from revision %d of epoch %d to %d of %d; it is told so with the next connection",
			u.known, u.epoch, d.Revision, d.Epoch)
	}
	prefix := fold(u.config.Cluster) + "/"
	for _, item := range d.Items {
		if !strings.HasPrefix(fold(item.ID), prefix) {
			return fmt.Errorf("the hub desires %q, which is not of this cluster", clip(item.ID))
		}
	}
	if u.config.Remember != nil && (d.Epoch != u.epoch || d.Revision != u.known) {
		if err := u.config.Remember(ctx, Mark{Epoch: d.Epoch, Revision: d.Revision}); err != nil {
			return fmt.Errorf("keep how far the hub's wishes have come, without which none is carried out: %w", err)
		}
	}
	if first {
		u.config.Log.Info("connected to the hub", "revision", d.Revision, "items", len(d.Items))
		u.outbox.renew(d.Items)
		if u.config.Connected != nil {
			u.config.Connected()
		}
	}
	u.revision, u.known, u.epoch = d.Revision, d.Revision, d.Epoch
	u.isConnected()
	if d.RotateKey {
		u.askForKey()
	}
	u.config.Desired(d)
	return nil
}

// isConnected lets the sender try at once instead of waiting for its back-off.
func (u *Uplink) isConnected() {
	select {
	case u.connected <- struct{}{}:
	default:
	}
}

// causeOf prefers why the stream was ended by us over what that looked like.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
		return cause
	}
	return err
}

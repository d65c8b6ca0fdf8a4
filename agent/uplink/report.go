package uplink

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"headwater.dev/api/link"
)

// reportBytes leaves room for the envelope of a report.
const reportBytes = link.MaxReportBytes - 64<<10

// send reports until ctx ends: observations as they come, gathered for a
// moment, and a heartbeat from time to time.
func (u *Uplink) send(ctx context.Context) error {
	beat := time.NewTimer(0)
	defer beat.Stop()
	due := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-beat.C:
			due = true
			beat.Reset(jitter(u.timing.heartbeat))
		case <-u.outbox.ready:
			if !pause(ctx, u.timing.gather) {
				return nil
			}
		}
		if err := u.flush(ctx, due); err != nil {
			return nil
		}
		due = false
	}
}

// flush sends until nothing is pending. It returns an error only when ctx has
// ended.
func (u *Uplink) flush(ctx context.Context, beat bool) error {
	retry := newBackoff(u.timing)
	most := link.MaxItems
	for ctx.Err() == nil {
		parcels := u.outbox.peek(most, reportBytes)
		if len(parcels) == 0 && !beat {
			return nil
		}
		err := u.post(ctx, parcels, beat)
		if err == nil {
			u.outbox.accepted(parcels)
			retry.reset()
			beat, most = false, min(most*2, link.MaxItems)
			continue
		}
		if u.unacceptable(err, parcels) {
			if len(parcels) > 1 {
				most = 1
			}
			continue
		}
		u.config.Log.V(1).Info("report not taken, will retry", "error", err.Error())
		wait := retry.next()
		var r *refusal
		if errors.As(err, &r) {
			wait = max(wait, r.after)
		}
		select {
		case <-ctx.Done():
		case <-u.connected:
		case <-time.After(wait):
		}
	}
	return ctx.Err()
}

// unacceptable handles an answer that a repetition would not change. It
// reports whether to go on at once: with a single parcel at a time to find the
// one that the hub does not take, then without that one.
func (u *Uplink) unacceptable(err error, parcels []parcel) bool {
	var r *refusal
	if !errors.As(err, &r) {
		return false
	}
	switch {
	case r.status == http.StatusConflict:
		u.begin()
		return false
	case len(parcels) == 0:
		return false
	case r.status == http.StatusRequestEntityTooLarge:
	case r.code != "" && (r.status == http.StatusBadRequest || r.status == http.StatusUnprocessableEntity):
	default: // Perhaps not even the hub's own answer.
		return false
	}
	if len(parcels) == 1 {
		u.config.Log.Info("the hub does not take this status", "id", parcels[0].observed.ID, "error", r.Error())
		u.outbox.setAside(parcels[0])
	}
	return true
}

func (u *Uplink) post(ctx context.Context, parcels []parcel, beat bool) error {
	ctx, cancel := context.WithTimeout(ctx, u.timing.request)
	defer cancel()
	token, err := u.tokens.get(ctx)
	if err != nil {
		return err
	}
	u.sequence++
	report := link.Report{Session: *u.session.Load(), Sequence: u.sequence}
	if beat && u.config.Heartbeat != nil {
		h := u.config.Heartbeat(ctx)
		report.Heartbeat = &h
	}
	for _, p := range parcels {
		report.Items = append(report.Items, p.observed)
	}
	body, err := json.Marshal(report)
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.url(link.PathObserved), bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer u.continued(req, parcels)()
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := u.http.Do(req)
	if err != nil {
		return fmt.Errorf("report to the hub: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		return u.refused(res, token)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer))
	return err
}

// refused reads a refusal and forgets a token that is no longer good.
func (u *Uplink) refused(res *http.Response, token string) error {
	if res.StatusCode == http.StatusUnauthorized {
		u.tokens.drop(token)
	}
	return newRefusal(res)
}

// backoff gives growing pauses with jitter, so that a fleet does not come back
// at the same moment.
type backoff struct {
	first, longest, now time.Duration
}

func newBackoff(t timing) *backoff {
	return &backoff{first: t.retry, longest: t.retryMax, now: t.retry}
}

func (b *backoff) next() time.Duration {
	wait := jitter(b.now)
	b.now = min(b.now*2, b.longest)
	return wait
}

func (b *backoff) reset() { b.now = b.first }

// jitter gives a duration between a half and the whole of d.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// pause waits; it reports false when ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

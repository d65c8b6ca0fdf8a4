package store

import (
	"context"
	"time"
)

// Feed is the sending end of a watch; implementations use it so that all of
// them treat slow readers alike. It belongs to one goroutine.
type Feed struct {
	events   chan Event
	patience time.Duration
}

// NewFeed makes a feed that waits for its reader for at most patience per event.
func NewFeed(patience time.Duration) *Feed {
	return &Feed{events: make(chan Event, WatchBuffer), patience: patience}
}

// Events is the reader's end.
func (f *Feed) Events() <-chan Event { return f.events }

// Send hands an event to the reader. It fails with ErrSlow when the reader did
// not take it in time and with the context's error when that ended.
func (f *Feed) Send(ctx context.Context, e Event) error {
	select {
	case f.events <- e:
		return nil
	default:
	}
	timer := time.NewTimer(f.patience)
	defer timer.Stop()
	select {
	case f.events <- e:
		return nil
	case <-timer.C:
		return ErrSlow
	case <-ctx.Done():
		return ctx.Err()
	}
}

// End tells the reader why the watch is over and closes the channel. It returns
// when the reader took that, or when ctx ends. Nothing may be sent afterwards.
func (f *Feed) End(ctx context.Context, err error) {
	defer close(f.events)
	if err == nil || ctx.Err() != nil {
		return
	}
	select {
	case f.events <- Event{Err: err}:
	case <-ctx.Done():
	}
}

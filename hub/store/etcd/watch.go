package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"headwater.dev/hub/store"
)

// errWatchEnded is a watch that etcd closed without a reason, as it does when it
// stops.
var errWatchEnded = errors.New("etcd closed the watch")

// Watch sends every change below prefix with Revision > from until ctx ends.
func (s *Store) Watch(ctx context.Context, prefix string, from int64) (<-chan store.Event, error) {
	from = max(from, 1)
	// A watch tells only later that its start is out of reach, and waits for
	// ever for a start in the future. A read tells at once.
	if _, err := s.client().Get(ctx, s.prefix, clientv3.WithRev(from), clientv3.WithCountOnly()); err != nil {
		return nil, fmt.Errorf("watch %s from revision %d: %w", prefix, from, fault(ctx, err))
	}
	watching, cancel := context.WithCancel(ctx)
	if s.member == nil {
		watching = clientv3.WithRequireLeader(watching)
	}
	answers := s.client().Watch(watching, s.prefix+prefix, clientv3.WithPrefix(), clientv3.WithRev(from+1))
	feed := store.NewFeed(s.patience)
	go func() {
		err := s.pump(ctx, feed, answers)
		cancel()
		feed.End(ctx, err)
	}()
	return feed.Events(), nil
}

// pump sends until something ends it and says what.
func (s *Store) pump(ctx context.Context, feed *store.Feed, answers clientv3.WatchChan) error {
	var last store.Event
	for answer := range answers {
		if err := answer.Err(); err != nil {
			return fault(ctx, err)
		}
		if err := s.applied(ctx, answer.Events); err != nil {
			return err
		}
		for _, e := range answer.Events {
			event := s.event(e)
			// Both keys in one revision are a deletion, or an observed part that
			// moved to its record's new lease: one change.
			if event.Key == last.Key && event.Revision == last.Revision {
				continue
			}
			last = event
			if err := feed.Send(ctx, event); err != nil {
				return err
			}
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, errWatchEnded)
}

// applied waits until reads see what happened. A lone member tells its watchers of
// a write a moment before it shows the write to those who read what it has.
func (s *Store) applied(ctx context.Context, events []*clientv3.Event) error {
	if s.member == nil || len(events) == 0 {
		return nil
	}
	last := events[len(events)-1].Kv.ModRevision
	for {
		// Reading as of a revision is refused while that lies in the future.
		_, err := s.own(ctx, s.prefix, clientv3.WithRev(last), clientv3.WithCountOnly())
		if !errors.Is(err, rpctypes.ErrFutureRev) {
			if errors.Is(err, rpctypes.ErrCompacted) { // long since
				return nil
			}
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Microsecond):
		}
	}
}

func (s *Store) event(e *clientv3.Event) store.Event {
	key, part := s.split(e.Kv.Key)
	event := store.Event{Key: key, Revision: e.Kv.ModRevision}
	if e.Type == clientv3.EventTypeDelete {
		event.Deleted = true
		return event
	}
	event.Part, event.Value = part, e.Kv.Value
	if part == store.Desired {
		event.Generation = e.Kv.Version
	}
	return event
}

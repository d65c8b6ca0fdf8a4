package gateway_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"headwater.dev/api/link"
	"headwater.dev/hub/store"
	"headwater.dev/hub/store/memory"
)

// outage is a store that can be away: its watches end, and nothing is answered.
type outage struct {
	store.Store

	mu   sync.Mutex
	away chan struct{} // nil while it is there
	// tries is how often somebody asked in vain for records of all clusters.
	tries int
	ends  chan struct{}
}

func (s *outage) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away, s.tries = make(chan struct{}), 0
	close(s.ends)
	s.ends = make(chan struct{})
}

func (s *outage) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = nil
}

func (s *outage) gone() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away != nil {
		return store.ErrUnavailable
	}
	return nil
}

func (s *outage) Get(ctx context.Context, key string) (store.Record, error) {
	if err := s.gone(); err != nil {
		return store.Record{}, err
	}
	return s.Store.Get(ctx, key)
}

func (s *outage) List(ctx context.Context, l store.List) ([]store.Record, store.Page, error) {
	if err := s.gone(); err != nil {
		s.mu.Lock()
		s.tries++
		s.mu.Unlock()
		return nil, store.Page{}, err
	}
	return s.Store.List(ctx, l)
}

func (s *outage) Watch(ctx context.Context, prefix string, from int64) (<-chan store.Event, error) {
	if err := s.gone(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	ends := s.ends
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	events, err := s.Store.Watch(ctx, prefix, from)
	out := make(chan store.Event)
	go func() {
		defer cancel()
		defer close(out)
		for {
			select {
			case e, ok := <-events:
				if !ok {
					return
				}
				out <- e
			case <-ends:
				out <- store.Event{Err: errors.New("the connection broke")}
				return
			}
		}
	}()
	return out, err
}

func (s *outage) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tries
}

// TestStreamsOutliveAMomentWithoutTheStore takes the store away for a moment, and
// then for long: in a moment nobody is sent away and nothing is missed.
func TestStreamsOutliveAMomentWithoutTheStore(t *testing.T) {
	s := &outage{Store: memory.New(), ends: make(chan struct{})}
	h := newHub(t, s)
	f, other := h.edge().follow(), h.agent(otherID, clusterKeys()[1]).follow()
	f.next()
	other.next()
	tries := func(n int) {
		t.Helper()
		for deadline := time.Now().Add(patience); s.asked() < n; <-time.After(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("asked %d times, want %d", s.asked(), n)
			}
		}
	}
	s.begin()
	tries(2)
	s.end()
	h.putConfig(edgeID, "apps", nil)
	f.until("what changed", func(d link.Desired) bool { return ids(d) == "apps/1" })
	h.putConfig(otherID, "apps", nil)
	other.until("what changed there", func(d link.Desired) bool { return ids(d) == "apps/1" })

	s.begin()
	tries(1)
	h.advance(time.Minute)
	f.ended("the store is away for long")
	other.ended("the store is away for long")
	s.end()
}

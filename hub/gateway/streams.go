package gateway

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// maxStreams is how many streams and polls one cluster may have open. Old ones
// may linger half-open behind a proxy; the oldest has to go.
const maxStreams = 4

// stream is one agent waiting for changes.
type stream struct {
	cluster string
	// key is the fingerprint of the key that the agent came with.
	key string
	// changed holds a token when something changed since it was last taken.
	changed chan struct{}
	// evicted is closed when the stream has to make room.
	evicted chan struct{}
}

// streams are all of this process, by cluster.
type streams struct {
	mu        sync.Mutex
	byCluster map[string][]*stream
	total     int
	closed    chan struct{} // replaced whenever total falls to zero
}

func newStreams() *streams {
	return &streams{byCluster: map[string][]*stream{}, closed: make(chan struct{})}
}

func (s *streams) open(cluster, key string) *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := &stream{cluster: cluster, key: key, changed: make(chan struct{}, 1), evicted: make(chan struct{})}
	list := s.byCluster[cluster]
	if len(list) == maxStreams {
		close(list[0].evicted)
		list = slices.Clone(list[1:])
		s.total--
	}
	s.byCluster[cluster] = append(list, n)
	s.total++
	return n
}

func (s *streams) close(old *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.byCluster[old.cluster]
	i := slices.Index(list, old)
	if i < 0 { // evicted
		return
	}
	if s.total--; s.total == 0 {
		close(s.closed)
		s.closed = make(chan struct{})
	}
	if len(list) == 1 {
		delete(s.byCluster, old.cluster)
		return
	}
	s.byCluster[old.cluster] = slices.Delete(slices.Clone(list), i, i+1)
}

func (s *streams) wake(cluster string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.byCluster[cluster] {
		o.wake()
	}
}

// any reports whether an agent of a cluster waits here.
func (s *streams) any(cluster string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byCluster[cluster]) > 0
}

// outdated reports whether one of them came with another key than the one that
// counts.
func (s *streams) outdated(cluster, key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.byCluster[cluster], func(o *stream) bool { return o.key != key })
}

func (s *streams) wakeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, list := range s.byCluster {
		for _, o := range list {
			o.wake()
		}
	}
}

func (o *stream) wake() {
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

func (s *streams) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

// wait reports whether all streams have gone within d.
func (s *streams) wait(d time.Duration) bool {
	s.mu.Lock()
	total, closed := s.total, s.closed
	s.mu.Unlock()
	if total == 0 {
		return true
	}
	select {
	case <-closed:
		return true
	case <-time.After(d):
		return false
	}
}

// lookAtOnce is how many streams look at the same time for what is desired: when
// all have reason to, as after the store was away, they do so one after the other.
const lookAtOnce = 64

// inTurn does something apart when there is a place for it.
func (g *Gateway) inTurn(ctx context.Context, do func() error) error {
	select {
	case g.looking <- struct{}{}:
		defer func() { <-g.looking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return apart(do)
}

// apart does what needs much stack in a goroutine that ends with it: the
// goroutine of a stream would keep that stack for as long as an agent is
// connected.
func apart(do func() error) error {
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("panic: %v", p)
			}
		}()
		done <- do()
	}()
	return <-done
}

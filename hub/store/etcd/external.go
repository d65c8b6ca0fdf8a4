package etcd

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"headwater.dev/hub/store"
)

const (
	// verbPatience bounds one verb, whatever the storage does: a caller is told
	// to try again rather than kept.
	verbPatience = 10 * time.Second
	// probeEvery and probePatience are how often a member is asked, and how long
	// its answer may take before it is left out.
	probeEvery, probePatience = time.Second, 1500 * time.Millisecond
	// drainPatience is how long a connection that was replaced stays open for
	// what is under way on it.
	drainPatience = 2 * time.Second
)

// errPatience is the storage that did not answer within verbPatience.
var errPatience = fmt.Errorf("%w: it did not answer within %s", store.ErrUnavailable, verbPatience)

// bounded is a context in which one verb has to be done.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, verbPatience, errPatience)
}

// get reads, and reads again when the connection was replaced meanwhile.
func (s *Store) get(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if s.member != nil {
		return s.own(ctx, key, options...)
	}
	for {
		line := s.client()
		resp, err := line.Get(ctx, key, options...)
		if err == nil || s.client() == line || ctx.Err() != nil {
			return resp, fault(ctx, err)
		}
	}
}

// connect makes a client of an external cluster and watches over its members.
func (s *Store) connect(_ context.Context, c Config) error {
	base := clientv3.Config{
		Endpoints:            c.Endpoints,
		TLS:                  c.TLS,
		Username:             c.Username,
		Password:             c.Password,
		DialTimeout:          10 * time.Second,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		Logger:               zapLogger(s.log),
	}
	client, err := clientv3.New(base)
	if err != nil {
		return fmt.Errorf("connect to %v: %w", c.Endpoints, err)
	}
	s.line.Store(client)
	if len(c.Endpoints) > 1 {
		s.background(func(ctx context.Context) { s.mindMembers(ctx, base) })
	}
	return nil
}

// mindMembers keeps the connection on members that answer. A client of etcd
// spreads requests over all members that it has a connection to, and finds out
// only after a quarter of a minute that one of them says nothing any more.
func (s *Store) mindMembers(ctx context.Context, base clientv3.Config) {
	probes := make([]*clientv3.Client, len(base.Endpoints))
	for i, endpoint := range base.Endpoints {
		alone := base
		alone.Endpoints = []string{endpoint}
		var err error
		if probes[i], err = clientv3.New(alone); err != nil {
			s.log.Error("etcd member cannot be probed", "endpoint", endpoint, "error", err)
			continue
		}
		defer probes[i].Close()
	}
	using := base.Endpoints
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		answering := s.answering(ctx, base.Endpoints, probes)
		// When nobody answers there is nothing better than what is.
		if ctx.Err() != nil || len(answering) == 0 || slices.Equal(answering, using) {
			continue
		}
		if err := s.use(ctx, base, using, answering); err != nil {
			s.log.Error("connection to etcd not moved", "endpoints", answering, "error", err)
			continue
		}
		s.log.Info("etcd members that answer have changed", "using", answering, "before", using)
		using = answering
	}
}

// answering are the endpoints whose member can do a linearisable read by now.
func (s *Store) answering(ctx context.Context, endpoints []string, probes []*clientv3.Client) []string {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	ok := make([]bool, len(endpoints))
	var all sync.WaitGroup
	for i, probe := range probes {
		if probe == nil {
			ok[i] = true
			continue
		}
		all.Go(func() {
			_, err := probe.Get(ctx, s.prefix, clientv3.WithCountOnly())
			ok[i] = err == nil
		})
	}
	all.Wait()
	var list []string
	for i, endpoint := range endpoints {
		if ok[i] {
			list = append(list, endpoint)
		}
	}
	return list
}

// use moves the connection. When a member in use is gone, what waits for it has
// to fail soon: the whole connection is replaced. What is under way at the other
// members gets the time to end well, for a member may only have been slow.
func (s *Store) use(ctx context.Context, base clientv3.Config, before, now []string) error {
	lost := slices.ContainsFunc(before, func(e string) bool { return !slices.Contains(now, e) })
	if !lost {
		s.client().SetEndpoints(now...)
		return nil
	}
	base.Endpoints = now
	fresh, err := clientv3.New(base)
	if err != nil {
		return err
	}
	old := s.line.Swap(fresh)
	s.ended.Go(func() {
		wait(ctx, drainPatience)
		_ = old.Close() // what still waits for the lost member ends with an error, as it should
	})
	return nil
}

// wait returns after a while, or when the context ends.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Package etcd is the store on etcd: a member embedded in this process with one
// data directory, or a client of an external cluster. Both speak the same way.
//
// A record is two keys, <prefix><key> NUL "d" and <prefix><key> NUL "o", so that
// a record's parts lie side by side in the order of List, a part's write moves
// one key, and etcd's own counters are the laws': a key's version is the
// generation, its modification revision the revision. Both keys hang on one
// lease when the record has an end.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"headwater.dev/hub/store"
)

// Config says which etcd to use. Exactly one of Dir and Endpoints is set.
type Config struct {
	// Dir is the data directory of an embedded member; it is created with mode
	// 0700. Only one process may use it at a time.
	Dir string
	// Endpoints are the URLs of an external cluster.
	Endpoints []string
	// TLS is for connections to Endpoints; nil for plain ones.
	TLS *tls.Config
	// Username and Password are for Endpoints with authentication; may be empty.
	Username, Password string

	// Prefix goes before every key, so that an external cluster can be shared;
	// "/headwater" when empty.
	Prefix string
	// QuotaBytes bounds the embedded member's database; 8 GiB when zero. Beyond
	// it writes fail with store.ErrFull until space is made.
	QuotaBytes int64
	// MinFree is how many bytes of the embedded member's disk must stay free: with
	// less, writes fail with store.ErrFull while the member can still end well.
	// 128 MiB when zero.
	MinFree uint64
	// History is how long, at least, the embedded member keeps old revisions for
	// watches and snapshots; 5 minutes when zero. Every heartbeat makes one, so that
	// this is most of what a fleet at rest costs in space and memory. An external
	// cluster has its own rule.
	History time.Duration
	// Patience is how long a watch waits for its reader; store.WatchPatience
	// when zero.
	Patience time.Duration
	// Logger takes what etcd says: its information as debug messages. Nil
	// discards it.
	Logger *slog.Logger
}

// startTimeout bounds how long a member or cluster may take to answer at first.
const startTimeout = 60 * time.Second

// Store is the store on etcd.
type Store struct {
	line   atomic.Pointer[clientv3.Client]
	member *embed.Etcd // nil when external
	// reading is held by reads of the member, and to stop it.
	reading  sync.RWMutex
	prefix   string
	patience time.Duration
	log      *slog.Logger
	space    space
	// stop ends what watches over members or space; ended is when it has.
	stop  context.CancelFunc
	ended sync.WaitGroup
}

// client is the present connection; an external one is replaced when a member
// in use stops answering.
func (s *Store) client() *clientv3.Client { return s.line.Load() }

// Open starts the embedded member or connects to the cluster and waits until it
// answers. Close the store at the end.
func Open(ctx context.Context, c Config) (*Store, error) {
	if (c.Dir == "") == (len(c.Endpoints) == 0) {
		return nil, errors.New("open etcd store: give either a data directory or endpoints")
	}
	s := &Store{prefix: c.Prefix, patience: c.Patience, log: c.Logger}
	if s.prefix == "" {
		s.prefix = "/headwater"
	}
	if s.patience == 0 {
		s.patience = store.WatchPatience
	}
	if s.log == nil {
		s.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	open := s.connect
	if c.Dir != "" {
		open = s.start
	}
	if err := open(ctx, c); err != nil {
		return nil, fmt.Errorf("open etcd store: %w", err)
	}
	if err := s.Healthy(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("open etcd store: %w", err)
	}
	return s, nil
}

// start runs a member in this process and talks to it without a network.
func (s *Store) start(ctx context.Context, c Config) error {
	cfg, err := memberConfig(c, s.log)
	if err != nil {
		return err
	}
	s.member, err = embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("start the member in %s: %w", c.Dir, err)
	}
	select {
	case <-s.member.Server.ReadyNotify():
	case err := <-s.member.Err():
		s.member.Close()
		return fmt.Errorf("start the member in %s: %w", c.Dir, err)
	case <-ctx.Done():
		s.member.Close()
		return fmt.Errorf("wait for the member in %s: %w", c.Dir, ctx.Err())
	}
	s.line.Store(v3client.New(s.member.Server))
	s.space = newSpace(c)
	if err := s.mindDisk(); err != nil {
		s.member.Close()
		return err
	}
	s.background(func(ctx context.Context) { s.keepSpace(ctx) })
	return nil
}

// background does something until Close.
func (s *Store) background(do func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.ended.Go(func() { do(ctx) })
}

// Healthy reports whether the store can answer a linearisable read.
func (s *Store) Healthy(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := s.client().Get(ctx, s.prefix, clientv3.WithCountOnly())
	return fault(ctx, err)
}

// Compact makes the store forget its history before a revision.
func (s *Store) Compact(ctx context.Context, revision int64) error {
	_, err := s.client().Compact(ctx, revision)
	return fault(ctx, err)
}

// Failed is closed or receives an error when the embedded member broke down; it
// is nil, and so blocks for ever, for an external cluster.
func (s *Store) Failed() <-chan error {
	if s.member == nil {
		return nil
	}
	return s.member.Err()
}

// Close ends the connection and stops the embedded member. Watches end.
func (s *Store) Close() error {
	if s.stop != nil {
		s.stop()
		s.ended.Wait()
	}
	err := s.client().Close()
	if s.member != nil {
		s.reading.Lock()
		s.member.Close()
		s.reading.Unlock()
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close etcd store: %w", err)
	}
	return nil
}

// Package memory is the store without a disk: for tests, and for trying the hub
// out. It obeys the laws of package store and forgets everything at the end of
// the process. Times to live follow package time, so testing/synctest moves them.
package memory

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"headwater.dev/hub/store"
)

// first is the revision of an empty store.
const first = 1

// Store keeps all records, and every change of them since the last Compact, in
// memory. The zero value is not usable; see New.
type Store struct {
	patience time.Duration

	mu        sync.Mutex
	revision  int64
	compacted int64
	entries   map[string]*entry
	log       []change
	changed   chan struct{} // closed and replaced at every change
}

// entry is a live record and, when it has an end, what ends it.
type entry struct {
	record store.Record
	end    *time.Timer
}

// change is an event and what was there before it.
type change struct {
	event  store.Event
	before *store.Record
}

// Option changes a Store that is being made.
type Option func(*Store)

// WithPatience sets how long a watch waits for its reader; store.WatchPatience
// is the default.
func WithPatience(d time.Duration) Option { return func(s *Store) { s.patience = d } }

// New makes an empty store.
func New(options ...Option) *Store {
	s := &Store{
		patience:  store.WatchPatience,
		revision:  first,
		compacted: first,
		entries:   map[string]*entry{},
		changed:   make(chan struct{}),
	}
	for _, o := range options {
		o(s)
	}
	return s
}

// Get answers the record, or ErrNotFound.
func (s *Store) Get(ctx context.Context, key string) (store.Record, error) {
	if err := ready(ctx, key); err != nil {
		return store.Record{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.entries[key]
	if !ok {
		return store.Record{}, fmt.Errorf("get %s: %w", key, store.ErrNotFound)
	}
	return clone(e.record), nil
}

// Put writes one part of a record.
func (s *Store) Put(ctx context.Context, put store.Put) (store.Record, error) {
	if err := put.Check(); err != nil {
		return store.Record{}, err
	}
	if err := ctx.Err(); err != nil {
		return store.Record{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.entries[put.Key]
	if err := expect(put, e); err != nil {
		return store.Record{}, fmt.Errorf("put %s part of %s: %w", put.Part, put.Key, err)
	}
	event := store.Event{Key: put.Key, Revision: s.revision + 1, Part: put.Part, Value: bytes.Clone(put.Value)}
	var before *store.Record
	if ok {
		old := e.record
		before = &old
	} else {
		e = &entry{}
		s.entries[put.Key] = e
	}
	if put.Part == store.Desired {
		event.Generation = e.record.Generation + 1
		s.live(put.Key, e, put.TTL)
	}
	e.record, _ = event.Apply(e.record)
	s.append(change{event: event, before: before})
	return clone(e.record), nil
}

// expect says why the write does not fit what is there.
func expect(put store.Put, e *entry) error {
	switch {
	case e == nil && (put.Part == store.Observed || put.Expect > 0):
		return store.ErrNotFound
	case e != nil && put.Expect == 0:
		return store.ErrExists
	case put.Expect > 0 && e.record.Revision != put.Expect:
		return store.ErrConflict
	}
	return nil
}

// live sets when the record ends; the lock is held.
func (s *Store) live(key string, e *entry, ttl time.Duration) {
	if e.end != nil {
		e.end.Stop()
		e.end = nil
	}
	if ttl == 0 {
		return
	}
	ttl = (ttl + time.Second - 1).Truncate(time.Second)
	var end *time.Timer
	end = time.AfterFunc(ttl, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if current, ok := s.entries[key]; ok && current.end == end {
			s.remove(key, current)
		}
	})
	e.end = end
}

// Delete removes the record with both parts.
func (s *Store) Delete(ctx context.Context, key string, expect int64) error {
	if err := ready(ctx, key); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.entries[key]
	if !ok {
		return fmt.Errorf("delete %s: %w", key, store.ErrNotFound)
	}
	if expect != store.AnyRevision && e.record.Revision != expect {
		return fmt.Errorf("delete %s: %w", key, store.ErrConflict)
	}
	s.remove(key, e)
	return nil
}

// remove ends a record; the lock is held.
func (s *Store) remove(key string, e *entry) {
	if e.end != nil {
		e.end.Stop()
	}
	delete(s.entries, key)
	before := e.record
	s.append(change{event: store.Event{Key: key, Revision: s.revision + 1, Deleted: true}, before: &before})
}

// append makes the change the newest and wakes the watches; the lock is held.
func (s *Store) append(c change) {
	s.revision = c.event.Revision
	s.log = append(s.log, c)
	close(s.changed)
	s.changed = make(chan struct{})
}

// List answers one page of the records below a prefix.
func (s *Store) List(ctx context.Context, list store.List) ([]store.Record, store.Page, error) {
	limit, err := list.Page()
	if err != nil {
		return nil, store.Page{}, err
	}
	if err := ctx.Err(); err != nil {
		return nil, store.Page{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	page := store.Page{Revision: s.revision}
	if list.Revision != 0 {
		page.Revision = list.Revision
	}
	if page.Revision < s.compacted || page.Revision > s.revision {
		return nil, store.Page{}, fmt.Errorf("list %s as of revision %d: %w", list.Prefix, page.Revision, store.ErrCompacted)
	}
	records := s.asOf(page.Revision, func(key string) bool {
		return strings.HasPrefix(key, list.Prefix) && key > list.After
	})
	if n := store.Fill(records, limit); n < len(records) {
		records = records[:n]
		page.Next = records[n-1].Key
	}
	return records, page, nil
}

// asOf is a sorted copy of the chosen records at a kept revision; the lock is held.
func (s *Store) asOf(revision int64, chosen func(key string) bool) []store.Record {
	found := map[string]store.Record{}
	for key, e := range s.entries {
		if chosen(key) {
			found[key] = e.record
		}
	}
	for _, c := range slices.Backward(s.log) {
		if c.event.Revision <= revision {
			break
		}
		switch {
		case !chosen(c.event.Key):
		case c.before == nil:
			delete(found, c.event.Key)
		default:
			found[c.event.Key] = *c.before
		}
	}
	records := make([]store.Record, 0, len(found))
	for _, r := range found {
		records = append(records, clone(r))
	}
	slices.SortFunc(records, func(a, b store.Record) int { return strings.Compare(a.Key, b.Key) })
	return records
}

// Watch sends every change below prefix with Revision > from until ctx ends.
func (s *Store) Watch(ctx context.Context, prefix string, from int64) (<-chan store.Event, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	from = max(from, first)
	if _, _, err := s.after(from); err != nil {
		return nil, fmt.Errorf("watch %s from revision %d: %w", prefix, from, err)
	}
	feed := store.NewFeed(s.patience)
	go func() { feed.End(ctx, s.pump(ctx, feed, prefix, from)) }()
	return feed.Events(), nil
}

// pump sends until something ends it and says what.
func (s *Store) pump(ctx context.Context, feed *store.Feed, prefix string, from int64) error {
	for {
		changes, more, err := s.after(from)
		if err != nil {
			return err
		}
		for _, c := range changes {
			from = c.event.Revision
			if !strings.HasPrefix(c.event.Key, prefix) {
				continue
			}
			event := c.event
			event.Value = bytes.Clone(event.Value)
			if err := feed.Send(ctx, event); err != nil {
				return err
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		}
	}
}

// after is every change since a revision, and a channel closed by the next one.
func (s *Store) after(from int64) ([]change, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if from < s.compacted || from > s.revision {
		return nil, nil, store.ErrCompacted
	}
	return s.log[int(from-s.compacted):], s.changed, nil
}

// Compact forgets the history before a revision.
func (s *Store) Compact(revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	revision = min(revision, s.revision)
	if revision <= s.compacted {
		return
	}
	s.log = slices.Clone(s.log[int(revision-s.compacted):])
	s.compacted = revision
}

// ready checks what Get and Delete share.
func ready(ctx context.Context, key string) error {
	if err := store.CheckKey(key); err != nil {
		return err
	}
	return ctx.Err()
}

// clone copies a record so that its reader may do with it what it likes.
func clone(r store.Record) store.Record {
	r.Desired, r.Observed = bytes.Clone(r.Desired), bytes.Clone(r.Observed)
	return r
}

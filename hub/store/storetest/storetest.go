// Package storetest holds the laws of package store as a suite. Every
// implementation runs it in its own tests.
package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"headwater.dev/hub/store"
)

// Subject is the implementation under test.
type Subject struct {
	// Store is used by all laws one after the other; nobody else may write to it.
	Store store.Store
	// Compact makes the store forget its history before a revision.
	Compact func(t *testing.T, revision int64)
	// Patience is the store's patience with slow readers: a second or less.
	Patience time.Duration
}

// Run holds the subject to all laws.
func Run(t *testing.T, s Subject) {
	t.Helper()
	laws := []struct {
		name string
		law  func(*testing.T, Subject)
	}{
		{"keys", keys},
		{"values", values},
		{"values are copies", copies},
		{"revisions", revisions},
		{"generation", generation},
		{"expect", expectations},
		{"observed needs a record", observedNeedsRecord},
		{"cancelled context", cancelled},
		{"one of many writers", oneOfMany},
		{"time to live", timeToLive},
		{"life is that of the last desired write", lifeChanges},
		{"list pages", listPages},
		{"list snapshot", listSnapshot},
		{"reads see what a watch told", readAfterEvent},
		{"list of large records", listLarge},
		{"list limits", listLimits},
		{"each", each},
		{"watch sees everything once", watchEverything},
		{"watch from the past", watchPast},
		{"watch prefix", watchPrefix},
		{"watch end of context", watchEnds},
		{"watch compacted", watchCompacted},
		{"watch from the future", watchFuture},
		{"watch slow reader", watchSlow},
		{"watch and list agree", watchAgrees},
	}
	for _, l := range laws {
		t.Run(strings.ReplaceAll(l.name, " ", "-"), func(t *testing.T) { l.law(t, s) })
	}
}

// key makes a key that belongs to this test alone.
func key(t *testing.T, name string) string {
	t.Helper()
	return strings.ToLower("/" + strings.ReplaceAll(t.Name(), "_", "-") + "/" + name)
}

func mustPut(t *testing.T, s Subject, put store.Put) store.Record {
	t.Helper()
	r, err := s.Store.Put(t.Context(), put)
	if err != nil {
		t.Fatalf("put %s of %s: %v", put.Part, put.Key, err)
	}
	return r
}

func create(t *testing.T, s Subject, key string) store.Record {
	t.Helper()
	return mustPut(t, s, store.Put{Key: key, Value: json.RawMessage(`{"n":1}`)})
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

func diff(t *testing.T, what string, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func keys(t *testing.T, s Subject) {
	bad := map[string]string{
		"empty":             "",
		"only a slash":      "/",
		"relative":          "a/b",
		"upper case":        "/a/B",
		"unicode upper":     "/a/É",
		"control character": "/a/\x00d",
		"too long":          "/" + strings.Repeat("a", store.MaxKey),
	}
	for why, k := range bad {
		_, err := s.Store.Get(t.Context(), k)
		wantErr(t, "get, "+why, err, store.ErrInvalid)
		_, err = s.Store.Put(t.Context(), store.Put{Key: k, Value: json.RawMessage(`{}`)})
		wantErr(t, "put, "+why, err, store.ErrInvalid)
		wantErr(t, "delete, "+why, s.Store.Delete(t.Context(), k, store.AnyRevision), store.ErrInvalid)
	}
	for _, k := range []string{"/é/ü", "/a b/c%2f", "/" + strings.Repeat("a", store.MaxKey-1)} {
		create(t, s, k)
		if got, err := s.Store.Get(t.Context(), k); err != nil || got.Key != k {
			t.Errorf("get %q: %q, %v", k, got.Key, err)
		}
	}
}

func values(t *testing.T, s Subject) {
	k := key(t, "a")
	for why, v := range map[string]string{
		"nothing":       "",
		"not JSON":      "{",
		"two documents": "{} {}",
		"too large":     `"` + strings.Repeat("x", store.MaxValue) + `"`,
	} {
		_, err := s.Store.Put(t.Context(), store.Put{Key: k, Value: json.RawMessage(v)})
		wantErr(t, why, err, store.ErrInvalid)
	}
	_, err := s.Store.Get(t.Context(), k)
	wantErr(t, "a refused write left something", err, store.ErrNotFound)
	for i, v := range []string{`null`, `{ "b" : 1, "a":[ 1.0 ] }`, `"` + strings.Repeat("x", store.MaxValue-2) + `"`} {
		mustPut(t, s, store.Put{Key: k, Value: json.RawMessage(v), Expect: store.AnyRevision})
		got, err := s.Store.Get(t.Context(), k)
		if err != nil || string(got.Desired) != v {
			t.Errorf("value %d came back changed (error %v)", i, err)
		}
	}
}

func copies(t *testing.T, s Subject) {
	k, value := key(t, "a"), json.RawMessage(`{"n":1}`)
	r := mustPut(t, s, store.Put{Key: k, Value: value})
	value[1], r.Desired[1] = 'X', 'X'
	got, err := s.Store.Get(t.Context(), k)
	if err != nil || string(got.Desired) != `{"n":1}` {
		t.Errorf("stored value changed with the caller's bytes: %s, %v", got.Desired, err)
	}
}

func revisions(t *testing.T, s Subject) {
	a := create(t, s, key(t, "a"))
	b := create(t, s, key(t, "b"))
	if a.Revision <= 0 || b.Revision != a.Revision+1 {
		t.Errorf("two writes made revisions %d and %d, want successive ones", a.Revision, b.Revision)
	}
	o := mustPut(t, s, store.Put{Key: a.Key, Part: store.Observed, Value: json.RawMessage(`{"o":1}`), Expect: a.Revision})
	want := a
	want.Observed, want.Revision = json.RawMessage(`{"o":1}`), b.Revision+1
	diff(t, "after an observed write", want, o)
	got, err := s.Store.Get(t.Context(), a.Key)
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "get", want, got)
	o = mustPut(t, s, store.Put{Key: a.Key, Part: store.Observed, Value: json.RawMessage(`{"o":2}`), Expect: o.Revision})
	want.Observed, want.Revision = json.RawMessage(`{"o":2}`), want.Revision+1
	diff(t, "after another observed write", want, o)
	_, err = s.Store.Put(t.Context(), store.Put{Key: a.Key, Part: store.Observed, Value: json.RawMessage(`{}`), Expect: o.Revision - 1})
	wantErr(t, "observed write at an old revision", err, store.ErrConflict)
	if err := s.Store.Delete(t.Context(), a.Key, o.Revision); err != nil {
		t.Fatal(err)
	}
	if c := create(t, s, key(t, "c")); c.Revision != o.Revision+2 {
		t.Errorf("a deletion made %d revisions, want 1", c.Revision-o.Revision-1)
	}
}

func generation(t *testing.T, s Subject) {
	k := key(t, "a")
	r := create(t, s, k)
	for want := int64(1); want <= 3; want++ {
		if r.Generation != want || r.DesiredRevision != r.Revision {
			t.Errorf("generation %d at desired revision %d of %d, want generation %d", r.Generation, r.DesiredRevision, r.Revision, want)
		}
		o := mustPut(t, s, store.Put{Key: k, Part: store.Observed, Value: json.RawMessage(`{}`), Expect: store.AnyRevision})
		if o.Generation != want || o.DesiredRevision != r.DesiredRevision {
			t.Errorf("an observed write moved the generation to %d", o.Generation)
		}
		r = mustPut(t, s, store.Put{Key: k, Value: json.RawMessage(`{"n":1}`), Expect: o.Revision})
		if string(r.Observed) != `{}` {
			t.Errorf("a desired write changed the observed part to %q", r.Observed)
		}
	}
	if err := s.Store.Delete(t.Context(), k, store.AnyRevision); err != nil {
		t.Fatal(err)
	}
	if r := create(t, s, k); r.Generation != 1 || r.Observed != nil {
		t.Errorf("made again: generation %d, observed %q", r.Generation, r.Observed)
	}
}

func expectations(t *testing.T, s Subject) {
	k, value := key(t, "a"), json.RawMessage(`{}`)
	put := func(expect int64) error {
		_, err := s.Store.Put(t.Context(), store.Put{Key: k, Value: value, Expect: expect})
		return err
	}
	wantErr(t, "below any revision", put(-2), store.ErrInvalid)
	wantErr(t, "no record to expect", put(1), store.ErrNotFound)
	wantErr(t, "delete of nothing", s.Store.Delete(t.Context(), k, store.AnyRevision), store.ErrNotFound)
	r := create(t, s, k)
	wantErr(t, "made twice", put(0), store.ErrExists)
	wantErr(t, "old revision", put(r.Revision-1), store.ErrConflict)
	wantErr(t, "future revision", put(r.Revision+1), store.ErrConflict)
	o := mustPut(t, s, store.Put{Key: k, Part: store.Observed, Value: value, Expect: r.Revision})
	wantErr(t, "revision of the desired part alone", put(r.Revision), store.ErrConflict)
	wantErr(t, "delete at an old revision", s.Store.Delete(t.Context(), k, r.Revision), store.ErrConflict)
	got, err := s.Store.Get(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "after refused writes", o, got)
	if err := put(o.Revision); err != nil {
		t.Error(err)
	}
	if err := put(store.AnyRevision); err != nil {
		t.Error(err)
	}
	if err := s.Store.Delete(t.Context(), k, store.AnyRevision); err != nil {
		t.Error(err)
	}
	if err := put(store.AnyRevision); err != nil {
		t.Errorf("a desired write at any revision makes the record: %v", err)
	}
}

func observedNeedsRecord(t *testing.T, s Subject) {
	k := key(t, "a")
	observe := func(expect int64, ttl time.Duration) error {
		_, err := s.Store.Put(t.Context(), store.Put{Key: k, Part: store.Observed, Value: json.RawMessage(`{}`), Expect: expect, TTL: ttl})
		return err
	}
	wantErr(t, "any revision of nothing", observe(store.AnyRevision, 0), store.ErrNotFound)
	wantErr(t, "a revision of nothing", observe(7, 0), store.ErrNotFound)
	wantErr(t, "making a record", observe(0, 0), store.ErrInvalid)
	wantErr(t, "a life of its own", observe(store.AnyRevision, time.Minute), store.ErrInvalid)
	r := create(t, s, k)
	wantErr(t, "old revision", observe(r.Revision-1, 0), store.ErrConflict)
	if err := s.Store.Delete(t.Context(), k, r.Revision); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "after the end", observe(store.AnyRevision, 0), store.ErrNotFound)
}

func cancelled(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Store.Get(ctx, key(t, "a"))
	wantErr(t, "get", err, context.Canceled)
	_, err = s.Store.Put(ctx, store.Put{Key: key(t, "a"), Value: json.RawMessage(`{}`)})
	wantErr(t, "put", err, context.Canceled)
	_, _, err = s.Store.List(ctx, store.List{Prefix: key(t, "")})
	wantErr(t, "list", err, context.Canceled)
	_, err = s.Store.Watch(ctx, key(t, ""), 0)
	wantErr(t, "watch", err, context.Canceled)
}

func oneOfMany(t *testing.T, s Subject) {
	const writers = 16
	k := key(t, "a")
	r := create(t, s, k)
	results := make(chan error, writers)
	for i := range writers {
		put := store.Put{Key: k, Part: store.Part(i % 2), Value: json.RawMessage(fmt.Sprintf(`{"w":%d}`, i)), Expect: r.Revision}
		go func() {
			_, err := s.Store.Put(t.Context(), put)
			results <- err
		}()
	}
	won := 0
	for range writers {
		err := <-results
		if err == nil {
			won++
			continue
		}
		wantErr(t, "a loser", err, store.ErrConflict)
	}
	if won != 1 {
		t.Errorf("%d writers won, want 1", won)
	}
}

func timeToLive(t *testing.T, s Subject) {
	k, other := key(t, "a"), create(t, s, key(t, "b"))
	start := time.Now()
	const ttl = 6 * time.Second // longer than the writes take on a busy machine
	r := mustPut(t, s, store.Put{Key: k, Value: json.RawMessage(`{}`), TTL: ttl})
	o := mustPut(t, s, store.Put{Key: k, Part: store.Observed, Value: json.RawMessage(`{}`), Expect: r.Revision})
	mustPut(t, s, store.Put{Key: k, Part: store.Observed, Value: json.RawMessage(`{"o":1}`), Expect: o.Revision})
	events := watch(t, s, key(t, ""), r.Revision)
	diff(t, "observed twice", []string{k + " observed", k + " observed"}, brief(next(t, events, 2)))
	diff(t, "expiry", []string{k + " deleted"}, brief(next(t, events, 1)))
	if lived := time.Since(start); lived < ttl {
		t.Errorf("the record lived %v, want at least %v", lived, ttl)
	}
	_, err := s.Store.Get(t.Context(), k)
	wantErr(t, "get", err, store.ErrNotFound)
	records, _, err := s.Store.List(t.Context(), store.List{Prefix: key(t, "")})
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "what is left", []store.Record{other}, records)
	if again := create(t, s, k); again.Observed != nil {
		t.Errorf("the observed part outlived its record: %s", again.Observed)
	}
}

func lifeChanges(t *testing.T, s Subject) {
	k, probe := key(t, "a"), key(t, "probe")
	const ttl = 6 * time.Second // longer than the writes take on a busy machine
	mustPut(t, s, store.Put{Key: k, Value: json.RawMessage(`{}`), TTL: ttl})
	mustPut(t, s, store.Put{Key: k, Part: store.Observed, Value: json.RawMessage(`{"o":1}`), Expect: store.AnyRevision})
	r := mustPut(t, s, store.Put{Key: k, Value: json.RawMessage(`{}`), Expect: store.AnyRevision})
	p := mustPut(t, s, store.Put{Key: probe, Value: json.RawMessage(`{}`), TTL: ttl})
	next(t, watch(t, s, probe, p.Revision), 1)
	got, err := s.Store.Get(t.Context(), k)
	if err != nil {
		t.Fatalf("a record made permanent ended all the same: %v", err)
	}
	if string(got.Observed) != `{"o":1}` || got.Generation != r.Generation {
		t.Errorf("the observed part ended alone: %+v", got)
	}
	r = mustPut(t, s, store.Put{Key: k, Value: json.RawMessage(`{}`), Expect: store.AnyRevision, TTL: ttl})
	events := next(t, watch(t, s, k, r.Revision), 1)
	diff(t, "a permanent record given an end", []string{k + " deleted"}, brief(events))
}

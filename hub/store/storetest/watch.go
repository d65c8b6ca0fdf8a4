package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"headwater.dev/hub/store"
)

// wait is how long anything that must happen may take.
const wait = time.Minute

func watch(t *testing.T, s Subject, prefix string, from int64) <-chan store.Event {
	t.Helper()
	events, err := s.Store.Watch(t.Context(), prefix, from)
	if err != nil {
		t.Fatalf("watch %s from %d: %v", prefix, from, err)
	}
	return events
}

// next takes n events; fewer is fatal.
func next(t *testing.T, events <-chan store.Event, n int) []store.Event {
	t.Helper()
	deadline := time.After(wait)
	var got []store.Event
	for len(got) < n {
		select {
		case e, ok := <-events:
			if !ok || e.Err != nil {
				t.Fatalf("the watch ended after %d of %d events: %v", len(got), n, e.Err)
			}
			got = append(got, e)
		case <-deadline:
			t.Fatalf("%d of %d events within %v", len(got), n, wait)
		}
	}
	return got
}

// brief is events as text without revisions.
func brief(events []store.Event) []string {
	var out []string
	for _, e := range events {
		if e.Deleted {
			out = append(out, e.Key+" deleted")
			continue
		}
		out = append(out, e.Key+" "+e.Part.String())
	}
	return out
}

func listKeys(t *testing.T, s Subject, list store.List) ([]string, store.Page) {
	t.Helper()
	records, page, err := s.Store.List(t.Context(), list)
	if err != nil {
		t.Fatalf("list %+v: %v", list, err)
	}
	keys := []string{}
	for _, r := range records {
		keys = append(keys, r.Key)
	}
	return keys, page
}

func each(t *testing.T, s Subject) {
	prefix := key(t, "")
	const n = store.DefaultLimit + 3
	for i := range n {
		create(t, s, fmt.Sprintf("%s%05d", prefix, i))
	}
	count := 0
	revision, err := store.Each(t.Context(), s.Store, prefix, func(store.Record) error { count++; return nil })
	if err != nil || count != n || revision == 0 {
		t.Errorf("visited %d of %d records at revision %d: %v", count, n, revision, err)
	}
	stop := errors.New("enough")
	_, err = store.Each(t.Context(), s.Store, prefix, func(store.Record) error { return stop })
	wantErr(t, "an error of the visitor", err, stop)
}

func watchEverything(t *testing.T, s Subject) {
	prefix := key(t, "")
	_, page := listKeys(t, s, store.List{Prefix: prefix})
	events := watch(t, s, prefix, page.Revision)
	a := create(t, s, prefix+"a")
	o := mustPut(t, s, store.Put{Key: a.Key, Part: store.Observed, Value: json.RawMessage(`{"o":1}`), Expect: a.Revision})
	d := mustPut(t, s, store.Put{Key: a.Key, Value: json.RawMessage(`{"n":2}`), Expect: o.Revision})
	if err := s.Store.Delete(t.Context(), a.Key, d.Revision); err != nil {
		t.Fatal(err)
	}
	again := create(t, s, a.Key)
	want := []store.Event{
		{Key: a.Key, Revision: a.Revision, Value: json.RawMessage(`{"n":1}`), Generation: 1},
		{Key: a.Key, Revision: o.Revision, Part: store.Observed, Value: json.RawMessage(`{"o":1}`)},
		{Key: a.Key, Revision: d.Revision, Value: json.RawMessage(`{"n":2}`), Generation: 2},
		{Key: a.Key, Revision: d.Revision + 1, Deleted: true},
		{Key: a.Key, Revision: again.Revision, Value: json.RawMessage(`{"n":1}`), Generation: 1},
	}
	diff(t, "events", want, next(t, events, len(want)))
}

func watchPast(t *testing.T, s Subject) {
	prefix := key(t, "")
	a, b := create(t, s, prefix+"a"), create(t, s, prefix+"b")
	diff(t, "from before the last write", []string{b.Key + " desired"}, brief(next(t, watch(t, s, prefix, a.Revision), 1)))
	events := watch(t, s, prefix, b.Revision)
	c := create(t, s, prefix+"c")
	diff(t, "from the last write", []string{c.Key + " desired"}, brief(next(t, events, 1)))
}

func watchPrefix(t *testing.T, s Subject) {
	prefix := key(t, "")
	before := create(t, s, prefix+"start")
	events := watch(t, s, prefix+"a/", before.Revision)
	for _, n := range []string{"a", "ab/x", "b/a/x", "a/x", "a/y/z"} {
		create(t, s, prefix+n)
	}
	diff(t, "below a/", []string{prefix + "a/x desired", prefix + "a/y/z desired"}, brief(next(t, events, 2)))
}

func watchEnds(t *testing.T, s Subject) {
	a := create(t, s, key(t, "a"))
	ctx, cancel := context.WithCancel(t.Context())
	events, err := s.Store.Watch(ctx, key(t, ""), a.Revision)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case e, ok := <-events:
		if ok {
			t.Errorf("a watch whose context ended sent %+v", e)
		}
	case <-time.After(wait):
		t.Error("the channel stayed open after its context ended")
	}
}

func watchCompacted(t *testing.T, s Subject) {
	a := create(t, s, key(t, "a"))
	b := create(t, s, key(t, "b"))
	create(t, s, key(t, "c"))
	s.Compact(t, b.Revision)
	_, err := s.Store.Watch(t.Context(), key(t, ""), a.Revision)
	wantErr(t, "watch", err, store.ErrCompacted)
	diff(t, "from the oldest kept revision", []string{key(t, "c") + " desired"},
		brief(next(t, watch(t, s, key(t, ""), b.Revision), 1)))
}

func watchFuture(t *testing.T, s Subject) {
	a := create(t, s, key(t, "a"))
	_, err := s.Store.Watch(t.Context(), key(t, ""), a.Revision+1000)
	wantErr(t, "watch", err, store.ErrCompacted)
}

func watchSlow(t *testing.T, s Subject) {
	k := key(t, "a")
	r := create(t, s, k)
	slow, quick := watch(t, s, k, r.Revision), watch(t, s, k, r.Revision)
	for range store.WatchBuffer + 2 {
		r = mustPut(t, s, store.Put{Key: k, Value: json.RawMessage(`{}`), Expect: r.Revision})
		if got := next(t, quick, 1); got[0].Revision != r.Revision {
			t.Errorf("the quick reader's event has revision %d, want %d", got[0].Revision, r.Revision)
		}
	}
	<-time.After(s.Patience + s.Patience/2) // the point of the law: a reader that takes nothing
	deadline := time.After(wait)
	for count := 0; ; count++ {
		select {
		case e, ok := <-slow:
			if !ok {
				t.Fatal("the slow reader's watch ended without a reason")
			}
			if e.Err == nil {
				continue
			}
			wantErr(t, "the last event", e.Err, store.ErrSlow)
			if _, more := <-slow; more {
				t.Error("something followed the end")
			}
			return
		case <-deadline:
			t.Fatalf("no end after %d events", count)
		}
	}
}

// watchAgrees folds the events of many concurrent writers into records and
// compares them with what a List says.
func watchAgrees(t *testing.T, s Subject) {
	prefix := key(t, "")
	_, page := listKeys(t, s, store.List{Prefix: prefix})
	events := watch(t, s, prefix, page.Revision)
	const writers, rounds = 4, 25
	done := make(chan error, writers)
	for w := range writers {
		go func() { done <- churn(t.Context(), s.Store, fmt.Sprintf("%s%d", prefix, w), rounds) }()
	}
	for range writers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	want, _, err := s.Store.List(t.Context(), store.List{Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	last := int64(0)
	folded := map[string]store.Record{}
	for range writers * rounds {
		e := next(t, events, 1)[0]
		if e.Revision <= last {
			t.Fatalf("revision %d came after %d", e.Revision, last)
		}
		last = e.Revision
		if r, ok := e.Apply(folded[e.Key]); ok {
			folded[e.Key] = r
		} else {
			delete(folded, e.Key)
		}
	}
	got := map[string]store.Record{}
	for _, r := range want {
		got[r.Key] = r
	}
	diff(t, "list and folded events", folded, got)
}

// churn makes exactly rounds changes to one record.
func churn(ctx context.Context, s store.Store, key string, rounds int) error {
	for i := range rounds {
		value := json.RawMessage(fmt.Sprintf(`{"i":%d}`, i))
		var err error
		switch {
		case i%10 == 9:
			err = s.Delete(ctx, key, store.AnyRevision)
		case i%10%3 == 1:
			_, err = s.Put(ctx, store.Put{Key: key, Part: store.Observed, Value: value, Expect: store.AnyRevision})
		default:
			_, err = s.Put(ctx, store.Put{Key: key, Value: value, Expect: store.AnyRevision})
		}
		if err != nil {
			return fmt.Errorf("round %d: %w", i, err)
		}
	}
	return nil
}

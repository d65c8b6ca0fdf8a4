package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"headwater.dev/hub/store"
)

// wait is how long anything that must happen may take.
const wait = 20 * time.Second

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

func listPages(t *testing.T, s Subject) {
	prefix := key(t, "")
	names := []string{"a", "a-b", "a/b", "a/b/c", "ab", "b"}
	for _, n := range names {
		r := create(t, s, prefix+n)
		mustPut(t, s, store.Put{Key: r.Key, Part: store.Observed, Value: json.RawMessage(`{}`), Expect: r.Revision})
	}
	for limit := 1; limit <= len(names)+1; limit++ {
		var got []string
		list := store.List{Prefix: prefix, Limit: limit}
		for pages := 0; ; pages++ {
			keys, page := listKeys(t, s, list)
			if len(keys) > limit || pages > len(names) {
				t.Fatalf("limit %d: page %d has %d keys", limit, pages, len(keys))
			}
			got = append(got, keys...)
			if page.Next == "" {
				break
			}
			list.After = page.Next
		}
		var want []string
		for _, n := range names {
			want = append(want, prefix+n)
		}
		diff(t, fmt.Sprintf("limit %d", limit), want, got)
	}
	below, _ := listKeys(t, s, store.List{Prefix: prefix + "a/"})
	diff(t, "below a path", []string{prefix + "a/b", prefix + "a/b/c"}, below)
	none, page := listKeys(t, s, store.List{Prefix: prefix + "zzz"})
	if len(none) != 0 || page.Next != "" || page.Revision == 0 {
		t.Errorf("nothing there: %v, %+v", none, page)
	}
}

// readAfterEvent reads every record as soon as a watch tells of it.
func readAfterEvent(t *testing.T, s Subject) {
	prefix := key(t, "")
	_, page := listKeys(t, s, store.List{Prefix: prefix})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := s.Store.Watch(ctx, prefix, page.Revision)
	if err != nil {
		t.Fatal(err)
	}
	const writers, writes = 8, 50
	written := make(chan error, writers)
	for w := range writers {
		go func() {
			var err error
			for i := 0; i < writes && err == nil; i++ {
				_, err = s.Store.Put(ctx, store.Put{Key: fmt.Sprintf("%s%d-%d", prefix, w, i), Value: json.RawMessage(`{}`)})
			}
			written <- err
		}()
	}
	for range writers * writes {
		e := <-events
		if e.Err != nil {
			t.Fatal(e.Err)
		}
		if r, err := s.Store.Get(ctx, e.Key); err != nil || r.Revision < e.Revision {
			t.Fatalf("an event told of %s at revision %d, but then it is %+v: %v", e.Key, e.Revision, r, err)
		}
	}
	for range writers {
		if err := <-written; err != nil {
			t.Error(err)
		}
	}
}

// listLarge makes more records than a page has bytes for, and more than are read
// at once.
func listLarge(t *testing.T, s Subject) {
	prefix := key(t, "")
	large := json.RawMessage(`"` + strings.Repeat("x", 2*store.MaxPage/150) + `"`)
	var want []string
	for i := range 150 {
		r := mustPut(t, s, store.Put{Key: fmt.Sprintf("%s%03d", prefix, i), Value: large})
		if i%2 == 0 {
			mustPut(t, s, store.Put{Key: r.Key, Part: store.Observed, Value: json.RawMessage(`{}`), Expect: r.Revision})
		}
		want = append(want, r.Key)
	}
	for limit, most := range map[int]int{10: 15, 70: 3, 0: 2} {
		var got []string
		pages := 0
		for list := (store.List{Prefix: prefix, Limit: limit}); pages == 0 || list.After != ""; pages++ {
			records, page, err := s.Store.List(t.Context(), list)
			if err != nil {
				t.Fatal(err)
			}
			size := 0
			for i, r := range records {
				if size >= store.MaxPage {
					t.Errorf("limit %d: record %d follows %d bytes", limit, i, size)
				}
				size += len(r.Key) + len(r.Desired) + len(r.Observed)
				got = append(got, r.Key)
				if wantObserved := len(got)%2 == 1; wantObserved != (r.Observed != nil) {
					t.Errorf("limit %d: %s has observed part %s", limit, r.Key, r.Observed)
				}
			}
			list.After = page.Next
		}
		diff(t, fmt.Sprintf("limit %d", limit), want, got)
		if pages != most {
			t.Errorf("limit %d: %d pages, want %d", limit, pages, most)
		}
	}
	records := 0
	if _, err := store.Each(t.Context(), s.Store, prefix, func(store.Record) error { records++; return nil }); err != nil || records != len(want) {
		t.Errorf("each visits %d records, want %d: %v", records, len(want), err)
	}
}

func listSnapshot(t *testing.T, s Subject) {
	prefix := key(t, "")
	a, b, c := create(t, s, prefix+"a"), create(t, s, prefix+"b"), create(t, s, prefix+"c")
	first, page := listKeys(t, s, store.List{Prefix: prefix, Limit: 1})
	diff(t, "first page", []string{a.Key}, first)
	mustPut(t, s, store.Put{Key: b.Key, Part: store.Observed, Value: json.RawMessage(`{}`), Expect: b.Revision})
	if err := s.Store.Delete(t.Context(), c.Key, c.Revision); err != nil {
		t.Fatal(err)
	}
	d := create(t, s, prefix+"d")
	rest, next, err := s.Store.List(t.Context(), store.List{Prefix: prefix, After: page.Next, Revision: page.Revision})
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "the rest of the snapshot", []store.Record{b, c}, rest)
	if next.Revision != page.Revision {
		t.Errorf("snapshot moved from revision %d to %d", page.Revision, next.Revision)
	}
	s.Compact(t, d.Revision)
	_, _, err = s.Store.List(t.Context(), store.List{Prefix: prefix, Revision: page.Revision})
	wantErr(t, "a snapshot no longer kept", err, store.ErrCompacted)
	_, _, err = s.Store.List(t.Context(), store.List{Prefix: prefix, Revision: d.Revision + 1000})
	wantErr(t, "a snapshot of the future", err, store.ErrCompacted)
}

func listLimits(t *testing.T, s Subject) {
	_, _, err := s.Store.List(t.Context(), store.List{Prefix: key(t, ""), Limit: -1})
	wantErr(t, "negative limit", err, store.ErrInvalid)
	_, _, err = s.Store.List(t.Context(), store.List{Prefix: key(t, ""), Revision: -1})
	wantErr(t, "negative revision", err, store.ErrInvalid)
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
	const n = store.WatchBuffer + 2
	for range n {
		r = mustPut(t, s, store.Put{Key: k, Value: json.RawMessage(`{}`), Expect: r.Revision})
	}
	if got := next(t, quick, n); got[n-1].Revision != r.Revision {
		t.Errorf("the quick reader's last event has revision %d, want %d", got[n-1].Revision, r.Revision)
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

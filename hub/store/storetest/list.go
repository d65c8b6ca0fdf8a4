package storetest

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"headwater.dev/hub/store"
)

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

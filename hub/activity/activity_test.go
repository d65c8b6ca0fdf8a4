package activity

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"headwater.dev/hub/store"
	"headwater.dev/hub/store/memory"
)

// TestMuchIsPrunedEarly writes far more within one hour than is kept.
func TestMuchIsPrunedEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		l := New(Config{Store: s, Max: 50})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		for i := range 500 {
			if err := l.Add(ctx, Entry{Caller: fmt.Sprint(i)}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond) // of the bubble's time: it gives the pruning its turn
		}
		synctest.Wait()
		left := 0
		if _, err := store.Each(ctx, s, prefix, func(store.Record) error { left++; return nil }); err != nil {
			t.Fatal(err)
		}
		if left < 50 || left > 50+50/pruneShare {
			t.Errorf("%d entries are left of 500 where 50 are kept", left)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestNobodyIsWrittenOutOfTheLog lets one principal write far more than is kept,
// beside others who wrote before.
func TestNobodyIsWrittenOutOfTheLog(t *testing.T) {
	s := memory.New()
	l := New(Config{Store: s, Max: 100})
	write := func(who string, n int) {
		t.Helper()
		for i := range n {
			if err := l.Add(t.Context(), Entry{CallerObjectID: who, RequestID: fmt.Sprint(i)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("thief", 3)
	write("pipeline", 20)
	write("wild", 700)
	write("wilder", 900)
	if _, err := l.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	left, newest := map[string]int{}, map[string]string{}
	if _, err := store.Each(t.Context(), s, prefix, func(r store.Record) error {
		var e Entry
		err := json.Unmarshal(r.Desired, &e)
		if left[e.CallerObjectID]++; left[e.CallerObjectID] == 1 {
			newest[e.CallerObjectID] = e.RequestID
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"thief": 3, "pipeline": 20, "wild": 38, "wilder": 38}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	if newest["wilder"] != "899" {
		t.Errorf("the newest of wilder is %s: not the oldest were removed", newest["wilder"])
	}
	if removed, err := l.Prune(t.Context()); err != nil || removed != 0 {
		t.Errorf("a second time removes %d: %v", removed, err)
	}
}

func TestShare(t *testing.T) {
	tests := map[string]struct {
		why   string
		in    map[string]int
		limit int
		want  int
	}{
		"room":    {"nobody has to give", map[string]int{"a": 5, "b": 5}, 10, math.MaxInt},
		"nothing": {"", nil, 10, math.MaxInt},
		"one":     {"alone", map[string]int{"a": 50}, 10, 10},
		"uneven":  {"what the small ones leave is shared", map[string]int{"a": 1, "b": 2, "c": 90, "d": 91}, 43, 20},
		"crowd":   {"everybody keeps his newest", map[string]int{"a": 2, "b": 2, "c": 2}, 2, 1},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			if got := share(c.in, c.limit); got != c.want {
				t.Errorf("%s: %d, want %d", c.why, got, c.want)
			}
		})
	}
}

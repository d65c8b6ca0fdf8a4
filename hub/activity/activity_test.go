package activity

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

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

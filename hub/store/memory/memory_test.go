package memory_test

import (
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"headwater.dev/hub/store"
	"headwater.dev/hub/store/memory"
	"headwater.dev/hub/store/storetest"
)

func TestLaws(t *testing.T) {
	const patience = 200 * time.Millisecond
	s := memory.New(memory.WithPatience(patience))
	storetest.Run(t, storetest.Subject{
		Store:    s,
		Compact:  func(_ *testing.T, revision int64) { s.Compact(revision) },
		Patience: patience,
	})
}

func TestTimeToLiveFollowsSimulatedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		put := store.Put{Key: "/vault/a", Value: json.RawMessage(`{}`), TTL: 48 * time.Hour}
		if _, err := s.Put(t.Context(), put); err != nil {
			t.Fatal(err)
		}
		time.Sleep(48*time.Hour - time.Nanosecond)
		if _, err := s.Get(t.Context(), put.Key); err != nil {
			t.Errorf("gone before its time: %v", err)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if _, err := s.Get(t.Context(), put.Key); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("still there after its time: %v", err)
		}
	})
}

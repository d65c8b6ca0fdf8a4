package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// TestAdmissionSpreadsTheReturnOfAFleet lets ten thousand agents come at the
// same moment, and again whenever they were told to.
func TestAdmissionSpreadsTheReturnOfAFleet(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now := begin
	a := newAdmission(func() time.Time { return now })
	waiting := map[int]int{0: 10_000} // agents by the second in which they come
	admitted, refusals := 0, 0
	for second := 0; admitted < 10_000; second++ {
		if second > 60 {
			t.Fatalf("%d of 10000 agents were admitted within a minute", admitted)
		}
		now = begin.Add(time.Duration(second) * time.Second)
		before := admitted
		for range waiting[second] {
			err := a.begin()
			if err == nil {
				admitted++
				continue
			}
			refusals++
			var r *refusal
			if !errors.As(err, &r) || r.status != http.StatusServiceUnavailable {
				t.Fatalf("refused with %v, want a refusal with 503", err)
			}
			waiting[second+int((r.after+time.Second-1)/time.Second)]++
		}
		if n := admitted - before; n > admitEvery {
			t.Fatalf("%d agents were admitted in second %d, want at most %d", n, second, admitEvery)
		}
	}
	if refusals > 20_000 {
		t.Errorf("10000 agents were refused %d times, want at most twice each", refusals)
	}
}

// TestAdmissionHasSoManyPlaces lets one wait for a place, and refuses who does
// not want to wait for longer, with a pause.
func TestAdmissionHasSoManyPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission(time.Now)
		var leave func()
		for range admitAtOnce / 2 {
			var err error
			if leave, err = a.enter(t.Context(), false); err != nil {
				t.Fatalf("a free place was refused: %v", err)
			}
		}
		began := time.Now()
		_, err := a.enter(t.Context(), false)
		var r *refusal
		if !errors.As(err, &r) || time.Since(began) != admitPatience {
			t.Fatalf("one more got %v after %v, want a refusal after %v", err, time.Since(began), admitPatience)
		}
		w := httptest.NewRecorder()
		r.wait(w)
		if got := w.Header().Get("Retry-After"); got != "1" {
			t.Errorf("Retry-After is %q, want 1", got)
		}
		time.AfterFunc(time.Second, leave)
		if _, err := a.enter(t.Context(), false); err != nil {
			t.Errorf("a place that was left in time is refused: %v", err)
		}
	})
}

// TestAdmissionBoundsTheWaiting sends away at once who finds the waiting room full.
func TestAdmissionBoundsTheWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel() // those who wait end
		a := newAdmission(time.Now)
		for range (admitAtOnce + admitWaiting) / 2 {
			go func() { _, _ = a.enter(ctx, false) }()
		}
		synctest.Wait()
		began := time.Now()
		if _, err := a.enter(t.Context(), false); err == nil || time.Since(began) != 0 {
			t.Errorf("got %v after %v, want a refusal at once", err, time.Since(began))
		}
		if _, err := a.enter(t.Context(), true); err != nil || time.Since(began) != 0 {
			t.Errorf("strangers take the places of those who are known: %v after %v", err, time.Since(began))
		}
	})
}

package gateway

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
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

// TestAdmissionHasSoManyPlaces refuses who comes when all are taken, with a
// pause, and admits the next when one is left.
func TestAdmissionHasSoManyPlaces(t *testing.T) {
	a := newAdmission(time.Now)
	var leave func()
	for range admitAtOnce {
		var err error
		if leave, err = a.enter(); err != nil {
			t.Fatalf("a free place was refused: %v", err)
		}
	}
	_, err := a.enter()
	var r *refusal
	if !errors.As(err, &r) {
		t.Fatalf("one more got %v, want a refusal", err)
	}
	w := httptest.NewRecorder()
	r.wait(w)
	if got := w.Header().Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After is %q, want 1", got)
	}
	leave()
	if _, err := a.enter(); err != nil {
		t.Errorf("a place that was left is refused: %v", err)
	}
}

package apply

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"headwater.dev/dev/kubetest"
)

// line to the API server, which can be cut.
type line struct {
	next http.RoundTripper

	mu   sync.Mutex
	cut  bool
	open []context.CancelFunc
}

func (l *line) RoundTrip(r *http.Request) (*http.Response, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return nil, errors.New("the line is cut")
	}
	ctx, cancel := context.WithCancel(r.Context())
	l.open = append(l.open, cancel)
	return l.next.RoundTrip(r.WithContext(ctx))
}

func (l *line) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	for _, cancel := range l.open {
		cancel()
	}
	l.open = nil
}

// TestTheLineIsCut: a cluster that is not reached any more is not believed for
// long to be as it was left.
func TestTheLineIsCut(t *testing.T) {
	l := &line{}
	b := newBedOver(t, func(next http.RoundTripper) http.RoundTripper { l.next = next; return l }, all("configmaps"))
	b.apply(b.cm("a", "1"))
	w := b.e.Watcher
	undisturbed := func(want bool) {
		t.Helper()
		kubetest.Eventually(t, 30*time.Second, func() error {
			if w.Undisturbed(b.who.Owner) != want {
				return fmt.Errorf("undisturbed is not %v", want)
			}
			return nil
		})
	}
	undisturbed(true)
	l.set(true)
	kubetest.Eventually(t, 30*time.Second, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, s := range w.scopes {
			if s.failing.IsZero() {
				return errors.New("the cut is not seen")
			}
		}
		return nil
	})
	if !w.Undisturbed(b.who.Owner) {
		t.Error("a watch that broke a moment ago counts for nothing")
	}
	for len(b.woken) > 0 {
		<-b.woken
	}
	w.mu.Lock()
	w.now = func() time.Time { return time.Now().Add(patienceWithWatch) }
	w.mu.Unlock()
	undisturbed(false)
	woken := func() {
		t.Helper()
		select {
		case <-b.woken:
		case <-time.After(10 * time.Second):
			t.Error("nobody was woken")
		}
	}
	woken()
	if ref, lost := w.Lost(b.who.Owner); !lost || ref.Name != "a" || len(b.woken) > 0 {
		t.Errorf("lost %v (%v), woken %d more times", ref, lost, len(b.woken))
	}
	if _, err := w.Get(t.Context(), b.who, RefOf(b.cm("a", ""))); err == nil {
		t.Error("the line is not cut")
	}
	l.set(false)
	undisturbed(true)
	woken()
}

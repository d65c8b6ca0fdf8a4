package uplink

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"

	"headwater.dev/api/link"
)

// asked is an uplink to a door for tokens that answers when it is let to.
func asked(t *testing.T, answer http.HandlerFunc) (*Uplink, *atomic.Int32) {
	t.Helper()
	var count atomic.Int32
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm() // the server notices who hangs up only after that
		count.Add(1)
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	h := &hub{Server: server, t: t}
	u, err := New(Config{Hub: server.URL, CA: h.ca(), Cluster: cluster, Key: clusterKey(), Log: testr.New(t), Desired: func(link.Desired) {},
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.http.CloseIdleConnections)
	return u, &count
}

// TestOneTokenRequestAtATime lets everybody wait for the same answer, and nobody
// longer than he wants to.
func TestOneTokenRequestAtATime(t *testing.T) {
	let := make(chan struct{})
	u, count := asked(t, func(w http.ResponseWriter, r *http.Request) {
		<-let
		_, _ = w.Write([]byte(`{"access_token":"one","token_type":"Bearer","expires_in":900}`))
	})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if token, err := u.tokens.get(t.Context()); err != nil || token != "one" {
				t.Errorf("got %q, %v", token, err)
			}
		})
	}
	eventually(t, "somebody asks", func() bool { return count.Load() == 1 })
	hasty, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := u.tokens.get(hasty); !errors.Is(err, context.Canceled) {
		t.Errorf("who does not want to wait gets %v", err)
	}
	close(let)
	all.Wait()
	if n := count.Load(); n != 1 {
		t.Errorf("%d requests for a token, want 1", n)
	}
	u.tokens.drop("another one") // as both loops do when the hub refuses what they had
	if _, err := u.tokens.get(t.Context()); err != nil || count.Load() != 1 {
		t.Errorf("a token that was not refused is asked for again: %v", err)
	}
}

// TestARefusalHoldsForAll asks once when the hub says to wait, not once for each
// of the loops.
func TestARefusalHoldsForAll(t *testing.T) {
	u, count := asked(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	for range 5 {
		_, err := u.tokens.get(t.Context())
		var r *refusal
		if !errors.As(err, &r) || r.status != http.StatusTooManyRequests || r.after != time.Minute {
			t.Fatalf("got %v, want the hub's refusal", err)
		}
	}
	if n := count.Load(); n != 1 {
		t.Errorf("%d requests within the pause that the hub asked for, want 1", n)
	}
}

// TestWhoeverAskedMayGiveUp does not take the answer from the others.
func TestWhoeverAskedMayGiveUp(t *testing.T) {
	first := make(chan struct{})
	var once sync.Once
	u, count := asked(t, func(w http.ResponseWriter, r *http.Request) {
		slow := false
		once.Do(func() { slow = true })
		if slow {
			close(first)
			<-r.Context().Done()
			return
		}
		_, _ = w.Write([]byte(`{"access_token":"two","token_type":"Bearer","expires_in":900}`))
	})
	hasty, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := u.tokens.get(hasty); !errors.Is(err, context.Canceled) {
			t.Errorf("who gave up gets %v", err)
		}
	})
	<-first
	all.Go(func() {
		if token, err := u.tokens.get(t.Context()); err != nil || token != "two" {
			t.Errorf("the other gets %q, %v", token, err)
		}
	})
	cancel()
	all.Wait()
	if n := count.Load(); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

package limit

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"headwater.dev/api/arm"
	"headwater.dev/hub/auth"
)

func pass(l *Limiter, who, method string) (http.Header, error) {
	a := &auth.Attempt{Who: auth.Principal{ID: who, ObjectID: who}, Method: method, Header: http.Header{}}
	return a.Header, l.Gate(context.Background(), a, func() error { return nil })
}

func TestPrincipalsAreLimitedEach(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	l := New(Config{Reads: Rate{1, 3}, Writes: Rate{0.5, 1}, Clock: func() time.Time { return now }})
	for want := 2; want >= 0; want-- {
		h, err := pass(l, "a", "GET")
		if err != nil || h.Get("x-ms-ratelimit-remaining-subscription-reads") != fmt.Sprint(want) {
			t.Fatalf("%d remaining: %v %v", want, h, err)
		}
	}
	h, err := pass(l, "a", "HEAD")
	if arm.CodeOf(err) != arm.CodeTooManyRequests || h.Get("Retry-After") != "2" || h.Get("x-ms-ratelimit-remaining-subscription-reads") != "0" {
		t.Errorf("one too many: %v %v", h, err)
	}
	if _, err := pass(l, "b", "GET"); err != nil {
		t.Errorf("another principal: %v", err)
	}
	if _, err := pass(l, "a", "PUT"); err != nil {
		t.Errorf("another class: %v", err)
	}
	if _, err := pass(l, "a", "DELETE"); err != nil {
		t.Errorf("no limit: %v", err)
	}
	now = now.Add(time.Second)
	if _, err := pass(l, "a", "GET"); err != nil {
		t.Errorf("a second later: %v", err)
	}
}

func TestAddressesAreLimitedBeforeTheyAreKnown(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	l := New(Config{Address: Rate{10, 2 * RefusedCosts}, Clock: func() time.Time { return now }})
	asked := 0
	h := l.Addresses(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.Header.Get("Authorization") == "" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	send := func(from, token string) *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/subscriptions", nil)
		r.RemoteAddr = from
		if token != "" {
			r.Header.Set("Authorization", token)
		}
		h.ServeHTTP(w, r)
		return w
	}
	for range 2 {
		if w := send("192.0.2.1:1", ""); w.Code != http.StatusUnauthorized {
			t.Fatalf("refused: %d", w.Code)
		}
	}
	w := send("192.0.2.1:2", "")
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" || asked != 2 {
		t.Errorf("the third guess: %d %v, asked %d times", w.Code, w.Header(), asked)
	}
	if w := send("192.0.2.2:1", "x"); w.Code != http.StatusOK {
		t.Errorf("another address: %d", w.Code)
	}
	now = now.Add(time.Second)
	if w := send("192.0.2.1:3", "x"); w.Code != http.StatusOK {
		t.Errorf("a second later: %d", w.Code)
	}
}

func TestTheLimiterIsBoundedItself(t *testing.T) {
	l := New(Config{Reads: Rate{1, 5}, Clock: func() time.Time { return time.Unix(1, 0) }})
	for i := range maxBuckets + 10 {
		if _, err := pass(l, fmt.Sprint(i), "GET"); err != nil {
			t.Fatal(err)
		}
	}
	if len(l.buckets) > maxBuckets {
		t.Errorf("%d buckets", len(l.buckets))
	}
}

// TestManyAddressesAreOnePeer knocks from all over a network of IPv6.
func TestManyAddressesAreOnePeer(t *testing.T) {
	l := New(Config{Reads: Rate{1, 1}, Address: Rate{1, 3}, Clock: func() time.Time { return time.Unix(1, 0) }})
	if _, err := pass(l, "a", "GET"); err != nil {
		t.Fatal(err)
	}
	h := l.Addresses(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	knock := func(from string) int {
		w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/subscriptions", nil)
		r.RemoteAddr = from
		h.ServeHTTP(w, r)
		return w.Code
	}
	for i := range 3 {
		if got := knock(fmt.Sprintf("[2001:db8::%x]:1", i+1)); got != http.StatusOK {
			t.Errorf("knock %d: %d", i, got)
		}
	}
	for from, want := range map[string]int{"[2001:db8::ffff:1]:1": 429, "[2001:db8::1%eth0]:1": 429, "[2001:db8:0:1::1]:1": 200, "[::ffff:192.0.2.1]:1": 200,
		"[::ffff:192.0.2.2]:1": 200, "192.0.2.3:1": 200, "@": 200} {
		if got := knock(from); got != want {
			t.Errorf("%s: %d, want %d", from, got, want)
		}
	}
	for i := range maxBuckets + 10 {
		knock(fmt.Sprintf("[2001:db8:%x:%x::1]:1", i>>16, i&0xffff))
	}
	if len(l.addresses) > maxBuckets {
		t.Errorf("%d addresses", len(l.addresses))
	}
	if _, err := pass(l, "a", "GET"); arm.CodeOf(err) != arm.CodeTooManyRequests {
		t.Errorf("strangers have made a principal's bucket full again: %v", err)
	}
}

package uplink

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"

	"headwater.dev/api/link"
)

// TestA84EnrolWaitsForTheHub goes through every answer that does not let the
// cluster in, with a token that its owner replaces meanwhile.
func TestA84EnrolWaitsForTheHub(t *testing.T) {
	answers := []struct {
		status int
		body   any
	}{
		{503, map[string]any{"error": map[string]string{"code": "ServiceUnavailable", "message": "no storage"}}},
		{401, map[string]any{"error": map[string]string{"code": "EnrolmentTokenExpired", "message": "expired"}}},
		{202, link.Enrolled{Name: "abc", State: link.EnrolmentPending, Message: "waits"}},
		{202, link.Enrolled{Name: "abc", State: link.EnrolmentPending, Message: "waits"}},
		{200, link.Enrolled{Name: "abc", State: link.EnrolmentRejected, Message: "unknown site"}},
		{200, link.Enrolled{Name: "abc", State: link.EnrolmentApproved}},
	}
	var mu sync.Mutex
	var asked []link.Enrolment
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		var e link.Enrolment
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil || r.URL.Path != link.PathEnrol {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		a := answers[min(len(asked), len(answers)-1)]
		asked = append(asked, e)
		w.WriteHeader(a.status)
		_ = json.NewEncoder(w).Encode(a.body)
	}))
	t.Cleanup(server.Close)
	var said []string
	e := Enrolling{Hub: server.URL, CA: (&hub{Server: server}).ca(), Cluster: cluster, Key: clusterKey(), Log: testr.New(t),
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
		Token: func(context.Context) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			return strings.Repeat("t", len(asked)+1), nil
		},
		Waiting: func(_ context.Context, what string) { said = append(said, what) }}
	quick := timing{retry: time.Millisecond, retryMax: 5 * time.Millisecond, request: 10 * time.Second}
	if err := e.run(t.Context(), quick); err != nil {
		t.Fatal(err)
	}
	if len(asked) != len(answers) || asked[5].Token != "tttttt" || asked[0].Cluster != cluster || asked[0].Proof == "" {
		t.Errorf("asked %d times, last with %q", len(asked), asked[len(asked)-1].Token)
	}
	for i, want := range []string{"no storage", "EnrolmentTokenExpired", "pending: abc: waits", "rejected: unknown site"} {
		if i >= len(said) || !strings.Contains(said[i], want) {
			t.Errorf("said %q, want %q at %d", said, want, i)
		}
	}
	if slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, "ttt") }) {
		t.Errorf("the token is told: %q", said)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.run(ended, quick); err == nil {
		t.Error("an end is no approval")
	}
}

// TestA86RollbackAcrossRestarts begins with what an earlier process knew.
func TestA86RollbackAcrossRestarts(t *testing.T) {
	h := newHub(t)
	var mu sync.Mutex
	var marks []Mark
	_, delivered := connect(t, h, func(c *Config) {
		c.Known = Mark{Epoch: 0, Revision: 5}
		c.Remember = func(_ context.Context, m Mark) error {
			mu.Lock()
			defer mu.Unlock()
			marks = append(marks, m)
			return nil
		}
	})
	eventually(t, "the hub is told what was known", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.epochs) > 2 && h.epochs[2] == "0/5"
	})
	if len(delivered) != 0 {
		t.Fatal("what is older than what an earlier process had was taken")
	}
	h.set(func() {
		h.desired = link.Desired{Cluster: cluster, Epoch: 1, Revision: 2}
		close(h.changed)
		h.changed = make(chan struct{})
	})
	if d := receive(t, delivered); d.Epoch != 1 || d.Revision != 2 {
		t.Errorf("delivered %+v", d)
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(marks, []Mark{{1, 2}}) {
		t.Errorf("remembered %v", marks)
	}
}

// TestA86NothingIsDeliveredThatIsNotKept is an agent that cannot keep how far the
// hub's wishes have come: were it to carry them out and crash, it could be made to
// go back.
func TestA86NothingIsDeliveredThatIsNotKept(t *testing.T) {
	h := newHub(t)
	var broken atomic.Bool
	broken.Store(true)
	tries := make(chan Mark, 100)
	_, delivered := connect(t, h, func(c *Config) {
		c.Remember = func(_ context.Context, m Mark) error {
			if broken.Load() {
				tries <- m
				return errors.New("no room")
			}
			return nil
		}
	})
	for range 3 {
		<-tries
	}
	if len(delivered) != 0 {
		t.Fatal("what is not kept was delivered")
	}
	broken.Store(false)
	receive(t, delivered)
}

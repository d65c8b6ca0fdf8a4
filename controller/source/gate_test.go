package source

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

func request(namespace, name string) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}}
}

func TestLanesServeNamespacesInTurn(t *testing.T) {
	g := &gate{}
	for i := range perRemote {
		if !g.enter("host", request("greedy", fmt.Sprint("busy", i))) {
			t.Fatalf("request %d of %d was parked", i, perRemote)
		}
	}
	for i := range 4 {
		g.enter("host", request("greedy", fmt.Sprint(i)))
	}
	for _, r := range []reconcile.Request{request("modest", "a"), request("modest", "a"), request("other", "b")} {
		if g.enter("host", r) {
			t.Fatal("the lane is full")
		}
	}
	if !g.enter("another", request("greedy", "x")) {
		t.Error("a full lane holds up another host")
	}
	var got []string
	for {
		r, ok := g.lanes["host"].next()
		if !ok {
			break
		}
		got = append(got, r.String())
	}
	want := []string{"greedy/0", "modest/a", "other/b", "greedy/1", "greedy/2", "greedy/3"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if l := g.lanes["host"]; len(l.parked) != 0 || len(l.waiting) != 0 {
		t.Errorf("left in the lane: %+v", l)
	}
}

// TestPlacesArePassedOn has those whose turn it is go away: whoever waits behind
// them gets their places.
func TestPlacesArePassedOn(t *testing.T) {
	var called []reconcile.Request
	g := &gate{queue: &recorder{add: func(r reconcile.Request) { called = append(called, r) }}}
	for i := range perRemote {
		g.enter("host", request("busy", fmt.Sprint(i)))
	}
	for i := range 2 * perRemote {
		g.enter("host", request("gone", fmt.Sprint(i)))
	}
	last := request("patient", "a")
	g.enter("host", last)
	if g.leave("host"); len(called) != 1 {
		t.Fatalf("called %v", called)
	}
	// A place that is kept for somebody is not given to a newcomer.
	if g.enter("host", request("newcomer", "a")) {
		t.Error("a newcomer went first")
	}
	for i := 0; i < len(called) && called[i] != last; i++ {
		g.settle(called[i], map[bool]string{true: "", false: "another"}[i%2 == 0])
	}
	if len(called) == 0 || called[len(called)-1] != last {
		t.Fatalf("the patient one was not called: %v", called)
	}
	if g.settle(last, "host"); !g.enter("host", last) {
		t.Error("its place was not kept")
	}
	if l := g.lanes["host"]; l.busy != perRemote {
		t.Errorf("%d places are taken, want %d", l.busy, perRemote)
	}
	// When everybody is through, nothing is left.
	for range 100 {
		if g.lanes["host"] == nil {
			break
		}
		n := len(called)
		g.leave("host")
		for ; n < len(called); n++ {
			g.settle(called[n], "")
		}
	}
	if len(g.lanes) != 0 || len(g.called) != 0 {
		t.Errorf("left: %v, %v", g.lanes, g.called)
	}
}

// recorder is a queue that notes what is added.
type recorder struct {
	workqueue.TypedRateLimitingInterface[reconcile.Request]
	add func(reconcile.Request)
}

func (r *recorder) Add(req reconcile.Request) { r.add(req) }

// refusing answers every request in one way.
type refusing struct {
	status int
	after  string
}

func (r refusing) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: r.status, Header: http.Header{"Retry-After": {r.after}}, Body: io.NopCloser(strings.NewReader(""))}, nil
}

func TestRetryAfterIsHonoured(t *testing.T) {
	for name, c := range map[string]struct {
		answer refusing
		want   time.Duration
	}{
		"too many":    {refusing{429, "90"}, 90 * time.Second},
		"unavailable": {refusing{503, "7"}, 7 * time.Second},
		"for ever":    {refusing{429, "99999999"}, maxRetryAfter},
		"negative":    {refusing{429, "-5"}, 0},
		"nonsense":    {refusing{429, "soon"}, 0},
		"other error": {refusing{500, "90"}, 0},
	} {
		w := &wish{}
		r, err := http.NewRequestWithContext(context.WithValue(t.Context(), wishKey{}, w), http.MethodGet, "http://x/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (patient{c.answer}).RoundTrip(r); err != nil {
			t.Fatal(err)
		}
		if got := w.after(); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// one is a cache that holds one repository, of a shard.
type one struct{ client.Reader }

func (one) Get(_ context.Context, _ client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	o.SetLabels(map[string]string{"shard": "a"})
	return nil
}

// TestGateLeavesOtherShardsAlone: the cache has the sources of all shards, since
// others use them here.
func TestGateLeavesOtherShardsAlone(t *testing.T) {
	for selector, want := range map[string]int{"": 1, "shard=a": 1, "shard=b": 0, "!shard": 0} {
		selects, err := labels.Parse(selector)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		g := &gate{client: one{}, selects: selects, new: func() client.Object { return &sourcev1.GitRepository{} }, remote: func(client.Object) string { return "" },
			next: reconcile.Func(func(context.Context, reconcile.Request) (reconcile.Result, error) {
				n++
				return reconcile.Result{}, nil
			})}
		if _, err := g.Reconcile(t.Context(), request("a", "b")); err != nil || n != want {
			t.Errorf("%q: reconciled %d times, want %d (%v)", selector, n, want, err)
		}
	}
}

package uplink

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
)

func item(name string) link.Item { return link.Item{ID: idOf(name), Name: name, Generation: 1} }

func idOf(name string) string {
	return cluster + "/providers/Microsoft.KubernetesConfiguration/fluxConfigurations/" + name
}

func observed(name string, generation int64) link.Observed {
	return link.Observed{ID: idOf(name), Generation: generation,
		Configuration: &resource.FluxConfigurationObserved{AcceptedGeneration: generation}}
}

func TestDeliversWhatIsDesired(t *testing.T) {
	h := newHub(t)
	_, delivered := connect(t, h, nil)
	if d := receive(t, delivered); d.Revision != 1 || len(d.Items) != 0 {
		t.Fatalf("first delivery: %+v", d)
	}
	h.want(item("a"))
	if d := receive(t, delivered); d.Revision != 2 || len(d.Items) != 1 || d.Items[0].Name != "a" {
		t.Fatalf("second delivery: %+v", d)
	}
	eventually(t, "a heartbeat", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.reports) > 0 && h.reports[0].Heartbeat != nil && h.reports[0].Heartbeat.KubernetesVersion == "v1.37.2"
	})
}

func TestReportsAreKeptUntilAccepted(t *testing.T) {
	h := newHub(t)
	u, delivered := connect(t, h, nil)
	receive(t, delivered)
	h.set(func() { h.down = true })
	h.CloseClientConnections()
	for generation := range int64(20) {
		u.Report(observed("a", generation+1))
	}
	u.Report(observed("b", 7))
	h.set(func() { h.down = false })
	eventually(t, "both items are accepted", func() bool {
		a, _ := h.accepted(idOf("a"))
		b, _ := h.accepted(idOf("b"))
		return a.Generation == 20 && b.Generation == 7
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	last := map[string]int64{}
	for _, r := range h.reports {
		if r.Sequence <= last[r.Session] {
			t.Errorf("sequence %d came after %d", r.Sequence, last[r.Session])
		}
		last[r.Session] = r.Sequence
	}
}

func TestReportsAgainAfterReconnect(t *testing.T) {
	h := newHub(t)
	h.want(item("a"))
	u, delivered := connect(t, h, nil)
	receive(t, delivered)
	u.Report(observed("a", 1))
	u.Report(observed("gone", 1))
	eventually(t, "the reports are accepted", func() bool {
		_, a := h.accepted(idOf("a"))
		_, gone := h.accepted(idOf("gone"))
		return a && gone
	})
	answered(t, u)
	h.set(func() { h.reports = nil }) // as a hub restored from a backup
	h.CloseClientConnections()
	receive(t, delivered)
	eventually(t, "the hub is told again", func() bool { _, ok := h.accepted(idOf("a")); return ok })
	if _, ok := h.accepted(idOf("gone")); ok {
		t.Error("what is no longer desired was reported again")
	}
}

func TestPollsWhenStreamsAreHeldBack(t *testing.T) {
	h := newHub(t)
	h.set(func() { h.buffered = true })
	h.want(item("a"))
	_, delivered := connect(t, h, nil)
	if d := receive(t, delivered); len(d.Items) != 1 {
		t.Fatalf("delivered: %+v", d)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streams != heldBackStreams || h.polls == 0 {
		t.Errorf("%d streams and %d polls, want %d streams and some polls", h.streams, h.polls, heldBackStreams)
	}
}

func TestReconnectsWhenTheStreamFallsSilent(t *testing.T) {
	h := newHub(t)
	h.set(func() { h.mute = true })
	_, delivered := connect(t, h, nil)
	receive(t, delivered)
	receive(t, delivered)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streams < 2 || h.polls != 0 {
		t.Errorf("%d streams and %d polls, want two streams", h.streams, h.polls)
	}
}

func TestRenewsTokens(t *testing.T) {
	h := newHub(t)
	u, delivered := connect(t, h, nil)
	receive(t, delivered)
	h.set(func() { clear(h.tokens) })
	h.CloseClientConnections()
	receive(t, delivered)
	u.Report(observed("a", 1))
	eventually(t, "the report is accepted", func() bool { _, ok := h.accepted(idOf("a")); return ok })
}

func TestWorksWithAWrongClock(t *testing.T) {
	for why, skew := range map[string]time.Duration{"a day behind": -24 * time.Hour, "a day ahead": 24 * time.Hour} {
		t.Run(why, func(t *testing.T) {
			h := newHub(t)
			h.set(func() { h.skew = skew })
			_, delivered := connect(t, h, nil)
			receive(t, delivered)
		})
	}
}

func TestRefusesWhatIsNotForThisCluster(t *testing.T) {
	cases := map[string]func(*link.Desired){
		"another cluster":         func(d *link.Desired) { d.Cluster = cluster + "2" },
		"another cluster's item":  func(d *link.Desired) { d.Items = []link.Item{{ID: cluster + "2/providers/x/y/z"}} },
		"more items than allowed": func(d *link.Desired) { d.Items = make([]link.Item, link.MaxItems+1) },
	}
	for why, change := range cases {
		t.Run(why, func(t *testing.T) {
			h := newHub(t)
			h.set(func() { change(&h.desired) })
			_, delivered := connect(t, h, nil)
			eventually(t, "the agent tries again", func() bool {
				h.mu.Lock()
				defer h.mu.Unlock()
				return h.streams >= 2
			})
			if len(delivered) != 0 {
				t.Error("it was delivered")
			}
		})
	}
}

func TestOneBadReportStopsNoOther(t *testing.T) {
	h := newHub(t)
	h.set(func() {
		h.answer = func(r link.Report) (int, string) {
			for _, o := range r.Items {
				if o.ID == idOf("bad") {
					return http.StatusBadRequest, "InvalidReport"
				}
			}
			return 0, ""
		}
	})
	h.want(item("a"), item("bad"), item("b"))
	u, _ := connect(t, h, nil)
	u.Report(observed("a", 1))
	u.Report(observed("bad", 1))
	u.Report(observed("b", 1))
	eventually(t, "the good ones are accepted", func() bool {
		_, a := h.accepted(idOf("a"))
		_, b := h.accepted(idOf("b"))
		return a && b
	})
}

func TestStartsANewSessionWhenItsSequenceIsRefused(t *testing.T) {
	h := newHub(t)
	refused := ""
	h.set(func() {
		h.answer = func(r link.Report) (int, string) {
			if refused == "" {
				refused = r.Session
			}
			if r.Session == refused {
				return http.StatusConflict, "OldSequence"
			}
			return 0, ""
		}
	})
	u, _ := connect(t, h, nil)
	u.Report(observed("a", 1))
	eventually(t, "the report is accepted", func() bool { _, ok := h.accepted(idOf("a")); return ok })
}

func TestTrustsOnlyItsCA(t *testing.T) {
	h := newHub(t)
	var attempts atomic.Int32
	_, delivered := connect(t, h, func(c *Config) {
		c.CA = strangerCA(t)
		c.Proxy = func(*http.Request) (*url.URL, error) { attempts.Add(1); return nil, nil }
	})
	eventually(t, "the agent tries more than once", func() bool { return attempts.Load() > 4 })
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.tokens) != 0 || len(delivered) != 0 {
		t.Error("the agent spoke to a hub that it cannot trust")
	}
}

// strangerCA is a certificate that did not sign the hub's.
func strangerCA(t *testing.T) []byte {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, NotAfter: time.Now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &clusterKey().PublicKey, clusterKey())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
}

func TestDoesNotFollowRedirects(t *testing.T) {
	h := newHub(t)
	var strayed atomic.Bool
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { strayed.Store(true) }))
	defer elsewhere.Close()
	var asked atomic.Int32
	h.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	})
	connect(t, h, nil)
	eventually(t, "the agent asks", func() bool { return asked.Load() > 1 })
	if strayed.Load() {
		t.Error("the assertion went elsewhere")
	}
}

func TestUsesTheProxy(t *testing.T) {
	h := newHub(t)
	var connects atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connects.Add(1)
		there, err := net.Dial("tcp", r.Host)
		if err != nil || r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusOK)
		here, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(there, here); there.Close() }()
		go func() { _, _ = io.Copy(here, there); here.Close() }()
	}))
	defer proxy.Close()
	address, _ := url.Parse(proxy.URL)
	_, delivered := connect(t, h, func(c *Config) { c.Proxy = http.ProxyURL(address) })
	receive(t, delivered)
	if connects.Load() == 0 {
		t.Error("the proxy was passed by")
	}
}

func TestNewRefusesBadConfiguration(t *testing.T) {
	cases := map[string]struct {
		change func(*Config)
		want   string
	}{
		"no TLS":         {func(c *Config) { c.Hub = "http://hub" }, "https://"},
		"credentials":    {func(c *Config) { c.Hub = "https://u:p@hub" }, "https://"},
		"no host":        {func(c *Config) { c.Hub = "hub" }, "https://"},
		"no key":         {func(c *Config) { c.Key = nil }, "private key"},
		"CA without PEM": {func(c *Config) { c.CA = []byte("x") }, "PEM"},
	}
	for why, c := range cases {
		t.Run(why, func(t *testing.T) {
			config := Config{Hub: "https://hub", Cluster: cluster, Key: clusterKey(), Desired: func(link.Desired) {}}
			c.change(&config)
			if _, err := New(config); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("New: %v, want it to speak of %q", err, c.want)
			}
		})
	}
}

// TestA86RollbackAcrossConnections is a hub that was restored from a backup, or
// somebody who replays an old one: nothing older is taken, the hub is told what
// is known, and its new epoch counts.
func TestA86RollbackAcrossConnections(t *testing.T) {
	h := newHub(t)
	_, delivered := connect(t, h, nil)
	receive(t, delivered)
	h.want(item("a"))
	if d := receive(t, delivered); d.Revision != 2 {
		t.Fatalf("delivered %+v", d)
	}
	h.set(func() {
		h.desired = link.Desired{Cluster: cluster, Revision: 1, Items: []link.Item{item("old")}}
		h.epochs = nil
	})
	h.CloseClientConnections()
	eventually(t, "the hub is told", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.epochs) > 1 && h.epochs[1] == "0/2"
	})
	select {
	case d := <-delivered:
		t.Fatalf("older than what was known, and delivered: %+v", d)
	default:
	}
	h.set(func() { h.desired.Epoch = 1 })
	if d := receive(t, delivered); d.Epoch != 1 || d.Items[0].Name != "old" {
		t.Errorf("in the new epoch: %+v", d)
	}
}

// TestNoStatusHoldsUpTheOthers reports a time that JSON cannot hold, which any
// tenant may write into a condition.
func TestNoStatusHoldsUpTheOthers(t *testing.T) {
	h := newHub(t)
	u, delivered := connect(t, h, nil)
	receive(t, delivered)
	strange := observed("strange", 1)
	strange.Configuration.Statuses = []resource.ObjectStatus{{Name: "x", StatusConditions: []resource.StatusCondition{
		{Type: "Ready", Status: "True", LastTransitionTime: time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -14*3600))}}}}
	u.Report(strange)
	u.Report(observed("b", 1))
	eventually(t, "both are accepted", func() bool {
		_, a := h.accepted(idOf("strange"))
		_, b := h.accepted(idOf("b"))
		return a && b
	})
}

// TestWhatWasMadeAnewIsNotReportedBefore deletes a configuration by force while the
// agent is away, and makes it anew: its generation is the same, and what was
// observed of the former one says nothing of it.
func TestWhatWasMadeAnewIsNotReportedBefore(t *testing.T) {
	h := newHub(t)
	first, other := item("a"), item("b")
	first.OperationID, other.OperationID = "one", "two"
	h.want(first, other)
	u, delivered := connect(t, h, nil)
	receive(t, delivered)
	for _, i := range []link.Item{first, other} {
		o := observed(i.Name, 1)
		o.OperationID = i.OperationID
		u.Report(o)
	}
	eventually(t, "the reports are accepted", func() bool {
		_, a := h.accepted(idOf("a"))
		_, b := h.accepted(idOf("b"))
		return a && b
	})
	answered(t, u)
	anew := first
	anew.OperationID = "three"
	h.set(func() { h.reports = nil })
	h.want(anew, other)
	h.CloseClientConnections()
	eventually(t, "the hub is told of the other again", func() bool { _, ok := h.accepted(idOf("b")); return ok })
	if o, ok := h.accepted(idOf("a")); ok {
		t.Errorf("what was observed of the former one was reported: %+v", o)
	}
}

// TestAFleetDoesNotComeBackAtOneMoment looks at the pauses of a thousand agents
// that lost their hub at the same moment, and of those that it sent away.
func TestAFleetDoesNotComeBackAtOneMoment(t *testing.T) {
	const agents = 1000
	spread := func(why string, least, most time.Duration, pause func() time.Duration) {
		t.Helper()
		var tenths [10]int
		for range agents {
			d := pause()
			if d < least || d > most {
				t.Fatalf("%s: a pause of %s, want %s to %s", why, d, least, most)
			}
			tenths[min(int(10*(d-least)/(most-least+1)), 9)]++
		}
		for i, n := range tenths {
			if n > agents/4 {
				t.Errorf("%s: %d of %d agents come back in tenth %d", why, n, agents, i)
			}
		}
	}
	timing := defaultTiming()
	for tries, most := range []time.Duration{timing.retry, 2 * timing.retry, 4 * timing.retry} {
		spread(fmt.Sprint("try ", tries), most/2, most, func() time.Duration {
			b := newBackoff(timing)
			for range tries {
				b.next()
			}
			return b.next()
		})
	}
	late := newBackoff(timing)
	for range 20 {
		late.next()
	}
	spread("after long", timing.retryMax/2, timing.retryMax, late.next)
	sent := &refusal{after: 10 * time.Second}
	spread("sent away", sent.after, sent.after+retrySpread, func() time.Duration { return longer(time.Second, sent) })
}

package gateway_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/hub/store"
)

// The names of these tests begin with the number of the attack that they make.

// TestA80Replay sends again what was on the wire before.
func TestA80Replay(t *testing.T) {
	h := newHub(t, nil)
	h.putConfig(edgeID, "apps", nil)
	a := h.edge()
	assertion := a.form(nil)
	if status, _ := a.request(assertion); status != http.StatusOK {
		t.Fatalf("the assertion's first use: %d", status)
	}
	if status, body := a.request(assertion); status != http.StatusUnauthorized {
		t.Errorf("the assertion's second use: %d %s", status, body)
	}
	body, err := json.Marshal(link.Report{Session: a.session, Sequence: 1, Items: []link.Observed{accept("apps", 1, nil)}})
	if err != nil {
		t.Fatal(err)
	}
	if status, code := a.post(body); status != http.StatusOK {
		t.Fatalf("the report's first use: %d %s", status, code)
	}
	before, _ := h.get(configID(edgeID, "apps"))
	if status, code := a.post(body); status != http.StatusConflict {
		t.Errorf("the report's second use: %d %s", status, code)
	}
	if after, _ := h.get(configID(edgeID, "apps")); after.Revision != before.Revision {
		t.Error("a replayed report was written")
	}
	h.advance(10 * time.Minute)
	old := a.form(func(c jwt.MapClaims) { c["exp"] = h.now().Add(-2 * time.Minute).Unix() })
	if status, _ := a.request(old); status != http.StatusUnauthorized {
		t.Errorf("an assertion that was kept for later: %d", status)
	}
}

// TestA81StolenKey is what a thief of one cluster's key gets, and for how long.
func TestA81StolenKey(t *testing.T) {
	h := newHub(t, nil)
	h.putConfig(otherID, "secret", nil)
	before := h.snapshot()
	thief := h.edge()
	if _, d := thief.poll("revision=0"); strings.Contains(ids(d), "secret") {
		t.Errorf("another cluster's configuration was handed out: %s", ids(d))
	}
	foreign := accept("secret", 1, nil)
	foreign.ID = configID(otherID, "secret")
	if status, code := thief.report(nil, foreign); status != http.StatusForbidden {
		t.Errorf("a report for another cluster: %d %s", status, code)
	}
	for i, r := range h.snapshot() {
		if r.Key == key(foreign.ID) && string(r.Observed) != string(before[i].Observed) {
			t.Error("another cluster's status was written")
		}
	}
	forged := thief.form(func(c jwt.MapClaims) { c["iss"], c["sub"] = otherID, otherID })
	if status, _ := thief.request(forged); status != http.StatusUnauthorized {
		t.Errorf("another cluster's token for this cluster's key: %d", status)
	}
	f := thief.follow()
	f.next()
	h.putCluster(edgeID, &clusterKeys()[1].PublicKey) // the cluster is connected anew
	f.ended("its key was replaced")
	if status, _ := thief.poll("revision=0"); status != http.StatusUnauthorized {
		t.Errorf("a token of the former key: %d, want 401 at once", status)
	}
	if status, _ := thief.request(thief.form(nil)); status != http.StatusUnauthorized {
		t.Errorf("a new token for the former key: %d", status)
	}
}

// TestA82MaliciousAgent sends what should hurt: much, large and active.
func TestA82MaliciousAgent(t *testing.T) {
	h := newHub(t, nil)
	h.putConfig(edgeID, "apps", nil)
	a := h.edge()
	const active = `<script>alert("x")</script>`
	status, code := a.report(nil, accept("apps", 1, func(o *resource.FluxConfigurationObserved) { o.ErrorMessage = active }))
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, code)
	}
	if r, _ := h.get(configID(edgeID, "apps")); bytes.Contains(r.Observed, []byte("<script>")) {
		t.Errorf("markup is kept as it came: %s", r.Observed)
	}
	many := make([]link.Observed, link.MaxItems+1)
	for i := range many {
		many[i] = accept(fmt.Sprintf("c%d", i), 1, nil)
	}
	if status, _ := a.report(nil, many...); status != http.StatusBadRequest {
		t.Errorf("%d items: %d", len(many), status)
	}
	large := accept("apps", 1, func(o *resource.FluxConfigurationObserved) { o.ErrorMessage = strings.Repeat("x", link.MaxReportBytes) })
	if status, _ := a.report(nil, large); status != http.StatusRequestEntityTooLarge {
		t.Errorf("a report of more than %d bytes: %d", link.MaxReportBytes, status)
	}
	ghosts := make([]link.Observed, link.MaxItems)
	copy(ghosts, many)
	count := len(h.snapshot())
	if status, code := a.report(nil, ghosts...); status != http.StatusOK || len(h.snapshot()) != count {
		t.Errorf("resources that nobody asked for: %d %s, %d records instead of %d", status, code, len(h.snapshot()), count)
	}
	// 200 are taken at once, and more as time goes by.
	const most = 5000
	taken := 0
	for ; taken < most; taken++ {
		if status, _ := a.report(nil); status == http.StatusTooManyRequests {
			break
		}
	}
	if taken == most {
		t.Errorf("%d reports in a row were all taken", most)
	}
	other := h.agent(otherID, clusterKeys()[1])
	if status, code := other.report(&link.Heartbeat{AgentVersion: "1"}); status != http.StatusOK {
		t.Errorf("another cluster's agent pays for it: %d %s", status, code)
	}
	// A body of unknown length would not count.
	unknown := struct{ io.Reader }{strings.NewReader(`{"session":"s","sequence":1}`)}
	if status, body := read(t, other.do(t.Context(), http.MethodPost, link.PathObserved, unknown)); status != http.StatusLengthRequired {
		t.Errorf("a report without a length: %d %s", status, body)
	}
}

// TestA82ManyTokens asks for tokens without end: what is too much leaves nothing
// in the store.
func TestA82ManyTokens(t *testing.T) {
	h := newHub(t, nil)
	a := &agent{hub: h, id: edgeID, key: clusterKeys()[0]}
	granted, refused := 0, 0
	for range 40 {
		switch status, body := a.request(a.form(nil)); status {
		case http.StatusOK:
			granted++
		case http.StatusTooManyRequests:
			refused++
		default:
			t.Fatalf("%d %s", status, body)
		}
	}
	kept := 0
	if _, err := store.Each(t.Context(), h.store, "/agent-assertions/", func(store.Record) error { kept++; return nil }); err != nil {
		t.Fatal(err)
	}
	if refused == 0 || kept != granted {
		t.Errorf("%d granted, %d refused, %d assertions kept", granted, refused, kept)
	}
}

// TestA85OfflineFor90Days is an agent that comes back after a season.
func TestA85OfflineFor90Days(t *testing.T) {
	h := newHub(t, nil)
	a := h.edge()
	h.advance(90 * 24 * time.Hour)
	if status, _ := a.poll("revision=0"); status != http.StatusUnauthorized {
		t.Errorf("its old token: %d", status)
	}
	back := h.edge()
	if status, code := back.report(&link.Heartbeat{AgentVersion: "1"}); status != http.StatusOK {
		t.Errorf("its key: %d %s", status, code)
	}
}

// TestA86Rollback is a hub that is behind its agent: it begins an epoch, for
// that cluster alone and no more often than it is behind.
func TestA86Rollback(t *testing.T) {
	h := newHub(t, nil)
	h.putConfig(edgeID, "apps", nil)
	a := h.edge()
	_, d := a.poll("revision=0")
	if d.Epoch != 0 {
		t.Fatalf("the first epoch is %d", d.Epoch)
	}
	if _, same := a.poll(fmt.Sprintf("revision=0&epoch=%d&known=%d", d.Epoch, d.Revision)); same.Epoch != 0 {
		t.Errorf("an agent that knows what is so begins epoch %d", same.Epoch)
	}
	_, next := a.poll(fmt.Sprintf("revision=0&epoch=0&known=%d", d.Revision+1000))
	if next.Epoch != 1 || ids(next) != ids(d) {
		t.Errorf("an agent that is ahead: epoch %d with %s, want 1 with %s", next.Epoch, ids(next), ids(d))
	}
	if _, later := a.poll(fmt.Sprintf("revision=0&epoch=1&known=%d", next.Revision)); later.Epoch != 1 {
		t.Errorf("the epoch goes on to %d", later.Epoch)
	}
	if _, after := a.poll("revision=0&epoch=7&known=1"); after.Epoch != 8 {
		t.Errorf("an agent of a later epoch: %d, want 8", after.Epoch)
	}
	if _, other := h.agent(otherID, clusterKeys()[1]).poll("revision=0"); other.Epoch != 0 {
		t.Errorf("another cluster's epoch is %d", other.Epoch)
	}
}

// TestA87DuplicateCluster copies a cluster with its key. Both report in turn,
// until both are shut out; a new key lets the right one in again.
func TestA87DuplicateCluster(t *testing.T) {
	h := newHub(t, nil)
	one, two := h.edge(), h.edge()
	shut := 0
	for range 20 {
		for _, a := range []*agent{one, two} {
			if status, code := a.report(&link.Heartbeat{AgentVersion: "1"}); status == http.StatusForbidden && code == "ClusterIdentityDuplicated" {
				shut++
			}
		}
		if shut > 0 {
			break
		}
		h.advance(45 * time.Second)
	}
	if shut == 0 {
		t.Fatal("two agents with one key were never noticed")
	}
	for _, a := range []*agent{one, two} {
		if status, _ := a.poll("revision=0"); status != http.StatusForbidden {
			t.Errorf("one of them is still told what is desired: %d", status)
		}
		if status, _ := a.request(a.form(nil)); status != http.StatusForbidden {
			t.Errorf("one of them still gets a token: %d", status)
		}
	}
	h.putCluster(edgeID, &clusterKeys()[1].PublicKey)
	right := h.agent(edgeID, clusterKeys()[1])
	if status, code := right.report(&link.Heartbeat{AgentVersion: "1"}); status != http.StatusOK {
		t.Errorf("the right one with its new key: %d %s", status, code)
	}
}

// TestRestartsAreNoDuplicates replaces the agent often, with overlaps as a
// rolling update has them.
func TestRestartsAreNoDuplicates(t *testing.T) {
	h := newHub(t, nil)
	old := h.edge()
	for i := range 30 {
		next := h.edge()
		next.session = uuid.NewString()
		for _, a := range []*agent{next, old, next} {
			if status, code := a.report(&link.Heartbeat{AgentVersion: "1"}); status != http.StatusOK {
				t.Fatalf("restart %d: %d %s", i, status, code)
			}
		}
		old = next
		h.advance(10 * time.Minute)
	}
}

// TestA88StreamsEndWithTheWelcome opens a stream and then loses every right to it.
func TestA88StreamsEndWithTheWelcome(t *testing.T) {
	h := newHub(t, nil)
	f := h.edge().follow()
	f.next()
	if err := h.store.Delete(t.Context(), key(edgeID), store.AnyRevision); err != nil {
		t.Fatal(err)
	}
	h.putConfig(edgeID, "later", nil)
	f.ended("the cluster was removed")
}

package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"github.com/google/go-cmp/cmp"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
	"headwater.dev/hub/store/memory"
	"headwater.dev/hub/vault"
)

type desiredConfig = resource.Desired[resource.FluxConfigurationProperties]

// readAdminToken is a user's token.
func readAdminToken(t *testing.T, h *hub) string {
	t.Helper()
	p, secret, err := h.auth.CreatePrincipal(t.Context(), "user", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.auth.Assign(t.Context(), p.ObjectID, auth.Owner, "/"); err != nil {
		t.Fatal(err)
	}
	resp, err := h.server.Client().PostForm(h.server.URL+"/"+h.auth.TenantID()+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {p.ID}, "client_secret": {secret}, "scope": {h.server.URL + "/.default"},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, body := read(t, resp)
	var token link.Token
	if err := json.Unmarshal(body, &token); err != nil || token.AccessToken == "" {
		t.Fatalf("user's token: %v in %s", err, body)
	}
	return token.AccessToken
}

func TestStreamFollowsItsClusterOnly(t *testing.T) {
	h := newHub(t, nil)
	h.putConfig(edgeID, "apps", nil)
	put(h, resource.Desired[resource.ExtensionProperties]{ID: extensionID(edgeID, "flux"), Properties: resource.ExtensionProperties{ExtensionType: "microsoft.flux"}})
	operation := store.Put{Key: key(configID(edgeID, "apps") + "/operations/1"), Value: json.RawMessage(`{"verb":"create"}`)}
	if _, err := h.store.Put(t.Context(), operation); err != nil {
		t.Fatal(err)
	}
	h.putConfig(otherID, "foreign", nil)
	f := h.edge().follow()
	first := f.next()
	want := link.Desired{Cluster: edgeID, Revision: first.Revision, Items: []link.Item{
		{ID: extensionID(edgeID, "flux"), Name: "flux", Generation: 1, Extension: &resource.ExtensionProperties{ExtensionType: "microsoft.flux"}},
		{ID: configID(edgeID, "apps"), Name: "apps", Generation: 1, OperationID: "op", CorrelationID: "corr",
			Configuration: &resource.FluxConfigurationProperties{Scope: "cluster", Namespace: "ns", SourceKind: "GitRepository"}},
	}}
	if d := cmp.Diff(want, first); d != "" {
		t.Errorf("first message (-want +got):\n%s", d)
	}
	// The other cluster's change comes first: had it woken the stream, its
	// message would too.
	h.putConfig(otherID, "foreign", nil)
	changed := h.putConfig(edgeID, "apps", nil)
	second := f.until("the change", func(d link.Desired) bool { return ids(d) == "flux/1 apps/2" })
	if second.Revision < changed.Revision || second.Revision <= first.Revision {
		t.Errorf("revision %d after %d, the change is %d", second.Revision, first.Revision, changed.Revision)
	}
	h.putConfig(edgeID, "apps", func(d *desiredConfig) { d.Deleting = true })
	deleting := f.until("the deletion", func(d link.Desired) bool { return ids(d) == "flux/1 apps/3" })
	if !deleting.Items[1].Delete {
		t.Error("the deletion does not say so")
	}
	if strings.Contains(string(mustJSON(t, deleting)), "foreign") {
		t.Error("the stream carries another cluster's resource")
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestProtectedSettingsUntilAcknowledged(t *testing.T) {
	h := newHub(t, nil)
	k := clusterKeys()[0]
	version, err := h.vault.Keep(t.Context(), key(configID(edgeID, "apps")), map[string]string{"httpsKey": "c2VjcmV0"}, &k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	h.putConfig(edgeID, "apps", func(d *desiredConfig) { d.ProtectedVersion = version })
	a := h.edge()
	_, d := a.poll("revision=0")
	if len(d.Items) != 1 || d.Items[0].ProtectedVersion != version {
		t.Fatalf("items %+v", d.Items)
	}
	identity, err := agessh.NewRSAIdentity(k)
	if err != nil {
		t.Fatal(err)
	}
	r, err := age.Decrypt(bytes.NewReader(d.Items[0].Sealed), identity)
	if err != nil {
		t.Fatal(err)
	}
	if plain, _ := io.ReadAll(r); string(plain) != `{"httpsKey":"c2VjcmV0"}` {
		t.Errorf("sealed settings hold %s", plain)
	}
	if status, code := a.report(nil, link.Observed{ID: configID(edgeID, "apps"), Generation: 1, ProtectedVersion: version}); status != http.StatusOK {
		t.Fatalf("acknowledgement: %d %s", status, code)
	}
	if _, d = a.poll("revision=0"); d.Items[0].ProtectedVersion != version || d.Items[0].Sealed != nil {
		t.Errorf("after the acknowledgement: %+v", d.Items[0])
	}
	for _, r := range h.snapshot() {
		if strings.HasPrefix(r.Key, "/vault/") {
			t.Errorf("the vault still has %s", r.Key)
		}
	}
}

func TestNothingStaleIsHandedOut(t *testing.T) {
	h := newHub(t, nil)
	h.putConfig(edgeID, "taken", nil)
	h.putConfig(edgeID, "waiting", nil)
	a := h.edge()
	o := link.Observed{ID: configID(edgeID, "taken"), Generation: 1, Configuration: &resource.FluxConfigurationObserved{AcceptedGeneration: 1}}
	if status, code := a.report(nil, o); status != http.StatusOK {
		t.Fatalf("report: %d %s", status, code)
	}
	h.advance(48*time.Hour - time.Minute)
	if _, d := h.edge().poll("revision=0"); ids(d) != "taken/1 waiting/1" {
		t.Errorf("before 48 hours: %s", ids(d))
	}
	h.advance(2 * time.Minute)
	if _, d := h.edge().poll("revision=0"); ids(d) != "taken/1" {
		t.Errorf("after 48 hours: %s", ids(d))
	}
	// A request to reconcile makes no change young again.
	ask := func(d *resource.Desired[resource.FluxConfigurationProperties]) {
		d.Changed, d.ReconcileRequestedAt = &resource.Change{Generation: 1, At: h.now().Add(-48*time.Hour - time.Minute)}, "2026-01-02T03:04:05Z"
	}
	h.putConfig(edgeID, "waiting", ask)
	h.putConfig(edgeID, "taken", ask)
	if _, d := h.edge().poll("revision=0"); ids(d) != "taken/2" {
		t.Errorf("asked to reconcile: %s", ids(d))
	}
	h.putConfig(edgeID, "waiting", nil)
	if _, d := h.edge().poll("revision=0"); ids(d) != "taken/2 waiting/3" {
		t.Errorf("asked for again: %s", ids(d))
	}
}

func TestLongPoll(t *testing.T) {
	h := newHub(t, nil)
	a := h.edge()
	status, d := a.poll("revision=0&wait=30s")
	if status != http.StatusOK || len(d.Items) != 0 {
		t.Fatalf("the first poll: %d %+v", status, d)
	}
	at := func(revision int64, wait string) (int, link.Desired) {
		return a.poll("revision=" + json.Number(mustJSON(t, revision)).String() + "&wait=" + wait)
	}
	if status, _ := at(d.Revision, "10ms"); status != http.StatusNoContent {
		t.Errorf("nothing new: %d", status)
	}
	h.putConfig(otherID, "foreign", nil)
	if status, _ := at(d.Revision, "10ms"); status != http.StatusNoContent {
		t.Errorf("something new of another cluster: %d", status)
	}
	done := make(chan link.Desired, 1)
	go func() {
		_, d := at(d.Revision, "30s")
		done <- d
	}()
	h.putConfig(edgeID, "apps", nil)
	select {
	case got := <-done:
		if ids(got) != "apps/1" {
			t.Errorf("the poll answered %+v", got)
		}
		d = got
	case <-time.After(patience):
		t.Fatal("the poll did not answer a change")
	}
	if status, _ := at(d.Revision, "10ms"); status != http.StatusNoContent {
		t.Errorf("known by now: %d", status)
	}
	if status, got := at(d.Revision+1000, "30s"); status != http.StatusOK || got.Revision > d.Revision+1000 {
		t.Errorf("a revision from another life of the store: %d %+v", status, got)
	}
	for _, q := range []string{"revision=x", "revision=-1", "wait=x", "wait=-1s", "revision=9999999999999999999"} {
		if status, _ := a.poll(q); status != http.StatusBadRequest {
			t.Errorf("%s: %d", q, status)
		}
	}
}

func TestStreamEnds(t *testing.T) {
	cases := map[string]func(*hub){
		"the cluster is removed": func(h *hub) {
			if err := h.store.Delete(h.t.Context(), key(edgeID), store.AnyRevision); err != nil {
				h.t.Fatal(err)
			}
		},
		"the cluster gets another key": func(h *hub) { h.putCluster(edgeID, &clusterKeys()[1].PublicKey) },
		"the hub stops":                func(h *hub) { h.stop() },
		"more streams are opened": func(h *hub) {
			for range 4 {
				h.edge().follow().next()
			}
		},
	}
	for why, change := range cases {
		t.Run(strings.ReplaceAll(why, " ", "-"), func(t *testing.T) {
			h := newHub(t, nil)
			f := h.edge().follow()
			f.next()
			change(h)
			f.ended(why)
		})
	}
	t.Run("the-token-expires", func(t *testing.T) {
		h := newHub(t, nil)
		a := h.edge()
		h.advance(auth.AgentTokenLife - 200*time.Millisecond)
		f := a.follow()
		f.next()
		f.ended("the token expired")
	})
}

// brokenWatch ends its first watches as a store does that has lost its history.
type brokenWatch struct {
	store.Store
	broken chan struct{}
}

func (b brokenWatch) Watch(ctx context.Context, prefix string, from int64) (<-chan store.Event, error) {
	select {
	case <-b.broken:
		events := make(chan store.Event, 1)
		events <- store.Event{Err: store.ErrCompacted}
		close(events)
		return events, nil
	default:
		return b.Store.Watch(ctx, prefix, from)
	}
}

func TestABrokenWatchLosesNothing(t *testing.T) {
	broken := make(chan struct{}, 1)
	broken <- struct{}{}
	h := newHub(t, brokenWatch{memory.New(), broken})
	f := h.edge().follow()
	f.next()
	h.putConfig(edgeID, "apps", nil) // before the watch begins anew
	f.until("the change", func(d link.Desired) bool { return ids(d) == "apps/1" })
	h.putConfig(edgeID, "apps", nil)
	f.until("a change after that", func(d link.Desired) bool { return ids(d) == "apps/2" })
}

func TestConnectedAgentsAreCounted(t *testing.T) {
	h := newHub(t, nil)
	gauge := func() float64 {
		families, err := h.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "headwater_gateway_connected_agents" {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		return -1
	}
	f := h.edge().follow()
	f.next()
	if got := gauge(); got != 1 {
		t.Errorf("%v connected agents, want 1", got)
	}
	f.cancel()
	f.ended("hung up")
	h.stop()
	if got := gauge(); got != 0 {
		t.Errorf("%v connected agents after the end, want 0", got)
	}
}

// TestMessagesStayWithinBounds has more than one message has room for.
func TestMessagesStayWithinBounds(t *testing.T) {
	h := newHub(t, nil)
	const n = 70
	for i := range n {
		h.putConfig(edgeID, fmt.Sprintf("c%d", i), func(d *desiredConfig) {
			d.Properties.GitRepository = &resource.GitRepository{URL: "&" + strings.Repeat("x", 900<<10)}
		})
	}
	_, body := read(t, h.edge().do(t.Context(), http.MethodGet, link.PathDesired+"?stream=false&wait=0&revision=0", nil))
	var m link.Message
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	if len(body) > link.MaxStreamed || m.Desired == nil || len(m.Desired.Items) < n/2 || len(m.Desired.Items) == n {
		t.Errorf("%d items in %d bytes, at most %d", len(m.Desired.Items), len(body), link.MaxStreamed)
	}
	if bytes.Contains(body, []byte(`\u0026`)) {
		t.Error("characters are escaped for HTML, which makes messages longer than what was counted")
	}
}

// TestLockedSettingsAreWaitedFor keeps settings with a key that this replica does
// not have yet, as while keys are rotated or a key service is away.
func TestLockedSettingsAreWaitedFor(t *testing.T) {
	h := newHub(t, nil)
	newer, err := vault.New(t.Context(), vault.Config{Store: h.store, KeyFile: filepath.Join(t.TempDir(), "vault.key"), Clock: h.now})
	if err != nil {
		t.Fatal(err)
	}
	version, err := newer.Keep(t.Context(), key(configID(edgeID, "apps")), map[string]string{"httpsKey": "c2VjcmV0"}, &clusterKeys()[0].PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	h.putConfig(edgeID, "apps", func(d *desiredConfig) { d.ProtectedVersion, d.UpdatedAt = version, h.now() })
	h.putConfig(edgeID, "other", nil)
	a := h.edge()
	if _, d := a.poll("revision=0"); len(d.Items) != 1 || d.Items[0].Name != "other" {
		t.Errorf("before the key has come, the agent is told of %s", ids(d))
	}
	h.advance(time.Hour)
	if _, d := h.edge().poll("revision=0"); len(d.Items) != 2 || d.Items[0].Sealed != nil || d.Items[0].ProtectedVersion != version {
		t.Errorf("when the key has not come for an hour: %+v", d.Items)
	}
}

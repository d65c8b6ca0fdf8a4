package gateway_test

import (
	"net/http"
	"path/filepath"
	"testing"

	"headwater.dev/api/link"
	"headwater.dev/hub/store/etcd"
)

// TestOnEtcd is one round trip on the store that hubs really use.
func TestOnEtcd(t *testing.T) {
	s, err := etcd.Open(t.Context(), etcd.Config{Dir: filepath.Join(t.TempDir(), "etcd")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	h := newHub(t, s)
	version, err := h.vault.Keep(t.Context(), key(configID(edgeID, "apps")), map[string]string{"k": "v"}, &clusterKeys()[0].PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	a := h.edge()
	f := a.follow()
	f.next()
	h.putConfig(edgeID, "apps", func(d *desiredConfig) { d.ProtectedVersion = version })
	f.until("the secret", func(d link.Desired) bool { return ids(d) == "apps/1" && len(d.Items[0].Sealed) > 0 })
	o := accept("apps", 1, nil)
	o.ProtectedVersion = version
	if status, code := a.report(&link.Heartbeat{TotalNodeCount: 1}, o); status != http.StatusOK {
		t.Fatalf("report: %d %s", status, code)
	}
	h.putConfig(edgeID, "apps", func(d *desiredConfig) { d.ProtectedVersion, d.Deleting = version, true })
	f.until("the deletion", func(d link.Desired) bool { return ids(d) == "apps/2" && d.Items[0].Delete })
	if status, code := a.report(nil, link.Observed{ID: configID(edgeID, "apps"), Generation: 2, Deleted: true}); status != http.StatusOK {
		t.Fatalf("report: %d %s", status, code)
	}
	f.until("the end", func(d link.Desired) bool { return ids(d) == "" })
	for _, r := range h.snapshot() {
		if r.Key != key(edgeID) && r.Key != key(otherID) {
			t.Errorf("%s is left behind", r.Key)
		}
	}
	h.stop()
}

package rest

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"headwater.dev/api/resource"
	"headwater.dev/hub/store"
	"headwater.dev/hub/vault"
)

// TestKeepKey is what registering a key does to a cluster whose agent has
// replaced its key.
func TestKeepKey(t *testing.T) {
	registered, present, other := testKey(), rotatedKey(t), rotatedKey(t)
	first, second := vault.Certificate(&registered.PublicKey), vault.Certificate(&present.PublicKey)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	k, err := vault.ReadAgentKeys(first, resource.Keys{})
	if err != nil {
		t.Fatal(err)
	}
	if k, err = vault.ReadAgentKeys(first, k.Introduce(second)); err != nil || k.Present != vault.Fingerprint(&registered.PublicKey) {
		t.Fatalf("before the next key is used: %+v, %v", k, err)
	}
	became, err := k.Promote(second, now, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	value, err := json.Marshal(resource.ClusterObserved{Keys: became})
	if err != nil {
		t.Fatal(err)
	}
	was := clusterEntry{record: store.Record{Observed: value}}
	was.Name, was.Properties.AgentPublicKeyCertificate, was.RotateKeyAt = "edge", first, now
	if key, err := recipientOf(was); err != nil || !key.Equal(&present.PublicKey) {
		t.Errorf("secrets are sealed to %v, %v", key, err)
	}
	third := vault.Certificate(&other.PublicKey)
	for why, c := range map[string]struct {
		asked, want string
		kept        bool
	}{
		"the registered one, as a template has it": {first, first, true},
		"the present one, as the cluster has it":   {second, first, true},
		"a new one":                                {third, third, false},
	} {
		asked := resource.Desired[resource.ClusterProperties]{Properties: resource.ClusterProperties{AgentPublicKeyCertificate: c.asked}}
		if err := keepKey(was, &asked); err != nil || asked.Properties.AgentPublicKeyCertificate != c.want || asked.RotateKeyAt.IsZero() == c.kept {
			t.Errorf("%s: %+v, %v", why, asked, err)
		}
	}
	k, err = vault.ReadAgentKeys(first, became)
	if err != nil {
		t.Fatal(err)
	}
	if k, err = vault.ReadAgentKeys(first, k.Introduce(third)); err != nil {
		t.Fatal(err)
	}
	if became, err = k.Promote(third, now.Add(time.Hour), time.Time{}); err != nil {
		t.Fatal(err)
	}
	if was.record.Observed, err = json.Marshal(resource.ClusterObserved{Keys: became}); err != nil {
		t.Fatal(err)
	}
	back := resource.Desired[resource.ClusterProperties]{Properties: resource.ClusterProperties{AgentPublicKeyCertificate: second}}
	if err := keepKey(was, &back); err == nil || !strings.Contains(err.Error(), "--new-key") {
		t.Errorf("back to a key that was replaced: %v", err)
	}
}

func rotatedKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

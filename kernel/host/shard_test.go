package host

import "testing"

// TestLease: replicas of one shard share a leader, shards do not.
func TestLease(t *testing.T) {
	of := func(selector string) string { return (&Options{WatchLabelSelector: selector}).lease() }
	if got := of(""); got != "flux-controllers-leader-election" {
		t.Errorf("without shards the lease is %s", got)
	}
	if of("a=1") != of("a=1") || of("a=1") == of("a=2") || of("a=1") == of("") {
		t.Errorf("leases of shards: %s, %s", of("a=1"), of("a=2"))
	}
}

package host

import "testing"

// TestLease: replicas of one shard share a leader, shards do not.
func TestLease(t *testing.T) {
	seen := map[string]string{}
	for _, selector := range []string{"", "a=1", "a=2"} {
		lease := (&Options{WatchLabelSelector: selector}).lease()
		if again := (&Options{WatchLabelSelector: selector}).lease(); again != lease {
			t.Errorf("%q: %s, then %s", selector, lease, again)
		}
		if other, ok := seen[lease]; ok {
			t.Errorf("%q has the lease of %q", selector, other)
		}
		seen[lease] = selector
	}
	if _, ok := seen["flux-controllers-leader-election"]; !ok {
		t.Errorf("the lease without shards is another: %v", seen)
	}
}

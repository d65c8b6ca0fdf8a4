package kustomize

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"headwater.dev/kernel/manifest"
)

// TestSaw shows that what was found out about one build beside the loop counts
// for that build alone, and not for one that took its place meanwhile.
func TestSaw(t *testing.T) {
	key := types.NamespacedName{Namespace: "n", Name: "k"}
	before := known{generation: 1, artifact: "old", record: manifest.Record{Inputs: "path a"}}
	for name, c := range map[string]struct {
		change func(*known)
		want   string
	}{
		"the same build":     {func(*known) {}, "new"},
		"another artifact":   {func(k *known) { k.artifact = "newer" }, "newer"},
		"another generation": {func(k *known) { k.generation, k.record.Inputs = 2, "path b" }, "old"},
		"other variables":    {func(k *known) { k.record.Inputs = "path a with other variables" }, "old"},
	} {
		m := newMemory()
		now := before
		c.change(&now)
		m.set(key, now)
		m.saw(key, before, "new")
		if got := m.get(key).artifact; got != c.want {
			t.Errorf("%s: artifact %q, want %q", name, got, c.want)
		}
	}
}

package git

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"headwater.dev/dev/gitserver"
)

// TestRevertedContent goes back and forth between two trees: packs then hold
// the same objects as deltas of each other.
func TestRevertedContent(t *testing.T) {
	f := serve(t, false)
	trees := map[string]map[string]string{"a": {}, "b": {}}
	for i := range 20 {
		var body strings.Builder
		for j := range 200 {
			fmt.Fprintf(&body, "value %d of many\n", (i+1)*(j+1)*7919)
		}
		name := fmt.Sprintf("apps/%02d.yaml", i)
		trees["a"][name] = body.String()
		trees["b"][name] = body.String() + "and a line that the other does not have\n"
	}
	for i, tree := range []string{"a", "b", "a", "b", "a"} {
		h, err := f.CommitChange("public", "main", gitserver.Change{Message: fmt.Sprint(i), Write: trees[tree], Replace: true})
		if err != nil {
			t.Fatal(err)
		}
		revision, got, err := f.update(f.URL("public"), Credentials{}, Reference{Branch: "main"})
		if err != nil || revision != "main@sha1:"+h {
			t.Fatalf("commit %d: %s, %v", i, revision, err)
		}
		if diff := cmp.Diff(trees[tree], got); diff != "" {
			t.Fatalf("commit %d: %s", i, diff)
		}
	}
}

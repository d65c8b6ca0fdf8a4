package git

import (
	"fmt"
	"os"
	"path/filepath"
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

// TestClockGoesBack lets the first pack look as if it came from the future.
func TestClockGoesBack(t *testing.T) {
	f := serve(t, false)
	body := strings.Repeat("some line\n", 10)
	for i := range 300 {
		body += fmt.Sprintf("value %d of many\n", i*7919)
	}
	f.commit("public", "main", map[string]string{"a.yaml": body})
	if _, _, err := f.update(f.URL("public"), Credentials{}, Reference{Branch: "main"}); err != nil {
		t.Fatal(err)
	}
	r, err := NewRemote(f.URL("public"), Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(f.mirrors.For(r).dir, "*.*"))
	if err != nil || len(files) != 2 {
		t.Fatalf("files = %v, %v", files, err)
	}
	for _, name := range files {
		future := filepath.Join(filepath.Dir(name), "0"+strings.Repeat("8", 19)+filepath.Ext(name))
		if err := os.Rename(name, future); err != nil {
			t.Fatal(err)
		}
	}
	body += "and more\n"
	f.commit("public", "main", map[string]string{"a.yaml": body})
	_, got, err := f.update(f.URL("public"), Credentials{}, Reference{Branch: "main"})
	if diff := cmp.Diff(map[string]string{"a.yaml": body}, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

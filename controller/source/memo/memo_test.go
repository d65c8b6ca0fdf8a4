package memo

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

func TestNotes(t *testing.T) {
	n := Notes{Dir: filepath.Join(t.TempDir(), "etags")}
	app, other := types.NamespacedName{Namespace: "a", Name: "app"}, types.NamespacedName{Namespace: "a", Name: "other"}
	if text, ok := n.Get(app, "x"); ok {
		t.Errorf("a note that nobody took: %q", text)
	}
	n.Set(app, "x", "one")
	n.Set(other, "x", "two")
	again := Notes{Dir: n.Dir} // another process
	for from, want := range map[string]string{"x": "one", "y": "", "": ""} {
		if text, ok := again.Get(app, from); text != want || ok != (want != "") {
			t.Errorf("from %q: %q, %v", from, text, ok)
		}
	}
	n.Set(app, "y", "three")
	if text, ok := again.Get(app, "x"); ok {
		t.Errorf("a note taken from something else: %q", text)
	}
	n.Forget(app)
	if _, ok := again.Get(app, "y"); ok {
		t.Error("a forgotten note")
	}
	if text, ok := again.Get(other, "x"); !ok || text != "two" {
		t.Errorf("the other's note: %q, %v", text, ok)
	}
	n.Forget(other)
	if left, err := os.ReadDir(n.Dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestNotesThatAreDamagedAreNone(t *testing.T) {
	n := Notes{Dir: t.TempDir()}
	app := types.NamespacedName{Namespace: "a", Name: "app"}
	for name, data := range map[string]string{
		"empty": "", "cut": `{"From":"x","Te`, "text": "etag", "list": `[]`, "huge": `{"From":"x","Text":"` + strings.Repeat("e", maxNote) + `"}`,
	} {
		if err := os.MkdirAll(filepath.Dir(n.file(app)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(n.file(app), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if text, ok := n.Get(app, "x"); ok {
			t.Errorf("%s: %q", name, text)
		}
	}
	n.Set(app, "x", "sound")
	if text, ok := n.Get(app, "x"); !ok || text != "sound" {
		t.Errorf("after it was written again: %q, %v", text, ok)
	}
}

func FuzzNotes(f *testing.F) {
	f.Add([]byte(`{"From":"x","Text":"t"}`))
	f.Add([]byte(`{"From":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := Notes{Dir: t.TempDir()}
		app := types.NamespacedName{Namespace: "a", Name: "app"}
		if err := os.MkdirAll(filepath.Dir(n.file(app)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(n.file(app), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if text, ok := n.Get(app, "x"); !ok && text != "" {
			t.Errorf("no note, and yet %q", text)
		}
	})
}

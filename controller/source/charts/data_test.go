package charts

import (
	"os"
	"path/filepath"
	"testing"
)

// TestKnownCharts opens the packed charts of the test data, as they are found
// in the wild.
func TestKnownCharts(t *testing.T) {
	root := os.Getenv("HEADWATER_TESTDATA")
	if root == "" {
		root = filepath.Join("..", "..", "..", "..", "shared", "data")
	}
	archives, err := filepath.Glob(filepath.Join(root, "charts", "*.tgz"))
	if err != nil {
		t.Fatal(err)
	}
	if len(archives) == 0 {
		t.Skip("no charts in HEADWATER_TESTDATA or ../shared/data")
	}
	for _, name := range archives {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := OpenArchive(data)
		if err != nil {
			t.Errorf("%s: %v", filepath.Base(name), err)
			continue
		}
		if got := b.Meta.Name + "-" + b.Meta.Version + ".tgz"; got != filepath.Base(name) || len(b.Missing) != 0 {
			t.Errorf("%s holds %s and lacks %v", filepath.Base(name), got, b.Missing)
		}
	}
}

package headwater_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestAttackTable shows that the tests which docs/spec/attacks.md names exist
// where it says, each under its attack's own name.
func TestAttackTable(t *testing.T) {
	table, err := os.ReadFile("docs/spec/attacks.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile(`(?m)^\| (A\d\d) \| [^|]+ \| (.+) \|$`)
	rows := row.FindAllStringSubmatch(string(table), -1)
	if len(rows) < 40 {
		t.Fatalf("only %d attacks in the table", len(rows))
	}
	sources := map[string]string{}
	for _, r := range rows {
		for _, cell := range strings.Split(r[2], "; ") {
			folder, tests, ok := strings.Cut(cell, ": ")
			folder = strings.Trim(folder, "`")
			if !ok || folder == "" {
				t.Errorf("%s: no folder in %q", r[1], cell)
				continue
			}
			if _, ok := sources[folder]; !ok {
				sources[folder] = testsOf(t, folder)
			}
			for _, name := range strings.Split(tests, ", ") {
				name = strings.Trim(name, "`")
				want := "func " + name + "(t *testing.T"
				if top, sub, ok := strings.Cut(name, "/"); ok {
					name, want = sub, `"`+sub+`"`
					if !strings.Contains(sources[folder], "func "+top+"(t *testing.T") {
						t.Errorf("%s: there is no %s in %s", r[1], top, folder)
					}
				}
				if !strings.Contains(name, r[1]) || !strings.Contains(sources[folder], want) {
					t.Errorf("%s: there is no test %s in %s", r[1], name, folder)
				}
			}
		}
	}
}

// testsOf is the text of the tests of a folder.
func testsOf(t *testing.T, folder string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(filepath.FromSlash(folder), "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Errorf("there are no tests in %q", folder)
	}
	var all strings.Builder
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(data)
	}
	return all.String()
}

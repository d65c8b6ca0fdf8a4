package headwater_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestContractTable shows that the tests which docs/spec/arm-contract.md names
// exist where it says.
func TestContractTable(t *testing.T) {
	table, err := os.ReadFile("docs/spec/arm-contract.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^\| (C\d\d) \| [^|]+ \| [^|]+ \| (.+) \|$`).FindAllStringSubmatch(string(table), -1)
	if lines := strings.Count(string(table), "\n| C"); len(rows) != lines || lines < 30 {
		t.Fatalf("%d of %d rows can be read", len(rows), lines)
	}
	sources, seen := map[string]string{}, map[string]bool{}
	for _, r := range rows {
		if seen[r[1]] {
			t.Errorf("%s is there twice", r[1])
		}
		seen[r[1]] = true
		for _, cell := range strings.Split(r[2], "; ") {
			folder, tests, _ := strings.Cut(cell, ": ")
			if folder = strings.Trim(folder, "`"); folder == "" || tests == "" {
				t.Errorf("%s: no folder or no test in %q", r[1], cell)
				continue
			}
			if _, ok := sources[folder]; !ok {
				sources[folder] = testsOf(t, folder)
			}
			for _, quoted := range regexp.MustCompile("`[^`]+`").FindAllString(tests, -1) {
				name, sub, _ := strings.Cut(strings.Trim(quoted, "`"), "/")
				if !strings.Contains(sources[folder], "func "+name+"(t *testing.T") || sub != "" && !strings.Contains(sources[folder], `"`+sub+`"`) {
					t.Errorf("%s: there is no test %s in %s", r[1], quoted, folder)
				}
			}
		}
	}
}

// TestPainsTable shows that the tests and stories exist which
// docs/guide/azure-pains.md names, and that whatever names none says why.
func TestPainsTable(t *testing.T) {
	table, err := os.ReadFile("docs/guide/azure-pains.md")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T`)
	err = filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range function.FindAllStringSubmatch(string(source), -1) {
			there[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`(?m)^\| (\d+) \| [^|]+ \| ([^|]+) \|([^|]*)\|$`).FindAllStringSubmatch(string(table), -1)
	if len(rows) < 32 {
		t.Fatalf("only %d pains in the table", len(rows))
	}
	for _, r := range rows {
		named := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(r[3], -1)
		if len(named) == 0 && !strings.HasPrefix(r[2], "Not ") {
			t.Errorf("pain %s is mended, and no test shows it", r[1])
		}
		for _, n := range named {
			_, err := os.Stat(filepath.Join("e2e", "testdata", n[1]+".txtar"))
			if !there[n[1]] && err != nil {
				t.Errorf("pain %s: there is neither a test nor a story %s", r[1], n[1])
			}
		}
	}
}

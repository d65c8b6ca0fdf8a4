package headwater_test

import (
	"os"
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

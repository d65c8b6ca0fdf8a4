package cli

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

const (
	referencePage  = "../docs/guide/cli.md"
	referenceTitle = "## Reference\n"
)

// TestReferenceIsFresh compares the guide's list of flags with the commands.
// UPDATE=1 rewrites it.
func TestReferenceIsFresh(t *testing.T) {
	page, err := os.ReadFile(referencePage)
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(page), referenceTitle)
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nAll commands also take `--output` (`-o`) and `--subscription`.\n", referenceTitle)
	reference(&b, newRoot(Streams{}, func(string) string { return "" }))
	want := text + b.String()
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(referencePage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(page)); diff != "" {
		t.Errorf("%s is not what the commands are; run UPDATE=1 go test ./cli -run Reference:\n%s", referencePage, diff)
	}
}

func reference(b *bytes.Buffer, cmd *cobra.Command) {
	if cmd.HasAvailableSubCommands() {
		for _, c := range cmd.Commands() {
			if c.Name() != "help" && c.Name() != "completion" {
				reference(b, c)
			}
		}
		return
	}
	fmt.Fprintf(b, "\n### %s\n\n%s.\n", cmd.CommandPath(), cmd.Short)
	if flags := cmd.LocalNonPersistentFlags().FlagUsages(); flags != "" {
		fmt.Fprintf(b, "\n```\n%s```\n", flags)
	}
}

var (
	namedTest  = regexp.MustCompile("`(Test[A-Za-z0-9]+)`")
	namedStory = regexp.MustCompile("stor(?:y|ies) ((?:`[a-z_]+`(?:, )?)+)")
)

// TestPainsNameTestsThatExist keeps the guide's table from promising what is no
// longer shown.
func TestPainsNameTestsThatExist(t *testing.T) {
	page, err := os.ReadFile("../docs/guide/azure-pains.md")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	err = filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9]+)\(`).FindAllSubmatch(src, -1) {
			there[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range namedTest.FindAllSubmatch(page, -1) {
		if !there[string(m[1])] {
			t.Errorf("there is no test %s", m[1])
		}
	}
	for _, m := range namedStory.FindAllSubmatch(page, -1) {
		for name := range strings.SplitSeq(strings.Trim(string(m[1]), "`, "), "`, `") {
			if _, err := os.Stat("../e2e/testdata/" + name + ".txtar"); err != nil {
				t.Errorf("there is no story %s", name)
			}
		}
	}
	if rows := strings.Count(string(page), "\n| "); rows < 33 {
		t.Errorf("the table has %d rows", rows)
	}
}

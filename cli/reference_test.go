package cli

import (
	"bytes"
	"fmt"
	"os"
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

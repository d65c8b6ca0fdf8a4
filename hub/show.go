package hub

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

// newShowCommand prints what the first start has made, for those who can run
// the hub's program but not read its disk: the image has no shell.
func newShowCommand() *cobra.Command {
	files := map[string]string{"admin": "admin.json", "ca": "ca.crt"}
	var dir string
	cmd := &cobra.Command{
		Use:   "show admin|ca",
		Short: "Print the administrator's credentials, or the authority of the hub's certificate",
		Args:  cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs), ValidArgs: []string{"admin", "ca"},
		RunE: func(cmd *cobra.Command, args []string) error {
			name := filepath.Join(dir, files[args[0]])
			content, err := os.ReadFile(name)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("show %s: %s is not there: the first \"hub serve\" with this --data-dir makes it, unless it was removed or a certificate of yours is served", args[0], name)
			}
			if err != nil {
				return fmt.Errorf("show %s: %w", args[0], err)
			}
			_, err = cmd.OutOrStdout().Write(content)
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", "", "directory of records, keys and certificates (required)")
	if err := cmd.MarkFlagRequired("data-dir"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

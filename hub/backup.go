package hub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"headwater.dev/hub/store/etcd"
	"headwater.dev/kernel/process"
)

// note lies beside a backup, in a file of the same name and .json.
type note struct {
	Created  time.Time `json:"created"`
	Hub      string    `json:"hubVersion"`
	Revision int64     `json:"revision"`
	Keys     int       `json:"keys"`
	SHA256   string    `json:"sha256"`
	// Needed are the files of the data directory that a backup never holds, by
	// their SHA-256: without them the restored hub is another one.
	Needed map[string]string `json:"neededFiles"`
}

// keyFiles are what belongs to a store and is not in it.
func keyFiles() []string { return []string{"vault.key", "signing.key", "ca.crt", "ca.key"} }

// digestFile is the hex SHA-256 of a file; empty when there is none.
func digestFile(path string) (string, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func newBackupCommand() *cobra.Command {
	var c Config
	var output string
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Write everything the hub has stored, as of one moment, to a file",
		Long: `Write everything the hub has stored, as of one moment, to a file, while it runs
or not. Beside it a note FILE.json says what was written and which key files of
the data directory belong to it: keep those apart from the backup, for together
they open the protected settings.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := backup(cmd.Context(), c, output)
			if err != nil {
				return fmt.Errorf("back up: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s holds revision %d, %d keys\nkeep these files of the data directory apart from it:", output, n.Revision, n.Keys)
			for _, name := range keyFiles() {
				if n.Needed[name] != "" {
					fmt.Fprintf(cmd.OutOrStdout(), " %s", name)
				}
			}
			fmt.Fprintln(cmd.OutOrStdout())
			return nil
		},
	}
	storageFlags(cmd, &c)
	cmd.Flags().StringVarP(&output, "output", "o", "", "file to write (required)")
	if err := cmd.MarkFlagRequired("output"); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

func backup(ctx context.Context, c Config, output string) (note, error) {
	if _, err := os.Stat(output); err == nil {
		return note{}, fmt.Errorf("%s exists: choose another name with --output", output)
	}
	s, err := openStorage(ctx, c)
	if err != nil {
		return note{}, err
	}
	defer s.Close()
	f, err := os.CreateTemp(filepath.Dir(output), ".backup-*") // mode 0600
	if err != nil {
		return note{}, err
	}
	defer os.Remove(f.Name()) // gone when all went well
	if err := errors.Join(s.Snapshot(ctx, f), f.Sync(), f.Close()); err != nil {
		return note{}, err
	}
	content, err := etcd.Inspect(f.Name(), slog.New(slog.DiscardHandler))
	if err != nil {
		return note{}, err
	}
	n := note{Created: time.Now().UTC(), Hub: process.Version(), Revision: content.Revision, Keys: content.Keys, Needed: map[string]string{}}
	if n.SHA256, err = digestFile(f.Name()); err != nil {
		return note{}, err
	}
	for _, name := range keyFiles() {
		sum, err := digestFile(filepath.Join(c.DataDir, name))
		if err != nil {
			return note{}, err
		}
		if sum != "" {
			n.Needed[name] = sum
		}
	}
	raw, err := json.MarshalIndent(n, "", "  ")
	if err == nil {
		err = writeWhole(output+".json", append(raw, '\n'), 0o600)
	}
	if err == nil {
		err = os.Rename(f.Name(), output)
	}
	return n, err
}

// openStorage reaches the storage of a hub, whether that runs or not.
func openStorage(ctx context.Context, c Config) (*etcd.Store, error) {
	config, err := c.storage()
	if err != nil {
		return nil, err
	}
	if endpoint, ok := etcd.Running(config.Dir); config.Dir != "" && ok {
		config = etcd.Config{Endpoints: []string{endpoint}}
	} else if _, err := os.Stat(config.Dir); config.Dir != "" && err != nil {
		return nil, fmt.Errorf("there is no storage in --data-dir %s: %w", c.DataDir, err)
	}
	return etcd.Open(ctx, config)
}

func newRestoreCommand() *cobra.Command {
	var c Config
	var input string
	var without bool
	cmd := &cobra.Command{
		Use:   "restore",
		Short: "Make the storage of a data directory from a backup",
		Long: `Make the storage of a data directory from a backup. Put the key files that the
backup's note names into the directory first. Agents that are ahead of the backup
go back to what it says; what users have changed since has to be applied again.

An external etcd is restored with its own tools; see the guide.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := restore(c.DataDir, input, without)
			if err != nil {
				return fmt.Errorf("restore: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s holds the state of %s; start the hub with it\n", c.DataDir, n.Created.Format(time.RFC3339))
			return nil
		},
	}
	cmd.Flags().StringVar(&c.DataDir, "data-dir", "", "directory to make the storage in (required)")
	cmd.Flags().StringVarP(&input, "input", "i", "", "file that \"hub backup\" has written (required)")
	cmd.Flags().BoolVar(&without, "without-keys", false, "go on without the key files: tokens and protected settings from before are lost, agents have to trust a new authority")
	for _, name := range []string{"data-dir", "input"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flags are defined above
		}
	}
	return cmd
}

func restore(dir, input string, without bool) (note, error) {
	var n note
	raw, err := os.ReadFile(input + ".json")
	if err != nil {
		return n, fmt.Errorf("read the backup's note: %w", err)
	}
	if err := json.Unmarshal(raw, &n); err != nil {
		return n, fmt.Errorf("read the backup's note %s.json: %w", input, err)
	}
	sum, err := digestFile(input)
	if err != nil {
		return n, err
	}
	if sum != n.SHA256 {
		return n, fmt.Errorf("%w: %s is not what its note speaks of", etcd.ErrDamaged, input)
	}
	for _, name := range keyFiles() {
		have, err := digestFile(filepath.Join(dir, name))
		if err != nil {
			return n, err
		}
		if want := n.Needed[name]; want != "" && have != want && !without {
			return n, fmt.Errorf("%s is missing in %s, or is not the one that belongs to the backup: put it there, or go on with --without-keys", name, dir)
		}
	}
	return n, etcd.Restore(input, filepath.Join(dir, "etcd"), slog.New(slog.DiscardHandler))
}

func newCompactCommand() *cobra.Command {
	var c Config
	cmd := &cobra.Command{
		Use:   "compact",
		Short: "Make space in the storage and let writes pass again",
		Long: `Make space in the storage: give up the history of records, rewrite the files of
all members without holes, and let writes pass again that were refused because
etcd had come to its quota. Delete what is not needed first. Writes wait
meanwhile. An embedded etcd does this by itself; --data-dir is for a hub in a hurry.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := openStorage(cmd.Context(), c)
			if err != nil {
				return fmt.Errorf("make space: %w", err)
			}
			defer s.Close()
			gained, err := s.Reclaim(cmd.Context())
			if err != nil {
				return fmt.Errorf("make space: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d MiB gained\n", gained>>20)
			return nil
		},
	}
	storageFlags(cmd, &c)
	return cmd
}

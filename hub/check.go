package hub

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"headwater.dev/hub/store"
	"headwater.dev/hub/store/etcd"
	"headwater.dev/hub/vault"
)

// finding is one thing that was looked at; err says what is wrong and the way out.
type finding struct {
	what string
	err  error
}

func newCheckCommand() *cobra.Command {
	var c Config
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say what keeps a hub with these settings from running, and the way out",
		Long: `Say what keeps a hub with these settings from running, and the way out: data
directory, disk, storage, keys, certificate, clock and address. Give it the
settings of "hub serve". It changes nothing but what opening the storage changes.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			bad := 0
			for _, f := range c.check(cmd.Context(), time.Now()) {
				if f.err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "ok      %s\n", f.what)
					continue
				}
				bad++
				fmt.Fprintf(cmd.OutOrStdout(), "FAILED  %s: %v\n", f.what, f.err)
			}
			if bad > 0 {
				return fmt.Errorf("%d of the checks failed", bad)
			}
			return nil
		},
	}
	serveFlags(cmd, &c)
	return cmd
}

func (c Config) check(ctx context.Context, now time.Time) []finding {
	running := false
	if len(c.EtcdEndpoints) == 0 {
		_, running = etcd.Running(filepath.Join(c.DataDir, "etcd"))
	}
	return []finding{
		{"data directory", c.checkDirectory()},
		{"disk", c.checkDisk()},
		{"storage", c.checkStorage(ctx)},
		{"keys", c.checkKeys(ctx)},
		{"certificate and clock", c.checkCertificate(now)},
		{"address", c.checkAddress(running)},
	}
}

func (c Config) checkDirectory() error {
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("%w: give another one with --data-dir, or let this user write there", err)
	}
	f, err := os.CreateTemp(c.DataDir, ".check-*")
	if err != nil {
		return fmt.Errorf("%w: let this user write there", err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func (c Config) checkDisk() error {
	const enough = 1 << 30
	var fs syscall.Statfs_t
	if err := syscall.Statfs(c.DataDir, &fs); err != nil {
		return err
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < enough && len(c.EtcdEndpoints) == 0 {
		return fmt.Errorf("only %d MiB are free in %s: make space until there are %d", free>>20, c.DataDir, uint64(enough)>>20)
	}
	return nil
}

func (c Config) checkStorage(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if len(c.EtcdEndpoints) == 0 {
		if _, err := os.Stat(filepath.Join(c.DataDir, "etcd")); errors.Is(err, os.ErrNotExist) {
			return nil // the first start makes it
		}
	}
	s, err := openStorage(ctx, c)
	if err != nil && len(c.EtcdEndpoints) > 0 {
		return fmt.Errorf("%w: see that etcd runs at %v, that this machine may reach it, and that --etcd-ca, --etcd-cert and --etcd-key are right", err, c.EtcdEndpoints)
	}
	if err != nil {
		return fmt.Errorf("%w: another process may use the directory; otherwise restore a backup", err)
	}
	defer s.Close()
	_, _, err = s.List(ctx, store.List{Prefix: "/", Limit: 1})
	if err == nil {
		err = s.Full(ctx)
	}
	return err
}

func (c Config) checkKeys(ctx context.Context) error {
	for _, name := range []string{"vault.key", "signing.key", "ca.key", nextKey, "admin.json"} {
		info, err := os.Stat(filepath.Join(c.DataDir, name))
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			return fmt.Errorf("%s has mode %o, so others can read it: chmod 600 it, and replace the key if somebody may have", filepath.Join(c.DataDir, name), info.Mode().Perm())
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	file := filepath.Join(c.DataDir, "vault.key")
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) && len(c.KeeperURLs) == 0 {
		return nil // the first start makes it
	}
	return vault.Try(ctx, vault.Config{KeyFile: file, KeeperURLs: c.KeeperURLs})
}

func (c Config) checkCertificate(now time.Time) error {
	certFile, keyFile := c.TLSCert, c.TLSKey
	own := certFile == "" && keyFile == ""
	if own {
		certFile, keyFile = filepath.Join(c.DataDir, "ca.crt"), filepath.Join(c.DataDir, "ca.key")
		if _, err := os.Stat(certFile); errors.Is(err, os.ErrNotExist) {
			return nil // the first start makes it
		}
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return fmt.Errorf("%w: --tls-cert and --tls-key have to be PEM files that belong together", err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return err
	}
	switch {
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("%s begins at %s, and it is %s here: set this machine's clock", certFile, leaf.NotBefore.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case now.After(leaf.NotAfter):
		return fmt.Errorf("%s ended at %s: replace it, or set this machine's clock if it is wrong", certFile, leaf.NotAfter.Format(time.RFC3339))
	}
	u, err := url.Parse(c.ExternalURL)
	if own || c.ExternalURL == "" || err != nil {
		return err
	}
	if err := leaf.VerifyHostname(u.Hostname()); err != nil {
		return fmt.Errorf("%w: clients know the hub as --external-url %s; get a certificate for that name", err, c.ExternalURL)
	}
	return nil
}

func (c Config) checkAddress(running bool) error {
	if running {
		return nil // it holds the address
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("%w: end what listens there, or choose another --listen", err)
	}
	return l.Close()
}

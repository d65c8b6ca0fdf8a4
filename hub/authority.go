package hub

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
)

const authorityLife = 10 * 365 * 24 * time.Hour

// nextCert and nextKey are an authority that is made and not yet used, bundle both
// authorities, for those who shall trust either.
const nextCert, nextKey, bundle = "next-ca.crt", "next-ca.key", "ca-bundle.crt"

func authorityFiles(dir string) (cert, key string) {
	return filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
}

// readAuthority reads ca.crt and ca.key.
func readAuthority(dir string) (*tls.Certificate, error) {
	p, err := readPair(authorityFiles(dir))
	if err != nil {
		return nil, err
	}
	return p.certificate()
}

// loadAuthority reads ca.crt and ca.key, or makes them at the first start.
func loadAuthority(dir string, now time.Time) (*tls.Certificate, error) {
	authority, err := readAuthority(dir)
	if err == nil {
		return authority, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the hub's certificate authority: %w (a \"hub ca switch\" that was cut short is finished by running it again)", err)
	}
	cert, key, err := newAuthority(now)
	if err != nil {
		return nil, err
	}
	if err := writeAuthority(dir, cert, key); err != nil {
		return nil, err
	}
	return readAuthority(dir)
}

// newAuthority makes an authority, as PEM.
func newAuthority(now time.Time) (cert, key []byte, err error) {
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "headwater hub authority"}, NotBefore: now.Add(-backdated), NotAfter: now.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := issue(template, template, secret, secret)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}

// writeAuthority puts the key first: a certificate without its key would never be
// replaced.
func writeAuthority(dir string, cert, key []byte) error {
	certFile, keyFile := authorityFiles(dir)
	if err := writeWhole(keyFile, key, 0o600); err != nil {
		return err
	}
	return writeWhole(certFile, cert, 0o644)
}

func newAuthorityCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Replace the authority of the hub's certificate without cutting anybody off",
		Long: `Replace the authority of the hub's certificate (ca.crt and ca.key in the data
directory) without cutting anybody off: "hub ca prepare" makes the next one, agents
and people are given the file that holds both, "hub ca switch" makes the hub use it.`,
	}
	var c Config
	prepare := &cobra.Command{
		Use:   "prepare",
		Short: "Make the next authority, and a file of both for those who connect",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := prepareAuthority(c.DataDir, time.Now()); err != nil {
				return fmt.Errorf("prepare the next authority: %w", err)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s holds both authorities: give it to all agents and people\nwhen all have it, run \"hub ca switch\"\n", filepath.Join(c.DataDir, bundle))
			return err
		},
	}
	change := &cobra.Command{
		Use:   "switch",
		Short: "Put the next authority in the place of the present one",
		Long: `Put the next authority in the place of the present one. A running hub takes it
within ten seconds and signs itself a new certificate; connections that are open stay
so. Whoever trusts the former authority alone cannot connect from then on.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := switchAuthority(c.DataDir); err != nil {
				return fmt.Errorf("switch to the next authority: %w", err)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s and ca.key are the new authority: give both to all replicas\n", filepath.Join(c.DataDir, "ca.crt"))
			return err
		},
	}
	for _, sub := range []*cobra.Command{prepare, change} {
		sub.Flags().StringVar(&c.DataDir, "data-dir", "", "directory of keys and certificates (required)")
		if err := sub.MarkFlagRequired("data-dir"); err != nil {
			panic(err) // the flag is defined above
		}
		settings(sub, os.Getenv)
		cmd.AddCommand(sub)
	}
	return cmd
}

// prepareAuthority makes the next authority unless there is one.
func prepareAuthority(dir string, now time.Time) error {
	present, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: the first \"hub serve\" makes one; nothing is to be replaced before", err)
	}
	if err != nil {
		return err
	}
	next, err := os.ReadFile(filepath.Join(dir, nextCert))
	if errors.Is(err, os.ErrNotExist) {
		var key []byte
		if next, key, err = newAuthority(now); err != nil {
			return err
		}
		if err := writeWhole(filepath.Join(dir, nextKey), key, 0o600); err != nil {
			return err
		}
		err = writeWhole(filepath.Join(dir, nextCert), next, 0o644)
	}
	if err != nil {
		return err
	}
	return writeWhole(filepath.Join(dir, bundle), bytes.Join([][]byte{bytes.TrimSpace(present), bytes.TrimSpace(next), nil}, []byte("\n")), 0o644)
}

// switchAuthority may be repeated when it was cut short: the next authority is
// removed only when it is in its place.
func switchAuthority(dir string) error {
	certFile, keyFile := filepath.Join(dir, nextCert), filepath.Join(dir, nextKey)
	cert, err := os.ReadFile(certFile)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: run \"hub ca prepare\" first", err)
	}
	if err != nil {
		return err
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		return fmt.Errorf("%s and %s: %w: remove both and run \"hub ca prepare\" again", nextCert, nextKey, err)
	}
	if err := writeAuthority(dir, cert, key); err != nil {
		return err
	}
	return errors.Join(os.Remove(certFile), os.Remove(keyFile))
}

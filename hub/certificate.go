package hub

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	certificateLife = 90 * 24 * time.Hour
	// renewBefore is how long before its end a certificate is replaced.
	renewBefore = 30 * 24 * time.Hour
	// backdated is how long before it is made a certificate begins: a cluster whose
	// clock is a day behind has to be able to connect.
	backdated = 48 * time.Hour
	// lookEvery is how often given certificate files are looked at.
	lookEvery = 10 * time.Second
)

type getCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// certificates returns what the listener asks for its certificate: the given
// files, or one by an authority of the hub's own, ca.crt in the data directory.
func (h *Hub) certificates() (getCertificate, error) {
	clock := h.config.Clock
	if clock == nil {
		clock = time.Now
	}
	if h.config.TLSCert != "" || h.config.TLSKey != "" {
		f := &files{cert: h.config.TLSCert, key: h.config.TLSKey, clock: time.Now}
		_, err := f.get(nil)
		return f.get, err
	}
	if _, err := loadAuthority(h.config.DataDir, clock()); err != nil {
		return nil, err
	}
	names := append([]string{"localhost", "127.0.0.1", "::1"}, h.config.Hostnames...)
	if u, err := url.Parse(h.url); err == nil {
		names = append(names, u.Hostname())
	}
	g := &generated{dir: h.config.DataDir, names: names, clock: clock, log: h.log}
	_, err := g.get(nil)
	return g.get, err
}

// files serves a certificate from files and reads them again when they change.
type files struct {
	cert, key string
	clock     func() time.Time

	mu      sync.Mutex
	looked  time.Time
	read    pair
	current *tls.Certificate
}

func (f *files) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.clock()
	if f.current != nil && now.Sub(f.looked) < lookEvery {
		return f.current, nil
	}
	f.looked = now
	read, err := readPair(f.cert, f.key)
	if err == nil && f.current != nil && read == f.read {
		return f.current, nil
	}
	var current *tls.Certificate
	if err == nil {
		current, err = read.certificate()
	}
	if err != nil {
		return f.keep(fmt.Errorf("read TLS certificate: %w", err))
	}
	f.current, f.read = current, read
	return f.current, nil
}

// pair is the content of a certificate's file and of its key's. Versions are told
// apart by it: the times of files that are written in one moment may be equal.
type pair struct{ cert, key string }

func readPair(cert, key string) (p pair, err error) {
	c, err := os.ReadFile(cert)
	if err != nil {
		return pair{}, err
	}
	k, err := os.ReadFile(key)
	return pair{string(c), string(k)}, err
}

// certificate returns the pair with its leaf parsed.
func (p pair) certificate() (*tls.Certificate, error) {
	c, err := tls.X509KeyPair([]byte(p.cert), []byte(p.key))
	if err != nil {
		return nil, err
	}
	c.Leaf, err = x509.ParseCertificate(c.Certificate[0])
	return &c, err
}

// keep prefers the former certificate to none.
func (f *files) keep(err error) (*tls.Certificate, error) {
	if f.current != nil {
		return f.current, nil
	}
	return nil, err
}

// generated serves certificates by the hub's own authority, each for 90 days, and
// follows when the authority is replaced.
type generated struct {
	dir   string
	names []string
	clock func() time.Time
	log   *slog.Logger

	mu        sync.Mutex
	looked    time.Time
	read      pair
	authority *tls.Certificate
	current   *tls.Certificate
}

// follow reads the authority when its files have changed. One that cannot be read,
// of which perhaps only the first file is written, leaves the former in place.
func (g *generated) follow(now time.Time) error {
	if g.authority != nil && now.Sub(g.looked).Abs() < lookEvery {
		return nil
	}
	g.looked = now
	read, err := readPair(authorityFiles(g.dir))
	if err == nil && g.authority != nil && read == g.read {
		return nil
	}
	var authority *tls.Certificate
	if err == nil {
		authority, err = read.certificate()
	}
	switch {
	case err != nil && g.authority == nil:
		return fmt.Errorf("read the hub's certificate authority: %w", err)
	case err != nil:
		g.log.Warn("the hub's certificate authority cannot be read; the former one goes on", "error", err)
		return nil
	case g.authority != nil && !g.authority.Leaf.Equal(authority.Leaf):
		g.log.Info("the hub's certificate authority was replaced", "serial", authority.Leaf.SerialNumber.Text(16))
		g.current = nil
	}
	g.authority, g.read = authority, read
	return nil
}

func (g *generated) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.clock()
	if err := g.follow(now); err != nil {
		return nil, err
	}
	if g.current != nil && now.Before(g.current.Leaf.NotAfter.Add(-renewBefore)) {
		return g.current, nil
	}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "headwater hub"}, NotBefore: now.Add(-backdated), NotAfter: now.Add(certificateLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, n := range g.names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		template.DNSNames = append(template.DNSNames, n)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := issue(template, g.authority.Leaf, key, g.authority.PrivateKey)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	g.current = &tls.Certificate{Certificate: [][]byte{der, g.authority.Certificate[0]}, PrivateKey: key, Leaf: leaf}
	return g.current, nil
}

func issue(template, parent *x509.Certificate, key *ecdsa.PrivateKey, signer any) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	return x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
}

// takeKeys copies the keys that replicas share, so that a replica with an empty
// disk makes none of its own.
func takeKeys(from, dir string) error {
	if from == "" {
		return nil
	}
	taken := 0
	for _, name := range keyFiles() {
		data, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = writeWhole(filepath.Join(dir, name), data, 0o600)
		}
		if err != nil {
			return fmt.Errorf("take the shared keys: %w", err)
		}
		taken++
	}
	if taken == 0 {
		return fmt.Errorf("take the shared keys: %s holds none of %v", from, keyFiles())
	}
	return nil
}

// writeWhole replaces a file in one step.
func writeWhole(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// clientTLS is for connections to an external etcd; nil when nothing is given.
func clientTLS(ca, cert, key string) (*tls.Config, error) {
	if ca == "" && cert == "" && key == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		data, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("read the authority of etcd: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("%s holds no certificate", ca)
		}
	}
	if cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("read the certificate for etcd: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

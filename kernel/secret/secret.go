// Package secret turns references to Secrets into typed credentials, with the
// keys that the Flux API documents. Its errors name the Secret and the key that
// is wrong, and never a value.
package secret

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var (
	// ErrMissing says that a Secret does not exist.
	ErrMissing = errors.New("not found")
	// ErrIncomplete says that a Secret lacks a key, or holds something unusable
	// under it.
	ErrIncomplete = errors.New("unusable")
)

// Secret is the content of a Secret.
type Secret struct {
	// Ref is "<namespace>/<name>", for messages.
	Ref  string
	Type corev1.SecretType
	Data map[string][]byte
}

// Load reads a Secret.
func Load(ctx context.Context, c client.Reader, namespace, name string) (Secret, error) {
	s := Secret{Ref: namespace + "/" + name}
	var obj corev1.Secret
	err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &obj)
	if apierrors.IsNotFound(err) {
		return s, fmt.Errorf("secret %q: %w", s.Ref, ErrMissing)
	}
	if err != nil {
		return s, fmt.Errorf("read secret %q: %w", s.Ref, err)
	}
	s.Type, s.Data = obj.Type, obj.Data
	return s, nil
}

func (s Secret) incomplete(format string, args ...any) error {
	return fmt.Errorf("secret %q is %w: %s", s.Ref, ErrIncomplete, fmt.Sprintf(format, args...))
}

// first gives the value of the first key that is there.
func (s Secret) first(keys ...string) []byte {
	for _, k := range keys {
		if v := s.Data[k]; len(v) > 0 {
			return v
		}
	}
	return nil
}

// Basic is a user name with its password; both are empty when the Secret holds
// neither.
type Basic struct{ Username, Password string }

// Basic reads the keys username and password, which must come together.
func (s Secret) Basic() (Basic, error) {
	user, hasUser := s.Data["username"]
	pass, hasPass := s.Data["password"]
	if hasUser != hasPass {
		return Basic{}, s.incomplete("username and password must both be set")
	}
	return Basic{string(user), string(pass)}, nil
}

// Bearer reads the key bearerToken; it is empty when not set.
func (s Secret) Bearer() string { return string(s.Data["bearerToken"]) }

// TLS are PEM certificates and a key; each may be empty.
type TLS struct{ CA, Cert, Key []byte }

// TLS reads ca.crt, tls.crt and tls.key, or their older names caFile, certFile
// and keyFile, and checks that they are what they should be.
func (s Secret) TLS() (TLS, error) {
	t := TLS{CA: s.first("ca.crt", "caFile"), Cert: s.first("tls.crt", "certFile"), Key: s.first("tls.key", "keyFile")}
	if (len(t.Cert) > 0) != (len(t.Key) > 0) {
		return TLS{}, s.incomplete("tls.crt and tls.key must both be set")
	}
	if len(t.CA) > 0 && !x509.NewCertPool().AppendCertsFromPEM(t.CA) {
		return TLS{}, s.incomplete("ca.crt holds no PEM certificate")
	}
	if len(t.Cert) > 0 {
		if _, err := tls.X509KeyPair(t.Cert, t.Key); err != nil {
			return TLS{}, s.incomplete("tls.crt and tls.key are no pair of a PEM certificate and its key")
		}
	}
	return t, nil
}

// Config gives a client configuration; it is nil when t is empty.
func (t TLS) Config() *tls.Config {
	if len(t.CA) == 0 && len(t.Cert) == 0 {
		return nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(t.CA) > 0 {
		c.RootCAs = x509.NewCertPool()
		c.RootCAs.AppendCertsFromPEM(t.CA)
	}
	if pair, err := tls.X509KeyPair(t.Cert, t.Key); err == nil {
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

// SSH is a private key, with the passphrase that protects it if any, and the
// hosts it may be shown to.
type SSH struct{ Identity, Passphrase, KnownHosts []byte }

// SSH reads identity, password (the passphrase) and known_hosts.
func (s Secret) SSH() (SSH, error) {
	for _, key := range []string{"identity", "known_hosts"} {
		if len(s.Data[key]) == 0 {
			return SSH{}, s.incomplete("%s must be set for SSH", key)
		}
	}
	return SSH{s.Data["identity"], s.Data["password"], s.Data["known_hosts"]}, nil
}

// Proxy reads address, and username and password if any.
func (s Secret) Proxy() (*url.URL, error) {
	u, err := url.Parse(string(s.Data["address"]))
	if err != nil || (u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5") || u.Host == "" {
		return nil, s.incomplete("address must be the URL of a proxy")
	}
	if user := string(s.Data["username"]); user != "" {
		u.User = url.UserPassword(user, string(s.Data["password"]))
	}
	return u, nil
}

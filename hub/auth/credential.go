package auth

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // x5t is defined so
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"headwater.dev/hub/store"
)

const (
	// secretBytes of randomness make a secret; that is why a plain hash of it is
	// enough: there is nothing to guess.
	secretBytes = 32
	// MaxSecretLife is how long a secret can live that has an end.
	MaxSecretLife = 10 * 365 * 24 * time.Hour
)

// CredentialError says what is wrong with a credential that was to be added.
type CredentialError struct{ Problem string }

// Error is the problem.
func (e *CredentialError) Error() string { return e.Problem }

// secretRecord is one of a principal's secrets, hashed.
type secretRecord struct {
	ID      string    `json:"id,omitempty"`
	Name    string    `json:"name,omitempty"`
	Hint    string    `json:"hint,omitempty"`
	Hash    []byte    `json:"hash"`
	Created time.Time `json:"created,omitzero"`
	// Expires is when the secret ends; nil for never.
	Expires *time.Time `json:"expires,omitempty"`
}

func (s secretRecord) good(now time.Time) bool { return s.Expires == nil || now.Before(*s.Expires) }

// certificateRecord is a certificate whose key signs assertions.
type certificateRecord struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
	// Thumbprint is the SHA-1 of the certificate, in upper-case hex.
	Thumbprint string    `json:"thumbprint"`
	DER        []byte    `json:"der"`
	Created    time.Time `json:"created"`
	Expires    time.Time `json:"expires"`
}

// names reports whether a header's x5t or x5t#S256 means the certificate.
func (c certificateRecord) names(x5t, x5tS256 string) bool {
	x5t, x5tS256 = strings.TrimRight(x5t, "="), strings.TrimRight(x5tS256, "=") // MSAL for Python pads
	if x5tS256 != "" {
		sum := sha256.Sum256(c.DER)
		return x5tS256 == base64.RawURLEncoding.EncodeToString(sum[:])
	}
	sum := sha1.Sum(c.DER) //nolint:gosec // x5t is defined so
	return x5t != "" && x5t == base64.RawURLEncoding.EncodeToString(sum[:])
}

// federatedRecord is a subject of a foreign issuer that may sign in as the principal.
type federatedRecord struct {
	ID      string    `json:"id"`
	Name    string    `json:"name,omitempty"`
	Issuer  string    `json:"issuer"`
	Subject string    `json:"subject"`
	Created time.Time `json:"created"`
}

// newSecret makes a secret of letters and digits alone: one that began with a
// dash would be an option to az, and to shells' commands.
func newSecret() (string, secretRecord, error) {
	random := make([]byte, secretBytes)
	if _, err := rand.Read(random); err != nil {
		return "", secretRecord{}, fmt.Errorf("make a secret: %w", err)
	}
	secret := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(random))
	return secret, secretRecord{ID: uuid.NewString(), Hint: secret[:3], Hash: hash(secret)}, nil
}

func hash(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// AddSecret gives a service principal one more secret, which is told only once.
// A zero end is for ever. *CredentialError, store.ErrNotFound.
func (a *Auth) AddSecret(ctx context.Context, clientID, name string, end time.Time) (Credential, string, error) {
	secret, record, err := newSecret()
	if err != nil {
		return Credential{}, "", err
	}
	now := a.clock().UTC()
	record.Name, record.Created = name, now
	if !end.IsZero() {
		if !end.After(now) || end.Sub(now) > MaxSecretLife {
			return Credential{}, "", &CredentialError{"endDateTime must lie in the future, at most ten years ahead"}
		}
		end = end.UTC()
		record.Expires = &end
	}
	err = a.edit(ctx, clientID, func(p *principalRecord) error {
		if len(p.Secrets) >= MaxCredentials {
			return &CredentialError{fmt.Sprintf("a service principal has at most %d secrets: remove one first", MaxCredentials)}
		}
		p.Secrets = append(p.Secrets, record)
		return nil
	})
	return Credential{ID: record.ID, Kind: "secret", Name: name, Hint: record.Hint, Created: now, Expires: record.Expires}, secret, err
}

// AddCertificate lets whoever has a certificate's key sign in as a service
// principal. text is PEM or base64 of DER. *CredentialError, store.ErrNotFound.
func (a *Auth) AddCertificate(ctx context.Context, clientID, name, text string) (Credential, error) {
	certificate, err := parseCertificate(text)
	if err != nil {
		return Credential{}, err
	}
	now := a.clock().UTC()
	if !now.Before(certificate.NotAfter) {
		return Credential{}, &CredentialError{"the certificate has expired"}
	}
	sum := sha1.Sum(certificate.Raw) //nolint:gosec // x5t is defined so
	record := certificateRecord{ID: uuid.NewString(), Name: name, Thumbprint: fmt.Sprintf("%X", sum), DER: certificate.Raw, Created: now, Expires: certificate.NotAfter.UTC()}
	err = a.edit(ctx, clientID, func(p *principalRecord) error {
		if len(p.Certificates) >= MaxCredentials {
			return &CredentialError{fmt.Sprintf("a service principal has at most %d certificates: remove one first", MaxCredentials)}
		}
		if slices.ContainsFunc(p.Certificates, func(c certificateRecord) bool { return bytes.Equal(c.DER, record.DER) }) {
			return &CredentialError{"the service principal has this certificate already"}
		}
		p.Certificates = append(p.Certificates, record)
		return nil
	})
	return Credential{ID: record.ID, Kind: "certificate", Name: name, Hint: record.Thumbprint, Created: now, Expires: &record.Expires}, err
}

func parseCertificate(text string) (*x509.Certificate, error) {
	der := []byte(nil)
	if block, _ := pem.Decode([]byte(text)); block != nil {
		if block.Type != "CERTIFICATE" {
			return nil, &CredentialError{"the PEM block is a " + block.Type + ": send the certificate only, never its key"}
		}
		der = block.Bytes
	} else if raw, err := base64.StdEncoding.DecodeString(text); err == nil {
		der = raw
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, &CredentialError{"key must be a certificate, as PEM or as base64 of DER"}
	}
	switch key := certificate.PublicKey.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < signingBits {
			return nil, &CredentialError{fmt.Sprintf("an RSA key of %d bits is too weak: use %d or more", key.N.BitLen(), signingBits)}
		}
	case *ecdsa.PublicKey:
	default:
		return nil, &CredentialError{"the certificate's key must be RSA or ECDSA"}
	}
	return certificate, nil
}

// AddFederated lets a subject of a configured issuer sign in as a service
// principal. *CredentialError, store.ErrNotFound.
func (a *Auth) AddFederated(ctx context.Context, clientID, name, issuer, subject string) (Credential, error) {
	if _, ok := a.issuers[issuer]; !ok {
		return Credential{}, &CredentialError{fmt.Sprintf("%q is not an issuer that this hub is configured for", issuer)}
	}
	if !printable(subject) {
		return Credential{}, &CredentialError{"subject must be 1 to 255 printable characters"}
	}
	record := federatedRecord{ID: uuid.NewString(), Name: name, Issuer: issuer, Subject: subject, Created: a.clock().UTC()}
	err := a.edit(ctx, clientID, func(p *principalRecord) error {
		if len(p.Federated) >= MaxCredentials {
			return &CredentialError{fmt.Sprintf("a service principal has at most %d foreign subjects: remove one first", MaxCredentials)}
		}
		p.Federated = append(p.Federated, record)
		return nil
	})
	return Credential{ID: record.ID, Kind: "federated", Name: name, Hint: subject, Issuer: issuer, Created: record.Created}, err
}

// RemoveCredential takes one credential away. store.ErrNotFound, ErrLastOwner.
func (a *Auth) RemoveCredential(ctx context.Context, clientID, id string) error {
	return a.edit(ctx, clientID, func(p *principalRecord) error {
		n := len(p.Secrets) + len(p.Certificates) + len(p.Federated)
		p.Secrets = slices.DeleteFunc(p.Secrets, func(s secretRecord) bool { return s.ID == id })
		p.Certificates = slices.DeleteFunc(p.Certificates, func(c certificateRecord) bool { return c.ID == id })
		p.Federated = slices.DeleteFunc(p.Federated, func(f federatedRecord) bool { return f.ID == id })
		if len(p.Secrets)+len(p.Certificates)+len(p.Federated) == n {
			return fmt.Errorf("credential %s: %w", id, store.ErrNotFound)
		}
		return nil
	})
}

// credential verdicts.
var (
	errBadSecret     = errors.New("unknown client or wrong secret")
	errExpiredSecret = errors.New("secret has expired")
	errDisabled      = errors.New("client is disabled")
)

// login checks a client's secret in a time that tells nothing about it.
func (a *Auth) login(ctx context.Context, clientID, secret string) (principalRecord, error) {
	p, _, err := a.principal(ctx, clientID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		p.Secrets = []secretRecord{{Hash: make([]byte, sha256.Size)}} // compare all the same
	case err != nil:
		return p, errStore("look a client up", err)
	}
	given, now := hash(secret), a.clock()
	verdict := errBadSecret
	for _, s := range p.Secrets {
		if subtle.ConstantTimeCompare(given, s.Hash) != 1 {
			continue
		}
		if s.good(now) {
			verdict = nil
			break
		}
		verdict = errExpiredSecret
	}
	if verdict == nil && p.Disabled {
		verdict = errDisabled
	}
	if verdict != nil {
		return principalRecord{}, verdict
	}
	return p, nil
}

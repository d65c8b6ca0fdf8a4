package vault

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"
)

const (
	minKeyBits = 2048
	maxKeyBits = 8192
)

// ParsePublicKey reads a cluster's agentPublicKeyCertificate: the base64 of a
// PKCS#1 DER RSA public key of 2048 to 8192 bits.
func ParsePublicKey(certificate string) (*rsa.PublicKey, error) {
	der, err := base64.StdEncoding.DecodeString(strings.TrimSpace(certificate))
	if err != nil {
		return nil, errors.New("agentPublicKeyCertificate is not base64")
	}
	key, err := x509.ParsePKCS1PublicKey(der)
	if err != nil {
		return nil, errors.New("agentPublicKeyCertificate is not the PKCS#1 DER form of an RSA public key")
	}
	if bits := key.N.BitLen(); bits < minKeyBits || bits > maxKeyBits {
		return nil, fmt.Errorf("agentPublicKeyCertificate is a key of %d bits; it must have between %d and %d", bits, minKeyBits, maxKeyBits)
	}
	return key, nil
}

// Fingerprint names a key: the hex SHA-256 of its PKCS#1 DER form.
func Fingerprint(key *rsa.PublicKey) string {
	sum := sha256.Sum256(x509.MarshalPKCS1PublicKey(key))
	return hex.EncodeToString(sum[:])
}

// seal makes the age file that only the owner of key opens.
func seal(values map[string]string, key *rsa.PublicKey) ([]byte, error) {
	public, err := ssh.NewPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("seal to the cluster's key: %w", err)
	}
	recipient, err := agessh.NewRSARecipient(public)
	if err != nil {
		return nil, fmt.Errorf("seal to the cluster's key: %w", err)
	}
	plain, err := json.Marshal(values)
	if err != nil {
		return nil, fmt.Errorf("encode the settings: %w", err)
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, recipient)
	if err != nil {
		return nil, fmt.Errorf("seal to the cluster's key: %w", err)
	}
	if _, err := w.Write(plain); err != nil {
		return nil, fmt.Errorf("seal to the cluster's key: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("seal to the cluster's key: %w", err)
	}
	return out.Bytes(), nil
}

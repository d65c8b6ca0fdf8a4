package auth

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/go-jose/go-jose/v4"
)

const signingBits = 2048

// keys are the hub's signing keys: the first signs, all verify.
type keys struct {
	signer jose.Signer
	public map[string]*rsa.PublicKey
	set    jose.JSONWebKeySet
}

// loadKeys reads the file of PEM private keys, making it, mode 0600, when
// missing. To rotate, put a new key first; drop the old one after an hour.
// Replicas share the file.
func loadKeys(path string) (*keys, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		data, err = makeKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	k := &keys{public: map[string]*rsa.PublicKey{}}
	for len(data) > 0 {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if err := k.add(block); err != nil {
			return nil, fmt.Errorf("read signing key %s: %w", path, err)
		}
	}
	if k.signer == nil {
		return nil, fmt.Errorf("signing key %s holds no PEM private key: remove it and a new one is made", path)
	}
	return k, nil
}

func (k *keys) add(block *pem.Block) error {
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*rsa.PrivateKey)
	if err != nil || !ok {
		return errors.New("not a PKCS#8 RSA private key")
	}
	if key.N.BitLen() < signingBits {
		return fmt.Errorf("a key of %d bits is too weak", key.N.BitLen())
	}
	sum := sha256.Sum256(x509.MarshalPKCS1PublicKey(&key.PublicKey))
	id := base64.RawURLEncoding.EncodeToString(sum[:])
	k.public[id] = &key.PublicKey
	k.set.Keys = append(k.set.Keys, jose.JSONWebKey{Key: &key.PublicKey, KeyID: id, Algorithm: string(jose.RS256), Use: "sig"})
	if k.signer != nil {
		return nil
	}
	k.signer, err = jose.NewSigner(
		jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: id}},
		(&jose.SignerOptions{}).WithType("JWT"))
	return err
}

func makeKey(path string) ([]byte, error) {
	key, err := rsa.GenerateKey(rand.Reader, signingBits)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return makeFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// makeFile writes a new file, mode 0600, whole or not at all, and answers what
// is there: of several processes that do so at once, one wins.
func makeFile(path string, data []byte) ([]byte, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(temporary.Name())
	_, err = temporary.Write(data)
	if err := errors.Join(err, temporary.Sync(), temporary.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(temporary.Name(), path); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return os.ReadFile(path)
}

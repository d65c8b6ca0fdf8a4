// Package signature checks the signatures of Git commits and tags against
// trusted OpenPGP and SSH keys, in the armoured formats in which Git stores
// them.
package signature

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

var (
	// ErrKeys says that the trusted keys cannot be used.
	ErrKeys = errors.New("invalid keys")
	// ErrUnsigned says that there is no signature.
	ErrUnsigned = errors.New("it is not signed")
	// ErrUntrusted says that no trusted key made the signature.
	ErrUntrusted = errors.New("no trusted key made the signature")
)

// What the keys and signatures may cost.
const (
	maxKeys      = 1000
	maxSignature = 64 << 10
	minRSA       = 2048
	namespace    = "git"
)

const (
	pgpKey = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
	pgpSig = "-----BEGIN PGP SIGNATURE-----"
	sshSig = "-----BEGIN SSH SIGNATURE-----"
)

// Keys are who is trusted. The zero value trusts nobody.
type Keys struct {
	pgp openpgp.EntityList
	ssh []ssh.PublicKey
}

// ParseKeys reads keys by the names of the data that holds them: ".asc" is an
// armoured OpenPGP key ring, ".sshpub" a list of SSH public keys, one a line as
// in authorized_keys. Data of other names counts when it is an armoured key
// ring. Errors name the data and never repeat it.
func ParseKeys(data map[string][]byte) (Keys, error) {
	var k Keys
	names := make([]string, 0, len(data))
	for name := range data {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		var err error
		switch {
		case strings.HasSuffix(name, ".sshpub"):
			err = k.addSSH(data[name])
		case strings.HasSuffix(name, ".asc"), bytes.Contains(data[name], []byte(pgpKey)):
			err = k.addPGP(data[name])
		}
		if err != nil {
			return Keys{}, fmt.Errorf("%w: %q %w", ErrKeys, name, err)
		}
	}
	if n := len(k.pgp) + len(k.ssh); n == 0 || n > maxKeys {
		return Keys{}, fmt.Errorf("%w: want 1 to %d keys, OpenPGP ones under names that end in .asc and SSH ones under names that end in .sshpub; there are %d", ErrKeys, maxKeys, n)
	}
	return k, nil
}

// addPGP adds every key ring of a text, which may hold several.
func (k *Keys) addPGP(data []byte) error {
	found := false
	for {
		at := bytes.Index(data, []byte(pgpKey))
		if at < 0 {
			break
		}
		data = data[at:]
		end := len(data)
		if next := bytes.Index(data[len(pgpKey):], []byte(pgpKey)); next >= 0 {
			end = len(pgpKey) + next
		}
		ring, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(data[:end]))
		if err != nil {
			return errors.New("is no armoured OpenPGP public key")
		}
		k.pgp = append(k.pgp, ring...)
		data, found = data[end:], true
	}
	if !found {
		return errors.New("holds no armoured OpenPGP public key")
	}
	return nil
}

func (k *Keys) addSSH(data []byte) error {
	for i, line := range bytes.Split(data, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey(line)
		if err != nil {
			return fmt.Errorf("line %d is no SSH public key as in authorized_keys", i+1)
		}
		if err := strong(key); err != nil {
			return fmt.Errorf("line %d: %w", i+1, err)
		}
		k.ssh = append(k.ssh, key)
	}
	return nil
}

// strong refuses keys whose signatures prove nothing any more.
func strong(key ssh.PublicKey) error {
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256:
		return nil
	case ssh.KeyAlgoRSA:
		crypto, ok := key.(ssh.CryptoPublicKey)
		if !ok {
			break
		}
		if k, ok := crypto.CryptoPublicKey().(*rsa.PublicKey); ok && k.N.BitLen() >= minRSA {
			return nil
		}
		return fmt.Errorf("the RSA key has less than %d bits", minRSA)
	}
	return fmt.Errorf("keys of type %q are not supported", key.Type())
}

// Verify checks an armoured signature of payload and names the key that made
// it: the ID of an OpenPGP key, the SHA256 fingerprint of an SSH key.
func (k Keys) Verify(payload, signature []byte) (string, error) {
	signature = bytes.TrimSpace(signature)
	switch {
	case len(signature) == 0:
		return "", ErrUnsigned
	case len(signature) > maxSignature:
		return "", fmt.Errorf("%w: the signature has more than %d bytes", ErrUntrusted, maxSignature)
	case bytes.HasPrefix(signature, []byte(pgpSig)):
		return k.verifyPGP(payload, signature)
	case bytes.HasPrefix(signature, []byte(sshSig)):
		return k.verifySSH(payload, signature)
	}
	return "", fmt.Errorf("%w: it is signed neither by OpenPGP nor by SSH", ErrUntrusted)
}

func (k Keys) verifyPGP(payload, signature []byte) (string, error) {
	if len(k.pgp) == 0 {
		return "", fmt.Errorf("%w: it is an OpenPGP signature and no OpenPGP key (.asc) is trusted", ErrUntrusted)
	}
	signer, err := openpgp.CheckArmoredDetachedSignature(k.pgp, bytes.NewReader(payload), bytes.NewReader(signature), nil)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	return signer.PrimaryKey.KeyIdString(), nil
}

func (k Keys) verifySSH(payload, signature []byte) (string, error) {
	if len(k.ssh) == 0 {
		return "", fmt.Errorf("%w: it is an SSH signature and no SSH key (.sshpub) is trusted", ErrUntrusted)
	}
	sig, err := sshsig.Unarmor(signature)
	if err != nil {
		return "", fmt.Errorf("%w: the SSH signature is malformed", ErrUntrusted)
	}
	if sig.Signature.Format == ssh.KeyAlgoRSA {
		return "", fmt.Errorf("%w: it is an RSA signature with SHA-1", ErrUntrusted)
	}
	for _, key := range k.ssh {
		if !bytes.Equal(key.Marshal(), sig.PublicKey.Marshal()) {
			continue
		}
		if err := sshsig.Verify(bytes.NewReader(payload), sig, key, sig.HashAlgorithm, namespace); err != nil {
			return "", fmt.Errorf("%w: %w", ErrUntrusted, err)
		}
		return ssh.FingerprintSHA256(key), nil
	}
	return "", fmt.Errorf("%w: it was made by %s", ErrUntrusted, ssh.FingerprintSHA256(sig.PublicKey))
}

// Package sealed encrypts files as the sops program does with keys of age, for
// tests and for trying decryption out. It is never shipped.
package sealed

import (
	"crypto/rand"
	"fmt"
	"time"

	"filippo.io/age"
	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
	sopsage "github.com/getsops/sops/v3/age"
	"github.com/getsops/sops/v3/cmd/sops/common"
	"github.com/getsops/sops/v3/cmd/sops/formats"
	"github.com/getsops/sops/v3/config"
)

// Key is a key pair of age.
type Key struct{ identity *age.X25519Identity }

// NewKey makes a key.
func NewKey() (*Key, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("make a key of age: %w", err)
	}
	return &Key{id}, nil
}

// Private is what belongs into an entry *.agekey of a decryption Secret.
func (k *Key) Private() string { return k.identity.String() }

// Encrypt seals a document for the key: all values, or those of the fields that
// the expression names. Formats are yaml, json, dotenv, ini and binary.
func (k *Key) Encrypt(format, plain, fields string) (string, error) {
	store := common.StoreForFormat(formats.FormatFromString(format), config.NewStoresConfig())
	branches, err := store.LoadPlainFile([]byte(plain))
	if err != nil {
		return "", fmt.Errorf("read the plain %s document: %w", format, err)
	}
	dataKey := make([]byte, 32)
	if _, err := rand.Read(dataKey); err != nil {
		return "", fmt.Errorf("make a data key: %w", err)
	}
	master, err := sopsage.MasterKeyFromRecipient(k.identity.Recipient().String())
	if err == nil {
		err = master.Encrypt(dataKey)
	}
	if err != nil {
		return "", fmt.Errorf("encrypt the data key: %w", err)
	}
	tree := sops.Tree{Branches: branches, Metadata: sops.Metadata{
		KeyGroups: []sops.KeyGroup{{master}}, EncryptedRegex: fields, Version: "3.13.3", LastModified: time.Now().UTC(),
	}}
	mac, err := tree.Encrypt(dataKey, aes.NewCipher())
	if err != nil {
		return "", fmt.Errorf("encrypt the document: %w", err)
	}
	tree.Metadata.MessageAuthenticationCode, err = aes.NewCipher().Encrypt(mac, dataKey, tree.Metadata.LastModified.Format(time.RFC3339))
	if err != nil {
		return "", fmt.Errorf("authenticate the document: %w", err)
	}
	out, err := store.EmitEncryptedFile(tree)
	if err != nil {
		return "", fmt.Errorf("write the encrypted document: %w", err)
	}
	return string(out), nil
}

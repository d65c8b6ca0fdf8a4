// Package decrypt turns files that SOPS encrypted into plain text, with the
// keys of one Kustomization and no others.
//
// Keys are values: they are loaded from a Secret for one build and dropped with
// it. Nothing is read from the environment, a keyring or a home directory of
// the process, no program is run, and nothing is written to disk. What a cloud
// holds is asked for with the credentials of the Secret, else with those of the
// identity that Clouds stands for. Errors name keys by what is public of them
// and hold no plain text and nothing of a Secret.
package decrypt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
	"github.com/getsops/sops/v3/cmd/sops/common"
	"github.com/getsops/sops/v3/cmd/sops/formats"
	"github.com/getsops/sops/v3/config"
	"github.com/getsops/sops/v3/keyservice"
	yaml "go.yaml.in/yaml/v3"
)

const (
	// MaxSize of an encrypted document, in bytes.
	MaxSize = 5 << 20
	// maxKeys that one document may be encrypted for.
	maxKeys = 100
	// maxMessage bounds what is told of a key service's answer.
	maxMessage = 300
)

// ErrTampered says that a document's authentication code does not match what it
// holds.
var ErrTampered = errors.New("the message authentication code does not match: the document was changed without sops")

// Decrypt gives the plain text of a document. The formats are json, yaml,
// dotenv, ini and binary; from and to may differ. The authentication code over
// the whole document is checked.
func (k *Keys) Decrypt(ctx context.Context, data []byte, from, to string) ([]byte, error) {
	return k.decrypt(ctx, data, from, to, true)
}

// DecryptObject gives the plain form of an encrypted object, in JSON. Values
// are authenticated, together with the place where they are; the object as a
// whole is not, because a build adds to it what was never encrypted.
func (k *Keys) DecryptObject(ctx context.Context, data []byte) ([]byte, error) {
	return k.decrypt(ctx, data, "json", "json", false)
}

func (k *Keys) decrypt(ctx context.Context, data []byte, from, to string, whole bool) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, errors.New("the sops document is malformed")
		}
	}()
	in, err := storeOf(from)
	if err != nil {
		return nil, err
	}
	plain, err := storeOf(to)
	if err != nil {
		return nil, err
	}
	if err := bounded(data, from); err != nil {
		return nil, err
	}
	tree, err := in.LoadEncryptedFile(data)
	if err != nil {
		return nil, fmt.Errorf("the sops metadata of the %s document cannot be read", from)
	}
	if n := tree.Metadata.MasterKeyCount(); n > maxKeys {
		return nil, fmt.Errorf("the document is encrypted for %d keys, at most %d are tried", n, maxKeys)
	}
	if err := k.open(ctx, &tree, whole); err != nil {
		return nil, err
	}
	out, err = plain.EmitPlainFile(tree.Branches)
	if err != nil {
		return nil, fmt.Errorf("the decrypted document cannot be written as %s", to)
	}
	return out, nil
}

// open decrypts a tree in place.
func (k *Keys) open(ctx context.Context, tree *sops.Tree, whole bool) error {
	s := &service{ctx: ctx, keys: k}
	dataKey, err := tree.Metadata.GetDataKeyWithKeyServices([]keyservice.KeyServiceClient{s}, sops.DefaultDecryptionOrder)
	if err != nil {
		return s.explain()
	}
	cipher := aes.NewCipher()
	computed, err := tree.Decrypt(dataKey, cipher)
	if err != nil {
		return errors.New("a value is not what was encrypted, or not in its place")
	}
	if !whole {
		return nil
	}
	stored, err := cipher.Decrypt(tree.Metadata.MessageAuthenticationCode, dataKey, tree.Metadata.LastModified.Format(time.RFC3339))
	if err != nil || stored != computed {
		return ErrTampered
	}
	return nil
}

func storeOf(format string) (common.Store, error) {
	switch format {
	case "json", "yaml", "dotenv", "ini", "binary":
		return common.StoreForFormat(formats.FormatFromString(format), config.NewStoresConfig()), nil
	}
	return nil, fmt.Errorf("%q is no format of sops: use json, yaml, dotenv, ini or binary", format)
}

// bounded refuses documents that would cost more than they are worth: the
// stores of sops follow nesting and aliases without a limit.
func bounded(data []byte, format string) error {
	if len(data) > MaxSize {
		return fmt.Errorf("the encrypted document has %d bytes, more than the limit of %d", len(data), MaxSize)
	}
	switch format {
	case "json", "binary":
		if !json.Valid(data) {
			return errors.New("the encrypted document is no JSON, or nested too deeply")
		}
	case "yaml":
		dec := yaml.NewDecoder(bytes.NewReader(data))
		for {
			var node yaml.Node
			err := dec.Decode(&node)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return errors.New("the encrypted document is no YAML")
			}
			if aliased(&node) {
				return errors.New("the encrypted document has YAML aliases, which sops does not write")
			}
		}
	}
	return nil
}

func aliased(n *yaml.Node) bool {
	if n.Kind == yaml.AliasNode {
		return true
	}
	for _, c := range n.Content {
		if aliased(c) {
			return true
		}
	}
	return false
}

// firstLine of a message that others wrote, bounded.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	if len(line) > maxMessage {
		line = strings.ToValidUTF8(line[:maxMessage], "") + "…"
	}
	return line
}

package decrypt

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"

	"filippo.io/age"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/getsops/sops/v3/logging"
	"golang.org/x/oauth2"
)

// Names in a Secret. Keys of age and OpenPGP are known by their suffix.
const (
	suffixAge  = ".agekey"
	suffixPGP  = ".asc"
	vaultToken = "sops.vault-token"
	awsKMS     = "sops.aws-kms"
	azureKV    = "sops.azure-kv"
	gcpKMS     = "sops.gcp-kms"
)

// Clouds gives the credentials of one identity. A function that is nil says
// that this identity has none.
type Clouds struct {
	// Identity that the credentials belong to, as it enters Digest.
	Identity string
	AWS      func(ctx context.Context, region string) aws.CredentialsProvider
	Azure    func(ctx context.Context) azcore.TokenCredential
	GCP      func(ctx context.Context) oauth2.TokenSource
}

// Config says what may be decrypted with.
type Config struct {
	// Secret is the data of the Secret that spec.decryption names, or nil.
	Secret map[string][]byte
	// Clouds is asked for what the Secret has no credentials for.
	Clouds Clouds
	// VaultAddresses are the Vaults that a document may name; when empty, all
	// that are not on this machine or its link, or none with OnlyListedVaults:
	// whoever writes the document chooses where the process sends requests.
	VaultAddresses   []string
	OnlyListedVaults bool
	// Transport carries requests to Vault and the clouds; see NewTransport.
	Transport http.RoundTripper
}

// Keys decrypt for one Kustomization. They are safe for concurrent use.
type Keys struct {
	age       []age.Identity
	pgp       openpgp.EntityList
	vault     string
	aws       aws.CredentialsProvider
	azure     azcore.TokenCredential
	gcp       []byte
	clouds    Clouds
	addresses []string
	listed    bool // no other Vault than those of addresses
	transport http.RoundTripper
	digest    string
	secrets   []string
}

// Load reads the keys of a Secret. Its errors name the entry that is at fault.
// Entries with other names are left alone.
func Load(c Config) (*Keys, error) {
	for _, l := range logging.Loggers { // they would quote what is in documents
		l.SetOutput(io.Discard)
	}
	if c.Transport == nil {
		c.Transport = NewTransport(c.VaultAddresses)
	}
	k := &Keys{clouds: c.Clouds, addresses: c.VaultAddresses, listed: c.OnlyListedVaults || len(c.VaultAddresses) > 0, transport: c.Transport}
	h := sha256.New()
	note := func(s []byte) {
		_ = binary.Write(h, binary.BigEndian, uint64(len(s)))
		h.Write(s)
	}
	note([]byte(c.Clouds.Identity))
	names := make([]string, 0, len(c.Secret))
	for name := range c.Secret {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		known, err := k.add(name, c.Secret[name])
		if err != nil {
			return nil, fmt.Errorf("entry %q of the decryption Secret: %w", name, err)
		}
		if known {
			note([]byte(name))
			note(c.Secret[name])
		}
	}
	k.digest = hex.EncodeToString(h.Sum(nil))
	return k, nil
}

// Digest of the keys and the identity, for telling whether they changed.
func (k *Keys) Digest() string { return k.digest }

func (k *Keys) add(name string, value []byte) (bool, error) {
	switch {
	case path.Ext(name) == suffixAge:
		return true, k.addAge(value)
	case path.Ext(name) == suffixPGP:
		return true, k.addPGP(value)
	case name == vaultToken:
		k.vault = strings.TrimSpace(string(value))
		k.hide(k.vault)
		return true, nil
	case name == awsKMS:
		return true, k.addAWS(value)
	case name == azureKV:
		return true, k.addAzure(value)
	case name == gcpKMS:
		return true, k.addGCP(value)
	}
	return false, nil
}

func (k *Keys) addAge(value []byte) error {
	for i, line := range strings.Split(string(value), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, "AGE-PLUGIN-") {
			return fmt.Errorf("line %d: identities of age plugins are not supported, because a plugin is a program", i+1)
		}
		ids, err := age.ParseIdentities(strings.NewReader(line))
		if err != nil {
			return fmt.Errorf("line %d is no age identity: it begins with AGE-SECRET-KEY-1", i+1)
		}
		k.hide(line)
		k.age = append(k.age, ids...)
	}
	return nil
}

var errArmor = errors.New("no armored OpenPGP private key: export it with gpg --export-secret-keys --armor")

const endOfKey = "-----END PGP PRIVATE KEY BLOCK-----"

// addPGP reads armored private keys without a passphrase, several if there are.
func (k *Keys) addPGP(value []byte) error {
	for _, text := range strings.SplitAfter(strings.TrimSpace(string(value)), endOfKey) {
		if text == "" {
			break
		}
		block, err := armor.Decode(strings.NewReader(text))
		if err != nil || block.Type != openpgp.PrivateKeyType {
			return errArmor
		}
		found, err := openpgp.ReadKeyRing(block.Body)
		if err != nil {
			return errArmor
		}
		for _, e := range found {
			if locked(e) {
				return fmt.Errorf("OpenPGP key %X has a passphrase: export it without", e.PrimaryKey.Fingerprint)
			}
		}
		k.pgp = append(k.pgp, found...)
	}
	return nil
}

// locked reports whether no key that could decrypt is usable as it is. A
// primary key that is kept elsewhere is no obstacle.
func locked(e *openpgp.Entity) bool {
	usable := e.PrivateKey != nil && !e.PrivateKey.Encrypted && !e.PrivateKey.Dummy()
	for _, s := range e.Subkeys {
		usable = usable || s.PrivateKey != nil && !s.PrivateKey.Encrypted && !s.PrivateKey.Dummy()
	}
	return !usable
}

// hide keeps a value out of errors.
func (k *Keys) hide(values ...string) {
	for _, v := range values {
		if len(v) >= 6 {
			k.secrets = append(k.secrets, v)
		}
	}
}

// redact drops what others may have echoed.
func (k *Keys) redact(msg string) string {
	for _, s := range k.secrets {
		msg = strings.ReplaceAll(msg, s, "***")
	}
	return msg
}

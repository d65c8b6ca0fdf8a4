package vault

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gocloud.dev/secrets"
	_ "gocloud.dev/secrets/awskms"        // awskms://
	_ "gocloud.dev/secrets/azurekeyvault" // azurekeyvault://
	_ "gocloud.dev/secrets/gcpkms"        // gcpkms://
	_ "gocloud.dev/secrets/hashivault"    // hashivault://
	"gocloud.dev/secrets/localsecrets"    // base64key://

	"headwater.dev/hub/store"
)

// keeper wraps and unwraps with one of the hub's keys.
type keeper interface {
	Encrypt(ctx context.Context, plaintext []byte) ([]byte, error)
	Decrypt(ctx context.Context, ciphertext []byte) ([]byte, error)
}

// digestRecord holds the wrapped key of Digest.
const digestRecord = "/vault-keys/digest"

// openKeepers opens all keys; the first wraps. A key file beside key services is
// what they take over from: it is read when it is there.
func openKeepers(ctx context.Context, c Config) ([]keeper, error) {
	var keepers []keeper
	for _, url := range c.KeeperURLs {
		k, err := secrets.OpenKeeper(ctx, url)
		if err != nil {
			// The URL itself may hold a key.
			scheme, _, _ := strings.Cut(url, ":")
			return nil, fmt.Errorf("open the key service %q: the URL is malformed, its credentials are missing or this build has no driver for it; "+
				"there are awskms, azurekeyvault, gcpkms, hashivault and base64key", scheme)
		}
		keepers = append(keepers, k)
	}
	switch {
	case c.KeyFile == "" && len(keepers) == 0:
		return nil, errors.New("give a key file or the URL of a key")
	case c.KeyFile == "":
		return keepers, nil
	}
	if _, err := os.Stat(c.KeyFile); len(keepers) > 0 && errors.Is(err, os.ErrNotExist) {
		return keepers, nil
	}
	local, err := fileKeepers(c.KeyFile)
	return append(keepers, local...), err
}

// fileKeepers reads the key file, making it when missing.
func fileKeepers(path string) ([]keeper, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		data, err = makeKeyFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	var keepers []keeper
	for n, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		k, err := localsecrets.Base64KeyStd(line)
		if err != nil {
			return nil, fmt.Errorf("key file %s: line %d is not the base64 of 32 bytes", path, n+1)
		}
		keepers = append(keepers, localsecrets.NewKeeper(k))
	}
	if len(keepers) == 0 {
		return nil, fmt.Errorf("key file %s holds no key: remove it and a new one is made", path)
	}
	return keepers, nil
}

// makeKeyFile writes a fresh key. Of several processes that do so at once, one
// wins and all read the winner's.
func makeKeyFile(path string) ([]byte, error) {
	key, err := localsecrets.NewRandomKey()
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(temporary.Name())
	_, err = temporary.WriteString(base64.StdEncoding.EncodeToString(key[:]) + "\n")
	err = errors.Join(err, temporary.Sync(), temporary.Close())
	if err != nil {
		return nil, err
	}
	if err := os.Link(temporary.Name(), path); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return os.ReadFile(path)
}

// digestKey reads the key of Digest, which all replicas share, and makes it at
// first. When the hub's keys no longer open it, a new one is made: every next
// write of protected settings then counts as a change, and no harm is done.
func (v *Vault) digestKey(ctx context.Context) ([]byte, error) {
	for {
		r, err := v.store.Get(ctx, digestRecord)
		expect := r.Revision
		var plain []byte
		switch {
		case errors.Is(err, store.ErrNotFound):
			expect = 0
		case err != nil:
			return nil, err
		default:
			var box []byte
			newest := false
			if err := json.Unmarshal(r.Desired, &box); err == nil {
				plain, newest, err = v.unwrap(ctx, box)
				if err != nil && !errors.Is(err, ErrLocked) {
					return nil, err
				}
			}
			if newest {
				return plain, nil
			}
		}
		if plain == nil {
			fresh, err := localsecrets.NewRandomKey()
			if err != nil {
				return nil, fmt.Errorf("make the digest key: %w", err)
			}
			plain = fresh[:]
		}
		err = v.putDigestKey(ctx, plain, expect)
		if err == nil {
			return plain, nil
		}
		if !errors.Is(err, store.ErrExists) && !errors.Is(err, store.ErrConflict) {
			return nil, err
		}
	}
}

func (v *Vault) putDigestKey(ctx context.Context, key []byte, expect int64) error {
	box, err := v.wrap(ctx, key)
	if err != nil {
		return err
	}
	value, err := json.Marshal(box)
	if err != nil {
		return err
	}
	_, err = v.store.Put(ctx, store.Put{Key: digestRecord, Value: value, Expect: expect})
	return err
}

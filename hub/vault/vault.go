// Package vault keeps protected settings between the users' door and the
// cluster they are meant for, for 48 hours at most.
//
// An entry is sealed to the cluster's RSA key as soon as it arrives, when that
// key is known, so that the hub itself cannot read it back; and in any case it
// is wrapped with the hub's own key (an envelope) before it reaches the store.
// Id, version and recipient are inside the envelope: an entry moved to another
// place in the store does not open there. It ends on Forget, or by the store's
// lease, and is refused after its time even when a lease was stretched by
// restarts of the storage.
package vault

import (
	"context"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"headwater.dev/hub/store"
)

const (
	// Life is how long an entry is kept when nobody forgets it.
	Life = 48 * time.Hour
	// MaxBytes bounds names and values of one entry together.
	MaxBytes = 256 << 10
)

// Errors of the vault.
var (
	// ErrGone says that an entry was forgotten, has expired or never was.
	ErrGone = errors.New("protected settings are no longer kept")
	// ErrOtherKey says that an entry was sealed to another key than the
	// cluster's present one; only the old key opens it.
	ErrOtherKey = errors.New("protected settings were sealed to a former key of the cluster")
	// ErrLocked says that none of the hub's keys opens an entry now: a key service
	// may be away, another replica may have a newer key, or the key is lost. It
	// deliberately says nothing of what could not be opened.
	ErrLocked = errors.New("none of the hub's keys opens it: was the key file replaced?")
	// ErrTooLarge says that the settings exceed MaxBytes.
	ErrTooLarge = errors.New("protected settings are too large")
)

// Config is what a vault needs.
type Config struct {
	// Store holds the entries, wrapped, below /vault/.
	Store store.Store
	// KeyFile holds the hub's keys, one base64 key of 32 bytes a line. The first
	// wraps, all unwrap: to rotate, put a new one first in the files of all
	// replicas; see Run. It is made, mode 0600, when missing. Replicas share it.
	KeyFile string
	// KeeperURLs name keys in key services, as gocloud.dev/secrets understands
	// them. The first wraps, the others and those of KeyFile unwrap.
	KeeperURLs []string
	// Clock is time.Now when nil.
	Clock func() time.Time
	// Logger may be nil. Nothing secret reaches it.
	Logger *slog.Logger
}

// Vault keeps protected settings. Use it from any number of goroutines.
type Vault struct {
	store   store.Store
	config  Config
	keepers atomic.Pointer[[]keeper]
	digest  []byte
	// opened is the fingerprint of the key file that the keys came from.
	opened [sha256.Size]byte
	// lost is how many entries no key opened when everything was wrapped anew.
	lost  atomic.Int64
	clock func() time.Time
	log   *slog.Logger
}

// entry is what the store holds.
type entry struct {
	Kept    time.Time `json:"kept"`
	Expires time.Time `json:"expires"`
	Box     []byte    `json:"box"`
}

// content is what is inside the box. Exactly one of Sealed and Values is set.
type content struct {
	ID      string `json:"id"`
	Version string `json:"version"`
	// Recipient is the fingerprint of the key that Sealed is for.
	Recipient string            `json:"recipient,omitempty"`
	Sealed    []byte            `json:"sealed,omitempty"`
	Values    map[string]string `json:"values,omitempty"`
}

// New opens the vault.
func New(ctx context.Context, c Config) (*Vault, error) {
	v := &Vault{config: c, store: c.Store, clock: c.Clock, log: c.Logger}
	if v.clock == nil {
		v.clock = time.Now
	}
	if v.log == nil {
		v.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	keepers, err := openKeepers(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	v.keepers.Store(&keepers)
	v.opened = fingerprint(c.KeyFile)
	if v.digest, err = v.digestKey(ctx); err != nil {
		return nil, fmt.Errorf("open vault: %w", err)
	}
	return v, nil
}

// Keep stores the protected settings of a resource under a new version. id is
// the resource's folded ARM id. recipient is the cluster's key, nil when it has
// none yet. Earlier versions stay until the new one is acknowledged: the write
// that refers to the new one may still fail. ErrTooLarge.
func (v *Vault) Keep(ctx context.Context, id string, values map[string]string, recipient *rsa.PublicKey) (string, error) {
	size := 0
	for name, value := range values {
		size += len(name) + len(value)
	}
	if size > MaxBytes {
		return "", fmt.Errorf("keep protected settings of %s: %w: %d bytes, at most %d", id, ErrTooLarge, size, MaxBytes)
	}
	version := uuid.NewString()
	if err := v.keep(ctx, content{ID: id, Version: version, Values: values}, recipient); err != nil {
		return "", fmt.Errorf("keep protected settings of %s: %w", id, err)
	}
	return version, nil
}

func (v *Vault) keep(ctx context.Context, c content, recipient *rsa.PublicKey) error {
	if recipient != nil {
		var err error
		if c.Sealed, err = seal(c.Values, recipient); err != nil {
			return err
		}
		c.Values, c.Recipient = nil, Fingerprint(recipient)
	}
	plain, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	box, err := v.wrap(ctx, plain)
	if err != nil {
		return err
	}
	now := v.clock().UTC()
	value, err := json.Marshal(entry{Kept: now, Expires: now.Add(Life), Box: box})
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	_, err = v.store.Put(ctx, store.Put{Key: key(c.ID, c.Version), Value: value, TTL: Life})
	return err
}

// Release hands out an entry as an age file that recipient, the cluster's
// present key, opens: the settings as a JSON object of strings. What was sealed to
// one of the former keys, given by their fingerprints, is handed out as it is: an
// agent that has replaced its key keeps the former ones for that. ErrGone,
// ErrOtherKey.
func (v *Vault) Release(ctx context.Context, id, version string, recipient *rsa.PublicKey, former ...string) ([]byte, error) {
	sealed, err := v.release(ctx, id, version, recipient, former)
	if err != nil {
		return nil, fmt.Errorf("release protected settings of %s: %w", id, err)
	}
	return sealed, nil
}

func (v *Vault) release(ctx context.Context, id, version string, recipient *rsa.PublicKey, former []string) ([]byte, error) {
	if recipient == nil {
		return nil, errors.New("the cluster has no key")
	}
	r, err := v.store.Get(ctx, key(id, version))
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrInvalid) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, err
	}
	var e entry
	if err := json.Unmarshal(r.Desired, &e); err != nil {
		return nil, errors.New("the entry in the store is damaged")
	}
	if !v.clock().Before(e.Expires) {
		return nil, ErrGone
	}
	plain, _, err := v.unwrap(ctx, e.Box)
	if err != nil {
		return nil, err
	}
	var c content
	if err := json.Unmarshal(plain, &c); err != nil || c.ID != id || c.Version != version {
		return nil, errors.New("the entry in the store is not what was kept there")
	}
	switch {
	case c.Recipient == "":
		return seal(c.Values, recipient)
	case c.Recipient == Fingerprint(recipient), slices.Contains(former, c.Recipient):
		return c.Sealed, nil
	default:
		return nil, ErrOtherKey
	}
}

// Forget removes an entry and all earlier ones of the same resource: the agent
// acknowledged a version, so nothing older will ever be asked for. Earlier is what
// both the clock and the store say: the clocks of replicas differ, and an entry
// that is wrapped anew is written later. Forgetting what is gone is no error.
func (v *Vault) Forget(ctx context.Context, id, version string) error {
	r, err := v.store.Get(ctx, key(id, version))
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrInvalid) {
		return nil
	}
	var acknowledged entry
	if err == nil {
		err = json.Unmarshal(r.Desired, &acknowledged)
	}
	if err == nil {
		err = v.forget(ctx, id, func(e entry, now store.Record) bool {
			return !e.Kept.After(acknowledged.Kept) && now.Revision <= r.Revision
		})
	}
	if err != nil {
		return fmt.Errorf("forget protected settings of %s: %w", id, err)
	}
	return nil
}

// ForgetUntil removes, at the end of a resource, the entries that were there when
// its record was last written, in this revision of the store, and with it the one
// of this version, which may have been wrapped anew since. What was kept later is
// for a successor of the same name.
func (v *Vault) ForgetUntil(ctx context.Context, id, version string, revision int64) error {
	named := key(id, version)
	if err := v.forget(ctx, id, func(_ entry, r store.Record) bool { return r.Revision <= revision || r.Key == named }); err != nil {
		return fmt.Errorf("forget protected settings of %s: %w", id, err)
	}
	return nil
}

func (v *Vault) forget(ctx context.Context, id string, which func(e entry, r store.Record) bool) error {
	_, err := store.Each(ctx, v.store, key(id, ""), func(r store.Record) error {
		var e entry
		if err := json.Unmarshal(r.Desired, &e); err != nil {
			v.log.Error("damaged vault entry removed", "id", id)
		} else if !which(e, r) {
			return nil
		}
		err := v.store.Delete(ctx, r.Key, store.AnyRevision)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
	return err
}

// Digest is a keyed digest of protected settings, to tell a repeated write from
// a change without keeping what was written. Without the hub's key it says
// nothing. It is empty for no settings.
func (v *Vault) Digest(id string, values map[string]string) string {
	if len(values) == 0 {
		return ""
	}
	mac := hmac.New(sha256.New, v.digest)
	// JSON sorts the names and quotes everything, so no two inputs are alike.
	if err := json.NewEncoder(mac).Encode([]any{id, values}); err != nil {
		return "" // strings always encode
	}
	return hex.EncodeToString(mac.Sum(nil))
}

// key is where an entry lies; with an empty version, the prefix of all versions.
func key(id, version string) string {
	return "/vault" + strings.TrimSuffix(id, "/") + "/versions/" + version
}

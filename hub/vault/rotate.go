package vault

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"headwater.dev/hub/store"
)

// lookEvery is how often the key file is looked at, againEvery how many looks are
// between two tries to wrap anew what no key opened.
const lookEvery, againEvery = 15 * time.Second, 20

// family is where all entries lie.
const family = "/vault/"

// keys are those in use, the one that wraps first.
func (v *Vault) keys() []keeper { return *v.keepers.Load() }

// Run keeps to the keys that are given until ctx ends, and returns nil then. When
// the key file has changed it is read again, and what former keys have wrapped is
// wrapped anew, so that they can be dropped at once rather than after 48 hours;
// the log says when. A file that cannot be read changes nothing.
func (v *Vault) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	opened, wrapped := v.opened, false
	for look := 0; ; look++ {
		if now := fingerprint(v.config.KeyFile); now != opened {
			keepers, err := v.reopen(ctx)
			if err == nil {
				v.keepers.Store(&keepers)
				opened, wrapped = now, false
				v.log.Info("the vault's keys were read again", "keys", len(keepers))
			} else {
				v.log.Error("the vault's keys cannot be read: the former ones stay in use", "error", err)
			}
		}
		if !wrapped || v.lost.Load() > 0 && look%againEvery == 0 {
			n, err := v.Rewrap(ctx)
			wrapped = err == nil
			switch {
			case err == nil && v.lost.Load() > 0: // which Rewrap has told
			case err != nil && ctx.Err() == nil:
				v.log.Error("not everything is wrapped with the newest key", "error", err)
			case n > 0:
				v.log.Info("everything is wrapped with the newest key: former ones can be dropped when all replicas have it", "entries", n)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// fingerprint tells versions of the key file apart, whose times need not differ
// when it is written twice in a moment. It is zero for a file that cannot be read.
func fingerprint(path string) [sha256.Size]byte {
	data, err := os.ReadFile(path)
	if err != nil {
		return [sha256.Size]byte{}
	}
	return sha256.Sum256(data)
}

// reopen opens the keys that are given now. A key file that is gone is not made
// anew, as at the first start: its keys are the only ones that open what is kept.
func (v *Vault) reopen(ctx context.Context) ([]keeper, error) {
	if len(v.config.KeeperURLs) == 0 {
		if _, err := os.Stat(v.config.KeyFile); err != nil {
			return nil, fmt.Errorf("read key file: %w: put it back before the hub is started again", err)
		}
	}
	return openKeepers(ctx, v.config)
}

// Rewrap wraps with the newest key whatever a former one has wrapped, and returns
// how many entries that were. Their lives stay as long as they were. Entries that
// no key opens are left to their end.
func (v *Vault) Rewrap(ctx context.Context) (int, error) {
	count, lost := 0, 0
	_, err := store.Each(ctx, v.store, family, func(r store.Record) error {
		done, err := v.rewrap(ctx, r)
		switch {
		case errors.Is(err, ErrLocked):
			lost++
			return nil
		case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrNotFound):
			return nil // it was replaced, by the newest key, or forgotten
		case err != nil:
			return fmt.Errorf("wrap an entry anew: %w", err)
		case done:
			count++
		}
		return nil
	})
	v.lost.Store(int64(lost))
	if lost > 0 {
		v.log.Warn("none of the keys opens some entries: keep former keys while a key service is away; otherwise they stay until their end", "entries", lost)
	}
	if err == nil {
		_, err = v.digestKey(ctx) // wraps it anew, too
	}
	return count, err
}

func (v *Vault) rewrap(ctx context.Context, r store.Record) (bool, error) {
	var e entry
	if err := json.Unmarshal(r.Desired, &e); err != nil {
		return false, nil
	}
	plain, newest, err := v.unwrap(ctx, e.Box)
	left := e.Expires.Sub(v.clock())
	if err != nil || newest || left <= 0 {
		return false, err
	}
	if e.Box, err = v.wrap(ctx, plain); err != nil {
		return false, err
	}
	value, err := json.Marshal(e)
	if err != nil {
		return false, err
	}
	_, err = v.store.Put(ctx, store.Put{Key: r.Key, Value: value, Expect: r.Revision, TTL: left})
	return err == nil, err
}

// Try opens the keys that a configuration names and uses each once, as a check
// before a hub is started; it needs no store.
func Try(ctx context.Context, c Config) error {
	keepers, err := openKeepers(ctx, c)
	if err != nil {
		return err
	}
	for i, k := range keepers {
		box, err := k.Encrypt(ctx, []byte("check"))
		if err == nil {
			_, err = k.Decrypt(ctx, box)
		}
		if err != nil {
			return fmt.Errorf("use key %d of %d: %w", i+1, len(keepers), err)
		}
	}
	return nil
}

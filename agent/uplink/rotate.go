package uplink

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"headwater.dev/api/link"
)

// Keys are the cluster's private keys.
type Keys struct {
	// Present is the one that the hub takes, as far as is known.
	Present *rsa.PrivateKey
	// Next shall take its place; nil for none. The hub may take it already.
	Next *rsa.PrivateKey
	// Former are those before, the newest first. What the hub sealed to one may still
	// be under way, and a hub that was restored from a backup may know no other.
	Former []*rsa.PrivateKey
}

// Keyring keeps the cluster's keys over restarts. Its methods may be called from
// several goroutines.
type Keyring interface {
	Keys() Keys
	// Renew makes a next key unless there is one. When it returns nil, that key is
	// kept safely: only then the hub is told.
	Renew(ctx context.Context) error
	// Settle makes next the present key: the hub takes no other any more. What is in
	// memory counts at once; an error says that it is not kept yet. To be called again
	// then with the present key; otherwise that does nothing.
	Settle(ctx context.Context, next *rsa.PrivateKey) error
	// Reload reads again what is kept, and reports whether it is something else.
	Reload(ctx context.Context) (bool, error)
	// Due is when the present key should be replaced; zero for never.
	Due() time.Time
}

// single is a ring with one key that stays.
type single struct{ key *rsa.PrivateKey }

func (s single) Keys() Keys { return Keys{Present: s.key} }

func (s single) Renew(context.Context) error {
	return errors.New("this agent's key is given and cannot be replaced")
}

func (s single) Settle(context.Context, *rsa.PrivateKey) error { return nil }

func (s single) Reload(context.Context) (bool, error) { return false, nil }

func (s single) Due() time.Time { return time.Time{} }

const (
	// lookAtKey is the longest pause between two looks whether the key is due.
	lookAtKey = time.Hour
	// rotateRetry and rotateRetryMax are the pauses after a rotation that failed.
	rotateRetry, rotateRetryMax = 10 * time.Second, 30 * time.Minute
	// formerEvery is how often former keys are tried at most.
	formerEvery = 10 * time.Minute
)

// rotate replaces the cluster's key when that is due or the hub asks for it, until
// ctx ends.
func (u *Uplink) rotate(ctx context.Context) error {
	retry := &backoff{first: rotateRetry, longest: rotateRetryMax, now: rotateRetry}
	for {
		due, asked := u.config.Keyring.Due(), false
		wait := lookAtKey
		if !due.IsZero() {
			wait = min(wait, max(0, time.Until(due)))
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-u.rekey:
			asked = true
		case <-timer.C:
		}
		timer.Stop()
		if err := u.config.Keyring.Settle(ctx, u.config.Keyring.Keys().Present); err != nil {
			u.config.Log.Info("the cluster's key is not kept yet, will retry", "error", err.Error())
		}
		if !asked && (due.IsZero() || time.Now().Before(due)) {
			continue
		}
		err := u.replaceKey(ctx)
		if err == nil {
			u.config.Log.Info("the cluster's key was replaced", "asked", asked)
			retry.reset()
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		u.config.Log.Info("the cluster's key is not replaced yet, will retry", "error", err.Error())
		pause(ctx, retry.next())
		if asked {
			u.askForKey()
		}
	}
}

// askForKey makes rotate replace the key at once.
func (u *Uplink) askForKey() {
	select {
	case u.rekey <- struct{}{}:
	default:
	}
}

// replaceKey makes a new key, keeps it, introduces it, and uses it.
func (u *Uplink) replaceKey(ctx context.Context) error {
	fresh := u.config.Keyring.Keys().Next == nil
	if err := u.config.Keyring.Renew(ctx); err != nil {
		return fmt.Errorf("make the next key: %w", err)
	}
	next := u.config.Keyring.Keys().Next
	u.tokens.renew(next, fresh)
	if _, err := u.tokens.get(ctx); err != nil {
		return err
	}
	if u.config.Keyring.Keys().Next == next {
		return errors.New("the hub did not take the next key")
	}
	return nil
}

// grant asks for a token with whichever key the hub takes, and moves on to the
// next key when there is one.
func (t *tokens) grant(ctx context.Context) (link.Token, error) {
	ring := t.up.config.Keyring
	keys := ring.Keys()
	if keys.Next != nil {
		token, err := t.advance(ctx, keys)
		if err == nil || !refused(err) {
			return token, err
		}
		t.up.config.Log.Info("the hub does not take the next key yet", "error", err.Error())
	}
	token, err := t.request(ctx, keys.Present)
	if !unauthorized(err) {
		return token, err
	}
	// Another process may have replaced the key, or somebody connected anew.
	if changed, failed := ring.Reload(ctx); failed != nil {
		t.up.config.Log.Info("the cluster's key cannot be read again", "error", failed.Error())
	} else if changed {
		keys = ring.Keys()
		if token, err = t.request(ctx, keys.Present); !unauthorized(err) {
			return token, err
		}
	}
	return t.goBack(ctx, keys, err)
}

// advance introduces the next key, unless the hub takes it already, and uses it.
func (t *tokens) advance(ctx context.Context, keys Keys) (link.Token, error) {
	if t.untold != keys.Next { // it may have been introduced before a crash
		token, err := t.request(ctx, keys.Next)
		if err == nil {
			t.settle(ctx, keys.Next)
			return token, nil
		}
		if !unauthorized(err) {
			return token, err
		}
	}
	if err := t.introduce(ctx, keys.Present, keys.Next); err != nil {
		return link.Token{}, err
	}
	t.untold = nil // from now on an answer may get lost
	token, err := t.request(ctx, keys.Next)
	if err == nil {
		t.settle(ctx, keys.Next)
	}
	return token, err
}

// settle makes the next key the present one. That it could not be kept hinders
// nothing: after a restart both are tried.
func (t *tokens) settle(ctx context.Context, next *rsa.PrivateKey) {
	if err := t.up.config.Keyring.Settle(ctx, next); err != nil {
		t.up.config.Log.Info("that the hub takes the next key is not kept yet", "error", err.Error())
	}
}

// goBack introduces the present key with a former one, as is right for a hub that
// was restored from a backup from before the rotation. why is what the hub said to
// the present key.
func (t *tokens) goBack(ctx context.Context, keys Keys, why error) (link.Token, error) {
	if len(keys.Former) == 0 || !t.formerAt.IsZero() && time.Since(t.formerAt) < formerEvery {
		return link.Token{}, why
	}
	t.formerAt = time.Now()
	for _, former := range keys.Former {
		if t.introduce(ctx, former, keys.Present) == nil {
			t.up.config.Log.Info("the hub has forgotten this cluster's key: a former one introduced it again")
			return t.request(ctx, keys.Present)
		}
	}
	return link.Token{}, why
}

// refused reports whether the hub, or something before it, said no.
func refused(err error) bool {
	var r *refusal
	return errors.As(err, &r)
}

func unauthorized(err error) bool {
	var r *refusal
	return errors.As(err, &r) && r.status == http.StatusUnauthorized
}

// introduce tells the hub the key that shall follow another one. Both sign.
func (t *tokens) introduce(ctx context.Context, present, next *rsa.PrivateKey) error {
	err := t.handOver(ctx, present, next)
	var r *refusal
	if errors.As(err, &r) && r.status == http.StatusUnauthorized && t.learnSkew(r) {
		err = t.handOver(ctx, present, next)
	}
	if err != nil {
		return fmt.Errorf("introduce the next key to the hub: %w", err)
	}
	return nil
}

func (t *tokens) handOver(ctx context.Context, present, next *rsa.PrivateKey) error {
	der := x509.MarshalPKCS1PublicKey(&next.PublicKey)
	sum := sha256.Sum256(der)
	claims := struct {
		jwt.RegisteredClaims
		NextKey string `json:"nky"`
	}{t.claims(link.PathKey, uuid.NewString()), hex.EncodeToString(sum[:])}
	message := link.NextKey{PublicKey: base64.StdEncoding.EncodeToString(der)}
	var err error
	if message.Handover, err = jwt.NewWithClaims(jwt.SigningMethodRS256, claims).SignedString(present); err != nil {
		return fmt.Errorf("sign with the present key: %w", err)
	}
	if message.Proof, err = jwt.NewWithClaims(jwt.SigningMethodRS256, claims).SignedString(next); err != nil {
		return fmt.Errorf("sign with the next key: %w", err)
	}
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, t.up.timing.request)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.up.url(link.PathKey), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := t.up.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return newRefusal(res)
	}
	return nil
}

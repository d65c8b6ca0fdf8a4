package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"headwater.dev/hub/store"
)

// secretBytes of randomness make a secret; that is why a plain hash of it is
// enough: there is nothing to guess.
const secretBytes = 32

// principalRecord is a service principal in the store.
type principalRecord struct {
	ClientID string         `json:"clientId"`
	ObjectID string         `json:"objectId"`
	Name     string         `json:"name"`
	Created  time.Time      `json:"created"`
	Secrets  []secretRecord `json:"secrets"`
}

// secretRecord is one of a principal's secrets, hashed.
type secretRecord struct {
	Hash []byte `json:"hash"`
	// Expires is when the secret ends; nil for never.
	Expires *time.Time `json:"expires,omitempty"`
}

// Admin is the content of admin.json.
type Admin struct {
	TenantID       string `json:"tenantId"`
	ClientID       string `json:"clientId"`
	ClientSecret   string `json:"clientSecret"`
	SubscriptionID string `json:"subscriptionId"`
}

// directoryRecord marks that the first start is over.
type directoryRecord struct {
	TenantID       string `json:"tenantId"`
	SubscriptionID string `json:"subscriptionId"`
}

const directoryKey = "/directory/this"

func principalKey(clientID string) string { return "/principals/" + strings.ToLower(clientID) }

func newSecret() (string, secretRecord, error) {
	random := make([]byte, secretBytes)
	if _, err := rand.Read(random); err != nil {
		return "", secretRecord{}, fmt.Errorf("make a secret: %w", err)
	}
	secret := base64.RawURLEncoding.EncodeToString(random)
	return secret, secretRecord{Hash: hash(secret)}, nil
}

func hash(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// CreatePrincipal makes a service principal that may do nothing yet, and
// answers its secret, which is told only once. life 0 is for ever.
func (a *Auth) CreatePrincipal(ctx context.Context, name string, life time.Duration) (Principal, string, error) {
	secret, record, err := newSecret()
	if err != nil {
		return Principal{}, "", err
	}
	if life > 0 {
		expires := a.clock().Add(life).UTC()
		record.Expires = &expires
	}
	p := principalRecord{
		ClientID: uuid.NewString(), ObjectID: uuid.NewString(), Name: name,
		Created: a.clock().UTC(), Secrets: []secretRecord{record},
	}
	if err := a.putNew(ctx, principalKey(p.ClientID), p); err != nil {
		return Principal{}, "", fmt.Errorf("create principal %s: %w", name, err)
	}
	return Principal{Kind: ServicePrincipal, ID: p.ClientID, ObjectID: p.ObjectID, Name: name}, secret, nil
}

// DeletePrincipal removes a service principal and its role assignments, so that
// tokens it still holds are worth nothing.
func (a *Auth) DeletePrincipal(ctx context.Context, p Principal) error {
	_, err := store.Each(ctx, a.store, assignmentKey(p.ObjectID, ""), func(r store.Record) error {
		return a.store.Delete(ctx, r.Key, store.AnyRevision)
	})
	if err == nil {
		err = a.store.Delete(ctx, principalKey(p.ID), store.AnyRevision)
	}
	if err != nil {
		return fmt.Errorf("delete principal %s: %w", p.ID, err)
	}
	return nil
}

func (a *Auth) putNew(ctx context.Context, key string, value any) error {
	encoded, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = a.store.Put(ctx, store.Put{Key: key, Value: encoded})
	return err
}

// credential verdicts.
var (
	errBadSecret     = errors.New("unknown client or wrong secret")
	errExpiredSecret = errors.New("secret has expired")
)

// login checks a client's secret in a time that tells nothing about it.
func (a *Auth) login(ctx context.Context, clientID, secret string) (principalRecord, error) {
	var p principalRecord
	r, err := a.store.Get(ctx, principalKey(clientID))
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrInvalid):
		p.Secrets = []secretRecord{{Hash: make([]byte, sha256.Size)}} // compare all the same
	case err != nil:
		return p, errStore("look a client up", err)
	default:
		if err := json.Unmarshal(r.Desired, &p); err != nil {
			return p, fmt.Errorf("read client %s: %w", clientID, err)
		}
	}
	given, now := hash(secret), a.clock()
	verdict := errBadSecret
	for _, s := range p.Secrets {
		if subtle.ConstantTimeCompare(given, s.Hash) != 1 {
			continue
		}
		if s.Expires == nil || now.Before(*s.Expires) {
			return p, nil
		}
		verdict = errExpiredSecret
	}
	return principalRecord{}, verdict
}

// bootstrap reads which tenant this is, or makes it with its administrator. It
// may be cut off at any point and repeated: the file comes first, the marker
// last. After that an administrator that was removed stays removed.
func (a *Auth) bootstrap(ctx context.Context, c Config) error {
	d, err := a.directory(ctx)
	if errors.Is(err, store.ErrNotFound) {
		d, err = a.firstStart(ctx, c)
	}
	if err != nil {
		return err
	}
	for _, pair := range [][3]string{{"tenant", c.TenantID, d.TenantID}, {"subscription", c.SubscriptionID, d.SubscriptionID}} {
		if pair[1] != "" && !strings.EqualFold(pair[1], pair[2]) {
			return fmt.Errorf("the configured %s is %s but the store belongs to %s: leave it out or use another store", pair[0], pair[1], pair[2])
		}
	}
	a.tenant, a.subscription = d.TenantID, d.SubscriptionID
	return nil
}

func (a *Auth) directory(ctx context.Context) (directoryRecord, error) {
	var d directoryRecord
	r, err := a.store.Get(ctx, directoryKey)
	if err == nil {
		err = json.Unmarshal(r.Desired, &d)
	}
	return d, err
}

func (a *Auth) firstStart(ctx context.Context, c Config) (directoryRecord, error) {
	admin, err := a.adminFile(c)
	if err != nil {
		return directoryRecord{}, fmt.Errorf("make the administrator: %w", err)
	}
	p := principalRecord{
		ClientID: admin.ClientID, ObjectID: uuid.NewSHA1(uuid.NameSpaceOID, []byte(admin.ClientID)).String(),
		Name: "admin", Created: a.clock().UTC(), Secrets: []secretRecord{{Hash: hash(admin.ClientSecret)}},
	}
	d := directoryRecord{TenantID: admin.TenantID, SubscriptionID: admin.SubscriptionID}
	err = a.putNew(ctx, principalKey(p.ClientID), p)
	if err == nil || errors.Is(err, store.ErrExists) {
		err = a.assign(ctx, p.ObjectID, p.ObjectID, Assignment{Role: Owner, Scope: "/"})
	}
	if err == nil || errors.Is(err, store.ErrExists) {
		err = a.putNew(ctx, directoryKey, d)
	}
	if errors.Is(err, store.ErrExists) { // another replica was quicker
		return a.directory(ctx)
	}
	if err != nil {
		return directoryRecord{}, fmt.Errorf("make the administrator: %w", err)
	}
	a.log.Info("first start: administrator made", "clientId", p.ClientID, "file", filepath.Join(c.Dir, "admin.json"))
	return d, nil
}

// adminFile reads admin.json or makes it.
func (a *Auth) adminFile(c Config) (Admin, error) {
	path := filepath.Join(c.Dir, "admin.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		var secret string
		if secret, _, err = newSecret(); err != nil {
			return Admin{}, err
		}
		admin := Admin{TenantID: c.TenantID, ClientID: uuid.NewString(), ClientSecret: secret, SubscriptionID: c.SubscriptionID}
		for _, id := range []*string{&admin.TenantID, &admin.SubscriptionID} {
			if *id == "" {
				*id = uuid.NewString()
			}
		}
		if data, err = json.MarshalIndent(admin, "", "  "); err == nil {
			data, err = makeFile(path, append(data, '\n'))
		}
	}
	if err != nil {
		return Admin{}, fmt.Errorf("admin.json: %w", err)
	}
	var admin Admin
	if err := json.Unmarshal(data, &admin); err != nil || admin.TenantID == "" || admin.ClientID == "" || admin.ClientSecret == "" || admin.SubscriptionID == "" {
		return Admin{}, fmt.Errorf("admin.json in %s is incomplete: remove it and a new one is made", c.Dir)
	}
	return admin, nil
}

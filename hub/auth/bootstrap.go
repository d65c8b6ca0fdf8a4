package auth

import (
	"context"
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
	// Administrator is the client id that the first start made.
	Administrator string `json:"administrator,omitempty"`
}

const directoryKey = "/directory/this"

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
		Name: "admin", Created: a.clock().UTC(),
		Secrets: []secretRecord{{ID: uuid.NewSHA1(uuid.NameSpaceOID, []byte(admin.ClientSecret)).String(), Name: "first start", Hash: hash(admin.ClientSecret), Created: a.clock().UTC()}},
	}
	d := directoryRecord{TenantID: admin.TenantID, SubscriptionID: admin.SubscriptionID, Administrator: admin.ClientID}
	err = a.putNew(ctx, principalKey(p.ClientID), p)
	if err == nil || errors.Is(err, store.ErrExists) {
		err = a.putNew(ctx, assignmentKey(p.ObjectID, p.ObjectID), Assignment{Name: p.ObjectID, PrincipalID: p.ObjectID, Role: Owner, Scope: "/",
			PrincipalType: string(ServicePrincipal), CreatedOn: p.Created, UpdatedOn: p.Created})
	}
	if err == nil || errors.Is(err, store.ErrExists) {
		err = a.putNew(ctx, directoryKey, d)
	}
	if errors.Is(err, store.ErrExists) { // another replica was quicker
		return a.giveWay(ctx, p, filepath.Join(c.Dir, "admin.json"))
	}
	if err != nil {
		return directoryRecord{}, fmt.Errorf("make the administrator: %w", err)
	}
	a.log.Info("first start: administrator made", "clientId", p.ClientID, "file", filepath.Join(c.Dir, "admin.json"))
	return d, nil
}

// giveWay takes back the administrator that this replica has made while another,
// with a directory of its own, made the one that counts.
func (a *Auth) giveWay(ctx context.Context, p principalRecord, file string) (directoryRecord, error) {
	d, err := a.directory(ctx)
	if err != nil || d.Administrator == p.ClientID {
		return d, err
	}
	for _, key := range []string{assignmentKey(p.ObjectID, p.ObjectID), principalKey(p.ClientID)} {
		if err := a.store.Delete(ctx, key, store.AnyRevision); err != nil && !errors.Is(err, store.ErrNotFound) {
			return d, fmt.Errorf("take back an administrator: %w", err)
		}
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return d, fmt.Errorf("take back an administrator: %w", err)
	}
	a.log.Info("first start: another replica has made the administrator; its admin.json counts", "clientId", d.Administrator)
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

// Recover makes another administrator, Owner of everything, for somebody who can
// reach the storage anyhow. Its secret is good for life.
func Recover(ctx context.Context, s store.Store, life time.Duration) (Admin, error) {
	a := &Auth{store: s, clock: time.Now}
	d, err := a.directory(ctx)
	if errors.Is(err, store.ErrNotFound) {
		return Admin{}, errors.New("the storage belongs to no hub yet: start the hub once")
	}
	if err != nil {
		return Admin{}, err
	}
	p, secret, err := a.CreatePrincipal(ctx, "admin, recovered "+a.clock().UTC().Format(time.DateOnly), life)
	if err == nil {
		_, err = a.Assign(ctx, p.ObjectID, Owner, "/")
	}
	if err != nil {
		return Admin{}, fmt.Errorf("make the administrator: %w", err)
	}
	return Admin{TenantID: d.TenantID, ClientID: p.ID, ClientSecret: secret, SubscriptionID: d.SubscriptionID}, nil
}

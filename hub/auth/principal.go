package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"headwater.dev/hub/store"
)

// MaxCredentials is how many secrets, certificates and foreign subjects each a
// service principal may have.
const MaxCredentials = 20

// ErrLastOwner refuses what would leave nobody who can sign in and owns everything.
var ErrLastOwner = errors.New("this is the last owner of everything that can sign in: give another service principal the role Owner at / first")

// ErrBusy says that somebody else changes rights or principals just now.
var ErrBusy = errors.New("rights are being changed by somebody else: try again")

// principalRecord is a service principal in the store.
type principalRecord struct {
	ClientID     string              `json:"clientId"`
	ObjectID     string              `json:"objectId"`
	Name         string              `json:"name"`
	Created      time.Time           `json:"created"`
	Disabled     bool                `json:"disabled,omitempty"`
	Secrets      []secretRecord      `json:"secrets"`
	Certificates []certificateRecord `json:"certificates,omitempty"`
	Federated    []federatedRecord   `json:"federated,omitempty"`
}

// usable reports whether somebody could sign in as the principal by means of the hub alone.
func (p principalRecord) usable(now time.Time) bool {
	if p.Disabled {
		return false
	}
	for _, s := range p.Secrets {
		if s.good(now) {
			return true
		}
	}
	for _, c := range p.Certificates {
		if now.Before(c.Expires) {
			return true
		}
	}
	return false
}

// ServicePrincipalInfo is a service principal without anything secret.
type ServicePrincipalInfo struct {
	ClientID, ObjectID, Name string
	Created                  time.Time
	Disabled                 bool
	Credentials              []Credential
}

// Credential is one way to sign in as a service principal, without its secret.
type Credential struct {
	ID string
	// Kind is secret, certificate or federated.
	Kind string
	Name string
	// Hint is how a secret begins, the thumbprint of a certificate, the subject
	// of a foreign issuer.
	Hint string
	// Issuer is that of a foreign subject.
	Issuer  string
	Created time.Time
	// Expires is nil for never.
	Expires *time.Time
}

func (p principalRecord) info() ServicePrincipalInfo {
	i := ServicePrincipalInfo{ClientID: p.ClientID, ObjectID: p.ObjectID, Name: p.Name, Created: p.Created, Disabled: p.Disabled}
	for _, s := range p.Secrets {
		i.Credentials = append(i.Credentials, Credential{ID: s.ID, Kind: "secret", Name: s.Name, Hint: s.Hint, Created: s.Created, Expires: s.Expires})
	}
	for _, c := range p.Certificates {
		i.Credentials = append(i.Credentials, Credential{ID: c.ID, Kind: "certificate", Name: c.Name, Hint: c.Thumbprint, Created: c.Created, Expires: &c.Expires})
	}
	for _, f := range p.Federated {
		i.Credentials = append(i.Credentials, Credential{ID: f.ID, Kind: "federated", Name: f.Name, Hint: f.Subject, Issuer: f.Issuer, Created: f.Created})
	}
	return i
}

func principalKey(clientID string) string { return "/principals/" + strings.ToLower(clientID) }

// CreatePrincipal makes a service principal that may do nothing yet, and
// answers its secret, which is told only once. life 0 is for ever, a negative
// one makes no secret at all.
func (a *Auth) CreatePrincipal(ctx context.Context, name string, life time.Duration) (Principal, string, error) {
	now := a.clock().UTC()
	p := principalRecord{ClientID: uuid.NewString(), ObjectID: uuid.NewString(), Name: name, Created: now}
	var secret string
	if life >= 0 {
		var record secretRecord
		var err error
		if secret, record, err = newSecret(); err != nil {
			return Principal{}, "", err
		}
		record.Created = now
		if life > 0 {
			expires := now.Add(life)
			record.Expires = &expires
		}
		p.Secrets = []secretRecord{record}
	}
	if err := a.putNew(ctx, principalKey(p.ClientID), p); err != nil {
		return Principal{}, "", fmt.Errorf("create principal %s: %w", name, err)
	}
	return Principal{Kind: ServicePrincipal, ID: p.ClientID, ObjectID: p.ObjectID, Name: name}, secret, nil
}

// NewPrincipal makes a service principal under a client id, without any
// credential. store.ErrExists.
func (a *Auth) NewPrincipal(ctx context.Context, clientID, name string, disabled bool) error {
	return a.putNew(ctx, principalKey(clientID), principalRecord{ClientID: strings.ToLower(clientID), ObjectID: uuid.NewString(), Name: name,
		Created: a.clock().UTC(), Disabled: disabled})
}

// Principals lists all service principals.
func (a *Auth) Principals(ctx context.Context) ([]ServicePrincipalInfo, error) {
	all, err := a.principals(ctx)
	infos := make([]ServicePrincipalInfo, 0, len(all))
	for _, p := range all {
		infos = append(infos, p.info())
	}
	return infos, err
}

func (a *Auth) principals(ctx context.Context) ([]principalRecord, error) {
	var all []principalRecord
	_, err := store.Each(ctx, a.store, "/principals/", func(r store.Record) error {
		var p principalRecord
		if err := json.Unmarshal(r.Desired, &p); err != nil {
			return fmt.Errorf("read %s: %w", r.Key, err)
		}
		all = append(all, p)
		return nil
	})
	return all, err
}

// ServicePrincipal reads one by its client id. store.ErrNotFound.
func (a *Auth) ServicePrincipal(ctx context.Context, clientID string) (ServicePrincipalInfo, error) {
	p, _, err := a.principal(ctx, clientID)
	return p.info(), err
}

func (a *Auth) principal(ctx context.Context, clientID string) (principalRecord, int64, error) {
	var p principalRecord
	r, err := a.store.Get(ctx, principalKey(clientID))
	if errors.Is(err, store.ErrInvalid) {
		err = store.ErrNotFound
	}
	if err == nil {
		err = json.Unmarshal(r.Desired, &p)
	}
	return p, r.Revision, err
}

// Rename gives a service principal another name and lets it in or keeps it out.
// ErrLastOwner, store.ErrNotFound.
func (a *Auth) Rename(ctx context.Context, clientID, name string, disabled bool) error {
	return a.edit(ctx, clientID, func(p *principalRecord) error {
		p.Name, p.Disabled = name, disabled
		return nil
	})
}

// edit changes a service principal when an owner of everything remains.
func (a *Auth) edit(ctx context.Context, clientID string, change func(*principalRecord) error) error {
	return a.Exclusively(ctx, func(ctx context.Context) error {
		p, revision, err := a.principal(ctx, clientID)
		if err != nil {
			return err
		}
		if err := change(&p); err != nil {
			return err
		}
		if err := a.ownerRemains(ctx, "", &p); err != nil {
			return err
		}
		value, err := json.Marshal(p)
		if err != nil {
			return err
		}
		_, err = a.store.Put(ctx, store.Put{Key: principalKey(clientID), Value: value, Expect: revision})
		return err
	})
}

// DeletePrincipal removes a service principal and its role assignments, so that
// tokens it still holds are worth nothing. ErrLastOwner.
func (a *Auth) DeletePrincipal(ctx context.Context, p Principal) error {
	err := a.Exclusively(ctx, func(ctx context.Context) error {
		gone, _, err := a.principal(ctx, p.ID)
		if err != nil {
			return err
		}
		gone.Disabled = true
		if err := a.ownerRemains(ctx, "", &gone); err != nil {
			return err
		}
		_, err = store.Each(ctx, a.store, assignmentKey(gone.ObjectID, ""), func(r store.Record) error {
			return a.store.Delete(ctx, r.Key, store.AnyRevision)
		})
		if err != nil {
			return err
		}
		return a.store.Delete(ctx, principalKey(p.ID), store.AnyRevision)
	})
	if err != nil {
		return fmt.Errorf("delete principal %s: %w", p.ID, err)
	}
	return nil
}

// OwnerRemains is ErrLastOwner when the assignment of that name is what the
// last owner of everything has. Ask it inside Exclusively.
func (a *Auth) OwnerRemains(ctx context.Context, without string) error {
	return a.ownerRemains(ctx, without, nil)
}

// ownerRemains asks whether somebody owns everything and can sign in, without
// an assignment and with a principal as it is about to be. Where nobody does
// already, nothing is lost.
func (a *Auth) ownerRemains(ctx context.Context, without string, changed *principalRecord) error {
	before, after := map[string]bool{}, map[string]bool{}
	err := a.Assignments(ctx, func(x Assignment) error {
		if d, ok := RoleNamed(string(x.Role)); ok && d.ID == string(Owner) && x.Scope == "/" {
			before[strings.ToLower(x.PrincipalID)] = true
			if !strings.EqualFold(x.Name, without) {
				after[strings.ToLower(x.PrincipalID)] = true
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	all, err := a.principals(ctx)
	if err != nil {
		return err
	}
	now, was, is := a.clock(), 0, 0
	for _, p := range all {
		if before[strings.ToLower(p.ObjectID)] && p.usable(now) {
			was++
		}
		if changed != nil && p.ClientID == changed.ClientID {
			p = *changed
		}
		if after[strings.ToLower(p.ObjectID)] && p.usable(now) {
			is++
		}
	}
	if was > 0 && is == 0 {
		return ErrLastOwner
	}
	return nil
}

const (
	exclusiveKey = "/directory/changing"
	// exclusiveFor bounds how long a change of rights may take, exclusiveWait
	// how long another waits for it.
	exclusiveFor  = 10 * time.Second
	exclusiveWait = 5 * time.Second
)

// Exclusively runs a change of rights or principals while no other runs, at no
// replica, so that what was checked still holds when it is written. ErrBusy.
func (a *Auth) Exclusively(ctx context.Context, change func(context.Context) error) error {
	deadline := time.Now().Add(exclusiveWait)
	for {
		r, err := a.store.Put(ctx, store.Put{Key: exclusiveKey, Value: []byte("{}"), TTL: 2 * exclusiveFor})
		if err == nil {
			defer func() { // one that is gone has expired
				_ = a.store.Delete(context.WithoutCancel(ctx), exclusiveKey, r.Revision)
			}()
			break
		}
		if !errors.Is(err, store.ErrExists) {
			return err
		}
		if time.Now().After(deadline) {
			return ErrBusy
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	ctx, cancel := context.WithTimeout(ctx, exclusiveFor)
	defer cancel()
	return change(ctx)
}

func (a *Auth) putNew(ctx context.Context, key string, value any) error {
	encoded, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = a.store.Put(ctx, store.Put{Key: key, Value: encoded})
	return err
}

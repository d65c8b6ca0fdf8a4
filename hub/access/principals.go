package access

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"headwater.dev/api/arm"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
)

type principalBody struct {
	Properties struct {
		DisplayName    string `json:"displayName"`
		AccountEnabled *bool  `json:"accountEnabled"`
	} `json:"properties"`
}

func principal(p auth.ServicePrincipalInfo) map[string]any {
	credentials := []any{}
	for _, k := range p.Credentials {
		credentials = append(credentials, credential(k))
	}
	return map[string]any{"id": "/providers/Headwater.Identity/servicePrincipals/" + p.ClientID, "name": p.ClientID,
		"type": "Headwater.Identity/servicePrincipals", "properties": map[string]any{"appId": p.ClientID, "objectId": p.ObjectID,
			"displayName": p.Name, "accountEnabled": !p.Disabled, "createdDateTime": stamp(p.Created), "credentials": credentials}}
}

func credential(k auth.Credential) map[string]any {
	m := map[string]any{"keyId": k.ID, "kind": k.Kind, "displayName": k.Name, "hint": k.Hint, "startDateTime": stamp(k.Created), "endDateTime": nil}
	if k.Expires != nil {
		m["endDateTime"] = stamp(*k.Expires)
	}
	if k.Issuer != "" {
		m["issuer"] = k.Issuer
	}
	return m
}

// me tells callers who they are: object ids are what role assignments name.
func (a *Access) me(c *call) error {
	return c.reply(http.StatusOK, map[string]any{"id": c.who.ID, "objectId": c.who.ObjectID, "kind": c.who.Kind,
		"displayName": c.who.Name, "issuer": c.who.Issuer, "tenantId": a.auth.TenantID()})
}

// subject tells the object id of a subject of a foreign issuer.
func (a *Access) subject(c *call) error {
	q := c.r.URL.Query()
	issuer, subject := q.Get("issuer"), q.Get("subject")
	if issuer == "" || subject == "" {
		return arm.Errorf(arm.CodeInvalidParameter, "The query needs an issuer and a subject.")
	}
	return c.reply(http.StatusOK, map[string]any{"issuer": issuer, "subject": subject, "objectId": auth.SubjectID(issuer, subject)})
}

func (a *Access) listPrincipals(c *call) error {
	all, err := a.auth.Principals(c.ctx)
	if err != nil {
		return err
	}
	var items []any
	for _, p := range all {
		items = append(items, principal(p))
	}
	return c.list(items)
}

func principalNotFound(name string) error {
	return arm.Errorf(arm.CodeNotFound, "The service principal '%s' was not found.", clip(name))
}

func (a *Access) getPrincipal(c *call) error { return a.showPrincipal(c, http.StatusOK) }

func (a *Access) showPrincipal(c *call, status int) error {
	p, err := a.auth.ServicePrincipal(c.ctx, c.name)
	if errors.Is(err, store.ErrNotFound) {
		return principalNotFound(c.name)
	}
	if err != nil {
		return err
	}
	return c.reply(status, principal(p))
}

// putPrincipal makes a service principal under a client id of the caller's
// choice, or renames, lets in or keeps out one that is there.
func (a *Access) putPrincipal(c *call) error {
	id, err := guid("client id", c.name)
	if err != nil {
		return err
	}
	var b principalBody
	if err := c.body(&b); err != nil {
		return err
	}
	name := b.Properties.DisplayName
	if name == "" || len(name) > 256 || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return arm.Errorf(arm.CodeValidationFailed, "displayName must be 1 to 256 printable characters.")
	}
	disabled := b.Properties.AccountEnabled != nil && !*b.Properties.AccountEnabled
	err = a.auth.NewPrincipal(c.ctx, id, name, disabled)
	if err == nil {
		return a.showPrincipal(c, http.StatusCreated)
	}
	if !errors.Is(err, store.ErrExists) {
		return translate(err)
	}
	if err := a.mayActAs(c); err != nil {
		return err
	}
	if err := a.auth.Rename(c.ctx, id, name, disabled); err != nil {
		return translate(err)
	}
	return a.showPrincipal(c, http.StatusOK)
}

func (a *Access) deletePrincipal(c *call) error {
	if err := a.mayActAs(c); arm.CodeOf(err) == arm.CodeNotFound {
		c.w.WriteHeader(http.StatusNoContent)
		return nil
	} else if err != nil {
		return err
	}
	err := a.auth.DeletePrincipal(c.ctx, auth.Principal{ID: c.name})
	if errors.Is(err, store.ErrNotFound) {
		c.w.WriteHeader(http.StatusNoContent)
		return nil
	}
	if err != nil {
		return translate(err)
	}
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// mayActAs refuses whoever may do less than the service principal: with its
// credentials in hand he could do more than he may.
func (a *Access) mayActAs(c *call) error {
	p, err := a.auth.ServicePrincipal(c.ctx, c.name)
	if errors.Is(err, store.ErrNotFound) {
		return principalNotFound(c.name)
	}
	if err != nil {
		return err
	}
	theirs, err := a.auth.Assigned(c.ctx, p.ObjectID)
	if err != nil {
		return err
	}
	for _, g := range theirs {
		if !c.rights.Covers(g.Permissions, g.Scope) {
			return arm.Errorf(arm.CodeForbidden, "The client '%s' with object id '%s' cannot manage the service principal '%s': it may do more than the client itself.",
				c.who.ID, c.who.ObjectID, clip(c.name))
		}
	}
	return nil
}

// add checks the caller and adds a credential.
func (a *Access) add(c *call, body any, add func(context.Context) (auth.Credential, string, error)) error {
	if err := c.body(body); err != nil {
		return err
	}
	if err := a.mayActAs(c); err != nil {
		return err
	}
	k, secret, err := add(c.ctx)
	if errors.Is(err, store.ErrNotFound) {
		return principalNotFound(c.name)
	}
	if err != nil {
		return translate(err)
	}
	m := credential(k)
	auth.Note(c.ctx, "keyId", k.ID)
	auth.Note(c.ctx, "kind", k.Kind)
	if secret != "" {
		m["secretText"] = secret // this once
	}
	c.w.Header().Set("Cache-Control", "no-store")
	return c.reply(http.StatusOK, m)
}

func (a *Access) addPassword(c *call) error {
	var b struct {
		DisplayName string     `json:"displayName"`
		EndDateTime *time.Time `json:"endDateTime"`
	}
	return a.add(c, &b, func(ctx context.Context) (auth.Credential, string, error) {
		end := c.now.AddDate(1, 0, 0)
		if b.EndDateTime != nil {
			if end = *b.EndDateTime; end.IsZero() { // what no client may ask for: a secret for ever
				return auth.Credential{}, "", &auth.CredentialError{Problem: "endDateTime is 0001-01-01T00:00:00Z, which is no time: leave it out for one year"}
			}
		}
		return a.auth.AddSecret(ctx, c.name, clip(b.DisplayName), end)
	})
}

func (a *Access) addKey(c *call) error {
	var b struct {
		DisplayName string `json:"displayName"`
		Key         string `json:"key"`
	}
	return a.add(c, &b, func(ctx context.Context) (auth.Credential, string, error) {
		k, err := a.auth.AddCertificate(ctx, c.name, clip(b.DisplayName), b.Key)
		return k, "", err
	})
}

func (a *Access) addSubject(c *call) error {
	var b struct {
		DisplayName string `json:"displayName"`
		Issuer      string `json:"issuer"`
		Subject     string `json:"subject"`
	}
	return a.add(c, &b, func(ctx context.Context) (auth.Credential, string, error) {
		k, err := a.auth.AddFederated(ctx, c.name, clip(b.DisplayName), b.Issuer, b.Subject)
		return k, "", err
	})
}

func (a *Access) removeCredential(c *call) error {
	var b struct {
		KeyID string `json:"keyId"`
	}
	if err := c.body(&b); err != nil {
		return err
	}
	if b.KeyID == "" {
		return arm.Errorf(arm.CodeValidationFailed, "keyId says which credential to remove: GET the service principal for those there are.")
	}
	auth.Note(c.ctx, "keyId", clip(b.KeyID))
	if err := a.mayActAs(c); err != nil {
		return err
	}
	err := a.auth.RemoveCredential(c.ctx, c.name, b.KeyID)
	if errors.Is(err, store.ErrNotFound) {
		return arm.Errorf(arm.CodeNotFound, "The service principal '%s' has no credential '%s'.", clip(c.name), clip(b.KeyID))
	}
	if err != nil {
		return translate(err)
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

package enrolment

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"path"
	"regexp"
	"strings"
	"time"

	"headwater.dev/api/arm"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
)

const (
	// tokens is the family of the records of tokens; the key is the folded id.
	tokens = "/enrolment-tokens"
	// prefix begins the text of every token.
	prefix = "hwe1."
	// defaultLife and maxLife bound how long a token is good.
	defaultLife, maxLife = 24 * time.Hour, 30 * 24 * time.Hour
	// maxUses bounds the clusters that one token lets in.
	maxUses     = 1000
	maxPatterns = 20
)

var properName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// ticket is a token as it is stored: nothing in it lets anybody in.
type ticket struct {
	ID    string `json:"id"`
	Scope string `json:"scope"`
	// Hash is the hex SHA-256 of the token's text.
	Hash        string            `json:"hash"`
	Description string            `json:"description,omitempty"`
	Pattern     string            `json:"pattern,omitempty"`
	Auto        []string          `json:"auto,omitempty"`
	Location    string            `json:"location,omitempty"`
	Tags        map[string]string `json:"tags,omitempty"`
	MaxUses     int               `json:"maxUses"`
	Created     time.Time         `json:"created"`
	Expires     time.Time         `json:"expires"`
	// By made the token; its rules act with his rights.
	By by `json:"by"`
	// GroupSince is when the resource group of its scope was made: a group of the
	// same name that comes later is another one.
	GroupSince time.Time `json:"groupSince,omitzero"`
	// Claims are the uses: the names of the enrolments.
	Claims []string `json:"claims,omitempty"`
}

// by is a principal as it is remembered.
type by struct {
	Kind                       auth.Kind
	ID, ObjectID, Name, Issuer string
}

func remember(p auth.Principal) by { return by{p.Kind, p.ID, p.ObjectID, p.Name, p.Issuer} }

func (b by) principal() auth.Principal {
	return auth.Principal{Kind: b.Kind, ID: b.ID, ObjectID: b.ObjectID, Name: b.Name, Issuer: b.Issuer}
}

func (t ticket) show(now time.Time) map[string]any {
	id, _ := arm.ParseID(t.ID) // it was written from one
	p := map[string]any{"description": t.Description, "clusterNamePattern": t.Pattern, "autoApprove": list(t.Auto), "location": t.Location,
		"tags": t.Tags, "maxUses": t.MaxUses, "uses": len(t.Claims), "createdOn": stamp(t.Created), "expiresOn": stamp(t.Expires),
		"createdBy": t.By.ObjectID, "expired": !now.Before(t.Expires)}
	return map[string]any{"id": t.ID, "name": id.Name(), "type": typeToken, "properties": p}
}

func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

type tokenBody struct {
	Properties struct {
		Description        string            `json:"description"`
		ClusterNamePattern string            `json:"clusterNamePattern"`
		AutoApprove        []string          `json:"autoApprove"`
		Location           string            `json:"location"`
		Tags               map[string]string `json:"tags"`
		MaxUses            int               `json:"maxUses"`
		ExpiresOn          *time.Time        `json:"expiresOn"`
	} `json:"properties"`
}

// putToken makes a token and tells its text, this once.
func (d *Desk) putToken(c *call) error {
	if !properName.MatchString(c.name) {
		return arm.Errorf(arm.CodeInvalidParameter, "The name '%s' of the enrolment token is not valid: use up to 63 letters, digits, '-', '_' and '.', beginning with a letter or digit.", clip(c.name))
	}
	var body tokenBody
	if err := c.body(&body); err != nil {
		return err
	}
	t, err := d.issue(c, body)
	if err != nil {
		return err
	}
	text, err := seal(&t)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(t)
	if err != nil {
		return err
	}
	_, err = d.store.Put(c.ctx, store.Put{Key: tokens + arm.Fold(t.ID), Value: raw, TTL: t.Expires.Sub(c.now) + time.Hour})
	if errors.Is(err, store.ErrExists) {
		return arm.Errorf(arm.CodeConflict, "The enrolment token '%s' exists already, and tokens do not change: delete it, or choose another name.", c.name)
	}
	if err != nil {
		return err
	}
	m := t.show(c.now)
	m["properties"].(map[string]any)["token"] = text
	return c.reply(http.StatusCreated, m)
}

// issue checks what is asked for. Nobody lets in whom he could not connect
// himself.
func (d *Desk) issue(c *call, body tokenBody) (ticket, error) {
	if !c.rights.Allows(makeClusters, c.scope) {
		return ticket{}, auth.Forbid(c.who, makeClusters, c.scope)
	}
	p := body.Properties
	t := ticket{ID: c.id(), Scope: c.scope, Description: p.Description, Pattern: p.ClusterNamePattern, Auto: p.AutoApprove, Location: p.Location,
		Tags: p.Tags, MaxUses: p.MaxUses, Created: c.now, Expires: c.now.Add(defaultLife), By: remember(c.who)}
	if len(t.Auto) > 0 && !c.rights.Allows(typeEnrolment+"/approve/action", c.scope) {
		return ticket{}, auth.Forbid(c.who, typeEnrolment+"/approve/action", c.scope)
	}
	if t.MaxUses == 0 {
		t.MaxUses = 1
	}
	if p.ExpiresOn != nil {
		t.Expires = p.ExpiresOn.UTC()
	}
	if err := t.check(c.now); err != nil {
		return ticket{}, err
	}
	g, err := d.scope(c.ctx, c.scope)
	if err != nil {
		return ticket{}, err
	}
	t.GroupSince = g
	n := 0
	_, err = store.Each(c.ctx, d.store, tokens+"/", func(store.Record) error { n++; return nil })
	if err == nil && n >= maxTokens {
		err = arm.Errorf(arm.CodeLimitReached, "There are %d enrolment tokens already: delete those that are no longer needed.", n)
	}
	return t, err
}

func (t ticket) check(now time.Time) error {
	invalid := func(field, format string, args ...any) error {
		e := arm.Errorf(arm.CodeValidationFailed, "The enrolment token is not valid: "+field+" "+format+".", args...)
		e.Target = field
		return e
	}
	if life := t.Expires.Sub(now); life <= 0 || life > maxLife {
		return invalid("properties.expiresOn", "must be after now and within 30 days")
	}
	if t.MaxUses < 1 || t.MaxUses > maxUses {
		return invalid("properties.maxUses", "must be between 1 and %d", maxUses)
	}
	if len(t.Description) > 200 {
		return invalid("properties.description", "has more than 200 bytes")
	}
	if len(t.Location) > 90 {
		return invalid("properties.location", "has more than 90 bytes")
	}
	if len(t.Auto) > maxPatterns {
		return invalid("properties.autoApprove", "has more than %d patterns", maxPatterns)
	}
	if len(t.Tags) > 15 {
		return invalid("properties.tags", "has more than 15 tags")
	}
	for k, v := range t.Tags {
		if k == "" || len(k) > 512 || len(v) > 256 {
			return invalid("properties.tags", "has a name that is empty or longer than 512 bytes, or a value longer than 256")
		}
	}
	if !proper(t.Pattern) {
		return invalid("properties.clusterNamePattern", "is no pattern such as edge-*")
	}
	for _, p := range t.Auto {
		if p == "" || !proper(p) {
			return invalid("properties.autoApprove", "holds something that is no pattern such as edge-*")
		}
	}
	return nil
}

func proper(pattern string) bool {
	_, err := path.Match(pattern, "x")
	return err == nil && len(pattern) <= 100
}

// scope tells when the resource group of a scope was made; it must be there.
func (d *Desk) scope(ctx context.Context, scope string) (since time.Time, err error) {
	id, err := arm.ParseID(scope)
	if err != nil {
		return since, err
	}
	r, err := d.store.Get(ctx, id.Key())
	if missing(err) && id.ResourceGroup() != "" {
		return since, arm.Errorf(arm.CodeGroupNotFound, "Resource group '%s' could not be found.", id.ResourceGroup())
	}
	if missing(err) {
		return since, arm.Errorf(arm.CodeSubscriptionNotFound, "The subscription '%s' could not be found.", id.Subscription())
	}
	if err != nil || id.ResourceGroup() == "" {
		return since, err
	}
	var group struct {
		SystemData struct{ CreatedAt time.Time }
		Deleting   bool
	}
	if err := json.Unmarshal(r.Desired, &group); err != nil {
		return since, err
	}
	if group.Deleting {
		return since, arm.Errorf(arm.CodeGroupBeingDeleted, "Resource group '%s' is being deleted.", id.ResourceGroup())
	}
	return group.SystemData.CreatedAt, nil
}

// seal gives a ticket its secret: the answer is the token's text, which says
// which ticket it is for, and 256 random bits.
func seal(t *ticket) (string, error) {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // it never fails
	text := prefix + base64.RawURLEncoding.EncodeToString([]byte(arm.Fold(t.ID))) + "." + base64.RawURLEncoding.EncodeToString(secret[:])
	t.Hash = hash(text)
	return text, nil
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// find answers the key and the ticket of a token's text. Whoever does not hold a
// token learns nothing, not even whether there is one of that name.
func (d *Desk) find(ctx context.Context, text string) (string, ticket, error) {
	stranger := refuse(http.StatusUnauthorized, "EnrolmentTokenInvalid", "the enrolment token is not valid, or is no longer")
	rest, ok := strings.CutPrefix(text, prefix)
	name, _, dot := strings.Cut(rest, ".")
	id, err := base64.RawURLEncoding.DecodeString(name)
	if !ok || !dot || err != nil || len(id) == 0 || id[0] != '/' {
		return "", ticket{}, stranger
	}
	key := tokens + string(id)
	r, err := d.store.Get(ctx, key)
	if missing(err) {
		return "", ticket{}, stranger
	}
	if err != nil {
		return "", ticket{}, err
	}
	var t ticket
	if err := json.Unmarshal(r.Desired, &t); err != nil {
		return "", ticket{}, err
	}
	if subtle.ConstantTimeCompare([]byte(t.Hash), []byte(hash(text))) != 1 {
		return "", ticket{}, stranger
	}
	if !d.clock().Before(t.Expires) {
		return "", ticket{}, refuse(http.StatusUnauthorized, "EnrolmentTokenExpired", "the enrolment token has expired: have a new one made")
	}
	return key, t, nil
}

func (d *Desk) listTokens(c *call) error {
	return d.list(c, tokens, typeToken+"/read", func(r store.Record) (map[string]any, error) {
		var t ticket
		err := json.Unmarshal(r.Desired, &t)
		return t.show(c.now), err
	})
}

func (d *Desk) getToken(c *call) error {
	var t ticket
	r, err := d.store.Get(c.ctx, tokens+arm.Fold(c.id()))
	if missing(err) {
		return arm.Errorf(arm.CodeNotFound, "The enrolment token '%s' was not found.", clip(c.name))
	}
	if err == nil {
		err = json.Unmarshal(r.Desired, &t)
	}
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, t.show(c.now))
}

// deleteToken revokes a token: nobody new comes in with it. What was let in stays.
func (d *Desk) deleteToken(c *call) error {
	err := d.store.Delete(c.ctx, tokens+arm.Fold(c.id()), store.AnyRevision)
	switch {
	case missing(err):
		c.w.WriteHeader(http.StatusNoContent)
	case err != nil:
		return err
	default:
		c.w.WriteHeader(http.StatusOK)
	}
	return nil
}

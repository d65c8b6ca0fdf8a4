package auth

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"golang.org/x/time/rate"

	"headwater.dev/hub/store"
)

const (
	// assertionType is the only kind of client assertion.
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	// assertionLife is the longest life that an assertion may have: those of the
	// clients' libraries live for ten minutes.
	assertionLife = time.Hour
	// assertionsUsed is the family of the records of assertions that were used.
	assertionsUsed = "/client-assertions/"
	// maxAssertionID bounds a jti, in bytes.
	maxAssertionID = 256
	// assertionReuse is how long the address that used an assertion first may use
	// it again: a client whose answer was lost does, and Microsoft's library for
	// Python signs in with one assertion for nine minutes.
	assertionReuse = 10 * time.Minute
	// assertionEvery and assertionBurst bound how many assertions of one client
	// are remembered: each is a record until it expires.
	assertionEvery = time.Second
	assertionBurst = 120
	// maxAsserting bounds how many clients are counted.
	maxAsserting = 10_000
)

var (
	errAssertionTime  = errors.New("assertion is not within its time")
	errAssertionID    = errors.New("assertion has no id")
	errReplayed       = errors.New("assertion was used before")
	errManyAssertions = errors.New("too many assertions")
)

// assertionAlgorithms are those of certificates.
func assertionAlgorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256, jose.ES384, jose.ES512}
}

// loginAssertion checks a client's signed assertion: one of its own, signed with
// the key of one of its certificates, or a token of a configured issuer for a
// subject that may sign in as the client.
func (a *Auth) loginAssertion(ctx context.Context, g given, from string) (principalRecord, error) {
	clientID, assertion := g.client, g.assertion
	if len(assertion) > maxToken {
		return principalRecord{}, errBadSecret
	}
	p, _, err := a.principal(ctx, clientID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return p, errStore("look a client up", err)
	}
	if i := a.issuerOf(assertion); i != nil {
		err = a.checkFederated(ctx, i, p, assertion)
	} else {
		err = a.checkCertificate(ctx, p, g, from)
	}
	switch {
	case err != nil:
		return principalRecord{}, err
	case p.Disabled:
		return principalRecord{}, errDisabled
	}
	return p, nil
}

func (a *Auth) checkFederated(ctx context.Context, i *issuer, p principalRecord, assertion string) error {
	s, err := i.verify(ctx, assertion)
	var denial *Denial
	if errors.As(err, &denial) {
		return errBadSecret
	}
	if err != nil {
		return err
	}
	for _, f := range p.Federated {
		if f.Issuer == s.issuer && f.Subject == s.subject {
			return nil
		}
	}
	return errBadSecret
}

func (a *Auth) checkCertificate(ctx context.Context, p principalRecord, g given, from string) error {
	parsed, err := jwt.ParseSigned(g.assertion, assertionAlgorithms())
	if err != nil || len(parsed.Headers) != 1 {
		return errBadSecret
	}
	x5t, _ := parsed.Headers[0].ExtraHeaders["x5t"].(string)
	x5tS256, _ := parsed.Headers[0].ExtraHeaders["x5t#S256"].(string)
	for _, c := range p.Certificates {
		if !c.names(x5t, x5tS256) {
			continue
		}
		certificate, err := x509.ParseCertificate(c.DER)
		if err != nil {
			return errBadSecret
		}
		var claims jwt.Claims
		if parsed.Claims(certificate.PublicKey, &claims) != nil {
			return errBadSecret
		}
		if !a.clock().Before(c.Expires) || a.clock().Before(certificate.NotBefore.Add(-Skew)) {
			return errExpiredSecret
		}
		if err := a.checkAssertion(claims, g.client); err != nil || p.Disabled {
			return err
		}
		return a.first(ctx, p.ClientID, claims, from)
	}
	return errBadSecret
}

// checkAssertion looks whether an assertion is by and about the client, for
// this directory, and of now.
func (a *Auth) checkAssertion(c jwt.Claims, clientID string) error {
	if !strings.EqualFold(c.Issuer, clientID) || !strings.EqualFold(c.Subject, clientID) || c.Expiry == nil {
		return errBadSecret
	}
	if len(c.Audience) != 1 || !a.ownEndpoint(c.Audience[0]) {
		return errBadSecret
	}
	now := a.clock()
	if c.Expiry.Time().Sub(now) > assertionLife+Skew || c.ValidateWithLeeway(jwt.Expected{Time: now}, Skew) != nil {
		return errAssertionTime
	}
	if c.ID == "" || len(c.ID) > maxAssertionID {
		return errAssertionID
	}
	return nil
}

// ownEndpoint reports whether an assertion's audience is this directory's token
// endpoint or issuer.
func (a *Auth) ownEndpoint(audience string) bool {
	rest, ok := strings.CutPrefix(strings.ToLower(audience), strings.ToLower(a.url)+"/")
	if !ok {
		return false
	}
	tenant, rest, _ := strings.Cut(rest, "/")
	return a.isTenant(tenant) && (rest == "oauth2/v2.0/token" || rest == "oauth2/token" || rest == "v2.0" || rest == "")
}

// given is how a client says who it is.
type given struct{ client, secret, assertion string }

// credentials come with the form or as basic authentication, never both, as a
// secret or as an assertion, never both.
func credentials(r *http.Request) (given, bool) {
	form := r.PostForm
	g := given{form.Get("client_id"), form.Get("client_secret"), form.Get("client_assertion")}
	user, password, basic := r.BasicAuth()
	if basic {
		u, err := url.QueryUnescape(user) // RFC 6749 has the parts encoded so
		s, err2 := url.QueryUnescape(password)
		if err != nil || err2 != nil || g.secret != "" || g.assertion != "" || g.client != "" && g.client != u {
			return given{}, false
		}
		g.client, g.secret = u, s
	}
	if g.assertion != "" && (g.secret != "" || form.Get("client_assertion_type") != assertionType) {
		return given{}, false
	}
	return g, g.client != "" && (g.secret != "" || g.assertion != "")
}

// use is what is remembered of an assertion.
type use struct {
	Client  string    `json:"client"`
	From    string    `json:"from"`
	At      time.Time `json:"at"`
	Expires time.Time `json:"expires"`
}

// first remembers an assertion that is good until it expires, whichever replica
// sees it, and refuses one that was used before: but for the address that did so,
// for ten minutes.
func (a *Auth) first(ctx context.Context, client string, c jwt.Claims, from string) error {
	sum := sha256.Sum256([]byte(client + "\n" + c.ID))
	key := assertionsUsed + hex.EncodeToString(sum[:])
	now := a.clock()
	r, err := a.store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		if !a.asserted.room(client, now) {
			return errManyAssertions
		}
		value, err := json.Marshal(use{Client: client, From: from, At: now.UTC(), Expires: c.Expiry.Time().UTC()})
		if err != nil {
			return err
		}
		_, err = a.store.Put(ctx, store.Put{Key: key, Value: value, TTL: c.Expiry.Time().Sub(now) + 3*Skew})
		if !errors.Is(err, store.ErrExists) {
			return err
		}
		r, err = a.store.Get(ctx, key)
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	var was use
	if err := json.Unmarshal(r.Desired, &was); err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	if was.From != from || now.Sub(was.At) > assertionReuse || was.At.Sub(now) > Skew {
		return errReplayed
	}
	return nil
}

// asserted counts the new assertions of each client.
type asserted struct {
	mu   sync.Mutex
	seen map[string]*rate.Limiter
}

// room reports whether one more assertion of a client is remembered.
func (a *asserted) room(client string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	l, ok := a.seen[client]
	if !ok {
		if a.seen == nil || len(a.seen) >= maxAsserting {
			a.seen = map[string]*rate.Limiter{}
		}
		l = rate.NewLimiter(rate.Every(assertionEvery), assertionBurst)
		a.seen[client] = l
	}
	return l.AllowN(now, 1)
}

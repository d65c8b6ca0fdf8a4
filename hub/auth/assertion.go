package auth

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"headwater.dev/hub/store"
)

const (
	// assertionType is the only kind of client assertion.
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	// assertionLife is the longest life that an assertion may have.
	assertionLife = 24 * time.Hour
)

// assertionAlgorithms are those of certificates.
func assertionAlgorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256, jose.ES384, jose.ES512}
}

// loginAssertion checks a client's signed assertion: one of its own, signed with
// the key of one of its certificates, or a token of a configured issuer for a
// subject that may sign in as the client.
func (a *Auth) loginAssertion(ctx context.Context, clientID, assertion string) (principalRecord, error) {
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
		err = a.checkCertificate(p, clientID, assertion)
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

func (a *Auth) checkCertificate(p principalRecord, clientID, assertion string) error {
	parsed, err := jwt.ParseSigned(assertion, assertionAlgorithms())
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
		return a.checkAssertion(claims, clientID)
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
	if c.Expiry.Time().Sub(now) > assertionLife || c.ValidateWithLeeway(jwt.Expected{Time: now}, Skew) != nil {
		return errBadSecret
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

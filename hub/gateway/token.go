package gateway

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"headwater.dev/api/link"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
)

const (
	// maxForm bounds a token request, in bytes.
	maxForm = 16 << 10
	// maxAssertion is how far ahead an assertion may expire.
	maxAssertion = 5 * time.Minute
	// maxAssertionID bounds a jti, in bytes.
	maxAssertionID = 128
	// assertions is the family of the records of used assertions.
	assertions = "/agent-assertions/"
)

// oauthError is a refusal in the words of OAuth 2.
func oauthError(w http.ResponseWriter, status int, code, description string) {
	answer(w, status, map[string]string{"error": code, "error_description": description})
}

// serveToken gives an agent a token for an assertion signed with its cluster's
// key.
func (g *Gateway) serveToken(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readPatience)) // else the server's own limit
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		g.metrics.tokens.WithLabelValues("malformed").Inc()
		oauthError(w, http.StatusBadRequest, "invalid_request", "the body is not a form of at most 16 KiB")
		return
	}
	if r.PostForm.Get("grant_type") != "client_credentials" || r.PostForm.Get("client_assertion_type") != link.ClientAssertionType {
		g.metrics.tokens.WithLabelValues("malformed").Inc()
		oauthError(w, http.StatusBadRequest, "unsupported_grant_type", "use grant_type client_credentials with client_assertion_type "+link.ClientAssertionType)
		return
	}
	c, _, err := g.admit(r, r.PostForm.Get("client_assertion"), g.audience)
	var known *refusal
	switch {
	case errors.As(err, &known):
		g.metrics.tokens.WithLabelValues("refused").Inc()
		g.log.Warn("agent refused", "reason", known.message, "from", r.RemoteAddr)
		known.wait(w)
		oauthError(w, known.status, known.code, known.message)
		return
	case err != nil:
		g.metrics.tokens.WithLabelValues("failed").Inc()
		g.problem(w, r, err)
		return
	}
	token, life, err := g.auth.IssueAgent(c.record.Key, c.fingerprint)
	if err != nil {
		g.metrics.tokens.WithLabelValues("failed").Inc()
		g.problem(w, r, err)
		return
	}
	g.metrics.tokens.WithLabelValues("granted").Inc()
	answer(w, http.StatusOK, link.Token{AccessToken: token, TokenType: "Bearer", ExpiresIn: int64(life / time.Second)})
}

func refuseAssertion(message string) error {
	return &refusal{status: http.StatusUnauthorized, code: "invalid_client", message: message}
}

// stranger is the refusal of somebody who holds no key of the cluster that he
// names. He learns nothing, not even whether the cluster exists.
func stranger() error {
	return &refusal{status: http.StatusUnauthorized, code: "invalid_client", stranger: true,
		message: "the cluster is not registered, or the assertion is not signed with its key"}
}

// assertion is what somebody says of himself, before it is believed.
type assertion struct {
	token  *jwt.JSONWebToken
	claims jwt.Claims
	// nextKey is the fingerprint of the key that a Handover is about.
	nextKey string
	// cluster is the key of the cluster's record.
	cluster string
}

// readAssertion takes an assertion apart.
func readAssertion(text string) (assertion, error) {
	token, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return assertion{}, stranger()
	}
	a := assertion{token: token}
	var more struct {
		NextKey string `json:"nky"`
	}
	if err := token.UnsafeClaimsWithoutVerification(&a.claims, &more); err != nil {
		return assertion{}, stranger()
	}
	a.nextKey = more.NextKey
	if a.cluster, err = parseID(a.claims.Issuer); err != nil {
		return assertion{}, stranger()
	}
	return a, nil
}

// signedWith reports whether the assertion is the key's owner's.
func (a assertion) signedWith(key *rsa.PublicKey) bool {
	return key != nil && a.token.Claims(key) == nil
}

// admit proves an assertion when there is a place to do so. Those who were let in
// before come first; of the others, an address may fail so often only.
func (g *Gateway) admit(r *http.Request, text, audience string) (cluster, assertion, error) {
	address := auth.Address(r)
	a, err := readAssertion(text)
	known := err == nil && g.known.knows(a)
	if !known {
		if err := g.strangers.room(address); err != nil {
			return cluster{}, a, err
		}
	}
	var c cluster
	if err == nil {
		c, err = g.place(r, a, audience, known)
	}
	var refused *refusal
	switch {
	case err == nil:
		g.known.note(a.cluster, c.key)
	case errors.As(err, &refused) && refused.status == http.StatusUnauthorized && known:
		g.known.forget(a.cluster)
	case errors.As(err, &refused) && refused.stranger:
		g.strangers.charge(address)
	}
	return c, a, err
}

// place proves an assertion in a place for it.
func (g *Gateway) place(r *http.Request, a assertion, audience string, known bool) (cluster, error) {
	leave, err := g.admission.enter(r.Context(), known)
	if err != nil {
		return cluster{}, err
	}
	defer leave()
	return g.prove(r.Context(), a, audience)
}

// prove answers the cluster whose key signed the assertion.
func (g *Gateway) prove(ctx context.Context, a assertion, audience string) (cluster, error) {
	c, err := g.cluster(ctx, a.cluster)
	if errors.Is(err, errNoCluster) {
		return cluster{}, stranger()
	}
	if err != nil {
		return cluster{}, err
	}
	with := c.signer(a)
	if with == noKey {
		return cluster{}, stranger()
	}
	if err := g.checkClaims(a.claims, a.cluster, audience); err != nil {
		return cluster{}, err
	}
	if c.observed.Duplicated(c.fingerprint) {
		return cluster{}, errDuplicate()
	}
	// Before anything is written: whoever has the key may not fill the store.
	if err := g.quotas.allow(a.cluster, tokenQuota, 1); err != nil {
		return cluster{}, err
	}
	if err := g.once(ctx, a.cluster, a.claims); err != nil {
		return cluster{}, err
	}
	switch {
	case with == formerKey:
		return cluster{}, g.kept(ctx, c)
	case with == nextKey && audience == g.audience:
		return g.promote(ctx, c)
	case with == nextKey:
		return cluster{}, refuseAssertion("the key was introduced already: use it")
	}
	return c, nil
}

// checkClaims looks at an assertion whose signature is good.
func (g *Gateway) checkClaims(claims jwt.Claims, key, audience string) error {
	now := g.clock()
	subject, err := parseID(claims.Subject)
	switch {
	case err != nil || subject != key:
		return refuseAssertion("the assertion's subject is not its issuer")
	case len(claims.Audience) != 1 || claims.Audience[0] != audience:
		return refuseAssertion("the assertion is for another audience than " + audience)
	case claims.ID == "" || len(claims.ID) > maxAssertionID:
		return refuseAssertion("the assertion has no jti, or one that is too long")
	case claims.Expiry == nil || now.After(claims.Expiry.Time().Add(auth.Skew)):
		return refuseAssertion("the assertion has expired; compare the clocks")
	case claims.Expiry.Time().After(now.Add(maxAssertion + auth.Skew)):
		return refuseAssertion("the assertion is good for more than five minutes; compare the clocks")
	case claims.NotBefore != nil && claims.NotBefore.Time().After(now.Add(auth.Skew)):
		return refuseAssertion("the assertion is not valid yet; compare the clocks")
	}
	return nil
}

// once lets an assertion through one single time, whichever replica sees it.
func (g *Gateway) once(ctx context.Context, key string, claims jwt.Claims) error {
	sum := sha256.Sum256([]byte(key + "\n" + claims.ID))
	value, err := json.Marshal(map[string]any{"cluster": key, "expires": claims.Expiry.Time().UTC()})
	if err != nil {
		return err
	}
	_, err = g.store.Put(ctx, store.Put{
		Key:   assertions + hex.EncodeToString(sum[:]),
		Value: value,
		TTL:   maxAssertion + 3*auth.Skew,
	})
	if errors.Is(err, store.ErrExists) {
		return refuseAssertion("the assertion was used before")
	}
	return err
}

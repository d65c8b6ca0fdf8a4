package uplink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"headwater.dev/api/link"
)

// assertionLife is how long an assertion may be used; the hub takes no more
// than five minutes.
const assertionLife = 4 * time.Minute

// maxAnswer bounds what is read of a short answer.
const maxAnswer = 64 << 10

// tokens gets access tokens with the cluster's key and keeps the newest.
type tokens struct {
	up *Uplink

	mu      sync.Mutex
	access  string
	renewAt time.Time
	// skew is how far the hub's clock is ahead of ours, learned from a refusal.
	// Without it a cluster with a wrong clock could never connect.
	skew time.Duration
}

func newTokens(u *Uplink) *tokens { return &tokens{up: u} }

// get returns a token that is good for at least a few requests.
func (t *tokens) get(ctx context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.access != "" && time.Now().Before(t.renewAt) {
		return t.access, nil
	}
	token, err := t.request(ctx)
	var refused *refusal
	if errors.As(err, &refused) && t.learnSkew(refused) {
		token, err = t.request(ctx)
	}
	if err != nil {
		return "", fmt.Errorf("get a token from the hub: %w", err)
	}
	t.access = token.AccessToken
	t.renewAt = time.Now().Add(time.Duration(token.ExpiresIn) * time.Second * 4 / 5)
	return t.access, nil
}

// drop forgets a token that the hub refused, so that the next get asks anew.
func (t *tokens) drop(access string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.access == access {
		t.access = ""
	}
}

// learnSkew reports whether the refusal may come from a wrong clock and the
// assertion is worth another try.
func (t *tokens) learnSkew(r *refusal) bool {
	if r.date.IsZero() {
		return false
	}
	skew := time.Until(r.date)
	if diff := skew - t.skew; diff.Abs() < time.Minute {
		return false
	}
	t.skew = skew
	t.up.config.Log.Info("the hub's clock differs from this cluster's", "ahead", skew.Round(time.Second).String())
	return true
}

func (t *tokens) request(ctx context.Context) (link.Token, error) {
	assertion, err := t.assertion()
	if err != nil {
		return link.Token{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, t.up.timing.request)
	defer cancel()
	form := url.Values{
		"grant_type":            {"client_credentials"},
		"client_assertion_type": {link.ClientAssertionType},
		"client_assertion":      {assertion},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.up.url(link.PathToken), strings.NewReader(form.Encode()))
	if err != nil {
		return link.Token{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := t.up.http.Do(req)
	if err != nil {
		return link.Token{}, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return link.Token{}, newRefusal(res)
	}
	var token link.Token
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&token); err != nil {
		return link.Token{}, fmt.Errorf("read the token: %w", err)
	}
	if token.AccessToken == "" {
		return link.Token{}, errors.New("the answer holds no token")
	}
	return token, nil
}

// assertion proves that this is the cluster: it is signed by the key whose
// public half is in the cluster's record, for this hub only, used once.
func (t *tokens) assertion() (string, error) {
	now := time.Now().Add(t.skew)
	claims := jwt.RegisteredClaims{
		Issuer:    t.up.config.Cluster,
		Subject:   t.up.config.Cluster,
		Audience:  jwt.ClaimStrings{t.up.url(link.PathToken)},
		ID:        uuid.NewString(),
		IssuedAt:  jwt.NewNumericDate(now),
		ExpiresAt: jwt.NewNumericDate(now.Add(assertionLife)),
	}
	signed, err := jwt.NewWithClaims(jwt.SigningMethodRS256, claims).SignedString(t.up.config.Key)
	if err != nil {
		return "", fmt.Errorf("sign the assertion: %w", err)
	}
	return signed, nil
}

func (u *Uplink) url(path string) string { return u.hub.String() + path }

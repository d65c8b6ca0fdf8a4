package uplink

import (
	"context"
	"crypto/rsa"
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

// tokens gets access tokens with the cluster's key and keeps the newest. Whoever
// needs one while it is asked for waits for the same answer.
type tokens struct {
	up *Uplink

	mu      sync.Mutex
	access  string
	renewAt time.Time
	// asking is the request under way; nil for none.
	asking *asking
	// notBefore is until when the hub asked to wait, when it said why.
	notBefore time.Time
	why       error

	// What follows is touched by the one request under way only.

	// skew is how far the hub's clock is ahead of ours, learned from a refusal.
	// Without it a cluster with a wrong clock could never connect.
	skew time.Duration
	// untold is a next key that the hub cannot know; nil for none.
	untold *rsa.PrivateKey
	// formerAt is when former keys were tried last.
	formerAt time.Time
}

// asking is a request for a token that some wait for.
type asking struct {
	done   chan struct{}
	access string
	err    error
}

func newTokens(u *Uplink) *tokens { return &tokens{up: u} }

// get returns a token that is good for at least a few requests.
func (t *tokens) get(ctx context.Context) (string, error) {
	for {
		t.mu.Lock()
		now := time.Now()
		switch {
		case t.access != "" && now.Before(t.renewAt):
			defer t.mu.Unlock()
			return t.access, nil
		case now.Before(t.notBefore):
			defer t.mu.Unlock()
			return "", t.why
		case t.asking == nil:
			t.asking = &asking{done: make(chan struct{})}
			a := t.asking
			t.mu.Unlock()
			return t.ask(ctx, a)
		}
		a := t.asking
		t.mu.Unlock()
		select {
		case <-a.done:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		if !errors.Is(a.err, context.Canceled) && !errors.Is(a.err, context.DeadlineExceeded) { // of whoever asked
			return a.access, a.err
		}
	}
}

// ask asks the hub, for all who wait.
func (t *tokens) ask(ctx context.Context, a *asking) (string, error) {
	token, err := t.grant(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		a.err = fmt.Errorf("get a token from the hub: %w", err)
		var r *refusal
		if errors.As(err, &r) && r.after > 0 {
			t.notBefore, t.why = time.Now().Add(r.after), a.err
		}
	} else {
		a.access = token.AccessToken
		t.access, t.renewAt = a.access, time.Now().Add(time.Duration(token.ExpiresIn)*time.Second*4/5)
	}
	t.asking = nil
	close(a.done)
	return a.access, a.err
}

// renew makes the next get move on to a next key, which the hub cannot know when
// it is fresh.
func (t *tokens) renew(next *rsa.PrivateKey, fresh bool) {
	for {
		t.mu.Lock()
		a := t.asking
		if a == nil {
			t.access = ""
			if fresh {
				t.untold = next
			}
			t.mu.Unlock()
			return
		}
		t.mu.Unlock()
		<-a.done
	}
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

// request asks for a token with a key, and once more when the clocks seem to
// differ.
func (t *tokens) request(ctx context.Context, key *rsa.PrivateKey) (link.Token, error) {
	token, err := t.requestOnce(ctx, key)
	var refused *refusal
	if errors.As(err, &refused) && t.learnSkew(refused) {
		token, err = t.requestOnce(ctx, key)
	}
	return token, err
}

func (t *tokens) requestOnce(ctx context.Context, key *rsa.PrivateKey) (link.Token, error) {
	assertion, err := t.assertion(key)
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
// public half the hub knows, for this hub only, used once.
func (t *tokens) assertion(key *rsa.PrivateKey) (string, error) {
	signed, err := jwt.NewWithClaims(jwt.SigningMethodRS256, t.claims(link.PathToken, uuid.NewString())).SignedString(key)
	if err != nil {
		return "", fmt.Errorf("sign the assertion: %w", err)
	}
	return signed, nil
}

// claims are those of an assertion for one of the hub's paths.
func (t *tokens) claims(path, id string) jwt.RegisteredClaims {
	now := time.Now().Add(t.skew)
	return jwt.RegisteredClaims{
		Issuer:    t.up.config.Cluster,
		Subject:   t.up.config.Cluster,
		Audience:  jwt.ClaimStrings{t.up.url(path)},
		ID:        id,
		IssuedAt:  jwt.NewNumericDate(now),
		ExpiresAt: jwt.NewNumericDate(now.Add(assertionLife)),
	}
}

func (u *Uplink) url(path string) string { return u.hub.String() + path }

// Package githubapp gets tokens of GitHub Apps for reading repositories.
//
// An app proves itself with a short-lived JWT that its private key signs, and is
// given a token for one installation of it, which is good for about an hour and
// is kept until shortly before its end.
package githubapp

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"headwater.dev/kernel/git"
)

// The keys of the Secret of an app.
const (
	keyID           = "githubAppID"
	keyInstallation = "githubAppInstallationID"
	keyOwner        = "githubAppInstallationOwner"
	keyPrivateKey   = "githubAppPrivateKey"
	keyBaseURL      = "githubAppBaseURL"
)

// Username is the user name that goes with a token as the password.
const Username = "x-access-token"

const (
	publicAPI = "https://api.github.com"
	maxAnswer = 1 << 20
	// spare is how long before its end a token is replaced, and maxTokens how
	// many are kept.
	spare     = 5 * time.Minute
	maxTokens = 1000
)

var (
	// ErrIncomplete says that the app's data cannot be used; it names the key.
	ErrIncomplete = errors.New("incomplete GitHub App data")
	// ErrRefused says that GitHub gave no token.
	ErrRefused = errors.New("GitHub gave no token")
)

// App is an app, where it is installed, and how to reach GitHub.
type App struct {
	id, installation, owner string
	key                     *rsa.PrivateKey
	api                     *url.URL
	identity                [32]byte
	// CA is PEM, for a GitHub Enterprise Server of one's own; nil means the
	// system's authorities. A nil Proxy means the environment's.
	CA    []byte
	Proxy *url.URL
	// LoopbackProxy lets Proxy be on this machine.
	LoopbackProxy bool
}

// Present reports whether data is that of an app.
func Present(data map[string][]byte) bool { return len(data[keyID]) > 0 }

// Parse reads the app from the data of a Secret. Its errors name the key and
// never repeat a value.
func Parse(data map[string][]byte) (App, error) {
	get := func(key string) string { return strings.TrimSpace(string(data[key])) }
	a := App{id: get(keyID), installation: get(keyInstallation), owner: get(keyOwner)}
	if _, err := strconv.ParseUint(a.id, 10, 63); err != nil {
		return a, fmt.Errorf("%w: %s must be the number of the app", ErrIncomplete, keyID)
	}
	if (a.installation == "") == (a.owner == "") {
		return a, fmt.Errorf("%w: set one of %s and %s", ErrIncomplete, keyInstallation, keyOwner)
	}
	if _, err := strconv.ParseUint(a.installation, 10, 63); err != nil && a.owner == "" {
		return a, fmt.Errorf("%w: %s must be the number of the installation", ErrIncomplete, keyInstallation)
	}
	var err error
	if a.key, err = parseKey(data[keyPrivateKey]); err != nil {
		return a, fmt.Errorf("%w: %s must be the PEM of an RSA private key", ErrIncomplete, keyPrivateKey)
	}
	base := get(keyBaseURL)
	if base == "" {
		base = publicAPI
	}
	a.api, err = url.Parse(strings.TrimSuffix(base, "/"))
	if err != nil || a.api.Scheme != "https" || a.api.Host == "" || a.api.User != nil || a.api.RawQuery != "" {
		return a, fmt.Errorf("%w: %s must be the https URL of the API, such as https://github.example.com/api/v3", ErrIncomplete, keyBaseURL)
	}
	h := sha256.New()
	for _, part := range []string{a.id, a.installation, a.owner, a.api.String(), string(data[keyPrivateKey])} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	a.identity = [32]byte(h.Sum(nil))
	return a, nil
}

func parseKey(data []byte) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, ErrIncomplete
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	if k, ok := key.(*rsa.PrivateKey); ok {
		return k, nil
	}
	return nil, ErrIncomplete
}

// Tokens keeps the tokens of apps. Its methods may be called at the same time;
// those who want the same token at once wait for one request.
type Tokens struct {
	now  func() time.Time
	mu   sync.Mutex
	kept map[[32]byte]*slot
}

type slot struct {
	lock    chan struct{}
	token   string
	expires time.Time
}

// NewTokens keeps nothing yet; now is the clock.
func NewTokens(now func() time.Time) *Tokens {
	return &Tokens{now: now, kept: map[[32]byte]*slot{}}
}

// Get gives a token that is good for some minutes at least.
func (t *Tokens) Get(ctx context.Context, a App) (string, error) {
	s := t.slot(a)
	select {
	case s.lock <- struct{}{}:
		defer func() { <-s.lock }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if s.token != "" && t.now().Add(spare).Before(s.expires) {
		return s.token, nil
	}
	token, expires, err := a.request(ctx, t.now())
	if err != nil {
		return "", err
	}
	s.token, s.expires = token, expires
	return token, nil
}

// Forget drops the token of an app: a server refused it before its time.
func (t *Tokens) Forget(a App) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.kept, a.key32())
}

// Principal names the installation of the app, without revealing anything.
func (a App) Principal() string { return hex.EncodeToString(a.identity[:]) }

// key32 tells apps and the ways to them apart.
func (a App) key32() [32]byte {
	proxy := ""
	if a.Proxy != nil {
		proxy = a.Proxy.String()
	}
	return sha256.Sum256(fmt.Appendf(nil, "%x\n%s\n%s", a.identity, a.CA, proxy))
}

func (t *Tokens) slot(a App) *slot {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := a.key32()
	s := t.kept[key]
	if s == nil {
		if len(t.kept) >= maxTokens {
			clear(t.kept)
		}
		s = &slot{lock: make(chan struct{}, 1)}
		t.kept[key] = s
	}
	return s
}

// jwt signs who we are, for some minutes; GitHub's clock may be behind ours.
func (a App) jwt(now time.Time) (string, error) {
	enc := base64.RawURLEncoding
	claims, err := json.Marshal(map[string]any{"iat": now.Add(-time.Minute).Unix(), "exp": now.Add(5 * time.Minute).Unix(), "iss": a.id})
	if err != nil {
		return "", err
	}
	text := enc.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + enc.EncodeToString(claims)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, a.key, crypto.SHA256, sum[:])
	if err != nil {
		return "", fmt.Errorf("%w: %s cannot sign", ErrIncomplete, keyPrivateKey)
	}
	return text + "." + enc.EncodeToString(sig), nil
}

// client follows no redirects: the JWT is for the API alone.
func (a App) client() (*http.Client, error) {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 15 * time.Second, DisableKeepAlives: true}
	if a.Proxy != nil {
		t.Proxy = http.ProxyURL(a.Proxy)
		t.DialContext = git.ProxyDialer(a.LoopbackProxy).DialContext
	}
	if len(a.CA) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(a.CA) {
			return nil, fmt.Errorf("%w: ca.crt holds no PEM certificate", ErrIncomplete)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: t, Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, nil
}

func (a App) request(ctx context.Context, now time.Time) (string, time.Time, error) {
	jwt, err := a.jwt(now)
	if err != nil {
		return "", now, err
	}
	c, err := a.client()
	if err != nil {
		return "", now, err
	}
	installation := a.installation
	if installation == "" {
		if installation, err = a.find(ctx, c, jwt); err != nil {
			return "", now, err
		}
	}
	var answer struct {
		Token     string    `json:"token"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	if err := a.call(ctx, c, call{http.MethodPost, "/app/installations/" + installation + "/access_tokens", jwt}, &answer); err != nil {
		return "", now, err
	}
	if answer.Token == "" || answer.ExpiresAt.IsZero() {
		return "", now, fmt.Errorf("%w: the answer holds no token", ErrRefused)
	}
	return answer.Token, answer.ExpiresAt, nil
}

// find looks the owner up, as an organization first and as a user then.
func (a App) find(ctx context.Context, c *http.Client, jwt string) (string, error) {
	var answer struct {
		ID int64 `json:"id"`
	}
	err := a.call(ctx, c, call{http.MethodGet, "/orgs/" + url.PathEscape(a.owner) + "/installation", jwt}, &answer)
	if err != nil {
		err = a.call(ctx, c, call{http.MethodGet, "/users/" + url.PathEscape(a.owner) + "/installation", jwt}, &answer)
	}
	if err != nil {
		return "", fmt.Errorf("find the installation of %s: %w", keyOwner, err)
	}
	return strconv.FormatInt(answer.ID, 10), nil
}

type call struct{ method, path, jwt string }

// call sends one request. Errors do not repeat the answer, which is anything.
func (a App) call(ctx context.Context, c *http.Client, k call, into any) error {
	req, err := http.NewRequestWithContext(ctx, k.method, a.api.String()+k.path, nil)
	if err != nil {
		return fmt.Errorf("%w: no request can be made", ErrRefused)
	}
	req.Header.Set("Authorization", "Bearer "+k.jwt)
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("User-Agent", "headwater/1")
	resp, err := c.Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("%w: %s answered %d %s", ErrRefused, a.api.Host, resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(into); err != nil {
		return fmt.Errorf("%w: the answer of %s does not parse", ErrRefused, a.api.Host)
	}
	return nil
}

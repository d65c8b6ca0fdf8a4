package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	"golang.org/x/time/rate"
)

// Issuer is a foreign OpenID Connect issuer whose tokens are accepted.
type Issuer struct {
	// URL is the issuer exactly as its tokens name it; its configuration is
	// below /.well-known.
	URL string `json:"url"`
	// Audiences are those that a token may be for; at least one.
	Audiences []string `json:"audiences"`
	// CAFile is a PEM file with the authority of the issuer's certificate; the
	// system's when empty.
	CAFile string `json:"caFile,omitempty"`
	// Claims must all be in a token, with these values.
	Claims map[string]string `json:"claims,omitempty"`
	// NameClaim is shown to people; "name" when empty.
	NameClaim string `json:"nameClaim,omitempty"`
}

// ReadIssuers reads a JSON file with a list of issuers.
func ReadIssuers(file string) ([]Issuer, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read issuers: %w", err)
	}
	defer f.Close()
	d := json.NewDecoder(f)
	d.DisallowUnknownFields()
	var list []Issuer
	if err := d.Decode(&list); err != nil {
		return nil, fmt.Errorf("read issuers: %s: %w", file, err)
	}
	return list, nil
}

const (
	// issuerPatience bounds one request to an issuer.
	issuerPatience = 10 * time.Second
	// maxIssuerAnswer bounds what an issuer may say, in bytes.
	maxIssuerAnswer = 1 << 20
	// issuerEvery and issuerBurst bound how often an issuer is asked: tokens
	// with made-up key ids must not become requests.
	issuerEvery = 5 * time.Second
	issuerBurst = 5
)

// algorithms of foreign tokens: signatures with a public key, no others.
func algorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
		jose.ES256, jose.ES384, jose.ES512, jose.EdDSA}
}

// issuer verifies the tokens of one Issuer. It is discovered when first needed,
// so a hub starts without it, and its keys are read again when a token has an
// unknown one.
type issuer struct {
	Issuer
	client *http.Client
	clock  func() time.Time

	mu       sync.Mutex
	verifier *oidc.IDTokenVerifier
}

func newIssuer(i Issuer, clock func() time.Time) (*issuer, error) {
	u, err := url.Parse(i.URL)
	switch {
	case err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("issuer %q: the URL must be https://host[:port][/path]", i.URL)
	case len(i.Audiences) == 0 || slices.Contains(i.Audiences, ""):
		return nil, fmt.Errorf("issuer %s: at least one audience is required, or tokens for others would do", i.URL)
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if i.CAFile != "" {
		pem, err := os.ReadFile(i.CAFile)
		if err != nil {
			return nil, fmt.Errorf("issuer %s: %w", i.URL, err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("issuer %s: %s holds no PEM certificate", i.URL, i.CAFile)
		}
	}
	careful := &careful{next: transport, often: rate.NewLimiter(rate.Every(issuerEvery), issuerBurst)}
	return &issuer{Issuer: i, client: &http.Client{Transport: careful, Timeout: issuerPatience}, clock: clock}, nil
}

// careful asks an issuer over TLS only, not too often, and reads a bounded answer.
type careful struct {
	next  http.RoundTripper
	often *rate.Limiter
}

// RoundTrip is that of http.RoundTripper.
func (c *careful) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		return nil, fmt.Errorf("ask %s: not https", r.URL.Redacted())
	}
	if !c.often.Allow() {
		return nil, fmt.Errorf("ask %s: asked too often", r.URL.Redacted())
	}
	resp, err := c.next.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxIssuerAnswer), resp.Body}
	}
	return resp, err
}

// discover reads the issuer's configuration once.
func (i *issuer) discover() (*oidc.IDTokenVerifier, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.verifier != nil {
		return i.verifier, nil
	}
	// The provider keeps the context for later requests of keys.
	ctx := oidc.ClientContext(context.Background(), i.client)
	provider, err := oidc.NewProvider(ctx, i.URL)
	if err != nil {
		return nil, fmt.Errorf("discover issuer %s: %w", i.URL, err)
	}
	names := []string{}
	for _, a := range algorithms() {
		names = append(names, string(a))
	}
	// Audience and times are checked below: with several audiences and our skew.
	i.verifier = provider.VerifierContext(ctx, &oidc.Config{SkipClientIDCheck: true, SkipExpiryCheck: true, SupportedSigningAlgs: names})
	return i.verifier, nil
}

// subject is who a token of an issuer speaks of.
type subject struct {
	issuer, subject, name string
	expires               time.Time
}

// errIssuer says that an issuer could not be asked, which is nobody's fault who
// sent a token.
var errIssuer = errors.New("issuer cannot be reached")

// verify checks a token of the issuer. A *Denial, or errIssuer.
func (i *issuer) verify(ctx context.Context, token string) (subject, error) {
	invalid := unauthenticated("InvalidAuthenticationToken", "The access token is invalid.")
	verifier, err := i.discover()
	if err != nil {
		return subject{}, fmt.Errorf("%w: %v", errIssuer, err)
	}
	t, err := verifier.Verify(ctx, token)
	if err != nil {
		return subject{}, invalid
	}
	var c struct {
		NotBefore *jwt.NumericDate `json:"nbf"`
		Expires   *jwt.NumericDate `json:"exp"`
	}
	all := map[string]any{}
	if t.Claims(&c) != nil || t.Claims(&all) != nil || c.Expires == nil || !printable(t.Subject) {
		return subject{}, invalid
	}
	now := i.clock()
	switch {
	case !slices.ContainsFunc(t.Audience, func(a string) bool { return slices.Contains(i.Audiences, a) }):
		return subject{}, unauthenticated("InvalidAuthenticationTokenAudience", "The access token has been obtained for the wrong audience or resource.")
	case now.After(c.Expires.Time().Add(Skew)):
		return subject{}, unauthenticated("ExpiredAuthenticationToken", "The access token expiry UTC time is earlier than the current UTC time. Obtain a new one.")
	case c.NotBefore != nil && now.Add(Skew).Before(c.NotBefore.Time()), now.Add(Skew).Before(t.IssuedAt):
		return subject{}, invalid
	}
	for name, want := range i.Claims {
		if got, ok := all[name].(string); !ok || got != want {
			return subject{}, unauthenticated("InvalidAuthenticationToken", "The access token lacks a claim that this hub asks of its issuer.")
		}
	}
	claim := i.NameClaim
	if claim == "" {
		claim = "name"
	}
	s := subject{issuer: i.URL, subject: t.Subject, expires: c.Expires.Time()}
	if name, ok := all[claim].(string); ok && printable(name) {
		s.name = name
	}
	return s, nil
}

// issuerOf reads which configured issuer a token says that it is from, without
// believing it.
func (a *Auth) issuerOf(token string) *issuer {
	if len(a.issuers) == 0 || len(token) > maxToken {
		return nil
	}
	parsed, err := jwt.ParseSigned(token, algorithms())
	if err != nil || len(parsed.Headers) != 1 {
		return nil
	}
	var c jwt.Claims
	if parsed.UnsafeClaimsWithoutVerification(&c) != nil {
		return nil
	}
	return a.issuers[c.Issuer]
}

// foreign tells which subject of which issuer a token is for.
func (a *Auth) foreign(ctx context.Context, i *issuer, token string) (Principal, error) {
	s, err := i.verify(ctx, token)
	if errors.Is(err, errIssuer) {
		a.log.Error("issuer not asked", "issuer", i.URL, "error", err)
		return Principal{}, &Denial{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable",
			Message: "The issuer of the access token cannot be reached: try again."}
	}
	if err != nil {
		return Principal{}, err
	}
	return Principal{Kind: User, ID: s.subject, ObjectID: SubjectID(s.issuer, s.subject), Name: s.name, Issuer: s.issuer, Expires: s.expires}, nil
}

// SubjectID is the object id by which role assignments name a subject of a
// foreign issuer.
func SubjectID(issuer, subject string) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(issuer+"\x00"+subject)).String()
}

// printable reports whether a name can be kept and shown: 1 to 255 printable
// ASCII characters.
func printable(s string) bool {
	return s != "" && len(s) <= 255 && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

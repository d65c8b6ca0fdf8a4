// Package auth answers who somebody is and what they may do.
//
// It issues the hub's own tokens, RS256 JWTs: to service principals for a
// secret, an assertion signed with a certificate's key, or the token of a
// foreign issuer (the endpoints that Azure clients use of a directory), and to
// agents that the gateway has recognised by their cluster's key. It never
// accepts one kind for the other: they have different audiences. Tokens of
// configured OpenID Connect issuers are accepted as they are, too.
//
// What a principal may do is the union of its role assignments, each a role at
// a scope and below. Nothing is allowed without one. They are read from the
// store for every request, so a removed assignment acts at once.
package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"headwater.dev/hub/store"
)

const (
	// UserTokenLife is how long a service principal's token is good.
	UserTokenLife = time.Hour
	// AgentTokenLife is how long an agent's token is good.
	AgentTokenLife = 15 * time.Minute
	// Skew is how far clocks may differ.
	Skew = time.Minute
)

// Kind of a principal.
type Kind string

const (
	// ServicePrincipal is a client of the users' door.
	ServicePrincipal Kind = "ServicePrincipal"
	// User is a subject of a foreign issuer.
	User Kind = "User"
	// Agent is a cluster's agent.
	Agent Kind = "Agent"
)

// Principal is who a request comes from.
type Principal struct {
	Kind Kind
	// ID is the client id of a service principal, the cluster's id of an agent.
	ID string
	// ObjectID is what role assignments name; empty for agents.
	ObjectID string
	// Name is for people.
	Name string
	// Issuer is who says so when it is not this hub.
	Issuer string
	// Cluster is the folded ARM id of an agent's cluster; empty for others.
	Cluster string
	// Key is the fingerprint of the cluster key that an agent proved to hold.
	Key string
	// Expires is when the token of the request ends.
	Expires time.Time
}

// Config is what auth needs.
type Config struct {
	// Store holds principals below /principals/, role assignments below
	// /assignments/.
	Store store.Store
	// Dir holds signing.key and, after the first start, admin.json.
	Dir string
	// ExternalURL is the hub's address as clients know it, https://host[:port].
	ExternalURL string
	// TenantID and SubscriptionID are chosen at the first start when empty, and
	// must stay what they were afterwards.
	TenantID, SubscriptionID string
	// Audiences are further audiences that users' tokens may carry.
	Audiences []string
	// Issuers are those whose tokens are accepted beside the hub's own.
	Issuers []Issuer
	// Clock is time.Now when nil.
	Clock func() time.Time
	// Logger may be nil.
	Logger *slog.Logger
}

// Auth is the hub's directory. Use it from any number of goroutines.
type Auth struct {
	store        store.Store
	keys         *keys
	url          string
	tenant       string
	subscription string
	audiences    map[string]bool
	issuers      map[string]*issuer
	failures     *failures
	verified     verified
	asserted     asserted
	clock        func() time.Time
	log          *slog.Logger
	handler      http.Handler
}

// New opens the directory. At the first start with an empty store it makes one
// administrator, Owner of everything, and writes its credentials to admin.json.
func New(ctx context.Context, c Config) (*Auth, error) {
	base, err := url.Parse(c.ExternalURL)
	if err != nil || base.Scheme != "https" || base.Host == "" || strings.Trim(base.Path, "/") != "" {
		return nil, fmt.Errorf("open directory: external URL %q is not https://host[:port]", c.ExternalURL)
	}
	a := &Auth{
		store:     c.Store,
		url:       "https://" + base.Host,
		audiences: map[string]bool{},
		issuers:   map[string]*issuer{},
		clock:     c.Clock,
		log:       c.Logger,
	}
	if a.clock == nil {
		a.clock = time.Now
	}
	if a.log == nil {
		a.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	for _, audience := range append([]string{a.url}, c.Audiences...) {
		a.audiences[foldAudience(audience)] = true
	}
	for _, i := range c.Issuers {
		if a.issuers[i.URL] != nil {
			return nil, fmt.Errorf("open directory: issuer %s is given twice: list all its audiences at once, in the file of issuers", i.URL)
		}
		if strings.HasPrefix(foldAudience(i.URL)+"/", foldAudience(a.url)+"/") {
			return nil, fmt.Errorf("open directory: issuer %s is this hub, whose tokens are accepted anyhow: leave it out", i.URL)
		}
		if a.issuers[i.URL], err = newIssuer(i, a.clock); err != nil {
			return nil, fmt.Errorf("open directory: %w", err)
		}
	}
	a.failures = newFailures(a.clock)
	if a.keys, err = loadKeys(filepath.Join(c.Dir, "signing.key")); err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	if err := a.bootstrap(ctx, c); err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	a.handler = a.routes()
	return a, nil
}

// TenantID is the only tenant of this hub.
func (a *Auth) TenantID() string { return a.tenant }

// SubscriptionID is the subscription that the first start made.
func (a *Auth) SubscriptionID() string { return a.subscription }

// Denial is an answer of 401 or 403 in words for the client. It holds nothing
// that the client did not say itself.
type Denial struct {
	Status  int
	Code    string
	Message string
}

// Error is the code and the message.
func (d *Denial) Error() string { return d.Code + ": " + d.Message }

func unauthenticated(code, message string) error {
	return &Denial{Status: http.StatusUnauthorized, Code: code, Message: message}
}

// Challenge is the WWW-Authenticate header that goes with a 401.
func (a *Auth) Challenge() string {
	return fmt.Sprintf(`Bearer authorization="%s/%s", resource="%s"`, a.url, a.tenant, a.url)
}

// Authenticate tells which service principal, or subject of a foreign issuer, a
// request comes from, by its bearer token. Anything else is a *Denial.
func (a *Auth) Authenticate(r *http.Request) (Principal, error) {
	token, err := bearer(r)
	if err != nil {
		return Principal{}, err
	}
	if i := a.issuerOf(token); i != nil {
		return a.foreign(r.Context(), i, token)
	}
	claims, err := a.parse(token, a.audiences)
	if err != nil {
		return Principal{}, err
	}
	if claims.ObjectID == "" || claims.AppID == "" || claims.Cluster != "" {
		return Principal{}, unauthenticated("InvalidAuthenticationToken", "the access token is not a service principal's")
	}
	return Principal{
		Kind:     ServicePrincipal,
		ID:       claims.AppID,
		ObjectID: claims.ObjectID,
		Name:     claims.Name,
		Expires:  claims.Expiry.Time(),
	}, nil
}

// AuthenticateAgent tells which cluster's agent a request comes from, by its
// bearer token. Anything else is a *Denial.
func (a *Auth) AuthenticateAgent(r *http.Request) (Principal, error) {
	token, err := bearer(r)
	if err != nil {
		return Principal{}, err
	}
	claims, known := a.verified.get(token)
	if known {
		err = a.inTime(claims)
	} else {
		claims, err = a.parse(token, map[string]bool{foldAudience(a.agentAudience()): true})
	}
	if err != nil {
		return Principal{}, err
	}
	if claims.Cluster == "" || claims.Key == "" {
		return Principal{}, unauthenticated("InvalidAuthenticationToken", "the access token is not an agent's")
	}
	if !known {
		a.verified.put(token, claims, a.clock())
	}
	return Principal{
		Kind:    Agent,
		ID:      claims.Cluster,
		Cluster: claims.Cluster,
		Key:     claims.Key,
		Expires: claims.Expiry.Time(),
	}, nil
}

// bearer is the token that a request carries.
func bearer(r *http.Request) (string, error) {
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 || headers[0] == "" {
		return "", unauthenticated("AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.")
	}
	scheme, token, found := strings.Cut(headers[0], " ")
	if len(headers) > 1 || !found || !strings.EqualFold(scheme, "Bearer") {
		return "", unauthenticated("AuthenticationFailed", "Authentication failed. The 'Authorization' header must be one bearer token.")
	}
	return strings.TrimSpace(token), nil
}

// errStore wraps what the store said while deciding: neither yes nor no.
func errStore(what string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}

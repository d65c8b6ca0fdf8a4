package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// maxForm bounds the body of a token request, in bytes.
const maxForm = 64 << 10

// maxClientID is longer than any client id, in bytes.
const maxClientID = 256

// Handler serves the directory's endpoints: OpenID configurations, keys, tokens.
func (a *Auth) Handler() http.Handler { return a.handler }

// Handles reports whether a path belongs to Handler.
func (a *Auth) Handles(path string) bool {
	segments := split(path)
	if len(segments) < 2 || strings.EqualFold(segments[0], "subscriptions") || strings.EqualFold(segments[0], "providers") {
		return false
	}
	switch strings.ToLower(segments[1]) {
	case "oauth2", "discovery", ".well-known":
		return true
	case "v2.0":
		return len(segments) > 2 && segments[2] == ".well-known"
	}
	return false
}

// split cuts a path into its segments; empty ones do not count.
func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// routes goes by what follows the tenant.
func (a *Auth) routes() http.Handler {
	type route struct {
		method string
		serve  http.HandlerFunc
	}
	table := map[string]route{
		".well-known/openid-configuration":      {http.MethodGet, a.configuration("1.0")},
		"v2.0/.well-known/openid-configuration": {http.MethodGet, a.configuration("2.0")},
		"discovery/keys":                        {http.MethodGet, a.jwks},
		"discovery/v2.0/keys":                   {http.MethodGet, a.jwks},
		"oauth2/token":                          {http.MethodPost, a.token("1.0")},
		"oauth2/v2.0/token":                     {http.MethodPost, a.token("2.0")},
		"oauth2/authorize":                      {http.MethodGet, a.authorize},
		"oauth2/v2.0/authorize":                 {http.MethodGet, a.authorize},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		segments := split(r.URL.Path)
		if len(segments) == 0 {
			http.NotFound(w, r)
			return
		}
		entry, ok := table[strings.ToLower(strings.Join(segments[1:], "/"))]
		switch {
		case !ok:
			http.NotFound(w, r)
		case entry.method != r.Method && !(entry.method == http.MethodGet && r.Method == http.MethodHead):
			w.Header().Set("Allow", entry.method)
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		case !a.isTenant(segments[0]):
			a.refuse(w, r, refusal{http.StatusBadRequest, "invalid_request", 90002, "Tenant '" + segments[0] + "' not found. Check to make sure you have the correct tenant ID."})
		default:
			entry.serve(w, r)
		}
	})
}

// isTenant reports whether a path begins with the tenant or one of its aliases;
// "adfs" is how old Azure CLIs are told not to ask Microsoft about a directory.
func (a *Auth) isTenant(name string) bool {
	for _, known := range []string{a.tenant, "organizations", "common", "adfs"} {
		if strings.EqualFold(name, known) {
			return true
		}
	}
	return false
}

// configuration answers the OpenID configuration of one version.
func (a *Auth) configuration(version string) http.HandlerFunc {
	base := a.url + "/" + a.tenant
	document := map[string]any{
		"issuer":                                a.issuerV1(),
		"authorization_endpoint":                base + "/oauth2/authorize",
		"token_endpoint":                        base + "/oauth2/token",
		"jwks_uri":                              base + "/discovery/keys",
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "client_secret_basic", "private_key_jwt"},
		"grant_types_supported":                 []string{"client_credentials"},
		"response_types_supported":              []string{"token"},
		"subject_types_supported":               []string{"pairwise"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
	}
	if version == "2.0" {
		document["issuer"] = a.issuerV2()
		document["authorization_endpoint"] = base + "/oauth2/v2.0/authorize"
		document["token_endpoint"] = base + "/oauth2/v2.0/token"
		document["jwks_uri"] = base + "/discovery/v2.0/keys"
	}
	return func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, document) }
}

func (a *Auth) jwks(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, a.keys.set)
}

// authorize is where a browser would sign in.
func (a *Auth) authorize(w http.ResponseWriter, r *http.Request) {
	a.refuse(w, r, refusal{http.StatusBadRequest, "unsupported_response_type", 70005,
		"Interactive sign-in is not supported. Sign in as a service principal: client credentials at the token endpoint."})
}

// refusal is an error as the directory of Azure words it.
type refusal struct {
	status  int
	code    string
	number  int
	message string
}

func (a *Auth) refuse(w http.ResponseWriter, r *http.Request, e refusal) {
	now := a.clock().UTC().Format("2006-01-02 15:04:05Z")
	trace, correlation := uuid.NewString(), r.Header.Get("client-request-id")
	if uuid.Validate(correlation) != nil {
		correlation = uuid.NewString()
	}
	answer(w, e.status, map[string]any{
		"error": e.code,
		"error_description": fmt.Sprintf("AADSTS%d: %s Trace ID: %s Correlation ID: %s Timestamp: %s",
			e.number, e.message, trace, correlation, now),
		"error_codes":    []int{e.number},
		"timestamp":      now,
		"trace_id":       trace,
		"correlation_id": correlation,
	})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone: nobody to tell
}

// token answers client credentials with an access token.
func (a *Auth) token(version string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			a.refuse(w, r, refusal{http.StatusBadRequest, "invalid_request", 900144, "The request body is not a form of at most 64 KiB."})
			return
		}
		if problem := checkGrant(r.PostForm); problem != nil {
			a.refuse(w, r, *problem)
			return
		}
		g, ok := credentials(r)
		if !ok {
			a.refuse(w, r, refusal{http.StatusUnauthorized, "invalid_client", 7000216, "'client_id' and one of 'client_secret' (in the body or as basic authentication) and 'client_assertion' (with its type) are required."})
			return
		}
		p, problem := a.loginOnce(r.Context(), g, Address(r))
		if problem != nil {
			if problem.wait > 0 {
				w.Header().Set("Retry-After", strconv.Itoa(int(problem.wait/time.Second)))
			}
			a.refuse(w, r, problem.refusal)
			return
		}
		a.grant(w, r, p, version)
	}
}

// checkGrant looks whether the form asks for something there is.
func checkGrant(form url.Values) *refusal {
	for name, values := range form {
		if len(values) > 1 {
			return &refusal{http.StatusBadRequest, "invalid_request", 900144, fmt.Sprintf("The parameter %q is given %d times.", name, len(values))}
		}
	}
	switch grant := form.Get("grant_type"); grant {
	case "client_credentials":
		return nil
	case "":
		return &refusal{http.StatusBadRequest, "invalid_request", 900144, "The request body must contain the following parameter: 'grant_type'."}
	default:
		return &refusal{http.StatusBadRequest, "unsupported_grant_type", 70003, "The app requested an unsupported grant type; use 'client_credentials'."}
	}
}

// failedLogin is a refusal that may ask to wait.
type failedLogin struct {
	refusal
	wait time.Duration
}

// loginOnce checks a secret or an assertion unless there were too many wrong ones.
func (a *Auth) loginOnce(ctx context.Context, g given, from string) (principalRecord, *failedLogin) {
	client := g.client
	who := strings.ToLower(client) + " " + from
	if len(client) > maxClientID {
		who = "oversized " + from
	}
	if wait := a.failures.wait(who); wait > 0 {
		return principalRecord{}, &failedLogin{refusal{http.StatusTooManyRequests, "temporarily_unavailable", 50196,
			"Too many failed attempts. Wait before trying again."}, wait}
	}
	var p principalRecord
	var err error
	if g.assertion != "" {
		p, err = a.loginAssertion(ctx, g, from)
	} else {
		p, err = a.login(ctx, client, g.secret)
	}
	return p, a.verdict(err, client, who, from)
}

// verdict words why a login failed, and counts what looks like guessing.
func (a *Auth) verdict(err error, client, who, from string) *failedLogin {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errBadSecret):
		a.failures.add(who)
		a.log.Warn("login refused", "clientId", client[:min(len(client), maxClientID)], "from", from)
		return &failedLogin{refusal: refusal{http.StatusUnauthorized, "invalid_client", 7000215,
			"Invalid client secret or assertion provided or unknown client. Ensure the secret being sent in the request is the client secret value."}}
	case errors.Is(err, errExpiredSecret):
		return &failedLogin{refusal: refusal{http.StatusUnauthorized, "invalid_client", 7000222,
			"The provided client secret keys are expired. Create a new one."}}
	case errors.Is(err, errDisabled):
		return &failedLogin{refusal: refusal{http.StatusUnauthorized, "unauthorized_client", 7000112, "The client is disabled."}}
	case errors.Is(err, errAssertionTime):
		return &failedLogin{refusal: refusal{http.StatusUnauthorized, "invalid_client", 700024,
			"Client assertion is not within its valid time range, or is good for more than an hour. Compare the clocks, and make a new one."}}
	case errors.Is(err, errAssertionID):
		return &failedLogin{refusal: refusal{http.StatusUnauthorized, "invalid_client", 50027,
			"Client assertion has no 'jti' claim, or one of more than 256 bytes: each assertion needs an id of its own."}}
	case errors.Is(err, errReplayed):
		a.failures.add(who)
		a.log.Warn("assertion was used before", "clientId", client[:min(len(client), maxClientID)], "from", from)
		return &failedLogin{refusal: refusal{http.StatusUnauthorized, "invalid_client", 50012,
			"Client assertion was used before, at another address or longer than ten minutes ago. Make a new one."}}
	case errors.Is(err, errManyAssertions):
		return &failedLogin{refusal{http.StatusTooManyRequests, "temporarily_unavailable", 50196,
			"The client signs in too often. Use the token that it was given until it expires."}, assertionEvery}
	default:
		a.log.Error("login failed", "error", err)
		return &failedLogin{refusal: refusal{http.StatusServiceUnavailable, "temporarily_unavailable", 90033,
			"A transient error has occurred. Please try again."}, wait: time.Second}
	}
}

// grant answers with a token for whatever scope or resource was asked for.
func (a *Auth) grant(w http.ResponseWriter, r *http.Request, p principalRecord, version string) {
	audience := r.PostForm.Get("resource")
	if version == "2.0" {
		audience = ""
		if scopes := strings.Fields(r.PostForm.Get("scope")); len(scopes) > 0 {
			audience = strings.TrimSuffix(scopes[0], "/.default")
		}
	}
	if audience == "" {
		audience = a.url
	}
	if len(audience) > 1024 {
		a.refuse(w, r, refusal{http.StatusBadRequest, "invalid_scope", 70011, "The provided scope or resource is too long."})
		return
	}
	if strings.HasPrefix(foldAudience(audience), foldAudience(a.agentAudience())) {
		a.refuse(w, r, refusal{http.StatusBadRequest, "invalid_scope", 70011, "Tokens for the agents' door are not given to clients."})
		return
	}
	token, err := a.issue(p, audience, version)
	if err != nil {
		a.log.Error("token not issued", "error", err)
		a.refuse(w, r, refusal{http.StatusInternalServerError, "server_error", 90033, "A transient error has occurred. Please try again."})
		return
	}
	body := map[string]any{"token_type": "Bearer", "access_token": token}
	life := int64(UserTokenLife / time.Second)
	if version == "2.0" {
		body["expires_in"], body["ext_expires_in"] = life, life
	} else { // the old endpoint speaks in strings
		now := a.clock().Unix()
		text := func(n int64) string { return strconv.FormatInt(n, 10) }
		body["expires_in"], body["ext_expires_in"] = text(life), text(life)
		body["not_before"], body["expires_on"] = text(now), text(now+life)
		body["resource"] = audience
	}
	answer(w, http.StatusOK, body)
}

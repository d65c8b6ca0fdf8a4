package auth_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/google/go-cmp/cmp"

	"headwater.dev/hub/auth"
)

func TestAzidentityGetsATokenThatIsAccepted(t *testing.T) {
	d := newDirectory(t)
	credential, err := azidentity.NewClientSecretCredential(d.admin.TenantID, d.admin.ClientID, d.admin.ClientSecret,
		&azidentity.ClientSecretCredentialOptions{
			DisableInstanceDiscovery: true,
			ClientOptions: azcore.ClientOptions{
				Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: d.server.URL + "/"},
				Transport: d.server.Client(),
			},
		})
	if err != nil {
		t.Fatal(err)
	}
	token, err := credential.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{d.server.URL + "//.default"}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := d.Authenticate(request(token.Token))
	if err != nil || p.Kind != auth.ServicePrincipal || p.ID != d.admin.ClientID || p.ObjectID == "" {
		t.Errorf("principal %+v, error %v", p, err)
	}
	if left := time.Until(token.ExpiresOn); left < 50*time.Minute || left > time.Hour+time.Minute {
		t.Errorf("the token is good for %v, want an hour", left)
	}
}

func TestDiscoveryAndKeysVerifyTokens(t *testing.T) {
	d := newDirectory(t)
	for version, path := range map[string]string{"1.0": "/", "2.0": "/v2.0"} {
		issuer := d.server.URL + "/" + d.admin.TenantID + path
		ctx := oidc.ClientContext(t.Context(), d.server.Client())
		provider, err := oidc.NewProvider(ctx, issuer)
		if err != nil {
			t.Fatal(err)
		}
		tokenURL, err := url.Parse(provider.Endpoint().TokenURL)
		if err != nil {
			t.Fatal(err)
		}
		status, _, body := d.post(t, tokenURL.Path, d.form("resource", d.server.URL), nil)
		if status != http.StatusOK {
			t.Fatalf("%s: %d %v", version, status, body)
		}
		verified, err := provider.Verifier(&oidc.Config{ClientID: d.server.URL}).Verify(ctx, body["access_token"].(string))
		if err != nil {
			t.Fatalf("%s: %v", version, err)
		}
		var claims map[string]any
		if err := verified.Claims(&claims); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]any{"tid": d.admin.TenantID, "appid": d.admin.ClientID, "ver": version, "idtyp": "app", "iss": issuer} {
			if claims[name] != want {
				t.Errorf("%s: claim %s is %v, want %v", version, name, claims[name], want)
			}
		}
		for _, name := range []string{"oid", "iat", "nbf", "exp", "jti"} {
			if claims[name] == nil {
				t.Errorf("%s: there is no claim %s", version, name)
			}
		}
		_, isText := body["expires_in"].(string)
		if isText != (version == "1.0") {
			t.Errorf("%s: expires_in is a %T", version, body["expires_in"])
		}
	}
}

func TestTokenRequests(t *testing.T) {
	d := newDirectory(t)
	basic := func(user, password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(url.QueryEscape(user), url.QueryEscape(password)) }
	}
	twice := d.form()
	twice.Add("client_id", "another")
	cases := map[string]struct {
		tenant string
		form   url.Values
		edit   func(*http.Request)
		status int
		code   string
		number string
	}{
		"form":                 {form: d.form(), status: 200},
		"folded tenant":        {tenant: strings.ToUpper(d.admin.TenantID), form: d.form(), status: 200},
		"organizations":        {tenant: "organizations", form: d.form(), status: 200},
		"basic":                {form: d.form("client_id", "", "client_secret", ""), edit: basic(d.admin.ClientID, d.admin.ClientSecret), status: 200},
		"any scope":            {form: d.form("scope", "https://graph.example/.default"), status: 200},
		"no scope":             {form: d.form("scope", ""), status: 200},
		"foreign tenant":       {tenant: "00000000-0000-0000-0000-000000000000", form: d.form(), status: 400, code: "invalid_request", number: "AADSTS90002:"},
		"wrong secret":         {form: d.form("client_secret", "x"), status: 401, code: "invalid_client", number: "AADSTS7000215:"},
		"unknown client":       {form: d.form("client_id", "nobody"), status: 401, code: "invalid_client", number: "AADSTS7000215:"},
		"client with a path":   {form: d.form("client_id", "../directory/this"), status: 401, code: "invalid_client", number: "AADSTS7000215:"},
		"client with a NUL":    {form: d.form("client_id", "a\x00b"), status: 401, code: "invalid_client", number: "AADSTS7000215:"},
		"no secret":            {form: d.form("client_secret", ""), status: 401, code: "invalid_client", number: "AADSTS7000216:"},
		"no client":            {form: d.form("client_id", ""), status: 401, code: "invalid_client", number: "AADSTS7000216:"},
		"basic and form":       {form: d.form(), edit: basic(d.admin.ClientID, d.admin.ClientSecret), status: 401, code: "invalid_client", number: "AADSTS7000216:"},
		"two clients":          {form: twice, status: 400, code: "invalid_request", number: "AADSTS900144:"},
		"no grant":             {form: d.form("grant_type", ""), status: 400, code: "invalid_request", number: "AADSTS900144:"},
		"password grant":       {form: d.form("grant_type", "password"), status: 400, code: "unsupported_grant_type", number: "AADSTS70003:"},
		"the agents' audience": {form: d.form("scope", d.server.URL+"/Agents/v1/.default"), status: 400, code: "invalid_scope", number: "AADSTS70011:"},
		"too large":            {form: d.form("x", strings.Repeat("x", 70<<10)), status: 400, code: "invalid_request", number: "AADSTS900144:"},
		"secrets in the query": {form: url.Values{}, edit: func(r *http.Request) { r.URL.RawQuery = d.form().Encode() }, status: 400, code: "invalid_request", number: "AADSTS900144:"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if c.tenant == "" {
				c.tenant = d.admin.TenantID
			}
			status, header, body := d.post(t, "/"+c.tenant+"/oauth2/v2.0/token", c.form, c.edit)
			description, _ := body["error_description"].(string)
			code, _ := body["error"].(string)
			if status != c.status || code != c.code || !strings.HasPrefix(description, c.number) {
				t.Errorf("got %d %q %q", status, code, description)
			}
			if header.Get("Cache-Control") != "no-store" {
				t.Error("the answer may be cached")
			}
			if text, _ := json.Marshal(body); strings.Contains(string(text), d.admin.ClientSecret) {
				t.Error("the answer holds the secret")
			}
		})
	}
}

func TestGuessingIsSlowedDown(t *testing.T) {
	d := newDirectory(t)
	path := "/" + d.admin.TenantID + "/oauth2/v2.0/token"
	wrong := d.form("client_secret", "guess")
	for i := range 10 {
		if status, _, body := d.post(t, path, wrong, nil); status != http.StatusUnauthorized {
			t.Fatalf("guess %d: %d %v", i, status, body)
		}
	}
	status, header, _ := d.post(t, path, d.form(), nil)
	if status != http.StatusTooManyRequests || header.Get("Retry-After") == "" {
		t.Errorf("after ten guesses: %d, Retry-After %q", status, header.Get("Retry-After"))
	}
	other, secret, err := d.CreatePrincipal(t.Context(), "other", 0)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, body := d.post(t, path, d.form("client_id", other.ID, "client_secret", secret), nil); status != http.StatusOK {
		t.Errorf("another client is slowed down too: %d %v", status, body)
	}
	d.clock.Add(8 * time.Second)
	if status, _, body := d.post(t, path, d.form(), nil); status != http.StatusOK {
		t.Errorf("after the wait: %d %v", status, body)
	}
}

func TestSecretsExpire(t *testing.T) {
	d := newDirectory(t)
	p, secret, err := d.CreatePrincipal(t.Context(), "temporary", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	path, form := "/"+d.admin.TenantID+"/oauth2/token", d.form("client_id", p.ID, "client_secret", secret)
	if status, _, body := d.post(t, path, form, nil); status != http.StatusOK {
		t.Errorf("before its end: %d %v", status, body)
	}
	d.clock.Add(time.Hour)
	_, _, body := d.post(t, path, form, nil)
	if !strings.HasPrefix(body["error_description"].(string), "AADSTS7000222:") {
		t.Errorf("after its end: %v", body)
	}
	form.Set("client_secret", "wrong")
	_, _, body = d.post(t, path, form, nil)
	if !strings.HasPrefix(body["error_description"].(string), "AADSTS7000215:") {
		t.Errorf("a wrong one after its end: %v", body)
	}
}

func TestPaths(t *testing.T) {
	d := newDirectory(t)
	tenant := d.admin.TenantID
	for path, want := range map[string]int{
		"/" + tenant + "/v2.0/.well-known/openid-configuration":    200,
		"//" + tenant + "/.well-known/openid-configuration":        200,
		"/" + tenant + "/discovery/v2.0/keys":                      200,
		"/" + tenant + "/oauth2/v2.0/authorize?response_type=code": 400,
		"/" + tenant + "/oauth2/v2.0/token":                        405,
		"/" + tenant + "/oauth2/other":                             404,
		"/other/v2.0/.well-known/openid-configuration":             400,
		"/subscriptions/.well-known/x":                             418,
		"/subscriptions/oauth2/resourcegroups":                     418,
		"/" + tenant:                                               418,
	} {
		if status, body := d.get(t, path); status != want {
			t.Errorf("%s: got %d %v, want %d", path, status, body, want)
		}
	}
	_, body := d.get(t, "/"+tenant+"/discovery/keys")
	key := body["keys"].([]any)[0].(map[string]any)
	names := []string{}
	for _, n := range []string{"kty", "use", "alg", "kid", "n", "e", "d", "p", "q"} {
		if _, ok := key[n]; ok {
			names = append(names, n)
		}
	}
	if diff := cmp.Diff([]string{"kty", "use", "alg", "kid", "n", "e"}, names); diff != "" {
		t.Errorf("fields of the public key (-want +got):\n%s", diff)
	}
}

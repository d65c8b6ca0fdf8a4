package auth_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"headwater.dev/hub/auth"
)

const clusterID = "/subscriptions/s/resourcegroups/rg/providers/microsoft.kubernetes/connectedclusters/c"

func signingKey(t *testing.T, d *directory) *rsa.PrivateKey {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(d.dir, "signing.key"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*rsa.PrivateKey)
}

// parts takes a token apart into header, claims and signature.
func parts(t *testing.T, token string) (header, claims map[string]any) {
	t.Helper()
	for i, into := range []*map[string]any{&header, &claims} {
		data, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatal(err)
		}
	}
	return header, claims
}

func sign(t *testing.T, algorithm jose.SignatureAlgorithm, key any, kid string, claims map[string]any) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithHeader("kid", kid)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func with(claims map[string]any, name string, value any) map[string]any {
	out := map[string]any{}
	for k, v := range claims {
		out[k] = v
	}
	out[name] = value
	if value == nil {
		delete(out, name)
	}
	return out
}

func TestA96ForgedTokens(t *testing.T) {
	d := newDirectory(t)
	good := d.token(t)
	header, claims := parts(t, good)
	kid, key := header["kid"].(string), signingKey(t, d)
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	segments := strings.Split(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"`+kid+`"}`)) + "." + segments[1] + "."
	public := pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&key.PublicKey)})
	now := d.clock.Now()
	rs := func(claims map[string]any) string { return sign(t, jose.RS256, key, kid, claims) }
	cases := map[string]struct{ token, code string }{
		"alg none":                {none, "InvalidAuthenticationToken"},
		"HS256 of the public key": {sign(t, jose.HS256, public, kid, claims), "InvalidAuthenticationToken"},
		"RS512":                   {sign(t, jose.RS512, key, kid, claims), "InvalidAuthenticationToken"},
		"a stranger's key":        {sign(t, jose.RS256, stranger, kid, claims), "InvalidAuthenticationToken"},
		"unknown key id":          {sign(t, jose.RS256, key, "x", claims), "InvalidAuthenticationToken"},
		"claims exchanged":        {segments[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"oid":"x"}`)) + "." + segments[2], "InvalidAuthenticationToken"},
		"no signature":            {segments[0] + "." + segments[1] + ".", "InvalidAuthenticationToken"},
		"nonsense":                {"nonsense", "InvalidAuthenticationToken"},
		"huge":                    {strings.Repeat("x", 1<<20), "InvalidAuthenticationToken"},
		"foreign issuer":          {rs(with(claims, "iss", "https://login.example/t/v2.0")), "InvalidAuthenticationTokenTenant"},
		"another tenant":          {rs(with(claims, "iss", d.server.URL+"/00000000-0000-0000-0000-000000000000/v2.0")), "InvalidAuthenticationTokenTenant"},
		"wrong audience":          {d.token(t, "scope", "https://graph.example/.default"), "InvalidAuthenticationTokenAudience"},
		"two audiences":           {rs(with(claims, "aud", []string{d.server.URL, "https://other"})), "InvalidAuthenticationTokenAudience"},
		"a longer audience":       {rs(with(claims, "aud", d.server.URL+".evil.example")), "InvalidAuthenticationTokenAudience"},
		"expired":                 {rs(with(claims, "exp", now.Add(-2*time.Minute).Unix())), "ExpiredAuthenticationToken"},
		"no expiry":               {rs(with(claims, "exp", nil)), "InvalidAuthenticationToken"},
		"not yet valid":           {rs(with(claims, "nbf", now.Add(5*time.Minute).Unix())), "InvalidAuthenticationToken"},
		"no principal":            {rs(with(claims, "oid", nil)), "InvalidAuthenticationToken"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p, err := d.Authenticate(request(c.token))
			var denial *auth.Denial
			if !errors.As(err, &denial) || denial.Status != http.StatusUnauthorized || denial.Code != c.code {
				t.Errorf("got %+v, %v; want %s", p, err, c.code)
			}
		})
	}
	if _, err := d.Authenticate(request(rs(claims))); err != nil {
		t.Errorf("the cases prove nothing: their base is refused with %v", err)
	}
}

func TestAuthorizationHeader(t *testing.T) {
	d := newDirectory(t)
	token := d.token(t)
	for name, c := range map[string]struct {
		headers []string
		ok      bool
	}{
		"bearer":        {[]string{"Bearer " + token}, true},
		"folded scheme": {[]string{"bearer  " + token}, true},
		"none":          {nil, false},
		"empty":         {[]string{""}, false},
		"no scheme":     {[]string{token}, false},
		"basic":         {[]string{"Basic " + token}, false},
		"two of them":   {[]string{"Bearer " + token, "Bearer " + token}, false},
		"two in one":    {[]string{"Bearer " + token + ", Bearer " + token}, false},
	} {
		r := httptest.NewRequest(http.MethodGet, "/?access_token="+token, nil)
		r.Header["Authorization"] = c.headers
		if _, err := d.Authenticate(r); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if want := `Bearer authorization="` + d.server.URL + "/" + d.admin.TenantID + `"`; !strings.HasPrefix(d.Challenge(), want) {
		t.Errorf("challenge %q", d.Challenge())
	}
}

func TestAgentsAndUsersHaveDoorsOfTheirOwn(t *testing.T) {
	d := newDirectory(t)
	user := d.token(t)
	agent, life, err := d.IssueAgent(clusterID, "fingerprint")
	if err != nil || life != 15*time.Minute {
		t.Fatalf("agent token: %v, %v", life, err)
	}
	p, err := d.AuthenticateAgent(request(agent))
	if err != nil || p.Kind != auth.Agent || p.Cluster != clusterID || p.Key != "fingerprint" || p.ObjectID != "" {
		t.Errorf("agent at its own door: %+v, %v", p, err)
	}
	if until := p.Expires.Sub(d.clock.Now()); until < 14*time.Minute || until > 15*time.Minute {
		t.Errorf("the agent's token ends in %v", until)
	}
	if again, err := d.AuthenticateAgent(request(agent)); err != nil || again != p {
		t.Errorf("the same token again: %+v, %v, want %+v", again, err, p)
	}
	dot := strings.LastIndex(agent, ".")
	if p, err := d.AuthenticateAgent(request(agent[:dot+1] + strings.Repeat("A", len(agent)-dot-1))); err == nil {
		t.Errorf("a token with another signature than one seen before is taken: %+v", p)
	}
	if p, err := d.Authenticate(request(agent)); err == nil {
		t.Errorf("the users' door took an agent for %+v", p)
	}
	if p, err := d.AuthenticateAgent(request(user)); err == nil {
		t.Errorf("the agents' door took a user for %+v", p)
	}
	if err := d.Authorize(t.Context(), p, "x/read", clusterID); err == nil {
		t.Error("an agent has rights at the users' door")
	}
	d.clock.Add(17 * time.Minute)
	if _, err := d.AuthenticateAgent(request(agent)); err == nil {
		t.Error("the agent's token is still good after 17 minutes")
	}
}

func TestFirstStartAndAfter(t *testing.T) {
	d := newDirectory(t)
	for _, name := range []string{"admin.json", "signing.key"} {
		if info, err := os.Stat(filepath.Join(d.dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if d.admin.TenantID != d.TenantID() || d.admin.SubscriptionID != d.SubscriptionID() {
		t.Errorf("admin.json says %+v, the directory %s and %s", d.admin, d.TenantID(), d.SubscriptionID())
	}
	token := d.token(t)
	d.Auth = d.open(t)
	p, err := d.Authenticate(request(token))
	if err != nil {
		t.Errorf("a token from before the restart: %v", err)
	}
	if again := readAdmin(t, d.dir); again != d.admin {
		t.Errorf("the restart changed admin.json")
	}

	if err := d.DeletePrincipal(t.Context(), p); !errors.Is(err, auth.ErrLastOwner) {
		t.Errorf("the last owner is removed: %v", err)
	}
	second, _, err := d.CreatePrincipal(t.Context(), "second", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Assign(t.Context(), second.ObjectID, auth.Owner, "/"); err != nil {
		t.Fatal(err)
	}
	if err := d.DeletePrincipal(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	d.Auth = d.open(t)
	if status, _, _ := d.post(t, "/"+d.admin.TenantID+"/oauth2/token", d.form(), nil); status != http.StatusUnauthorized {
		t.Errorf("the restart brought a removed administrator back: %d", status)
	}
	if err := d.Authorize(t.Context(), p, "x/read", "/"); err == nil {
		t.Error("a removed principal's token still has rights")
	}

	replica := t.TempDir()
	a, err := auth.New(t.Context(), auth.Config{Store: d.store, Dir: replica, ExternalURL: d.server.URL})
	if err != nil || a.TenantID() != d.TenantID() {
		t.Errorf("a second hub on the same store: %v", err)
	}
	if _, err := os.Stat(filepath.Join(replica, "admin.json")); err == nil {
		t.Error("the second hub made an administrator of its own")
	}
	_, err = auth.New(t.Context(), auth.Config{Store: d.store, Dir: replica, ExternalURL: d.server.URL, TenantID: "another"})
	if err == nil || !strings.Contains(err.Error(), d.TenantID()) {
		t.Errorf("another tenant id on the same store: %v", err)
	}
}

func TestRotatedSigningKeys(t *testing.T) {
	d := newDirectory(t)
	old := d.token(t)
	path := filepath.Join(d.dir, "signing.key")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	rotated := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), before...)
	if err := os.WriteFile(path, rotated, 0o600); err != nil {
		t.Fatal(err)
	}
	d.Auth = d.open(t)
	header, _ := parts(t, d.token(t))
	oldHeader, _ := parts(t, old)
	if header["kid"] == oldHeader["kid"] {
		t.Error("the new key does not sign")
	}
	if _, err := d.Authenticate(request(old)); err != nil {
		t.Errorf("a token of the old key: %v", err)
	}
	if err := os.WriteFile(path, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := auth.New(t.Context(), auth.Config{Store: d.store, Dir: d.dir, ExternalURL: d.server.URL}); err == nil {
		t.Error("opened without a key")
	}
}

func TestExternalURLMustBeHTTPS(t *testing.T) {
	d := newDirectory(t)
	for _, u := range []string{"", "http://host", "https://", "https://host/path", "host:443"} {
		if _, err := auth.New(t.Context(), auth.Config{Store: d.store, Dir: d.dir, ExternalURL: u}); err == nil {
			t.Errorf("%q accepted", u)
		}
	}
}

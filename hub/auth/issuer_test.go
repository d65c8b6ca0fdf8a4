package auth_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"headwater.dev/hub/auth"
)

const audience = "headwater"

// foreign is an OpenID Connect issuer on loopback, over TLS.
type foreign struct {
	server *httptest.Server
	ca     string
	key    *rsa.PrivateKey

	mu    sync.Mutex
	keys  jose.JSONWebKeySet
	asked int
	down  bool
}

func newForeign(t *testing.T) *foreign {
	t.Helper()
	f := &foreign{key: newKey(t), ca: filepath.Join(t.TempDir(), "ca.crt")}
	f.publish("one", f.key)
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.down {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": f.server.URL, "jwks_uri": f.server.URL + "/keys",
			"authorization_endpoint": f.server.URL + "/a", "token_endpoint": f.server.URL + "/t", "id_token_signing_alg_values_supported": []string{"RS256", "HS256", "none"}})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.asked++
		_ = json.NewEncoder(w).Encode(f.keys)
	})
	f.server = httptest.NewTLSServer(mux)
	t.Cleanup(f.server.Close)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.server.Certificate().Raw})
	if err := os.WriteFile(f.ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

func newKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// publish makes a key the issuer's only one.
func (f *foreign) publish(id string, key *rsa.PrivateKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.key = key
	f.keys = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: id, Algorithm: "RS256", Use: "sig"}}}
}

func (f *foreign) requests() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

func (f *foreign) config() auth.Issuer {
	return auth.Issuer{URL: f.server.URL, Audiences: []string{"other", audience}, CAFile: f.ca}
}

// claims are those of a good token.
func (f *foreign) claims(now time.Time) map[string]any {
	return map[string]any{"iss": f.server.URL, "sub": "repo:web:main", "aud": audience, "name": "Pipeline", "team": "web",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(10 * time.Minute).Unix()}
}

// trusting is a directory that accepts issuers.
func trusting(t *testing.T, issuers ...auth.Issuer) *directory {
	t.Helper()
	d := newDirectory(t)
	a, err := auth.New(t.Context(), auth.Config{Store: d.store, Dir: d.dir, ExternalURL: d.server.URL, Clock: d.clock.Now, Issuers: issuers})
	if err != nil {
		t.Fatal(err)
	}
	d.Auth = a
	return d
}

func TestSubjectsOfSeveralIssuers(t *testing.T) {
	one, two := newForeign(t), newForeign(t)
	d := trusting(t, one.config(), two.config())
	who := map[string]auth.Principal{}
	for name, f := range map[string]*foreign{"one": one, "two": two} {
		p, err := d.Authenticate(request(sign(t, jose.RS256, f.key, "one", f.claims(d.clock.Now()))))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if p.Kind != auth.User || p.ID != "repo:web:main" || p.Name != "Pipeline" || p.Issuer != f.server.URL || p.ObjectID != auth.SubjectID(f.server.URL, p.ID) {
			t.Errorf("%s: %+v", name, p)
		}
		who[name] = p
	}
	if who["one"].ObjectID == who["two"].ObjectID {
		t.Error("one name at two issuers is one principal")
	}
	const action, scope = "Microsoft.X/y/read", "/subscriptions/s"
	if err := d.Authorize(t.Context(), who["one"], action, scope); err == nil {
		t.Error("rights without an assignment")
	}
	if _, err := d.Assign(t.Context(), who["one"].ObjectID, auth.Reader, scope); err != nil {
		t.Fatal(err)
	}
	if err := d.Authorize(t.Context(), who["one"], action, scope); err != nil {
		t.Errorf("with an assignment: %v", err)
	}
	if err := d.Authorize(t.Context(), who["two"], action, scope); err == nil {
		t.Error("the other issuer's subject has them too")
	}
	if _, err := d.Authenticate(request(d.token(t))); err != nil {
		t.Errorf("the hub's own tokens: %v", err)
	}
}

// TestA96ForgedTokensOfIssuers sends tokens of which each is one that must not do.
func TestA96ForgedTokensOfIssuers(t *testing.T) {
	f, other := newForeign(t), newForeign(t)
	config := f.config()
	config.Claims = map[string]string{"team": "web"}
	d := trusting(t, config, other.config())
	now := d.clock.Now()
	good := f.claims(now)
	public, err := json.Marshal(f.keys.Keys[0])
	if err != nil {
		t.Fatal(err)
	}
	token := func(claims map[string]any) string { return sign(t, jose.RS256, f.key, "one", claims) }
	encode := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	raw, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Authenticate(request(token(good))); err != nil {
		t.Fatalf("the good token: %v", err)
	}
	thief := newKey(t)
	withURL := func(name, value string) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: thief}, (&jose.SignerOptions{}).WithHeader("kid", "one").WithHeader(jose.HeaderKey(name), value))
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign(raw)
		if err != nil {
			t.Fatal(err)
		}
		compact, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return compact
	}
	for name, bad := range map[string]string{
		"none":                        encode(`{"alg":"none"}`) + "." + encode(string(raw)) + ".",
		"none with another case":      encode(`{"alg":"nOnE"}`) + "." + encode(string(raw)) + ".",
		"no signature":                strings.Join(strings.Split(token(good), ".")[:2], ".") + ".",
		"HMAC with the public key":    sign(t, jose.HS256, public, "one", good),
		"another key of the same id":  sign(t, jose.RS256, thief, "one", good),
		"a key from the header":       withURL("jku", "https://evil.example/keys"),
		"a certificate's address":     withURL("x5u", "https://evil.example/cert"),
		"another issuer's key":        sign(t, jose.RS256, other.key, "one", good),
		"another issuer's name":       token(with(good, "iss", other.server.URL)),
		"an unknown issuer":           token(with(good, "iss", "https://evil.example")),
		"an issuer with a slash":      token(with(good, "iss", f.server.URL+"/")),
		"the hub's name":              token(with(good, "iss", d.server.URL+"/"+d.TenantID()+"/v2.0")),
		"another audience":            token(with(good, "aud", "else")),
		"no audience":                 token(with(good, "aud", nil)),
		"expired":                     token(with(good, "exp", now.Add(-2*time.Minute).Unix())),
		"for ever":                    token(with(good, "exp", nil)),
		"not yet":                     token(with(good, "nbf", now.Add(2*time.Minute).Unix())),
		"from the future":             token(with(good, "iat", now.Add(2*time.Minute).Unix())),
		"no subject":                  token(with(good, "sub", nil)),
		"an empty subject":            token(with(good, "sub", "")),
		"a subject with a line break": token(with(good, "sub", "a\nb")),
		"a huge subject":              token(with(good, "sub", strings.Repeat("x", 256))),
		"another team":                token(with(good, "team", "ops")),
		"no team":                     token(with(good, "team", nil)),
		"a team that is a list":       token(with(good, "team", []string{"web"})),
		"cut off":                     token(good)[:len(token(good))-4],
		"two tokens":                  token(good) + "." + token(good),
	} {
		var denial *auth.Denial
		p, err := d.Authenticate(request(bad))
		if !errors.As(err, &denial) || denial.Status != http.StatusUnauthorized || p.ObjectID != "" {
			t.Errorf("%s: %+v %v", name, p, err)
		}
		if err != nil && strings.Contains(err.Error(), bad) {
			t.Errorf("%s: the answer repeats the token", name)
		}
	}
	if _, err := d.AuthenticateAgent(request(token(good))); err == nil {
		t.Error("the agents' door takes an issuer's token")
	}
	for name, skewed := range map[string]map[string]any{"just expired": with(good, "exp", now.Add(-30*time.Second).Unix()), "nearly valid": with(good, "nbf", now.Add(30*time.Second).Unix()),
		"several audiences": with(good, "aud", []string{"x", audience})} {
		if _, err := d.Authenticate(request(token(skewed))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIssuersKeysRotateAndAreNotAskedForTooOften(t *testing.T) {
	f := newForeign(t)
	d := trusting(t, f.config())
	authenticate := func(key *rsa.PrivateKey, id string) error {
		_, err := d.Authenticate(request(sign(t, jose.RS256, key, id, f.claims(d.clock.Now()))))
		return err
	}
	if err := authenticate(f.key, "one"); err != nil {
		t.Fatal(err)
	}
	old := f.key
	f.publish("two", newKey(t))
	if err := authenticate(f.key, "two"); err != nil {
		t.Errorf("the new key: %v", err)
	}
	if err := authenticate(old, "one"); err == nil {
		t.Error("the old key is still good")
	}
	before := f.requests()
	for range 50 {
		if err := authenticate(old, "made up"); err == nil {
			t.Fatal("a made-up key is good")
		}
	}
	if n := f.requests() - before; n > 10 {
		t.Errorf("50 made-up key ids made %d requests", n)
	}
	if err := authenticate(f.key, "two"); err != nil {
		t.Errorf("the known key meanwhile: %v", err)
	}
}

func TestAnIssuerThatIsDown(t *testing.T) {
	f := newForeign(t)
	f.down = true
	d := trusting(t, f.config())
	token := sign(t, jose.RS256, f.key, "one", f.claims(d.clock.Now()))
	var denial *auth.Denial
	if _, err := d.Authenticate(request(token)); !errors.As(err, &denial) || denial.Status != http.StatusServiceUnavailable {
		t.Errorf("down: %v", err)
	}
	f.mu.Lock()
	f.down = false
	f.mu.Unlock()
	if _, err := d.Authenticate(request(token)); err != nil {
		t.Errorf("up again: %v", err)
	}
}

func TestIssuersFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "issuers.json")
	for name, c := range map[string]struct{ text, says string }{
		"good":        {`[{"url":"https://a.example","audiences":["x"]},{"url":"https://b.example/c","audiences":["y"],"claims":{"a":"b"},"nameClaim":"email"}]`, ""},
		"http":        {`[{"url":"http://a.example","audiences":["x"]}]`, "https://"},
		"no audience": {`[{"url":"https://a.example"}]`, "audience is required"},
		"a typo":      {`[{"url":"https://a.example","audience":["x"]}]`, "audience"},
		"no CA":       {`[{"url":"https://a.example","audiences":["x"],"caFile":"/nowhere"}]`, "/nowhere"},
		"no list":     {`{}`, "issuers.json"},
		"twice":       {`[{"url":"https://a.example","audiences":["x"]},{"url":"https://a.example","audiences":["y"]}]`, "given twice"},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		issuers, err := auth.ReadIssuers(file)
		if err == nil {
			d := newDirectory(t)
			_, err = auth.New(t.Context(), auth.Config{Store: d.store, Dir: d.dir, ExternalURL: d.server.URL, Issuers: issuers})
		}
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

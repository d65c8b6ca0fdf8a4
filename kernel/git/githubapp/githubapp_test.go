package githubapp

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// github issues tokens to who proves to hold the key of app 42.
type github struct {
	*httptest.Server
	key    *rsa.PrivateKey
	issued atomic.Int32
	life   time.Duration
}

func newGitHub(t *testing.T) *github {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	g := &github{key: key, life: time.Hour}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v3/app/installations/7/access_tokens", g.checked(func(w http.ResponseWriter) {
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"token":"ghs_%d","expires_at":%q}`, g.issued.Add(1), time.Now().Add(g.life).Format(time.RFC3339))
	}))
	mux.HandleFunc("GET /api/v3/users/ann/installation", g.checked(func(w http.ResponseWriter) { fmt.Fprint(w, `{"id":7}`) }))
	mux.HandleFunc("POST /away/app/installations/7/access_tokens", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/api/v3/app/installations/7/access_tokens", http.StatusTemporaryRedirect)
	})
	g.Server = httptest.NewTLSServer(mux)
	t.Cleanup(g.Close)
	return g
}

// checked lets those through whose JWT is signed by the app, current, and short.
func (g *github) checked(next func(http.ResponseWriter)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		parts := strings.Split(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), ".")
		var claims struct {
			Iat, Exp int64
			Iss      string
		}
		ok := len(parts) == 3
		if ok {
			sig, err := base64.RawURLEncoding.DecodeString(parts[2])
			body, err2 := base64.RawURLEncoding.DecodeString(parts[1])
			sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
			ok = err == nil && err2 == nil && json.Unmarshal(body, &claims) == nil &&
				rsa.VerifyPKCS1v15(&g.key.PublicKey, crypto.SHA256, sum[:], sig) == nil
		}
		now := time.Now().Unix()
		if !ok || claims.Iss != "42" || claims.Iat > now || claims.Exp <= now || claims.Exp-claims.Iat > 600 {
			http.Error(w, "canary of the answer", http.StatusUnauthorized)
			return
		}
		next(w)
	}
}

func (g *github) data(change map[string]string) map[string][]byte {
	data := map[string][]byte{keyID: []byte("42"), keyInstallation: []byte("7"), keyBaseURL: []byte(g.URL + "/api/v3"),
		keyPrivateKey: pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(g.key)})}
	for k, v := range change {
		if data[k] = []byte(v); v == "" {
			delete(data, k)
		}
	}
	return data
}

func (g *github) app(t *testing.T, change map[string]string) App {
	t.Helper()
	a, err := Parse(g.data(change))
	if err != nil {
		t.Fatal(err)
	}
	a.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.Certificate().Raw})
	return a
}

func TestTokensAreKeptUntilShortlyBeforeTheirEnd(t *testing.T) {
	g := newGitHub(t)
	now := time.Now()
	tokens := NewTokens(func() time.Time { return now })
	app := g.app(t, nil)
	get := func(a App) string {
		t.Helper()
		token, err := tokens.Get(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { get(app) })
	}
	all.Wait()
	if got := get(app); got != "ghs_1" {
		t.Errorf("token %s: asked more than once", got)
	}
	if got := get(g.app(t, map[string]string{keyInstallation: "", keyOwner: "ann"})); got != "ghs_2" {
		t.Errorf("token by owner: %s", got)
	}
	tokens.Forget(app)
	if got := get(app); got != "ghs_3" {
		t.Errorf("token after it was refused: %s", got)
	}
	now = now.Add(g.life - spare + time.Minute) // GitHub's clock went on since
	g.life *= 2
	if _, err := tokens.Get(t.Context(), app); err == nil {
		t.Error("GitHub took a JWT of the future")
	}
}

func TestRefusals(t *testing.T) {
	g := newGitHub(t)
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(other)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]map[string]string{
		"another app":     {keyID: "43"},
		"another key":     {keyPrivateKey: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))},
		"no installation": {keyInstallation: "8"},
		"unknown owner":   {keyInstallation: "", keyOwner: "bob"},
		"a redirect":      {keyBaseURL: g.URL + "/away"},
	} {
		_, err := NewTokens(time.Now).Get(t.Context(), g.app(t, change))
		if !errors.Is(err, ErrRefused) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
	untrusted := g.app(t, nil)
	untrusted.CA = nil
	if _, err := NewTokens(time.Now).Get(t.Context(), untrusted); !errors.Is(err, ErrRefused) {
		t.Errorf("unknown authority: %v", err)
	}
	for key, bad := range map[string]string{keyID: "me", keyInstallation: "7x", keyPrivateKey: "canary", keyBaseURL: "http://plain.example.com", keyOwner: "both"} {
		_, err := Parse(g.data(map[string]string{key: bad}))
		if !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), key) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", key, err)
		}
	}
}

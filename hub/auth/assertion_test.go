package auth_test

import (
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
)

const assertionKind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// signInFrom asks one replica for a token, as if from an address.
func signInFrom(t *testing.T, a *auth.Auth, from string, form url.Values) (int, string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/"+a.TenantID()+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.RemoteAddr = from + ":1234"
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// TestA96ReplayedAssertions shows again what a client showed before: to the same
// replica and another, from its own address and a thief's.
func TestA96ReplayedAssertions(t *testing.T) {
	d := newDirectory(t)
	p, _, err := d.CreatePrincipal(t.Context(), "pipeline", -1)
	if err != nil {
		t.Fatal(err)
	}
	now := d.clock.Now()
	c := certify(t, now)
	if _, err := d.AddCertificate(t.Context(), p.ID, "key", c.pem()); err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(c.der)
	form := func(id string, life time.Duration) url.Values {
		claims := map[string]any{"iss": p.ID, "sub": p.ID, "aud": d.server.URL + "/" + d.TenantID() + "/oauth2/v2.0/token", "jti": id, "exp": d.clock.Now().Add(life).Unix()}
		return url.Values{"grant_type": {"client_credentials"}, "client_id": {p.ID}, "scope": {d.server.URL + "/.default"}, "client_assertion_type": {assertionKind},
			"client_assertion": {c.assert(t, jose.RS256, "x5t", base64.RawURLEncoding.EncodeToString(sum[:]), claims)}}
	}
	one, two := d.Auth, d.open(t)
	const mine, thief = "192.0.2.1", "203.0.113.9"
	seen := form("a", 50*time.Minute)
	for _, step := range []struct {
		why     string
		replica *auth.Auth
		from    string
		status  int
		after   time.Duration
	}{
		{"its first use", one, mine, 200, 0},
		{"by a thief, at the same replica", one, thief, 401, 0},
		{"by a thief, at another replica", two, thief, 401, 0},
		{"by the client again, whose answer was lost", two, mine, 200, time.Minute},
		{"for another resource, as Microsoft's library for Python does", one, mine, 200, 8 * time.Minute},
		{"at its own address, but later", one, mine, 401, 2 * time.Minute},
		{"just before it expires", two, thief, 401, 38 * time.Minute},
	} {
		d.clock.Add(step.after)
		if status, text := signInFrom(t, step.replica, step.from, seen); status != step.status || status == 401 && !strings.Contains(text, "was used before") {
			t.Errorf("%s: %d %s", step.why, status, text)
		}
	}
	if status, text := signInFrom(t, one, mine, form("b", 10*time.Minute)); status != 200 {
		t.Errorf("a new one: %d %s", status, text)
	}
}

// TestAssertionsAreBounded signs in without end: what is too much leaves nothing
// in the store, and is no other client's loss.
func TestAssertionsAreBounded(t *testing.T) {
	d := newDirectory(t)
	now := d.clock.Now()
	c := certify(t, now)
	sum := sha1.Sum(c.der)
	signIn := func(client, id string) int {
		claims := map[string]any{"iss": client, "sub": client, "aud": d.server.URL + "/" + d.TenantID() + "/oauth2/v2.0/token", "jti": id, "exp": now.Add(10 * time.Minute).Unix()}
		status, _ := signInFrom(t, d.Auth, "192.0.2.1", url.Values{"grant_type": {"client_credentials"}, "client_id": {client}, "client_assertion_type": {assertionKind},
			"client_assertion": {c.assert(t, jose.RS256, "x5t", base64.RawURLEncoding.EncodeToString(sum[:]), claims)}})
		return status
	}
	var clients [2]string
	for i := range clients {
		p, _, err := d.CreatePrincipal(t.Context(), fmt.Sprint("pipeline-", i), -1)
		if err == nil {
			_, err = d.AddCertificate(t.Context(), p.ID, "key", c.pem())
		}
		if err != nil {
			t.Fatal(err)
		}
		clients[i] = p.ID
	}
	answers := map[int]int{}
	for i := range 150 {
		answers[signIn(clients[0], fmt.Sprint(i))]++
	}
	kept := 0
	if _, err := store.Each(t.Context(), d.store, "/client-assertions/", func(store.Record) error { kept++; return nil }); err != nil {
		t.Fatal(err)
	}
	if answers[429] == 0 || answers[200] != kept || answers[200]+answers[429] != 150 {
		t.Errorf("answers %v, %d assertions kept", answers, kept)
	}
	if status := signIn(clients[1], "1"); status != 200 {
		t.Errorf("another client pays for it: %d", status)
	}
}

// TestCertificatesRotateAndExpire signs in with two certificates at once, then
// with the newer alone, and with neither when both have ended.
func TestCertificatesRotateAndExpire(t *testing.T) {
	d := newDirectory(t)
	p, _, err := d.CreatePrincipal(t.Context(), "pipeline", -1)
	if err != nil {
		t.Fatal(err)
	}
	first := certify(t, d.clock.Now())
	d.clock.Add(30 * time.Minute)
	second := certify(t, d.clock.Now())
	for _, c := range []certified{first, second} {
		if _, err := d.AddCertificate(t.Context(), p.ID, "", c.pem()); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	signIn := func(c certified) (int, string) {
		sum := sha1.Sum(c.der)
		n++
		claims := map[string]any{"iss": p.ID, "sub": p.ID, "aud": d.server.URL + "/" + d.TenantID() + "/oauth2/v2.0/token", "jti": fmt.Sprint(n), "exp": d.clock.Now().Add(10 * time.Minute).Unix()}
		return signInFrom(t, d.Auth, "192.0.2.1", url.Values{"grant_type": {"client_credentials"}, "client_id": {p.ID}, "client_assertion_type": {assertionKind},
			"client_assertion": {c.assert(t, jose.RS256, "x5t", base64.RawURLEncoding.EncodeToString(sum[:]), claims)}})
	}
	for _, step := range []struct {
		why   string
		after time.Duration
		want  [2]int
	}{
		{"both are good", 0, [2]int{200, 200}},
		{"the first has ended", 31 * time.Minute, [2]int{401, 200}},
		{"both have ended", 30 * time.Minute, [2]int{401, 401}},
	} {
		d.clock.Add(step.after)
		for i, c := range []certified{first, second} {
			status, text := signIn(c)
			if status != step.want[i] || status == 401 && !strings.Contains(text, "AADSTS7000222") {
				t.Errorf("%s: certificate %d: %d %s", step.why, i+1, status, text)
			}
		}
	}
}

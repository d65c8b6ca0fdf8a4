package hub

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"headwater.dev/hub/limit"
)

// bearer is a token of the administrator.
func (r *running) bearer(t *testing.T) string {
	t.Helper()
	resp, err := r.http.PostForm(r.URL()+"/"+r.admin.TenantID+"/oauth2/v2.0/token", url.Values{"grant_type": {"client_credentials"},
		"client_id": {r.admin.ClientID}, "client_secret": {r.admin.ClientSecret}, "scope": {r.URL() + "/.default"}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.AccessToken == "" {
		t.Fatalf("%s %v", resp.Status, err)
	}
	return answer.AccessToken
}

func (r *running) send(t *testing.T, method, path, token string, body io.Reader, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.URL()+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := r.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() }) // read or not
	return resp
}

// TestPeopleOfTheCommandLine reads the flags about people.
func TestPeopleOfTheCommandLine(t *testing.T) {
	var p People
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	p.flags(f)
	if err := f.Parse([]string{"--oidc-issuer", "https://a.example/x=y=z", "--oidc-issuer=https://b.example=w", "--limit-reads", "7", "--limit-address-burst", "9",
		"--activity-retention", "24h", "--activity-max", "5"}); err != nil {
		t.Fatal(err)
	}
	issuers, err := p.issuers()
	if err != nil || len(issuers) != 2 || issuers[0].URL != "https://a.example/x=y" || issuers[0].Audiences[0] != "z" || issuers[1].Audiences[0] != "w" {
		t.Errorf("issuers: %+v %v", issuers, err)
	}
	if p.Limits.Reads.PerSecond != 7 || p.Limits.Address.Burst != 9 || p.Limits.Writes != limit.Defaults().Writes || p.ActivityRetention != 24*time.Hour || p.ActivityMax != 5 {
		t.Errorf("people: %+v", p)
	}
	for flag, says := range map[string]string{"--oidc-issuer=https://a.example": "URL=AUDIENCE", "--oidc-issuers=/nowhere": "/nowhere"} {
		var p People
		f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
		p.flags(f)
		if err := f.Parse([]string{flag}); err != nil {
			t.Fatal(err)
		}
		if _, err := p.issuers(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", flag, err)
		}
	}
	if _, err := New(t.Context(), Config{DataDir: t.TempDir(), People: People{Issuers: []string{"http://a.example=x"}}}); err == nil || !strings.Contains(err.Error(), "https://") {
		t.Errorf("an issuer without TLS: %v", err)
	}
}

// TestLimits knocks harder than is allowed, in each way there is.
func TestLimits(t *testing.T) {
	r := run(t, Config{People: People{LimitsSet: true, Limits: limit.Config{Reads: limit.Rate{PerSecond: 0.01, Burst: 3},
		Address: limit.Rate{PerSecond: 0.01, Burst: 3*limit.RefusedCosts + 20}}}})
	token := r.bearer(t)
	const path = "/subscriptions?api-version=2022-12-01"
	for want := 2; want >= 0; want-- {
		resp := r.send(t, "GET", path, token, nil)
		if got := resp.Header.Get("X-Ms-Ratelimit-Remaining-Subscription-Reads"); resp.StatusCode != 200 || got != string(rune('0'+want)) {
			t.Errorf("%d remaining: %s %q", want, resp.Status, got)
		}
	}
	resp := r.send(t, "GET", path, token, nil)
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(raw), `"TooManyRequests"`) {
		t.Errorf("one too many: %s %v %s", resp.Status, resp.Header, raw)
	}
	if resp := r.send(t, "PUT", "/subscriptions/"+r.admin.SubscriptionID+"/resourceGroups/g?api-version=2022-09-01", token,
		bytes.NewReader(make([]byte, 2<<20)), "Content-Type", "application/json"); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a body of 2 MiB: %s", resp.Status)
	}
	if resp := r.send(t, "GET", path, token, nil, "X-Long", strings.Repeat("x", 64<<10)); resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a header of 64 KiB: %s", resp.Status)
	}
	refused := 0
	for range 10 {
		switch resp := r.send(t, "GET", path, "made-up", nil); resp.StatusCode {
		case http.StatusUnauthorized:
			refused++
		case http.StatusTooManyRequests:
			if resp := r.send(t, "GET", "/healthz", "", nil); resp.StatusCode != 200 {
				t.Errorf("health of a busy hub: %s", resp.Status)
			}
			if refused != 4 { // the last one took what was left
				t.Errorf("%d guesses were free", refused)
			}
			return
		default:
			t.Fatalf("a made-up token: %s", resp.Status)
		}
	}
	t.Error("guesses are never slowed down")
}

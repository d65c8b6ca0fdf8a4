package hub

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"headwater.dev/api/link"
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

// TestABodyThatNeverComes keeps bodies back, at doors that read them and at those
// that do not: neither keeps a connection for ever.
func TestABodyThatNeverComes(t *testing.T) {
	r := run(t, Config{})
	r.server.ReadTimeout = 300 * time.Millisecond
	token := r.bearer(t)
	role := "/providers/Microsoft.Authorization/roleDefinitions/" + strings.Repeat("a", 8) + "-0000-0000-0000-000000000000"
	for name, request := range map[string]string{
		"unread":    "POST /subscriptions HTTP/1.1\r\nHost: h\r\n",
		"the agent": "POST /agents/v1/observed HTTP/1.1\r\nHost: h\r\n",
		"a login":   "POST /common/oauth2/v2.0/token HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\n",
		"a role":    "PUT " + role + "?api-version=2022-04-01 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer " + token + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := tls.Dial("tcp", strings.TrimPrefix(r.URL(), "https://"), r.http.Transport.(*http.Transport).TLSClientConfig.Clone())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(c, request+"Content-Length: 100\r\n\r\n{"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection is still there")
			}
		})
	}
}

// TestStreamsOutlastTheLimitOnBodies waits for changes longer than a body may
// take, over both versions of HTTP.
func TestStreamsOutlastTheLimitOnBodies(t *testing.T) {
	r := run(t, Config{})
	if limit := r.server.ReadTimeout; limit <= 0 || limit > time.Minute {
		t.Errorf("a body may take %s", limit)
	}
	r.server.ReadTimeout = 200 * time.Millisecond
	group := "/subscriptions/" + r.admin.SubscriptionID + "/resourceGroups/g"
	f := newFake(t, r, group+"/providers/Microsoft.Kubernetes/connectedClusters/c")
	token := r.bearer(t)
	if resp := r.send(t, "PUT", group+"?api-version=2022-09-01", token, strings.NewReader(`{"location":"local"}`)); resp.StatusCode != 201 {
		t.Fatal(resp.Status)
	}
	if resp := r.send(t, "PUT", f.cluster+"?api-version=2024-01-01", token, strings.NewReader(`{"location":"local","identity":{"type":"SystemAssigned"},`+
		`"properties":{"agentPublicKeyCertificate":"`+f.certificate()+`"}}`)); resp.StatusCode != 201 {
		t.Fatal(resp.Status)
	}
	for _, version := range []bool{false, true} {
		transport := &http.Transport{TLSClientConfig: r.http.Transport.(*http.Transport).TLSClientConfig.Clone(), ForceAttemptHTTP2: version}
		transport.TLSClientConfig.NextProtos = nil
		t.Cleanup(transport.CloseIdleConnections)
		r.http = &http.Client{Transport: transport, Timeout: time.Minute}
		if got := r.send(t, "GET", "/healthz", "", nil).ProtoMajor; (got == 2) != version {
			t.Errorf("HTTP/%d, want HTTP/2: %v", got, version)
		}
		if err := f.login(t.Context()); err != nil {
			t.Fatal(err)
		}
		d, err := f.desired(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		var m link.Message
		path := link.PathDesired + "?stream=false&wait=1s&revision=" + strconv.FormatInt(d.Revision, 10)
		if err := f.call(t.Context(), http.MethodGet, path, "application/json", nil, &m); err != nil || m.Desired != nil {
			t.Errorf("HTTP/2 %v: %+v %v", version, m.Desired, err)
		}
	}
}

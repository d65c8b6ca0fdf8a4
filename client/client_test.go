package client

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"headwater.dev/api/arm"
)

const (
	tenant       = "11111111-1111-1111-1111-111111111111"
	subscription = "22222222-2222-2222-2222-222222222222"
	cluster      = "/subscriptions/" + subscription + "/resourceGroups/g/providers/Microsoft.Kubernetes/connectedClusters/c"
)

// contract is a server that speaks the contract: it gives tokens, refuses
// requests without the newest one, and answers from a script.
type contract struct {
	*httptest.Server
	mu       sync.Mutex
	tokens   int
	requests []string
	bodies   []string
	answers  map[string][]reply // by "METHOD path", used up one by one; the last stays
}

type reply struct {
	status int
	header map[string]string
	body   string
}

func serve(t *testing.T, answers map[string][]reply) (*contract, *Client) {
	t.Helper()
	c := &contract{answers: answers}
	c.Server = httptest.NewTLSServer(http.HandlerFunc(c.handle))
	t.Cleanup(c.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw})
	client, err := New(Config{Hub: c.URL + "/", CA: ca, TenantID: tenant, ClientID: "id", ClientSecret: "secret", SubscriptionID: subscription})
	if err != nil {
		t.Fatal(err)
	}
	return c, client
}

func (c *contract) handle(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.URL.Path == "/"+tenant+"/oauth2/v2.0/token" {
		if r.PostFormValue("client_secret") != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"error":"invalid_client","error_description":"the secret is wrong"}`)
			return
		}
		c.tokens++
		fmt.Fprintf(w, `{"access_token":"token-%d","expires_in":3600}`, c.tokens)
		return
	}
	body, _ := io.ReadAll(r.Body) // a broken body shows in the comparison
	what := r.Method + " " + r.URL.RequestURI()
	c.requests, c.bodies = append(c.requests, what), append(c.bodies, string(body))
	if r.Header.Get("Authorization") != fmt.Sprintf("Bearer token-%d", c.tokens) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	left := c.answers[what]
	if len(left) == 0 {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"error":{"code":"ResourceNotFound","message":"there is no such thing"}}`)
		return
	}
	if len(left) > 1 {
		c.answers[what] = left[1:]
	}
	for k, v := range left[0].header {
		w.Header().Set(k, strings.ReplaceAll(v, "HUB", c.URL))
	}
	w.WriteHeader(left[0].status)
	fmt.Fprint(w, strings.ReplaceAll(left[0].body, "HUB", c.URL))
}

type thing struct {
	Name string `json:"name"`
}

func TestListReadsAllPagesWithOneToken(t *testing.T) {
	s, c := serve(t, map[string][]reply{
		"GET /things?api-version=1":        {{status: 200, body: `{"value":[{"name":"a"}],"nextLink":"HUB/things?api-version=1&skip=1"}`}},
		"GET /things?api-version=1&skip=1": {{status: 200, body: `{"value":[{"name":"b"}]}`}},
	})
	got, err := List[thing](t.Context(), c, "/things", "1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]thing{{"a"}, {"b"}}, got); diff != "" {
		t.Error(diff)
	}
	if s.tokens != 1 {
		t.Errorf("%d tokens for two pages, want 1", s.tokens)
	}
}

func TestTokenGoesToTheHubAlone(t *testing.T) {
	for _, link := range []string{"https://elsewhere.example/things", "http://HOST/things"} {
		_, c := serve(t, map[string][]reply{"GET /things?api-version=1": {{status: 200, body: `{"value":[],"nextLink":"` + link + `"}`}}})
		if _, err := List[thing](t.Context(), c, "/things", "1"); err == nil || !strings.Contains(err.Error(), "is not a URL of the hub") {
			t.Errorf("a page at %s was followed: %v", link, err)
		}
	}
}

func TestExpiredTokenIsRenewedOnce(t *testing.T) {
	s, c := serve(t, map[string][]reply{"GET /x?api-version=1": {{status: 200, body: `{"name":"x"}`}}})
	if _, err := Get[thing](t.Context(), c, "/x", "1"); err != nil {
		t.Fatal(err)
	}
	s.tokens++ // the first token is no longer good
	if _, err := Get[thing](t.Context(), c, "/x", "1"); err != nil {
		t.Errorf("no new token was asked for: %v", err)
	}
}

func TestOperation(t *testing.T) {
	const op = "/x/operations/1?api-version=1"
	started := func(status int) reply {
		return reply{status: status, header: map[string]string{arm.HeaderAsyncOperation: "HUB" + op, arm.HeaderRetryAfter: "0"}, body: `{"name":"accepted"}`}
	}
	running := reply{status: 200, header: map[string]string{arm.HeaderRetryAfter: "0"}, body: `{"status":"Creating"}`}
	tests := map[string]struct {
		why     string
		answers map[string][]reply
		run     func(context.Context, *Client) (*Poller[thing], error)
		want    string
		wantErr string
	}{
		"at once": {
			why:     "without a polling URL nothing is waited for",
			answers: map[string][]reply{"PUT /x?api-version=1": {{status: 200, body: `{"name":"done"}`}}},
			run: func(ctx context.Context, c *Client) (*Poller[thing], error) {
				return Put[thing](ctx, c, "/x", "1", thing{"x"})
			},
			want: "done",
		},
		"succeeds": {
			why: "the resource is read when the operation has ended",
			answers: map[string][]reply{"PUT /x?api-version=1": {started(201)}, "GET " + op: {running, running, {status: 200, body: `{"status":"Succeeded"}`}},
				"GET /x?api-version=1": {{status: 200, body: `{"name":"final"}`}}},
			run: func(ctx context.Context, c *Client) (*Poller[thing], error) {
				return Put[thing](ctx, c, "/x", "1", thing{"x"})
			},
			want: "final",
		},
		"fails": {
			why: "the operation's error is the caller's error",
			answers: map[string][]reply{"PATCH /x?api-version=1": {started(202)},
				"GET " + op: {running, {status: 200, body: `{"status":"Failed","error":{"code":"AgentTimeout","message":"silent"}}`}}},
			run: func(ctx context.Context, c *Client) (*Poller[thing], error) {
				return Patch[thing](ctx, c, "/x", "1", thing{"x"})
			},
			wantErr: "AgentTimeout: silent",
		},
		"fails without a reason": {
			why:     "an operation can end badly without an error",
			answers: map[string][]reply{"PATCH /x?api-version=1": {started(202)}, "GET " + op: {{status: 200, body: `{"status":"Canceled"}`}}},
			run: func(ctx context.Context, c *Client) (*Poller[thing], error) {
				return Patch[thing](ctx, c, "/x", "1", thing{"x"})
			},
			wantErr: "the operation on /x ended as Canceled",
		},
		"hub away": {
			why: "a hub that is restarted in the middle is asked again",
			answers: map[string][]reply{"PUT /x?api-version=1": {started(201)}, "GET " + op: {{status: 503, header: map[string]string{arm.HeaderRetryAfter: "0"}}, {status: 200, body: `{"status":"Succeeded"}`}},
				"GET /x?api-version=1": {{status: 200, body: `{"name":"final"}`}}},
			run: func(ctx context.Context, c *Client) (*Poller[thing], error) {
				return Put[thing](ctx, c, "/x", "1", thing{"x"})
			},
			want: "final",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, c := serve(t, tc.answers)
			p, err := tc.run(t.Context(), c)
			if err != nil {
				t.Fatalf("%s: %v", tc.why, err)
			}
			got, err := p.Wait(t.Context())
			if tc.wantErr != "" {
				if err == nil || err.Error() != tc.wantErr {
					t.Fatalf("%s: got error %v, want %s", tc.why, err, tc.wantErr)
				}
				return
			}
			if err != nil || got.Name != tc.want {
				t.Errorf("%s: got %q, %v, want %q", tc.why, got.Name, err, tc.want)
			}
		})
	}
}

func TestDelete(t *testing.T) {
	const op = "/x/operations/1?api-version=1"
	s, c := serve(t, map[string][]reply{
		"DELETE /x?api-version=1&forceDelete=true": {{status: 202, header: map[string]string{arm.HeaderAsyncOperation: "HUB" + op, arm.HeaderRetryAfter: "0"}}},
		"GET " + op: {{status: 200, body: `{"status":"Succeeded"}`}},
	})
	p, err := Delete(t.Context(), c, "/x", "1", true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"DELETE /x?api-version=1&forceDelete=true", "GET " + op}
	if diff := cmp.Diff(want, s.requests); diff != "" {
		t.Errorf("a deleted resource is not read: %s", diff)
	}
}

func TestDeleteAtALocation(t *testing.T) {
	const place = "/subscriptions/s/operationresults/1?api-version=1"
	going := reply{status: 202, header: map[string]string{"Location": "HUB" + place, arm.HeaderRetryAfter: "0"}}
	s, c := serve(t, map[string][]reply{"DELETE /x?api-version=1": {going}, "GET " + place: {going, going, {status: 200}}})
	p, err := Delete(t.Context(), c, "/x", "1", false)
	if err != nil || p.Done() {
		t.Fatalf("done %v, %v", p.Done(), err)
	}
	if _, err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(s.requests) != 4 || !p.Done() {
		t.Errorf("asked %v", s.requests)
	}
}

func TestErrors(t *testing.T) {
	_, c := serve(t, map[string][]reply{
		"GET /bad?api-version=1":   {{status: 400, header: map[string]string{arm.HeaderRequestID: "r1"}, body: `{"error":{"code":"ValidationFailed","message":"2 problems","details":[{"code":"Invalid","target":"a","message":"is missing"}]}}`}},
		"GET /proxy?api-version=1": {{status: 502, body: `<html>`}},
	})
	_, err := Get[thing](t.Context(), c, "/missing", "1")
	if !IsNotFound(err) || arm.CodeOf(err) != arm.CodeNotFound {
		t.Errorf("a missing resource gives %v", err)
	}
	_, err = Get[thing](t.Context(), c, "/bad", "1")
	var e *Error
	if !errors.As(err, &e) || e.Status != 400 || e.RequestID != "r1" || len(e.Detail.Details) != 1 {
		t.Fatalf("an ARM error is %#v", err)
	}
	if want := "ValidationFailed: 2 problems; a: is missing"; err.Error() != want {
		t.Errorf("its text is %q, want %q", err, want)
	}
	if _, err := Get[thing](t.Context(), c, "/proxy", "1"); err == nil || err.Error() != "502: Bad Gateway" {
		t.Errorf("an answer that is no ARM error gives %v", err)
	}
}

func TestProviderIsRegisteredWhenItHasToBe(t *testing.T) {
	path := "PUT " + cluster + "?api-version=1"
	s, c := serve(t, map[string][]reply{
		path: {{status: 409, body: `{"error":{"code":"MissingSubscriptionRegistration","message":"register it"}}`}, {status: 201, body: `{"name":"c"}`}},
		"POST /subscriptions/" + subscription + "/providers/Microsoft.Kubernetes/register?api-version=" + VersionCore: {{status: 200, body: `{}`}},
	})
	p, err := Put[thing](t.Context(), c, cluster, "1", thing{"c"})
	if err != nil || p.Accepted().Name != "c" {
		t.Fatalf("got %v after %v", err, s.requests)
	}
}

func TestSend(t *testing.T) {
	s, c := serve(t, map[string][]reply{"POST /a/b?api-version=1": {{status: 200, body: `{"ok":true}`}}})
	for _, target := range []string{"/a/b?api-version=1", "a/b?api-version=1", s.URL + "/a/b?api-version=1"} {
		got, err := c.Send(t.Context(), http.MethodPost, target, []byte(`{"x":1}`))
		if err != nil || string(got) != `{"ok":true}` || s.bodies[len(s.bodies)-1] != `{"x":1}` {
			t.Errorf("%s: got %s, %v", target, got, err)
		}
	}
	if _, err := c.Send(t.Context(), http.MethodGet, "https://elsewhere.example/", nil); err == nil {
		t.Error("a request to another server was sent")
	}
}

func TestWrongSecret(t *testing.T) {
	s, good := serve(t, nil)
	config := good.config
	config.ClientSecret = "wrong"
	c, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Get[thing](t.Context(), c, "/x", "1")
	var login *LoginError
	if !errors.As(err, &login) || login.Code != "invalid_client" || len(s.requests) != 0 {
		t.Errorf("got %v and requests %v", err, s.requests)
	}
	if strings.Contains(err.Error(), "wrong\"") {
		t.Errorf("the error holds the secret: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	full := Config{Hub: "https://hub", TenantID: "t", ClientID: "c", ClientSecret: "s"}
	for name, change := range map[string]func(*Config){
		"plain http": func(c *Config) { c.Hub = "http://hub" }, "no host": func(c *Config) { c.Hub = "https://" },
		"no secret": func(c *Config) { c.ClientSecret = "" }, "no tenant": func(c *Config) { c.TenantID = "" },
		"CA that is none": func(c *Config) { c.CA = []byte("x") },
	} {
		config := full
		change(&config)
		if _, err := New(config); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestWireShape(t *testing.T) {
	const text = `{"id":"i","name":"n","properties":{"scope":"cluster","namespace":"default","sourceKind":"GitRepository",
		"gitRepository":{"url":"https://x/y"},"complianceState":"Compliant","provisioningState":"Succeeded",
		"statuses":[{"name":"n","kind":"GitRepository","statusConditions":[{"type":"Ready","status":"True"}]}]}}`
	var got Resource[Configuration]
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	p := got.Properties
	if p.GitRepository == nil || p.GitRepository.URL != "https://x/y" || p.ComplianceState != "Compliant" || len(p.Statuses) != 1 {
		t.Errorf("got %+v", p)
	}
}

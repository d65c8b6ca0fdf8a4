package rest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"headwater.dev/hub/auth"
)

// The tests of this file are the attacks A90 to A98 of the house's list.

const (
	otherSubscription = "cccccccc-0000-0000-0000-000000000003"
	hidden            = "hidden-4711" // is in everything that strangers must not see
	hidden64          = "aGlkZGVuLTQ3MTE="
)

// as sends a request as somebody else.
func (h *hub) as(token, method, path, body string, header ...string) answered {
	h.t.Helper()
	if token == "" {
		token = "none"
	}
	return h.send(method, path, body, append(header, "Authorization: Bearer "+token)...)
}

// somebody is the token of a new service principal with roles at scopes.
func (h *hub) somebody(role auth.Role, scopes ...string) string {
	h.t.Helper()
	p, secret, err := h.auth.CreatePrincipal(h.t.Context(), "somebody", 0)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, scope := range scopes {
		if _, err := h.auth.Assign(h.t.Context(), p.ObjectID, role, scope); err != nil {
			h.t.Fatal(err)
		}
	}
	return h.login(p.ID, secret)
}

// treasure fills the hub with what strangers must not see, and answers the
// operation of a change that is under way.
func (h *hub) treasure() (operation string) {
	h.t.Helper()
	h.must(201, "PUT", inGroup+"?api-version=2022-09-01", `{"location":"local","tags":{"secret":"`+hidden+`"}}`)
	h.must(201, "PUT", inCluster+"?api-version=2024-01-01",
		`{"location":"local","tags":{"secret":"`+hidden+`"},"properties":{"agentPublicKeyCertificate":"`+testCertificate()+`"}}`)
	h.must(201, "PUT", inConfigurations+"/apps?api-version=2023-05-01", `{"properties":{"namespace":"apps","sourceKind":"GitRepository","gitRepository":`+
		`{"url":"https://git.example/`+hidden+`","httpsUser":"u","repositoryRef":{"branch":"main"}},"kustomizations":{"a":{"path":"./x"}},`+
		`"configurationProtectedSettings":{"httpsKey":"`+hidden64+`"}}}`)
	return h.desired(inConfigurations + "/apps").OperationID
}

var placeholder = regexp.MustCompile(`\{[a-z]+\}`)

// fill puts names into a route's pattern. present are those of things that there are.
func fill(pattern, operation string, present bool) (method, path string) {
	method, path, _ = strings.Cut(pattern, " ")
	names := map[string]string{"{sub}": testSubscription, "{group}": "fleet", "{rp}": "Microsoft.Kubernetes", "{kind}": "connectedClusters", "{cluster}": "Berlin",
		"{name}": "apps", "{op}": operation, "{ns}": "Microsoft.KubernetesConfiguration", "{location}": "local", "{type}": "microsoft.flux", "{version}": "1.0.0"}
	if !present {
		names["{sub}"], names["{group}"], names["{cluster}"], names["{name}"] = otherSubscription, "absent", "Absent", "absent"
	}
	return method, placeholder.ReplaceAllStringFunc(path, func(p string) string { return names[p] })
}

// versionFor is one that a route accepts.
func versionFor(typ string) string {
	if strings.HasPrefix(typ, "Microsoft.Kubernetes/") {
		return "2024-01-01"
	}
	return "2023-05-01"
}

// TestA90StrangersLearnNothing is made from the route table: every route, by
// everybody who has no business there, for what exists and what does not.
func TestA90StrangersLearnNothing(t *testing.T) {
	h := start(t)
	operation := h.treasure()
	if err := h.rest.Bootstrap(t.Context(), otherSubscription, true); err != nil {
		t.Fatal(err)
	}
	agent, _, err := h.auth.IssueAgent(strings.ToLower(inCluster), "fingerprint")
	if err != nil {
		t.Fatal(err)
	}
	strangers := map[string]string{"nobody's": h.somebody(auth.Reader),
		"another subscription's owner": h.somebody(auth.Owner, "/subscriptions/dddddddd-0000-0000-0000-000000000004"),
		"another group's owner":        h.somebody(auth.Owner, inSubscription+"/resourceGroups/fleet2"),
		"another cluster's owner":      h.somebody(auth.Owner, inCluster+"2")}
	tables := slices.Concat(h.rest.coreRoutes(), h.rest.tagRoutes(), h.rest.clusterRoutes(), h.rest.configurationRoutes())
	if len(tables) < 50 {
		t.Fatalf("only %d routes", len(tables))
	}
	masked := regexp.MustCompile(`'[^']*'`)
	for _, rt := range tables {
		for who, token := range strangers {
			var said [2]string
			for i, present := range []bool{true, false} {
				method, path := fill(rt.pattern, operation, present)
				a := h.as(token, method, path+"?api-version="+versionFor(rt.typ), `{"location":"local"}`)
				said[i] = fmt.Sprint(a.status, " ", masked.ReplaceAllString(a.body, "''"))
				if strings.Contains(a.body, hidden) || strings.Contains(fmt.Sprint(a.header), hidden) {
					t.Errorf("%s is shown to %s token: %s", rt.pattern, who, a.body)
				}
				if rt.depth != ofTenant && rt.verb != "" && a.status != http.StatusForbidden {
					t.Errorf("%s with %s token: %d %s", rt.pattern, who, a.status, a.body)
				}
				if a.header.Get("ETag") != "" {
					t.Errorf("%s tells %s the version", rt.pattern, who)
				}
			}
			if (rt.verb != "" || who == "nobody's") && said[0] != said[1] {
				t.Errorf("%s tells %s what exists:\n%s\n%s", rt.pattern, who, said[0], said[1])
			}
		}
		for who, token := range map[string]string{"an agent": agent, "somebody unknown": "", "a forger": strings.TrimSuffix(h.token, h.token[len(h.token)-4:]) + "AAAA"} {
			method, path := fill(rt.pattern, operation, true)
			a := h.as(token, method, path+"?api-version="+versionFor(rt.typ), `{"location":"local"}`)
			if a.status != http.StatusUnauthorized || strings.Contains(a.body, hidden) {
				t.Errorf("%s by %s: %d %s", rt.pattern, who, a.status, a.body)
			}
		}
	}
}

// TestA90ListsAndCountsAreFiltered looks at a subscription with the eyes of one
// who may see a part of it.
func TestA90ListsAndCountsAreFiltered(t *testing.T) {
	h := start(t)
	h.treasure()
	for i := range 12 {
		h.must(201, "PUT", fmt.Sprintf("%s/resourceGroups/g%d?api-version=2022-09-01", inSubscription, i), `{"location":"local"}`)
	}
	token := h.somebody(auth.Reader, inSubscription+"/resourceGroups/g7")
	a := h.as(token, "GET", inSubscription+"/resourcegroups?api-version=2022-09-01&$top=1", "")
	var page struct {
		Value    []struct{ Name string }
		NextLink string
	}
	if err := json.Unmarshal([]byte(a.body), &page); err != nil || len(page.Value) != 1 || page.Value[0].Name != "g7" || page.NextLink != "" {
		t.Errorf("groups: %s %v", a.body, err)
	}
	for _, path := range []string{"/resources", "/providers/Microsoft.Kubernetes/connectedClusters"} {
		if a := h.as(token, "GET", inSubscription+path+"?api-version=2024-01-01", ""); strings.Contains(a.body, hidden) {
			t.Errorf("%s: %s", path, a.body)
		}
	}
	// A token to go on with that names what one may not see leads nowhere.
	first := h.must(200, "GET", inSubscription+"/resourcegroups?api-version=2022-09-01&$top=1", "")
	link, _ := first.property(t, "nextLink").(string)
	if a := h.as(token, "GET", strings.TrimPrefix(link, h.server.URL), ""); strings.Contains(a.body, "fleet") || strings.Contains(a.body, hidden) {
		t.Errorf("another's page: %s", a.body)
	}
}

// raw sends a request line as it is: the client library would clean it up.
func (h *hub) raw(token, method, target string) (int, string) {
	h.t.Helper()
	conn, err := tls.Dial("tcp", h.server.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec // the test's own server
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", method, target, token); err != nil {
		h.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// TestA91ScopeTricks tries to reach what is hidden by naming it in other ways.
func TestA91ScopeTricks(t *testing.T) {
	h := start(t)
	h.treasure()
	h.must(201, "PUT", inSubscription+"/resourceGroups/mine?api-version=2022-09-01", `{"location":"local"}`)
	mine := h.somebody(auth.Owner, inSubscription+"/resourceGroups/mine")
	const s = inSubscription + "/resourceGroups/"
	for _, path := range []string{
		s + "mine/../fleet", s + "mine/%2e%2e/fleet", s + "mine%2f..%2ffleet", s + "mine%2F..%2Ffleet", s + "mine/./../fleet", s + "mine\\..\\fleet",
		s + "mine%5c..%5cfleet", s + "mine/;/../fleet", s + "mine%00/../fleet", s + "fleet%00", s + "fleet%20", s + "fleet/", s + "//fleet", s + "FLEET", s + "%66leet",
		s + "ﬂeet", s + "%EF%AC%82eet", s + "fleet%E2%80%8B", s + "ﬂeet%2f", s + "fleet%0d%0a", s + "fleet;mine", s + "fleet#mine", s + "mine%23/../fleet", s + "fleet%3fx=mine",
		"//subscriptions//" + testSubscription + "//resourceGroups//fleet//", "/SUBSCRIPTIONS/" + strings.ToUpper(testSubscription) + "/RESOURCEGROUPS/fleet",
		"/providers/../" + s[1:] + "fleet", s + "mine/providers/../../fleet", s + "mine/providers/x/../../../fleet",
	} {
		separator := "?"
		if strings.Contains(path, "?") {
			separator = "&"
		}
		for _, method := range []string{"GET", "DELETE"} {
			status, body := h.raw(mine, method, path+separator+"api-version=2022-09-01")
			if status < 400 || strings.Contains(body, hidden) {
				t.Errorf("%s %q: %d %s", method, path, status, body)
			}
		}
	}
	h.must(200, "GET", inGroup+"?api-version=2022-09-01", "")
	for _, path := range []string{inGroup + "/", strings.ToUpper(inGroup), "/" + inGroup, strings.Replace(inGroup, "resourceGroups", "resourcegroups", 1)} {
		if status, body := h.raw(h.token, "GET", path+"?Api-Version=2022-09-01"); status != 200 || !strings.Contains(body, hidden) {
			t.Errorf("the owner at %q: %d %s", path, status, body)
		}
	}
	for _, query := range []string{"api-version=2022-09-01&api-version=2021-04-01", "api-version=2022-09-01&API-VERSION=x", "", "api-version="} {
		if status, _ := h.raw(h.token, "GET", inGroup+"?"+query); status != 400 {
			t.Errorf("?%s: %d", query, status)
		}
	}
	for _, header := range []string{"X-HTTP-Method-Override: DELETE", "X-Original-URL: " + inGroup, "X-Rewrite-URL: " + inGroup} {
		if a := h.as(mine, "GET", s+"mine?api-version=2022-09-01", "", header); a.status != 200 || strings.Contains(a.body, hidden) {
			t.Errorf("%s: %d %s", header, a.status, a.body)
		}
	}
}

// TestA92ServerFieldsAreTheServers sends them all; none is believed.
func TestA92ServerFieldsAreTheServers(t *testing.T) {
	h := start(t)
	h.furnish()
	const forged = "forged-0815"
	id := inConfigurations + "/apps?api-version=2025-04-01"
	body := `{"id":"/` + forged + `","name":"` + forged + `","type":"` + forged + `","systemData":{"createdBy":"` + forged + `"},"deleting":true,"operationId":"` + forged + `",` +
		`"protectedVersion":"` + forged + `","protectedHash":"` + forged + `","properties":{"namespace":"apps","sourceKind":"GitRepository","gitRepository":{"url":"https://git.example/a",` +
		`"repositoryRef":{"branch":"main"}},"kustomizations":{"a":{"path":"./x","name":"` + forged + `"}},"provisioningState":"` + forged + `","complianceState":"` + forged + `",` +
		`"statuses":[{"name":"` + forged + `"}],"repositoryPublicKey":"` + forged + `","sourceSyncedCommitId":"` + forged + `","errorMessage":"` + forged + `","statusUpdatedAt":"2001-01-01T00:00:00Z"}}`
	h.must(201, "PUT", id, body)
	for _, method := range []string{"PUT", "PATCH"} {
		a := h.send(method, id, body)
		if a.status >= 400 && method == "PUT" || strings.Contains(h.must(200, "GET", id, "").body, forged) {
			t.Errorf("%s: %d %s", method, a.status, h.must(200, "GET", id, "").body)
		}
	}
	if raw := string(h.record(inConfigurations + "/apps").Desired); strings.Contains(raw, forged) {
		t.Errorf("stored: %s", raw)
	}
	h.must(200, "PUT", inCluster+"?api-version=2024-01-01", `{"location":"local","properties":{"agentPublicKeyCertificate":"`+testCertificate()+`",`+
		`"connectivityStatus":"Connected","totalNodeCount":4711,"kubernetesVersion":"9.9.9","agentVersion":"`+forged+`","lastConnectivityTime":"2001-01-01T00:00:00Z"}}`)
	if a := h.must(200, "GET", inCluster+"?api-version=2024-01-01", ""); strings.Contains(a.body, forged) || strings.Contains(a.body, "4711") || strings.Contains(a.body, "2001-") {
		t.Errorf("cluster: %s", a.body)
	}
}

// TestA92Conditions makes writes depend on what was read, also all at once.
func TestA92Conditions(t *testing.T) {
	h := start(t)
	h.furnish()
	id := inConfigurations + "/apps?api-version=2023-05-01"
	body := func(path string) string {
		return `{"properties":{"namespace":"apps","sourceKind":"GitRepository","gitRepository":{"url":"https://git.example/a","repositoryRef":{"branch":"main"}},"kustomizations":{"a":{"path":"` + path + `"}}}}`
	}
	if a := h.send("PUT", id, body("./0"), "If-Match: *"); a.status != 412 || a.code() != "PreconditionFailed" {
		t.Errorf("a change of what is not there: %d %s", a.status, a.body)
	}
	if a := h.send("PUT", id, body("./0"), "If-None-Match: *"); a.status != 201 || a.header.Get("ETag") == "" {
		t.Errorf("a new one: %d %v", a.status, a.header)
	}
	if a := h.send("PUT", id, body("./1"), "If-None-Match: *"); a.status != 412 {
		t.Errorf("a second new one: %d %s", a.status, a.body)
	}
	tag := h.must(200, "GET", id, "").header.Get("ETag")
	h.accept(inConfigurations + "/apps")
	if now := h.must(200, "GET", id, "").header.Get("ETag"); now != tag {
		t.Errorf("an agent's report makes %s of %s", now, tag)
	}
	var group sync.WaitGroup
	statuses := make([]int, 8)
	for i := range statuses {
		group.Go(func() { statuses[i] = h.send("PUT", id, body(fmt.Sprintf("./w%d", i)), "If-Match: "+tag).status })
	}
	group.Wait()
	slices.Sort(statuses)
	if want := []int{200, 412, 412, 412, 412, 412, 412, 412}; !slices.Equal(statuses, want) {
		t.Errorf("eight writers of one version: %v", statuses)
	}
	for _, method := range []string{"PATCH", "DELETE"} {
		if a := h.send(method, id, `{"properties":{"suspend":true}}`, "If-Match: "+tag); a.status != 412 {
			t.Errorf("%s of an old version: %d %s", method, a.status, a.body)
		}
	}
	tag = h.must(200, "GET", id, "").header.Get("ETag")
	if a := h.send("DELETE", id, "", "If-Match: "+tag); a.status != 202 {
		t.Errorf("DELETE of the newest version: %d %s", a.status, a.body)
	}
	if a := h.send("PUT", inGroup+"?api-version=2022-09-01", `{"location":"local"}`, `If-Match: "1"`); a.status != 412 {
		t.Errorf("a group: %d %s", a.status, a.body)
	}
	if a := h.send("PUT", inCluster+"?api-version=2024-01-01", `{"location":"local","tags":{"a":"b"}}`, `If-Match: "1"`); a.status != 412 {
		t.Errorf("a cluster: %d %s", a.status, a.body)
	}
}

// TestA92OperationsBelongToTheirResource asks for an operation below another.
func TestA92OperationsBelongToTheirResource(t *testing.T) {
	h := start(t)
	operation := h.treasure()
	h.must(201, "PUT", inCluster+"2?api-version=2024-01-01", `{"location":"local","properties":{"agentPublicKeyCertificate":"`+testCertificate()+`"}}`)
	const tail = "/operations/"
	h.must(200, "GET", inConfigurations+"/apps"+tail+operation+"?api-version=2023-05-01", "")
	token := h.somebody(auth.Owner, inCluster+"2")
	other := strings.Replace(inConfigurations, inCluster, inCluster+"2", 1)
	for _, path := range []string{other + "/apps", inConfigurations + "/other", inExtensions + "/apps"} {
		for who, token := range map[string]string{"owner of all": h.token, "owner of the other": token} {
			if a := h.as(token, "GET", path+tail+operation+"?api-version=2023-05-01", ""); a.status != 404 && a.status != 403 {
				t.Errorf("%s at %s: %d %s", who, path, a.status, a.body)
			}
		}
	}
}

// TestA93ProtectedSettingsStayIn looks at all answers of a configuration's life.
func TestA93ProtectedSettingsStayIn(t *testing.T) {
	var log bytes.Buffer
	h := start(t, func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	operation := h.treasure()
	id := inConfigurations + "/apps?api-version=2023-05-01"
	said := map[string]answered{
		"list": h.send("GET", inConfigurations+"?api-version=2023-05-01", ""), "get": h.send("GET", id, ""),
		"operation": h.send("GET", inConfigurations+"/apps/operations/"+operation+"?api-version=2023-05-01", ""),
		"patch":     h.send("PATCH", id, `{"properties":{"configurationProtectedSettings":{"httpsKey":"`+hidden64+`"},"suspend":true}}`),
		"refused":   h.send("PUT", id, `{"properties":{"namespace":"apps","sourceKind":"`+"Git"+`","configurationProtectedSettings":{"httpsKey":"`+hidden64+`","x":"`+hidden64+`"}}}`),
		"malformed": h.send("PUT", id, `{"properties":{"configurationProtectedSettings":{"httpsKey":"`+hidden64+`"`),
		"wrong":     h.send("PUT", id, `{"properties":{"configurationProtectedSettings":{"httpsKey":["`+hidden64+`"]}}}`),
		"extension": h.send("PATCH", inExtensions+"/flux?api-version=2023-05-01", `{"properties":{"configurationProtectedSettings":{"k":"`+hidden64+`"}}}`),
		"shown":     h.send("GET", inExtensions+"/flux?api-version=2023-05-01", ""),
		"deleted":   h.send("DELETE", id, ""),
	}
	for what, a := range said {
		if strings.Contains(a.body, hidden64) || strings.Contains(fmt.Sprint(a.header), hidden64) {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	if strings.Contains(log.String(), hidden64) || strings.Contains(log.String(), h.token) || log.Len() == 0 {
		t.Error("a secret is in the log")
	}
}

// TestA94BrowsersGetNoHelp: no other origin is let in, no cookie is set, nothing
// can be framed or taken for a page.
func TestA94BrowsersGetNoHelp(t *testing.T) {
	h := start(t)
	for _, method := range []string{"GET", "OPTIONS"} {
		a := h.send(method, "/subscriptions?api-version=2022-12-01", "", "Origin: https://evil.example", "Access-Control-Request-Method: PUT")
		for name := range a.header {
			if strings.HasPrefix(name, "Access-Control-") || name == "Set-Cookie" {
				t.Errorf("%s sends %s", method, name)
			}
		}
		if a.header.Get("X-Content-Type-Options") != "nosniff" || !strings.HasPrefix(a.header.Get("Content-Type"), "application/json") {
			t.Errorf("%s: %v", method, a.header)
		}
	}
}

// TestA95NothingBreaksTheLog sends line breaks and escapes wherever text goes.
func TestA95NothingBreaksTheLog(t *testing.T) {
	var log bytes.Buffer
	h := start(t, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	for _, path := range []string{"/subscriptions/x%0alevel=ERROR", "/subscriptions/x%1b%5b31m", "/%3cscript%3e"} {
		a := h.send("GET", path+"?api-version=2022-09-01", "", "x-ms-correlation-request-id: a b\tc")
		if a.status < 400 || strings.Contains(a.body, "\x1b") || strings.Contains(a.header.Get("X-Ms-Correlation-Request-Id"), " ") {
			t.Errorf("%s: %d %s %v", path, a.status, a.body, a.header)
		}
	}
	for line := range strings.Lines(log.String()) {
		if !strings.HasPrefix(line, "time=") || strings.Contains(line, "\x1b") || strings.Contains(line, "level=ERROR msg") {
			t.Errorf("a line of the log: %q", line)
		}
	}
}

// TestA90RunningOperations asks for a cluster's operations as somebody who may
// see one kind of its resources.
func TestA90RunningOperations(t *testing.T) {
	h := start(t)
	operation := h.treasure()
	path := strings.TrimSuffix(inConfigurations, "/fluxConfigurations") + "/operations?api-version=2023-05-01"
	if got := h.must(200, "GET", path, "").body; !strings.Contains(got, operation) || !strings.Contains(got, "/extensions/flux/") {
		t.Fatalf("an owner sees: %s", got)
	}
	if got := h.as(h.somebody(auth.ExtensionContributor, inCluster), "GET", path, ""); got.status != 200 ||
		strings.Contains(got.body, operation) || !strings.Contains(got.body, "/extensions/flux/") {
		t.Errorf("somebody who may see extensions: %d %s", got.status, got.body)
	}
}

package access_test

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"headwater.dev/api/arm"
	"headwater.dev/hub/activity"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
)

const (
	happened       = "/providers/Microsoft.Insights/eventtypes/management/values"
	configurations = cluster + "/providers/Microsoft.KubernetesConfiguration/fluxConfigurations"
	// canary is a secret, canary64 how clients send it.
	canary, canary64 = "canary-0815-secret", "Y2FuYXJ5LTA4MTUtc2VjcmV0"
)

type event struct {
	Caller, ResourceID, CorrelationID, ResourceGroupName string
	OperationName, Status, SubStatus                     struct{ Value string }
	Changes                                              []activity.Change
	Properties                                           map[string]string
	HTTPRequest                                          struct{ ClientIPAddress, Method, URI string }
}

func (p *person) events(path string) []event {
	p.t.Helper()
	var page arm.Page[event]
	if err := json.Unmarshal([]byte(p.must(200, "GET", path, "").body), &page); err != nil {
		p.t.Fatal(err)
	}
	return page.Value
}

func (e event) has(op, path string) bool {
	for _, c := range e.Changes {
		if c.Op == op && c.Path == path {
			return true
		}
	}
	return false
}

func body(url, key string) string {
	return `{"properties":{"namespace":"apps","sourceKind":"GitRepository","gitRepository":{"url":"` + url + `","httpsUser":"u","repositoryRef":{"branch":"main"}},` +
		`"kustomizations":{"a/b~c":{"path":"./x"}},"configurationProtectedSettings":{"httpsKey":"` + key + `"}}}`
}

// TestActivityLog tells who did what, when, from where, with what outcome, and
// what changed, to those who may know.
func TestActivityLog(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	owner.furnish()
	stranger, reader := h.somebody(t, "", ""), h.somebody(t, auth.Reader, cluster)
	id := configurations + "/apps"
	owner.must(201, "PUT", id+"?api-version=2023-05-01", strings.Replace(body("https://git.example/a", canary64), "a/b~c", "a", 1))
	owner.must(200, "PUT", id+"?api-version=2023-05-01", strings.Replace(body("https://git.example/b", "Y2hhbmdlZA=="), "a/b~c", "a", 1))
	stranger.refused("AuthorizationFailed", "DELETE", id+"?api-version=2023-05-01", "")
	owner.refused("ValidationFailed", "PUT", id+"?api-version=2023-05-01", body("https://git.example/b", canary))
	role := group + assigned + newName()
	owner.must(201, "PUT", role, give(auth.Reader, stranger.oid))
	owner.must(200, "DELETE", role, "")
	events := owner.events(sub + happened)
	if len(events) != 9 {
		t.Fatalf("%d events, want group, cluster, extension, 2 puts, 2 refusals, 2 of rights", len(events))
	}
	removed, given, invalid, denied, changed, made, along := events[0], events[1], events[2], events[3], events[4], events[5], events[6]
	if along.Caller != owner.id || along.OperationName.Value != "Microsoft.KubernetesConfiguration/extensions/write" || !along.has("add", "") ||
		along.CorrelationID != made.CorrelationID || !strings.HasSuffix(along.ResourceID, "/extensions/flux") {
		t.Errorf("the extension that the first configuration made: %+v", along)
	}
	if made.Caller != owner.id || made.OperationName.Value != "Microsoft.KubernetesConfiguration/fluxConfigurations/write" || made.Status.Value != "Accepted" ||
		made.SubStatus.Value != "Created" || made.HTTPRequest.ClientIPAddress != "127.0.0.1" || made.HTTPRequest.Method != "PUT" ||
		made.ResourceGroupName != "fleet" || made.ResourceID != id || !made.has("add", "") {
		t.Errorf("made: %+v", made)
	}
	if !changed.has("replace", "/properties/gitRepository/url") || !changed.has("replace", "/properties/configurationProtectedSettings") || len(changed.Changes) != 2 {
		t.Errorf("changed: %+v", changed.Changes)
	}
	if denied.Caller != stranger.id || denied.Status.Value != "Failed" || denied.SubStatus.Value != "Forbidden" || denied.Properties["errorCode"] != "AuthorizationFailed" {
		t.Errorf("denied: %+v", denied)
	}
	if invalid.Properties["errorCode"] != "ValidationFailed" || len(invalid.Changes) != 0 {
		t.Errorf("invalid: %+v", invalid)
	}
	if given.Properties["principalId"] != stranger.oid || given.Properties["role"] != "Reader" || removed.OperationName.Value != "Microsoft.Authorization/roleAssignments/delete" {
		t.Errorf("rights: %+v %+v", given, removed)
	}
	for filter, want := range map[string]int{
		"caller eq '" + stranger.id + "'":                                       1,
		"status eq 'Failed'":                                                    2,
		"levels eq 'Error,Critical' and caller eq '" + owner.oid + "'":          1,
		"resourceGroupName eq 'FLEET'":                                          9,
		"resourceGroupName eq 'other'":                                          0,
		"resourceUri eq '" + id + "'":                                           4,
		"resourceProvider eq 'Microsoft.Authorization'":                         2,
		"resourceType eq 'Microsoft.ContainerService/managedClusters'":          1,
		"correlationId eq '" + made.CorrelationID + "'":                         2,
		"eventTimestamp ge 2001-01-01T00:00:00Z and eventChannels eq 'Admin'":   9,
		"eventTimestamp ge '2001-01-01' and eventTimestamp le 2001-01-02 00:00": 0,
	} {
		if strings.Contains(filter, " 00:00") { // not a time
			owner.refused("InvalidParameter", "GET", sub+happened+"?$filter="+filter, "")
			continue
		}
		if got := owner.events(sub + happened + "?$filter=" + filter); len(got) != want {
			t.Errorf("%s: %d events, want %d", filter, len(got), want)
		}
	}
	owner.refused("InvalidParameter", "GET", sub+happened+"?$filter=name eq 'x'", "")
	owner.refused("MethodNotAllowed", "DELETE", sub+happened, "")
	stranger.refused("AuthorizationFailed", "GET", sub+happened, "")
	if got := reader.events(sub + happened); len(got) != 6 {
		t.Errorf("a reader of the cluster sees %d events", len(got))
	}
}

// TestA98FiltersCompareAndNothingElse sends what would be clever in another
// language: a filter is compared, and never shows what its sender may not read.
func TestA98FiltersCompareAndNothingElse(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	owner.furnish()
	reader := h.somebody(t, auth.Reader, cluster)
	all, may := len(owner.events(sub+happened)), len(reader.events(sub+happened))
	if all == 0 || may >= all {
		t.Fatalf("there are %d events, of which the reader sees %d", all, may)
	}
	ask := func(filter string) string { return sub + happened + "?$filter=" + url.QueryEscape(filter) }
	for filter, want := range map[string]int{
		"caller eq '%'": 0, "caller eq '.*'": 0, "caller eq '*'": 0, "caller eq ''' or ''1'' eq ''1'": 0, "status eq '(a+)+$'": 0,
		"resourceUri eq '/'": may, "resourceUri eq '/subscriptions/../..'": 0,
		"eventTimestamp ge '0001-01-01'": may, "eventTimestamp le '9999-12-31'": may, "eventTimestamp le '1601-01-01'": 0, "eventTimestamp ge '9999-12-31'": 0,
		strings.Repeat("eventChannels eq 'x' and ", 500) + "eventChannels eq 'x'": may,
		"caller eq 'x' or caller eq '" + owner.id + "'":                           -1,
		"caller ne 'x'": -1, "substringof('a', caller)": -1, "caller eq 'x'; drop": -1,
	} {
		if want < 0 {
			reader.refused("InvalidParameter", "GET", ask(filter), "")
			continue
		}
		if got := len(reader.events(ask(filter))); got != want {
			t.Errorf("%.60s: %d events, want %d", filter, got, want)
		}
	}
}

// TestActivityPages follows the pages, newest first, and sees what is pruned.
func TestActivityPages(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		h.pass(time.Second)
		owner.must(201, "PUT", sub+"/resourceGroups/"+name, `{"location":"local"}`)
	}
	var seen []string
	for path := sub + happened + "?$top=2"; path != ""; {
		var page arm.Page[event]
		if err := json.Unmarshal([]byte(owner.must(200, "GET", path, "").body), &page); err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Value {
			seen = append(seen, e.ResourceGroupName)
		}
		path = strings.TrimPrefix(page.NextLink, h.server.URL)
	}
	if strings.Join(seen, "") != "edcba" {
		t.Errorf("pages: %v", seen)
	}
	owner.refused("InvalidParameter", "GET", sub+happened+"?$skiptoken=x", "")
	owner.refused("InvalidParameter", "GET", sub+happened+"?$top=none", "")
	prune := func(c activity.Config, want int) {
		t.Helper()
		c.Store, c.Clock = h.store, h.clock
		if removed, err := activity.New(c).Prune(t.Context()); err != nil || removed != want {
			t.Errorf("pruned %d, want %d: %v", removed, want, err)
		}
	}
	prune(activity.Config{}, 0)
	prune(activity.Config{Max: 4}, 1)
	prune(activity.Config{Retention: 2500 * time.Millisecond}, 1)
	if got := owner.events(sub + happened); len(got) != 3 || got[0].ResourceGroupName != "e" {
		t.Errorf("left: %+v", got)
	}
}

// TestRefusalsDoNotFloodTheLog repeats what is not allowed.
func TestRefusalsDoNotFloodTheLog(t *testing.T) {
	h := start(t)
	owner, p := h.owner(t), h.somebody(t, "", "")
	for range 100 {
		p.refused("AuthorizationFailed", "DELETE", group, "")
	}
	if got := owner.events(sub + happened); len(got) < 50 || len(got) > 70 {
		t.Errorf("%d of 100 refusals are logged", len(got))
	}
}

// TestNoSecretInTheActivityLog looks for secrets in all that the log keeps.
func TestNoSecretInTheActivityLog(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	owner.furnish()
	id := configurations + "/apps?api-version=2023-05-01"
	owner.must(201, "PUT", id, strings.Replace(body("https://git.example/a", canary64), "a/b~c", "a", 1))
	owner.refused("ValidationFailed", "PUT", id, body("https://me:"+canary+"@git.example/a", canary64))
	owner.must(202, "PATCH", id, `{"properties":{"configurationProtectedSettings":{"httpsKey":"`+canary64+`"},"suspend":true}}`)
	p := h.somebody(t, "", "")
	secret := owner.must(200, "POST", people+"/"+p.id+"/addPassword", `{}`).body
	var answer struct{ SecretText string }
	if err := json.Unmarshal([]byte(secret), &answer); err != nil || answer.SecretText == "" {
		t.Fatalf("%v %s", err, secret)
	}
	var kept strings.Builder
	n := 0
	if _, err := store.Each(t.Context(), h.store, "/activity/", func(r store.Record) error { n++; kept.Write(r.Desired); return nil }); err != nil {
		t.Fatal(err)
	}
	shown := owner.must(200, "GET", sub+happened, "").body + owner.must(200, "GET", happened, "").body
	if n < 6 || !strings.Contains(shown, "addPassword") {
		t.Fatalf("%d entries: %s", n, shown)
	}
	for _, s := range []string{canary, canary64, answer.SecretText, p.secret, p.token} {
		if strings.Contains(kept.String(), s) || strings.Contains(shown, s) {
			t.Errorf("%q is in the log", s)
		}
	}
}

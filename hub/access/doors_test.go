package access_test

import (
	"net/http"
	"strings"
	"testing"

	"headwater.dev/hub/access"
	"headwater.dev/hub/auth"
)

// TestA90StrangersLearnNothingOfRights is made from the table of what is served:
// every line of it at every scope, by everybody who has no business there.
func TestA90StrangersLearnNothingOfRights(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	owner.furnish()
	const hidden = "hidden-4711"
	owner.must(201, "PUT", cluster+locks+"/"+hidden, `{"properties":{"level":"CanNotDelete","notes":"`+hidden+`"}}`)
	name := "/11111111-1111-1111-1111-111111111111"
	owner.must(201, "PUT", sub+roles+name, `{"properties":{"roleName":"`+hidden+`","assignableScopes":["`+cluster+`"],"permissions":[{"actions":["*/read"]}]}}`)
	owner.must(201, "PUT", cluster+assigned+name, strings.Replace(give(auth.Reader, "11111111-1111-1111-1111-111111111111"), `"principalId"`, `"description":"`+hidden+`","principalId"`, 1))
	owner.must(201, "PUT", people+name, `{"properties":{"displayName":"`+hidden+`"}}`)
	agent, _, err := h.auth.IssueAgent(strings.ToLower(cluster), "fingerprint")
	if err != nil {
		t.Fatal(err)
	}
	none := &person{t: t, hub: h, token: "none"}
	strangers := map[string]*person{"nobody": h.somebody(t, "", ""), "another group's owner": h.somebody(t, auth.Owner, group+"2"),
		"another cluster's owner": h.somebody(t, auth.Owner, cluster+"2"), "an agent": {t: t, hub: h, token: agent}, "unknown": none}
	entries := access.New(access.Config{}).Entries()
	if len(entries) < 20 {
		t.Fatalf("only %d entries", len(entries))
	}
	for _, e := range append(entries, "GET events") {
		method, rest, _ := strings.Cut(e, " ")
		kind, rest, _ := strings.Cut(rest, " ")
		for _, scope := range []string{"", sub, group, cluster} {
			path := scope + "/providers/Microsoft.Authorization/" + kind
			switch kind {
			case "serviceprincipals", "me", "subjects":
				path = "/providers/Headwater.Identity/" + kind
			case "events":
				path = scope + happened
			}
			if strings.HasPrefix(rest, "name") {
				path += name
				if kind == "locks" {
					path = strings.TrimSuffix(path, name) + "/" + hidden
				}
			}
			if _, verb, ok := strings.Cut(rest, "verb "); ok {
				path += "/" + verb
			}
			for who, p := range strangers {
				a := p.send(method, path, `{"properties":{"level":"ReadOnly"}}`)
				want := http.StatusForbidden
				if who == "an agent" || who == "unknown" {
					want = http.StatusUnauthorized
				}
				// One may know oneself, and lists that may hold something of one's own are made.
				own := want == http.StatusForbidden && a.status == http.StatusOK && (kind == "me" || kind == "permissions" || method == "GET" && strings.HasPrefix(who, "another"))
				gone := a.status == http.StatusNotFound && method == "GET" && strings.HasPrefix(who, "another")
				if a.status != want && !own && !gone || strings.Contains(a.body, hidden) && !strings.Contains(path, hidden) {
					t.Errorf("%s %s by %s: %d %s", method, path, who, a.status, a.body)
				}
			}
		}
	}
	owner.must(200, "GET", people+name, "")
	owner.must(200, "GET", cluster+locks+"/"+hidden, "")
}

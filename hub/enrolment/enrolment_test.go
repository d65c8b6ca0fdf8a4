package enrolment_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"

	"headwater.dev/api/link"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
)

func TestA84DoubleOptIn(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	token := owner.issue(group, "site", `{"tags":{"site":"north"},"description":"for the north"}`)
	a := h.agent(t, 0, group+clusters+"edge-1")

	a.wants(token, link.EnrolmentPending, "a token alone lets nobody in")
	a.wants(token, link.EnrolmentPending, "asking again is no second use")
	if a.connects() {
		t.Fatal("a pending agent was let in")
	}
	owner.must(404, "GET", a.id, "")
	var list struct {
		Value []struct {
			Name       string
			Properties struct{ State, ClusterName, KeyFingerprint, EnrolmentToken, From string }
		}
	}
	if err := json.Unmarshal([]byte(owner.must(200, "GET", group+pending, "")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Value) != 1 || list.Value[0].Name != a.name || list.Value[0].Properties.ClusterName != "edge-1" || list.Value[0].Properties.State != "Pending" ||
		list.Value[0].Properties.EnrolmentToken != "site" || list.Value[0].Properties.From == "" {
		t.Fatalf("who approves sees %+v", list)
	}
	one := group + pending + "/" + a.name
	owner.must(409, "POST", one+"/approve", `{"keyFingerprint":"00"}`)
	owner.must(200, "POST", one+"/approve", `{"keyFingerprint":"`+list.Value[0].Properties.KeyFingerprint+`"}`)
	owner.must(200, "POST", one+"/approve", "")
	owner.must(409, "POST", one+"/reject", "")
	a.wants(token, link.EnrolmentApproved, "approved")
	if !a.connects() {
		t.Error("an approved agent is not let in")
	}
	if cluster := owner.must(200, "GET", a.id, ""); !strings.Contains(cluster, `"site":"north"`) || !strings.Contains(cluster, a.public()) {
		t.Errorf("the cluster is %s", cluster)
	}
	log := owner.must(200, "GET", sub+"/providers/Microsoft.Insights/eventtypes/management/values", "")
	for _, action := range []string{"Headwater.Identity/enrolmentTokens/write", "Headwater.Identity/enrolments/approve/action", "Microsoft.Kubernetes/connectedClusters/write"} {
		if !strings.Contains(log, action) {
			t.Errorf("the activity log does not have %s", action)
		}
	}

	owner.must(200, "DELETE", a.id, "")
	a.wants(token, link.EnrolmentApproved, "what was decided stays decided")
	if a.connects() {
		t.Error("a cluster that was deleted came back by itself")
	}
}

func TestA84TokenIsKeptAsAHashOnly(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	token := owner.issue(group, "site", `{}`)
	secret := token[strings.LastIndex(token, ".")+1:]
	_, err := store.Each(t.Context(), h.store, "/", func(r store.Record) error {
		if strings.Contains(string(r.Desired), secret) {
			return fmt.Errorf("%s holds the token", r.Key)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for _, path := range []string{"/site", ""} {
		if got := owner.must(200, "GET", group+tokens+path, ""); strings.Contains(got, secret) || strings.Contains(got, "hash") {
			t.Errorf("GET %s tells %s", path, got)
		}
	}
	owner.must(409, "PUT", group+tokens+"/site", `{}`)
}

func TestA84GuessedTokenTellsNothing(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	token := owner.issue(group, "site", `{}`)
	absent := owner.issue(group, "gone", `{}`)
	owner.must(200, "DELETE", group+tokens+"/gone", "")
	a := h.agent(t, 0, group+clusters+"edge-1")
	last := map[byte]string{'A': "B"}[token[len(token)-20]]
	if last == "" {
		last = "A"
	}
	for why, guess := range map[string]string{
		"empty": "", "not a token": "x", "no secret": token[:strings.LastIndex(token, ".")], "empty secret": token[:strings.LastIndex(token, ".")+1],
		"one letter off": token[:len(token)-20] + last + token[len(token)-19:], "revoked": absent, "of a strange key": "hwe1.Li4vLi4.AAAA", "long": "hwe1." + strings.Repeat("L", 9000) + ".A",
	} {
		status, code := a.post(a.body(guess, nil))
		if status != 401 || code != "EnrolmentTokenInvalid" {
			t.Errorf("%s: %d %s", why, status, code)
		}
	}
	a.wants(token, link.EnrolmentPending, "guesses use nothing up")
}

func TestA84ReusedToken(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	token := owner.issue(group, "one", `{}`)
	a := h.agent(t, 0, group+clusters+"edge-1")
	a.wants(token, link.EnrolmentPending, "first")
	h.agent(t, 1, group+clusters+"edge-2").wants(token, "EnrolmentTokenUsed", "another cluster")
	h.agent(t, 1, group+clusters+"edge-1").wants(token, "EnrolmentTokenUsed", "the same name with another key")
	h.agent(t, 0, group+clusters+"edge-2").wants(token, "EnrolmentTokenUsed", "the same key with another name")
	owner.must(200, "POST", group+pending+"/"+a.name+"/reject", `{"reason":"unknown site"}`)
	a.wants(token, link.EnrolmentRejected, "a rejection does not give the use back")
	owner.must(409, "POST", group+pending+"/"+a.name+"/approve", "")
	h.agent(t, 1, group+clusters+"edge-2").wants(token, "EnrolmentTokenUsed", "after a rejection")

	// Nobody takes a cluster that is there.
	b := h.agent(t, 1, group+clusters+"edge-3")
	owner.must(201, "PUT", b.id, `{"location":"local","identity":{"type":"SystemAssigned"},"properties":{"agentPublicKeyCertificate":"`+b.public()+`"}}`)
	thief := h.agent(t, 2, b.id)
	more := owner.issue(group, "more", `{"maxUses":5,"autoApprove":["*"]}`)
	thief.wants(more, "ClusterExists", "a name that is taken")
	b.wants(more, link.EnrolmentApproved, "a cluster that is there already")
}

func TestA84RaceForOneUse(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	for round := range 5 {
		token := owner.issue(group, fmt.Sprint("t", round), `{"autoApprove":["*"]}`)
		var racers []*agent
		for i := range 3 {
			racers = append(racers, h.agent(t, i, fmt.Sprintf("%s%sr%d-%d", group, clusters, round, i)))
		}
		var mu sync.Mutex
		said := map[string]int{}
		var all sync.WaitGroup
		for _, a := range racers {
			body := a.body(token, nil)
			all.Go(func() {
				_, state := a.post(body)
				mu.Lock()
				defer mu.Unlock()
				said[state]++
			})
		}
		all.Wait()
		if said[link.EnrolmentApproved] != 1 || said["EnrolmentTokenUsed"] != 2 {
			t.Errorf("round %d: %v", round, said)
		}
	}
}

func TestA84OverWideScope(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	token := owner.issue(group, "narrow", `{"clusterNamePattern":"edge-*","maxUses":9}`)
	for why, id := range map[string]string{
		"another group":          other + clusters + "edge-1",
		"another subscription":   "/subscriptions/cccccccc-0000-0000-0000-000000000003/resourceGroups/fleet" + clusters + "edge-1",
		"a name beside":          group + clusters + "core-1",
		"a group that begins so": group + "2" + clusters + "edge-1",
		"another type":           group + "/providers/Microsoft.ContainerService/managedClusters/edge-1",
		"a resource below":       group + clusters + "edge-1/providers/Microsoft.KubernetesConfiguration/extensions/flux",
		"no id":                  "edge-1",
	} {
		h.agent(t, 0, id).wants(token, "EnrolmentNotAllowed", why)
	}
	h.agent(t, 0, group+clusters+"EDGE-1").wants(token, link.EnrolmentPending, "names do not distinguish case")
	wide := owner.issue(sub, "wide", `{"maxUses":2}`)
	h.agent(t, 0, other+clusters+"a").wants(wide, link.EnrolmentPending, "a token of the subscription")
	h.agent(t, 0, sub+"/resourceGroups/nowhere"+clusters+"a").wants(wide, "EnrolmentNotAllowed", "a group that is not there")

	for why, properties := range map[string]string{
		"too long": `{"expiresOn":"2099-01-01T00:00:00Z"}`, "past": `{"expiresOn":"2001-01-01T00:00:00Z"}`, "too many": `{"maxUses":1001}`,
		"negative": `{"maxUses":-1}`, "bad pattern": `{"clusterNamePattern":"["}`, "bad rule": `{"autoApprove":[""]}`,
	} {
		if status, answer := owner.send("PUT", group+tokens+"/x", `{"properties":`+properties+`}`); status != 400 || !strings.Contains(answer, "ValidationFailed") {
			t.Errorf("%s: %d %s", why, status, answer)
		}
	}
	// A group that was made anew is another one, also for what waits since before.
	ruled := owner.issue(group, "ruled", `{"autoApprove":["auto-*"]}`)
	owner.must(201, "PUT", group+"/providers/Microsoft.Authorization/locks/still", `{"properties":{"level":"ReadOnly"}}`)
	waits := h.agent(t, 2, group+clusters+"auto-1")
	waits.wants(ruled, link.EnrolmentPending, "the rule cannot act in a locked group")
	owner.must(200, "DELETE", group+"/providers/Microsoft.Authorization/locks/still", "")
	owner.must(200, "DELETE", group, "")
	owner.must(201, "PUT", group, `{"location":"local"}`)
	h.agent(t, 1, group+clusters+"edge-7").wants(token, "EnrolmentNotAllowed", "a group made anew")
	waits.wants(ruled, link.EnrolmentPending, "a rule of the former group")
}

func TestA84Rights(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	reader := h.somebody(t, auth.Reader, group)
	neighbour := h.somebody(t, auth.Owner, other)
	token := owner.issue(group, "site", `{"maxUses":3}`)
	a := h.agent(t, 0, group+clusters+"edge-1")
	a.wants(token, link.EnrolmentPending, "asks")
	one := group + pending + "/" + a.name
	reader.must(200, "GET", one, "")
	reader.must(403, "POST", one+"/approve", "")
	reader.must(403, "POST", one+"/reject", "")
	reader.must(403, "PUT", group+tokens+"/mine", `{}`)
	reader.must(403, "DELETE", group+tokens+"/site", "")
	neighbour.must(403, "GET", group+pending, "")
	neighbour.must(403, "POST", one+"/approve", "")
	neighbour.must(403, "PUT", sub+tokens+"/mine", `{}`)
	if got := neighbour.must(200, "GET", sub+pending, ""); strings.Contains(got, a.name) {
		t.Errorf("a neighbour sees %s", got)
	}
	owner.must(201, "PUT", group+"/providers/Microsoft.Authorization/locks/still", `{"properties":{"level":"ReadOnly"}}`)
	owner.must(409, "POST", one+"/approve", "")
	a.wants(token, link.EnrolmentPending, "locked")
	owner.must(200, "DELETE", group+"/providers/Microsoft.Authorization/locks/still", "")
	owner.must(200, "POST", one+"/approve", "")

	// A rule acts with the rights that its maker has now.
	maker := h.somebody(t, auth.Owner, group)
	ruled := maker.issue(group, "ruled", `{"maxUses":3,"autoApprove":["auto-*"]}`)
	h.agent(t, 1, group+clusters+"auto-1").wants(ruled, link.EnrolmentApproved, "by rule")
	h.agent(t, 1, group+clusters+"else").wants(ruled, link.EnrolmentPending, "no rule for it")
	var given []auth.Assignment
	if err := h.auth.Assignments(t.Context(), func(x auth.Assignment) error { given = append(given, x); return nil }); err != nil {
		t.Fatal(err)
	}
	for _, x := range given {
		if x.PrincipalID == maker.oid {
			if err := h.auth.Unassign(t.Context(), x.PrincipalID, x.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	late := h.agent(t, 2, group+clusters+"auto-2")
	late.wants(ruled, link.EnrolmentPending, "who made the rule may no longer")
	owner.must(200, "POST", group+pending+"/"+late.name+"/approve", "")
	late.wants(ruled, link.EnrolmentApproved, "a person may")
}

func TestA84Expiry(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	token := owner.issue(group, "short", fmt.Sprintf(`{"maxUses":2,"expiresOn":%q}`, h.clock().Add(time.Hour).UTC().Format(time.RFC3339)))
	early := h.agent(t, 0, group+clusters+"early")
	early.wants(token, link.EnrolmentPending, "in time")
	h.pass(61 * time.Minute)
	h.agent(t, 1, group+clusters+"late").wants(token, "EnrolmentTokenExpired", "too late")
	early.wants(token, link.EnrolmentPending, "what waits goes on waiting")
	owner.must(200, "POST", group+pending+"/"+early.name+"/approve", "")
	early.wants(token, link.EnrolmentApproved, "approved after the token's end")
}

func TestA84ProofOfPossession(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	token := owner.issue(group, "site", `{}`)
	a, stranger := h.agent(t, 0, group+clusters+"edge-1"), h.agent(t, 1, group+clusters+"edge-1")
	for why, change := range map[string]func(*link.Enrolment, *proof){
		"somebody else's key": func(e *link.Enrolment, _ *proof) { e.PublicKey = stranger.public() },
		"another cluster":     func(_ *link.Enrolment, c *proof) { c.Issuer, c.Subject = group+clusters+"x", group+clusters+"x" },
		"another hub":         func(_ *link.Enrolment, c *proof) { c.Audience = jwt.Audience{"https://elsewhere" + link.PathEnrol} },
		"another token":       func(_ *link.Enrolment, c *proof) { c.TokenHash = "00" },
		"expired":             func(_ *link.Enrolment, c *proof) { c.Expiry = jwt.NewNumericDate(h.clock().Add(-time.Hour)) },
		"for ever":            func(_ *link.Enrolment, c *proof) { c.Expiry = jwt.NewNumericDate(h.clock().Add(24 * time.Hour)) },
		"no end":              func(_ *link.Enrolment, c *proof) { c.Expiry = nil },
		"no key":              func(e *link.Enrolment, _ *proof) { e.PublicKey = "AAAA" },
	} {
		if status, code := a.post(a.body(token, change)); status != 401 || code != "EnrolmentProofInvalid" {
			t.Errorf("%s: %d %s", why, status, code)
		}
	}
	if status, code := a.post([]byte(strings.Repeat("x", 64<<10))); status != 413 {
		t.Errorf("huge: %d %s", status, code)
	}
	if status, code := a.post([]byte("[]")); status != 400 {
		t.Errorf("no object: %d %s", status, code)
	}
	a.wants(token, link.EnrolmentPending, "refusals use nothing up")
}

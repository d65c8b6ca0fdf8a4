package access_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"headwater.dev/hub/auth"
)

// clerk is somebody who manages service principals and may do nothing else.
func (h *hub) clerk(t *testing.T, owner *person) *person {
	t.Helper()
	role := newName()
	owner.must(201, "PUT", roles+role, `{"properties":{"roleName":"clerk","assignableScopes":["/"],"permissions":[{"actions":["Headwater.Identity/*"]}]}}`)
	p := h.somebody(t, "", "")
	owner.must(201, "PUT", assigned+newName(), give(auth.Role(role[1:]), p.oid))
	return p
}

// TestADisabledPrincipalKeepsItsRank takes over somebody mighty who is kept out:
// a secret added now would be good as soon as he is let in again.
func TestADisabledPrincipalKeepsItsRank(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	clerk, sleeper := h.clerk(t, owner), h.somebody(t, auth.Owner, "/")
	path := people + "/" + sleeper.id
	owner.must(200, "PUT", path, `{"properties":{"displayName":"sleeper","accountEnabled":false}}`)
	clerk.refused("AuthorizationFailed", "POST", path+"/addPassword", `{}`)
	clerk.refused("AuthorizationFailed", "POST", path+"/addKey", `{"key":"x"}`)
	clerk.refused("AuthorizationFailed", "PUT", path, `{"properties":{"displayName":"sleeper","accountEnabled":true}}`)
	clerk.refused("AuthorizationFailed", "DELETE", path, "")
	owner.must(200, "POST", path+"/addPassword", `{}`)
}

// TestARoleReachesWhereItIsAssigned changes a role that somebody still has where
// it can no longer be assigned.
func TestARoleReachesWhereItIsAssigned(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	owner.furnish()
	other := sub + "/resourceGroups/other"
	owner.must(201, "PUT", other, `{"location":"local"}`)
	mallory := h.somebody(t, auth.Owner, other)
	role := newName()
	body := func(action string, scopes ...string) string {
		return fmt.Sprintf(`{"properties":{"roleName":"r","assignableScopes":["%s"],"permissions":[{"actions":[%q]}]}}`, strings.Join(scopes, `","`), action)
	}
	owner.must(201, "PUT", sub+roles+role, body("*/read", group, other))
	owner.must(201, "PUT", group+assigned+newName(), give(auth.Role(role[1:]), mallory.oid))
	owner.must(201, "PUT", sub+roles+role, body("*/read", other))
	mallory.refused("AuthorizationFailed", "PUT", other+roles+role, body("*", other))
	mallory.refused("AuthorizationFailed", "DELETE", cluster, "")
	owner.must(201, "PUT", sub+roles+role, body("*/write", other))
}

// late is a body that is read when something has happened first.
type late struct {
	io.Reader
	first func()
}

func (l *late) Read(b []byte) (int, error) {
	if l.first != nil {
		l.first()
		l.first = nil
	}
	return l.Reader.Read(b)
}

// slowly sends a body only after the server has asked for it, which it does when
// the request was admitted, and after something else.
func (p *person) slowly(method, path, body string, first func()) int {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.hub.server.URL+path+"?api-version=2022-04-01", &late{strings.NewReader(body), first})
	if err != nil {
		p.t.Fatal(err)
	}
	req.ContentLength = int64(len(body))
	req.Header.Set("Authorization", "Bearer "+p.token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Expect", "100-continue")
	transport := p.hub.server.Client().Transport.(*http.Transport).Clone()
	transport.ExpectContinueTimeout = time.Minute
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// TestRightsCountWhenTheBodyHasCome takes rights away from somebody who has
// begun to pass them on and holds the rest of his request back.
func TestRightsCountWhenTheBodyHasCome(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	owner.furnish()
	friend := h.somebody(t, "", "")
	for name, c := range map[string]struct{ path, body string }{
		"an assignment": {sub + assigned + newName(), give(auth.Owner, friend.oid)},
		"a role":        {sub + roles + newName(), `{"properties":{"roleName":"n","assignableScopes":["` + sub + `"],"permissions":[{"actions":["*"]}]}}`},
		"a lock":        {group + locks + "/l", `{"properties":{"level":"ReadOnly"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			id := assigned + newName()
			p := h.somebody(t, "", "")
			owner.must(201, "PUT", sub+id, give(auth.Owner, p.oid))
			asked := false
			status := p.slowly("PUT", c.path, c.body, func() {
				asked = true
				owner.must(200, "DELETE", sub+id, "")
			})
			if !asked || status != http.StatusForbidden {
				t.Errorf("%d (body asked for: %v), want 403", status, asked)
			}
			owner.must(404, "GET", c.path, "")
		})
	}
	friend.refused("AuthorizationFailed", "GET", cluster, "")
}

package access_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"headwater.dev/hub/auth"
)

func TestBuiltInRolesHaveAzuresIDs(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	for name, id := range map[string]string{"Owner": "8e3af657-a8ff-443c-a75c-2fe8c4bcb635", "Contributor": "b24988ac-6180-42a0-ab88-20f7382dd24c",
		"Reader": "acdd72a7-3385-48ef-bd42-f606fba81ae7", "User Access Administrator": "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9",
		"Kubernetes Extension Contributor": "85cb6faf-e071-4c9b-8136-154b5a04f717"} {
		got := owner.must(200, "GET", sub+roles+"?$filter=roleName eq '"+name+"'", "").names(t)
		if !slices.Equal(got, []string{id}) {
			t.Errorf("%s: %v", name, got)
		}
		if a := owner.must(200, "GET", group+roles+"/"+id, ""); !strings.Contains(a.body, `"id":"`+sub+roles+"/"+id+`"`) {
			t.Errorf("%s: %s", name, a.body)
		}
		owner.refused("Conflict", "PUT", sub+roles+"/"+id, `{"properties":{"roleName":"x","assignableScopes":["`+sub+`"],"permissions":[{"actions":["*"]}]}}`)
		owner.refused("Conflict", "DELETE", sub+roles+"/"+id, "")
	}
}

// TestARemovedAssignmentActsAtOnce gives and takes a role at each kind of scope.
func TestARemovedAssignmentActsAtOnce(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	owner.furnish()
	for name, scope := range map[string]string{"subscription": sub, "group": strings.ToUpper(group[:len(sub)]) + group[len(sub):], "resource": cluster} {
		t.Run(name, func(t *testing.T) {
			p := h.somebody(t, "", "")
			p.refused("AuthorizationFailed", "GET", cluster, "")
			id := scope + assigned + newName()
			a := owner.must(201, "PUT", id, give(auth.Reader, p.oid))
			if !strings.Contains(a.body, `"principalType":"ServicePrincipal"`) || !strings.Contains(a.body, "/roleDefinitions/"+string(auth.Reader)) {
				t.Errorf("assignment: %s", a.body)
			}
			p.must(200, "GET", cluster, "")
			p.refused("AuthorizationFailed", "PUT", cluster, `{"location":"local"}`)
			owner.must(200, "PUT", id, give(auth.Reader, p.oid))
			owner.refused("RoleAssignmentExists", "PUT", scope+assigned+newName(), give(auth.Reader, p.oid))
			owner.refused("RoleAssignmentUpdateNotPermitted", "PUT", id, give(auth.Owner, p.oid))
			owner.must(200, "GET", id, "")
			owner.must(200, "DELETE", id, "")
			owner.must(204, "DELETE", id, "")
			owner.refused("RoleAssignmentNotFound", "GET", id, "")
			p.refused("AuthorizationFailed", "GET", cluster, "")
		})
	}
}

func TestWhatCannotBeAssigned(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	owner.furnish()
	p := h.somebody(t, "", "")
	owner.refused("InvalidParameter", "PUT", sub+assigned+"/name", give(auth.Reader, p.oid))
	owner.refused("InvalidParameter", "PUT", sub+assigned+newName(), give(auth.Reader, "someone"))
	owner.refused("RoleDefinitionDoesNotExist", "PUT", sub+assigned+newName(), give(auth.Role(uuid.NewString()), p.oid))
	owner.refused("ResourceGroupNotFound", "PUT", group+"2"+assigned+newName(), give(auth.Reader, p.oid))
	owner.refused("ResourceNotFound", "PUT", cluster+"2"+assigned+newName(), give(auth.Reader, p.oid))
	owner.refused("SubscriptionNotFound", "PUT", "/subscriptions/x"+assigned+newName(), give(auth.Reader, p.oid))
	owner.refused("OperationNotSupported", "PUT", sub+assigned+newName(), strings.Replace(give(auth.Reader, p.oid), `"principalId"`, `"condition":"x","principalId"`, 1))
	owner.refused("PrincipalNotFound", "PUT", sub+assigned+newName(), strings.Replace(give(auth.Reader, uuid.NewString()), `"principalId"`, `"principalType":"Group","principalId"`, 1))
	owner.refused("InvalidRequestContent", "PUT", sub+assigned+newName(), `[]`)
	owner.refused("InvalidRequestContent", "PUT", sub+assigned+newName(), `{}x`)
	owner.refused("MethodNotAllowed", "PATCH", sub+assigned+newName(), `{}`)
	owner.refused("InvalidParameter", "GET", sub+assigned+"?$filter=name eq 'x'", "")
	// A made-up server field is ignored, not believed.
	id := sub + assigned + newName()
	owner.must(201, "PUT", id, `{"id":"/x","name":"y","properties":{"scope":"/","createdBy":"me","principalId":"`+p.oid+`","roleDefinitionId":"`+roles+"/"+string(auth.Reader)+`"}}`)
	if a := owner.must(200, "GET", id, ""); !strings.Contains(a.body, `"scope":"`+sub+`"`) || strings.Contains(a.body, `"createdBy":"me"`) {
		t.Errorf("server fields: %s", a.body)
	}
}

// TestA97NoEscalation tries to get more than one has, in each way there is.
func TestA97NoEscalation(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	owner.furnish()
	keeper := h.somebody(t, auth.UserAccessAdministrator, sub)
	contributor := h.somebody(t, auth.Contributor, sub)
	p := h.somebody(t, "", "")
	contributor.refused("AuthorizationFailed", "PUT", sub+assigned+newName(), give(auth.Reader, p.oid))
	keeper.refused("AuthorizationFailed", "PUT", sub+assigned+newName(), give(auth.Owner, keeper.oid))
	keeper.refused("AuthorizationFailed", "PUT", "/providers/Microsoft.Authorization/roleAssignments"+newName(), give(auth.Reader, p.oid))
	keeper.must(201, "PUT", group+assigned+newName(), give(auth.Reader, p.oid))

	role := newName()
	body := func(action, scope string) string {
		return fmt.Sprintf(`{"properties":{"roleName":"own","assignableScopes":[%q],"permissions":[{"actions":[%q]}]}}`, scope, action)
	}
	keeper.refused("AuthorizationFailed", "PUT", sub+roles+role, body("Microsoft.KubernetesConfiguration/*", sub))
	keeper.refused("AuthorizationFailed", "PUT", sub+roles+role, body("*/read", "/"))
	contributor.refused("AuthorizationFailed", "PUT", sub+roles+role, body("*/read", sub))
	keeper.must(201, "PUT", sub+roles+role, body("*/read", sub))
	keeper.must(201, "PUT", sub+assigned+newName(), give(auth.Role(role[1:]), keeper.oid))
	keeper.refused("AuthorizationFailed", "PUT", sub+roles+role, body("*", sub)) // would reach himself
	owner.refused("RoleDefinitionHasAssignments", "DELETE", sub+roles+role, "")

	// Credentials of somebody who may more are more.
	clerk := h.somebody(t, "", "")
	owner.must(201, "PUT", "/providers/Microsoft.Authorization/roleDefinitions"+newName(),
		`{"properties":{"roleName":"clerk","assignableScopes":["/"],"permissions":[{"actions":["Headwater.Identity/*"]}]}}`)
	var page struct{ Value []struct{ Name string } }
	if err := json.Unmarshal([]byte(owner.must(200, "GET", roles+"?$filter=roleName eq 'clerk'", "").body), &page); err != nil || len(page.Value) != 1 {
		t.Fatalf("clerk: %v %v", page, err)
	}
	owner.must(201, "PUT", assigned+newName(), give(auth.Role(page.Value[0].Name), clerk.oid))
	clerk.must(200, "GET", people+"/"+h.admin.ClientID, "")
	for _, verb := range []string{"addPassword", "addKey", "addSubject"} {
		clerk.refused("AuthorizationFailed", "POST", people+"/"+h.admin.ClientID+"/"+verb, `{}`)
	}
	clerk.refused("AuthorizationFailed", "POST", people+"/"+h.admin.ClientID+"/removeCredential", `{"keyId":"x"}`)
	clerk.refused("AuthorizationFailed", "DELETE", people+"/"+h.admin.ClientID, "")
	clerk.must(200, "POST", people+"/"+h.somebody(t, "", "").id+"/addPassword", `{}`)
}

func TestListsShowWhatOneMayRead(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	owner.furnish()
	p, other := h.somebody(t, auth.Reader, cluster), h.somebody(t, auth.Reader, sub)
	at, above := assigned+"?$filter=atScope()", assigned
	if got := p.must(200, "GET", sub+above, "").names(t); len(got) != 1 {
		t.Errorf("a reader of one cluster sees %v in the subscription", got)
	}
	if got := p.must(200, "GET", cluster+at, "").names(t); len(got) != 3 {
		t.Errorf("a reader of one cluster sees %v at it", got)
	}
	if got := other.must(200, "GET", sub+above, "").names(t); len(got) != 3 {
		t.Errorf("a reader of all sees %v", got)
	}
	if got := other.must(200, "GET", sub+at, "").names(t); len(got) != 2 {
		t.Errorf("a reader of all sees %v at the subscription", got)
	}
	if got := other.must(200, "GET", sub+assigned+"?$filter=principalId eq '"+p.oid+"'", "").names(t); len(got) != 1 {
		t.Errorf("by principal: %v", got)
	}
	h.somebody(t, "", "").refused("AuthorizationFailed", "GET", sub+above, "")
	owner.must(201, "PUT", cluster+locks+"/a", `{"properties":{"level":"ReadOnly"}}`)
	owner.must(201, "PUT", group+locks+"/b", `{"properties":{"level":"CanNotDelete","notes":"n"}}`)
	if got := p.must(200, "GET", sub+locks, "").names(t); !slices.Equal(got, []string{"a"}) {
		t.Errorf("locks of one cluster's reader: %v", got)
	}
	if got := other.must(200, "GET", cluster+locks+"?$filter=atScope()", "").names(t); len(got) != 2 {
		t.Errorf("locks at the cluster: %v", got)
	}
	p.refused("AuthorizationFailed", "DELETE", cluster+locks+"/a", "")
}

func TestCustomRole(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	owner.furnish()
	role := newName()
	body := `{"properties":{"roleName":"Releaser","description":"d","assignableScopes":["` + group + `"],"permissions":[{"actions":` +
		`["Microsoft.ContainerService/*","Microsoft.Resources/subscriptions/resourceGroups/read"],"notActions":["*/delete"]}]}}`
	owner.must(201, "PUT", sub+roles+role, body)
	owner.must(201, "PUT", sub+roles+role, strings.Replace(body, `"d"`, `"e"`, 1))
	owner.refused("RoleDefinitionWithSameNameExists", "PUT", sub+roles+newName(), body)
	owner.refused("ValidationFailed", "PUT", sub+roles+newName(), strings.Replace(body, "Releaser", "", 1))
	owner.refused("ValidationFailed", "PUT", sub+roles+newName(), strings.Replace(body, group, "nowhere", 1))
	owner.refused("ValidationFailed", "PUT", sub+roles+newName(), strings.Replace(body, "*/delete", "a b", 1))
	p := h.somebody(t, "", "")
	owner.refused("RoleDefinitionDoesNotExist", "PUT", sub+assigned+newName(), give(auth.Role(role[1:]), p.oid)) // above its scopes
	id := group + assigned + newName()
	owner.must(201, "PUT", id, give(auth.Role(role[1:]), p.oid))
	p.must(200, "GET", group, "")
	p.must(200, "PUT", cluster, `{"location":"local","tags":{"a":"b"}}`)
	p.refused("AuthorizationFailed", "DELETE", cluster, "")
	p.refused("AuthorizationFailed", "GET", sub, "")
	if got := p.must(200, "GET", "/subscriptions", ""); !strings.Contains(got.body, sub) {
		t.Errorf("subscriptions: %s", got.body) // az needs to see where it may do something
	}
	owner.must(200, "DELETE", id, "")
	owner.must(200, "DELETE", sub+roles+role, "")
	owner.must(204, "DELETE", sub+roles+role, "")
}

func TestLocks(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	owner.furnish()
	lock := func(scope, level string) {
		owner.must(201, "PUT", scope+locks+"/l", `{"properties":{"level":"`+level+`"}}`)
	}
	unlock := func(scope string) { owner.must(200, "DELETE", scope+locks+"/l", "") }
	write := func() answer {
		return owner.send("PUT", cluster, `{"location":"local","tags":{"n":"`+uuid.NewString()+`"}}`)
	}
	for _, scope := range []string{sub, group, cluster} {
		lock(scope, "CanNotDelete")
		if a := write(); a.status != 200 {
			t.Errorf("CanNotDelete at %s forbids a write: %s", scope, a.body)
		}
		a := owner.refused("ScopeLocked", "DELETE", cluster, "")
		want := "The scope '" + cluster + "' cannot perform delete operation because following scope(s) are locked: '" + scope + "'. Please remove the lock and try again."
		if a.status != 409 || !strings.Contains(a.body, want) {
			t.Errorf("%d %s, want %s", a.status, a.body, want)
		}
		owner.refused("ScopeLocked", "DELETE", group, "") // also by what is in it
		unlock(scope)
		lock(scope, "ReadOnly")
		if a := write(); a.code() != "ScopeLocked" || !strings.Contains(a.body, "cannot perform write operation") {
			t.Errorf("ReadOnly at %s: %d %s", scope, a.status, a.body)
		}
		owner.must(200, "GET", cluster, "")
		unlock(scope)
	}
	lock(group, "CanNotDelete")
	id := group + assigned + newName()
	owner.must(201, "PUT", id, give(auth.Reader, uuid.NewString()))
	owner.refused("ScopeLocked", "DELETE", id, "")
	owner.must(200, "DELETE", group+"/providers/Microsoft.Resources/tags/default", "") // a write
	unlock(group)
	owner.must(200, "DELETE", id, "")
	lock(cluster, "CanNotDelete")
	id = group + assigned + newName() // what is locked below is not in the way of taking rights
	owner.must(201, "PUT", id, give(auth.Reader, uuid.NewString()))
	owner.must(200, "DELETE", id, "")
	h.somebody(t, auth.Contributor, sub).refused("AuthorizationFailed", "DELETE", cluster+locks+"/l", "")
	h.somebody(t, auth.Reader, sub).refused("AuthorizationFailed", "DELETE", cluster, "") // not told of locks first
	unlock(cluster)
	owner.must(204, "DELETE", cluster+locks+"/l", "")
	owner.refused("LockNotFound", "GET", cluster+locks+"/l", "")
	owner.refused("InvalidLockLevel", "PUT", cluster+locks+"/l", `{"properties":{"level":"Maybe"}}`)
	owner.refused("ResourceNotFound", "PUT", cluster+"2"+locks+"/l", `{"properties":{"level":"ReadOnly"}}`)
	owner.must(200, "DELETE", group, "")
}

// TestNamesakesInheritNothing makes something of the name of what is gone.
func TestNamesakesInheritNothing(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	owner.furnish()
	p := h.somebody(t, auth.Contributor, cluster)
	p.must(200, "GET", cluster, "")
	owner.must(200, "DELETE", group, "")
	owner.furnish()
	p.refused("AuthorizationFailed", "GET", cluster, "")

	// The extension that the first configuration makes is new, too.
	flux, version := cluster+"/providers/Microsoft.KubernetesConfiguration/extensions/flux", "?api-version=2023-05-01"
	first := func() {
		owner.must(201, "PUT", cluster+"/providers/Microsoft.KubernetesConfiguration/fluxConfigurations/apps"+version, strings.Replace(body("https://git.example/a", canary64), "a/b~c", "a", 1))
	}
	first()
	q := h.somebody(t, auth.Contributor, flux)
	q.must(200, "GET", flux+version, "")
	owner.must(200, "DELETE", cluster+"/providers/Microsoft.KubernetesConfiguration/fluxConfigurations/apps"+version+"&forceDelete=true", "")
	owner.must(200, "DELETE", flux+version+"&forceDelete=true", "")
	first()
	q.refused("AuthorizationFailed", "GET", flux+version, "")
}

func TestTheLastOwnerStays(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	mine := owner.must(200, "GET", assigned+"?$filter=atScope()", "").names(t)
	if len(mine) != 1 {
		t.Fatalf("assignments at the root: %v", mine)
	}
	me := people + "/" + h.admin.ClientID
	var shown struct {
		Properties struct{ Credentials []struct{ KeyID string } }
	}
	if err := json.Unmarshal([]byte(owner.must(200, "GET", me, "").body), &shown); err != nil || len(shown.Properties.Credentials) != 1 {
		t.Fatalf("%v %v", shown, err)
	}
	remove := `{"keyId":"` + shown.Properties.Credentials[0].KeyID + `"}`
	owner.refused("LastOwner", "DELETE", assigned+"/"+mine[0], "")
	owner.refused("LastOwner", "DELETE", me, "")
	owner.refused("LastOwner", "PUT", me, `{"properties":{"displayName":"admin","accountEnabled":false}}`)
	owner.refused("LastOwner", "POST", me+"/removeCredential", remove)
	owner.must(201, "PUT", assigned+newName(), give(auth.Owner, uuid.NewString())) // nobody who can sign in
	owner.refused("LastOwner", "DELETE", assigned+"/"+mine[0], "")
	second := h.somebody(t, auth.Owner, "/")
	owner.must(204, "POST", me+"/removeCredential", remove)
	second.must(200, "DELETE", assigned+"/"+mine[0], "")
	owner.refused("AuthorizationFailed", "GET", sub, "")
	second.refused("LastOwner", "DELETE", people+"/"+second.id, "")
}

func TestServicePrincipalsAndTheirCredentials(t *testing.T) {
	h := start(t)
	owner := h.owner(t)
	id := uuid.NewString()
	path := people + "/" + id
	owner.refused("ResourceNotFound", "POST", path+"/addPassword", `{}`)
	owner.refused("InvalidParameter", "PUT", people+"/name", `{"properties":{"displayName":"x"}}`)
	owner.refused("ValidationFailed", "PUT", path, `{"properties":{}}`)
	owner.must(201, "PUT", path, `{"properties":{"displayName":"pipeline","objectId":"mine"}}`)
	owner.must(200, "PUT", path, `{"properties":{"displayName":"pipeline 2"}}`)
	owner.refused("ValidationFailed", "POST", path+"/addPassword", `{"endDateTime":"2001-01-01T00:00:00Z"}`)
	owner.refused("ValidationFailed", "POST", path+"/addPassword", `{"endDateTime":"0001-01-01T00:00:00Z"}`)
	var first, second struct{ SecretText, KeyID string }
	for i, into := range []any{&first, &second} {
		end := h.clock().Add(time.Duration(i+1) * time.Hour).UTC().Format(time.RFC3339)
		if err := json.Unmarshal([]byte(owner.must(200, "POST", path+"/addPassword", `{"displayName":"n","endDateTime":"`+end+`"}`).body), into); err != nil {
			t.Fatal(err)
		}
	}
	p := h.login(t, id, first.SecretText)
	h.login(t, id, second.SecretText)
	shown := owner.must(200, "GET", path, "").body + owner.must(200, "GET", people, "").body
	if strings.Contains(shown, first.SecretText) || !strings.Contains(shown, first.KeyID) || strings.Contains(shown, `"mine"`) {
		t.Errorf("shown: %s", shown)
	}
	p.refused("AuthorizationFailed", "GET", path, "") // not even oneself, without a role
	owner.must(204, "POST", path+"/removeCredential", `{"keyId":"`+first.KeyID+`"}`)
	owner.refused("ResourceNotFound", "POST", path+"/removeCredential", `{"keyId":"`+first.KeyID+`"}`)
	owner.refused("ValidationFailed", "POST", path+"/removeCredential", `{}`)
	owner.refused("ValidationFailed", "POST", path+"/addKey", `{"key":"x"}`)
	owner.refused("ValidationFailed", "POST", path+"/addSubject", `{"issuer":"https://x","subject":"y"}`)
	owner.must(200, "DELETE", path, "")
	owner.must(204, "DELETE", path, "")
	owner.must(200, "GET", "/providers/Headwater.Identity/subjects?issuer=https://x&subject=y", "")
}

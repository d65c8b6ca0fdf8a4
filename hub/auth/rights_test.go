package auth_test

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"headwater.dev/hub/auth"
)

// at are the rights of a role at a scope.
func at(role auth.Role, scope string) auth.Rights {
	d, _ := auth.RoleNamed(string(role)) // an unknown one allows nothing
	return auth.Rights{{Scope: scope, Permissions: d.Permissions}}
}

func TestRights(t *testing.T) {
	const group = "/subscriptions/s/resourceGroups/rg"
	read, write := "Microsoft.KubernetesConfiguration/fluxConfigurations/read", "Microsoft.KubernetesConfiguration/fluxConfigurations/write"
	custom := func(p auth.Permission) auth.Rights {
		return auth.Rights{{Scope: group, Permissions: []auth.Permission{p}}}
	}
	cases := map[string]struct {
		rights        auth.Rights
		action, scope string
		want          bool
	}{
		"nothing":                          {nil, read, group, false},
		"unknown role":                     {at("Emperor", "/"), read, group, false},
		"owner of everything":              {at(auth.Owner, "/"), write, group, true},
		"an empty scope is nowhere":        {at(auth.Owner, ""), write, group, false},
		"reader reads":                     {at(auth.Reader, group), read, group, true},
		"reader does not write":            {at(auth.Reader, group), write, group, false},
		"reader and a verb ending in read": {at(auth.Reader, group), "Microsoft.X/things/spread", group, false},
		"contributor writes":               {at(auth.Contributor, group), write, group, true},
		"contributor gives no rights":      {at(auth.Contributor, "/"), "Microsoft.Authorization/roleAssignments/write", group, false},
		"contributor makes no principals":  {at(auth.Contributor, "/"), "Headwater.Identity/servicePrincipals/addPassword/action", "/", false},
		"contributor sets no locks":        {at(auth.Contributor, "/"), "Microsoft.Authorization/locks/write", group, false},
		"contributor reads rights":         {at(auth.Contributor, "/"), "microsoft.authorization/roleassignments/read", group, true},
		"owner gives rights":               {at(auth.Owner, "/"), "Microsoft.Authorization/roleAssignments/write", group, true},
		"administrator gives rights":       {at(auth.UserAccessAdministrator, "/"), "Microsoft.Authorization/roleAssignments/write", group, true},
		"administrator writes nothing":     {at(auth.UserAccessAdministrator, "/"), write, group, false},
		"extension contributor":            {at(auth.ExtensionContributor, "/"), "Microsoft.KubernetesConfiguration/extensions/write", group, true},
		"extension contributor and groups": {at(auth.ExtensionContributor, "/"), "Microsoft.Resources/resourceGroups/read", group, true},
		"extension contributor elsewhere":  {at(auth.ExtensionContributor, "/"), write, group, false},
		"custom, star in the middle":       {custom(auth.Permission{Actions: []string{"Microsoft.KubernetesConfiguration/*/write"}}), write, group, true},
		"custom, taken out again":          {custom(auth.Permission{Actions: []string{"*"}, NotActions: []string{"*/flux*/WRITE"}}), write, group, false},
		"data actions are not actions":     {custom(auth.Permission{DataActions: []string{"*"}}), read, group, false},
		"below the scope":                  {at(auth.Reader, group), read, group + "/providers/Microsoft.X/y/z", true},
		"above the scope":                  {at(auth.Reader, group), read, "/subscriptions/s", false},
		"beside the scope":                 {at(auth.Reader, group), read, "/subscriptions/s/resourceGroups/rg2", false},
		"beside, longer":                   {at(auth.Reader, group), read, group + "-prod/providers/x", false},
		"folded":                           {at(auth.Reader, strings.ToUpper(group)), read, strings.ToLower(group) + "/x", true},
		"scope with a slash at the end":    {at(auth.Reader, group+"/"), read, group, true},
		"id with a slash at the end":       {at(auth.Reader, group), read, group + "/", true},
		"dots do not climb":                {at(auth.Reader, group), read, group + "/../other", false},
		"dots do not climb for owners":     {at(auth.Owner, "/"), read, "/subscriptions/./x", false},
		"an action of stars":               {at(auth.Owner, "/"), "*", group, false},
		"no action":                        {at(auth.Owner, "/"), "", group, false},
		"one of many":                      {append(at(auth.Reader, "/subscriptions/other"), at(auth.Contributor, group)...), write, group, true},
		"not the sum of two half fits":     {append(at(auth.Owner, "/subscriptions/other"), at(auth.Reader, group)...), write, group, false},
	}
	for name, c := range cases {
		if got := c.rights.Allows(c.action, c.scope); got != c.want {
			t.Errorf("%s: %s at %s: got %v, want %v", name, c.action, c.scope, got, c.want)
		}
	}
	rights := at(auth.Reader, group)
	if !rights.Below(read, "/subscriptions/s") || !rights.Below(read, group+"/x") || !rights.Touches("/subscriptions/s") {
		t.Error("a list that may hold something is not made")
	}
	if rights.Below(write, "/subscriptions/s") || rights.Below(read, "/subscriptions/other") || rights.Touches("/subscriptions/other") {
		t.Error("a list that can hold nothing is made")
	}
}

func TestNobodyGivesAwayWhatHeDoesNotHave(t *testing.T) {
	const group = "/subscriptions/s/resourceGroups/rg"
	role := func(r auth.Role) []auth.Permission { d, _ := auth.RoleNamed(string(r)); return d.Permissions }
	custom := func(actions, not []string) []auth.Permission {
		return []auth.Permission{{Actions: actions, NotActions: not}}
	}
	authorization := []string{"Microsoft.Authorization/*/write", "Microsoft.Authorization/*/delete", "microsoft.authorization/elevateaccess/action",
		"Headwater.Identity/*/write", "Headwater.Identity/*/delete", "Headwater.Identity/*/action"}
	for name, c := range map[string]struct {
		rights auth.Rights
		wanted []auth.Permission
		scope  string
		want   bool
	}{
		"owner gives owner":                         {at(auth.Owner, "/"), role(auth.Owner), group, true},
		"owner of another group":                    {at(auth.Owner, group+"2"), role(auth.Reader), group, false},
		"administrator gives reader":                {at(auth.UserAccessAdministrator, "/"), role(auth.Reader), group, true},
		"administrator gives himself":               {at(auth.UserAccessAdministrator, "/"), role(auth.UserAccessAdministrator), group, true},
		"administrator gives owner":                 {at(auth.UserAccessAdministrator, "/"), role(auth.Owner), group, false},
		"administrator gives contributor":           {at(auth.UserAccessAdministrator, "/"), role(auth.Contributor), group, false},
		"contributor gives contributor":             {at(auth.Contributor, "/"), role(auth.Contributor), group, true},
		"contributor gives owner":                   {at(auth.Contributor, "/"), role(auth.Owner), group, false},
		"contributor gives everything but the same": {at(auth.Contributor, "/"), custom([]string{"*"}, authorization), group, true},
		"contributor gives writes":                  {at(auth.Contributor, "/"), custom([]string{"*/write"}, nil), group, false},
		"contributor gives writes of flux":          {at(auth.Contributor, "/"), custom([]string{"Microsoft.KubernetesConfiguration/*"}, nil), group, true},
		"a star is not a word":                      {auth.Rights{{Scope: "/", Permissions: custom([]string{"a/b/read"}, nil)}}, custom([]string{"a/*/read"}, nil), group, false},
		"two halves":                                {append(at(auth.Reader, "/"), at(auth.Contributor, group)...), custom([]string{"*/read", "a/write"}, nil), group, true},
		"data actions":                              {at(auth.Reader, "/"), []auth.Permission{{DataActions: []string{"a/read"}}}, group, false},
		"data actions of an owner":                  {at(auth.Owner, "/"), []auth.Permission{{DataActions: []string{"a/read"}}}, group, true},
		"nothing":                                   {nil, custom([]string{"a"}, nil), group, false},
	} {
		if got := c.rights.Covers(c.wanted, c.scope); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestReplicasAgreeAtOnce gives and takes a role at one hub and asks another.
func TestReplicasAgreeAtOnce(t *testing.T) {
	d := newDirectory(t)
	other := d.open(t)
	const action, scope = "Microsoft.X/y/read", "/subscriptions/s"
	p, _, err := d.CreatePrincipal(t.Context(), "reader", 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		name, err := d.Assign(t.Context(), p.ObjectID, auth.Reader, scope)
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Authorize(t.Context(), p, action, scope); err != nil {
			t.Errorf("given: %v", err)
		}
		if err := d.Unassign(t.Context(), p.ObjectID, name); err != nil {
			t.Fatal(err)
		}
		if err := other.Authorize(t.Context(), p, action, scope); err == nil {
			t.Error("taken, but not at the other replica")
		}
	}
}

// TestOwnersCannotRemoveEachOtherAtOnce lets the last two owners try.
func TestOwnersCannotRemoveEachOtherAtOnce(t *testing.T) {
	d := newDirectory(t)
	other := d.open(t)
	second, _, err := d.CreatePrincipal(t.Context(), "second", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Assign(t.Context(), second.ObjectID, auth.Owner, "/"); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	errs := make([]error, 2)
	group.Go(func() { errs[0] = d.DeletePrincipal(t.Context(), auth.Principal{ID: second.ID}) })
	group.Go(func() { errs[1] = other.DeletePrincipal(t.Context(), auth.Principal{ID: d.admin.ClientID}) })
	group.Wait()
	if errors.Is(errs[0], auth.ErrLastOwner) == errors.Is(errs[1], auth.ErrLastOwner) {
		t.Errorf("both or none: %v", errs)
	}
}

func TestAssignments(t *testing.T) {
	d := newDirectory(t)
	const scope, action = "/subscriptions/s/resourceGroups/rg", "Microsoft.X/y/read"
	p, secret, err := d.CreatePrincipal(t.Context(), "reader", 0)
	if err != nil {
		t.Fatal(err)
	}
	who, err := d.Authenticate(request(d.token(t, "client_id", p.ID, "client_secret", secret)))
	if err != nil {
		t.Fatal(err)
	}
	denied := func(why string) {
		t.Helper()
		err := d.Authorize(t.Context(), who, action, scope)
		var denial *auth.Denial
		if !errors.As(err, &denial) || denial.Status != http.StatusForbidden || denial.Code != "AuthorizationFailed" {
			t.Errorf("%s: %v", why, err)
		}
	}
	denied("by default")
	id, err := d.Assign(t.Context(), p.ObjectID, auth.Reader, scope)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Authorize(t.Context(), who, action, scope); err != nil {
		t.Errorf("after the assignment: %v", err)
	}
	if err := d.Unassign(t.Context(), p.ObjectID, id); err != nil {
		t.Fatal(err)
	}
	denied("after its removal")
	if err := d.Authorize(t.Context(), auth.Principal{}, action, scope); err == nil {
		t.Error("nobody in particular has rights")
	}
	for why, bad := range map[string][3]string{
		"unknown role":   {p.ObjectID, "Emperor", scope},
		"relative scope": {p.ObjectID, "Reader", "subscriptions/s"},
		"empty scope":    {p.ObjectID, "Reader", ""},
		"no object":      {"", "Reader", scope},
		"a path":         {"a/b", "Reader", scope},
	} {
		if _, err := d.Assign(t.Context(), bad[0], auth.Role(bad[1]), bad[2]); err == nil {
			t.Errorf("%s: assigned", why)
		}
	}
}

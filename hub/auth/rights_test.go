package auth_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"headwater.dev/hub/auth"
)

func TestRights(t *testing.T) {
	const group = "/subscriptions/s/resourceGroups/rg"
	read, write := "Microsoft.KubernetesConfiguration/fluxConfigurations/read", "Microsoft.KubernetesConfiguration/fluxConfigurations/write"
	at := func(role auth.Role, scope string) auth.Rights { return auth.Rights{{Role: role, Scope: scope}} }
	cases := map[string]struct {
		rights        auth.Rights
		action, scope string
		want          bool
	}{
		"nothing":                          {nil, read, group, false},
		"unknown role":                     {at("Emperor", "/"), read, group, false},
		"owner of everything":              {at(auth.Owner, "/"), write, group, true},
		"owner without a scope":            {at(auth.Owner, ""), write, group, true},
		"reader reads":                     {at(auth.Reader, group), read, group, true},
		"reader does not write":            {at(auth.Reader, group), write, group, false},
		"reader and a verb ending in read": {at(auth.Reader, group), "Microsoft.X/things/spread", group, false},
		"contributor writes":               {at(auth.Contributor, group), write, group, true},
		"contributor gives no rights":      {at(auth.Contributor, "/"), "Microsoft.Authorization/roleAssignments/write", group, false},
		"contributor reads rights":         {at(auth.Contributor, "/"), "microsoft.authorization/roleassignments/read", group, true},
		"owner gives rights":               {at(auth.Owner, "/"), "Microsoft.Authorization/roleAssignments/write", group, true},
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
	if !rights.Below(read, "/subscriptions/s") || !rights.Below(read, group+"/x") {
		t.Error("a list that may hold something is not made")
	}
	if rights.Below(write, "/subscriptions/s") || rights.Below(read, "/subscriptions/other") {
		t.Error("a list that can hold nothing is made")
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

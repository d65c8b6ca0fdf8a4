package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// rows runs a command that prints a list.
func (x terminal) rows(args ...string) []object {
	x.t.Helper()
	out := x.ok(args...)
	var rows []object
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		x.t.Fatalf("headwater %s prints no list: %v\n%s", strings.Join(args, " "), err, out)
	}
	return rows
}

// TestRightsOfARealHub makes a service principal, gives it a role, works as it,
// rotates its secret, and reads what happened.
func TestRightsOfARealHub(t *testing.T) {
	_, x := startHub(t)
	x.ok("group", "create", "-n", "g")
	made := x.object("sp", "create", "--display-name", "pipeline")
	id, secret := made["appId"].(string), made["password"].(string)
	y := terminal{t: t, env: map[string]string{}}
	for k, v := range x.env {
		y.env[k] = v
	}
	y.env["AZURE_CLIENT_ID"], y.env["AZURE_CLIENT_SECRET"] = id, secret
	if me := y.object("whoami"); me["objectId"] != made["objectId"] || me["displayName"] != "pipeline" {
		t.Errorf("whoami: %v", me)
	}
	y.fails(1, "AuthorizationFailed", "group", "list")
	assignment := x.object("role", "assignment", "create", "--assignee", id, "--role", "Reader", "-g", "g", "--description", "looks")
	if assignment["principalId"] != made["objectId"] {
		t.Errorf("assignment: %v", assignment)
	}
	if rows := y.rows("group", "list"); len(rows) != 1 {
		t.Errorf("groups: %v", rows)
	}
	y.fails(1, "ask an owner", "group", "create", "-n", "mine")
	if out := x.ok("role", "assignment", "list", "--assignee", id, "-o", "table"); !strings.Contains(out, "Reader") {
		t.Errorf("assignments:\n%s", out)
	}
	x.fails(3, "there is no role", "role", "assignment", "create", "--assignee", id, "--role", "Emperor")
	x.fails(1, "--issuer and --subject", "role", "assignment", "create", "--issuer", "https://x", "--role", "Reader")
	foreign := x.object("role", "assignment", "create", "--issuer", "https://x", "--subject", "y", "--role", "Reader")
	if foreign["principalType"] != "User" {
		t.Errorf("foreign: %v", foreign)
	}

	next := x.object("sp", "credential", "add", "--id", id, "-n", "next", "--end-date", time.Now().AddDate(0, 0, 2).Format("2006-01-02"))
	rows := x.rows("sp", "credential", "list", "--id", id)
	if len(rows) != 2 {
		t.Fatalf("credentials: %v", rows)
	}
	x.ok("sp", "credential", "delete", "--id", id, "--key-id", rows[0]["keyId"].(string))
	y.fails(1, "log in anew", "group", "list")
	y.env["AZURE_CLIENT_SECRET"] = next["secretText"].(string)
	y.ok("group", "list")
	x.ok("sp", "update", "--id", id, "--enabled=false")
	y.fails(1, "disabled", "group", "list")
	x.fails(1, "--end-date", "sp", "credential", "add", "--id", id, "--end-date", "soon")
	x.fails(1, "ValidationFailed", "sp", "credential", "add", "--id", id, "--cert", "x")
	x.fails(1, "LastOwner", "sp", "delete", "-y", "--id", x.env["AZURE_CLIENT_ID"])

	x.ok("role", "definition", "create", "--role-definition",
		`{"name":"Looker","description":"d","assignableScopes":["/subscriptions/`+x.env["AZURE_SUBSCRIPTION_ID"]+`"],"actions":["*/read"]}`)
	if rows := x.rows("role", "definition", "list", "--custom-role-only"); len(rows) != 1 || rows[0]["roleName"] != "Looker" || rows[0]["type"] != "CustomRole" {
		t.Errorf("roles: %v", rows)
	}
	x.ok("role", "definition", "delete", "-n", "Looker")

	x.ok("lock", "create", "-n", "keep", "-g", "g", "-t", "CanNotDelete", "--notes", "production")
	x.fails(1, "headwater lock list", "group", "delete", "-y", "-n", "g")
	if out := x.ok("lock", "list", "-o", "table"); !strings.Contains(out, "production") {
		t.Errorf("locks:\n%s", out)
	}
	x.ok("lock", "delete", "-n", "keep", "-g", "g")
	x.ok("role", "assignment", "delete", "--ids", assignment["id"].(string))
	x.ok("sp", "delete", "-y", "--id", id)
	out := x.ok("monitor", "activity-log", "list", "-o", "table", "--max-events", "100")
	if !strings.Contains(out, "Failed ScopeLocked") || !strings.Contains(out, "roleAssignments/write") || strings.Contains(out, secret) {
		t.Errorf("activity:\n%s", out)
	}
	if rows := x.rows("monitor", "activity-log", "list", "--tenant", "--caller", "admin", "--max-events", "3"); len(rows) != 3 {
		t.Errorf("the tenant's activity: %v", rows)
	}
}

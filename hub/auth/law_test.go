package auth_test

import (
	"testing"

	"headwater.dev/hub/auth"
)

// TestCoversIsNeverTooKind tries all pairs of permissions made of a few
// patterns: where the one is said to cover the other, every action that the
// other allows must be allowed by the one. That is the law that keeps people
// from giving away more than they have.
func TestCoversIsNeverTooKind(t *testing.T) {
	patterns := []string{"*", "a/*", "*/b", "a/b", "a/*/b", "*b", "a*", "b/a", "*a*", "microsoft.resources/resourceGroups/*", "Microsoft.Resources/subscriptions/resourceGroups/read"}
	actions := []string{"a/b", "b/a", "a/a", "b/b", "a/b/b", "a/a/b", "ab", "b/a/b", "a/b/a", "aa/b", "Microsoft.Resources/resourceGroups/read",
		"Microsoft.Resources/subscriptions/resourceGroups/write"}
	var all []auth.Permission
	for _, p := range patterns {
		all = append(all, auth.Permission{Actions: []string{p}})
		for _, n := range patterns {
			all = append(all, auth.Permission{Actions: []string{p}, NotActions: []string{n}}, auth.Permission{Actions: []string{p, n}, NotActions: []string{"a/b", "*/a"}})
		}
	}
	allowed := map[int]map[string]bool{}
	for i, p := range all {
		allowed[i] = map[string]bool{}
		for _, a := range actions {
			allowed[i][a] = (auth.Rights{{Scope: "/", Permissions: []auth.Permission{p}}}).Allows(a, "/x")
		}
	}
	covered, refused := 0, 0
	for i, mine := range all {
		for j, wanted := range all {
			if !(auth.Rights{{Scope: "/", Permissions: []auth.Permission{mine}}}).Covers([]auth.Permission{wanted}, "/x") {
				refused++
				continue
			}
			covered++
			for _, a := range actions {
				if allowed[j][a] && !allowed[i][a] {
					t.Fatalf("%+v is said to cover %+v, which allows %s", mine, wanted, a)
				}
			}
		}
	}
	if covered < 1000 || refused < 1000 {
		t.Errorf("only %d pairs cover, %d do not", covered, refused)
	}
}

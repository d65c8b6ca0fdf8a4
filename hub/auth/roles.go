package auth

import "strings"

// Permission is a set of actions: those that a pattern names, without those
// that a not-pattern names. "*" stands for any text, also with slashes.
type Permission struct {
	Actions        []string `json:"actions"`
	NotActions     []string `json:"notActions"`
	DataActions    []string `json:"dataActions"`
	NotDataActions []string `json:"notDataActions"`
}

// RoleDefinition is a named set of actions.
type RoleDefinition struct {
	// ID is the definition's GUID, in lower case.
	ID          string       `json:"id"`
	Name        string       `json:"name"`
	Description string       `json:"description"`
	BuiltIn     bool         `json:"builtIn,omitempty"`
	Permissions []Permission `json:"permissions"`
	// Scopes at or below which the role can be assigned; "/" is everywhere.
	Scopes []string `json:"scopes"`
}

// Role is the GUID of a role definition.
type Role string

// The roles that are always there, with the ids that they have in Azure.
const (
	// Owner may do everything.
	Owner Role = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
	// Contributor may do everything but give rights away.
	Contributor Role = "b24988ac-6180-42a0-ab88-20f7382dd24c"
	// Reader may look at everything.
	Reader Role = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
	// UserAccessAdministrator may look at everything and give rights away.
	UserAccessAdministrator Role = "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9"
	// ExtensionContributor may manage extensions.
	ExtensionContributor Role = "85cb6faf-e071-4c9b-8136-154b5a04f717"
)

// BuiltIn are the roles that are always there.
func BuiltIn() []RoleDefinition {
	role := func(id Role, name, description string, actions, not []string) RoleDefinition {
		return RoleDefinition{ID: string(id), Name: name, Description: description, BuiltIn: true, Scopes: []string{"/"},
			Permissions: []Permission{{Actions: actions, NotActions: not}}}
	}
	return []RoleDefinition{
		role(Owner, "Owner", "Grants full access to manage all resources, including the ability to assign roles.", []string{"*"}, nil),
		role(Contributor, "Contributor", "Grants full access to manage all resources, but does not allow you to assign roles or manage the directory.",
			[]string{"*"}, []string{"Microsoft.Authorization/*/Delete", "Microsoft.Authorization/*/Write",
				"Microsoft.Authorization/elevateAccess/Action", "Headwater.Identity/*/Delete", "Headwater.Identity/*/Write", "Headwater.Identity/*/Action"}),
		role(Reader, "Reader", "View all resources, but does not allow you to make any changes.", []string{"*/read"}, nil),
		role(UserAccessAdministrator, "User Access Administrator", "Lets you manage user access to resources.",
			[]string{"*/read", "Microsoft.Authorization/*"}, nil),
		role(ExtensionContributor, "Kubernetes Extension Contributor",
			"Can create, update, get, list and delete Kubernetes Extensions, and get extension async operations.",
			[]string{"Microsoft.Authorization/*/read", "Microsoft.Resources/subscriptions/resourceGroups/read",
				"Microsoft.KubernetesConfiguration/extensions/write", "Microsoft.KubernetesConfiguration/extensions/read",
				"Microsoft.KubernetesConfiguration/extensions/delete", "Microsoft.KubernetesConfiguration/extensions/operations/read"}, nil),
	}
}

// RoleNamed is the role that is always there and has a name or an id, in any case.
func RoleNamed(name string) (RoleDefinition, bool) {
	for _, d := range BuiltIn() {
		if strings.EqualFold(d.Name, name) || strings.EqualFold(d.ID, name) {
			return d, true
		}
	}
	return RoleDefinition{}, false
}

// allows reports whether an action, in lower case, is one of the permission's.
func (p Permission) allows(action string) bool {
	return matchAny(p.Actions, action) && !matchAny(p.NotActions, action)
}

// covers reports whether all that other allows, p allows too. When that cannot
// be told from the patterns one by one, the answer is no.
func (p Permission) covers(other Permission) bool {
	return coversPatterns(p.Actions, p.NotActions, other.Actions, other.NotActions) &&
		(len(other.DataActions) == 0 || coversPatterns(append(p.DataActions, everything(p.Actions)...), p.NotDataActions, other.DataActions, other.NotDataActions))
}

// everything makes whoever may do every action give away data actions too: the
// hub has none of its own.
func everything(actions []string) []string {
	for _, a := range actions {
		if a == "*" {
			return []string{"*"}
		}
	}
	return nil
}

func coversPatterns(actions, not, others, otherNot []string) bool {
	for _, o := range others {
		if !matchAny(actions, o) { // a "*" in o is matched by a "*" only
			return false
		}
		for _, n := range not {
			if overlap(fold(n), fold(o)) && !matchAny(otherNot, n) {
				return false
			}
		}
	}
	return true
}

// fold brings an action or pattern to the form that is compared: lower case,
// and resource groups by the one name that they have in roles.
func fold(action string) string {
	action = strings.ToLower(action)
	if rest, ok := strings.CutPrefix(action, "microsoft.resources/resourcegroups/"); ok {
		return "microsoft.resources/subscriptions/resourcegroups/" + rest
	}
	return action
}

func matchAny(patterns []string, action string) bool {
	action = fold(action)
	for _, p := range patterns {
		if match(fold(p), action) {
			return true
		}
	}
	return false
}

// match compares with a pattern in which "*" stands for any text.
func match(pattern, action string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == action
	}
	rest, ok := strings.CutPrefix(action, parts[0])
	if !ok {
		return false
	}
	last := len(parts) - 1
	for _, p := range parts[1:last] {
		i := strings.Index(rest, p)
		if i < 0 {
			return false
		}
		rest = rest[i+len(p):]
	}
	return strings.HasSuffix(rest, parts[last])
}

// overlap reports whether two patterns may both match one text. It looks at
// what they begin and end with only, so it may say yes too often.
func overlap(a, b string) bool {
	ha, hb := strings.Index(a, "*"), strings.Index(b, "*")
	switch {
	case ha < 0:
		return match(b, a)
	case hb < 0:
		return match(a, b)
	}
	head := min(ha, hb)
	ta, tb := a[strings.LastIndex(a, "*")+1:], b[strings.LastIndex(b, "*")+1:]
	tail := min(len(ta), len(tb))
	return a[:head] == b[:head] && ta[len(ta)-tail:] == tb[len(tb)-tail:]
}

package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"headwater.dev/hub/store"
)

// Role is a named set of actions.
type Role string

// The roles there are.
const (
	// Owner may do everything.
	Owner Role = "Owner"
	// Contributor may do everything but give rights away.
	Contributor Role = "Contributor"
	// Reader may look at everything.
	Reader Role = "Reader"
)

// definition is what a role allows; patterns are lower case, "*" is any text.
type definition struct{ actions, notActions []string }

func define(r Role) (definition, bool) {
	switch r {
	case Owner:
		return definition{actions: []string{"*"}}, true
	case Contributor:
		return definition{actions: []string{"*"}, notActions: []string{
			"microsoft.authorization/*/write", "microsoft.authorization/*/delete", "microsoft.authorization/elevateaccess/action",
		}}, true
	case Reader:
		return definition{actions: []string{"*/read"}}, true
	}
	return definition{}, false
}

// Assignment is a role at a scope and everything below.
type Assignment struct {
	Role Role `json:"role"`
	// Scope is an ARM id, "/" for everything.
	Scope string `json:"scope"`
}

// Rights are all assignments of one principal.
type Rights []Assignment

// Allows reports whether an action, as "Namespace/type/verb", is allowed on the
// resource with an ARM id. Case does not matter in either.
func (r Rights) Allows(action, scope string) bool {
	action = strings.ToLower(action)
	if action == "" || strings.Contains(action, "*") {
		return false
	}
	for _, a := range r {
		d, known := define(a.Role)
		if known && within(scope, a.Scope) && matchAny(d.actions, action) && !matchAny(d.notActions, action) {
			return true
		}
	}
	return false
}

// Below reports whether the principal may do the action on anything at all at
// or below scope: whether a filtered list has to be made.
func (r Rights) Below(action, scope string) bool {
	if r.Allows(action, scope) {
		return true
	}
	for _, a := range r {
		if within(a.Scope, scope) && (Rights{a}).Allows(action, a.Scope) {
			return true
		}
	}
	return false
}

// within reports whether id is scope or lies below it, segment by segment.
func within(id, scope string) bool {
	id, scope = strings.Trim(strings.ToLower(id), "/"), strings.Trim(strings.ToLower(scope), "/")
	for segment := range strings.SplitSeq(id, "/") {
		if segment == "." || segment == ".." {
			return false
		}
	}
	if scope == "" {
		return true
	}
	rest, ok := strings.CutPrefix(id, scope)
	return ok && (rest == "" || rest[0] == '/')
}

func matchAny(patterns []string, action string) bool {
	for _, p := range patterns {
		if match(p, action) {
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

// Rights reads what a principal may do. Agents may do nothing at the users' door.
func (a *Auth) Rights(ctx context.Context, p Principal) (Rights, error) {
	if p.Kind != ServicePrincipal || p.ObjectID == "" {
		return nil, nil
	}
	var rights Rights
	_, err := store.Each(ctx, a.store, assignmentKey(p.ObjectID, ""), func(r store.Record) error {
		var assignment Assignment
		if err := json.Unmarshal(r.Desired, &assignment); err != nil {
			return fmt.Errorf("read %s: %w", r.Key, err)
		}
		rights = append(rights, assignment)
		return nil
	})
	if errors.Is(err, store.ErrInvalid) {
		return nil, nil
	}
	if err != nil {
		return nil, errStore("read role assignments", err)
	}
	return rights, nil
}

// Authorize is nil when the principal may do the action on scope, and a *Denial
// of 403 otherwise.
func (a *Auth) Authorize(ctx context.Context, p Principal, action, scope string) error {
	rights, err := a.Rights(ctx, p)
	if err != nil {
		return err
	}
	if rights.Allows(action, scope) {
		return nil
	}
	return Forbid(p, action, scope)
}

// Forbid is the *Denial of an action that no assignment allows.
func Forbid(p Principal, action, scope string) error {
	return &Denial{
		Status: http.StatusForbidden,
		Code:   "AuthorizationFailed",
		Message: fmt.Sprintf("The client '%s' with object id '%s' does not have authorization to perform action '%s' over scope '%s' or the scope is invalid. "+
			"If access was recently granted, please refresh your credentials.", p.ID, p.ObjectID, action, scope),
	}
}

// Assign gives a principal a role at a scope and answers the assignment's id.
func (a *Auth) Assign(ctx context.Context, objectID string, role Role, scope string) (string, error) {
	if _, known := define(role); !known {
		return "", fmt.Errorf("assign role: there is no role %q; use %s, %s or %s", role, Owner, Contributor, Reader)
	}
	if !strings.HasPrefix(scope, "/") {
		return "", fmt.Errorf("assign role: scope %q is not an ARM id that begins with a slash", scope)
	}
	if objectID == "" || strings.Contains(objectID, "/") {
		return "", fmt.Errorf("assign role: %q is not an object id", objectID)
	}
	id := uuid.NewString()
	if err := a.assign(ctx, objectID, id, Assignment{Role: role, Scope: scope}); err != nil {
		return "", fmt.Errorf("assign role: %w", err)
	}
	return id, nil
}

func (a *Auth) assign(ctx context.Context, objectID, id string, assignment Assignment) error {
	return a.putNew(ctx, assignmentKey(objectID, id), assignment)
}

// Unassign takes an assignment back.
func (a *Auth) Unassign(ctx context.Context, objectID, id string) error {
	if err := a.store.Delete(ctx, assignmentKey(objectID, id), store.AnyRevision); err != nil {
		return fmt.Errorf("remove role assignment: %w", err)
	}
	return nil
}

func assignmentKey(objectID, id string) string {
	return "/assignments/" + strings.ToLower(objectID) + "/" + strings.ToLower(id)
}

package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"headwater.dev/hub/store"
)

// Assignment is a role at a scope and everything below.
type Assignment struct {
	// Name is a GUID that no other assignment has.
	Name        string `json:"name"`
	PrincipalID string `json:"principalId"`
	Role        Role   `json:"role"`
	// Scope is an ARM id, "/" for everything.
	Scope         string    `json:"scope"`
	PrincipalType string    `json:"principalType,omitempty"`
	Description   string    `json:"description,omitempty"`
	CreatedBy     string    `json:"createdBy,omitempty"`
	CreatedOn     time.Time `json:"createdOn,omitzero"`
	UpdatedBy     string    `json:"updatedBy,omitempty"`
	UpdatedOn     time.Time `json:"updatedOn,omitzero"`
}

// Grant is what one assignment allows.
type Grant struct {
	Scope       string
	Permissions []Permission
}

// Rights are all grants of one principal.
type Rights []Grant

// Allows reports whether an action, as "Namespace/type/verb", is allowed on the
// resource with an ARM id. Case does not matter in either.
func (r Rights) Allows(action, scope string) bool {
	if action == "" || strings.Contains(action, "*") {
		return false
	}
	for _, g := range r {
		if !Within(scope, g.Scope) {
			continue
		}
		for _, p := range g.Permissions {
			if p.allows(action) {
				return true
			}
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
	for _, g := range r {
		if Within(g.Scope, scope) && (Rights{g}).Allows(action, g.Scope) {
			return true
		}
	}
	return false
}

// Touches reports whether anything is granted at, above or below scope.
func (r Rights) Touches(scope string) bool {
	for _, g := range r {
		if len(g.Permissions) > 0 && (Within(scope, g.Scope) || Within(g.Scope, scope)) {
			return true
		}
	}
	return false
}

// Covers reports whether everything that the permissions allow at scope is
// allowed already: nobody gives away what he does not have.
func (r Rights) Covers(permissions []Permission, scope string) bool {
	for _, wanted := range permissions {
		covered := false
		for _, g := range r {
			for _, p := range g.Permissions {
				covered = covered || Within(scope, g.Scope) && p.covers(wanted)
			}
		}
		if !covered {
			return false
		}
	}
	return true
}

// Within reports whether id is scope or lies below it, segment by segment. No
// id lies within an empty scope, every proper one within "/".
func Within(id, scope string) bool {
	if scope == "" {
		return false
	}
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

// Rights reads what a principal may do, from the store, so that what was given
// or taken at any replica counts at once. Agents may do nothing at the users'
// door, nor may service principals that are gone or kept out, whatever tokens
// they still have.
func (a *Auth) Rights(ctx context.Context, p Principal) (Rights, error) {
	if p.Kind != ServicePrincipal && p.Kind != User || p.ObjectID == "" {
		return nil, nil
	}
	if p.Kind == ServicePrincipal {
		record, _, err := a.principal(ctx, p.ID)
		if errors.Is(err, store.ErrNotFound) || err == nil && (record.Disabled || record.ObjectID != p.ObjectID) {
			return nil, nil
		}
		if err != nil {
			return nil, errStore("look a client up", err)
		}
	}
	return a.Assigned(ctx, p.ObjectID)
}

// Assigned reads what the role assignments of an object id allow, whether or not
// anybody can sign in under it now: a disabled service principal can be enabled.
func (a *Auth) Assigned(ctx context.Context, objectID string) (Rights, error) {
	var rights Rights
	_, err := store.Each(ctx, a.store, assignmentKey(objectID, ""), func(r store.Record) error {
		var assignment Assignment
		if err := json.Unmarshal(r.Desired, &assignment); err != nil {
			return fmt.Errorf("read %s: %w", r.Key, err)
		}
		d, err := a.RoleDefinition(ctx, string(assignment.Role))
		if errors.Is(err, store.ErrNotFound) {
			return nil // a role that is gone allows nothing
		}
		if err == nil {
			rights = append(rights, Grant{Scope: assignment.Scope, Permissions: d.Permissions})
		}
		return err
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

// RoleDefinition reads a role by its id: one that is always there, or a custom
// one. store.ErrNotFound.
func (a *Auth) RoleDefinition(ctx context.Context, id string) (RoleDefinition, error) {
	if d, ok := RoleNamed(id); ok {
		return d, nil
	}
	var d RoleDefinition
	r, err := a.store.Get(ctx, RoleKey(id))
	if err == nil {
		err = json.Unmarshal(r.Desired, &d)
	}
	if errors.Is(err, store.ErrInvalid) {
		err = store.ErrNotFound
	}
	return d, err
}

// Assign gives a principal a role at a scope and answers the assignment's name.
// It does not ask whether anybody may: that is for who calls.
func (a *Auth) Assign(ctx context.Context, objectID string, role Role, scope string) (string, error) {
	assignment := Assignment{Name: uuid.NewString(), PrincipalID: objectID, Role: role, Scope: scope, CreatedOn: a.clock().UTC(), UpdatedOn: a.clock().UTC()}
	return assignment.Name, a.PutAssignment(ctx, assignment)
}

// PutAssignment writes a new assignment after checking it. store.ErrExists.
func (a *Auth) PutAssignment(ctx context.Context, assignment Assignment) error {
	switch {
	case !strings.HasPrefix(assignment.Scope, "/"):
		return fmt.Errorf("assign role: scope %q is not an ARM id that begins with a slash", assignment.Scope)
	case assignment.PrincipalID == "" || strings.Contains(assignment.PrincipalID, "/"):
		return fmt.Errorf("assign role: %q is not an object id", assignment.PrincipalID)
	case assignment.Name == "" || strings.Contains(assignment.Name, "/"):
		return fmt.Errorf("assign role: %q is not a name", assignment.Name)
	}
	if _, err := a.RoleDefinition(ctx, string(assignment.Role)); err != nil {
		return fmt.Errorf("assign role: there is no role %q: %w", assignment.Role, err)
	}
	if err := a.putNew(ctx, assignmentKey(assignment.PrincipalID, assignment.Name), assignment); err != nil {
		return fmt.Errorf("assign role: %w", err)
	}
	return nil
}

// Unassign takes an assignment back.
func (a *Auth) Unassign(ctx context.Context, objectID, name string) error {
	if err := a.store.Delete(ctx, assignmentKey(objectID, name), store.AnyRevision); err != nil {
		return fmt.Errorf("remove role assignment: %w", err)
	}
	return nil
}

// Assignments visits all role assignments, principal by principal.
func (a *Auth) Assignments(ctx context.Context, visit func(Assignment) error) error {
	_, err := store.Each(ctx, a.store, "/assignments/", func(r store.Record) error {
		var assignment Assignment
		if err := json.Unmarshal(r.Desired, &assignment); err != nil {
			return fmt.Errorf("read %s: %w", r.Key, err)
		}
		return visit(assignment)
	})
	return err
}

func assignmentKey(objectID, name string) string {
	return "/assignments/" + strings.ToLower(objectID) + "/" + strings.ToLower(name)
}

// RoleKey is where the store keeps a custom role.
func RoleKey(id string) string { return "/roledefinitions/" + strings.ToLower(id) }

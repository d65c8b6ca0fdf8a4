package access

import (
	"context"
	"errors"
	"net/http"
	"path"
	"strings"

	"headwater.dev/api/arm"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
)

// maxAssignments bounds the role assignments of the hub.
const maxAssignments = 10_000

type assignmentBody struct {
	Properties struct {
		RoleDefinitionID string `json:"roleDefinitionId"`
		PrincipalID      string `json:"principalId"`
		PrincipalType    string `json:"principalType"`
		Description      string `json:"description"`
		Condition        string `json:"condition"`
	} `json:"properties"`
}

func assignment(x auth.Assignment) map[string]any {
	scope := strings.TrimSuffix(x.Scope, "/")
	id := string(x.Role)
	if d, ok := auth.RoleNamed(id); ok {
		id = d.ID
	}
	kind := x.PrincipalType
	if kind == "" {
		kind = string(auth.ServicePrincipal)
	}
	return map[string]any{"id": scope + "/providers/Microsoft.Authorization/roleAssignments/" + x.Name, "name": x.Name,
		"type": "Microsoft.Authorization/roleAssignments", "properties": map[string]any{
			"roleDefinitionId": roleID(x.Scope, id), "principalId": x.PrincipalID, "principalType": kind, "scope": x.Scope,
			"description": x.Description, "condition": nil, "conditionVersion": nil, "delegatedManagedIdentityResourceId": nil,
			"createdOn": stamp(x.CreatedOn), "updatedOn": stamp(x.UpdatedOn), "createdBy": x.CreatedBy, "updatedBy": x.UpdatedBy}}
}

// listAssignments shows those that hold at the scope, for who may read there,
// and those below it, for who may read them there.
func (a *Access) listAssignments(c *call) error {
	terms, err := c.filter()
	if err != nil {
		return err
	}
	principal, exact := "", false
	for _, t := range terms {
		switch {
		case t.Is("atScope", "()"):
			exact = true
		case t.Is("principalId", "eq"), t.Is("assignedTo", "()"):
			principal = t.Value
		default:
			return unsupported(t, "atScope(), principalId eq '…' or assignedTo('…')")
		}
	}
	const read = "Microsoft.Authorization/roleAssignments/read"
	here := c.rights.Allows(read, c.at())
	var items []any
	err = a.auth.Assignments(c.ctx, func(x auth.Assignment) error {
		if principal != "" && !strings.EqualFold(principal, x.PrincipalID) {
			return nil
		}
		switch {
		case auth.Within(c.at(), x.Scope) && here,
			!exact && auth.Within(x.Scope, c.at()) && c.rights.Allows(read, x.Scope):
			items = append(items, assignment(x))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.list(items)
}

// find reads the assignment of the call's name at its scope.
func (a *Access) find(c *call) (auth.Assignment, bool, error) {
	var found auth.Assignment
	err := a.auth.Assignments(c.ctx, func(x auth.Assignment) error {
		if strings.EqualFold(x.Name, c.name) {
			found = x
		}
		return nil
	})
	return found, err == nil && found.Name != "" && sameScope(found.Scope, c.at()), err
}

func sameScope(a, b string) bool { return auth.Within(a, b) && auth.Within(b, a) }

func (a *Access) getAssignment(c *call) error {
	x, ok, err := a.find(c)
	if err != nil {
		return err
	}
	if !ok {
		return arm.Errorf(arm.CodeAssignmentNotFound, "The role assignment '%s' is not found.", clip(c.name))
	}
	return c.reply(http.StatusOK, assignment(x))
}

// putAssignment gives a role at a scope to somebody, as far as the caller has
// its rights there himself.
func (a *Access) putAssignment(c *call) error {
	name, err := guid("role assignment name", c.name)
	if err != nil {
		return err
	}
	var b assignmentBody
	if err := c.body(&b); err != nil {
		return err
	}
	p := b.Properties
	principal, err := guid("principalId", p.PrincipalID)
	if err != nil {
		return err
	}
	if p.Condition != "" {
		return arm.Errorf(arm.CodeNotSupported, "Conditions on role assignments are not supported: leave properties.condition out.")
	}
	if len(p.Description) > 2048 {
		return arm.Errorf(arm.CodeValidationFailed, "The description is longer than 2048 bytes.")
	}
	if err := a.exists(c); err != nil {
		return err
	}
	d, err := a.auth.RoleDefinition(c.ctx, path.Base(p.RoleDefinitionID))
	if errors.Is(err, store.ErrNotFound) || err == nil && !applies(d, c.at(), false) {
		return arm.Errorf(arm.CodeRoleNotFound, "The specified role definition with ID '%s' does not exist, or cannot be assigned at '%s'.",
			clip(p.RoleDefinitionID), c.at())
	}
	if err != nil {
		return err
	}
	x := auth.Assignment{Name: name, PrincipalID: principal, Role: auth.Role(d.ID), Scope: c.at(), PrincipalType: p.PrincipalType, Description: p.Description,
		CreatedBy: c.who.ObjectID, CreatedOn: c.now, UpdatedBy: c.who.ObjectID, UpdatedOn: c.now}
	if err := a.typePrincipal(c, &x); err != nil {
		return err
	}
	note(c, x, d.Name)
	status := http.StatusCreated
	err = a.auth.Exclusively(c.ctx, func(ctx context.Context) error {
		if err := a.mayGive(ctx, c, d.ID); err != nil {
			return err
		}
		was, err := a.taken(ctx, x)
		if err != nil {
			return err
		}
		if was != nil {
			x, status = *was, http.StatusOK
			return nil
		}
		return a.auth.PutAssignment(ctx, x)
	})
	if err != nil {
		return translate(err)
	}
	return c.reply(status, assignment(x))
}

// mayGive refuses to give away a role that allows more at the scope than the
// caller may do there, both as they are now.
func (a *Access) mayGive(ctx context.Context, c *call, id string) error {
	if err := c.still(ctx); err != nil {
		return err
	}
	d, err := a.auth.RoleDefinition(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return arm.Errorf(arm.CodeRoleNotFound, "The specified role definition with ID '%s' does not exist any more.", id)
	}
	if err != nil {
		return err
	}
	if !c.rights.Covers(d.Permissions, c.at()) {
		return arm.Errorf(arm.CodeForbidden, "The client '%s' with object id '%s' cannot assign the role '%s' over scope '%s': it allows more than the client may do there itself.",
			c.who.ID, c.who.ObjectID, d.Name, c.at())
	}
	return nil
}

// typePrincipal says what kind of principal an assignment is for: one of the
// hub's own, or a subject of a foreign issuer, which the hub cannot look up.
func (a *Access) typePrincipal(c *call, x *auth.Assignment) error {
	all, err := a.auth.Principals(c.ctx)
	if err != nil {
		return err
	}
	for _, p := range all {
		if strings.EqualFold(p.ObjectID, x.PrincipalID) {
			x.PrincipalType = string(auth.ServicePrincipal)
			return nil
		}
	}
	switch {
	case x.PrincipalType == "", strings.EqualFold(x.PrincipalType, string(auth.User)):
		x.PrincipalType = string(auth.User)
		return nil
	default:
		return arm.Errorf("PrincipalNotFound", "Principal %s does not exist in the directory as a %s.", x.PrincipalID, clip(x.PrincipalType))
	}
}

// taken answers the assignment that a new one would be again, or why it cannot be.
func (a *Access) taken(ctx context.Context, x auth.Assignment) (*auth.Assignment, error) {
	var same *auth.Assignment
	n := 0
	err := a.auth.Assignments(ctx, func(other auth.Assignment) error {
		n++
		equal := strings.EqualFold(other.PrincipalID, x.PrincipalID) && other.Role == x.Role && sameScope(other.Scope, x.Scope)
		switch named := strings.EqualFold(other.Name, x.Name); {
		case named && equal:
			same = &other
		case named:
			return arm.Errorf(arm.CodeAssignmentFixed, "Role, principal and scope of the role assignment '%s' cannot be changed: make another one.", x.Name)
		case equal:
			return arm.Errorf(arm.CodeAssignmentExists, "The role assignment already exists.")
		}
		return nil
	})
	if err == nil && same == nil && n >= maxAssignments {
		err = arm.Errorf(arm.CodeLimitReached, "There can be %d role assignments: remove some first.", maxAssignments)
	}
	return same, err
}

func (a *Access) deleteAssignment(c *call) error {
	var gone auth.Assignment
	found := false
	err := a.auth.Exclusively(c.ctx, func(ctx context.Context) error {
		var err error
		if gone, found, err = a.find(c); err != nil || !found {
			return err
		}
		note(c, gone, string(gone.Role))
		if err := a.auth.OwnerRemains(ctx, gone.Name); err != nil {
			return err
		}
		return a.auth.Unassign(ctx, gone.PrincipalID, gone.Name)
	})
	if err != nil {
		return translate(err)
	}
	if !found {
		c.w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return c.reply(http.StatusOK, assignment(gone))
}

// note says in the activity log what is given or taken.
func note(c *call, x auth.Assignment, role string) {
	auth.Note(c.ctx, "principalId", x.PrincipalID)
	auth.Note(c.ctx, "role", role)
}

package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"headwater.dev/api/arm"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
)

// maxRoles, maxScopes and maxActions bound custom roles.
const (
	maxRoles   = 500
	maxScopes  = 100
	maxActions = 1000
)

// roleBody is a role definition on the wire. What only the hub sets is not in it.
type roleBody struct {
	Properties struct {
		RoleName         string            `json:"roleName"`
		Description      string            `json:"description"`
		AssignableScopes []string          `json:"assignableScopes"`
		Permissions      []auth.Permission `json:"permissions"`
	} `json:"properties"`
}

// roleID is the id of a role seen from a scope: below its subscription, or the tenant.
func roleID(scope, id string) string {
	if parsed, err := arm.ParseID(scope); err == nil && parsed.Subscription() != "" {
		return "/subscriptions/" + parsed.Subscription() + "/providers/Microsoft.Authorization/roleDefinitions/" + id
	}
	return "/providers/Microsoft.Authorization/roleDefinitions/" + id
}

func role(scope string, d auth.RoleDefinition) map[string]any {
	kind := "CustomRole"
	if d.BuiltIn {
		kind = "BuiltInRole"
	}
	permissions := []map[string]any{}
	for _, p := range d.Permissions {
		permissions = append(permissions, map[string]any{"actions": orEmpty(p.Actions), "notActions": orEmpty(p.NotActions),
			"dataActions": orEmpty(p.DataActions), "notDataActions": orEmpty(p.NotDataActions)})
	}
	return map[string]any{"id": roleID(scope, d.ID), "name": d.ID, "type": "Microsoft.Authorization/roleDefinitions",
		"properties": map[string]any{"roleName": d.Name, "type": kind, "description": d.Description,
			"assignableScopes": d.Scopes, "permissions": permissions}}
}

// custom visits the custom roles.
func (a *Access) custom(ctx context.Context, visit func(auth.RoleDefinition) error) error {
	_, err := store.Each(ctx, a.store, auth.RoleKey(""), func(r store.Record) error {
		var d auth.RoleDefinition
		if err := json.Unmarshal(r.Desired, &d); err != nil {
			return fmt.Errorf("read %s: %w", r.Key, err)
		}
		return visit(d)
	})
	return err
}

func (a *Access) listRoles(c *call) error {
	terms, err := c.filter()
	if err != nil {
		return err
	}
	name, kind, belowToo := "", "", false
	for _, t := range terms {
		switch {
		case t.Is("roleName", "eq"):
			name = t.Value
		case t.Is("type", "eq"):
			kind = t.Value
		case t.Is("atScopeAndBelow", "()"):
			belowToo = true
		default:
			return unsupported(t, "roleName eq '…', type eq '…' or atScopeAndBelow()")
		}
	}
	var items []any
	add := func(d auth.RoleDefinition) error {
		shown := role(c.scope, d)
		properties := shown["properties"].(map[string]any)
		if (name == "" || strings.EqualFold(name, d.Name)) && (kind == "" || strings.EqualFold(kind, properties["type"].(string))) &&
			applies(d, c.at(), belowToo) {
			items = append(items, shown)
		}
		return nil
	}
	for _, d := range auth.BuiltIn() {
		_ = add(d)
	}
	if err := a.custom(c.ctx, func(d auth.RoleDefinition) error { return a.ifVisible(c, d, add) }); err != nil {
		return err
	}
	return c.list(items)
}

// ifVisible hands on a custom role to a caller who may read rights at one of
// the scopes that it is for, or below.
func (a *Access) ifVisible(c *call, d auth.RoleDefinition, next func(auth.RoleDefinition) error) error {
	for _, scope := range d.Scopes {
		if c.rights.Below("Microsoft.Authorization/roleDefinitions/read", scope) {
			return next(d)
		}
	}
	return nil
}

// applies reports whether a role can be assigned at a scope, or below it too.
func applies(d auth.RoleDefinition, scope string, belowToo bool) bool {
	for _, s := range d.Scopes {
		if auth.Within(scope, s) || belowToo && auth.Within(s, scope) {
			return true
		}
	}
	return false
}

func roleNotFound(name string) error {
	return arm.Errorf(arm.CodeNotFound, "The specified role definition with ID '%s' does not exist.", clip(name))
}

func (a *Access) getRole(c *call) error {
	d, err := a.auth.RoleDefinition(c.ctx, c.name)
	if errors.Is(err, store.ErrNotFound) || err == nil && !strings.EqualFold(d.ID, c.name) {
		return roleNotFound(c.name)
	}
	if err != nil {
		return err
	}
	shown := false
	if d.BuiltIn {
		shown = true
	} else if err := a.ifVisible(c, d, func(auth.RoleDefinition) error { shown = applies(d, c.at(), true); return nil }); err != nil {
		return err
	}
	if !shown {
		return roleNotFound(c.name)
	}
	return c.reply(http.StatusOK, role(c.scope, d))
}

// putRole makes or changes a custom role. A role may hold only what its writer
// may do everywhere where it can be assigned: a change reaches all who have it.
func (a *Access) putRole(c *call) error {
	id, err := guid("role definition name", c.name)
	if err != nil {
		return err
	}
	var b roleBody
	if err := c.body(&b); err != nil {
		return err
	}
	d := auth.RoleDefinition{ID: id, Name: b.Properties.RoleName, Description: b.Properties.Description,
		Permissions: b.Properties.Permissions, Scopes: b.Properties.AssignableScopes}
	auth.Note(c.ctx, "role", clip(d.Name))
	if err := checkRole(d, c.at()); err != nil {
		return err
	}
	if _, builtIn := auth.RoleNamed(id); builtIn {
		return arm.Errorf(arm.CodeConflict, "The role '%s' is always there and cannot be changed.", id)
	}
	status := http.StatusCreated
	err = a.auth.Exclusively(c.ctx, func(ctx context.Context) error {
		if err := c.still(ctx); err != nil {
			return err
		}
		scopes, err := a.reach(ctx, d)
		if err != nil {
			return err
		}
		for _, scope := range scopes {
			if !c.rights.Allows("Microsoft.Authorization/roleDefinitions/write", scope) || !c.rights.Covers(d.Permissions, scope) {
				return auth.Forbid(c.who, "Microsoft.Authorization/roleDefinitions/write", scope)
			}
		}
		if err := a.nameIsFree(ctx, d); err != nil {
			return err
		}
		value, err := json.Marshal(d)
		if err == nil {
			_, err = a.store.Put(ctx, store.Put{Key: auth.RoleKey(id), Value: value, Expect: store.AnyRevision})
		}
		return err
	})
	if err != nil {
		return translate(err)
	}
	return c.reply(status, role(c.scope, d))
}

// reach are the scopes that a change of a role concerns: where it can and could
// be assigned, and where somebody has it, also when it can no longer be assigned
// there.
func (a *Access) reach(ctx context.Context, d auth.RoleDefinition) ([]string, error) {
	scopes := append([]string{}, d.Scopes...)
	was, err := a.auth.RoleDefinition(ctx, d.ID)
	if errors.Is(err, store.ErrNotFound) {
		return scopes, nil
	}
	if err != nil {
		return nil, err
	}
	scopes = append(scopes, was.Scopes...)
	err = a.auth.Assignments(ctx, func(x auth.Assignment) error {
		if strings.EqualFold(string(x.Role), d.ID) {
			scopes = append(scopes, x.Scope)
		}
		return nil
	})
	return scopes, err
}

// nameIsFree refuses a second role of a name, and too many roles.
func (a *Access) nameIsFree(ctx context.Context, d auth.RoleDefinition) error {
	taken := arm.Errorf("RoleDefinitionWithSameNameExists", "A custom role with the name '%s' already exists.", clip(d.Name))
	if _, ok := auth.RoleNamed(d.Name); ok {
		return taken
	}
	n := 0
	err := a.custom(ctx, func(other auth.RoleDefinition) error {
		if other.ID == d.ID {
			return nil
		}
		n++
		if strings.EqualFold(other.Name, d.Name) {
			return taken
		}
		return nil
	})
	if err == nil && n >= maxRoles {
		err = arm.Errorf(arm.CodeLimitReached, "There can be %d custom roles: delete one first.", maxRoles)
	}
	return err
}

func checkRole(d auth.RoleDefinition, at string) error {
	wrong := func(target, format string, args ...any) error {
		e := arm.Errorf(arm.CodeValidationFailed, format, args...)
		e.Target = target
		return e
	}
	if d.Name == "" || len(d.Name) > 200 {
		return wrong("properties.roleName", "The roleName must have 1 to 200 characters.")
	}
	if len(d.Description) > 2048 {
		return wrong("properties.description", "The description is longer than 2048 bytes.")
	}
	if len(d.Scopes) == 0 || len(d.Scopes) > maxScopes {
		return wrong("properties.assignableScopes", "assignableScopes must name 1 to %d scopes.", maxScopes)
	}
	for _, s := range d.Scopes {
		if _, err := arm.ParseID(s); err != nil && s != "/" {
			return wrong("properties.assignableScopes", "The assignable scope '%s' is not a resource id.", clip(s))
		}
	}
	if !applies(d, at, true) {
		return wrong("properties.assignableScopes", "None of the assignableScopes is at, above or below '%s'.", at)
	}
	n := 0
	for _, p := range d.Permissions {
		for _, list := range [][]string{p.Actions, p.NotActions, p.DataActions, p.NotDataActions} {
			for _, action := range list {
				n++
				if action == "" || len(action) > 256 || strings.ContainsFunc(action, func(r rune) bool { return r <= ' ' || r > '~' }) {
					return wrong("properties.permissions", "The action '%s' is not like Namespace/type/verb.", clip(action))
				}
			}
		}
	}
	if n == 0 || n > maxActions {
		return wrong("properties.permissions", "The permissions must name 1 to %d actions.", maxActions)
	}
	return nil
}

// deleteRole removes a custom role that nobody has.
func (a *Access) deleteRole(c *call) error {
	id, err := guid("role definition name", c.name)
	if err != nil {
		return err
	}
	if _, builtIn := auth.RoleNamed(id); builtIn {
		return arm.Errorf(arm.CodeConflict, "The role '%s' is always there and cannot be deleted.", id)
	}
	var gone auth.RoleDefinition
	err = a.auth.Exclusively(c.ctx, func(ctx context.Context) error {
		if gone, err = a.auth.RoleDefinition(ctx, id); err != nil {
			return err
		}
		for _, scope := range gone.Scopes {
			if !c.rights.Allows("Microsoft.Authorization/roleDefinitions/delete", scope) {
				return auth.Forbid(c.who, "Microsoft.Authorization/roleDefinitions/delete", scope)
			}
		}
		err := a.auth.Assignments(ctx, func(x auth.Assignment) error {
			if strings.EqualFold(string(x.Role), id) {
				return arm.Errorf(arm.CodeRoleInUse, "There are existing role assignments referencing role '%s': remove them first.", gone.Name)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return a.store.Delete(ctx, auth.RoleKey(id), store.AnyRevision)
	})
	if errors.Is(err, store.ErrNotFound) {
		c.w.WriteHeader(http.StatusNoContent)
		return nil
	}
	if err != nil {
		return translate(err)
	}
	return c.reply(http.StatusOK, role(c.scope, gone))
}

// listPermissions answers what the caller may do at the scope.
func (a *Access) listPermissions(c *call) error {
	var items []any
	for _, g := range c.rights {
		if !auth.Within(c.at(), g.Scope) {
			continue
		}
		for _, p := range g.Permissions {
			items = append(items, map[string]any{"actions": orEmpty(p.Actions), "notActions": orEmpty(p.NotActions),
				"dataActions": orEmpty(p.DataActions), "notDataActions": orEmpty(p.NotDataActions)})
		}
	}
	return c.list(items)
}

func stamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.RFC3339Nano)
}

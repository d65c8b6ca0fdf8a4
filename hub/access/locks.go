package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"headwater.dev/api/arm"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
)

// maxLocks bounds the locks of the hub.
const maxLocks = 2000

// lock keeps what is at a scope and below from being deleted or changed.
type lock struct {
	Name  string `json:"name"`
	Scope string `json:"scope"`
	// Level is CanNotDelete or ReadOnly.
	Level string `json:"level"`
	Notes string `json:"notes,omitempty"`
}

type lockBody struct {
	Properties struct {
		Level string `json:"level"`
		Notes string `json:"notes"`
	} `json:"properties"`
}

func lockKey(scope, name string) string {
	return "/locks" + arm.Fold(scope) + "/providers/microsoft.authorization/locks/" + arm.Fold(name)
}

func (l lock) show() map[string]any {
	properties := map[string]any{"level": l.Level}
	if l.Notes != "" {
		properties["notes"] = l.Notes
	}
	return map[string]any{"id": l.Scope + "/providers/Microsoft.Authorization/locks/" + l.Name, "name": l.Name,
		"type": "Microsoft.Authorization/locks", "properties": properties}
}

func (a *Access) eachLock(ctx context.Context, visit func(lock) error) error {
	_, err := store.Each(ctx, a.store, "/locks/", func(r store.Record) error {
		var l lock
		if err := json.Unmarshal(r.Desired, &l); err != nil {
			return fmt.Errorf("read %s: %w", r.Key, err)
		}
		return visit(l)
	})
	return err
}

// listLocks shows those that hold at the scope, for who may read there, and,
// without atScope(), those below it, for who may read them there.
func (a *Access) listLocks(c *call) error {
	terms, err := c.filter()
	if err != nil {
		return err
	}
	exact := false
	for _, t := range terms {
		if !t.Is("atScope", "()") {
			return unsupported(t, "atScope()")
		}
		exact = true
	}
	const read = "Microsoft.Authorization/locks/read"
	here := c.rights.Allows(read, c.at())
	var items []any
	err = a.eachLock(c.ctx, func(l lock) error {
		if auth.Within(c.at(), l.Scope) && here || !exact && auth.Within(l.Scope, c.at()) && c.rights.Allows(read, l.Scope) {
			items = append(items, l.show())
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.list(items)
}

func (a *Access) readLock(c *call) (lock, bool, error) {
	var l lock
	r, err := a.store.Get(c.ctx, lockKey(c.scope, c.name))
	if errors.Is(err, store.ErrNotFound) {
		return l, false, nil
	}
	if err == nil {
		err = json.Unmarshal(r.Desired, &l)
	}
	return l, err == nil, err
}

func (a *Access) getLock(c *call) error {
	l, ok, err := a.readLock(c)
	if err != nil {
		return err
	}
	if !ok {
		return arm.Errorf(arm.CodeLockNotFound, "The lock '%s' could not be found.", clip(c.name))
	}
	return c.reply(http.StatusOK, l.show())
}

func (a *Access) putLock(c *call) error {
	var b lockBody
	if err := c.body(&b); err != nil {
		return err
	}
	l := lock{Name: c.name, Scope: c.scope, Notes: b.Properties.Notes}
	switch {
	case strings.EqualFold(b.Properties.Level, "CanNotDelete"):
		l.Level = "CanNotDelete"
	case strings.EqualFold(b.Properties.Level, "ReadOnly"):
		l.Level = "ReadOnly"
	default:
		return arm.Errorf("InvalidLockLevel", "The lock level '%s' is invalid: use CanNotDelete or ReadOnly.", clip(b.Properties.Level))
	}
	auth.Note(c.ctx, "level", l.Level)
	if len(l.Notes) > 512 {
		return arm.Errorf(arm.CodeValidationFailed, "The notes of a lock have at most 512 bytes.")
	}
	if c.scope == "" {
		return arm.Errorf(arm.CodeNotSupported, "Locks are set on a subscription, a resource group or a resource.")
	}
	if err := a.exists(c); err != nil {
		return err
	}
	was, exists, err := a.readLock(c)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if exists {
		l.Name = was.Name
	} else {
		status = http.StatusCreated
		n := 0
		if err := a.eachLock(c.ctx, func(lock) error { n++; return nil }); err != nil {
			return err
		}
		if n >= maxLocks {
			return arm.Errorf(arm.CodeLimitReached, "There can be %d locks: remove some first.", maxLocks)
		}
	}
	value, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if _, err := a.store.Put(c.ctx, store.Put{Key: lockKey(l.Scope, l.Name), Value: value, Expect: store.AnyRevision}); err != nil {
		return err
	}
	return c.reply(status, l.show())
}

func (a *Access) deleteLock(c *call) error {
	err := a.store.Delete(c.ctx, lockKey(c.scope, c.name), store.AnyRevision)
	switch {
	case errors.Is(err, store.ErrNotFound):
		c.w.WriteHeader(http.StatusNoContent)
	case err != nil:
		return err
	default:
		c.w.WriteHeader(http.StatusOK)
	}
	return nil
}

// Locks is the gate that locks are: it refuses what one forbids. Locks
// themselves can always be removed by who may.
func (a *Access) Locks(ctx context.Context, at *auth.Attempt, next func() error) error {
	if !at.Write() || at.Scope == "" || strings.HasPrefix(strings.ToLower(at.Action), "microsoft.authorization/locks/") {
		return next()
	}
	if err := a.begin(ctx, at); err != nil {
		return err
	}
	// What is below a scope is in the way of the scope's end, not of the end of
	// something at it, such as a role assignment.
	// Taking tags away by DELETE is a write.
	remove := strings.HasSuffix(strings.ToLower(at.Action), "/delete")
	whole := remove && at.Resource == ""
	var by []string
	err := a.eachLock(ctx, func(l lock) error {
		if (remove || l.Level == "ReadOnly") && (auth.Within(at.Scope, l.Scope) || whole && auth.Within(l.Scope, at.Scope)) {
			by = append(by, l.Scope)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(by) == 0 {
		return next()
	}
	what := "write"
	if remove {
		what = "delete"
	}
	return arm.Errorf(arm.CodeScopeLocked, "The scope '%s' cannot perform %s operation because following scope(s) are locked: '%s'. Please remove the lock and try again.",
		at.Scope, what, strings.Join(by, ","))
}

// begin lets what is made start without the rights and locks of something of
// the same name that is gone.
func (a *Access) begin(ctx context.Context, at *auth.Attempt) error {
	if at.Method != http.MethodPut || strings.HasPrefix(strings.ToLower(at.Action), "microsoft.authorization/") {
		return nil
	}
	if !at.Looked {
		_, err := a.store.Get(ctx, arm.Fold(at.Scope))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		at.Missing = err != nil
	}
	if !at.Missing {
		return nil
	}
	err := a.auth.Assignments(ctx, func(x auth.Assignment) error {
		if !auth.Within(x.Scope, at.Scope) {
			return nil
		}
		return a.auth.Unassign(ctx, x.PrincipalID, x.Name)
	})
	if err != nil {
		return err
	}
	return a.eachLock(ctx, func(l lock) error {
		if !auth.Within(l.Scope, at.Scope) {
			return nil
		}
		return a.store.Delete(ctx, lockKey(l.Scope, l.Name), store.AnyRevision)
	})
}

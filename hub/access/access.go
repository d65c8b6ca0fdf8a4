// Package access is the part of the users' door that says who may do what: role
// definitions, role assignments and locks (Microsoft.Authorization) and the
// hub's own service principals (Headwater.Identity).
//
// Nobody can give away more than he may do himself, and what would leave nobody
// who owns everything is refused. All changes of rights are made one after the
// other, at whatever replica, and hold from the next request on.
package access

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"headwater.dev/api/arm"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
)

// Config is what access needs.
type Config struct {
	Store store.Store
	Auth  *auth.Auth
	// Canon brings ids to their usual casing; nil leaves them.
	Canon func(arm.ID) arm.ID
	// Clock is time.Now when nil.
	Clock func() time.Time
}

// Access serves rights. Use it from any number of goroutines.
type Access struct {
	store store.Store
	auth  *auth.Auth
	canon func(arm.ID) arm.ID
	clock func() time.Time
}

// New makes it.
func New(c Config) *Access {
	a := &Access{store: c.Store, auth: c.Auth, canon: c.Canon, clock: c.Clock}
	if a.canon == nil {
		a.canon = func(id arm.ID) arm.ID { return id }
	}
	if a.clock == nil {
		a.clock = time.Now
	}
	return a
}

const (
	authorization = "/providers/microsoft.authorization/"
	identity      = "/providers/headwater.identity/"
)

// target is what a path names.
type target struct {
	// scope is the ARM id that the path begins with, "" for the tenant.
	scope string
	// kind is the folded type, name and verb what follows it.
	kind, name, verb string
}

// entry is a method on a kind: what it needs and what it does.
type entry struct {
	action   string
	filtered bool
	free     bool
	serve    func(*call) error
}

// call is one request that was admitted.
type call struct {
	ctx context.Context
	w   http.ResponseWriter
	r   *http.Request
	target
	who    auth.Principal
	rights auth.Rights
	now    time.Time
	// action is what the call was admitted for; auth tells whether it still is.
	action string
	auth   *auth.Auth
}

// still reads the caller's rights anew and refuses who may no longer do what he
// was admitted for: a body can come long after the headers, and the turn to
// change rights after the body.
func (c *call) still(ctx context.Context) error {
	rights, err := c.auth.Rights(ctx, c.who)
	if err != nil {
		return err
	}
	if c.rights = rights; !rights.Allows(c.action, c.at()) {
		return auth.Forbid(c.who, c.action, c.at())
	}
	return nil
}

// table is all of it: by method, kind, and what else the path has.
func (a *Access) table() map[string]entry {
	const roles, assignments, locks = "Microsoft.Authorization/roleDefinitions", "Microsoft.Authorization/roleAssignments", "Microsoft.Authorization/locks"
	const principals = "Headwater.Identity/servicePrincipals"
	return map[string]entry{
		"GET roledefinitions":                               {action: roles + "/read", filtered: true, serve: a.listRoles},
		"GET roledefinitions name":                          {action: roles + "/read", filtered: true, serve: a.getRole},
		"PUT roledefinitions name":                          {action: roles + "/write", serve: a.putRole},
		"DELETE roledefinitions name":                       {action: roles + "/delete", serve: a.deleteRole},
		"GET roleassignments":                               {action: assignments + "/read", filtered: true, serve: a.listAssignments},
		"GET roleassignments name":                          {action: assignments + "/read", serve: a.getAssignment},
		"PUT roleassignments name":                          {action: assignments + "/write", serve: a.putAssignment},
		"DELETE roleassignments name":                       {action: assignments + "/delete", serve: a.deleteAssignment},
		"GET locks":                                         {action: locks + "/read", filtered: true, serve: a.listLocks},
		"GET locks name":                                    {action: locks + "/read", serve: a.getLock},
		"PUT locks name":                                    {action: locks + "/write", serve: a.putLock},
		"DELETE locks name":                                 {action: locks + "/delete", serve: a.deleteLock},
		"GET permissions":                                   {action: "Microsoft.Authorization/permissions/read", free: true, serve: a.listPermissions},
		"GET me":                                            {action: "Headwater.Identity/me/read", free: true, serve: a.me},
		"GET subjects":                                      {action: principals + "/read", serve: a.subject},
		"GET serviceprincipals":                             {action: principals + "/read", serve: a.listPrincipals},
		"GET serviceprincipals name":                        {action: principals + "/read", serve: a.getPrincipal},
		"PUT serviceprincipals name":                        {action: principals + "/write", serve: a.putPrincipal},
		"DELETE serviceprincipals name":                     {action: principals + "/delete", serve: a.deletePrincipal},
		"POST serviceprincipals name verb addpassword":      {action: principals + "/addPassword/action", serve: a.addPassword},
		"POST serviceprincipals name verb addkey":           {action: principals + "/addKey/action", serve: a.addKey},
		"POST serviceprincipals name verb addsubject":       {action: principals + "/addSubject/action", serve: a.addSubject},
		"POST serviceprincipals name verb removecredential": {action: principals + "/removeCredential/action", serve: a.removeCredential},
	}
}

// parse takes a path apart; ok is false when it is not one of ours.
func parse(path string) (target, bool) {
	at, root := strings.LastIndex(path, authorization), authorization
	if at < 0 {
		if !strings.HasPrefix(path, identity) {
			return target{}, false
		}
		at, root = 0, identity
	}
	rest := strings.Split(path[at+len(root):], "/")
	if len(rest) > 3 {
		return target{}, false
	}
	t := target{scope: path[:at], kind: rest[0]}
	if len(rest) > 1 {
		t.name = rest[1]
	}
	if len(rest) > 2 {
		t.verb = rest[2]
	}
	return t, known(root, t.kind)
}

func known(root, kind string) bool {
	switch kind {
	case "roledefinitions", "roleassignments", "locks", "permissions":
		return root == authorization
	case "serviceprincipals", "me", "subjects":
		return root == identity
	}
	return false
}

func (t target) key(method string) string {
	key := method + " " + t.kind
	if t.name != "" {
		key += " name"
	}
	if t.verb != "" {
		key += " verb " + t.verb
	}
	return key
}

// Demand says what a request needs; ok is false when its path is another's.
func (a *Access) Demand(r *http.Request) (auth.Demand, bool, error) {
	t, e, ok, err := a.resolve(r)
	if err != nil || !ok {
		return auth.Demand{}, ok, err
	}
	return auth.Demand{Action: e.action, Scope: t.scope, Resource: t.resource(e.action), Filtered: e.filtered, Free: e.free}, true, nil
}

// resolve finds what a request is about and what serves it; ok is false when
// its path is another's.
func (a *Access) resolve(r *http.Request) (target, entry, bool, error) {
	t, ok := parse(r.URL.Path)
	if !ok {
		return t, entry{}, false, nil
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	e, ok := a.table()[t.key(method)]
	if !ok {
		return t, e, true, arm.Errorf(arm.CodeMethodNotAllowed, "%s is not possible on %s.", r.Method, r.URL.Path)
	}
	if t.scope != "" {
		id, err := arm.ParseID(t.scope)
		if err != nil {
			return t, e, true, arm.Errorf(arm.CodeInvalidID, "%v", err)
		}
		t.scope = a.canon(id).String()
	}
	return t, e, true, nil
}

// Serve answers a request that was admitted.
func (a *Access) Serve(w http.ResponseWriter, r *http.Request, who auth.Principal, rights auth.Rights) error {
	t, e, _, err := a.resolve(r)
	if err != nil {
		return err
	}
	return e.serve(&call{ctx: r.Context(), w: w, r: r, target: t, who: who, rights: rights, now: a.clock().UTC(),
		action: e.action, auth: a.auth})
}

// resource is the id of what an action is on.
func (t target) resource(action string) string {
	parts := strings.SplitN(action, "/", 3)
	id := t.scope + "/providers/" + parts[0] + "/" + parts[1]
	if t.name != "" {
		id += "/" + t.name
	}
	return id
}

// at is the scope for comparing: "/" for the tenant.
func (t target) at() string {
	if t.scope == "" {
		return "/"
	}
	return t.scope
}

// body reads the JSON object of a request into v, whose fields are all there is,
// and refuses a caller who has lost his right meanwhile.
func (c *call) body(v any) error {
	raw, err := io.ReadAll(c.r.Body) // the server bounds how long that may take
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return arm.Errorf(arm.CodeBodyTooLarge, "The request body is larger than %d bytes.", large.Limit)
	}
	if err != nil {
		return arm.Errorf(arm.CodeInvalidBody, "The request body could not be read.")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(v); err != nil {
		return arm.Errorf(arm.CodeInvalidBody, "The request body must be a JSON object: %v.", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return arm.Errorf(arm.CodeInvalidBody, "The request body goes on after its JSON object.")
	}
	return c.still(c.ctx)
}

func (c *call) reply(status int, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json; charset=utf-8")
	c.w.WriteHeader(status)
	_, _ = c.w.Write(raw) // the client is gone: nobody to tell
	return nil
}

func (c *call) list(items []any) error {
	if items == nil {
		items = []any{}
	}
	return c.reply(http.StatusOK, arm.Page[any]{Value: items})
}

// filter reads the $filter of a list.
func (c *call) filter() ([]arm.Term, error) {
	for key, values := range c.r.URL.Query() {
		if !strings.EqualFold(key, "$filter") || len(values) == 0 {
			continue
		}
		terms, err := arm.ParseFilter(values[0])
		if err != nil {
			return nil, arm.Errorf(arm.CodeInvalidParameter, "The $filter is not understood: %v.", err)
		}
		return terms, nil
	}
	return nil, nil
}

func unsupported(t arm.Term, use string) error {
	return arm.Errorf(arm.CodeInvalidParameter, "The $filter '%s' is not supported: use %s.", t.Name, use)
}

// exists is an error unless the scope of the call is there.
func (a *Access) exists(c *call) error {
	if c.scope == "" {
		return nil
	}
	_, err := a.store.Get(c.ctx, arm.Fold(c.scope))
	if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrInvalid) {
		return err
	}
	id, err := arm.ParseID(c.scope)
	if err != nil {
		return arm.Errorf(arm.CodeInvalidID, "%v", err)
	}
	switch id.Type() {
	case "Microsoft.Resources/subscriptions":
		return arm.Errorf("SubscriptionNotFound", "The subscription '%s' could not be found.", id.Name())
	case "Microsoft.Resources/resourceGroups":
		return arm.Errorf(arm.CodeGroupNotFound, "Resource group '%s' could not be found.", id.Name())
	}
	return arm.Errorf(arm.CodeNotFound, "The Resource '%s/%s' under resource group '%s' was not found.", id.Type(), id.Name(), id.ResourceGroup())
}

// guid checks a name that has to be one, and folds it.
func guid(what, name string) (string, error) {
	if len(name) != 36 || uuid.Validate(name) != nil {
		return "", arm.Errorf(arm.CodeInvalidParameter, "The %s '%s' is not valid: it must be a GUID.", what, clip(name))
	}
	return strings.ToLower(name), nil
}

func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

// translate words what the directory refuses.
func translate(err error) error {
	var wrong *auth.CredentialError
	switch {
	case errors.Is(err, auth.ErrLastOwner):
		return arm.Errorf(arm.CodeLastOwner, "Refused: %v.", auth.ErrLastOwner)
	case errors.Is(err, auth.ErrBusy):
		return arm.Errorf(arm.CodeConflict, "%v.", auth.ErrBusy)
	case errors.As(err, &wrong):
		return arm.Errorf(arm.CodeValidationFailed, "%s.", wrong.Problem)
	}
	return err
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

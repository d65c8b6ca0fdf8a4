package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/api/resource/versions"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
)

// call is one request that was admitted.
type call struct {
	server  *Server
	w       http.ResponseWriter
	r       *http.Request
	id      arm.ID
	version string
	who     auth.Principal
	rights  auth.Rights
	now     time.Time
}

func (c *call) ctx() context.Context { return c.r.Context() }

// apiVersion reads the api-version of a request and checks it for a type.
func apiVersion(r *http.Request, typ string) (string, error) {
	var found []string
	for key, values := range r.URL.Query() {
		if strings.EqualFold(key, "api-version") {
			found = append(found, values...)
		}
	}
	switch {
	case len(found) == 0 || found[0] == "":
		return "", arm.Errorf(arm.CodeMissingAPIVersion, "The api-version query parameter (?api-version=) is required for all requests.")
	case len(found) > 1:
		return "", arm.Errorf(arm.CodeInvalidAPIVersion, "The api-version query parameter is given %d times.", len(found))
	case !versions.Known(typ, found[0]):
		supported := strings.Join(versions.Of(typ), ", ")
		if supported == "" {
			supported = "any date, such as 2022-09-01"
		}
		return "", arm.Errorf(arm.CodeInvalidAPIVersion, "The api-version '%s' is invalid for '%s'. The supported versions are: %s.",
			clip(found[0]), typ, supported)
	}
	return strings.ToLower(found[0]), nil
}

// clip bounds what is repeated of a client's text.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

// body reads the JSON object that a request carries. A missing or malformed one
// is an error that says where.
func (c *call) body() (map[string]any, error) {
	if ct := c.r.Header.Get("Content-Type"); ct != "" {
		mt, _, err := mime.ParseMediaType(ct)
		if err != nil || mt != "application/json" && mt != "application/merge-patch+json" && mt != "text/json" {
			return nil, arm.Errorf(arm.CodeUnsupportedMediaType, "The content type '%s' is not supported: send application/json.", clip(ct))
		}
	}
	control := http.NewResponseController(c.w)
	_ = control.SetReadDeadline(time.Now().Add(readPatience)) // a connection without deadlines goes without
	raw, err := io.ReadAll(c.r.Body)
	if err == nil { // what is left of a body that did not come must not be waited for
		_ = control.SetReadDeadline(time.Time{})
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, arm.Errorf(arm.CodeBodyTooLarge, "The request body is larger than %d bytes.", tooLarge.Limit)
	}
	if err != nil {
		return nil, arm.Errorf(arm.CodeInvalidBody, "The request body could not be read.")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil || m == nil {
		return nil, malformed(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, arm.Errorf(arm.CodeInvalidBody, "The request body goes on after its JSON object.")
	}
	return m, nil
}

func malformed(err error) error {
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return arm.Errorf(arm.CodeInvalidBody, "The request body is not valid JSON: %v at byte %d.", syntax, syntax.Offset)
	case errors.As(err, &wrong), err == nil:
		return arm.Errorf(arm.CodeInvalidBody, "The request body must be a JSON object.")
	default:
		return arm.Errorf(arm.CodeInvalidBody, "The request body is empty or ends too early: a JSON object is expected.")
	}
}

// properties takes the properties out of a body; a body without is like {}.
func properties(body map[string]any) (map[string]any, error) {
	switch p := body["properties"].(type) {
	case map[string]any:
		return p, nil
	case nil:
		return map[string]any{}, nil
	default:
		return nil, arm.Errorf(arm.CodeInvalidBody, "properties must be a JSON object.")
	}
}

// toMap turns a value into the JSON object that it is.
func toMap(v any) (map[string]any, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var m map[string]any
	return m, d.Decode(&m)
}

// reply answers with a JSON body.
func (c *call) reply(status int, body any) error {
	raw, err := encode(body)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json; charset=utf-8")
	c.w.WriteHeader(status)
	_, _ = c.w.Write(raw)
	return nil
}

func (c *call) empty(status int) error {
	c.w.WriteHeader(status)
	return nil
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// base is the hub's address as this client knows it.
func (c *call) base() string { return baseURL(c.r) }

func baseURL(r *http.Request) string { return "https://" + r.Host }

func (c *call) correlation() string { return c.w.Header().Get(arm.HeaderCorrelationID) }

// created is the systemData of something that this call makes.
func (c *call) created() resource.SystemData {
	return resource.SystemData{CreatedBy: c.who.ID, CreatedByType: c.callerType(), CreatedAt: c.now,
		LastModifiedBy: c.who.ID, LastModifiedByType: c.callerType(), LastModifiedAt: c.now}
}

// modified is d with this call as its last change.
func (c *call) modified(d resource.SystemData) resource.SystemData {
	d.LastModifiedBy, d.LastModifiedByType, d.LastModifiedAt = c.who.ID, c.callerType(), c.now
	return d
}

// callerType is how systemData names the kind of the caller.
func (c *call) callerType() string {
	if c.who.Kind == auth.User {
		return "User"
	}
	return "Application"
}

// visible reports whether the caller may see the resource under key.
func (c *call) visible(typ, key string) bool { return c.rights.Allows(typ+"/read", key) }

// subscriptionExists is an error unless the call's subscription is known.
func (c *call) subscriptionExists() error {
	_, err := c.server.store.Get(c.ctx(), "/subscriptions/"+arm.Fold(c.id.Subscription()))
	if errors.Is(err, store.ErrNotFound) {
		return arm.Errorf(arm.CodeSubscriptionNotFound, "The subscription '%s' could not be found.", c.id.Subscription())
	}
	return err
}

// notFound is the error of a resource that does not exist, in the words that
// clients look for.
func notFound(id arm.ID) error {
	top := id
	for top.Parent().ResourceGroup() != "" && top.Parent().Type() != resource.TypeResourceGroup {
		top = top.Parent()
	}
	what := id.Type() + "/" + id.Name()
	if top.Key() != id.Key() {
		what = top.Type() + "/" + top.Name() + "/providers/" + what
	}
	return arm.Errorf(arm.CodeNotFound, "The Resource '%s' under resource group '%s' was not found.", what, id.ResourceGroup())
}

func groupNotFound(name string) error {
	return arm.Errorf(arm.CodeGroupNotFound, "Resource group '%s' could not be found.", name)
}

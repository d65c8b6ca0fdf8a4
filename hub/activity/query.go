package activity

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"headwater.dev/api/arm"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
)

const (
	read = "Microsoft.Insights/eventtypes/values/read"
	// pageSize is how many events a page holds, maxScan how many entries are
	// looked at for one.
	pageSize = 200
	maxScan  = 5_000
)

// scopeOf is the scope whose events a path asks for; ok is false when the path
// is not the log's.
func scopeOf(path string) (string, bool) {
	const tail = "/providers/microsoft.insights/eventtypes/management/values"
	at := len(path) - len(tail)
	if at < 0 || !strings.EqualFold(path[at:], tail) {
		return "", false
	}
	return path[:at], true
}

// Demand says what a request needs; ok is false when its path is another's.
func (l *Log) Demand(r *http.Request) (auth.Demand, bool, error) {
	scope, ok := scopeOf(r.URL.Path)
	if !ok {
		return auth.Demand{}, false, nil
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return auth.Demand{}, true, arm.Errorf(arm.CodeMethodNotAllowed, "The activity log can only be read.")
	}
	if scope != "" {
		id, err := arm.ParseID(scope)
		if err != nil {
			return auth.Demand{}, true, arm.Errorf(arm.CodeInvalidID, "%v", err)
		}
		scope = id.String()
	}
	return auth.Demand{Action: read, Scope: scope, Filtered: true}, true, nil
}

// query is what entries are asked for.
type query struct {
	scope    string
	from, to time.Time
	match    []func(Entry) bool
}

// parseQuery reads a $filter.
func parseQuery(scope, filter string) (query, error) {
	q := query{scope: scope}
	terms, err := arm.ParseFilter(filter)
	if err != nil {
		return q, arm.Errorf(arm.CodeInvalidParameter, "The $filter is not understood: %v.", err)
	}
	for _, t := range terms {
		if err := q.add(t); err != nil {
			return q, err
		}
	}
	return q, nil
}

func (q *query) add(t arm.Term) error {
	fits := func(f func(Entry) bool) { q.match = append(q.match, f) }
	same := func(get func(Entry) string) {
		fits(func(e Entry) bool { return strings.EqualFold(get(e), t.Value) })
	}
	switch {
	case t.Is("eventTimestamp", "ge"), t.Is("eventTimestamp", "le"):
		at, ok := moment(t.Value)
		if !ok {
			return arm.Errorf(arm.CodeInvalidParameter, "The $filter has '%s' for a time: use 2026-01-02T03:04:05Z.", clip(t.Value, shown))
		}
		if t.Op == "ge" {
			q.from = at
		} else {
			q.to = at
		}
	case t.Is("resourceGroupName", "eq"):
		same(func(e Entry) string { return groupOf(e.Scope) })
	case t.Is("resourceUri", "eq"), t.Is("resourceId", "eq"):
		fits(func(e Entry) bool { return auth.Within(e.ResourceID, t.Value) || auth.Within(e.Scope, t.Value) })
	case t.Is("resourceProvider", "eq"):
		same(func(e Entry) string { p, _, _ := strings.Cut(e.Action, "/"); return p })
	case t.Is("resourceType", "eq"):
		same(func(e Entry) string { return typeOf(e.Action) })
	case t.Is("correlationId", "eq"):
		same(func(e Entry) string { return e.Correlation })
	case t.Is("caller", "eq"):
		fits(func(e Entry) bool {
			return strings.EqualFold(e.Caller, t.Value) || strings.EqualFold(e.CallerObjectID, t.Value) || strings.EqualFold(e.CallerName, t.Value)
		})
	case t.Is("status", "eq"):
		same(Entry.status)
	case t.Is("levels", "eq"):
		fits(func(e Entry) bool {
			return slices.Contains(strings.Fields(strings.ReplaceAll(t.Value, ",", " ")), e.level())
		})
	case t.Is("eventChannels", "eq"): // there is one channel
	default:
		return arm.Errorf(arm.CodeInvalidParameter, "The $filter '%s %s' is not supported: use eventTimestamp ge and le, resourceGroupName, resourceUri, "+
			"resourceProvider, resourceType, correlationId, caller, status or levels eq.", clip(t.Name, shown), t.Op)
	}
	return nil
}

// moment reads a time as clients write it: with a zone, or in UTC without one.
func moment(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02"} {
		if at, err := time.Parse(layout, s); err == nil {
			return at, true
		}
	}
	return time.Time{}, false
}

// wants reports whether an entry was asked for, by somebody with these rights.
func (q query) wants(e Entry, rights auth.Rights) bool {
	at := e.Scope
	if at == "" {
		at = "/"
	}
	if q.scope != "" && !auth.Within(at, q.scope) || q.scope == "" && e.Scope != "" || !rights.Allows(read, at) {
		return false
	}
	for _, fits := range q.match {
		if !fits(e) {
			return false
		}
	}
	return true
}

// Serve answers a page of events, newest first.
func (l *Log) Serve(w http.ResponseWriter, r *http.Request, _ auth.Principal, rights auth.Rights) error {
	scope, _ := scopeOf(r.URL.Path)
	parameters := r.URL.Query()
	q, err := parseQuery(scope, parameter(parameters, "$filter"))
	if err != nil {
		return err
	}
	after, err := token(parameter(parameters, "$skiptoken"))
	if err != nil {
		return err
	}
	size := pageSize
	if top := parameter(parameters, "$top"); top != "" {
		n, err := strconv.Atoi(top)
		if err != nil || n < 1 {
			return arm.Errorf(arm.CodeInvalidParameter, "$top is '%s'; it must be a number above zero.", clip(top, shown))
		}
		size = min(size, n)
	}
	entries, next, err := l.find(r.Context(), q, after, size, rights)
	if err != nil {
		return err
	}
	page := arm.Page[map[string]any]{Value: []map[string]any{}}
	for _, e := range entries {
		page.Value = append(page.Value, e.event())
	}
	if next != "" {
		parameters.Del("$skipToken")
		parameters.Set("$skiptoken", base64.RawURLEncoding.EncodeToString([]byte(next)))
		u := url.URL{Path: r.URL.Path, RawQuery: parameters.Encode()}
		page.NextLink = "https://" + r.Host + u.String()
	}
	raw, err := json.Marshal(page)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(raw) // the client is gone: nobody to tell
	return nil
}

// find reads a page and the key after which the next begins, "" at the end.
func (l *Log) find(ctx context.Context, q query, after string, size int, rights auth.Rights) ([]Entry, string, error) {
	if after == "" && !q.to.IsZero() {
		after = prefix + inverse(q.to.Add(1))
	}
	end := ""
	if !q.from.IsZero() {
		end = prefix + inverse(q.from) + "~"
	}
	var out []Entry
	for scanned := 0; scanned < maxScan; {
		records, page, err := l.store.List(ctx, store.List{Prefix: prefix, After: after})
		if err != nil {
			return nil, "", err
		}
		for _, r := range records {
			if end != "" && r.Key > end {
				return out, "", nil
			}
			var e Entry
			if err := json.Unmarshal(r.Desired, &e); err != nil {
				return nil, "", fmt.Errorf("read %s: %w", r.Key, err)
			}
			scanned++
			after = r.Key
			if q.wants(e, rights) {
				out = append(out, e)
			}
			if len(out) == size {
				return out, after, nil
			}
		}
		if page.Next == "" {
			return out, "", nil
		}
	}
	return out, after, nil
}

// parameter reads a query parameter in any casing.
func parameter(q url.Values, name string) string {
	for key, values := range q {
		if strings.EqualFold(key, name) && len(values) > 0 {
			return values[0]
		}
	}
	return ""
}

func token(s string) (string, error) {
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || s != "" && !strings.HasPrefix(string(raw), prefix) {
		return "", arm.Errorf(arm.CodeInvalidParameter, "The $skiptoken is not one of this list: begin again without it.")
	}
	return string(raw), nil
}

// shown is how much of a client's text is repeated to it, in bytes.
const shown = 100

// clip bounds a text that is repeated, in bytes.
func clip(s string, most int) string {
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

package rest

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"headwater.dev/api/arm"
	"headwater.dev/hub/store"
)

// condition is what a write's If-Match and If-None-Match ask of the resource
// that it is on. It is looked at whenever the record is read for the write, and
// the write then expects that very record: nothing comes in between.
type condition struct {
	key              string
	match, noneMatch string
	header           http.Header
	// spent is set when the request itself has written.
	spent bool
}

type conditionKey struct{}

// withCondition notes the conditions of a request on the resource under key.
func withCondition(ctx context.Context, r *http.Request, key string, header http.Header) context.Context {
	c := &condition{key: key, header: header}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		c.match, c.noneMatch = strings.Join(r.Header.Values("If-Match"), ","), strings.Join(r.Header.Values("If-None-Match"), ",")
	}
	return context.WithValue(ctx, conditionKey{}, c)
}

func conditionOf(ctx context.Context, key string) *condition {
	c, ok := ctx.Value(conditionKey{}).(*condition)
	if !ok || c.key != key {
		return nil
	}
	return c
}

// etag is the version of what users asked for: what an agent reports is none.
func etag(r store.Record) string { return `"` + strconv.FormatInt(r.DesiredRevision, 10) + `"` }

// check compares the record, nil for a missing one, and shows its version.
func (c *condition) check(r *store.Record) error {
	if c == nil {
		return nil
	}
	tag := ""
	if r != nil {
		tag = etag(*r)
		c.header.Set("ETag", tag)
	}
	if c.spent {
		return nil
	}
	switch {
	case c.match != "" && !named(c.match, tag):
		return arm.Errorf(arm.CodePreconditionFailed, "The resource is not the version that If-Match names: somebody changed it. GET it again.")
	case c.noneMatch != "" && named(c.noneMatch, tag):
		return arm.Errorf(arm.CodePreconditionFailed, "The resource exists already in a version that If-None-Match names.")
	}
	return nil
}

// wrote notes that the request has written the record.
func (c *condition) wrote(r store.Record) {
	if c != nil {
		c.spent = true
		c.header.Set("ETag", etag(r))
	}
}

// named reports whether a list of versions has a tag; "*" is any that exists.
func named(list, tag string) bool {
	if tag == "" {
		return false
	}
	for _, one := range strings.Split(list, ",") {
		one = strings.TrimSpace(one)
		if one == "*" || strings.TrimPrefix(one, "W/") == tag {
			return true
		}
	}
	return false
}

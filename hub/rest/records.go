package rest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/hub/store"
	spans "headwater.dev/kernel/trace"
)

// attempts is how often a write is repeated when an agent's report came
// between reading and writing.
const attempts = 16

// entry is a record with its desired part read.
type entry[P any] struct {
	record store.Record
	resource.Desired[P]
}

// exists reports whether there is a record.
func (e entry[P]) exists() bool { return e.record.Revision > 0 }

// load reads a record; a missing one is an entry that does not exist.
func load[P any](ctx context.Context, s store.Store, key string) (entry[P], error) {
	r, err := s.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return entry[P]{}, conditionOf(ctx, key).check(nil)
	}
	if err == nil {
		err = conditionOf(ctx, key).check(&r)
	}
	if err != nil {
		return entry[P]{}, err
	}
	return read[P](r)
}

func read[P any](r store.Record) (entry[P], error) {
	e := entry[P]{record: r}
	if err := json.Unmarshal(r.Desired, &e.Desired); err != nil {
		return e, fmt.Errorf("read record %s: %w", r.Key, err)
	}
	return e, nil
}

// observed reads the observed part into v; nothing reported leaves v alone.
func observed(r store.Record, v any) error {
	if r.Observed == nil {
		return nil
	}
	if err := json.Unmarshal(r.Observed, v); err != nil {
		return fmt.Errorf("read what was observed of %s: %w", r.Key, err)
	}
	return nil
}

// save writes d over the entry that was read, or as a new record.
func save[P any](ctx context.Context, s store.Store, was entry[P], d resource.Desired[P]) (entry[P], error) {
	id, err := arm.ParseID(d.ID)
	if err != nil {
		return entry[P]{}, err
	}
	d.TraceParent = spans.Parent(ctx)
	value, err := json.Marshal(d)
	if err != nil {
		return entry[P]{}, err
	}
	r, err := s.Put(ctx, store.Put{Key: id.Key(), Part: store.Desired, Value: value, Expect: was.record.Revision})
	if err != nil {
		return entry[P]{}, err
	}
	conditionOf(ctx, id.Key()).wrote(r)
	return entry[P]{record: r, Desired: d}, nil
}

// retry repeats a write that lost a race; the last loss is the answer.
func retry(write func() error) error {
	var err error
	for range attempts {
		err = write()
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrExists) && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	if errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: %v", store.ErrConflict, err)
	}
	return err
}

// remove deletes a record in whatever state it is; a missing one is no error.
func (s *Server) remove(ctx context.Context, key string) error {
	err := s.store.Delete(ctx, key, store.AnyRevision)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// below reports whether key is a direct child of the collection prefix.
func below(prefix, key string) bool {
	rest, ok := strings.CutPrefix(key, prefix)
	return ok && rest != "" && !strings.Contains(rest, "/")
}

// typeOfKey is the folded type of the resource that a key belongs to.
func typeOfKey(key string) string {
	id, err := arm.ParseID(key)
	if err != nil {
		return ""
	}
	return arm.Fold(id.Type())
}

// listing is a page to be made of the records below prefix that match.
type listing struct {
	prefix string
	match  func(key string) bool
	// render gives nil for a record that is not part of the list.
	render func(store.Record) (map[string]any, error)
}

// page answers one page of a list and where the next begins.
func (c *call) page(l listing) error {
	after, err := skipToken(c.r.URL.Query(), l.prefix)
	if err != nil {
		return err
	}
	size := c.server.pageSize
	if top := c.r.URL.Query().Get("$top"); top != "" {
		n, err := strconv.Atoi(top)
		if err != nil || n < 1 {
			return arm.Errorf(arm.CodeInvalidParameter, "$top is '%s'; it must be a number above zero.", clip(top))
		}
		size = min(n, size)
	}
	out, last := arm.Page[map[string]any]{Value: []map[string]any{}}, ""
	for {
		records, page, err := c.server.store.List(c.ctx(), store.List{Prefix: l.prefix, After: after})
		if err != nil {
			return err
		}
		for _, r := range records {
			if !l.match(r.Key) {
				continue
			}
			item, err := l.render(r)
			if err != nil {
				return err
			}
			if item == nil {
				continue
			}
			if len(out.Value) == size {
				out.NextLink = c.nextLink(last)
				return c.reply(200, out)
			}
			out.Value, last = append(out.Value, item), r.Key
		}
		if page.Next == "" {
			return c.reply(200, out)
		}
		after = page.Next
	}
}

// nextLink is this request's URL with a token for what comes after a key.
func (c *call) nextLink(after string) string {
	q := c.r.URL.Query()
	q.Set("$skiptoken", base64.RawURLEncoding.EncodeToString([]byte(after)))
	u := url.URL{Path: c.r.URL.Path, RawQuery: q.Encode()}
	return c.base() + u.String()
}

func skipToken(q url.Values, prefix string) (string, error) {
	for key, values := range q {
		if arm.Fold(key) != "$skiptoken" || len(values) == 0 {
			continue
		}
		raw, err := base64.RawURLEncoding.DecodeString(values[0])
		if err != nil || !strings.HasPrefix(string(raw), prefix) {
			return "", arm.Errorf(arm.CodeInvalidParameter, "The $skiptoken is not one of this list: begin again without it.")
		}
		return string(raw), nil
	}
	return "", nil
}

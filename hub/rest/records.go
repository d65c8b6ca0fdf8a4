package rest

import (
	"bytes"
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
	value, err := encode(d)
	if err != nil {
		return entry[P]{}, err
	}
	r, err := s.Put(ctx, store.Put{Key: id.Key(), Part: store.Desired, Value: bytes.TrimSpace(value), Expect: was.record.Revision})
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

// isOperation reports whether a key is that of an operation, and not of a resource
// below something that has this name.
func isOperation(key string) bool { return strings.HasSuffix(typeOfKey(key), "/operations") }

// maxPage is the size, in bytes, beyond which a page of a list takes no further
// resource: 4 MiB are as much as clients and proxies take in one answer.
const maxPage = 4 << 20

// listing is a page to be made of the records below prefix that match.
type listing struct {
	prefix string
	match  func(key string) bool
	// children is set when only direct children of prefix match: what lies below
	// them is then not read more than a page's worth at a time.
	children bool
	// render gives nil for a record that is not part of the list.
	render func(store.Record) (map[string]any, error)
	// among is about how many records there are for each resource of the list, to
	// read as many as a page needs; 0 is 2, a resource and its operation.
	among int
}

// page answers one page of a list and where the next begins. It ends when it has
// as many resources, or as many bytes, as a page may have.
func (c *call) page(l listing) error {
	after, err := skipToken(c.r.URL.Query(), l.prefix)
	if err != nil {
		return err
	}
	size, err := c.top()
	if err != nil {
		return err
	}
	out, last, bytes := arm.Page[json.RawMessage]{Value: []json.RawMessage{}}, "", 0
	for limit := (size + 1) * max(l.among, 2); ; limit = min(2*limit, store.DefaultLimit) { // the rarer they are, the more at once
		records, page, err := c.server.store.List(c.ctx(), store.List{Prefix: l.prefix, After: after, Limit: limit})
		if err != nil {
			return err
		}
		for _, r := range records {
			item, err := l.item(r)
			if err != nil {
				return err
			}
			if item == nil {
				continue
			}
			if bytes += len(item); len(out.Value) == size || bytes > maxPage && last != "" {
				out.NextLink = c.nextLink(last)
				return c.reply(200, out)
			}
			out.Value, last = append(out.Value, item), r.Key
		}
		if page.Next == "" {
			return c.reply(200, out)
		}
		if after = page.Next; l.children {
			after = pastBelow(l.prefix, after)
		}
	}
}

// pastBelow is the end of what lies below the child of prefix that key is below;
// a key that is below no child stays.
func pastBelow(prefix, key string) string {
	child, _, deeper := strings.Cut(strings.TrimPrefix(key, prefix), "/")
	if !deeper {
		return key
	}
	return prefix + child + "/\x7f" // ids have no such character, see arm.CheckSegment
}

// item is a record as the list shows it, nil when it does not.
func (l listing) item(r store.Record) (json.RawMessage, error) {
	if !l.match(r.Key) {
		return nil, nil
	}
	m, err := l.render(r)
	if err != nil || m == nil {
		return nil, err
	}
	return encode(m)
}

// top is how many resources a page holds: what $top asks for, within bounds.
func (c *call) top() (int, error) {
	top := c.r.URL.Query().Get("$top")
	if top == "" {
		return c.server.pageSize, nil
	}
	n, err := strconv.Atoi(top)
	if err != nil || n < 1 {
		return 0, arm.Errorf(arm.CodeInvalidParameter, "$top is '%s'; it must be a number above zero.", clip(top))
	}
	return min(n, c.server.pageSize), nil
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

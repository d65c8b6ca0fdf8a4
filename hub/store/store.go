// Package store is the hub's memory: records in two parts behind five verbs.
//
// A record is one ARM resource (or one entry of another family: a vault entry,
// a principal, an operation). Its desired part is written by the users' door,
// its observed part by the agents' door; no write ever changes both.
//
// # Laws
//
// Every implementation obeys them; package storetest proves it.
//
//  1. Keys are absolute, lower-case paths ("/subscriptions/s/…"). Anything else
//     is ErrInvalid: a caller that forgot to fold an id is told, not obeyed.
//  2. Values are JSON of at most MaxValue bytes and come back byte for byte.
//     The bytes handed out are the caller's own: changing them changes nothing.
//  3. Revisions belong to the whole store, start above zero and only grow. Every
//     write makes exactly one new revision. Record.Revision is that of the last
//     change of either part, Record.DesiredRevision that of the desired part.
//  4. Generation counts the writes of the desired part: 1 at creation, +1 with
//     every further Put of Desired, also of an equal value. Observed writes
//     leave it alone. A record deleted and made again starts at 1.
//  5. Put with Expect 0 makes a record and is ErrExists when there is one; only
//     the desired part can do that. Put with Expect > 0 is ErrConflict unless
//     the record's Revision is exactly that, ErrNotFound when there is no record.
//     AnyRevision writes in any case; for Observed there must be a record.
//  6. A failed write leaves nothing behind. A write whose answer was lost
//     (cancelled context) may have happened, wholly or not at all.
//  7. Of many writers with the same Expect exactly one succeeds.
//  8. A Put of Desired sets the life of the whole record: TTL 0 is for ever,
//     otherwise both parts vanish together, not before TTL and at most a few
//     seconds after it (TTLs are rounded up to whole seconds). An observed part
//     lives as long as its record; its Put has no TTL of its own.
//  9. What a write answered, every later Get, List and Watch of every process
//     sees (linearisable reads), and so does what an event told of.
//  10. List answers in ascending order of keys (bytes), at most Limit records,
//     all as of Page.Revision; a page also ends with the record that brings it to
//     MaxPage bytes. Page.Next is the After of the next page, "" at the end. With List.Revision set to the first page's, all pages are one
//     snapshot; ErrCompacted when that is no longer kept.
//  11. Watch from a List's Revision misses nothing and repeats nothing: every
//     change with a greater revision, in order, once. A deletion and an expiry
//     are one event. When the history from there is gone, or from lies in the
//     future (the store was restored from a backup), it is ErrCompacted: list
//     again.
//  12. A watch ends by closing its channel. Unless its context ended, the last
//     event then carries only Err: ErrSlow when the reader left an event waiting
//     for longer than WatchPatience, ErrCompacted, or what broke. A slow reader
//     never slows a writer.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// AnyRevision as Expect asks for no particular revision.
const AnyRevision int64 = -1

const (
	// MaxValue is the size of the largest value, in bytes.
	MaxValue = 1 << 20
	// MaxKey is the length of the longest key, in bytes.
	MaxKey = 2048
	// DefaultLimit is the size of a page when List.Limit is zero, and the
	// largest that a page can be.
	DefaultLimit = 1000
	// MaxPage is the size, in bytes, at which a page of a List ends before it has as
	// many records as were asked for.
	MaxPage = 8 << 20
	// WatchBuffer is how many events are handed out ahead of a watch's reader.
	WatchBuffer = 256
	// WatchPatience is how long the next event after those may wait for the
	// reader before the watch ends with ErrSlow.
	WatchPatience = 10 * time.Second
)

// firstPage is the size of the first page of Each: most visits end with it, and a
// short page is the cheapest.
const firstPage = 64

// Errors of the store; implementations wrap them with the key in question.
var (
	// ErrNotFound says that there is no record under the key.
	ErrNotFound = errors.New("record not found")
	// ErrExists says that a record to be made is there already.
	ErrExists = errors.New("record exists")
	// ErrConflict says that the record has another revision than expected.
	ErrConflict = errors.New("record was changed meanwhile")
	// ErrCompacted says that the history asked for is gone: list again.
	ErrCompacted = errors.New("history is no longer kept")
	// ErrSlow ends the watch of a reader that does not keep up.
	ErrSlow = errors.New("watch reader is too slow")
	// ErrInvalid says that the request breaks a rule whatever is stored.
	ErrInvalid = errors.New("invalid store request")
	// ErrUnavailable says that the storage cannot be reached or has no quorum
	// or no space; a write may or may not have happened.
	ErrUnavailable = errors.New("storage is unavailable")
	// ErrFull is an ErrUnavailable whose reason is that there is no space: reads
	// and deletions go on, writes do not, and none has happened. Whoever runs the
	// hub has to make space.
	ErrFull = fmt.Errorf("%w: it is full", ErrUnavailable)
)

// Part names one of the two parts of a record.
type Part int

const (
	// Desired is what users asked for.
	Desired Part = iota
	// Observed is what the cluster's agent reported.
	Observed
)

// String is the part's name for logs and errors.
func (p Part) String() string {
	if p == Observed {
		return "observed"
	}
	return "desired"
}

// Record is one entry. Observed is nil until something was observed.
type Record struct {
	Key             string
	Desired         json.RawMessage
	Observed        json.RawMessage
	Revision        int64
	Generation      int64
	DesiredRevision int64
}

// Put is a write of one part of a record.
type Put struct {
	Key   string
	Part  Part
	Value json.RawMessage
	// Expect is AnyRevision, 0 for a record that must not exist yet, or the
	// Revision the record must have.
	Expect int64
	// TTL is the life of the whole record from now; 0 is for ever. Desired only.
	TTL time.Duration
}

// List asks for one page of records.
type List struct {
	// Prefix of the keys, as bytes: end it with "/" to stay below a path.
	Prefix string
	// After is the key after which the page begins, "" for the first.
	After string
	// Limit is at most this many records; 0 means DefaultLimit.
	Limit int
	// Revision is the snapshot to read; 0 is the present.
	Revision int64
}

// Page tells where a page ends and of which revision it is.
type Page struct {
	Next     string
	Revision int64
}

// Event is one change of one part of a record, or its end.
type Event struct {
	Key      string
	Revision int64
	// Deleted is the end of the whole record; Part, Value and Generation are zero.
	Deleted bool
	Part    Part
	Value   json.RawMessage
	// Generation of the record after a change of its desired part; 0 otherwise.
	Generation int64
	// Err is why the watch ends; all other fields are zero and nothing follows.
	Err error
}

// Store keeps records. See the package comment for its laws.
type Store interface {
	// Get answers the record, or ErrNotFound.
	Get(ctx context.Context, key string) (Record, error)
	// Put writes one part and answers the record after it. ErrConflict,
	// ErrExists, ErrNotFound and ErrInvalid as in the laws.
	Put(ctx context.Context, put Put) (Record, error)
	// Delete removes the record with both parts. expect is AnyRevision or the
	// Revision it must have. ErrNotFound, ErrConflict.
	Delete(ctx context.Context, key string, expect int64) error
	// List answers one page of the records below a prefix.
	List(ctx context.Context, list List) ([]Record, Page, error)
	// Watch sends every change below prefix with Revision > from until ctx ends.
	Watch(ctx context.Context, prefix string, from int64) (<-chan Event, error)
}

// Each visits every record below prefix in order, all as of the revision it
// returns, and stops at the first error of visit. The revision is where a Watch
// goes on.
func Each(ctx context.Context, s Store, prefix string, visit func(Record) error) (int64, error) {
	list := List{Prefix: prefix, Limit: firstPage}
	for {
		records, page, err := s.List(ctx, list)
		if err != nil {
			return 0, err
		}
		for _, r := range records {
			if err := visit(r); err != nil {
				return page.Revision, err
			}
		}
		if page.Next == "" {
			return page.Revision, nil
		}
		list.After, list.Revision, list.Limit = page.Next, page.Revision, DefaultLimit
	}
}

// Apply folds a change into the record it belongs to and reports whether the
// record still exists. The zero Record is one that does not exist yet.
func (e Event) Apply(r Record) (Record, bool) {
	if e.Deleted {
		return Record{}, false
	}
	r.Key, r.Revision = e.Key, e.Revision
	if e.Part == Observed {
		r.Observed = e.Value
		return r, true
	}
	r.Desired, r.DesiredRevision, r.Generation = e.Value, e.Revision, e.Generation
	return r, true
}

// CheckKey says what is wrong with a key, as ErrInvalid.
func CheckKey(key string) error {
	switch {
	case !strings.HasPrefix(key, "/") || len(key) < 2:
		return fmt.Errorf("%w: key %q does not begin with a slash and a name", ErrInvalid, key)
	case len(key) > MaxKey:
		return fmt.Errorf("%w: key of %d bytes is longer than %d", ErrInvalid, len(key), MaxKey)
	case strings.ToLower(key) != key:
		return fmt.Errorf("%w: key %q is not in lower case", ErrInvalid, key)
	case strings.ContainsFunc(key, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return fmt.Errorf("%w: key %q contains a control character", ErrInvalid, key)
	}
	return nil
}

// Check says what is wrong with a write whatever is stored, as ErrInvalid.
func (p Put) Check() error {
	if err := CheckKey(p.Key); err != nil {
		return err
	}
	switch {
	case p.Part != Desired && p.Part != Observed:
		return fmt.Errorf("%w: %s: there is no part %d", ErrInvalid, p.Key, p.Part)
	case p.Expect < AnyRevision:
		return fmt.Errorf("%w: %s: expected revision %d", ErrInvalid, p.Key, p.Expect)
	case p.Part == Observed && p.Expect == 0:
		return fmt.Errorf("%w: %s: an observed part cannot make a record", ErrInvalid, p.Key)
	case p.Part == Observed && p.TTL != 0:
		return fmt.Errorf("%w: %s: an observed part has no life of its own", ErrInvalid, p.Key)
	case p.TTL < 0:
		return fmt.Errorf("%w: %s: negative time to live", ErrInvalid, p.Key)
	case len(p.Value) > MaxValue:
		return fmt.Errorf("%w: %s: value of %d bytes is larger than %d", ErrInvalid, p.Key, len(p.Value), MaxValue)
	case !json.Valid(p.Value):
		return fmt.Errorf("%w: %s: value is not JSON", ErrInvalid, p.Key)
	}
	return nil
}

// Page checks a List and answers how many records its page may hold.
func (l List) Page() (int, error) {
	switch {
	case l.Limit < 0:
		return 0, fmt.Errorf("%w: negative limit", ErrInvalid)
	case l.Revision < 0:
		return 0, fmt.Errorf("%w: negative revision", ErrInvalid)
	case l.Limit == 0 || l.Limit > DefaultLimit:
		return DefaultLimit, nil
	}
	return l.Limit, nil
}

// Fill is how many of the records make a page: at most limit of them, and no more
// after the one that brings it to MaxPage bytes.
func Fill(records []Record, limit int) int {
	size := 0
	for i, r := range records {
		size += len(r.Key) + len(r.Desired) + len(r.Observed)
		if i+1 == limit || size >= MaxPage {
			return i + 1
		}
	}
	return len(records)
}

package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"headwater.dev/hub/store"
)

// chunk is how many records are read at once: as many of the largest size are
// still no danger to the process.
const chunk = 64

// List answers one page of the records below a prefix. A long page is read in
// chunks, until it is complete or large enough; where the chunks end is seen from
// the keys alone.
func (s *Store) List(ctx context.Context, list store.List) ([]store.Record, store.Page, error) {
	limit, err := list.Page()
	if err != nil {
		return nil, store.Page{}, err
	}
	if err := ctx.Err(); err != nil {
		return nil, store.Page{}, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	read := s.short
	if limit > chunk {
		read = s.long
	}
	records, page, err := read(ctx, list, limit)
	if errors.Is(err, store.ErrCompacted) && list.Revision == 0 { // the present became history meanwhile
		records, page, err = read(ctx, list, limit)
	}
	if err != nil {
		return nil, store.Page{}, fmt.Errorf("list %s: %w", list.Prefix, err)
	}
	return records, page, nil
}

// span is where a list's page begins and where the list ends.
func (s *Store) span(list store.List) (from, end string) {
	from, end = s.prefix+list.Prefix, clientv3.GetPrefixRangeEnd(s.prefix+list.Prefix)
	if after := s.prefix + list.After + pastRecord; list.After != "" && after > from {
		from = after
	}
	return from, end
}

// ask reads keys from a snapshot, or from the present for revision 0, and answers
// of which revision they are.
func (s *Store) ask(ctx context.Context, from, end string, revision int64, options ...clientv3.OpOption) ([]*mvccpb.KeyValue, int64, error) {
	options = append(options, clientv3.WithRange(end))
	if revision != 0 {
		options = append(options, clientv3.WithRev(revision))
	}
	resp, err := s.get(ctx, from, options...)
	if err != nil {
		return nil, 0, err
	}
	if revision == 0 {
		revision = resp.Header.Revision
	}
	return resp.Kvs, revision, nil
}

// short reads a page in one go.
func (s *Store) short(ctx context.Context, list store.List, limit int) ([]store.Record, store.Page, error) {
	from, end := s.span(list)
	// Two keys a record and two more: the first limit records are complete, and
	// whether there is another one shows.
	kvs, revision, err := s.ask(ctx, from, end, list.Revision, clientv3.WithLimit(int64(2*limit+2)))
	if err != nil {
		return nil, store.Page{}, err
	}
	page := store.Page{Revision: revision}
	records := s.records(kvs)
	if n := store.Fill(records, limit); n < len(records) {
		records = records[:n]
		page.Next = records[n-1].Key
	}
	return records, page, nil
}

// long reads a page in chunks.
func (s *Store) long(ctx context.Context, list store.List, limit int) ([]store.Record, store.Page, error) {
	from, end := s.span(list)
	keys, revision, err := s.ask(ctx, from, end, list.Revision, clientv3.WithLimit(int64(2*limit+2)), clientv3.WithKeysOnly())
	if err != nil {
		return nil, store.Page{}, err
	}
	var begins []int // the index of each record's first key
	for i, kv := range keys {
		if _, part := s.split(kv.Key); part == store.Desired {
			begins = append(begins, i)
		}
	}
	page, records, size := store.Page{Revision: revision}, make([]store.Record, 0, min(limit, len(begins))), 0
	for at := 0; at < min(limit, len(begins)) && size < store.MaxPage; at += chunk {
		to := min(at+chunk, limit, len(begins))
		past := string(keys[len(keys)-1].Key) + "\x00"
		if to < len(begins) {
			past = string(keys[begins[to]].Key)
		}
		kvs, _, err := s.ask(ctx, string(keys[begins[at]].Key), past, revision)
		if err != nil {
			return nil, store.Page{}, err
		}
		records = append(records, s.records(kvs)...)
		for _, kv := range kvs {
			size += len(kv.Key) + len(kv.Value)
		}
	}
	records = records[:store.Fill(records, limit)]
	if len(records) > 0 && len(records) < len(begins) {
		page.Next = records[len(records)-1].Key
	}
	return records, page, nil
}

// records joins the sorted keys of records.
func (s *Store) records(kvs []*mvccpb.KeyValue) []store.Record {
	records := make([]store.Record, 0, len(kvs)/2+1)
	for i, kv := range kvs {
		key, part := s.split(kv.Key)
		if part != store.Desired {
			continue
		}
		p := pair{desired: kv}
		if i+1 < len(kvs) {
			if next, part := s.split(kvs[i+1].Key); next == key && part == store.Observed {
				p.observed = kvs[i+1]
			}
		}
		records = append(records, p.record(key))
	}
	return records
}

// split takes a key of etcd apart.
func (s *Store) split(raw []byte) (string, store.Part) {
	key := strings.TrimPrefix(string(raw), s.prefix)
	if k, ok := strings.CutSuffix(key, observedSuffix); ok {
		return k, store.Observed
	}
	return strings.TrimSuffix(key, desiredSuffix), store.Desired
}

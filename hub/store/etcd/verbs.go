package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"

	"headwater.dev/hub/store"
)

const (
	desiredSuffix  = "\x00d"
	observedSuffix = "\x00o"
	// pastRecord comes after both keys of a record and before those of any other.
	pastRecord = "\x00\xff"
	// cleanTimeout bounds the clean-up of a lease that nothing needs any more.
	cleanTimeout = 5 * time.Second
)

// pair is both keys of a record; nil where there is none.
type pair struct{ desired, observed *mvccpb.KeyValue }

// record is what the pair means; there must be a desired key.
func (p pair) record(key string) store.Record {
	r := store.Record{
		Key:             key,
		Desired:         p.desired.Value,
		Revision:        p.desired.ModRevision,
		Generation:      p.desired.Version,
		DesiredRevision: p.desired.ModRevision,
	}
	if p.observed != nil {
		r.Observed = p.observed.Value
		r.Revision = max(r.Revision, p.observed.ModRevision)
	}
	return r
}

// expect says why a write or deletion does not fit what is there.
func (p pair) expect(key string, part store.Part, expect int64) error {
	switch {
	case p.desired == nil && (part == store.Observed || expect > 0):
		return store.ErrNotFound
	case p.desired != nil && expect == 0:
		return store.ErrExists
	case expect > 0 && p.record(key).Revision != expect:
		return store.ErrConflict
	}
	return nil
}

// Get answers the record, or store.ErrNotFound.
func (s *Store) Get(ctx context.Context, key string) (store.Record, error) {
	if err := ready(ctx, key); err != nil {
		return store.Record{}, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	p, err := s.read(ctx, key)
	if err == nil && p.desired == nil {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Record{}, fmt.Errorf("get %s: %w", key, err)
	}
	return p.record(key), nil
}

func (s *Store) read(ctx context.Context, key string) (pair, error) {
	k := s.prefix + key
	resp, err := s.get(ctx, k+desiredSuffix, clientv3.WithRange(k+pastRecord))
	if err != nil {
		return pair{}, err
	}
	return pairOf(resp.Kvs), nil
}

func pairOf(kvs []*mvccpb.KeyValue) pair {
	var p pair
	for _, kv := range kvs {
		if bytes.HasSuffix(kv.Key, []byte(desiredSuffix)) {
			p.desired = kv
		} else {
			p.observed = kv
		}
	}
	return p
}

// Put writes one part of a record: it looks what is there, and writes if that
// is still there. With AnyRevision it tries until nothing came between.
func (s *Store) Put(ctx context.Context, put store.Put) (store.Record, error) {
	if err := put.Check(); err != nil {
		return store.Record{}, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	r, err := s.put(ctx, put)
	if err != nil {
		return store.Record{}, fmt.Errorf("put %s part of %s: %w", put.Part, put.Key, err)
	}
	return r, nil
}

func (s *Store) put(ctx context.Context, put store.Put) (store.Record, error) {
	if err := ctx.Err(); err != nil {
		return store.Record{}, err
	}
	full := s.space.left()
	if full == nil && put.Part == store.Observed && put.Expect > 0 {
		if r, done, err := s.again(ctx, put); done || err != nil {
			return r, err
		}
	}
	was, err := s.read(ctx, put.Key)
	if err != nil {
		return store.Record{}, err
	}
	if err := was.expect(put.Key, put.Part, put.Expect); err != nil {
		return store.Record{}, err
	}
	// What needs no write is answered also when there is no space for one: a hub
	// must be able to start.
	if full != nil {
		return store.Record{}, full
	}
	lease, err := s.lease(ctx, put)
	if err != nil {
		return store.Record{}, err
	}
	for {
		if put.Part == store.Observed {
			lease = clientv3.LeaseID(was.desired.Lease)
		}
		ops := s.writes(put, was, lease)
		resp, err := s.when(ctx, put.Key, was, ops...)
		if err == nil && resp.Succeeded {
			if put.Part == store.Desired && was.desired != nil {
				s.release(ctx, clientv3.LeaseID(was.desired.Lease))
			}
			return written(put, was, resp.Header.Revision), nil
		}
		if err == nil {
			was = pairOf(resp.Responses[0].GetResponseRange().Kvs)
			err = was.expect(put.Key, put.Part, put.Expect)
		}
		if err != nil {
			if put.Part == store.Desired && definite(err) {
				s.release(ctx, lease)
			}
			return store.Record{}, err
		}
	}
}

// again replaces an observed part that was the last change of its record, without
// looking what is there first: nearly all writes of a fleet at rest are such. done
// is false when it was not the last change, and nothing has happened.
func (s *Store) again(ctx context.Context, put store.Put) (r store.Record, done bool, err error) {
	k := s.prefix + put.Key
	resp, err := s.client().Txn(ctx).If(
		clientv3.Compare(clientv3.ModRevision(k+observedSuffix), "=", put.Expect),
		clientv3.Compare(clientv3.ModRevision(k+desiredSuffix), "<", put.Expect),
		clientv3.Compare(clientv3.ModRevision(k+desiredSuffix), ">", 0),
	).Then(
		clientv3.OpPut(k+observedSuffix, string(put.Value), clientv3.WithIgnoreLease()),
		clientv3.OpGet(k+desiredSuffix),
	).Commit()
	if err != nil || !resp.Succeeded {
		return store.Record{}, false, fault(ctx, err)
	}
	was := pair{desired: resp.Responses[1].GetResponseRange().Kvs[0]}
	return written(put, was, resp.Header.Revision), true, nil
}

// writes are the operations of a Put. When the life of a record changes, its
// observed key moves to the new lease with its value as it is.
func (s *Store) writes(put store.Put, was pair, lease clientv3.LeaseID) []clientv3.Op {
	k := s.prefix + put.Key
	if put.Part == store.Observed {
		return []clientv3.Op{clientv3.OpPut(k+observedSuffix, string(put.Value), clientv3.WithLease(lease))}
	}
	ops := []clientv3.Op{clientv3.OpPut(k+desiredSuffix, string(put.Value), clientv3.WithLease(lease))}
	if was.observed != nil && was.observed.Lease != int64(lease) {
		ops = append(ops, clientv3.OpPut(k+observedSuffix, string(was.observed.Value), clientv3.WithLease(lease)))
	}
	return ops
}

// when does ops if both keys of a record are as they were; otherwise the answer
// holds them as they are.
func (s *Store) when(ctx context.Context, key string, was pair, ops ...clientv3.Op) (*clientv3.TxnResponse, error) {
	k := s.prefix + key
	resp, err := s.client().Txn(ctx).If(
		unchanged(k+desiredSuffix, was.desired),
		unchanged(k+observedSuffix, was.observed),
	).Then(ops...).Else(
		clientv3.OpGet(k+desiredSuffix, clientv3.WithRange(k+pastRecord)),
	).Commit()
	return resp, fault(ctx, err)
}

func unchanged(key string, was *mvccpb.KeyValue) clientv3.Cmp {
	revision := int64(0)
	if was != nil {
		revision = was.ModRevision
	}
	return clientv3.Compare(clientv3.ModRevision(key), "=", revision)
}

// written is the record after a successful write.
func written(put store.Put, was pair, revision int64) store.Record {
	r := store.Record{Key: put.Key}
	if was.desired != nil {
		r = was.record(put.Key)
	}
	event := store.Event{Key: put.Key, Revision: revision, Part: put.Part, Value: bytes.Clone(put.Value)}
	if put.Part == store.Desired {
		event.Generation = r.Generation + 1
	}
	r, _ = event.Apply(r)
	return r
}

// lease grants what a Put with a TTL hangs its keys on.
func (s *Store) lease(ctx context.Context, put store.Put) (clientv3.LeaseID, error) {
	if put.TTL == 0 {
		return clientv3.NoLease, nil
	}
	resp, err := s.client().Grant(ctx, int64((put.TTL+time.Second-1)/time.Second))
	if err != nil {
		return 0, fault(ctx, fmt.Errorf("grant a lease: %w", err))
	}
	return resp.ID, nil
}

// release gives back a lease that holds no key any more. If that fails the
// lease ends by itself.
func (s *Store) release(ctx context.Context, lease clientv3.LeaseID) {
	if lease == clientv3.NoLease {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	if _, err := s.client().Revoke(ctx, lease); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		s.log.Debug("unused lease not revoked", "error", err)
	}
}

// definite reports whether a failed write has certainly not happened.
func definite(err error) bool {
	return errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrNotFound)
}

// Delete removes the record with both parts.
func (s *Store) Delete(ctx context.Context, key string, expect int64) error {
	if err := ready(ctx, key); err != nil {
		return err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := s.delete(ctx, key, expect); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

func (s *Store) delete(ctx context.Context, key string, expect int64) error {
	was, err := s.read(ctx, key)
	if err != nil {
		return err
	}
	k := s.prefix + key
	for {
		switch {
		case was.desired == nil:
			return store.ErrNotFound
		case expect != store.AnyRevision && was.record(key).Revision != expect:
			return store.ErrConflict
		}
		resp, err := s.when(ctx, key, was, clientv3.OpDelete(k+desiredSuffix, clientv3.WithRange(k+pastRecord)))
		if err != nil {
			return err
		}
		if resp.Succeeded {
			s.release(ctx, clientv3.LeaseID(was.desired.Lease))
			return nil
		}
		was = pairOf(resp.Responses[0].GetResponseRange().Kvs)
	}
}

// ready checks what Get and Delete share.
func ready(ctx context.Context, key string) error {
	if err := store.CheckKey(key); err != nil {
		return err
	}
	return ctx.Err()
}

// fault puts etcd's errors into the store's words.
func fault(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	case errors.Is(err, rpctypes.ErrCompacted), errors.Is(err, rpctypes.ErrFutureRev):
		return fmt.Errorf("%w: %w", store.ErrCompacted, err)
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	var e rpctypes.EtcdError
	if errors.As(err, &e) && e.Code() != codes.Unavailable && e.Code() != codes.ResourceExhausted && e.Code() != codes.DeadlineExceeded {
		return err
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}

package rest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/hub/store"
)

// delete asks the agent to remove the resource; with forceDelete=true only the
// record goes, at once.
func (h child[P]) delete(c *call) error {
	cluster, err := c.loadCluster()
	if err != nil {
		return err
	}
	force, err := forceDelete(c.r)
	if err != nil {
		return err
	}
	return retry(func() error {
		was, err := load[P](c.ctx(), h.server.store, c.id.Key())
		switch {
		case err != nil:
			return err
		case !was.exists():
			return c.empty(http.StatusNoContent)
		case force:
			// What was read and no other, so that If-Match holds, and its own secrets
			// only: somebody may make it again meanwhile.
			if err := h.server.store.Delete(c.ctx(), c.id.Key(), was.record.Revision); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if was.ProtectedVersion != "" {
				if err := h.server.vault.Forget(c.ctx(), c.id.Key(), was.ProtectedVersion); err != nil {
					return err
				}
			}
			return c.empty(http.StatusOK)
		}
		return h.startDelete(c, cluster, was)
	})
}

func (h child[P]) startDelete(c *call, cluster clusterEntry, was entry[P]) error {
	progress, err := h.progress(was)
	if err != nil {
		return err
	}
	if state, _ := progress.State(c.now); was.Deleting && state != resource.Failed {
		c.poll(was.ID, was.OperationID)
		return c.empty(http.StatusAccepted)
	}
	if err := h.release(c, cluster, was.Name); err != nil {
		return err
	}
	d := was.Desired
	if d.OperationID, err = c.begin(d.ID, resource.VerbDelete, was.record.Generation+1); err != nil {
		return err
	}
	d.Deleting, d.UpdatedAt, d.CorrelationID, d.SystemData, d.Changed = true, c.now, c.correlation(), c.modified(d.SystemData), nil
	marked, err := save(c.ctx(), h.server.store, was, d)
	if err != nil {
		return err
	}
	// Whoever made meanwhile what needs this looks for the mark after that: either
	// he has found it, or this finds what he made.
	if err := h.release(c, cluster, was.Name); err != nil {
		return h.keep(c, marked, err)
	}
	c.poll(d.ID, d.OperationID)
	return c.empty(http.StatusAccepted)
}

// keep takes the mark of a deletion back that cannot be, for a reason that was
// found too late; its operation, which nobody was told of, goes.
func (h child[P]) keep(c *call, marked entry[P], why error) error {
	d := marked.Desired
	var err error
	if d.OperationID, err = c.begin(d.ID, resource.VerbUpdate, marked.record.Generation+1); err != nil {
		return err
	}
	d.Deleting, d.UpdatedAt, d.Changed = false, c.now, nil
	if _, err := save(c.ctx(), h.server.store, marked, d); err != nil && !lost(err) {
		return err
	}
	err = h.server.store.Delete(c.ctx(), arm.Fold(d.ID+"/operations/"+marked.OperationID), store.AnyRevision)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return why
}

// confirm looks, after a record was made in a cluster, whether the cluster is
// still the one that the request began with, and takes the record back when it
// is being or was deleted: either the deletion, which looks below the cluster
// after it was marked, finds the record, or this finds the mark.
func (c *call) confirm(parent clusterEntry, made store.Record) error {
	now, err := load[resource.ClusterProperties](c.ctx(), c.server.store, parent.record.Key)
	if err != nil {
		return err
	}
	if now.exists() && !now.Deleting && now.SystemData.CreatedAt.Equal(parent.SystemData.CreatedAt) {
		return nil
	}
	if err := c.takeBack(made); err != nil {
		return err
	}
	id, err := arm.ParseID(parent.ID)
	if err != nil {
		return err
	}
	return notFound(id)
}

// takeBack removes a record that this call has made, unless it was changed.
func (c *call) takeBack(made store.Record) error {
	err := c.server.store.Delete(c.ctx(), made.Key, made.Revision)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return c.server.vault.ForgetUntil(c.ctx(), made.Key, "", made.Revision)
}

// dissolve removes everything below a record that was marked as being deleted,
// which nobody changes any more, and the record at last. Since nothing new is let in below the mark, what a look
// finds was there before, or is taken back by whoever made it (see confirm); so
// it looks until there is nothing left. It can be cut off at any point and begun
// again, also by several replicas at once: each removes only what is as it was
// seen while the mark was there.
func (s *Server) dissolve(ctx context.Context, root store.Record) error {
	for {
		below, err := s.look(ctx, root.Key)
		if err != nil {
			return err
		}
		now, err := s.store.Get(ctx, root.Key)
		if errors.Is(err, store.ErrNotFound) || err == nil && now.DesiredRevision != root.DesiredRevision {
			return nil // another has ended it
		}
		if err != nil {
			return err
		}
		if len(below) == 0 {
			if err := s.store.Delete(ctx, root.Key, now.Revision); !lost(err) {
				return err
			}
			continue
		}
		if err := s.drop(ctx, below); err != nil {
			return err
		}
	}
}

// seen is a record as it was when it was looked at.
type seen struct {
	key, protectedVersion string
	revision              int64
}

// look lists what is below a key.
func (s *Server) look(ctx context.Context, key string) ([]seen, error) {
	var below []seen
	_, err := store.Each(ctx, s.store, key+"/", func(r store.Record) error {
		var d struct{ ProtectedVersion string }
		if err := json.Unmarshal(r.Desired, &d); err != nil {
			s.log.Error("damaged record found", "key", r.Key) // it goes all the same
		}
		below = append(below, seen{r.Key, d.ProtectedVersion, r.Revision})
		return nil
	})
	return below, err
}

// drop removes records that are still as they were seen, with what the vault
// keeps of them. What lies below a key under which, later than the look, there is
// no record has no parent: a hub that died between making it and looking for its
// parent left it behind. Whoever makes the parent anew drops it first.
func (s *Server) drop(ctx context.Context, all []seen) error {
	for _, r := range all {
		err := s.store.Delete(ctx, r.key, r.revision)
		if err == nil && !isOperation(r.key) {
			err = s.vault.ForgetUntil(ctx, r.key, r.protectedVersion, r.revision)
		}
		if err != nil && !lost(err) {
			return err
		}
	}
	return nil
}

// lost reports whether a write lost a race.
func lost(err error) bool {
	return errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound)
}

// stands asks whether what this call has made can be beside what others have made
// at the same moment, and takes it back when not. Of two, both may be.
func (c *call) stands(still func(*call, clusterEntry, string) error, cluster clusterEntry, made store.Record, name string) error {
	if still == nil {
		return nil
	}
	err := still(c, cluster, name)
	if err == nil {
		return nil
	}
	if taken := c.takeBack(made); taken != nil {
		return taken
	}
	return err
}

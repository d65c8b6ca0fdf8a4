package rest

import (
	"errors"
	"net/http"
	"time"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/hub/store"
)

// reconcile asks the cluster to look at the source of a configuration at once.
// Its operation ends when every object of the configuration has done so.
func (s *Server) reconcile(c *call) error {
	cluster, err := c.loadCluster()
	if err != nil {
		return err
	}
	h := s.configurations()
	return retry(func() error {
		was, err := load[fluxProperties](c.ctx(), s.store, c.id.Key())
		switch {
		case err != nil:
			return err
		case !was.exists():
			return notFound(c.id)
		case was.Deleting:
			return arm.Errorf(arm.CodeResourceBeingDeleted, "'%s' is being deleted and is not reconciled any more.", was.Name)
		case was.Properties.Suspend:
			return arm.Errorf(arm.CodeConflict, "'%s' is suspended: set suspend to false, which reconciles it too.", was.Name)
		}
		d := was.Desired
		if d.OperationID, err = c.begin(d.ID, resource.VerbReconcile, was.record.Generation+1); err != nil {
			return err
		}
		d.ReconcileRequestedAt = c.now.Format(time.RFC3339Nano)
		d.UpdatedAt, d.CorrelationID = c.now, c.correlation()
		now, err := save(c.ctx(), s.store, was, d)
		if err != nil {
			return err
		}
		return h.answer(c, cluster, now, http.StatusAccepted)
	})
}

// reconciled reports whether the newest request to reconcile was handled by all
// objects of the configuration, and until when that may take.
func reconciled(e entry[fluxProperties]) (done bool, until time.Time, err error) {
	var o resource.FluxConfigurationObserved
	if err := observed(e.record, &o); err != nil {
		return false, time.Time{}, err
	}
	return o.LastHandledReconcileAt != "" && o.LastHandledReconcileAt == e.ReconcileRequestedAt, e.UpdatedAt.Add(defaultWait), nil
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
	return c.server.vault.ForgetAll(c.ctx(), made.Key)
}

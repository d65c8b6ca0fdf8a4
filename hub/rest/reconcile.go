package rest

import (
	"net/http"
	"time"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
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
		progress, err := h.progress(was)
		if err != nil {
			return err
		}
		if state, why := progress.State(c.now); state == resource.Failed && why.Code == resource.CodeAgentTimeout {
			return arm.Errorf(arm.CodeConflict, "The last change of '%s' reached no agent in time and is not handed out any more: apply it again, which reconciles it too.", was.Name)
		}
		d := was.Desired
		if d.OperationID, err = c.begin(d.ID, resource.VerbReconcile, was.record.Generation+1); err != nil {
			return err
		}
		if d.Changed == nil {
			change := d.LastChange(was.record.Generation)
			d.Changed = &change
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

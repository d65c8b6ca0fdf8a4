package rest

import (
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/hub/store"
)

// operationLife is how long an operation can be asked for.
const operationLife = 7 * 24 * time.Hour

// begin records an operation that makes generation of a resource, and returns
// its id. Only what it was asked is stored: how it went is derived.
func (c *call) begin(resourceID, verb string, generation int64) (string, error) {
	name := c.server.newID()
	id := resourceID + "/operations/" + name
	value, err := json.Marshal(resource.Operation{ID: id, Name: name, ResourceID: resourceID, Generation: generation,
		Verb: verb, StartTime: c.now})
	if err != nil {
		return "", err
	}
	_, err = c.server.store.Put(c.ctx(), store.Put{Key: arm.Fold(id), Part: store.Desired, Value: value, TTL: operationLife})
	return name, err
}

// poll tells the client where the operation is and to come back in a second.
// The URL names this request's own host: some clients refuse any other.
func (c *call) poll(resourceID, operation string) {
	h := c.w.Header()
	h.Set(arm.HeaderAsyncOperation, c.base()+resourceID+"/operations/"+operation+"?api-version="+c.version)
	h.Set(arm.HeaderRetryAfter, "1")
}

// operation answers the state of an operation, derived from its record and from
// the resource's.
func (h child[P]) operation(c *call) error {
	r, err := h.server.store.Get(c.ctx(), c.id.Key())
	if errors.Is(err, store.ErrNotFound) {
		return arm.Errorf(arm.CodeOperationNotFound, "The operation '%s' was not found: operations are kept for %.0f days.",
			c.id.Name(), operationLife.Hours()/24)
	}
	if err != nil {
		return err
	}
	var o resource.Operation
	if err := json.Unmarshal(r.Desired, &o); err != nil {
		return err
	}
	e, err := load[P](c.ctx(), h.server.store, c.id.Parent().Key())
	if err != nil {
		return err
	}
	doc, err := h.status(o, e, c.now)
	if err != nil {
		return err
	}
	if !doc.Done() {
		c.w.Header().Set(arm.HeaderRetryAfter, "1")
	}
	return c.reply(http.StatusOK, doc)
}

// status derives the document of an operation.
func (h child[P]) status(o resource.Operation, e entry[P], now time.Time) (arm.Operation, error) {
	start := o.StartTime
	doc := arm.Operation{ID: o.ID, Name: o.Name, StartTime: &start, Properties: map[string]string{}}
	if gone := !e.exists() || e.SystemData.CreatedAt.After(o.StartTime); gone {
		doc.Status = arm.StatusSucceeded
		if o.Verb != resource.VerbDelete {
			doc.Status = arm.StatusCanceled
			doc.Error = arm.Errorf(arm.CodeOperationFailed, "The resource was deleted before the operation ended.")
		}
		return doc, nil
	}
	if o.Generation > e.record.Generation {
		// The operation is recorded before the resource: this one's request went
		// no further, and nobody was told of it.
		doc.Status = arm.StatusCanceled
		doc.Error = arm.Errorf(arm.CodeOperationFailed, "The request that began the operation failed before anything was changed.")
		return doc, nil
	}
	p, err := h.progress(e)
	if err != nil {
		return doc, err
	}
	p.Changed = nil // this is about one generation, not about the resource
	if o.Generation != p.Generation {
		p.Generation, p.UpdatedAt, p.Deleting = o.Generation, o.StartTime, o.Verb == resource.VerbDelete
		// A request to reconcile that came later does not end the wait of a change.
		p.Wait = p.Wait && o.Generation == e.LastChange(e.record.Generation).Generation
		if p.AcceptedGeneration > o.Generation {
			p.Error = nil // it speaks of a later change
		}
	} else if o.Verb == resource.VerbReconcile {
		p.Wait = true
		if p.Settled, p.WaitUntil, err = h.reconciled(e); err != nil {
			return doc, err
		}
	}
	state, failure := p.State(now)
	if failure != nil && o.Verb == resource.VerbReconcile && failure.Code == resource.CodeReconciliationTimeout {
		failure = &resource.ErrorDetail{Code: failure.Code, Message: "the cluster took the request, but not every object of the configuration has handled it in time; " +
			"see statuses for those that wait or fail"}
	}
	if failure != nil && o.Verb == resource.VerbReconcile && failure.Code == resource.CodeAgentTimeout {
		failure = &resource.ErrorDetail{Code: failure.Code, Message: "the agent of the cluster did not take the request within 48 hours; nothing was changed: " +
			"check that the agent is connected and ask again"}
	}
	switch state {
	case resource.Deleting:
		doc.Status = arm.StatusInProgress
	default:
		doc.Status = state
	}
	if failure != nil {
		doc.Error = detail(*failure)
	}
	if doc.Done() && !p.Wait {
		doc.EndTime, err = ended(o, e.record, failure)
	}
	return doc, err
}

// ended is when an operation ended, nil where nobody noted it.
func ended(o resource.Operation, r store.Record, failure *resource.ErrorDetail) (*time.Time, error) {
	if failure != nil && failure.Code == resource.CodeAgentTimeout {
		at := o.StartTime.Add(resource.AgentPatience)
		return &at, nil
	}
	var seen struct {
		AcceptedGeneration int64
		AcceptedAt         time.Time
	}
	if err := observed(r, &seen); err != nil || seen.AcceptedGeneration != o.Generation || seen.AcceptedAt.Before(o.StartTime) {
		return nil, err
	}
	return &seen.AcceptedAt, nil
}

// listRunning lists the operations of a cluster that have not ended, of those
// resources that the caller may see.
func (s *Server) listRunning(c *call) error {
	cluster, err := c.loadCluster()
	if err != nil {
		return err
	}
	fluxes, extensions := s.configurations(), s.extensions()
	page := arm.Page[arm.Operation]{Value: []arm.Operation{}}
	_, err = store.Each(c.ctx(), s.store, cluster.record.Key+"/providers/", func(r store.Record) error {
		if !isOperation(r.Key) {
			return nil
		}
		resourceKey := r.Key[:strings.LastIndex(r.Key, "/operations/")]
		if !c.visible(typeOfKey(resourceKey), resourceKey) {
			return nil
		}
		var o resource.Operation
		if err := json.Unmarshal(r.Desired, &o); err != nil {
			return err
		}
		var doc arm.Operation
		var err error
		if strings.HasPrefix(r.Key, fluxes.prefix(cluster.record.Key)) {
			doc, err = statusAt(c, fluxes, o, resourceKey)
		} else {
			doc, err = statusAt(c, extensions, o, resourceKey)
		}
		if err == nil && !doc.Done() {
			page.Value = append(page.Value, doc)
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, page)
}

// statusAt derives an operation's document from the resource under key.
func statusAt[P any](c *call, h child[P], o resource.Operation, key string) (arm.Operation, error) {
	e, err := load[P](c.ctx(), c.server.store, key)
	if err != nil {
		return arm.Operation{}, err
	}
	return h.status(o, e, c.now)
}

func detail(d resource.ErrorDetail) *arm.Error {
	e := &arm.Error{Code: d.Code, Message: d.Message, Target: d.Target}
	for _, inner := range d.Details {
		e.Details = append(e.Details, *detail(inner))
	}
	return e
}

func terminal(state string) bool {
	return state == resource.Succeeded || state == resource.Failed || state == resource.Canceled
}

func split(typ string) (provider, kind string) {
	provider, kind, _ = strings.Cut(typ, "/")
	return provider, kind
}

// recipientOf is the key that a cluster's secrets are sealed to; nil while it
// has none.
func recipientOf(cluster clusterEntry) (*rsa.PublicKey, error) {
	keys, err := agentKeys(cluster)
	return keys.Public, err
}

// forceDelete reads the query parameter of that name, in any casing.
func forceDelete(r *http.Request) (bool, error) {
	for key, values := range r.URL.Query() {
		if !strings.EqualFold(key, "forceDelete") || len(values) == 0 {
			continue
		}
		switch strings.ToLower(values[0]) {
		case "true":
			return true, nil
		case "false", "":
			return false, nil
		}
		return false, arm.Errorf(arm.CodeInvalidParameter, "forceDelete is '%s'; it must be true or false.", clip(values[0]))
	}
	return false, nil
}

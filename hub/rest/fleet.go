package rest

import (
	"errors"
	"strings"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/hub/store"
)

// recordsPerItem is about how many records there are for each configuration of a
// fleet: its cluster, the extension, itself, and operations of the two.
const recordsPerItem = 6

// everywhere lists the resources of this type in all clusters of a subscription or
// a group, in the order of their clusters. Azure has no such list; a fleet needs it.
func (h child[P]) everywhere(c *call) error {
	if group := c.id.ResourceGroup(); group != "" {
		switch _, err := h.server.store.Get(c.ctx(), c.id.Key()); {
		case errors.Is(err, store.ErrNotFound):
			return groupNotFound(group)
		case err != nil:
			return err
		}
	}
	around := surroundings{call: c, known: map[string]clusterEntry{}}
	return c.page(listing{
		prefix: c.id.Key() + "/",
		among:  recordsPerItem,
		match: func(key string) bool {
			typ := typeOfKey(key)
			return isCluster(typ) || typ == arm.Fold(h.typ) && c.visible(h.typ, key)
		},
		render: func(r store.Record) (map[string]any, error) {
			if isCluster(typeOfKey(r.Key)) {
				return nil, around.note(r)
			}
			cluster, err := around.of(r.Key)
			if err != nil || !cluster.exists() {
				return nil, err // it goes with its cluster
			}
			e, err := read[P](r)
			if err != nil {
				return nil, err
			}
			return h.show(c, cluster, e)
		},
	})
}

// surroundings are the clusters that a list has come by: a cluster's record is
// before those of what is in it, though not always right before them.
type surroundings struct {
	call  *call
	known map[string]clusterEntry
}

func (s surroundings) note(r store.Record) error {
	e, err := read[resource.ClusterProperties](r)
	if err == nil {
		s.known[r.Key] = e
	}
	return err
}

// of is the cluster of a resource by its key; it does not exist when it has gone.
func (s surroundings) of(key string) (clusterEntry, error) {
	cluster := key[:strings.LastIndex(key, "/providers/")]
	if e, ok := s.known[cluster]; ok {
		return e, nil
	}
	e, err := load[resource.ClusterProperties](s.call.ctx(), s.call.server.store, cluster)
	if err == nil {
		s.known[cluster] = e
	}
	return e, err
}

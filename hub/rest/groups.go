package rest

import (
	"net/http"
	"reflect"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/api/resource/validate"
	"headwater.dev/hub/store"
)

type groupEntry = entry[resource.ResourceGroupProperties]

// group is a resource group as clients see it.
func group(e groupEntry) map[string]any {
	return map[string]any{"id": e.ID, "name": e.Name, "type": e.Type, "location": e.Location, "tags": tagsOf(e.Tags),
		"properties": map[string]any{"provisioningState": resource.Succeeded}}
}

func tagsOf(tags map[string]string) map[string]string {
	if tags == nil {
		return map[string]string{}
	}
	return tags
}

func (s *Server) listGroups(c *call) error {
	prefix := c.id.Key() + "/resourcegroups/"
	return c.page(listing{
		prefix: prefix,
		match: func(key string) bool {
			return below(prefix, key) && c.visible(resource.TypeResourceGroup, key)
		},
		render: func(r store.Record) (map[string]any, error) {
			e, err := read[resource.ResourceGroupProperties](r)
			return group(e), err
		},
	})
}

// loadGroup reads the group of the call's path; a missing one is a 404.
func (c *call) loadGroup() (groupEntry, error) {
	id := c.id
	for id.Parent().ResourceGroup() != "" {
		id = id.Parent()
	}
	e, err := load[resource.ResourceGroupProperties](c.ctx(), c.server.store, id.Key())
	if err == nil && !e.exists() {
		err = groupNotFound(c.id.ResourceGroup())
	}
	return e, err
}

func (s *Server) getGroup(c *call) error {
	e, err := c.loadGroup()
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, group(e))
}

func (s *Server) headGroup(c *call) error {
	e, err := load[resource.ResourceGroupProperties](c.ctx(), s.store, c.id.Key())
	switch {
	case err != nil:
		return err
	case !e.exists():
		return c.empty(http.StatusNotFound)
	default:
		return c.empty(http.StatusNoContent)
	}
}

func (s *Server) putGroup(c *call) error {
	body, err := c.body()
	if err != nil {
		return err
	}
	var p validate.Problems
	location, _ := body["location"].(string)
	validate.Group(&p, c.id.Name())
	validate.Location(&p, location)
	tags := validate.Tags(&p, body["tags"])
	if err := p.Err(); err != nil {
		return err
	}
	return retry(func() error {
		was, err := load[resource.ResourceGroupProperties](c.ctx(), s.store, c.id.Key())
		if err != nil {
			return err
		}
		d := was.Desired
		status := http.StatusOK
		switch {
		case !was.exists():
			status = http.StatusCreated
			d = resource.Desired[resource.ResourceGroupProperties]{ID: c.id.String(), Name: c.id.Name(),
				Type: resource.TypeResourceGroup, Location: location, SystemData: c.created()}
		case arm.Fold(d.Location) != arm.Fold(location):
			return arm.Errorf(arm.CodeLocationChanged, "The resource group '%s' is in location '%s' and cannot move to '%s'.", d.Name, d.Location, location)
		case reflect.DeepEqual(tagsOf(d.Tags), tagsOf(tags)):
			return c.reply(status, group(was))
		}
		return c.saveGroup(was, d, tags, status)
	})
}

func (c *call) saveGroup(was groupEntry, d resource.Desired[resource.ResourceGroupProperties], tags map[string]string, status int) error {
	d.Tags, d.UpdatedAt, d.CorrelationID, d.SystemData = tags, c.now, c.correlation(), c.modified(d.SystemData)
	now, err := save(c.ctx(), c.server.store, was, d)
	if err != nil {
		return err
	}
	return c.reply(status, group(now))
}

func (s *Server) patchGroup(c *call) error {
	body, err := c.body()
	if err != nil {
		return err
	}
	return retry(func() error {
		was, err := c.loadGroup()
		if err != nil {
			return err
		}
		var p validate.Problems
		tags := was.Tags
		if patch, ok := body["tags"]; ok {
			tags = validate.Tags(&p, patch)
		}
		if err := p.Err(); err != nil {
			return err
		}
		return c.saveGroup(was, was.Desired, tags, http.StatusOK)
	})
}

// deleteGroup removes the group and everything in it: first what it holds, then
// the group, then what was made in between. Cut off at any point it can be
// repeated. Agents of its clusters are no longer let in; what they installed
// stays in the clusters.
func (s *Server) deleteGroup(c *call) error {
	e, err := c.loadGroup()
	if err != nil {
		return err
	}
	if err := s.deleteTree(c, e.record.Key); err != nil {
		return err
	}
	return c.empty(http.StatusOK)
}

func (s *Server) deleteTree(c *call, key string) error {
	if err := s.sweep(c.ctx(), key); err != nil {
		return err
	}
	if err := s.remove(c.ctx(), key); err != nil {
		return err
	}
	return s.sweep(c.ctx(), key)
}

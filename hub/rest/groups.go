package rest

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/api/resource/validate"
	"headwater.dev/hub/store"
)

type groupEntry = entry[resource.ResourceGroupProperties]

// group is a resource group as clients see it.
func group(e groupEntry) map[string]any {
	return map[string]any{"id": e.ID, "name": e.Name, "type": e.Type, "location": e.Location, "tags": tagsOf(e.Tags),
		"properties": map[string]any{"provisioningState": map[bool]string{true: resource.Deleting, false: resource.Succeeded}[e.Deleting]}}
}

// groupGoing refuses what would change a group that is being deleted, or add to it.
func groupGoing(name string) error {
	return arm.Errorf(arm.CodeGroupBeingDeleted, "The resource group '%s' is being deleted: wait until it is gone, then create it again.", name)
}

func tagsOf(tags map[string]string) map[string]string {
	if tags == nil {
		return map[string]string{}
	}
	return tags
}

func (s *Server) listGroups(c *call) error {
	prefix := c.id.Key() + "/resourcegroups/"
	selects, err := c.selection()
	if err != nil {
		return err
	}
	return c.page(listing{
		prefix: prefix, children: true,
		match: func(key string) bool {
			return below(prefix, key) && c.visible(resource.TypeResourceGroup, key)
		},
		render: func(r store.Record) (map[string]any, error) {
			e, err := read[resource.ResourceGroupProperties](r)
			if err != nil || !selects(e.Type, e.Name, e.Location, e.ID, e.Tags) {
				return nil, err
			}
			return group(e), nil
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
		if err == nil && !was.exists() {
			err = s.dropOrphans(c)
		}
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
		case d.Deleting:
			s.end(c.ctx(), was) // should whoever was at it have been cut off
			return groupGoing(d.Name)
		case arm.Fold(d.Location) != arm.Fold(location):
			return arm.Errorf(arm.CodeLocationChanged, "The resource group '%s' is in location '%s' and cannot move to '%s'.", d.Name, d.Location, location)
		case reflect.DeepEqual(tagsOf(d.Tags), tagsOf(tags)):
			return c.reply(status, group(was))
		}
		return c.saveGroup(was, d, tags, status)
	})
}

// dropOrphans removes what lies below a group that does not exist.
func (s *Server) dropOrphans(c *call) error {
	before, err := s.look(c.ctx(), c.id.Key())
	if err != nil || len(before) == 0 {
		return err
	}
	switch _, err := s.store.Get(c.ctx(), c.id.Key()); {
	case errors.Is(err, store.ErrNotFound):
		return s.drop(c.ctx(), before)
	default: // somebody made it meanwhile; the write finds that out
		return err
	}
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
		if was.Deleting {
			return groupGoing(was.Name)
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

// confirmGroup looks, after a cluster was made, whether its group is still the
// one that the request began with, and takes the cluster back otherwise: what
// the deletion of the group removed may not have had it yet.
func (c *call) confirmGroup(parent groupEntry, made store.Record) error {
	now, err := load[resource.ResourceGroupProperties](c.ctx(), c.server.store, parent.record.Key)
	if err != nil {
		return err
	}
	if now.exists() && !now.Deleting && now.SystemData.CreatedAt.Equal(parent.SystemData.CreatedAt) {
		return nil
	}
	if err := c.takeBack(made); err != nil {
		return err
	}
	if now.exists() && now.Deleting {
		return groupGoing(now.Name)
	}
	return groupNotFound(parent.Name)
}

// deleteGroup removes the group and everything in it: it marks the group, which
// lets nothing new in, and dissolves it. That goes on when the client does not
// wait, and any replica that is asked how far it is, or to make the group again,
// goes on with it, so that no crash leaves it half done.
// Agents of its clusters are no longer let in; what they installed stays in the
// clusters.
func (s *Server) deleteGroup(c *call) error {
	var e groupEntry
	err := retry(func() (err error) {
		if e, err = c.loadGroup(); err != nil || e.Deleting {
			return err
		}
		d := e.Desired
		d.Deleting, d.UpdatedAt, d.CorrelationID, d.SystemData = true, c.now, c.correlation(), c.modified(d.SystemData)
		e, err = save(c.ctx(), s.store, e, d)
		return err
	})
	if err != nil {
		return err
	}
	return s.endGroup(c, e)
}

// deletePatience is how long a request waits for a deletion that goes on.
const deletePatience = 2 * time.Second

// deleteLimit bounds one go at a deletion; the next goes on from there.
const deleteLimit = 10 * time.Minute

// ending is a deletion of a group that this replica is at.
type ending struct {
	done chan struct{}
	err  error
}

// end goes on with the deletion of a group, once at a time in this replica.
func (s *Server) end(ctx context.Context, e groupEntry) *ending {
	which := e.record.Key + "@" + strconv.FormatInt(e.record.DesiredRevision, 10) // a group of the same name is another
	s.endingsMu.Lock()
	defer s.endingsMu.Unlock()
	if running, ok := s.endings[which]; ok {
		return running
	}
	begun := &ending{done: make(chan struct{})}
	s.endings[which] = begun
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteLimit)
		defer cancel()
		if begun.err = s.dissolve(ctx, e.record); begun.err != nil {
			s.log.Error("deletion of a resource group was cut off; it goes on when it is asked for", "group", e.record.Key, "error", begun.err)
		}
		s.endingsMu.Lock()
		delete(s.endings, which)
		s.endingsMu.Unlock()
		close(begun.done)
	}()
	return begun
}

// endGroup goes on with the deletion of a group, and answers 200 when it ends
// soon, else 202 with the place to ask.
func (s *Server) endGroup(c *call, e groupEntry) error {
	running := s.end(c.ctx(), e)
	select {
	case <-running.done:
		if running.err != nil {
			return running.err
		}
		return c.empty(http.StatusOK)
	case <-c.ctx().Done():
		return c.ctx().Err()
	case <-time.After(s.deletePatience):
	}
	token := base64.RawURLEncoding.EncodeToString([]byte(e.Name + "\x00" + e.SystemData.CreatedAt.Format(time.RFC3339Nano)))
	h := c.w.Header()
	h.Set("Location", c.base()+"/subscriptions/"+c.id.Subscription()+"/operationresults/"+token+"?api-version="+c.version)
	h.Set(arm.HeaderRetryAfter, "1")
	return c.empty(http.StatusAccepted)
}

// groupResult answers whether the deletion of a group has ended, and goes on
// with it when not.
func (s *Server) groupResult(c *call) error {
	raw, err := base64.RawURLEncoding.DecodeString(c.r.PathValue("op"))
	name, created, ok := strings.Cut(string(raw), "\x00")
	if err != nil || !ok || arm.CheckSegment(name) != nil {
		return arm.Errorf(arm.CodeOperationNotFound, "There is no such operation.")
	}
	key := c.id.Key() + "/resourcegroups/" + arm.Fold(name)
	e, err := load[resource.ResourceGroupProperties](c.ctx(), s.store, key)
	if err != nil {
		return err
	}
	if !e.exists() || !e.Deleting || e.SystemData.CreatedAt.Format(time.RFC3339Nano) != created {
		return c.empty(http.StatusOK)
	}
	return s.endGroup(c, e)
}

package rest

import (
	"maps"
	"net/http"
	"reflect"
	"strings"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource/validate"
)

const (
	typeTags = "Microsoft.Resources/tags"
	tagsPath = "/providers/microsoft.resources/tags/default"
)

// tagRoutes are those of the tags of groups and clusters as a resource of their
// own, which can be changed one by one.
func (s *Server) tagRoutes() []route {
	var out []route
	for _, at := range []struct {
		path   string
		depth  int
		handle func(*call) error
	}{
		{grouped, ofGroup, tagsOfEntry((*call).loadGroup, groupGoing)},
		{grouped + kube + "/{cluster}", ofCluster, tagsOfEntry((*call).loadCluster, clusterGoing)},
		{grouped + aks + "/{cluster}", ofCluster, tagsOfEntry((*call).loadCluster, clusterGoing)},
	} {
		out = append(out, route{"GET " + at.path + tagsPath, typeTags, "read", at.depth, at.handle})
		for _, method := range []string{"PUT", "PATCH", "DELETE"} { // to take tags away is no deletion that a lock forbids
			out = append(out, route{method + " " + at.path + tagsPath, typeTags, "write", at.depth, at.handle})
		}
	}
	return out
}

// tagsOfEntry serves the tags of what load reads; going is why nothing changes
// any more.
func tagsOfEntry[P any](load func(*call) (entry[P], error), going func(name string) error) func(*call) error {
	return func(c *call) error {
		var change func(map[string]string) (map[string]string, error)
		var err error
		if c.r.Method != http.MethodGet {
			if change, err = c.tagChange(); err != nil {
				return err
			}
		}
		return retry(func() error {
			e, err := load(c)
			if err != nil || change == nil {
				return c.answerTags(e.ID, e.Tags, err)
			}
			if e.Deleting {
				return going(e.Name)
			}
			tags, err := change(tagsOf(e.Tags))
			if err != nil || reflect.DeepEqual(tags, tagsOf(e.Tags)) {
				return c.answerTags(e.ID, tags, err)
			}
			d := e.Desired
			d.Tags, d.UpdatedAt, d.CorrelationID, d.SystemData = tags, c.now, c.correlation(), c.modified(d.SystemData)
			_, err = save(c.ctx(), c.server.store, e, d)
			return c.answerTags(d.ID, tags, err)
		})
	}
}

func (c *call) answerTags(of string, tags map[string]string, err error) error {
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, map[string]any{"id": of + "/providers/Microsoft.Resources/tags/default", "name": "default", "type": typeTags,
		"properties": map[string]any{"tags": tagsOf(tags)}})
}

// tagChange reads what a request makes of the tags there are.
func (c *call) tagChange() (func(map[string]string) (map[string]string, error), error) {
	if c.r.Method == http.MethodDelete {
		return func(map[string]string) (map[string]string, error) { return map[string]string{}, nil }, nil
	}
	body, err := c.body()
	if err != nil {
		return nil, err
	}
	props, err := properties(body)
	if err != nil {
		return nil, err
	}
	var p validate.Problems
	sent := tagsOf(validate.Tags(&p, props["tags"]))
	operation, _ := body["operation"].(string)
	if c.r.Method == http.MethodPut {
		operation = "Replace"
	}
	apply, ok := map[string]func(there, sent map[string]string){
		"merge": mergeTags, "replace": replaceTags, "delete": deleteTags,
	}[strings.ToLower(operation)]
	if !ok {
		p.Add("operation", "is %q; it must be Merge, Replace or Delete", clip(operation))
	}
	return func(there map[string]string) (map[string]string, error) {
		out := maps.Clone(there)
		apply(out, sent)
		all := make(map[string]any, len(out))
		for name, value := range out {
			all[name] = value
		}
		var q validate.Problems
		validate.Tags(&q, all)
		return out, q.Err()
	}, p.Err()
}

// like is the name of a tag as it is there: names compare without regard to case.
func like(there map[string]string, name string) string {
	for known := range there {
		if arm.Fold(known) == arm.Fold(name) {
			return known
		}
	}
	return name
}

func mergeTags(there, sent map[string]string) {
	for name, value := range sent {
		there[like(there, name)] = value
	}
}

func replaceTags(there, sent map[string]string) {
	clear(there)
	maps.Copy(there, sent)
}

// deleteTags takes away the tags that have the values that are sent; an empty
// value stands for any.
func deleteTags(there, sent map[string]string) {
	for name, value := range sent {
		if known := like(there, name); value == "" || there[known] == value {
			delete(there, known)
		}
	}
}

package rest

import (
	"net/http"
	"reflect"
	"slices"
	"strings"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/api/resource/validate"
	"headwater.dev/hub/store"
)

// The first generation of source configurations (Flux v1) has ended: nothing
// carries them out. They can be listed, shown and deleted, and, where the hub
// admits it, imported, so that their users can turn them into fluxConfigurations.

type sourceV1 = entry[resource.SourceControlProperties]

func (s *Server) prefixV1(cluster clusterEntry) string {
	return cluster.record.Key + "/providers/" + arm.Fold(typeSourceV1) + "/"
}

// showV1 is a source configuration as clients see it.
func showV1(e sourceV1) (map[string]any, error) {
	props, err := toMap(e.Properties)
	if err != nil {
		return nil, err
	}
	props["configurationProtectedSettings"] = map[string]string{}
	props["repositoryPublicKey"] = ""
	props["provisioningState"] = resource.Succeeded
	props["complianceStatus"] = map[string]any{"complianceState": "Pending", "messageLevel": "Warning", "lastConfigApplied": nil,
		"message": "Flux v1 has ended and nothing carries this configuration out: turn it into a fluxConfiguration with `headwater migrate`."}
	return map[string]any{"id": e.ID, "name": e.Name, "type": e.Type, "systemData": e.SystemData, "properties": props}, nil
}

func (s *Server) listSourceV1(c *call) error {
	cluster, err := c.loadCluster()
	if err != nil {
		return err
	}
	prefix := s.prefixV1(cluster)
	return c.page(listing{
		prefix: prefix,
		match:  func(key string) bool { return below(prefix, key) && c.visible(typeSourceV1, key) },
		render: func(r store.Record) (map[string]any, error) {
			e, err := read[resource.SourceControlProperties](r)
			if err != nil {
				return nil, err
			}
			return showV1(e)
		},
	})
}

func (c *call) answerV1(e sourceV1, status int) error {
	m, err := showV1(e)
	if err != nil {
		return err
	}
	return c.reply(status, m)
}

func (s *Server) getSourceV1(c *call) error {
	if _, err := c.loadCluster(); err != nil {
		return err
	}
	e, err := load[resource.SourceControlProperties](c.ctx(), s.store, c.id.Key())
	if err == nil && !e.exists() {
		err = notFound(c.id)
	}
	if err != nil {
		return err
	}
	return c.answerV1(e, http.StatusOK)
}

// putSourceV1 imports a configuration that exists elsewhere, where the hub
// admits that. Of protected settings the names are kept and the values are not:
// nothing would ever use them.
func (s *Server) putSourceV1(c *call) error {
	cluster, err := c.loadCluster()
	if err != nil {
		return err
	}
	if !s.importSources {
		return arm.Errorf(arm.CodeNotSupported, "sourceControlConfigurations (Flux v1) can no longer be created. Create a fluxConfiguration instead: "+
			"PUT %s/providers/Microsoft.KubernetesConfiguration/fluxConfigurations/%s, or `headwater k8s-configuration flux create`. To import "+
			"existing ones and migrate them, start the hub with --import-source-control-configurations.", cluster.ID, c.id.Name())
	}
	if cluster.Deleting {
		return clusterGoing(cluster.Name)
	}
	body, err := c.body()
	if err != nil {
		return err
	}
	sent, err := properties(body)
	if err != nil {
		return err
	}
	var p validate.Problems
	props := validate.SourceControl(&p, c.id.Name(), sent)
	if err := p.Err(); err != nil {
		return err
	}
	if err := s.noFlux(c, cluster, c.id.Name()); err != nil {
		return err
	}
	return retry(func() error { return s.saveV1(c, cluster, props) })
}

func (s *Server) saveV1(c *call, cluster clusterEntry, props resource.SourceControlProperties) error {
	was, err := load[resource.SourceControlProperties](c.ctx(), s.store, c.id.Key())
	if err != nil {
		return err
	}
	if was.exists() && reflect.DeepEqual(was.Properties, props) {
		return c.answerV1(was, http.StatusOK)
	}
	d, status := was.Desired, http.StatusOK
	if !was.exists() {
		parent, err := arm.ParseID(cluster.ID)
		if err != nil {
			return err
		}
		provider, kind := split(typeSourceV1)
		d.ID, d.Name, d.Type = parent.Child(provider, kind, c.id.Name()).String(), c.id.Name(), typeSourceV1
		d.SystemData, status = c.created(), http.StatusCreated
	}
	d.Properties, d.UpdatedAt, d.CorrelationID, d.SystemData = props, c.now, c.correlation(), c.modified(d.SystemData)
	now, err := save(c.ctx(), s.store, was, d)
	if err != nil {
		return err
	}
	if !was.exists() {
		if err := c.confirm(cluster, now.record); err != nil {
			return err
		}
		if err := c.stands(s.noFlux, cluster, now.record, d.Name); err != nil {
			return err
		}
	}
	return c.answerV1(now, status)
}

func (s *Server) deleteSourceV1(c *call) error {
	if _, err := c.loadCluster(); err != nil {
		return err
	}
	return retry(func() error {
		e, err := load[resource.SourceControlProperties](c.ctx(), s.store, c.id.Key())
		switch {
		case err != nil:
			return err
		case !e.exists():
			return c.empty(http.StatusNoContent)
		}
		if err := s.store.Delete(c.ctx(), c.id.Key(), e.record.Revision); err != nil {
			return err
		}
		return c.empty(http.StatusOK)
	})
}

// noFlux refuses a configuration of Flux v1 in a cluster that has the extension.
func (s *Server) noFlux(c *call, cluster clusterEntry, _ string) error {
	name, err := s.fluxOf(c, cluster)
	if err == nil && name != "" {
		err = arm.Errorf(arm.CodeConflict, "The cluster has the extension '%s' of type %s, and Flux v1 cannot be beside it.", name, resource.ExtensionFlux)
	}
	return err
}

// noSourcesV1 refuses the extension while configurations of Flux v1 exist.
func (s *Server) noSourcesV1(c *call, cluster clusterEntry) error {
	prefix := s.prefixV1(cluster)
	var names []string
	_, err := store.Each(c.ctx(), s.store, prefix, func(r store.Record) error {
		e, err := read[resource.SourceControlProperties](r)
		names = append(names, e.Name)
		return err
	})
	if err != nil || len(names) == 0 {
		return err
	}
	slices.Sort(names)
	return arm.Errorf(arm.CodeConflict, "The cluster still has sourceControlConfigurations (Flux v1): %s. Turn them into fluxConfigurations with "+
		"`headwater migrate`, or delete them, first.", strings.Join(names, ", "))
}

// fluxOf is the name of the cluster's extension microsoft.flux, "" when it has
// none. One that is being deleted is an error.
func (s *Server) fluxOf(c *call, cluster clusterEntry) (string, error) {
	prefix, name := s.extensions().prefix(cluster.record.Key), ""
	_, err := store.Each(c.ctx(), s.store, prefix, func(r store.Record) error {
		if !below(prefix, r.Key) {
			return nil
		}
		e, err := read[extensionProperties](r)
		if err != nil || !strings.EqualFold(e.Properties.ExtensionType, resource.ExtensionFlux) {
			return err
		}
		name = e.Name
		if e.Deleting {
			return arm.Errorf(arm.CodeConflict, "The extension '%s' of the cluster is being deleted: wait until it is gone, then try again.", e.Name)
		}
		return nil
	})
	return name, err
}

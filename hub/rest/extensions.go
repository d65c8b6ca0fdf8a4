package rest

import (
	"strings"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/api/resource/validate"
	"headwater.dev/hub/store"
)

type extensionProperties = resource.ExtensionProperties

func (s *Server) extensions() child[extensionProperties] {
	return child[extensionProperties]{
		server: s, typ: resource.TypeExtension,
		secrets: validate.TakeSettings, merge: validate.MergeExtension,
		read: func(p *validate.Problems, name string, properties map[string]any, _ []string) extensionProperties {
			return validate.Extension(p, name, properties)
		},
		fixed: func(p *validate.Problems, was, is extensionProperties) {
			if !strings.EqualFold(was.ExtensionType, is.ExtensionType) {
				p.Add("properties.extensionType", "is %q and cannot change: delete the extension and create it again", was.ExtensionType)
			}
		},
		check:    s.supported,
		progress: extensionProgress, render: renderExtension,
		admit: s.onlyOne, still: s.onlyOne, release: s.noConfigurations,
	}
}

func extensionProgress(e entry[extensionProperties]) (resource.Progress, error) {
	var o resource.ExtensionObserved
	if err := observed(e.record, &o); err != nil {
		return resource.Progress{}, err
	}
	return resource.Progress{Generation: e.record.Generation, UpdatedAt: e.UpdatedAt, Deleting: e.Deleting,
		AcceptedGeneration: o.AcceptedGeneration, Error: o.Error}, nil
}

// renderExtension adds what the agent reported and the nulls that clients of
// Azure know.
func renderExtension(c *call, v view[extensionProperties]) error {
	var o resource.ExtensionObserved
	if err := observed(v.record, &o); err != nil {
		return err
	}
	if o.Statuses == nil {
		o.Statuses = []resource.ExtensionStatus{}
	}
	if ok, oldest := c.server.releases.Supported(o.CurrentVersion); !ok {
		o.Statuses = append(o.Statuses, resource.ExtensionStatus{Code: "VersionNotSupported", DisplayStatus: "Version is no longer supported", Level: "Warning",
			Message: "version " + o.CurrentVersion + " is older than the newest minor version and the two before it: upgrade the cluster's agent to " + oldest + " or later"})
	}
	props := v.properties
	props["statuses"] = o.Statuses
	props["currentVersion"], props["installedVersion"] = nil, nil
	if o.CurrentVersion != "" {
		props["currentVersion"], props["installedVersion"] = o.CurrentVersion, o.CurrentVersion
	}
	props["isSystemExtension"] = false
	props["errorInfo"], props["packageUri"], props["aksAssignedIdentity"], props["customLocationSettings"] = nil, nil, nil, nil
	if v.err != nil {
		props["errorInfo"] = v.err
	}
	props["installState"] = map[string]string{resource.Succeeded: "Installed", resource.Failed: "Failed"}[v.state]
	if props["installState"] == "" {
		props["installState"] = "Pending"
	}
	props["extensionState"] = ""
	if v.state == resource.Succeeded {
		props["extensionState"] = "Ready"
	}
	return nil
}

// room refuses one more resource of a cluster than its agent is told of, and more
// bytes, when the one of a key is to have so many.
func (c *call) room(cluster clusterEntry, key string, bytes int) error {
	n := 0
	for _, prefix := range []string{c.server.extensions().prefix(cluster.record.Key), c.server.configurations().prefix(cluster.record.Key)} {
		_, err := store.Each(c.ctx(), c.server.store, prefix, func(r store.Record) error {
			if below(prefix, r.Key) && r.Key != key {
				n++
				bytes += len(r.Desired)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if n >= resource.MaxItems {
		return arm.Errorf(arm.CodeLimitReached, "The cluster '%s' has %d extensions and configurations, the most that it can have: delete those that are no longer needed, "+
			"or make several kustomizations of one configuration.", cluster.Name, n)
	}
	if bytes > resource.MaxItemBytes {
		return arm.Errorf(arm.CodeLimitReached, "The extensions and configurations of the cluster '%s' would have %d bytes together, at most %d are possible: "+
			"make them smaller, or delete those that are no longer needed.", cluster.Name, bytes, resource.MaxItemBytes)
	}
	return nil
}

// onlyOne refuses a second instance of an extension that is installed once.
func (s *Server) onlyOne(c *call, cluster clusterEntry, name string) error {
	if err := s.noSourcesV1(c, cluster); err != nil {
		return err
	}
	prefix := s.extensions().prefix(cluster.record.Key)
	_, err := store.Each(c.ctx(), s.store, prefix, func(r store.Record) error {
		if !below(prefix, r.Key) {
			return nil
		}
		e, err := read[extensionProperties](r)
		if err != nil {
			return err
		}
		if strings.EqualFold(e.Properties.ExtensionType, resource.ExtensionFlux) && !strings.EqualFold(e.Name, name) {
			return arm.Errorf(arm.CodeConflict, "The cluster has the extension '%s' of type %s already, and it can have only one: change that one instead.",
				e.Name, resource.ExtensionFlux)
		}
		return nil
	})
	return err
}

// noConfigurations refuses to take the extension from under configurations that
// need it to be removed properly.
func (s *Server) noConfigurations(c *call, cluster clusterEntry, name string) error {
	prefix := s.configurations().prefix(cluster.record.Key)
	var names []string
	_, err := store.Each(c.ctx(), s.store, prefix, func(r store.Record) error {
		if !below(prefix, r.Key) {
			return nil
		}
		e, err := read[fluxProperties](r)
		names = append(names, e.Name)
		return err
	})
	if err != nil || len(names) == 0 {
		return err
	}
	return arm.Errorf(arm.CodeConflict, "The extension '%s' still carries the fluxConfigurations %s: delete them first, and wait until they are gone.",
		name, strings.Join(names, ", "))
}

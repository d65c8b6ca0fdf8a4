package rest

import (
	"time"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/api/resource/validate"
)

// defaultWait bounds waitForReconciliation without reconciliationWaitDuration.
const defaultWait = time.Hour

type fluxProperties = resource.FluxConfigurationProperties

func (s *Server) configurations() child[fluxProperties] {
	return child[fluxProperties]{
		server: s, typ: resource.TypeFluxConfiguration,
		secrets: validate.TakeSecrets, merge: validate.MergeConfiguration, read: validate.Configuration,
		fixed: func(p *validate.Problems, was, is fluxProperties) {
			if was.Scope != is.Scope {
				p.Add("properties.scope", "is %q and cannot change: delete the configuration and create it again", was.Scope)
			}
			if was.Namespace != is.Namespace {
				p.Add("properties.namespace", "is %q and cannot change: delete the configuration and create it again", was.Namespace)
			}
		},
		progress: fluxProgress, reconciled: reconciled, render: renderConfiguration,
		admit: s.installFlux, still: s.carried,
		release: func(*call, clusterEntry, string) error { return nil },
	}
}

// fluxProgress derives the progress of a configuration. With
// waitForReconciliation a change is done only when the cluster is compliant.
func fluxProgress(e entry[fluxProperties]) (resource.Progress, error) {
	var o resource.FluxConfigurationObserved
	if err := observed(e.record, &o); err != nil {
		return resource.Progress{}, err
	}
	p := resource.Progress{Generation: e.record.Generation, UpdatedAt: e.UpdatedAt, Deleting: e.Deleting,
		AcceptedGeneration: o.AcceptedGeneration, Error: o.Error, Wait: e.Properties.WaitForReconciliation, Changed: e.Changed}
	if p.Wait {
		wait := defaultWait
		if d := e.Properties.ReconciliationWaitDuration; d != nil && *d != "" {
			parsed, err := validate.Duration(*d)
			if err != nil {
				return p, err
			}
			wait = parsed
		}
		change := e.LastChange(e.record.Generation)
		p.WaitUntil = change.At.Add(wait)
		if o.AcceptedAt.After(change.At) {
			p.WaitUntil = o.AcceptedAt.Add(wait)
		}
		// What was compliant once has ended its operation, whatever comes later.
		p.Settled = o.SettledGeneration >= change.Generation
	}
	return p, nil
}

// renderConfiguration adds what the agent reported and the nulls that clients
// of Azure know.
func renderConfiguration(c *call, v view[fluxProperties]) error {
	var o resource.FluxConfigurationObserved
	if err := observed(v.record, &o); err != nil {
		return err
	}
	props := v.properties
	if o.Statuses == nil {
		o.Statuses = []resource.ObjectStatus{}
	}
	props["statuses"] = o.Statuses
	props["repositoryPublicKey"] = o.RepositoryPublicKey
	props["sourceSyncedCommitId"] = o.SourceSyncedCommitID
	props["sourceUpdatedAt"] = o.SourceUpdatedAt
	props["statusUpdatedAt"] = o.StatusUpdatedAt
	props["errorMessage"] = o.ErrorMessage
	if v.err != nil {
		props["errorMessage"] = v.err.Message
	}
	var cluster resource.ClusterObserved
	if err := observed(v.cluster.record, &cluster); err != nil {
		return err
	}
	props["complianceState"] = compliance(v.entry, o, cluster, c.now)
	if all, ok := props["kustomizations"].(map[string]any); ok {
		for name, k := range all {
			if k, ok := k.(map[string]any); ok {
				k["name"] = name
				nulls(k, "kubeConfig", "additionalConfigurations")
			}
		}
	}
	for _, body := range []string{"gitRepository", "bucket", "azureBlob", "ociRepository"} {
		if b, ok := props[body].(map[string]any); ok {
			nulls(b, "objectLevelIdentity", "additionalConfigurations")
		}
	}
	props["reconcileRequestedAt"], props["lastHandledReconcileAt"] = v.ReconcileRequestedAt, o.LastHandledReconcileAt
	hideSecrets(props)
	return nil
}

// nulls shows what is not set.
func nulls(m map[string]any, keys ...string) {
	for _, k := range keys {
		if _, ok := m[k]; !ok {
			m[k] = nil
		}
	}
}

// hideSecrets puts null where a source's body would carry a secret.
func hideSecrets(props map[string]any) {
	if blob, ok := props["azureBlob"].(map[string]any); ok {
		blob["accountKey"], blob["sasToken"] = nil, nil
		if sp, ok := blob["servicePrincipal"].(map[string]any); ok {
			sp["clientSecret"], sp["clientCertificate"], sp["clientCertificatePassword"] = nil, nil, nil
		}
	}
	if oci, ok := props["ociRepository"].(map[string]any); ok && oci["tlsConfig"] != nil {
		oci["tlsConfig"] = map[string]any{"clientCertificate": nil, "privateKey": nil, "caCertificate": nil}
	}
}

// compliance derives the compliance state: what the agent reported, unless it
// is silent or has not yet spoken of the newest change.
func compliance(e entry[fluxProperties], o resource.FluxConfigurationObserved, cluster resource.ClusterObserved, now time.Time) string {
	switch {
	case silent(cluster, now):
		return resource.Unknown
	case e.Properties.Suspend && o.AcceptedGeneration >= e.record.Generation:
		return resource.Suspended
	case o.ComplianceState == "" || o.StatusGeneration < e.record.Generation:
		return resource.Pending
	default:
		return o.ComplianceState
	}
}

// silent reports whether a cluster was not heard of for so long that what its
// agent said last need not be so any more.
func silent(cluster resource.ClusterObserved, now time.Time) bool {
	state := resource.Connectivity(cluster, now)
	return state == resource.Offline || state == resource.Expired
}

// carried refuses a configuration whose extension was deleted at the same moment.
func (s *Server) carried(c *call, cluster clusterEntry, _ string) error {
	name, err := s.fluxOf(c, cluster)
	if err == nil && name == "" {
		err = arm.Errorf(arm.CodeConflict, "The extension that carries configurations of the cluster was deleted at this moment: try again.")
	}
	return err
}

// installFlux makes the microsoft.flux extension for the first configuration of
// a cluster, because it is what carries configurations out.
func (s *Server) installFlux(c *call, cluster clusterEntry, _ string) error {
	h := s.extensions()
	if name, err := s.fluxOf(c, cluster); err != nil || name != "" {
		return err
	}
	if err := s.noSourcesV1(c, cluster); err != nil {
		return err
	}
	var p validate.Problems
	parent, err := arm.ParseID(cluster.ID)
	if err != nil {
		return err
	}
	provider, kind := split(h.typ)
	id := parent.Child(provider, kind, "flux")
	d := resource.Desired[resource.ExtensionProperties]{ID: id.String(), Name: "flux", Type: h.typ, SystemData: c.created(),
		UpdatedAt: c.now, CorrelationID: c.correlation(),
		Properties: validate.Extension(&p, "flux", map[string]any{"extensionType": resource.ExtensionFlux})}
	if err := p.Err(); err != nil {
		return err
	}
	// A write of its own, for the activity log and for the locks and rights of an
	// extension of that name that is gone. Who may make configurations may do this.
	w := &unheard{header: c.w.Header().Clone()}
	a := s.attempt(w, c.r, c.who, h.typ+"/write", d.ID)
	may := func() error { return nil }
	return s.carry(w, c.r, a, may, func() error {
		if d.OperationID, err = c.begin(d.ID, resource.VerbCreate, 1); err != nil {
			return err
		}
		made, err := save(c.ctx(), s.store, entry[resource.ExtensionProperties]{}, d)
		if err != nil {
			return err
		}
		if err := c.confirm(cluster, made.record); err != nil {
			return err
		}
		return c.stands(h.still, cluster, made.record, d.Name)
	})
}

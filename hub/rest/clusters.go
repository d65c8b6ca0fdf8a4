package rest

import (
	"encoding/json"
	"net/http"
	"reflect"

	"github.com/google/uuid"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/api/resource/validate"
	"headwater.dev/api/resource/versions"
	"headwater.dev/hub/store"
)

type clusterEntry = entry[resource.ClusterProperties]

// clusters are the handlers of one type of cluster.
type clusters struct {
	server *Server
	typ    string
}

func (s *Server) clusters(typ string) clusters { return clusters{server: s, typ: typ} }

// tracked is the envelope of a cluster.
func tracked(e clusterEntry) map[string]any {
	m := map[string]any{"id": e.ID, "name": e.Name, "type": e.Type, "location": e.Location, "tags": tagsOf(e.Tags)}
	if e.Identity != nil {
		m["identity"] = e.Identity
	}
	return m
}

// render is a cluster as clients see it: what was asked for and what its agent
// reports, with the connectivity as of now.
func (h clusters) render(c *call, e clusterEntry) (map[string]any, error) {
	var o resource.ClusterObserved
	if err := observed(e.record, &o); err != nil {
		return nil, err
	}
	props, err := toMap(e.Properties)
	if err != nil {
		return nil, err
	}
	props["distribution"] = shown(e.Properties.Distribution, o.Distribution)
	props["infrastructure"] = shown(e.Properties.Infrastructure, o.Infrastructure)
	props["kubernetesVersion"] = shown(e.Properties.KubernetesVersion, o.KubernetesVersion)
	props["provisioningState"] = map[bool]string{true: resource.Deleting, false: resource.Succeeded}[e.Deleting]
	props["totalNodeCount"], props["totalCoreCount"], props["agentVersion"] = o.TotalNodeCount, o.TotalCoreCount, o.AgentVersion
	props["connectivityStatus"] = resource.Connectivity(o, c.now)
	props["lastConnectivityTime"] = o.LastConnectivityTime
	if h.typ == resource.TypeManagedCluster {
		props["powerState"] = map[string]string{"code": "Running"}
		props["nodeResourceGroup"] = "MC_" + e.Name
	}
	props["offering"], props["managedIdentityCertificateExpirationTime"], props["miscellaneousProperties"] = nil, nil, misgivings(e, o)
	versions.Project(h.typ, c.version, props)
	m := tracked(e)
	m["properties"], m["systemData"] = props, e.SystemData
	return m, nil
}

// shown is what a client sees of something that the user may say and the agent
// finds out.
func shown(asked, seen string) string {
	if seen != "" && (asked == "" || asked == "auto") {
		return seen
	}
	return asked
}

// keepFound leaves to the agent what the user sends back as it was shown.
func keepFound(was clusterEntry, asked *resource.ClusterProperties) error {
	var o resource.ClusterObserved
	if err := observed(was.record, &o); err != nil {
		return err
	}
	for _, f := range []struct {
		asked     *string
		was, seen string
	}{
		{&asked.Distribution, was.Properties.Distribution, o.Distribution},
		{&asked.Infrastructure, was.Properties.Infrastructure, o.Infrastructure},
		{&asked.KubernetesVersion, was.Properties.KubernetesVersion, o.KubernetesVersion},
	} {
		if *f.asked == shown(f.was, f.seen) {
			*f.asked = f.was
		}
	}
	return nil
}

// sameProperties compares as clients see it.
func sameProperties(a, b resource.ClusterProperties) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

func (h clusters) list(c *call) error {
	return c.page(listing{
		prefix: c.id.Key() + "/",
		match: func(key string) bool {
			return typeOfKey(key) == arm.Fold(h.typ) && c.visible(h.typ, key)
		},
		render: func(r store.Record) (map[string]any, error) {
			e, err := read[resource.ClusterProperties](r)
			if err != nil {
				return nil, err
			}
			return h.render(c, e)
		},
	})
}

// loadCluster reads the cluster of the call's path; a missing one is a 404 that
// names it.
func (c *call) loadCluster() (clusterEntry, error) {
	id := c.id
	for len(id.Segments()) > 3 {
		id = id.Parent()
	}
	if !isCluster(id.Type()) {
		return clusterEntry{}, notFound(id)
	}
	e, err := load[resource.ClusterProperties](c.ctx(), c.server.store, id.Key())
	if err == nil && !e.exists() {
		err = notFound(id)
	}
	return e, err
}

func (h clusters) get(c *call) error {
	e, err := c.loadCluster()
	if err != nil {
		return err
	}
	return h.answer(c, http.StatusOK, e)
}

func (h clusters) answer(c *call, status int, e clusterEntry) error {
	m, err := h.render(c, e)
	if err != nil {
		return err
	}
	return c.reply(status, m)
}

func (h clusters) put(c *call) error {
	group, err := c.loadGroup()
	if err != nil {
		return err
	}
	if group.Deleting {
		return groupGoing(group.Name)
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
	location, _ := body["location"].(string)
	validate.Location(&p, location)
	if err := h.carry(c, sent); err != nil {
		return err
	}
	asked := resource.Desired[resource.ClusterProperties]{
		ID: c.id.String(), Name: c.id.Name(), Type: h.typ, Location: location, Tags: validate.Tags(&p, body["tags"]),
		Identity:   h.identity(c, &p, body["identity"]),
		Properties: validate.Cluster(&p, c.id.Name(), sent, h.typ == resource.TypeConnectedCluster),
	}
	if err := p.Err(); err != nil {
		return err
	}
	return retry(func() error { return h.replace(c, group, asked) })
}

// carry takes over what the client's version cannot say.
func (h clusters) carry(c *call, sent map[string]any) error {
	was, err := load[resource.ClusterProperties](c.ctx(), c.server.store, c.id.Key())
	if err != nil {
		return err
	}
	var stored map[string]any
	if was.exists() {
		if stored, err = toMap(was.Properties); err != nil {
			return err
		}
	}
	versions.Carry(h.typ, c.version, sent, stored)
	return nil
}

// identity reads the managed identity that is asked for. Its ids are the hub's.
func (h clusters) identity(c *call, p *validate.Problems, v any) *resource.Identity {
	var i resource.Identity
	if raw, err := json.Marshal(v); err != nil || v != nil && json.Unmarshal(raw, &i) != nil {
		p.Add("identity", "must be an object with a type")
	}
	validate.Identity(p, &i)
	i.PrincipalID, i.TenantID = "", ""
	if i.Type == "SystemAssigned" {
		i.PrincipalID = uuid.NewSHA1(uuid.NameSpaceURL, []byte(c.id.Key())).String()
		i.TenantID = c.server.directory.TenantID()
	}
	return &i
}

func (h clusters) replace(c *call, group groupEntry, asked resource.Desired[resource.ClusterProperties]) error {
	was, err := load[resource.ClusterProperties](c.ctx(), c.server.store, c.id.Key())
	if err == nil && !was.exists() {
		err = c.server.dropOrphans(c)
	}
	if err != nil {
		return err
	}
	status := http.StatusCreated
	asked.SystemData = c.created()
	if was.exists() {
		status = http.StatusOK
		if was.Deleting {
			// Should whoever was at it have been cut off.
			if err := c.server.dissolve(c.ctx(), was.record); err != nil {
				return err
			}
			return clusterGoing(was.Name)
		}
		if arm.Fold(was.Location) != arm.Fold(asked.Location) {
			return arm.Errorf(arm.CodeLocationChanged, "The cluster '%s' is in location '%s' and cannot move to '%s'.",
				was.Name, was.Location, asked.Location)
		}
		asked.ID, asked.Name, asked.Location = was.ID, was.Name, was.Location
		asked.SystemData = c.modified(was.SystemData)
		if err := keepKey(was, &asked); err != nil {
			return err
		}
		if err := keepFound(was, &asked.Properties); err != nil {
			return err
		}
		if sameProperties(asked.Properties, was.Properties) && reflect.DeepEqual(tagsOf(asked.Tags), tagsOf(was.Tags)) &&
			reflect.DeepEqual(asked.Identity, was.Identity) {
			return h.answer(c, status, was)
		}
	}
	now, err := h.store(c, was, asked)
	if err != nil {
		return err
	}
	if !was.exists() {
		if err := c.confirmGroup(group, now.record); err != nil {
			return err
		}
	}
	return h.answer(c, status, now)
}

func (h clusters) store(c *call, was clusterEntry, d resource.Desired[resource.ClusterProperties]) (clusterEntry, error) {
	d.UpdatedAt, d.CorrelationID = c.now, c.correlation()
	return save(c.ctx(), c.server.store, was, d)
}

// patch changes tags and what a cluster says of itself; nothing else can be
// patched.
func (h clusters) patch(c *call) error {
	body, err := c.body()
	if err != nil {
		return err
	}
	sent, err := properties(body)
	if err != nil {
		return err
	}
	versions.Strip(h.typ, c.version, sent)
	return retry(func() error {
		was, err := c.loadCluster()
		if err != nil {
			return err
		}
		if was.Deleting {
			return clusterGoing(was.Name)
		}
		d := was.Desired
		var p validate.Problems
		if tags, ok := body["tags"]; ok {
			d.Tags = validate.Tags(&p, tags)
		}
		merged, err := toMap(d.Properties)
		if err != nil {
			return err
		}
		for _, key := range []string{"distribution", "distributionVersion", "azureHybridBenefit", "gateway"} {
			if v, ok := sent[key]; ok {
				merged[key] = v
			}
		}
		d.Properties = validate.Cluster(&p, c.id.Name(), merged, false)
		if err := p.Err(); err != nil {
			return err
		}
		d.SystemData = c.modified(d.SystemData)
		now, err := h.store(c, was, d)
		if err != nil {
			return err
		}
		return h.answer(c, http.StatusOK, now)
	})
}

// delete removes the record of a cluster with its extensions and
// configurations; its agent is no longer let in. Nothing in the cluster changes.
func (h clusters) delete(c *call) error {
	var e clusterEntry
	err := retry(func() (err error) {
		if e, err = load[resource.ClusterProperties](c.ctx(), c.server.store, c.id.Key()); err != nil || !e.exists() || e.Deleting {
			return err
		}
		d := e.Desired
		d.Deleting, d.SystemData = true, c.modified(d.SystemData)
		e, err = h.store(c, e, d)
		return err
	})
	if err != nil {
		return err
	}
	if !e.exists() {
		return c.empty(http.StatusNoContent)
	}
	if err := c.server.dissolve(c.ctx(), e.record); err != nil {
		return err
	}
	return c.empty(http.StatusOK)
}

// clusterGoing refuses what would change a cluster that is being deleted, or add to
// it.
func clusterGoing(name string) error {
	return arm.Errorf(arm.CodeResourceBeingDeleted, "The cluster '%s' is being deleted: wait until it is gone, then create it again.", name)
}

package rest

import (
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"time"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/api/resource/validate"
	"headwater.dev/api/resource/versions"
	"headwater.dev/hub/store"
	"headwater.dev/hub/vault"
)

// child is what the resources of a cluster (extensions, fluxConfigurations)
// have in common: writes that a cluster's agent carries out later, protected
// settings, long-running operations. The fields are what they differ in.
type child[P any] struct {
	server *Server
	typ    string
	// secrets takes the protected settings out of the properties that were sent.
	secrets func(*validate.Problems, map[string]any) (map[string]string, bool)
	// merge applies a PATCH to the stored properties.
	merge func(p *validate.Problems, stored, patch map[string]any) map[string]any
	// read turns properties into the internal shape, with defaults, and checks them.
	read func(p *validate.Problems, name string, properties map[string]any, keys []string) P
	// fixed checks that what can only be set once stays.
	fixed func(p *validate.Problems, was, is P)
	// check looks at a change as a whole; was is the zero value of something new.
	// It may be nil.
	check func(p *validate.Problems, was, is P)
	// progress derives how far the newest change of a record is.
	progress func(e entry[P]) (resource.Progress, error)
	// reconciled reports whether the newest request to reconcile was handled, and
	// until when that may take; nil where there are no such requests.
	reconciled func(e entry[P]) (done bool, until time.Time, err error)
	// render completes the properties with what only the server knows.
	render func(c *call, v view[P]) error
	// admit is asked before a new resource is made in a cluster.
	admit func(c *call, cluster clusterEntry, name string) error
	// still is asked after it was made, for what others made at the same moment: it
	// is taken back then. It may be nil.
	still func(c *call, cluster clusterEntry, name string) error
	// release is asked before a resource is deleted without force.
	release func(c *call, cluster clusterEntry, name string) error
}

// view is a resource about to be shown.
type view[P any] struct {
	entry[P]
	cluster    clusterEntry
	properties map[string]any
	state      string
	err        *resource.ErrorDetail
}

// prefix is where the records of this type lie below a cluster.
func (h child[P]) prefix(cluster string) string {
	return cluster + "/providers/" + arm.Fold(h.typ) + "/"
}

// show is a resource as a client of the call's version sees it.
func (h child[P]) show(c *call, cluster clusterEntry, e entry[P]) (map[string]any, error) {
	progress, err := h.progress(e)
	if err != nil {
		return nil, err
	}
	v := view[P]{entry: e, cluster: cluster}
	v.state, v.err = progress.State(c.now)
	if v.properties, err = toMap(e.Properties); err != nil {
		return nil, err
	}
	v.properties["provisioningState"] = v.state
	// null says "kept" when a client sends it back; {} says "none".
	v.properties["configurationProtectedSettings"] = map[string]string{}
	if len(e.ProtectedKeys) > 0 {
		v.properties["configurationProtectedSettings"] = nil
	}
	if err := h.render(c, v); err != nil {
		return nil, err
	}
	versions.Project(h.typ, c.version, v.properties)
	m := map[string]any{"id": e.ID, "name": e.Name, "type": e.Type, "systemData": e.SystemData, "properties": v.properties}
	if h.typ == resource.TypeExtension {
		m["identity"], m["plan"] = e.Identity, e.Plan
	}
	return m, nil
}

func (h child[P]) list(c *call) error {
	cluster, err := c.loadCluster()
	if err != nil {
		return err
	}
	prefix := h.prefix(cluster.record.Key)
	return c.page(listing{
		prefix: prefix,
		match:  func(key string) bool { return below(prefix, key) && c.visible(h.typ, key) },
		render: func(r store.Record) (map[string]any, error) {
			e, err := read[P](r)
			if err != nil {
				return nil, err
			}
			return h.show(c, cluster, e)
		},
	})
}

func (h child[P]) get(c *call) error {
	cluster, err := c.loadCluster()
	if err != nil {
		return err
	}
	e, err := load[P](c.ctx(), h.server.store, c.id.Key())
	if err != nil {
		return err
	}
	if !e.exists() {
		return notFound(c.id)
	}
	return h.answer(c, cluster, e, http.StatusOK)
}

// answer shows the resource; while a change is under way it tells where to poll.
func (h child[P]) answer(c *call, cluster clusterEntry, e entry[P], status int) error {
	m, err := h.show(c, cluster, e)
	if err != nil {
		return err
	}
	progress, err := h.progress(e)
	if err != nil {
		return err
	}
	if state, _ := progress.State(c.now); c.r.Method != http.MethodGet && !terminal(state) {
		c.poll(e.ID, e.OperationID)
	}
	return c.reply(status, m)
}

func (h child[P]) put(c *call) error   { return h.write(c, false) }
func (h child[P]) patch(c *call) error { return h.write(c, true) }

// wish is what a PUT or PATCH asks for.
type wish struct {
	patch      bool
	cluster    clusterEntry
	body       map[string]any
	properties map[string]any
	secrets    map[string]string
	given      bool // whether secrets says anything
}

func (h child[P]) write(c *call, patch bool) error {
	cluster, err := c.loadCluster()
	if err != nil {
		return err
	}
	if cluster.Deleting {
		return clusterGoing(cluster.Name)
	}
	body, err := c.body()
	if err != nil {
		return err
	}
	props, err := properties(body)
	if err != nil {
		return err
	}
	w := wish{patch: patch, cluster: cluster, body: body, properties: props}
	var p validate.Problems
	w.secrets, w.given = h.secrets(&p, props)
	return retry(func() error { return h.attempt(c, w, p) })
}

// attempt carries a wish out against the record as it is now.
func (h child[P]) attempt(c *call, w wish, p validate.Problems) error {
	was, err := load[P](c.ctx(), h.server.store, c.id.Key())
	switch {
	case err != nil:
		return err
	case !was.exists() && w.patch:
		return notFound(c.id)
	case was.Deleting:
		return arm.Errorf(arm.CodeResourceBeingDeleted, "'%s' is being deleted: wait until it is gone, or delete it with forceDelete=true, "+
			"and create it again.", was.Name)
	}
	d, err := h.wanted(c, w, was, &p)
	if err != nil {
		return err
	}
	if was.exists() {
		same, err := h.unchanged(c, w, was, d)
		if err != nil {
			return err
		}
		if same {
			return h.answer(c, w.cluster, was, http.StatusOK)
		}
	}
	if err := h.fits(c, w.cluster, was, d); err != nil {
		return err
	}
	if !was.exists() {
		if err := h.admit(c, w.cluster, d.Name); err != nil {
			return err
		}
	}
	now, err := h.commit(c, w, was, d)
	if err != nil {
		return err
	}
	status := http.StatusOK
	switch {
	case w.patch:
		status = http.StatusAccepted
	case !was.exists():
		status = http.StatusCreated
	}
	return h.answer(c, w.cluster, now, status)
}

// wanted is the desired part that a wish makes of the present one.
func (h child[P]) wanted(c *call, w wish, was entry[P], p *validate.Problems) (resource.Desired[P], error) {
	d := was.Desired
	if !was.exists() {
		parent, err := arm.ParseID(w.cluster.ID)
		if err != nil {
			return d, err
		}
		provider, kind := split(h.typ)
		d = resource.Desired[P]{ID: parent.Child(provider, kind, c.id.Name()).String(), Name: c.id.Name(), Type: h.typ, SystemData: c.created()}
	}
	var stored map[string]any
	var err error
	if was.exists() {
		if stored, err = toMap(was.Properties); err != nil {
			return d, err
		}
	}
	sent, err := toMap(w.properties)
	if err != nil {
		return d, err
	}
	versions.Read(h.typ, sent)
	if w.patch {
		versions.Strip(h.typ, c.version, sent)
		sent = h.merge(p, stored, sent)
	} else {
		versions.Carry(h.typ, c.version, sent, stored)
		for _, key := range []string{"scope", "namespace"} { // set once; leaving them out keeps them
			if v, ok := stored[key]; ok && sent[key] == nil {
				sent[key] = v
			}
		}
	}
	if w.given {
		d.ProtectedKeys = slices.Sorted(maps.Keys(w.secrets))
	}
	d.Properties = h.read(p, d.Name, sent, d.ProtectedKeys)
	if was.exists() {
		h.fixed(p, was.Properties, d.Properties)
	}
	if h.check != nil {
		h.check(p, was.Properties, d.Properties)
	}
	if h.typ == resource.TypeExtension {
		h.envelope(c, w, p, &d)
	}
	return d, p.Err()
}

// envelope reads what an extension carries beside its properties.
func (h child[P]) envelope(c *call, w wish, p *validate.Problems, d *resource.Desired[P]) {
	if v, ok := w.body["identity"]; ok && v != nil {
		d.Identity = clusters{typ: h.typ}.identity(c, p, v)
	}
	if v, ok := w.body["plan"]; ok && v != nil {
		var plan resource.Plan
		raw, err := json.Marshal(v)
		if err != nil || json.Unmarshal(raw, &plan) != nil {
			p.Add("plan", "must be an object with name, publisher and product")
			return
		}
		d.Plan = &plan
	}
}

// maxResource bounds a resource as it is stored, with all defaults: the rest of
// what a value may have is for what the hub adds.
const maxResource = store.MaxValue - 16<<10

// fits refuses what is too large by itself or for its cluster.
func (h child[P]) fits(c *call, cluster clusterEntry, was entry[P], d resource.Desired[P]) error {
	value, err := encode(d)
	if err != nil {
		return err
	}
	if len(value) > maxResource {
		return arm.Errorf(arm.CodeValidationFailed, "'%s' has %d bytes with all defaults, at most %d are possible: make several of it.", d.Name, len(value), maxResource)
	}
	if was.exists() && len(value) <= resource.MaxItemBytes/resource.MaxItems {
		return nil // even if all are so large
	}
	return c.room(cluster, c.id.Key(), len(value))
}

// unchanged reports whether d asks for nothing new. What failed is asked for
// anew, so that applying again mends it.
func (h child[P]) unchanged(c *call, w wish, was entry[P], d resource.Desired[P]) (bool, error) {
	progress, err := h.progress(was)
	if err != nil {
		return false, err
	}
	if state, _ := progress.State(c.now); state == resource.Failed {
		return false, nil
	}
	if w.given && h.server.vault.Digest(was.record.Key, w.secrets) != was.ProtectedHash {
		return false, nil
	}
	before, err := json.Marshal(was.Properties)
	if err != nil {
		return false, err
	}
	after, err := json.Marshal(d.Properties)
	if err != nil {
		return false, err
	}
	return string(before) == string(after) && reflect.DeepEqual(was.Identity, d.Identity) && reflect.DeepEqual(was.Plan, d.Plan), nil
}

// commit writes in the order in which a crash hurts least: the operation, which
// nobody has heard of yet; the secrets, which expire; then the record itself.
func (h child[P]) commit(c *call, w wish, was entry[P], d resource.Desired[P]) (entry[P], error) {
	verb := resource.VerbUpdate
	if !was.exists() {
		verb = resource.VerbCreate
	}
	key := c.id.Key()
	var err error
	if d.OperationID, err = c.begin(d.ID, verb, was.record.Generation+1); err != nil {
		return was, err
	}
	if w.given {
		d.ProtectedVersion, d.ProtectedHash = "", h.server.vault.Digest(key, w.secrets)
		if len(w.secrets) > 0 {
			recipient, err := recipientOf(w.cluster)
			if err != nil {
				return was, err
			}
			if d.ProtectedVersion, err = h.server.vault.Keep(c.ctx(), key, w.secrets, recipient); err != nil {
				return was, err
			}
		}
	}
	if was.exists() {
		d.SystemData = c.modified(d.SystemData)
	}
	d.UpdatedAt, d.CorrelationID, d.Deleting, d.Changed = c.now, c.correlation(), false, nil
	now, err := save(c.ctx(), h.server.store, was, d)
	if err != nil {
		return was, err
	}
	if !was.exists() {
		if err := c.confirm(w.cluster, now.record); err != nil {
			return was, err
		}
		if err := c.stands(h.still, w.cluster, now.record, d.Name); err != nil {
			return was, err
		}
	}
	if w.given && was.ProtectedVersion != "" {
		// What was replaced or cleared, and no more: another request may have kept
		// newer settings by now.
		err = h.server.vault.Forget(c.ctx(), key, was.ProtectedVersion)
	}
	return now, err
}

var _ Vault = (*vault.Vault)(nil)

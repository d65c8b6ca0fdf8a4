package gateway

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
	"headwater.dev/hub/vault"
)

// resources is what the keys of all resources begin with.
const resources = "/subscriptions/"

// below a cluster's key, this comes before its items.
const items = "/providers/microsoft.kubernetesconfiguration/"

// seenEvery is how often a cluster's last connectivity is written when nothing
// else changed.
const seenEvery = time.Minute

// kind of an item.
type kind string

const (
	extension     kind = "extensions"
	configuration kind = "fluxconfigurations"
)

// cluster is a cluster's record as the gateway needs it.
type cluster struct {
	record store.Record
	// id has the casing of its creator.
	id          string
	key         *rsa.PublicKey
	fingerprint string
	// keys are those of its agent; key and fingerprint are what counts of them.
	keys     vault.AgentKeys
	observed resource.ClusterObserved
	// rotateAt is the newest request to replace the key.
	rotateAt time.Time
}

// clusterOf is the key of the cluster that a resource's key belongs to: the
// first three steps, subscription, group and cluster.
func clusterOf(key string) (string, bool) {
	rest, end := key, 0
	// "/subscriptions/s/resourcegroups/g/providers/p/t/n" has eight segments.
	for range 8 {
		if rest == "" || rest[0] != '/' {
			return "", false
		}
		n := strings.IndexByte(rest[1:], '/') + 1
		if n == 0 {
			n = len(rest)
		}
		rest, end = rest[n:], end+n
	}
	parts := strings.SplitN(key, "/", 7)
	if parts[1] != "subscriptions" || parts[3] != "resourcegroups" || parts[5] != "providers" {
		return "", false
	}
	return key[:end], true
}

// itemOf takes the key of an item below a cluster apart. ok is false for
// everything that is no item, such as an operation.
func itemOf(cluster, key string) (k kind, ok bool) {
	rest, ok := strings.CutPrefix(key, cluster+items)
	if !ok {
		return "", false
	}
	typ, name, ok := strings.Cut(rest, "/")
	if !ok || name == "" || strings.Contains(name, "/") {
		return "", false
	}
	k = kind(typ)
	return k, k == extension || k == configuration
}

// errNoCluster is a cluster that may not, or not any more, connect.
var errNoCluster = errors.New("no such cluster with a key")

// cluster reads a cluster's record; errNoCluster when there is none, or none
// that an agent can speak for.
func (g *Gateway) cluster(ctx context.Context, key string) (cluster, error) {
	if whole, ok := clusterOf(key); !ok || whole != key {
		return cluster{}, errNoCluster
	}
	r, err := g.store.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrInvalid) {
		return cluster{}, errNoCluster
	}
	if err != nil {
		return cluster{}, err
	}
	return readCluster(r)
}

// readCluster reads a cluster's record; errNoCluster when no agent can speak for it.
func readCluster(r store.Record) (cluster, error) {
	var desired resource.Desired[resource.ClusterProperties]
	if err := json.Unmarshal(r.Desired, &desired); err != nil {
		return cluster{}, fmt.Errorf("read cluster %s: %w", r.Key, err)
	}
	c := cluster{record: r, id: desired.ID, rotateAt: desired.RotateKeyAt}
	if len(r.Observed) > 0 {
		if err := json.Unmarshal(r.Observed, &c.observed); err != nil {
			return cluster{}, fmt.Errorf("read what was observed of %s: %w", r.Key, err)
		}
	}
	var err error
	if c.keys, err = vault.ReadAgentKeys(desired.Properties.AgentPublicKeyCertificate, c.observed.Keys); err != nil {
		return cluster{}, errNoCluster
	}
	c.key, c.fingerprint = c.keys.Public, c.keys.Present
	return c, nil
}

// caller tells which cluster a request speaks for, as its record is now.
func (g *Gateway) caller(r *http.Request) (auth.Principal, cluster, error) {
	p, err := g.auth.AuthenticateAgent(r)
	if err != nil {
		return auth.Principal{}, cluster{}, err
	}
	c, err := g.current(r.Context(), p)
	return p, c, err
}

// current is the record of an agent's cluster while that agent may speak for it.
func (g *Gateway) current(ctx context.Context, p auth.Principal) (cluster, error) {
	c, err := g.cluster(ctx, p.Cluster)
	if err == nil && c.fingerprint != p.Key {
		err = errNoCluster
	}
	if errors.Is(err, errNoCluster) {
		return cluster{}, &refusal{status: http.StatusUnauthorized, code: "ClusterNotRegistered", message: "the cluster is no longer registered with this key; connect it again"}
	}
	if err == nil && c.observed.Duplicated(c.fingerprint) {
		err = errDuplicate()
	}
	return c, err
}

// seen notes that the cluster was heard of now, with the facts of a heartbeat
// when there is one. It writes when something changed, when the last note is a
// minute old, and, with connected, when it is more than a few seconds old.
func (g *Gateway) seen(ctx context.Context, c cluster, facts func(*resource.ClusterObserved), connected bool) error {
	every := seenEvery
	if connected {
		every = seenEvery / 12
	}
	return g.update(ctx, c.record, func(r store.Record) (any, error) {
		var was resource.ClusterObserved
		if len(r.Observed) > 0 {
			if err := json.Unmarshal(r.Observed, &was); err != nil {
				return nil, fmt.Errorf("read what was observed of %s: %w", r.Key, err)
			}
		}
		is := was
		if facts != nil {
			facts(&is)
		}
		now := g.clock().UTC()
		if is == was && was.LastConnectivityTime != nil && now.Sub(*was.LastConnectivityTime) < every {
			return nil, nil
		}
		is.LastConnectivityTime = &now
		return is, nil
	})
}

// update writes the observed part that decide makes of a record, reading the
// record again as often as somebody else was quicker. decide answers nil for
// nothing to write. A record that is gone is left alone.
func (g *Gateway) update(ctx context.Context, r store.Record, decide func(store.Record) (any, error)) error {
	for {
		observed, err := decide(r)
		if err != nil || observed == nil {
			return err
		}
		value, err := json.Marshal(observed)
		if err != nil {
			return fmt.Errorf("encode what was observed of %s: %w", r.Key, err)
		}
		if string(value) == string(r.Observed) {
			return nil
		}
		_, err = g.store.Put(ctx, store.Put{Key: r.Key, Part: store.Observed, Value: value, Expect: r.Revision})
		if errors.Is(err, store.ErrConflict) {
			r, err = g.store.Get(ctx, r.Key)
			if err == nil {
				continue
			}
		}
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	}
}

// parseID folds an id that an agent sent.
func parseID(s string) (string, error) {
	if len(s) > store.MaxKey/2 {
		return "", errors.New("too long")
	}
	id, err := arm.ParseID(s)
	if err != nil {
		return "", err
	}
	return id.Key(), nil
}

func trimSlash(url string) string { return strings.TrimRight(url, "/") }

package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"headwater.dev/api/link"
	"headwater.dev/hub/store"
	"headwater.dev/hub/vault"
)

// Happening is something about a cluster's agents that its owner finds in the
// activity log.
type Happening struct {
	// Cluster is the ARM id.
	Cluster string
	Action  string
	Status  int
	Code    string
	Notes   map[string]string
}

// Actions of happenings.
const (
	actionRotate  = "Microsoft.Kubernetes/connectedClusters/rotateKey/action"
	actionConnect = "Microsoft.Kubernetes/connectedClusters/connect/action"
)

// keysMark is in the observed part of a cluster whose key was ever replaced.
const keysMark = `"keys"`

// keptEvery is how often a use of a former key is counted at most.
const keptEvery = 10 * time.Second

// signature tells which of its keys a cluster's assertion is signed with.
type signature int

const (
	noKey signature = iota
	presentKey
	nextKey
	formerKey
)

func (c cluster) signer(a assertion) signature {
	if a.signedWith(c.key) {
		return presentKey
	}
	if next, err := vault.ParsePublicKey(c.keys.Keys.Next); err == nil && a.signedWith(next) {
		return nextKey
	}
	for _, f := range c.keys.Former() {
		if key, err := vault.ParsePublicKey(f.Certificate); err == nil && a.signedWith(key) {
			return formerKey
		}
	}
	return noKey
}

// serveKey takes a next key in, which the present one vouches for. Nothing else
// changes until the next one is used.
func (g *Gateway) serveKey(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readPatience)) // else the server's own limit
	var next link.NextKey
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxForm)).Decode(&next); err != nil {
		g.problem(w, r, &refusal{status: http.StatusBadRequest, code: "InvalidRequestContent", message: "the next key cannot be read: it is a JSON object of at most 16 KiB"})
		return
	}
	c, handover, err := g.admit(r, next.Handover, g.handover)
	if err == nil {
		err = g.vouch(r.Context(), c, handover, next)
	}
	if err != nil {
		g.problem(w, r, err)
		return
	}
	g.log.Info("an agent introduced its next key", "cluster", c.record.Key)
	answer(w, http.StatusOK, struct{}{})
}

// vouch notes the next key of a cluster once its owner has proved to hold it.
func (g *Gateway) vouch(ctx context.Context, c cluster, handover assertion, next link.NextKey) error {
	wrong := func(message string) error {
		return &refusal{status: http.StatusBadRequest, code: "InvalidKey", message: message}
	}
	key, err := vault.ParsePublicKey(next.PublicKey)
	if err != nil {
		return wrong("publicKey: " + err.Error())
	}
	fingerprint := vault.Fingerprint(key)
	if handover.nextKey != fingerprint {
		return wrong("handover: its claim nky is not the fingerprint of publicKey")
	}
	proof, err := jwt.ParseSigned(next.Proof, []jose.SignatureAlgorithm{jose.RS256})
	var claims jwt.Claims
	if err != nil || proof.Claims(key, &claims) != nil {
		return wrong("proof: it is not signed with publicKey")
	}
	if err := g.checkClaims(claims, handover.cluster, g.handover); err != nil {
		return err
	}
	if claims.ID != handover.claims.ID {
		return wrong("proof: its jti is not that of handover")
	}
	if fingerprint == c.fingerprint {
		return wrong("publicKey: this is the present key")
	}
	for _, f := range append(c.keys.FormerFingerprints(), c.keys.Registered) {
		if f == fingerprint {
			return wrong("publicKey: this key was replaced before; make a new one")
		}
	}
	certificate := vault.Certificate(key)
	return g.rekey(ctx, c, func(now cluster) (cluster, error) {
		if now.fingerprint != c.fingerprint {
			return now, stranger()
		}
		now.observed.Keys = now.keys.Introduce(certificate)
		return now, nil
	})
}

// rekey writes what becomes of a cluster's keys, from its record as it is then.
func (g *Gateway) rekey(ctx context.Context, c cluster, become func(cluster) (cluster, error)) error {
	return g.update(ctx, c.record, func(r store.Record) (any, error) {
		now, err := readCluster(r)
		if errors.Is(err, errNoCluster) {
			return nil, stranger()
		}
		if err == nil {
			now, err = become(now)
		}
		return now.observed, err
	})
}

// promote lets the next key count, because its owner uses it: from now on the one
// before it is good for nothing, and whoever came with it is sent away.
func (g *Gateway) promote(ctx context.Context, c cluster) (cluster, error) {
	certificate := c.keys.Keys.Next
	err := g.rekey(ctx, c, func(now cluster) (cluster, error) {
		if now.keys.Certificate == certificate { // another replica was quicker
			return now, nil
		}
		keys, err := now.keys.Promote(certificate, g.clock().UTC(), now.rotateAt)
		if err != nil {
			return now, stranger()
		}
		now.observed.Keys = keys
		return now, nil
	})
	if err != nil {
		return cluster{}, err
	}
	now, err := g.cluster(ctx, c.record.Key)
	if errors.Is(err, errNoCluster) || err == nil && now.keys.Certificate != certificate {
		return cluster{}, stranger()
	}
	if err != nil {
		return cluster{}, err
	}
	g.streams.wake(c.record.Key)
	g.log.Info("a cluster's key was replaced", "cluster", c.record.Key, "former", c.fingerprint, "present", now.fingerprint)
	g.happened(ctx, Happening{Cluster: c.id, Action: actionRotate, Status: http.StatusOK,
		Notes: map[string]string{"keyFingerprint": now.fingerprint, "formerKeyFingerprint": c.fingerprint}})
	return now, nil
}

// kept refuses who comes with a former key, and notes it: an agent that has
// replaced its key does not do that for long.
func (g *Gateway) kept(ctx context.Context, c cluster) error {
	told := false
	err := g.rekey(ctx, c, func(now cluster) (cluster, error) {
		k, at := &now.observed.Keys, g.clock().UTC()
		if at.Sub(k.FormerAt) < keptEvery {
			told = false
			return now, nil
		}
		was := k.Kept()
		if k.FormerUses++; k.FormerSince.IsZero() {
			k.FormerSince = at
		}
		k.FormerAt = at
		told = k.Kept() && !was
		return now, nil
	})
	if err != nil {
		return err
	}
	if told {
		g.log.Error("an agent goes on with a key that was replaced: a copy of the cluster, a backup of it, or a thief", "cluster", c.record.Key)
		g.happened(ctx, Happening{Cluster: c.id, Action: actionConnect, Status: http.StatusUnauthorized, Code: "FormerKeyUsed"})
	}
	return refuseAssertion("this key was replaced by another agent of this cluster on " + c.keys.Keys.RotatedAt.Format(time.RFC3339) +
		": who still has it is a copy, or was restored from a backup; connect the right cluster again with a new key (headwater connectedk8s connect --new-key)")
}

// rekeyed reports whether agents that wait here came with a key that no longer
// counts, now that a cluster's observed part is as the event says.
func (g *Gateway) rekeyed(e store.Event) bool {
	if !bytes.Contains(e.Value, []byte(keysMark)) || !g.streams.any(e.Key) {
		return false
	}
	var o struct {
		Keys struct{ Present string }
	}
	if json.Unmarshal(e.Value, &o) != nil || o.Keys.Present == "" {
		return false
	}
	return g.streams.outdated(e.Key, vault.CertificateFingerprint(o.Keys.Present))
}

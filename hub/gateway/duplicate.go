package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"

	"headwater.dev/api/resource"
)

const (
	// duplicateReturns is how often former processes have to come back, and
	// duplicateAfter for how long at least, until there must be two clusters with
	// one key. The two agents of a rolling update overlap for less.
	duplicateReturns, duplicateAfter = 10, 2 * time.Minute
	// duplicateWithin is when returns count together.
	duplicateWithin = 15 * time.Minute
	// formerSessions is how many are remembered.
	formerSessions = 6
)

// duplicateMark is in the observed part of a cluster whose agents are shut out.
const duplicateMark = `"duplicateAt"`

func errDuplicate() error {
	return &refusal{status: http.StatusForbidden, code: "ClusterIdentityDuplicated", after: time.Minute,
		message: "two agents use the key of this cluster, so both are shut out: connect the right cluster again, which gives it a new key"}
}

// introduce notes which process reports for a cluster. When a process comes back
// again and again after others have taken its place, there are two with the same
// key: a copy of the cluster, or a thief. Nobody can tell which is which, so
// both are shut out until the cluster gets a new key.
func (g *Gateway) introduce(ctx context.Context, c cluster, session string) error {
	if next := meet(c.observed.Agents, c.fingerprint, session, g.clock().UTC()); next == c.observed.Agents {
		return nil
	}
	shut := false
	err := g.seen(ctx, c, func(o *resource.ClusterObserved) {
		o.Agents = meet(o.Agents, c.fingerprint, session, g.clock().UTC())
		shut = o.Duplicated(c.fingerprint)
	}, false)
	if err != nil || !shut {
		return err
	}
	g.log.Error("two agents use one cluster's key: both are shut out", "cluster", c.record.Key)
	return errDuplicate()
}

// meet is what is known after a session has reported.
func meet(a resource.Agents, key, session string, now time.Time) resource.Agents {
	sum := sha256.Sum256([]byte(session)) // an agent chooses its name; the store need not keep that
	name := hex.EncodeToString(sum[:8])
	former := strings.Fields(a.Former)
	switch {
	case a.Key != key:
		return resource.Agents{Key: key, Session: name}
	case a.Session == name:
		return a
	case slices.Contains(former, name):
		former = slices.DeleteFunc(former, func(f string) bool { return f == name })
		if a.Since.IsZero() || now.Sub(a.Since) > duplicateWithin {
			a.Since, a.Returns = now, 0
		}
		if a.Returns++; a.Returns >= duplicateReturns && now.Sub(a.Since) >= duplicateAfter {
			a.DuplicateAt = now
		}
	}
	former = append(former, a.Session)
	a.Former, a.Session = strings.Join(former[max(0, len(former)-formerSessions):], " "), name
	return a
}

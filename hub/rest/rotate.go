package rest

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/hub/vault"
)

// rotateKey asks the agent of a cluster for a new key. The answer does not wait:
// keyRotatedAt among the cluster's miscellaneousProperties says when it is done.
func (h clusters) rotateKey(c *call) error {
	return retry(func() error {
		was, err := c.loadCluster()
		switch {
		case err != nil:
			return err
		case was.Deleting:
			return clusterGoing(was.Name)
		case was.Properties.AgentPublicKeyCertificate == "":
			return arm.Errorf(arm.CodeConflict, "The cluster '%s' has no agent with a key: connect it first.", was.Name)
		}
		d := was.Desired
		d.RotateKeyAt = c.now
		now, err := h.store(c, was, d)
		if err != nil {
			return err
		}
		return h.answer(c, http.StatusOK, now)
	})
}

// agentKeys are the keys of a cluster's agent; zero while it has none.
func agentKeys(cluster clusterEntry) (vault.AgentKeys, error) {
	certificate := cluster.Properties.AgentPublicKeyCertificate
	if certificate == "" {
		return vault.AgentKeys{}, nil
	}
	var o resource.ClusterObserved
	if err := observed(cluster.record, &o); err != nil {
		return vault.AgentKeys{}, err
	}
	return vault.ReadAgentKeys(certificate, o.Keys)
}

// keepKey leaves a cluster's key as it is when somebody registers the one that it
// was registered with, or the one that its agent has now, and refuses one that its
// agent has replaced. Only a new key takes the place of all of them.
func keepKey(was clusterEntry, asked *resource.Desired[resource.ClusterProperties]) error {
	keys, err := agentKeys(was)
	if err != nil || keys.Public == nil {
		return nil // there is nothing to keep
	}
	key, err := vault.ParsePublicKey(asked.Properties.AgentPublicKeyCertificate)
	if err != nil {
		return nil // of a managed cluster: none
	}
	switch name := vault.Fingerprint(key); {
	case name == keys.Present, name == keys.Registered:
		asked.Properties.AgentPublicKeyCertificate = was.Properties.AgentPublicKeyCertificate
		asked.RotateKeyAt = was.RotateKeyAt
	case slices.Contains(keys.FormerFingerprints(), name):
		return arm.Errorf(arm.CodeConflict, "The key in agentPublicKeyCertificate is one that the agent of '%s' has replaced: register a new one, "+
			"as 'headwater connectedk8s connect --new-key' does.", was.Name)
	}
	return nil
}

// misgivings is what the owner of a cluster should know of its agents and their
// keys.
func misgivings(e clusterEntry, o resource.ClusterObserved) map[string]string {
	said := map[string]string{}
	keys, err := agentKeys(e)
	if err != nil || keys.Public == nil {
		return said
	}
	const again = "connect the right cluster again with a new key (headwater connectedk8s connect --new-key)."
	if o.Duplicated(keys.Present) {
		said["duplicateAgents"] = "Two agents use this cluster's key, so both are shut out since " + o.Agents.DuplicateAt.Format(time.RFC3339) + ": " + again
	}
	if keys.Keys.Kept() {
		said["formerKeyUsed"] = fmt.Sprintf("From %s to %s an agent came with a key that was replaced on %s: a copy of the cluster, one that was restored from a backup, or a thief. "+
			"It is not let in. Should it be the right one: %s", keys.Keys.FormerSince.Format(time.RFC3339), keys.Keys.FormerAt.Format(time.RFC3339),
			keys.Keys.RotatedAt.Format(time.RFC3339), again)
	}
	if !keys.Keys.RotatedAt.IsZero() {
		said["keyFingerprint"], said["keyRotatedAt"] = keys.Present, keys.Keys.RotatedAt.Format(time.RFC3339)
	}
	if e.RotateKeyAt.After(keys.Keys.RotatedAt) {
		said["keyRotationRequestedAt"] = e.RotateKeyAt.Format(time.RFC3339)
	}
	return said
}

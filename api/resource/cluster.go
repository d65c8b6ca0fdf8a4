package resource

import (
	"encoding/json"
	"time"
)

// Connectivity states of a connected cluster.
const (
	Connecting        = "Connecting"
	Connected         = "Connected"
	Offline           = "Offline"
	Expired           = "Expired"
	AgentNotInstalled = "AgentNotInstalled"
)

// MaxItems is how many extensions and configurations a cluster can have together:
// as many as its agent is told of.
const MaxItems = 1000

// MaxItemBytes is how many bytes of JSON they can have together, without protected
// settings: the agent is told of all of them in one message.
const MaxItemBytes = 32 << 20

// OfflineAfter is how long a cluster may be silent and still count as
// connected.
const OfflineAfter = 15 * time.Minute

// ExpiredAfter is how long a cluster may be silent until its identity counts as
// lapsed.
const ExpiredAfter = 90 * 24 * time.Hour

// ClusterProperties is what a user says of a connected or managed cluster.
type ClusterProperties struct {
	// AgentPublicKeyCertificate is the base64 of a PKCS#1 DER RSA public key.
	// The private half never leaves the cluster.
	AgentPublicKeyCertificate string `json:"agentPublicKeyCertificate"`
	Distribution              string `json:"distribution,omitempty"`
	DistributionVersion       string `json:"distributionVersion,omitempty"`
	Infrastructure            string `json:"infrastructure,omitempty"`
	AzureHybridBenefit        string `json:"azureHybridBenefit,omitempty"`
	PrivateLinkState          string `json:"privateLinkState,omitempty"`
	PrivateLinkScopeID        string `json:"privateLinkScopeResourceId,omitempty"`
	// The profiles are kept and echoed; the hub does nothing with them.
	AADProfile        json.RawMessage `json:"aadProfile,omitempty"`
	ArcAgentProfile   json.RawMessage `json:"arcAgentProfile,omitempty"`
	SecurityProfile   json.RawMessage `json:"securityProfile,omitempty"`
	OIDCIssuerProfile json.RawMessage `json:"oidcIssuerProfile,omitempty"`
	Gateway           json.RawMessage `json:"gateway,omitempty"`
	// KubernetesVersion is given for managed clusters only; a connected
	// cluster's agent reports its own.
	KubernetesVersion string `json:"kubernetesVersion,omitempty"`
}

// ClusterObserved is what the agent reports of its cluster.
type ClusterObserved struct {
	KubernetesVersion    string     `json:"kubernetesVersion,omitempty"`
	TotalNodeCount       int        `json:"totalNodeCount"`
	TotalCoreCount       int        `json:"totalCoreCount"`
	AgentVersion         string     `json:"agentVersion,omitempty"`
	Distribution         string     `json:"distribution,omitempty"`
	Infrastructure       string     `json:"infrastructure,omitempty"`
	LastConnectivityTime *time.Time `json:"lastConnectivityTime,omitempty"`
	// Epoch counts how often the hub has gone back behind what its agent knew, as
	// after a restore from a backup. Within one, revisions only grow.
	Epoch int64 `json:"epoch,omitempty"`
	// Agents tells one agent with the cluster's key from two.
	Agents Agents `json:"agents,omitzero"`
	// Keys is what became of the key that the cluster was registered with.
	Keys Keys `json:"keys,omitzero"`
}

// Keys says which key counts after an agent has replaced the one that its cluster
// was registered with. Certificates are as AgentPublicKeyCertificate.
type Keys struct {
	// Registered is the fingerprint of the key that all of this began with. When the
	// cluster is registered with another one, nothing of this counts any more.
	Registered string `json:"registered,omitempty"`
	// Present counts since RotatedAt; empty while the registered key does.
	Present   string    `json:"present,omitempty"`
	RotatedAt time.Time `json:"rotatedAt,omitzero"`
	// Next was introduced by the agent and counts as soon as it is used.
	Next string `json:"next,omitempty"`
	// Former counted before: each a certificate, "@" and the Unix time of its end,
	// the newest last, separated by spaces.
	Former string `json:"former,omitempty"`
	// FormerUses is how often an agent came with one of them, first at FormerSince
	// and last at FormerAt. One that was replaced in order does not.
	FormerUses  int       `json:"formerUses,omitempty"`
	FormerSince time.Time `json:"formerSince,omitzero"`
	FormerAt    time.Time `json:"formerAt,omitzero"`
}

// KeptUses is how many uses of former keys, and KeptFor over how long at least,
// tell that somebody holds on to one: a process that was caught by a rotation
// finds the new key and goes on.
const (
	KeptUses = 3
	KeptFor  = 30 * time.Second
)

// Kept reports whether an agent goes on with a former key: it is a copy of the
// cluster, was restored from a backup, or the key was stolen.
func (k Keys) Kept() bool {
	return k.FormerUses >= KeptUses && k.FormerAt.Sub(k.FormerSince) >= KeptFor
}

// Agents is what is known of the processes that use a cluster's key.
type Agents struct {
	// Key is the fingerprint of the key that all of this is about.
	Key string `json:"key,omitempty"`
	// Session is the process that was heard of last, Former those before it, the
	// newest last, separated by spaces: each a name and, with colons between, what is
	// known of it: whether it named itself when it asked, how often it has come back,
	// and when it last did, in Unix time.
	Session string `json:"session,omitempty"`
	Former  string `json:"former,omitempty"`
	// Returns is how often a former process has come back since Since. One
	// process never does that: a new one takes its place for good.
	Returns int       `json:"returns,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	// DuplicateAt is when the hub concluded that there are two, and shut both out.
	DuplicateAt time.Time `json:"duplicateAt,omitzero"`
}

// Duplicated reports whether all agents with a key, named by its fingerprint,
// are shut out because there were two.
func (o ClusterObserved) Duplicated(key string) bool {
	return !o.Agents.DuplicateAt.IsZero() && o.Agents.Key == key
}

// Connectivity derives the connectivity status at now.
func Connectivity(o ClusterObserved, now time.Time) string {
	if o.LastConnectivityTime == nil {
		return Connecting
	}
	switch silent := now.Sub(*o.LastConnectivityTime); {
	case silent > ExpiredAfter:
		return Expired
	case silent > OfflineAfter:
		return Offline
	default:
		return Connected
	}
}

// ResourceGroupProperties is empty: a group has tags and a location only.
type ResourceGroupProperties struct{}

// Operation is the record of a long-running operation. Its status is derived
// from the resource, see Progress.
type Operation struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	ResourceID string    `json:"resourceId"`
	Generation int64     `json:"generation"`
	Verb       string    `json:"verb"`
	StartTime  time.Time `json:"startTime"`
}

// Verbs of Operation.
const (
	VerbCreate = "create"
	VerbUpdate = "update"
	VerbDelete = "delete"
	// VerbReconcile asks for no change: it is done when the cluster has looked at
	// the source anew and applied it.
	VerbReconcile = "reconcile"
)

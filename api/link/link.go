// Package link holds the messages between the hub's gateway and a cluster's
// agent. They travel as JSON over HTTPS connections that the agent opens.
package link

import (
	"bytes"
	"encoding/json"
	"time"

	"headwater.dev/api/resource"
)

// Paths below the hub's URL.
const (
	PathToken    = "/agents/v1/token"
	PathDesired  = "/agents/v1/desired"
	PathObserved = "/agents/v1/observed"
	PathEnrol    = "/agents/v1/enrol"
	PathKey      = "/agents/v1/key"
)

// HeaderSession is the header of PathDesired in which an agent's process names
// itself, as it does in its reports (Report.Session).
const HeaderSession = "Headwater-Session"

// ClientAssertionType is the form value of client_assertion_type.
const ClientAssertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// PingEvery is how often a silent stream carries a Ping: often enough for proxies,
// which close what is silent for a minute.
const PingEvery = 30 * time.Second

// Limits that both ends hold.
const (
	// MaxReportBytes bounds the body of a Report.
	MaxReportBytes = 4 << 20
	// MaxStreamed bounds a Message, in bytes.
	MaxStreamed = 64 << 20
	// MaxItems bounds the items of a Report or a Desired.
	MaxItems = resource.MaxItems
)

// Token is the answer of PathToken.
type Token struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	// ExpiresIn is in seconds.
	ExpiresIn int64 `json:"expires_in"`
}

// NextKey is the body of PathKey: an agent introduces the key that shall take the
// place of its present one. From then on the hub takes both, until the new one is
// used for the first time; then the former is good for nothing any more.
type NextKey struct {
	// PublicKey is the base64 of a PKCS#1 DER RSA public key.
	PublicKey string `json:"publicKey"`
	// Handover is a JWT (RS256) signed with the present key: issuer and subject are
	// the cluster's ARM id, the audience is the hub's PathKey, the claim "nky" is the
	// fingerprint (hex SHA-256 of the PKCS#1 DER form) of PublicKey. It is good once,
	// for five minutes.
	Handover string `json:"handover"`
	// Proof is a JWT (RS256) signed with the new key: issuer, subject and audience
	// as in Handover, and its jti, so that it fits to this handover only.
	Proof string `json:"proof"`
}

// Enrolment is the body of PathEnrol: an agent asks to be let in.
type Enrolment struct {
	// Token is the enrolment token that the cluster's owner was given.
	Token string `json:"token"`
	// Cluster is the ARM id that the cluster asks for.
	Cluster string `json:"cluster"`
	// PublicKey is the base64 of a PKCS#1 DER RSA public key.
	PublicKey string `json:"publicKey"`
	// Proof is a JWT (RS256) signed with that key: issuer and subject are Cluster,
	// the audience is the hub's PathEnrol, TokenHash (claim "tkh") is the hex
	// SHA-256 of Token. It is good for five minutes.
	Proof string `json:"proof"`
}

// States of an enrolment.
const (
	EnrolmentPending  = "Pending"
	EnrolmentApproved = "Approved"
	EnrolmentRejected = "Rejected"
)

// Enrolled is the answer of PathEnrol.
type Enrolled struct {
	// Name of the enrolment, for who has to approve it.
	Name  string `json:"name"`
	State string `json:"state"`
	// Message is for people.
	Message string `json:"message,omitempty"`
}

// Message is one line of the stream of PathDesired: exactly one field is set.
type Message struct {
	Desired *Desired `json:"desired,omitempty"`
	Ping    *Ping    `json:"ping,omitempty"`
}

// Line is the message as one line of a stream, with its end. Nothing is escaped
// for HTML, which would make what is within bounds six times as long.
func (m Message) Line() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(m)
	return b.Bytes(), err
}

// Ping keeps a stream open through proxies.
type Ping struct {
	Time time.Time `json:"time"`
}

// Desired is everything the hub wants of one cluster at a revision. It is
// always complete. Nothing is removed from a cluster because it is absent
// here: a removal is an item with Delete set, until the agent reports it done.
type Desired struct {
	// Cluster is the ARM id of the cluster.
	Cluster string `json:"cluster"`
	// Epoch and Revision only grow, the epoch first: an agent refuses what is
	// older than what it had. It tells the hub what that was (parameters epoch and
	// known of PathDesired); a hub that was restored from a backup then begins a
	// new epoch.
	Epoch    int64  `json:"epoch,omitempty"`
	Revision int64  `json:"revision"`
	Items    []Item `json:"items"`
	// RotateKey asks the agent to replace its key now. It is set until that is done.
	RotateKey bool `json:"rotateKey,omitempty"`
}

// Item is one resource of a cluster. Exactly one of Extension and
// Configuration is set.
type Item struct {
	// ID is the ARM id of the resource.
	ID            string `json:"id"`
	Name          string `json:"name"`
	Generation    int64  `json:"generation"`
	OperationID   string `json:"operationId,omitempty"`
	CorrelationID string `json:"correlationId,omitempty"`
	// TraceParent is the span (W3C trace context) of the request that asked for
	// this; empty when nobody traces.
	TraceParent string `json:"traceParent,omitempty"`
	Delete      bool   `json:"delete,omitempty"`
	// ReconcileRequestedAt, when set, asks the cluster to look at the source at
	// once; a value that was handled before asks for nothing.
	ReconcileRequestedAt string `json:"reconcileRequestedAt,omitempty"`

	Extension     *resource.ExtensionProperties         `json:"extension,omitempty"`
	Configuration *resource.FluxConfigurationProperties `json:"configuration,omitempty"`

	// ProtectedVersion names the protected settings that belong to this
	// generation: empty for none; the same as before means keep what is there.
	ProtectedVersion string `json:"protectedVersion,omitempty"`
	// Sealed is an age file for the cluster's RSA key that holds the protected
	// settings as a JSON object of strings. It is sent until the version is
	// acknowledged or the vault has forgotten it.
	Sealed []byte `json:"sealed,omitempty"`

	// Pending says that the cluster has not accepted this generation yet. It stays
	// in the hub.
	Pending bool `json:"-"`
}

// Report is the body of PathObserved.
type Report struct {
	// Session is a random id of the agent process.
	Session string `json:"session"`
	// Sequence grows with every report of a session; an older one is refused.
	Sequence  int64      `json:"sequence"`
	Heartbeat *Heartbeat `json:"heartbeat,omitempty"`
	Items     []Observed `json:"items,omitempty"`
}

// Heartbeat is what the agent knows of its cluster.
type Heartbeat struct {
	KubernetesVersion string `json:"kubernetesVersion,omitempty"`
	TotalNodeCount    int    `json:"totalNodeCount"`
	TotalCoreCount    int    `json:"totalCoreCount"`
	AgentVersion      string `json:"agentVersion,omitempty"`
	Distribution      string `json:"distribution,omitempty"`
	Infrastructure    string `json:"infrastructure,omitempty"`
}

// Observed is the state of one item in the cluster.
type Observed struct {
	// ID is the ARM id of the resource.
	ID string `json:"id"`
	// Generation of the item that this speaks of.
	Generation int64 `json:"generation"`
	// ProtectedVersion acknowledges protected settings that are now safe in
	// the cluster.
	ProtectedVersion string `json:"protectedVersion,omitempty"`
	// TraceParent is the span that led to this observation; it travels in the
	// header of the report.
	TraceParent string `json:"-"`
	// OperationID of the item that this speaks of: a resource that was made anew has
	// the same generations as the one before.
	OperationID string `json:"operationId,omitempty"`
	// Deleted says that an item with Delete set is gone.
	Deleted bool `json:"deleted,omitempty"`

	// AcceptedGeneration, AcceptedAt and status of the resource; exactly one
	// is set unless Deleted is.
	Extension     *resource.ExtensionObserved         `json:"extension,omitempty"`
	Configuration *resource.FluxConfigurationObserved `json:"configuration,omitempty"`
}

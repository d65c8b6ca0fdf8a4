package resource

import "time"

// Resource types as they appear in the "type" property of a resource.
const (
	TypeFluxConfiguration = "Microsoft.KubernetesConfiguration/fluxConfigurations"
	TypeExtension         = "Microsoft.KubernetesConfiguration/extensions"
	TypeConnectedCluster  = "Microsoft.Kubernetes/connectedClusters"
	TypeManagedCluster    = "Microsoft.ContainerService/managedClusters"
	TypeResourceGroup     = "Microsoft.Resources/resourceGroups"
)

// Desired is the part of a record that users write.
//
// It is stored as JSON. Protected settings are never part of it: only the
// version under which the vault keeps them is.
type Desired[P any] struct {
	// ID is the ARM id with the casing of its creator.
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Type       string     `json:"type"`
	SystemData SystemData `json:"systemData"`

	// OperationID names the operation that made the newest change.
	OperationID   string `json:"operationId,omitempty"`
	CorrelationID string `json:"correlationId,omitempty"`
	// TraceParent is the span (W3C trace context) of the newest change; empty when
	// nobody traces.
	TraceParent string `json:"traceParent,omitempty"`
	// Deleting is set by DELETE; the record goes when the agent says it is done.
	Deleting bool `json:"deleting,omitempty"`
	// UpdatedAt is when the newest change was asked for.
	UpdatedAt time.Time `json:"updatedAt"`
	// ProtectedVersion names the vault entry of the protected settings; empty
	// when there are none.
	ProtectedVersion string `json:"protectedVersion,omitempty"`
	// ProtectedHash is a keyed digest of the protected settings, to tell a
	// repeated PUT from a change. It reveals nothing without the hub's key.
	ProtectedHash string `json:"protectedHash,omitempty"`
	// ProtectedKeys are the names, never the values, of the protected settings,
	// sorted.
	ProtectedKeys []string `json:"protectedKeys,omitempty"`

	// ReconcileRequestedAt is the newest request to reconcile at once, RFC 3339;
	// empty when there was none. Configurations only.
	ReconcileRequestedAt string `json:"reconcileRequestedAt,omitempty"`
	// Changed is the newest change when only requests to reconcile came after it;
	// nil when the newest generation is a change itself.
	Changed *Change `json:"changed,omitempty"`

	// RotateKeyAt is the newest request to replace the key of a cluster's agent;
	// zero when there was none since it was registered.
	RotateKeyAt time.Time `json:"rotateKeyAt,omitzero"`

	// Location, Tags and Identity are set for tracked resources only.
	Location string            `json:"location,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
	Identity *Identity         `json:"identity,omitempty"`
	// Plan is the marketplace plan of an extension, kept and echoed.
	Plan *Plan `json:"plan,omitempty"`

	Properties P `json:"properties"`
}

// SystemData says who made and last changed a resource, and when.
type SystemData struct {
	CreatedBy          string    `json:"createdBy"`
	CreatedByType      string    `json:"createdByType"`
	CreatedAt          time.Time `json:"createdAt"`
	LastModifiedBy     string    `json:"lastModifiedBy"`
	LastModifiedByType string    `json:"lastModifiedByType"`
	LastModifiedAt     time.Time `json:"lastModifiedAt"`
}

// Identity is the managed identity block of a resource.
type Identity struct {
	Type        string `json:"type"`
	PrincipalID string `json:"principalId,omitempty"`
	TenantID    string `json:"tenantId,omitempty"`
}

// Plan is the marketplace plan of an extension.
type Plan struct {
	Name          string `json:"name"`
	Publisher     string `json:"publisher"`
	Product       string `json:"product"`
	PromotionCode string `json:"promotionCode,omitempty"`
	Version       string `json:"version,omitempty"`
}

// ErrorDetail is an error as ARM bodies carry it.
type ErrorDetail struct {
	Code    string        `json:"code"`
	Message string        `json:"message"`
	Target  string        `json:"target,omitempty"`
	Details []ErrorDetail `json:"details,omitempty"`
}

package client

import (
	"time"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
)

// Resource is the envelope that all resources share; P is their properties.
type Resource[P any] struct {
	ID         string               `json:"id,omitempty"`
	Name       string               `json:"name,omitempty"`
	Type       string               `json:"type,omitempty"`
	Location   string               `json:"location,omitempty"`
	Tags       map[string]string    `json:"tags,omitempty"`
	Identity   *resource.Identity   `json:"identity,omitempty"`
	SystemData *resource.SystemData `json:"systemData,omitempty"`
	Properties P                    `json:"properties"`
}

// Configuration is a fluxConfiguration as the hub shows it.
type Configuration struct {
	resource.FluxConfigurationProperties
	ProvisioningState    string                  `json:"provisioningState,omitempty"`
	ComplianceState      string                  `json:"complianceState,omitempty"`
	Statuses             []resource.ObjectStatus `json:"statuses,omitempty"`
	RepositoryPublicKey  string                  `json:"repositoryPublicKey,omitempty"`
	SourceSyncedCommitID string                  `json:"sourceSyncedCommitId,omitempty"`
	SourceUpdatedAt      *time.Time              `json:"sourceUpdatedAt,omitempty"`
	StatusUpdatedAt      *time.Time              `json:"statusUpdatedAt,omitempty"`
	ErrorMessage         string                  `json:"errorMessage,omitempty"`
	// ProtectedSettings are sent, never received.
	ProtectedSettings map[string]string `json:"configurationProtectedSettings,omitempty"`
}

// Extension is a cluster extension as the hub shows it.
type Extension struct {
	resource.ExtensionProperties
	ProvisioningState string                     `json:"provisioningState,omitempty"`
	CurrentVersion    *string                    `json:"currentVersion,omitempty"`
	Statuses          []resource.ExtensionStatus `json:"statuses,omitempty"`
	ErrorInfo         *arm.Error                 `json:"errorInfo,omitempty"`
	// ProtectedSettings are sent, never received.
	ProtectedSettings map[string]string `json:"configurationProtectedSettings,omitempty"`
}

// Cluster is a connected or managed cluster as the hub shows it.
type Cluster struct {
	resource.ClusterProperties
	ProvisioningState    string     `json:"provisioningState,omitempty"`
	ConnectivityStatus   string     `json:"connectivityStatus,omitempty"`
	LastConnectivityTime *time.Time `json:"lastConnectivityTime,omitempty"`
	TotalNodeCount       int        `json:"totalNodeCount,omitempty"`
	TotalCoreCount       int        `json:"totalCoreCount,omitempty"`
	AgentVersion         string     `json:"agentVersion,omitempty"`
}

// GroupID is the id of a resource group.
func (c *Client) GroupID(group string) string {
	return "/subscriptions/" + c.config.SubscriptionID + "/resourceGroups/" + group
}

// ClusterID is the id of a cluster; rp and kind are its provider and type, such
// as Microsoft.Kubernetes and connectedClusters.
func (c *Client) ClusterID(group, rp, kind, name string) string {
	return c.GroupID(group) + "/providers/" + rp + "/" + kind + "/" + name
}

// ConfigurationID is the id of a fluxConfiguration of a cluster.
func ConfigurationID(cluster, name string) string {
	return cluster + "/providers/" + resource.TypeFluxConfiguration + "/" + name
}

// ExtensionID is the id of an extension of a cluster.
func ExtensionID(cluster, name string) string {
	return cluster + "/providers/" + resource.TypeExtension + "/" + name
}

// SourceControlID is the id of a sourceControlConfiguration (Flux v1) of a cluster.
func SourceControlID(cluster, name string) string {
	return cluster + "/providers/Microsoft.KubernetesConfiguration/sourceControlConfigurations/" + name
}

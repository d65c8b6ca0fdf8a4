package resource

import (
	"encoding/json"
	"time"
)

// Values of FluxConfigurationProperties.Scope.
const (
	ScopeCluster   = "cluster"
	ScopeNamespace = "namespace"
)

// Values of FluxConfigurationProperties.SourceKind.
const (
	SourceGitRepository = "GitRepository"
	SourceBucket        = "Bucket"
	SourceAzureBlob     = "AzureBlob"
	SourceOCIRepository = "OCIRepository"
)

// Compliance states.
const (
	Compliant    = "Compliant"
	NonCompliant = "Non-Compliant"
	Pending      = "Pending"
	Suspended    = "Suspended"
	Unknown      = "Unknown"
)

// FluxConfigurationProperties is what a user asks for. Pointers are nullable
// on the wire; secrets are taken out before a value of this type exists and
// travel as protected settings under the keys below.
type FluxConfigurationProperties struct {
	Scope          string                   `json:"scope"`
	Namespace      string                   `json:"namespace"`
	SourceKind     string                   `json:"sourceKind"`
	Suspend        bool                     `json:"suspend"`
	GitRepository  *GitRepository           `json:"gitRepository"`
	Bucket         *Bucket                  `json:"bucket"`
	AzureBlob      *AzureBlob               `json:"azureBlob"`
	OCIRepository  *OCIRepository           `json:"ociRepository"`
	Kustomizations map[string]Kustomization `json:"kustomizations"`

	WaitForReconciliation      bool    `json:"waitForReconciliation"`
	ReconciliationWaitDuration *string `json:"reconciliationWaitDuration"`
}

// Keys of protected settings. Values of the first group are base64 on the
// wire and stay so; the second group is lifted out of the source's body by the
// users' door and holds the values as given.
const (
	ProtectedSSHPrivateKey   = "sshPrivateKey"
	ProtectedHTTPSKey        = "httpsKey"
	ProtectedBucketSecretKey = "bucketSecretKey"

	ProtectedAzureBlobAccountKey          = "azureBlob.accountKey"
	ProtectedAzureBlobSASToken            = "azureBlob.sasToken"
	ProtectedAzureBlobClientSecret        = "azureBlob.servicePrincipal.clientSecret"
	ProtectedAzureBlobCertificate         = "azureBlob.servicePrincipal.clientCertificate"
	ProtectedAzureBlobCertificatePassword = "azureBlob.servicePrincipal.clientCertificatePassword"
	ProtectedOCIClientCertificate         = "ociRepository.tlsConfig.clientCertificate"
	ProtectedOCIPrivateKey                = "ociRepository.tlsConfig.privateKey"
	ProtectedOCICACertificate             = "ociRepository.tlsConfig.caCertificate"
)

// GitRepository is a Git source.
type GitRepository struct {
	URL                   string         `json:"url"`
	TimeoutInSeconds      int64          `json:"timeoutInSeconds"`
	SyncIntervalInSeconds int64          `json:"syncIntervalInSeconds"`
	RepositoryRef         *RepositoryRef `json:"repositoryRef"`
	// SSHKnownHosts and HTTPSCACert are base64.
	SSHKnownHosts *string `json:"sshKnownHosts"`
	HTTPSUser     *string `json:"httpsUser"`
	HTTPSCACert   *string `json:"httpsCACert"`
	LocalAuthRef  *string `json:"localAuthRef"`
	Provider      string  `json:"provider"`
	// SparseCheckout are the directories to fetch; all when empty.
	SparseCheckout []string `json:"sparseCheckout,omitempty"`
	// ObjectLevelIdentity authenticates with a workload identity of the source's
	// own; AdditionalConfigurations is laid over the spec of the Flux object.
	ObjectLevelIdentity      *ObjectLevelIdentity `json:"objectLevelIdentity,omitempty"`
	AdditionalConfigurations json.RawMessage      `json:"additionalConfigurations,omitempty"`
}

// RepositoryRef is what of a Git repository to follow; precedence commit,
// semver, tag, branch.
type RepositoryRef struct {
	Branch *string `json:"branch"`
	Tag    *string `json:"tag"`
	Semver *string `json:"semver"`
	Commit *string `json:"commit"`
}

// Bucket is an S3-compatible source.
type Bucket struct {
	URL                   string  `json:"url"`
	BucketName            string  `json:"bucketName"`
	Insecure              bool    `json:"insecure"`
	TimeoutInSeconds      int64   `json:"timeoutInSeconds"`
	SyncIntervalInSeconds int64   `json:"syncIntervalInSeconds"`
	AccessKey             *string `json:"accessKey"`
	LocalAuthRef          *string `json:"localAuthRef"`
	// ObjectLevelIdentity authenticates with a workload identity of the source's
	// own; AdditionalConfigurations is laid over the spec of the Flux object.
	ObjectLevelIdentity      *ObjectLevelIdentity `json:"objectLevelIdentity,omitempty"`
	AdditionalConfigurations json.RawMessage      `json:"additionalConfigurations,omitempty"`
}

// AzureBlob is a blob container source.
type AzureBlob struct {
	URL                   string            `json:"url"`
	ContainerName         string            `json:"containerName"`
	TimeoutInSeconds      int64             `json:"timeoutInSeconds"`
	SyncIntervalInSeconds int64             `json:"syncIntervalInSeconds"`
	ServicePrincipal      *ServicePrincipal `json:"servicePrincipal"`
	ManagedIdentity       *ManagedIdentity  `json:"managedIdentity"`
	LocalAuthRef          *string           `json:"localAuthRef"`
	// ObjectLevelIdentity authenticates with a workload identity of the source's
	// own; AdditionalConfigurations is laid over the spec of the Flux object.
	ObjectLevelIdentity      *ObjectLevelIdentity `json:"objectLevelIdentity,omitempty"`
	AdditionalConfigurations json.RawMessage      `json:"additionalConfigurations,omitempty"`
}

// ServicePrincipal authenticates against blob storage; its secrets are
// protected settings.
type ServicePrincipal struct {
	ClientID                   string `json:"clientId"`
	TenantID                   string `json:"tenantId"`
	ClientCertificateSendChain bool   `json:"clientCertificateSendChain"`
}

// ManagedIdentity authenticates against blob storage.
type ManagedIdentity struct {
	ClientID string `json:"clientId"`
}

// OCIRepository is an OCI artifact source.
type OCIRepository struct {
	URL                   string            `json:"url"`
	TimeoutInSeconds      int64             `json:"timeoutInSeconds"`
	SyncIntervalInSeconds int64             `json:"syncIntervalInSeconds"`
	RepositoryRef         *OCIRepositoryRef `json:"repositoryRef"`
	LayerSelector         *LayerSelector    `json:"layerSelector"`
	Verify                *Verify           `json:"verify"`
	Insecure              bool              `json:"insecure"`
	UseWorkloadIdentity   bool              `json:"useWorkloadIdentity"`
	ServiceAccountName    *string           `json:"serviceAccountName"`
	// TLSConfig says that TLS material is set; the material is protected.
	TLSConfig    *OCITLSConfig `json:"tlsConfig"`
	LocalAuthRef *string       `json:"localAuthRef"`
	// ObjectLevelIdentity authenticates with a workload identity of the source's
	// own; AdditionalConfigurations is laid over the spec of the Flux object.
	ObjectLevelIdentity      *ObjectLevelIdentity `json:"objectLevelIdentity,omitempty"`
	AdditionalConfigurations json.RawMessage      `json:"additionalConfigurations,omitempty"`
}

// OCITLSConfig marks which TLS material was given.
type OCITLSConfig struct {
	ClientCertificate bool `json:"clientCertificate"`
	PrivateKey        bool `json:"privateKey"`
	CACertificate     bool `json:"caCertificate"`
}

// OCIRepositoryRef is what to follow; precedence digest, semver, tag.
type OCIRepositoryRef struct {
	Tag    *string `json:"tag"`
	Semver *string `json:"semver"`
	Digest *string `json:"digest"`
}

// LayerSelector picks the layer of an OCI artifact.
type LayerSelector struct {
	MediaType *string `json:"mediaType"`
	Operation *string `json:"operation"`
}

// Verify asks for signature verification of an OCI artifact.
type Verify struct {
	Provider           string              `json:"provider"`
	VerificationConfig map[string]string   `json:"verificationConfig"`
	MatchOIDCIdentity  []MatchOIDCIdentity `json:"matchOidcIdentity"`
}

// MatchOIDCIdentity is an accepted keyless signer.
type MatchOIDCIdentity struct {
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`
}

// Kustomization is one path of the source that is applied. Nil pointers mean
// the default.
type Kustomization struct {
	Path                   string     `json:"path"`
	DependsOn              []string   `json:"dependsOn"`
	TimeoutInSeconds       int64      `json:"timeoutInSeconds"`
	SyncIntervalInSeconds  int64      `json:"syncIntervalInSeconds"`
	RetryIntervalInSeconds *int64     `json:"retryIntervalInSeconds"`
	Prune                  bool       `json:"prune"`
	Force                  bool       `json:"force"`
	Wait                   bool       `json:"wait"`
	PostBuild              *PostBuild `json:"postBuild"`
	// Suspend stops this kustomization alone; Headwater's own.
	Suspend bool `json:"suspend,omitempty"`
	// KubeConfig applies the kustomization in another cluster.
	KubeConfig *KubeConfig `json:"kubeConfig,omitempty"`
	// AdditionalConfigurations is laid over the spec of the Kustomization.
	AdditionalConfigurations json.RawMessage `json:"additionalConfigurations,omitempty"`
}

// KubeConfig is a managed cluster of Azure to apply to, and the workload identity
// with which that is done.
type KubeConfig struct {
	ClusterResourceID   string               `json:"clusterResourceId"`
	ObjectLevelIdentity *ObjectLevelIdentity `json:"objectLevelIdentity"`
}

// ObjectLevelIdentity is a workload identity of one object. ServiceAccountName
// is the service account that carries it; one is made when it is empty.
type ObjectLevelIdentity struct {
	ClientID           string  `json:"clientId"`
	TenantID           *string `json:"tenantId"`
	ServiceAccountName *string `json:"serviceAccountName"`
}

// PostBuild is variable substitution after the build.
type PostBuild struct {
	Substitute     map[string]string `json:"substitute"`
	SubstituteFrom []SubstituteFrom  `json:"substituteFrom"`
}

// SubstituteFrom is a ConfigMap or Secret with variables.
type SubstituteFrom struct {
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Optional bool   `json:"optional"`
}

// FluxConfigurationObserved is what the agent reports. AcceptedGeneration is
// the newest generation that the cluster has taken over; Error is set when it
// refused that generation.
type FluxConfigurationObserved struct {
	AcceptedGeneration int64        `json:"acceptedGeneration"`
	AcceptedAt         time.Time    `json:"acceptedAt"`
	Error              *ErrorDetail `json:"error,omitempty"`

	ComplianceState      string         `json:"complianceState,omitempty"`
	Statuses             []ObjectStatus `json:"statuses"`
	RepositoryPublicKey  string         `json:"repositoryPublicKey,omitempty"`
	SourceSyncedCommitID string         `json:"sourceSyncedCommitId,omitempty"`
	SourceUpdatedAt      *time.Time     `json:"sourceUpdatedAt,omitempty"`
	StatusUpdatedAt      *time.Time     `json:"statusUpdatedAt,omitempty"`
	ErrorMessage         string         `json:"errorMessage,omitempty"`
	// StatusGeneration is the record generation that the status speaks of.
	StatusGeneration int64 `json:"statusGeneration,omitempty"`
	// SettledGeneration is the newest record generation that has been compliant,
	// whatever became of it since.
	SettledGeneration int64 `json:"settledGeneration,omitempty"`
	// LastHandledReconcileAt is the newest request to reconcile at once that
	// every object of the configuration has handled.
	LastHandledReconcileAt string `json:"lastHandledReconcileAt,omitempty"`
}

// ObjectStatus is the state of one object of a configuration.
type ObjectStatus struct {
	Name                  string                 `json:"name"`
	Namespace             string                 `json:"namespace"`
	Kind                  string                 `json:"kind"`
	ComplianceState       string                 `json:"complianceState"`
	AppliedBy             *ObjectReference       `json:"appliedBy"`
	StatusConditions      []StatusCondition      `json:"statusConditions"`
	HelmReleaseProperties *HelmReleaseProperties `json:"helmReleaseProperties"`
}

// ObjectReference names an object in the cluster.
type ObjectReference struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

// StatusCondition is a condition of an object in the cluster.
type StatusCondition struct {
	LastTransitionTime time.Time `json:"lastTransitionTime"`
	Message            string    `json:"message"`
	Reason             string    `json:"reason"`
	Status             string    `json:"status"`
	Type               string    `json:"type"`
}

// HelmReleaseProperties are the facts of a HelmRelease.
type HelmReleaseProperties struct {
	LastRevisionApplied int64            `json:"lastRevisionApplied"`
	HelmChartRef        *ObjectReference `json:"helmChartRef"`
	FailureCount        int64            `json:"failureCount"`
	InstallFailureCount int64            `json:"installFailureCount"`
	UpgradeFailureCount int64            `json:"upgradeFailureCount"`
}

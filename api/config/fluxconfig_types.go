package config

import (
	"github.com/fluxcd/pkg/apis/meta"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FluxConfigSpec is the desired state of a configuration.
type FluxConfigSpec struct {
	// CorrelationID of the request that made the newest change.
	// +optional
	CorrelationID string `json:"correlationId,omitempty"`
	// OperationID of the newest change.
	// +optional
	OperationID string `json:"operationId,omitempty"`
	// Scope of the rights of flux-applier.
	// +kubebuilder:validation:Enum=cluster;namespace
	// +kubebuilder:default=cluster
	Scope string `json:"scope"`
	// SoftDelete keeps what the configuration applied when it is deleted.
	// +optional
	SoftDelete bool `json:"softDelete,omitempty"`
	// SourceKind says which of the sources below is used.
	// +kubebuilder:validation:Enum=GitRepository;Bucket;AzureBlob;OCIRepository
	SourceKind string `json:"sourceKind"`
	// Suspend stops the source and all Kustomizations.
	// +optional
	Suspend bool `json:"suspend,omitempty"`

	// +optional
	GitRepository *GitRepository `json:"gitRepository,omitempty"`
	// +optional
	Bucket *Bucket `json:"bucket,omitempty"`
	// +optional
	AzureBlob *AzureBlob `json:"azureBlob,omitempty"`
	// +optional
	OCIRepository *OCIRepository `json:"ociRepository,omitempty"`

	// Kustomizations to make of the source.
	// +optional
	// +listType=map
	// +listMapKey=name
	Kustomizations []Kustomization `json:"kustomizations,omitempty"`

	// ProtectedParametersSecretRef names the Secret with the protected settings.
	// +optional
	ProtectedParametersSecretRef *meta.LocalObjectReference `json:"protectedParametersSecretRef,omitempty"`
}

// GitRepository is a Git source.
type GitRepository struct {
	URL string `json:"url"`
	// +optional
	Ref *GitReference `json:"ref,omitempty"`
	// SyncInterval, for example 10m0s.
	SyncInterval metav1.Duration `json:"syncInterval"`
	Timeout      metav1.Duration `json:"timeout"`
	// HTTPSUser for HTTPS basic authentication.
	// +optional
	HTTPSUser string `json:"httpsUser,omitempty"`
	// HTTPSCACert is base64 of PEM.
	// +optional
	HTTPSCACert string `json:"httpsCACert,omitempty"`
	// SSHKnownHosts is base64 of known_hosts lines.
	// +optional
	SSHKnownHosts string `json:"sshKnownHosts,omitempty"`
	// LocalAuthRef names a Secret in the configuration's namespace.
	// +optional
	LocalAuthRef string `json:"localAuthRef,omitempty"`
	// Provider of credentials: Generic, Azure or GitHub.
	// +optional
	Provider string `json:"provider,omitempty"`
	// SparseCheckout are the directories to fetch; all when empty.
	// +optional
	SparseCheckout []string `json:"sparseCheckout,omitempty"`
	// ObjectLevelIdentity authenticates with a workload identity.
	// +optional
	ObjectLevelIdentity *ObjectLevelIdentity `json:"objectLevelIdentity,omitempty"`
	// AdditionalConfigurations is laid over the spec of the generated source.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Type=object
	AdditionalConfigurations *apiextensionsv1.JSON `json:"additionalConfigurations,omitempty"`
}

// GitReference is what to follow; precedence commit, semver, tag, branch.
type GitReference struct {
	// +optional
	Branch string `json:"branch,omitempty"`
	// +optional
	Tag string `json:"tag,omitempty"`
	// +optional
	Semver string `json:"semver,omitempty"`
	// +optional
	Commit string `json:"commit,omitempty"`
}

// Bucket is an S3-compatible source.
type Bucket struct {
	URL        string `json:"url"`
	BucketName string `json:"bucketName"`
	// +optional
	Insecure     bool            `json:"insecure,omitempty"`
	SyncInterval metav1.Duration `json:"syncInterval"`
	Timeout      metav1.Duration `json:"timeout"`
	// AccessKey is the public half; the secret key is a protected setting.
	// +optional
	AccessKey string `json:"accessKey,omitempty"`
	// +optional
	LocalAuthRef string `json:"localAuthRef,omitempty"`
	// ObjectLevelIdentity authenticates with a workload identity.
	// +optional
	ObjectLevelIdentity *ObjectLevelIdentity `json:"objectLevelIdentity,omitempty"`
	// AdditionalConfigurations is laid over the spec of the generated source.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Type=object
	AdditionalConfigurations *apiextensionsv1.JSON `json:"additionalConfigurations,omitempty"`
}

// AzureBlob is a blob container source.
type AzureBlob struct {
	URL           string          `json:"url"`
	ContainerName string          `json:"containerName"`
	SyncInterval  metav1.Duration `json:"syncInterval"`
	Timeout       metav1.Duration `json:"timeout"`
	// +optional
	ServicePrincipal *ServicePrincipal `json:"servicePrincipal,omitempty"`
	// ManagedIdentityClientID selects a managed identity.
	// +optional
	ManagedIdentityClientID string `json:"managedIdentityClientId,omitempty"`
	// +optional
	LocalAuthRef string `json:"localAuthRef,omitempty"`
	// ObjectLevelIdentity authenticates with a workload identity.
	// +optional
	ObjectLevelIdentity *ObjectLevelIdentity `json:"objectLevelIdentity,omitempty"`
	// AdditionalConfigurations is laid over the spec of the generated source.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Type=object
	AdditionalConfigurations *apiextensionsv1.JSON `json:"additionalConfigurations,omitempty"`
}

// ServicePrincipal authenticates against blob storage.
type ServicePrincipal struct {
	ClientID string `json:"clientId"`
	TenantID string `json:"tenantId"`
	// +optional
	ClientCertificateSendChain bool `json:"clientCertificateSendChain,omitempty"`
}

// OCIRepository is an OCI artifact source.
type OCIRepository struct {
	URL string `json:"url"`
	// +optional
	Ref *OCIReference `json:"ref,omitempty"`
	// +optional
	LayerSelector *LayerSelector `json:"layerSelector,omitempty"`
	// +optional
	Verify *Verify `json:"verify,omitempty"`
	// +optional
	Insecure bool `json:"insecure,omitempty"`
	// +optional
	UseWorkloadIdentity bool `json:"useWorkloadIdentity,omitempty"`
	// +optional
	ServiceAccountName string          `json:"serviceAccountName,omitempty"`
	SyncInterval       metav1.Duration `json:"syncInterval"`
	Timeout            metav1.Duration `json:"timeout"`
	// TLS says that client certificate, key or CA are protected settings.
	// +optional
	TLS bool `json:"tls,omitempty"`
	// +optional
	LocalAuthRef string `json:"localAuthRef,omitempty"`
	// ObjectLevelIdentity authenticates with a workload identity.
	// +optional
	ObjectLevelIdentity *ObjectLevelIdentity `json:"objectLevelIdentity,omitempty"`
	// AdditionalConfigurations is laid over the spec of the generated source.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Type=object
	AdditionalConfigurations *apiextensionsv1.JSON `json:"additionalConfigurations,omitempty"`
}

// OCIReference is what to follow; precedence digest, semver, tag.
type OCIReference struct {
	// +optional
	Tag string `json:"tag,omitempty"`
	// +optional
	Semver string `json:"semver,omitempty"`
	// +optional
	Digest string `json:"digest,omitempty"`
}

// LayerSelector picks a layer.
type LayerSelector struct {
	// +optional
	MediaType string `json:"mediaType,omitempty"`
	// +optional
	Operation string `json:"operation,omitempty"`
}

// Verify asks for signature verification.
type Verify struct {
	Provider string `json:"provider"`
	// +optional
	Config map[string]string `json:"config,omitempty"`
	// +optional
	MatchOIDCIdentity []OIDCIdentity `json:"matchOIDCIdentity,omitempty"`
}

// OIDCIdentity is an accepted keyless signer.
type OIDCIdentity struct {
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`
}

// Kustomization is one path of the source.
type Kustomization struct {
	Name string `json:"name"`
	// +optional
	Path string `json:"path,omitempty"`
	// DependsOn names other entries, plain or prefixed by the configuration.
	// +optional
	DependsOn    []string        `json:"dependsOn,omitempty"`
	Timeout      metav1.Duration `json:"timeout"`
	SyncInterval metav1.Duration `json:"syncInterval"`
	// RetryInterval defaults to the sync interval.
	// +optional
	RetryInterval *metav1.Duration `json:"retryInterval,omitempty"`
	// +optional
	Prune bool `json:"prune,omitempty"`
	// +optional
	Force bool `json:"force,omitempty"`
	// +kubebuilder:default=true
	Wait bool `json:"wait"`
	// +optional
	PostBuild *PostBuild `json:"postBuild,omitempty"`
	// Suspend stops this Kustomization alone.
	// +optional
	Suspend bool `json:"suspend,omitempty"`
	// KubeConfig applies the entry in another cluster.
	// +optional
	KubeConfig *KubeConfig `json:"kubeConfig,omitempty"`
	// AdditionalConfigurations is laid over the spec of the Kustomization.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Type=object
	AdditionalConfigurations *apiextensionsv1.JSON `json:"additionalConfigurations,omitempty"`
}

// KubeConfig is a managed cluster of Azure to apply to.
type KubeConfig struct {
	// ClusterResourceID is the ARM id of the cluster.
	ClusterResourceID string `json:"clusterResourceId"`
	// ObjectLevelIdentity is the workload identity with which that is done.
	// +optional
	ObjectLevelIdentity *ObjectLevelIdentity `json:"objectLevelIdentity,omitempty"`
}

// ObjectLevelIdentity is a workload identity of one object.
type ObjectLevelIdentity struct {
	ClientID string `json:"clientId"`
	// +optional
	TenantID string `json:"tenantId,omitempty"`
	// ServiceAccountName carries the identity; one is made when it is empty.
	// +optional
	ServiceAccountName string `json:"serviceAccountName,omitempty"`
}

// PostBuild is variable substitution after the build.
type PostBuild struct {
	// +optional
	Substitute map[string]string `json:"substitute,omitempty"`
	// +optional
	SubstituteFrom []SubstituteFrom `json:"substituteFrom,omitempty"`
}

// SubstituteFrom is a ConfigMap or Secret with variables.
type SubstituteFrom struct {
	// +kubebuilder:validation:Enum=ConfigMap;Secret
	Kind string `json:"kind"`
	Name string `json:"name"`
	// +optional
	Optional bool `json:"optional,omitempty"`
}

// FluxConfig is a fluxConfiguration in its cluster.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=fc,scope=Namespaced
// +kubebuilder:printcolumn:name="SCOPE",type=string,JSONPath=`.spec.scope`
// +kubebuilder:printcolumn:name="URL",type=string,JSONPath=`.spec.gitRepository.url`
// +kubebuilder:printcolumn:name="COMPLIANCE",type=string,JSONPath=`.status.complianceState`
// +kubebuilder:printcolumn:name="PROVISION",type=string,JSONPath=`.status.provisioningState`
// +kubebuilder:printcolumn:name="AGE",type=date,JSONPath=`.metadata.creationTimestamp`
type FluxConfig struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   FluxConfigSpec   `json:"spec,omitempty"`
	Status FluxConfigStatus `json:"status,omitempty"`
}

// FluxConfigList is a list of FluxConfig.
//
// +kubebuilder:object:root=true
type FluxConfigList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []FluxConfig `json:"items"`
}

package config

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"headwater.dev/api/resource"
)

// Group and Version of the API.
const (
	Group   = "clusterconfig.azure.com"
	Version = "v1alpha1"
	// Kind of the one kind of the group.
	Kind = "FluxConfig"
)

// GroupVersion returns the API's group and version.
func GroupVersion() schema.GroupVersion { return schema.GroupVersion{Group: Group, Version: Version} }

// AddToScheme registers the API's types.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion(), &FluxConfig{}, &FluxConfigList{})
	metav1.AddToGroupVersion(s, GroupVersion())
	return nil
}

// Labels and annotations of generated objects.
const (
	LabelManaged     = Group + "/is-managed"
	LabelName        = Group + "/name"
	LabelNamespace   = Group + "/namespace"
	LabelOperationID = Group + "/operation-id"

	// AnnotationProtectedVersion on the protected-parameters Secret names the
	// version of the protected settings that it holds.
	AnnotationProtectedVersion = Group + "/protected-version"
	// AnnotationGeneration on a FluxConfig is the hub record's generation.
	AnnotationGeneration = Group + "/generation"
	// AnnotationResourceID on a FluxConfig is the ARM id that it mirrors.
	AnnotationResourceID = Group + "/resource-id"
	// AnnotationUseManagedSource on a HelmRelease asks for the configuration's
	// GitRepository as chart source.
	AnnotationUseManagedSource = Group + "/use-managed-source"

	// Finalizer of FluxConfig.
	Finalizer = Group + "/finalizer"
	// ServiceAccount is the identity that applies a configuration.
	ServiceAccount = "flux-applier"
)

// Keys of the Secret with protected settings. The values of the first three,
// of certificates and of TLS material are base64 of what is meant, as all
// clients send them.
const (
	ProtectedSSHPrivateKey   = resource.ProtectedSSHPrivateKey
	ProtectedHTTPSKey        = resource.ProtectedHTTPSKey
	ProtectedBucketSecretKey = resource.ProtectedBucketSecretKey

	ProtectedAzureBlobAccountKey          = resource.ProtectedAzureBlobAccountKey
	ProtectedAzureBlobSASToken            = resource.ProtectedAzureBlobSASToken
	ProtectedAzureBlobClientSecret        = resource.ProtectedAzureBlobClientSecret
	ProtectedAzureBlobCertificate         = resource.ProtectedAzureBlobCertificate
	ProtectedAzureBlobCertificatePassword = resource.ProtectedAzureBlobCertificatePassword
	ProtectedOCIClientCertificate         = resource.ProtectedOCIClientCertificate
	ProtectedOCIPrivateKey                = resource.ProtectedOCIPrivateKey
	ProtectedOCICACertificate             = resource.ProtectedOCICACertificate
)

// DecidedBy is resource.DecidedBy, for those who do not know the hub's model.
func DecidedBy(kind string) map[string]string { return resource.DecidedBy(kind) }

package config

import (
	"github.com/fluxcd/pkg/apis/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FluxConfigStatus is the observed state of a configuration.
type FluxConfigStatus struct {
	// ProvisioningState: Creating, Updating, Deleting, Succeeded or Failed.
	// +optional
	ProvisioningState string `json:"provisioningState,omitempty"`
	// Message says why ProvisioningState is Failed.
	// +optional
	Message string `json:"message,omitempty"`
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// ComplianceState of the whole.
	// +optional
	ComplianceState string `json:"complianceState,omitempty"`
	// +optional
	LastConfigUpdateTime *metav1.Time `json:"lastConfigUpdateTime,omitempty"`
	// +optional
	LastSourceSyncedTime *metav1.Time `json:"lastSourceSyncedTime,omitempty"`
	// LastSyncedCommit is the source's artifact revision.
	// +optional
	LastSyncedCommit string `json:"lastSyncedCommit,omitempty"`
	// +optional
	LastSucceededGeneration int64 `json:"lastSucceededGeneration,omitempty"`
	// LastCompliantGeneration is the newest generation that has been compliant,
	// whatever became of it since.
	// +optional
	LastCompliantGeneration int64 `json:"lastCompliantGeneration,omitempty"`
	// +optional
	LastSucceededKustomizations []string `json:"lastSucceededKustomizations,omitempty"`
	// RepositoryPublicKey is the public half of the generated SSH key.
	// +optional
	RepositoryPublicKey string `json:"repositoryPublicKey,omitempty"`
	// +optional
	DataplaneStatus *DataplaneStatus `json:"dataplaneStatus,omitempty"`
	// +optional
	ManagedStatuses *ManagedStatuses `json:"managedStatuses,omitempty"`
	// LastHandledReconcileAt echoes reconcile.fluxcd.io/requestedAt once the
	// source and all Kustomizations have handled it.
	meta.ReconcileRequestStatus `json:",inline"`
}

// DataplaneStatus says whether the hub knows the status.
type DataplaneStatus struct {
	IsSyncedWithAzure bool `json:"isSyncedWithAzure"`
	// +optional
	LastSyncedTime *metav1.Time `json:"lastSyncedTime,omitempty"`
}

// ManagedStatuses are the states of the generated objects and of what they
// applied.
type ManagedStatuses struct {
	// +optional
	GitRepository *ManagedStatus `json:"gitRepository,omitempty"`
	// +optional
	Bucket *ManagedStatus `json:"bucket,omitempty"`
	// +optional
	OCIRepository *ManagedStatus `json:"ociRepository,omitempty"`
	// Kustomizations by "namespace/name".
	// +optional
	Kustomizations map[string]KustomizationStatus `json:"kustomizations,omitempty"`
}

// ManagedStatus is the state of one object.
type ManagedStatus struct {
	ComplianceState string `json:"complianceState"`
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
	// HelmReleaseProperties is set for HelmReleases.
	// +optional
	HelmReleaseProperties *HelmReleaseProperties `json:"helmReleaseProperties,omitempty"`
}

// KustomizationStatus is the state of a Kustomization and of the Flux objects
// that it applied.
type KustomizationStatus struct {
	ManagedStatus `json:",inline"`
	// +optional
	ChildStatuses *ChildStatuses `json:"childStatuses,omitempty"`
}

// ChildStatuses by kind and "namespace/name".
type ChildStatuses struct {
	// +optional
	Bucket map[string]ManagedStatus `json:"bucket,omitempty"`
	// +optional
	GitRepository map[string]ManagedStatus `json:"gitRepository,omitempty"`
	// +optional
	HelmChart map[string]ManagedStatus `json:"helmChart,omitempty"`
	// +optional
	HelmRelease map[string]ManagedStatus `json:"helmRelease,omitempty"`
	// +optional
	HelmRepository map[string]ManagedStatus `json:"helmRepository,omitempty"`
	// +optional
	OCIRepository map[string]ManagedStatus `json:"ociRepository,omitempty"`
	// +optional
	Kustomization map[string]ManagedStatus `json:"kustomization,omitempty"`
}

// HelmReleaseProperties are facts of a HelmRelease.
type HelmReleaseProperties struct {
	// +optional
	LastRevisionApplied int64 `json:"lastRevisionApplied,omitempty"`
	// +optional
	HelmChartRef *meta.NamespacedObjectReference `json:"helmChartRef,omitempty"`
	// +optional
	FailureCount int64 `json:"failureCount,omitempty"`
	// +optional
	InstallFailureCount int64 `json:"installFailureCount,omitempty"`
	// +optional
	UpgradeFailureCount int64 `json:"upgradeFailureCount,omitempty"`
}

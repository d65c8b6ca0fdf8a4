// Package config holds Headwater's own in-cluster API: FluxConfig of
// clusterconfig.azure.com/v1alpha1, the mirror of a fluxConfiguration in its
// cluster.
//
// +kubebuilder:object:generate=true
// +groupName=clusterconfig.azure.com
// +versionName=v1alpha1
package config

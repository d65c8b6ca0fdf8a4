package fluxconfig

import (
	"context"
	"fmt"
	"maps"

	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"headwater.dev/api/config"
	"headwater.dev/kernel/phase"
)

// Annotations of a service account with a workload identity of Azure.
const (
	annotationClientID = "azure.workload.identity/client-id"
	annotationTenantID = "azure.workload.identity/tenant-id"
)

// identityOf is the workload identity of a configuration's source; nil for none.
func identityOf(spec config.FluxConfigSpec) *config.ObjectLevelIdentity {
	switch {
	case spec.SourceKind == "GitRepository" && spec.GitRepository != nil:
		return spec.GitRepository.ObjectLevelIdentity
	case spec.SourceKind == "AzureBlob" && spec.AzureBlob != nil:
		return spec.AzureBlob.ObjectLevelIdentity
	case spec.SourceKind == "OCIRepository" && spec.OCIRepository != nil:
		return spec.OCIRepository.ObjectLevelIdentity
	default:
		return nil
	}
}

// accountOf is the name of the service account that carries an identity, the
// user's or one of ours; "" for no identity.
func accountOf(i *config.ObjectLevelIdentity, otherwise string) string {
	switch {
	case i == nil:
		return ""
	case i.ServiceAccountName != "":
		return i.ServiceAccountName
	default:
		return otherwise + "-identity"
	}
}

// identityName is the service account that carries the source's identity.
func identityName(c *config.FluxConfig) string { return accountOf(identityOf(c.Spec), c.Name) }

// remoteAccount is the service account with which an entry reaches its cluster.
func remoteAccount(c *config.FluxConfig, k config.Kustomization) string {
	if k.KubeConfig == nil {
		return ""
	}
	return accountOf(k.KubeConfig.ObjectLevelIdentity, kustomizationName(c, k.Name))
}

// identities are the service accounts of all identities of a configuration, as
// they are wanted. One that is named twice must be the same both times.
func identities(c *config.FluxConfig) ([]*corev1.ServiceAccount, error) {
	var out []*corev1.ServiceAccount
	add := func(name string, i *config.ObjectLevelIdentity) error {
		if i == nil {
			return nil
		}
		a := &corev1.ServiceAccount{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: labelled(c, name)}
		a.Annotations = map[string]string{annotationClientID: i.ClientID}
		if i.TenantID != "" {
			a.Annotations[annotationTenantID] = i.TenantID
		}
		for _, b := range out {
			if b.Name == name && !maps.Equal(a.Annotations, b.Annotations) {
				return phase.Stalled("InvalidIdentity", fmt.Errorf("service account %s is to carry two identities: %s and %s", name, a.Annotations[annotationClientID], b.Annotations[annotationClientID]))
			}
		}
		out = append(out, a)
		return nil
	}
	if err := add(identityName(c), identityOf(c.Spec)); err != nil {
		return nil, err
	}
	for _, k := range c.Spec.Kustomizations {
		if k.KubeConfig == nil {
			continue
		}
		if err := add(remoteAccount(c, k), k.KubeConfig.ObjectLevelIdentity); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// keepIdentities makes the service accounts of identities. One that the user has
// made is used as it is when it carries that identity already.
func (r *reconciler) keepIdentities(ctx context.Context, s *scope) error {
	accounts, err := identities(s.obj)
	if err != nil {
		return err
	}
	for _, want := range accounts {
		if err := r.keepIdentity(ctx, want); err != nil {
			return err
		}
	}
	return nil
}

func (r *reconciler) keepIdentity(ctx context.Context, want *corev1.ServiceAccount) error {
	u, err := toUnstructured(want)
	if err != nil {
		return err
	}
	if r.live(ctx, u) == nil {
		live, err := r.look(ctx, u)
		if err != nil {
			return err
		}
		if live != nil && !ours(u, live) {
			return carries(live, want)
		}
	}
	return r.apply(ctx, want)
}

// clusterOf is the ConfigMap that tells a Kustomization where its cluster is and
// who asks for access; nil for an entry that stays in this one.
func clusterOf(c *config.FluxConfig, k config.Kustomization) *corev1.ConfigMap {
	if k.KubeConfig == nil {
		return nil
	}
	m := &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: labelled(c, kustomizationName(c, k.Name)+"-kubeconfig"),
		Data:       map[string]string{meta.KubeConfigKeyProvider: "azure", meta.KubeConfigKeyCluster: k.KubeConfig.ClusterResourceID},
	}
	m.Annotations = nil
	if name := remoteAccount(c, k); name != "" {
		m.Data[meta.KubeConfigKeyServiceAccountName] = name
	}
	return m
}

// carries says how a service account of the user's lacks the identity.
func carries(live *metav1.PartialObjectMetadata, want *corev1.ServiceAccount) error {
	for key, value := range want.Annotations {
		if live.Annotations[key] != value {
			return phase.Waiting("IdentityMissing", lookAgain, fmt.Errorf(
				"ServiceAccount %s/%s exists already without the identity: annotate it with %s=%s, or leave objectLevelIdentity.serviceAccountName out",
				want.Namespace, want.Name, key, value))
		}
	}
	return nil
}

// dropUnwanted deletes the service accounts and ConfigMaps that were made for
// identities and clusters of the configuration, but those that are wanted.
func (r *reconciler) dropUnwanted(ctx context.Context, c *config.FluxConfig, accounts, clusters map[string]bool) error {
	for kind, wanted := range map[string]map[string]bool{"ServiceAccount": accounts, "ConfigMap": clusters} {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind + "List"))
		if err := r.managed.List(ctx, list, generatedFor(c)...); err != nil {
			return fmt.Errorf("list %ss of the configuration: %w", kind, err)
		}
		for i := range list.Items {
			o := &list.Items[i]
			if wanted[o.Name] {
				continue
			}
			o.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
			if err := r.delete(ctx, o); err != nil {
				return err
			}
			gone := &unstructured.Unstructured{}
			gone.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
			gone.SetNamespace(o.Namespace)
			gone.SetName(o.Name)
			r.applied.forget(gone)
		}
	}
	return nil
}

// wantedNames are the names of the service accounts and ConfigMaps that a
// configuration asks for.
func wantedNames(c *config.FluxConfig) (accounts, clusters map[string]bool) {
	accounts, clusters = map[string]bool{identityName(c): true}, map[string]bool{}
	for _, k := range c.Spec.Kustomizations {
		accounts[remoteAccount(c, k)] = true
		if m := clusterOf(c, k); m != nil {
			clusters[m.Name] = true
		}
	}
	return accounts, clusters
}

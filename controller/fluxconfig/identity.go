package fluxconfig

import (
	"context"
	"fmt"

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

// identityName is the service account that carries the source's identity.
func identityName(c *config.FluxConfig) string {
	i := identityOf(c.Spec)
	switch {
	case i == nil:
		return ""
	case i.ServiceAccountName != "":
		return i.ServiceAccountName
	default:
		return c.Name + "-identity"
	}
}

// identityAccount is that service account as it is wanted.
func identityAccount(c *config.FluxConfig) *corev1.ServiceAccount {
	i := identityOf(c.Spec)
	a := &corev1.ServiceAccount{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: labelled(c, identityName(c))}
	a.Annotations = map[string]string{annotationClientID: i.ClientID}
	if i.TenantID != "" {
		a.Annotations[annotationTenantID] = i.TenantID
	}
	return a
}

// keepIdentity makes the service account of the source's identity. One that the
// user has made is used as it is when it carries that identity already.
func (r *reconciler) keepIdentity(ctx context.Context, s *scope) error {
	if identityOf(s.obj.Spec) == nil {
		return nil
	}
	want := identityAccount(s.obj)
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

// dropIdentities deletes the service accounts that were made for identities of
// the configuration, but the one that is wanted.
func (r *reconciler) dropIdentities(ctx context.Context, c *config.FluxConfig, wanted string) error {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ServiceAccountList"))
	if err := r.managed.List(ctx, list, generatedFor(c)...); err != nil {
		return fmt.Errorf("list service accounts of identities: %w", err)
	}
	for _, a := range list.Items {
		if a.Name == wanted {
			continue
		}
		if err := r.delete(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: a.Name, Namespace: a.Namespace}}); err != nil {
			return err
		}
		gone := &unstructured.Unstructured{}
		gone.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ServiceAccount"))
		gone.SetNamespace(a.Namespace)
		gone.SetName(a.Name)
		r.applied.forget(gone)
	}
	return nil
}

package kustomize

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/acl"
	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/kernel/apply"
	"headwater.dev/kernel/cloud"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/tenant"
)

// errNoCredentials is wrapped when a Secret or ConfigMap with credentials is not there.
var errNoCredentials = errors.New("what it names does not exist")

// remoteTenant is the tenant at the cluster that spec.kubeConfig names. What
// says how to reach it is read as the tenant of this cluster: local.
func (l *loop) remoteTenant(ctx context.Context, k *kustomizev1.Kustomization, local apply.Tenant) (apply.Tenant, error) {
	t := apply.Tenant{Owner: local.Owner}
	to, err := l.remoteCluster(ctx, k, local)
	if err != nil {
		return t, err
	}
	t.Identity = tenant.Identity{Namespace: k.Namespace, ServiceAccount: local.Identity.ServiceAccount, Cluster: to.Key}
	t.Access, err = l.tenants.At(to, t.Identity)
	if err != nil {
		return t, phase.RetryAfter(meta.ReconciliationFailedReason, k.GetRetryInterval(), fmt.Errorf("spec.kubeConfig: %w", err))
	}
	return t, nil
}

func (l *loop) remoteCluster(ctx context.Context, k *kustomizev1.Kustomization, local apply.Tenant) (tenant.Cluster, error) {
	ref := k.Spec.KubeConfig
	switch {
	case ref.SecretRef != nil && ref.ConfigMapRef == nil:
		return l.clusterOfSecret(ctx, k, local)
	case ref.ConfigMapRef != nil && ref.SecretRef == nil:
		return l.clusterOfConfigMap(ctx, k, local)
	}
	return tenant.Cluster{}, phase.Stalled(meta.ReconciliationFailedReason, errors.New("spec.kubeConfig: exactly one of secretRef and configMapRef must be set"))
}

func (l *loop) clusterOfSecret(ctx context.Context, k *kustomizev1.Kustomization, local apply.Tenant) (tenant.Cluster, error) {
	name := k.Spec.KubeConfig.SecretRef.Name
	secret := &corev1.Secret{}
	if err := l.readInput(ctx, local, inputRef("Secret", k.Namespace, name), secret); err != nil {
		return tenant.Cluster{}, l.inputFailed(k, "spec.kubeConfig.secretRef", err)
	}
	raw, err := kubeConfigOf(secret, k.Spec.KubeConfig.SecretRef.Key)
	if err != nil {
		return tenant.Cluster{}, refusedKubeConfig(name, err)
	}
	config, err := tenant.KubeConfig(raw, l.options.KubeConfigs)
	if err != nil {
		return tenant.Cluster{}, refusedKubeConfig(name, err)
	}
	return tenant.Cluster{Key: keyOf(k.Namespace, raw), Config: config}, nil
}

// refusedKubeConfig waits for the Secret to change, which is watched.
func refusedKubeConfig(name string, err error) error {
	return phase.Stalled(acl.AccessDeniedReason, fmt.Errorf("spec.kubeConfig.secretRef: Secret %q: %w", name, err))
}

func kubeConfigOf(secret *corev1.Secret, key string) ([]byte, error) {
	keys := []string{key}
	if key == "" {
		keys = []string{"value", "value.yaml"}
	}
	for _, key := range keys {
		if raw, ok := secret.Data[key]; ok {
			return raw, nil
		}
	}
	return nil, fmt.Errorf("it has no key %q with a kubeconfig", keys[0])
}

func (l *loop) clusterOfConfigMap(ctx context.Context, k *kustomizev1.Kustomization, local apply.Tenant) (tenant.Cluster, error) {
	const field = "spec.kubeConfig.configMapRef"
	name := k.Spec.KubeConfig.ConfigMapRef.Name
	cm := &corev1.ConfigMap{}
	if err := l.readInput(ctx, local, inputRef("ConfigMap", k.Namespace, name), cm); err != nil {
		return tenant.Cluster{}, l.inputFailed(k, field, err)
	}
	if err := identified(cm, l.options.DefaultKubeConfigServiceAccount, local.Identity.ServiceAccount != ""); err != nil {
		return tenant.Cluster{}, phase.Stalled(acl.AccessDeniedReason, fmt.Errorf("%s: ConfigMap %q %w", field, name, err))
	}
	config, err := l.clouds.RESTConfig(ctx, k, cm) // the very one that was judged
	if errors.Is(err, cloud.ErrUnsupported) {
		return tenant.Cluster{}, phase.Stalled(meta.ReconciliationFailedReason, fmt.Errorf("%s: ConfigMap %q: %w", field, name, err))
	}
	if err != nil {
		return tenant.Cluster{}, phase.RetryAfter(meta.ReconciliationFailedReason, k.GetRetryInterval(), fmt.Errorf("%s: ConfigMap %q: %w", field, name, err))
	}
	parts := [][]byte{[]byte(config.Host), config.CAData}
	for _, key := range []string{meta.KubeConfigKeyProvider, meta.KubeConfigKeyCluster, meta.KubeConfigKeyServiceAccountName, meta.KubeConfigKeyAudiences} {
		parts = append(parts, []byte(cm.Data[key]))
	}
	return tenant.Cluster{Key: keyOf(k.Namespace, parts...), Config: config}, nil
}

// keyOf never lets two namespaces share a connection.
func keyOf(ns string, parts ...[]byte) string {
	h := sha256.New()
	for _, p := range append([][]byte{[]byte(ns)}, parts...) {
		_, _ = fmt.Fprintf(h, "%d:", len(p))
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// inputFailed waits for what is missing, which is watched where the tenant may.
func (l *loop) inputFailed(k *kustomizev1.Kustomization, field string, err error) error {
	if apierrors.IsNotFound(err) {
		return phase.Waiting(meta.ReconciliationFailedReason, l.options.RequeueDependency, fmt.Errorf("%s: %w: %w", field, errNoCredentials, err))
	}
	return retry(k, meta.ReconciliationFailedReason, fmt.Errorf("%s: %w", field, err))
}

// inputRefs are the Secrets and ConfigMaps that a Kustomization reads.
func inputRefs(k *kustomizev1.Kustomization) []apply.Ref {
	var refs []apply.Ref
	if ref := k.Spec.KubeConfig; ref != nil && ref.SecretRef != nil {
		refs = append(refs, inputRef("Secret", k.Namespace, ref.SecretRef.Name))
	}
	if ref := k.Spec.KubeConfig; ref != nil && ref.ConfigMapRef != nil {
		refs = append(refs, inputRef("ConfigMap", k.Namespace, ref.ConfigMapRef.Name))
	}
	if d := k.Spec.Decryption; d != nil && d.SecretRef != nil {
		refs = append(refs, inputRef("Secret", k.Namespace, d.SecretRef.Name))
	}
	if k.Spec.PostBuild != nil {
		for _, ref := range k.Spec.PostBuild.SubstituteFrom {
			refs = append(refs, inputRef(ref.Kind, k.Namespace, ref.Name))
		}
	}
	return refs
}

func inputRef(kind, ns, name string) apply.Ref {
	return apply.Ref{ID: apply.ID{Namespace: ns, Name: name, GroupKind: schema.GroupKind{Kind: kind}}, Version: "v1"}
}

// readInput reads a Secret or ConfigMap as the tenant, and notes what it saw
// for the watch.
func (l *loop) readInput(ctx context.Context, t apply.Tenant, ref apply.Ref, into client.Object) error {
	if err := t.Access.Client.Get(ctx, types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, into); err != nil {
		return err
	}
	l.inputs.Saw(t, ref, into)
	return nil
}

// identified makes a ConfigMap name the service account whose cloud identity is
// used: its own, else the default one. A tenant never gets the controller's.
func identified(cm *corev1.ConfigMap, fallback string, tenant bool) error {
	const key = meta.KubeConfigKeyServiceAccountName
	switch {
	case cm.Data[key] != "":
	case fallback != "":
		if cm.Data == nil {
			cm.Data = map[string]string{}
		}
		cm.Data[key] = fallback
	case tenant:
		return fmt.Errorf("has no %s: without one the controller's own cloud identity would be used", key)
	}
	return nil
}

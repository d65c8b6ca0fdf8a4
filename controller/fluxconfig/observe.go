package fluxconfig

import (
	"context"
	"errors"
	"fmt"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/api/config"
	"headwater.dev/kernel/phase"
)

// observe reads everything that the decisions and the status depend on.
func (r *reconciler) observe(ctx context.Context, s *scope) error {
	return errors.Join(
		r.observeSecrets(ctx, s),
		r.observeSiblings(ctx, s),
		r.observeGenerated(ctx, s),
	)
}

func (r *reconciler) observeSecrets(ctx context.Context, s *scope) error {
	auth, err := r.secret(ctx, s.obj.Namespace, authName(s.obj))
	if err != nil {
		return err
	}
	s.auth = auth
	if s.obj.Spec.ProtectedParametersSecretRef == nil {
		return nil
	}
	name := s.obj.Spec.ProtectedParametersSecretRef.Name
	protected, err := r.secret(ctx, s.obj.Namespace, name)
	if err != nil {
		return err
	}
	if protected == nil {
		if !s.obj.DeletionTimestamp.IsZero() {
			return nil
		}
		return phase.Transient("SecretNotFound", fmt.Errorf("spec.protectedParametersSecretRef: Secret %s/%s does not exist: apply the configuration's protected settings again", s.obj.Namespace, name))
	}
	s.protected = protected.Data
	return nil
}

// secret reads a Secret; nil when it does not exist.
func (r *reconciler) secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	v := &corev1.Secret{}
	err := r.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, v)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Secret %s/%s: %w", namespace, name, err)
	}
	return v, nil
}

func (r *reconciler) observeSiblings(ctx context.Context, s *scope) error {
	var list config.FluxConfigList
	if err := r.client.List(ctx, &list, client.InNamespace(s.obj.Namespace)); err != nil {
		return fmt.Errorf("list FluxConfigs: %w", err)
	}
	busy := map[string]bool{}
	for _, c := range list.Items {
		if c.DeletionTimestamp.IsZero() {
			continue
		}
		// Kustomizations remove what they applied with the rights of the namespace.
		var ks kustomizev1.KustomizationList
		if err := r.client.List(ctx, &ks, generatedFor(&c)...); err != nil {
			return fmt.Errorf("list Kustomizations of %s: %w", c.Name, err)
		}
		busy[c.Name] = len(ks.Items) > 0
	}
	for _, c := range list.Items {
		if c.Name != s.obj.Name && (c.DeletionTimestamp.IsZero() || busy[c.Name]) {
			s.siblings = append(s.siblings, c)
		}
	}
	return nil
}

func (r *reconciler) observeGenerated(ctx context.Context, s *scope) error {
	var (
		git     sourcev1.GitRepositoryList
		buckets sourcev1.BucketList
		oci     sourcev1.OCIRepositoryList
		ks      kustomizev1.KustomizationList
	)
	for _, l := range []client.ObjectList{&git, &buckets, &oci, &ks} {
		if err := r.client.List(ctx, l, generatedFor(s.obj)...); err != nil {
			return fmt.Errorf("list generated objects: %w", err)
		}
	}
	for i := range git.Items {
		s.sources = append(s.sources, &git.Items[i])
	}
	for i := range buckets.Items {
		s.sources = append(s.sources, &buckets.Items[i])
	}
	for i := range oci.Items {
		s.sources = append(s.sources, &oci.Items[i])
	}
	s.kustomizations = ks.Items
	return nil
}

// generatedFor selects what was made for a configuration.
func generatedFor(c *config.FluxConfig) []client.ListOption {
	return []client.ListOption{client.InNamespace(c.Namespace), client.MatchingLabels{
		config.LabelManaged: "true", config.LabelName: c.Name, config.LabelNamespace: c.Namespace,
	}}
}

// children reads the Flux objects that a Kustomization applied, by kind.
func (r *reconciler) children(ctx context.Context, k *kustomizev1.Kustomization) ([]child, error) {
	if k.Status.Inventory == nil {
		return nil, nil
	}
	var out []child
	for _, e := range k.Status.Inventory.Entries {
		ref, ok := fluxObject(e.ID)
		if !ok {
			continue
		}
		c, err := r.child(ctx, ref)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
		if h, ok := c.obj.(*helmv2.HelmRelease); ok {
			chart, err := r.chartOf(ctx, h)
			if err != nil {
				return nil, err
			}
			out = append(out, chart...)
		}
	}
	return out, nil
}

func (r *reconciler) child(ctx context.Context, ref objectRef) (child, error) {
	obj := ref.empty()
	err := r.client.Get(ctx, ref.key, obj)
	if apierrors.IsNotFound(err) {
		return child{ref: ref}, nil
	}
	if err != nil {
		return child{}, fmt.Errorf("read %s %s: %w", ref.kind, ref.key, err)
	}
	return child{ref: ref, obj: obj}, nil
}

// chartOf gives the HelmChart that a HelmRelease made, if it did.
func (r *reconciler) chartOf(ctx context.Context, h *helmv2.HelmRelease) ([]child, error) {
	if h.Status.HelmChart == "" {
		return nil, nil
	}
	ns, name := h.Status.GetHelmChart()
	c, err := r.child(ctx, objectRef{kind: "HelmChart", key: client.ObjectKey{Namespace: ns, Name: name}})
	if err != nil || c.obj == nil {
		return nil, err
	}
	return []child{c}, nil
}

func requestedAt(obj client.Object) string {
	at, _ := meta.ReconcileAnnotationValue(obj.GetAnnotations())
	return at
}

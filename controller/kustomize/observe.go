package kustomize

import (
	"context"
	"errors"
	"fmt"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/acl"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/kernel/apply"
	"headwater.dev/kernel/depend"
	"headwater.dev/kernel/manifest"
	"headwater.dev/kernel/phase"
	"headwater.dev/kernel/tenant"
)

// checkSpec refuses what is not allowed or not supported.
func (l *loop) checkSpec(_ context.Context, s *scope) error {
	k := s.obj
	if err := crossNamespace(k, l.options.NoCrossNamespaceRefs); err != nil {
		return phase.Stalled(acl.AccessDeniedReason, err)
	}
	judge, err := judgeOf(k)
	if err != nil {
		return phase.Stalled(meta.InvalidCELExpressionReason, err)
	}
	s.judge = judge
	for i, h := range k.Spec.HealthChecks {
		if _, err := versionOf(h); err != nil {
			return phase.Stalled(meta.HealthCheckFailedReason, fmt.Errorf("spec.healthChecks[%d].apiVersion: %w", i, err))
		}
	}
	if s.ignores, err = apply.CompileIgnores(k.Spec.Ignore); err != nil {
		return phase.Stalled(meta.BuildFailedReason, err)
	}
	return nil
}

func judgeOf(k *kustomizev1.Kustomization) (apply.Judge, error) {
	judge := apply.Judge{}
	for i, c := range k.Spec.HealthCheckExprs {
		gv, err := schema.ParseGroupVersion(c.APIVersion)
		if err != nil {
			return nil, fmt.Errorf("spec.healthCheckExprs[%d].apiVersion: %w", i, err)
		}
		rule, err := apply.Expressed(&c.HealthCheckExpressions)
		if err != nil {
			return nil, fmt.Errorf("spec.healthCheckExprs[%d]: %w", i, err)
		}
		judge[schema.GroupKind{Group: gv.Group, Kind: c.Kind}] = rule
	}
	return judge, nil
}

// newSource makes an empty source of a kind.
func newSource(kind string) (client.Object, error) {
	switch kind {
	case sourcev1.GitRepositoryKind:
		return &sourcev1.GitRepository{}, nil
	case sourcev1.OCIRepositoryKind:
		return &sourcev1.OCIRepository{}, nil
	case sourcev1.BucketKind:
		return &sourcev1.Bucket{}, nil
	case sourcev1.ExternalArtifactKind:
		return &sourcev1.ExternalArtifact{}, nil
	}
	return nil, fmt.Errorf("spec.sourceRef.kind: source of kind %q is not supported", kind)
}

func sourceKey(k *kustomizev1.Kustomization) types.NamespacedName {
	ns := k.Spec.SourceRef.Namespace
	if ns == "" {
		ns = k.Namespace
	}
	return types.NamespacedName{Namespace: ns, Name: k.Spec.SourceRef.Name}
}

func (l *loop) findSource(ctx context.Context, s *scope) error {
	obj, err := newSource(s.obj.Spec.SourceRef.Kind)
	if err != nil {
		return phase.Stalled(meta.ArtifactFailedReason, err)
	}
	key := sourceKey(s.obj)
	name := s.obj.Spec.SourceRef.Kind + "/" + key.String()
	err = l.client.Get(ctx, key, obj)
	if apierrors.IsNotFound(err) || apimeta.IsNoMatchError(err) {
		return l.waiting(s, meta.ArtifactFailedReason, fmt.Errorf("source %s not found", name))
	}
	if err != nil {
		return phase.Transient(meta.ArtifactFailedReason, fmt.Errorf("read source %s: %w", name, err))
	}
	s.source = obj.(sourcev1.Source)
	s.artifact = s.source.GetArtifact()
	if s.artifact == nil {
		return l.waiting(s, meta.ArtifactFailedReason, fmt.Errorf("source %s has no artifact yet", name))
	}
	s.obj.Status.LastAttemptedRevision = s.artifact.Revision
	return nil
}

// waiting parks a Kustomization until a watch brings it back. One that was made
// a moment ago, with what it waits for most of the time, says so only when the
// moment is over.
func (l *loop) waiting(s *scope, reason string, err error) error {
	k := s.obj
	if rest := newPatience - l.now().Sub(k.CreationTimestamp.Time); rest > 0 && rest <= newPatience && conditions.Get(k, meta.ReadyCondition) == nil {
		return phase.Quietly(rest, err)
	}
	return phase.Waiting(reason, l.options.RequeueDependency, err)
}

func (l *loop) checkDependencies(ctx context.Context, s *scope) error {
	refs, err := depend.Of(s.obj)
	if err != nil {
		return phase.Stalled(meta.DependencyNotReadyReason, err)
	}
	if len(refs) == 0 {
		return nil
	}
	get := func(key depend.Key) (depend.Object, error) { return depend.Get(ctx, l.all, key) }
	if cycle := depend.Cycle(s.obj, get); cycle != "" {
		return phase.Stalled(meta.DependencyNotReadyReason, fmt.Errorf("dependency cycle %s: remove one of these dependsOn", cycle))
	}
	for _, ref := range refs {
		dep, err := get(ref.Key)
		if apierrors.IsNotFound(err) || apimeta.IsNoMatchError(err) {
			err = fmt.Errorf("dependency '%s' not found", dependencyName(ref.Key))
			return l.waiting(s, meta.DependencyNotReadyReason, err)
		}
		if err != nil {
			return phase.Transient(meta.DependencyNotReadyReason, fmt.Errorf("read dependency '%s': %w", dependencyName(ref.Key), err))
		}
		ready, err := dependencyReady(ctx, s.obj, dep, ref.ReadyExpr, s.artifact.Revision)
		if err != nil {
			return notEvaluated(ref, err)
		}
		if !ready {
			return l.waiting(s, meta.DependencyNotReadyReason, fmt.Errorf("dependency '%s' is not ready", dependencyName(ref.Key)))
		}
	}
	return nil
}

// notEvaluated: an expression that does not compile needs the user. One that was
// given up is tried again, since nothing else would bring the Kustomization back.
func notEvaluated(ref depend.Ref, err error) error {
	err = fmt.Errorf("%s.readyExpr: %w", ref.Field, err)
	if errors.Is(err, depend.ErrSlow) {
		return phase.Transient(meta.DependencyNotReadyReason, err)
	}
	return phase.Stalled(meta.InvalidCELExpressionReason, err)
}

// becomeTenant finds who acts, which is never this process for want of a name.
func (l *loop) becomeTenant(ctx context.Context, s *scope) error {
	var err error
	if s.local, err = l.tenantOf(s.obj); err != nil {
		return phase.Stalled(acl.AccessDeniedReason, err)
	}
	if refs := inputRefs(s.obj); len(refs) > 0 {
		l.inputs.Track(apply.Interest{Tenant: s.local, Others: refs, Versions: true})
	} else {
		l.inputs.Forget(s.key)
	}
	s.tenant = s.local
	if s.obj.Spec.KubeConfig != nil {
		s.tenant, err = l.remoteTenant(ctx, s.obj, s.local)
	}
	return err
}

// tenantOf is who acts for a Kustomization in this cluster.
func (l *loop) tenantOf(k *kustomizev1.Kustomization) (apply.Tenant, error) {
	t := apply.Tenant{Owner: client.ObjectKeyFromObject(k)}
	name := k.Spec.ServiceAccountName
	if name == "" {
		name = l.options.DefaultServiceAccount
	}
	var err error
	if name == "" && !l.options.NoCrossNamespaceRefs {
		t.Access, err = l.tenants.Own()
		return t, err
	}
	if err := serviceAccountName(name); err != nil {
		return t, err
	}
	t.Identity = tenant.Identity{Namespace: k.Namespace, ServiceAccount: name}
	t.Access, err = l.tenants.As(t.Identity)
	return t, err
}

// seeLive watches what the inventory holds before anything is written, so that
// an object that asks to be left alone is, after a restart too.
func (l *loop) seeLive(ctx context.Context, s *scope) error {
	s.refs, s.foreign = s.known.refs, s.known.foreign
	if s.refs == nil {
		s.refs = apply.Refs(s.obj.Status.Inventory)
	}
	l.track(s, s.refs)
	l.watcher.Restore(s.key, s.receipts)
	if !l.watcher.Synced(s.key) && (s.known.generation == 0 || s.known.restored) && len(s.refs) > 0 {
		return phase.Quietly(listPatience, errors.New("the live objects are not listed yet"))
	}
	return l.reach(ctx, s)
}

// reach asks for one object when watches have been broken for long, so that a
// cluster that does not answer holds a worker for one request, not for all.
func (l *loop) reach(ctx context.Context, s *scope) error {
	ref, lost := l.watcher.Lost(s.key)
	if !lost {
		return nil
	}
	_, err := l.watcher.Get(ctx, s.tenant, ref)
	if !unanswered(err) {
		return nil // the apply says what the answer is
	}
	return phase.Transient(meta.ReconciliationFailedReason, fmt.Errorf("the live objects are not seen any more: %w", err))
}

// unanswered tells a read that reached nobody from one that failed.
func unanswered(err error) bool {
	var answer *apply.ObjectError
	return err != nil && !errors.As(err, &answer) && apply.Transient(err)
}

func (l *loop) track(s *scope, refs []apply.Ref) {
	watched := append(apply.Scoped(s.tenant, others(s.obj, refs)), s.foreign...)
	l.watcher.Track(apply.Interest{Tenant: s.tenant, Objects: refs, Others: watched, Judge: s.judge})
}

// variables reads what the post-build substitution takes from the cluster, as
// the tenant.
func (l *loop) variables(ctx context.Context, s *scope) error {
	post := s.obj.Spec.PostBuild
	if post == nil {
		return nil
	}
	layers := make([]map[string]string, 0, len(post.SubstituteFrom))
	for _, ref := range post.SubstituteFrom {
		values, err := l.readVariables(ctx, s.local, s.obj.Namespace, ref)
		if err != nil {
			return err
		}
		layers = append(layers, values)
	}
	vars, err := manifest.NewVariables(post, l.options.StrictSubstitution, layers...)
	if err != nil {
		return err
	}
	s.vars = vars
	return nil
}

func (l *loop) readVariables(ctx context.Context, t apply.Tenant, ns string, ref kustomizev1.SubstituteReference) (map[string]string, error) {
	input := inputRef(ref.Kind, ns, ref.Name)
	values := map[string]string{}
	var err error
	switch ref.Kind {
	case "ConfigMap":
		cm := &corev1.ConfigMap{}
		err = l.readInput(ctx, t, input, cm)
		values = cm.Data
	case "Secret":
		secret := &corev1.Secret{}
		err = l.readInput(ctx, t, input, secret)
		for k, v := range secret.Data {
			values[k] = string(v)
		}
	default:
		return nil, fmt.Errorf("spec.postBuild.substituteFrom: kind %q is not supported", ref.Kind)
	}
	if apierrors.IsNotFound(err) && ref.Optional {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("substitute from '%s/%s' error: %w", ref.Kind, ref.Name, err)
	}
	return values, nil
}

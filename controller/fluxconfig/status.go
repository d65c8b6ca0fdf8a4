package fluxconfig

import (
	"context"
	"slices"
	"strings"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/api/config"
)

// Compliance states, as the hub shows them.
const (
	compliant    = "Compliant"
	nonCompliant = "Non-Compliant"
	pending      = "Pending"
	suspended    = "Suspended"
)

// objectRef names a Flux object.
type objectRef struct {
	kind string
	key  client.ObjectKey
}

// child is a Flux object that a Kustomization applied; obj is nil when it is
// not there.
type child struct {
	ref objectRef
	obj client.Object
}

func (r objectRef) empty() client.Object {
	switch r.kind {
	case sourcev1.GitRepositoryKind:
		return &sourcev1.GitRepository{}
	case sourcev1.BucketKind:
		return &sourcev1.Bucket{}
	case sourcev1.OCIRepositoryKind:
		return &sourcev1.OCIRepository{}
	case sourcev1.HelmRepositoryKind:
		return &sourcev1.HelmRepository{}
	case sourcev1.HelmChartKind:
		return &sourcev1.HelmChart{}
	case helmv2.HelmReleaseKind:
		return &helmv2.HelmRelease{}
	default:
		return &kustomizev1.Kustomization{}
	}
}

// fluxGroups are the kinds, by API group, whose state is part of a
// configuration's.
func fluxGroups() map[string][]string {
	return map[string][]string{
		sourcev1.GroupVersion.Group: {sourcev1.GitRepositoryKind, sourcev1.BucketKind, sourcev1.OCIRepositoryKind,
			sourcev1.HelmRepositoryKind, sourcev1.HelmChartKind},
		helmv2.GroupVersion.Group:      {helmv2.HelmReleaseKind},
		kustomizev1.GroupVersion.Group: {kustomizev1.KustomizationKind},
	}
}

// fluxObject reads an inventory id, namespace_name_group_kind, and reports
// whether it is of a kind whose state counts.
func fluxObject(id string) (objectRef, bool) {
	part := strings.Split(id, "_")
	if len(part) != 4 || !slices.Contains(fluxGroups()[part[2]], part[3]) {
		return objectRef{}, false
	}
	return objectRef{kind: part[3], key: client.ObjectKey{Namespace: part[0], Name: part[1]}}, true
}

func kindOf(o client.Object) string {
	switch o.(type) {
	case *sourcev1.GitRepository:
		return sourcev1.GitRepositoryKind
	case *sourcev1.Bucket:
		return sourcev1.BucketKind
	case *sourcev1.OCIRepository:
		return sourcev1.OCIRepositoryKind
	default:
		return o.GetObjectKind().GroupVersionKind().Kind
	}
}

// withConditions is what all Flux kinds have.
type withConditions interface {
	client.Object
	GetConditions() []metav1.Condition
}

// statusOf folds the conditions of an object.
func statusOf(obj client.Object, stopped bool) config.ManagedStatus {
	o, ok := obj.(withConditions)
	if !ok || obj == nil {
		return config.ManagedStatus{ComplianceState: pending, Message: "the object does not exist yet"}
	}
	out := config.ManagedStatus{Conditions: slices.Clone(o.GetConditions()), ComplianceState: pending}
	ready := apimeta.FindStatusCondition(out.Conditions, meta.ReadyCondition)
	switch {
	case stopped:
		out.ComplianceState = suspended
	case ready == nil:
		out.Message = "nothing is reported yet"
	case ready.ObservedGeneration < o.GetGeneration(), ready.Status == metav1.ConditionUnknown:
		out.Message = ready.Message
	case ready.Status == metav1.ConditionTrue:
		out.ComplianceState = compliant
	case ready.Reason == meta.DependencyNotReadyReason:
		out.Message = ready.Message
	default:
		out.ComplianceState, out.Message = nonCompliant, ready.Message
	}
	return out
}

// current folds the conditions of a generated object, unless the cache has not
// yet seen what was just applied: the conditions are those of before then.
func (r *reconciler) current(kind string, obj client.Object, stopped bool) config.ManagedStatus {
	status := statusOf(obj, stopped)
	if r.applied.behind(kind, obj) {
		status.ComplianceState, status.Message = pending, "the object was just changed"
	}
	return status
}

// isSuspended reads spec.suspend of the kinds that have it.
func isSuspended(obj client.Object) bool {
	switch o := obj.(type) {
	case *sourcev1.GitRepository:
		return o.Spec.Suspend
	case *sourcev1.Bucket:
		return o.Spec.Suspend
	case *sourcev1.OCIRepository:
		return o.Spec.Suspend
	case *sourcev1.HelmRepository:
		return o.Spec.Suspend
	case *sourcev1.HelmChart:
		return o.Spec.Suspend
	case *helmv2.HelmRelease:
		return o.Spec.Suspend
	case *kustomizev1.Kustomization:
		return o.Spec.Suspend
	default:
		return false
	}
}

// overall folds the states of all objects of a configuration.
func overall(stopped bool, states []string) string {
	switch {
	case slices.Contains(states, nonCompliant):
		return nonCompliant
	case stopped:
		return suspended
	case len(states) == 0 || slices.Contains(states, pending):
		return pending
	default:
		return compliant
	}
}

// fold computes the status from what was observed. It keeps what is not its.
func (r *reconciler) fold(ctx context.Context, s *scope) error {
	st := &s.obj.Status
	m := &config.ManagedStatuses{Kustomizations: map[string]config.KustomizationStatus{}}
	states := []string{r.foldSource(s, m)}
	st.LastSucceededKustomizations = nil
	for _, want := range s.obj.Spec.Kustomizations {
		name := kustomizationName(s.obj, want.Name)
		k, childStates, err := r.foldKustomization(ctx, s, name)
		if err != nil {
			return err
		}
		if k.ComplianceState == compliant {
			st.LastSucceededKustomizations = append(st.LastSucceededKustomizations, name)
		}
		m.Kustomizations[s.obj.Namespace+"/"+name] = k
		states = append(append(states, k.ComplianceState), childStates...)
	}
	fit(m)
	st.ManagedStatuses = m
	st.ComplianceState = overall(s.obj.Spec.Suspend, states)
	return nil
}

func (r *reconciler) foldSource(s *scope, m *config.ManagedStatuses) string {
	status := config.ManagedStatus{ComplianceState: pending, Message: "the object does not exist yet"}
	for _, o := range s.sources {
		if kindOf(o) != sourceKindOf(s.obj) || o.GetName() != s.obj.Name {
			continue
		}
		status = r.current(sourceKindOf(s.obj), o, isSuspended(o))
		if a := o.(sourcev1.Source).GetArtifact(); a != nil {
			t := a.LastUpdateTime
			s.obj.Status.LastSyncedCommit, s.obj.Status.LastSourceSyncedTime = a.Revision, &t
		}
	}
	switch sourceKindOf(s.obj) {
	case sourcev1.BucketKind:
		m.Bucket = &status
	case sourcev1.OCIRepositoryKind:
		m.OCIRepository = &status
	default:
		m.GitRepository = &status
	}
	return status.ComplianceState
}

func (r *reconciler) foldKustomization(ctx context.Context, s *scope, name string) (config.KustomizationStatus, []string, error) {
	i := slices.IndexFunc(s.kustomizations, func(k kustomizev1.Kustomization) bool { return k.Name == name })
	if i < 0 {
		return config.KustomizationStatus{ManagedStatus: config.ManagedStatus{ComplianceState: pending, Message: "the object does not exist yet"}}, nil, nil
	}
	k := &s.kustomizations[i]
	out := config.KustomizationStatus{ManagedStatus: r.current(kustomizev1.KustomizationKind, k, k.Spec.Suspend)}
	children, err := r.children(ctx, k)
	if err != nil || len(children) == 0 {
		return out, nil, err
	}
	out.ChildStatuses = &config.ChildStatuses{}
	var states []string
	for _, c := range children {
		status := statusOf(c.obj, c.obj != nil && isSuspended(c.obj))
		if h, ok := c.obj.(*helmv2.HelmRelease); ok {
			status.HelmReleaseProperties = helmProperties(h)
		}
		put(out.ChildStatuses, c.ref, status)
		if status.ComplianceState != suspended {
			states = append(states, status.ComplianceState)
		}
	}
	return out, states, nil
}

func put(c *config.ChildStatuses, ref objectRef, status config.ManagedStatus) {
	m := map[string]*map[string]config.ManagedStatus{
		sourcev1.BucketKind: &c.Bucket, sourcev1.GitRepositoryKind: &c.GitRepository, sourcev1.HelmChartKind: &c.HelmChart,
		helmv2.HelmReleaseKind: &c.HelmRelease, sourcev1.HelmRepositoryKind: &c.HelmRepository,
		sourcev1.OCIRepositoryKind: &c.OCIRepository, kustomizev1.KustomizationKind: &c.Kustomization,
	}[ref.kind]
	if *m == nil {
		*m = map[string]config.ManagedStatus{}
	}
	(*m)[ref.key.Namespace+"/"+ref.key.Name] = status
}

func helmProperties(h *helmv2.HelmRelease) *config.HelmReleaseProperties {
	out := &config.HelmReleaseProperties{
		FailureCount: h.Status.Failures, InstallFailureCount: h.Status.InstallFailures, UpgradeFailureCount: h.Status.UpgradeFailures,
	}
	if latest := h.Status.History.Latest(); latest != nil {
		out.LastRevisionApplied = int64(latest.Version)
	}
	if h.Status.HelmChart != "" {
		ns, name := h.Status.GetHelmChart()
		out.HelmChartRef = &meta.NamespacedObjectReference{Namespace: ns, Name: name}
	}
	return out
}

// watched lists the kinds whose states count.
func watched() []client.Object {
	return []client.Object{
		&sourcev1.GitRepository{}, &sourcev1.Bucket{}, &sourcev1.OCIRepository{}, &sourcev1.HelmRepository{}, &sourcev1.HelmChart{},
		&helmv2.HelmRelease{}, &kustomizev1.Kustomization{},
	}
}

// generatedKinds are the kinds, besides the watched ones, whose metadata is
// watched so that a change by hand is mended.
func generatedKinds() []schema.GroupVersionKind {
	return []schema.GroupVersionKind{
		{Version: "v1", Kind: "Secret"}, {Version: "v1", Kind: "ServiceAccount"}, {Version: "v1", Kind: "ConfigMap"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "RoleBinding"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRoleBinding"},
	}
}

// sourceKinds are the generated kinds whose metadata tells a change by hand.
func sourceKinds() []schema.GroupVersionKind {
	return []schema.GroupVersionKind{
		sourcev1.GroupVersion.WithKind(sourcev1.GitRepositoryKind), sourcev1.GroupVersion.WithKind(sourcev1.BucketKind),
		sourcev1.GroupVersion.WithKind(sourcev1.OCIRepositoryKind), kustomizev1.GroupVersion.WithKind(kustomizev1.KustomizationKind),
	}
}

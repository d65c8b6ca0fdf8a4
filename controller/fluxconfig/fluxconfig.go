// Package fluxconfig turns a FluxConfig into a source, Kustomizations,
// credentials and rights, and folds their states into its status.
//
// It acts as itself: everything it writes is its own. What the Kustomizations
// apply is applied by flux-applier, whose rights it grants.
package fluxconfig

import (
	"context"
	"fmt"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"headwater.dev/api/config"
	"headwater.dev/kernel/phase"
)

const (
	fieldOwner = "fluxconfig-controller"
	// verifyEvery is how often everything is looked at again without a reason.
	verifyEvery = 10 * time.Minute
)

// scope is what one reconcile has read and decided.
type scope struct {
	obj *config.FluxConfig
	// now is the time of the reconcile.
	now time.Time
	// auth is the Secret with credentials as it is; nil when there is none.
	auth *corev1.Secret
	// protected are the protected settings as the agent wrote them.
	protected map[string][]byte
	// siblings are the namespace's other FluxConfigs that need its rights: those
	// that stay, and those whose Kustomizations are still removing things.
	siblings []config.FluxConfig
	// sources of all kinds and kustomizations that carry our labels.
	sources        []client.Object
	kustomizations []kustomizev1.Kustomization
	// credentials that the source needs; nil for none.
	credentials map[string][]byte
}

type reconciler struct {
	client client.Client
	// managed reads metadata of what we generated, by label.
	managed client.Reader
	// direct reads from the API server, past the caches.
	direct  client.Reader
	applied ledger
	now     func() time.Time
}

func (r *reconciler) phases() []phase.Phase[scope] {
	return []phase.Phase[scope]{
		{Name: "keep the finalizer", Do: r.keepFinalizer},
		{Name: "observe", Do: r.observe},
		{Name: "decide credentials", Do: r.decideCredentials},
		{Name: "grant rights", Do: r.grant},
		{Name: "apply source and kustomizations", Do: r.applyAll},
		{Name: "remove what is no longer wanted", Do: r.removeUnwanted},
		{Name: "report", Do: r.report},
	}
}

func (r *reconciler) finalizing() []phase.Phase[scope] {
	return []phase.Phase[scope]{
		{Name: "observe", Do: r.observe},
		{Name: "delete kustomizations, dependants first", Do: r.deleteKustomizations},
		{Name: "delete source and secrets", Do: r.deleteSource},
		{Name: "revoke rights", Do: r.revoke},
		{Name: "drop the finalizer", Do: r.dropFinalizer},
	}
}

// Reconcile implements reconcile.Reconciler.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	obj := &config.FluxConfig{}
	if err := r.client.Get(ctx, req.NamespacedName, obj); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := obj.DeepCopy()
	s := &scope{obj: obj, now: r.now()}
	phases := r.phases()
	if !obj.DeletionTimestamp.IsZero() {
		if !controllerutil.ContainsFinalizer(obj, config.Finalizer) {
			return ctrl.Result{}, nil
		}
		phases = r.finalizing()
	}
	err := phase.Chain(ctx, s, phases)
	if ctx.Err() != nil {
		return ctrl.Result{}, nil
	}
	return r.finish(ctx, before, s, err)
}

// finish writes the status, once, when it changed.
func (r *reconciler) finish(ctx context.Context, before *config.FluxConfig, s *scope, err error) (ctrl.Result, error) {
	deleting := !s.obj.DeletionTimestamp.IsZero()
	if err == nil && deleting {
		return ctrl.Result{}, nil
	}
	var e *phase.Error
	if err != nil {
		e = phase.Classify(err)
		s.obj.Status.Message = e.Error()
		if s.obj.Status.ProvisioningState = "Failed"; deleting && e.Class == phase.ClassWaiting {
			s.obj.Status.ProvisioningState = "Deleting"
		}
	}
	if !equality.Semantic.DeepEqual(before.Status, s.obj.Status) {
		if werr := r.client.Status().Patch(ctx, s.obj, client.MergeFrom(before), client.FieldOwner(fieldOwner)); client.IgnoreNotFound(werr) != nil {
			return ctrl.Result{}, fmt.Errorf("write status: %w", werr)
		}
	}
	switch {
	case e == nil:
		return ctrl.Result{RequeueAfter: verifyEvery}, nil
	case e.Class == phase.ClassTransient:
		return ctrl.Result{}, e
	default:
		ctrl.LoggerFrom(ctx).Info("not done", "reason", e.Reason, "error", e.Error())
		return ctrl.Result{RequeueAfter: e.After}, nil
	}
}

func (r *reconciler) keepFinalizer(ctx context.Context, s *scope) error {
	if controllerutil.ContainsFinalizer(s.obj, config.Finalizer) {
		return nil
	}
	before := s.obj.DeepCopy()
	controllerutil.AddFinalizer(s.obj, config.Finalizer)
	return r.patchMeta(ctx, before, s.obj)
}

func (r *reconciler) dropFinalizer(ctx context.Context, s *scope) error {
	before := s.obj.DeepCopy()
	controllerutil.RemoveFinalizer(s.obj, config.Finalizer)
	return r.patchMeta(ctx, before, s.obj)
}

func (r *reconciler) patchMeta(ctx context.Context, before, after *config.FluxConfig) error {
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.client.Patch(ctx, after, patch, client.FieldOwner(fieldOwner)); err != nil {
		return client.IgnoreNotFound(fmt.Errorf("write finalizer: %w", err))
	}
	return nil
}

// report folds what was observed into the status.
func (r *reconciler) report(ctx context.Context, s *scope) error {
	if err := r.fold(ctx, s); err != nil {
		return err
	}
	st := &s.obj.Status
	if st.ObservedGeneration != s.obj.Generation {
		t := metav1.NewTime(s.now.Truncate(time.Second))
		st.LastConfigUpdateTime = &t
	}
	st.ObservedGeneration = s.obj.Generation
	st.LastSucceededGeneration = s.obj.Generation
	st.ProvisioningState = "Succeeded"
	st.Message = ""
	st.RepositoryPublicKey = string(s.credentials[keyIdentityPub])
	if st.ComplianceState == compliant || st.ComplianceState == suspended {
		st.LastCompliantGeneration = s.obj.Generation
	}
	if at := requestedAt(s.obj); at != "" && handled(s, at) {
		st.LastHandledReconcileAt = at
	}
	return nil
}

// handled reports whether the source and all Kustomizations that are not
// suspended have handled a request to reconcile.
func handled(s *scope, at string) bool {
	if len(s.sources) == 0 || len(s.kustomizations) < len(s.obj.Spec.Kustomizations) {
		return false
	}
	for _, o := range s.sources {
		if !isSuspended(o) && lastHandled(o) != at {
			return false
		}
	}
	for i := range s.kustomizations {
		if k := &s.kustomizations[i]; !k.Spec.Suspend && k.Status.LastHandledReconcileAt != at {
			return false
		}
	}
	return true
}

// lastHandled is the newest request to reconcile that a source has handled.
func lastHandled(o client.Object) string {
	switch o := o.(type) {
	case *sourcev1.GitRepository:
		return o.Status.LastHandledReconcileAt
	case *sourcev1.Bucket:
		return o.Status.LastHandledReconcileAt
	case *sourcev1.OCIRepository:
		return o.Status.LastHandledReconcileAt
	default:
		return ""
	}
}

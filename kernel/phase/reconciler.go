package phase

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	"github.com/fluxcd/pkg/runtime/jitter"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"headwater.dev/kernel/event"
)

// Object is a kind with Flux-style conditions.
type Object interface {
	client.Object
	conditions.Setter
}

// Fields points into the status of an object.
type Fields struct {
	ObservedGeneration *int64
	// HandledReconcileAt is status.lastHandledReconcileAt.
	HandledReconcileAt *string
}

// Success is what a chain without error means.
type Success struct {
	// Reason and Message of Ready=True.
	Reason, Message string
	// Interval until the next reconcile, jittered; zero for none.
	Interval time.Duration
	// Event is recorded when not nil, and Notice after it.
	Event, Notice *event.Event
}

// Claim writes an object's finalizer, with annotations, in one request; nothing
// when the finalizer is there. The status as it is so far is not written.
type Claim func(ctx context.Context, annotations map[string]string) error

// Reconciler is the shell around a loop: it reads the object, keeps the
// finalizer, runs the phases and writes the outcome, once.
type Reconciler[T Object, S any] struct {
	// Client reads from the cache and writes; Live reads past the cache.
	Client client.Client
	Live   client.Reader
	Events *event.Recorder
	// FieldOwner of status writes.
	FieldOwner string
	// Finalizer is kept while Finalize has phases.
	Finalizer string

	New       func() T
	Suspended func(T) bool
	Status    func(T) Fields
	// Begin makes the scope of one reconcile. The phases change the status of
	// the very object given.
	Begin func(T) *S
	// Checkpoint gives the scope a function that writes the status as it is so
	// far; what is written at the end is compared with that. It may be nil.
	Checkpoint func(*S, func(context.Context) error)
	// Claim leaves the finalizer to the phases. It gives the scope a function that
	// writes it, together with annotations, unless it is there; it is to be called
	// before anything is made that must not outlive the object. When Claim is nil
	// the finalizer is written before the first phase.
	Claim func(*S, Claim)

	Phases   []Phase[S]
	Finalize []Phase[S]
	// Success is asked after the last phase.
	Success func(*S) Success
	// Metadata is added to events of failures; it may be nil.
	Metadata func(*S) map[string]string
	// Gone is told when an object does not exist any more; it may be nil.
	Gone func(types.NamespacedName)

	written versions
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler[T, S]) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	obj, err := r.read(ctx, req.NamespacedName)
	if err != nil {
		if client.IgnoreNotFound(err) == nil {
			gone := r.New()
			gone.SetName(req.Name)
			gone.SetNamespace(req.Namespace)
			r.Events.Gone(gone) // there may never have been a finalizer
			r.forget(req.NamespacedName)
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, fmt.Errorf("read %s: %w", req.NamespacedName, err)
	}
	if !obj.GetDeletionTimestamp().IsZero() {
		return r.remove(ctx, obj)
	}
	if r.Claim == nil {
		if err := r.addFinalizer(ctx, obj); err != nil {
			return ctrl.Result{}, err
		}
	}
	suspended := r.Suspended != nil && r.Suspended(obj)
	defer func(start time.Time) { r.Events.Reconciled(obj, start, suspended) }(time.Now())
	if suspended {
		ctrl.LoggerFrom(ctx).V(1).Info("suspended")
		return ctrl.Result{}, nil
	}
	return r.run(ctx, obj)
}

func (r *Reconciler[T, S]) run(ctx context.Context, obj T) (ctrl.Result, error) {
	before := obj.DeepCopyObject().(T)
	if at, ok := meta.ReconcileAnnotationValue(obj.GetAnnotations()); ok && r.Status != nil {
		*r.Status(obj).HandledReconcileAt = at
	}
	scope, written := r.Begin(obj), before
	if r.Checkpoint != nil {
		r.Checkpoint(scope, func(ctx context.Context) error {
			now := obj.DeepCopyObject().(T)
			if r.Status != nil { // the request is handled at the end: who waits for that looks at Ready then
				*r.Status(now).HandledReconcileAt = *r.Status(before).HandledReconcileAt
			}
			if err := r.write(ctx, written, now); err != nil {
				return err
			}
			now.SetManagedFields(obj.GetManagedFields()) // the cache may not have them
			written = now
			obj.SetResourceVersion(now.GetResourceVersion())
			return nil
		})
	}
	if r.Claim != nil {
		r.Claim(scope, func(ctx context.Context, annotations map[string]string) error {
			return r.claim(ctx, annotations, obj, before, written)
		})
	}
	if err := Chain(ctx, scope, r.Phases); err != nil {
		if ctx.Err() != nil {
			return ctrl.Result{}, nil // shutting down: the outcome says nothing about the object
		}
		return r.failed(ctx, outcome[T]{before, written, obj}, scope, Classify(err))
	}
	return r.succeeded(ctx, written, obj, r.Success(scope))
}

// outcome is an object as it was at the beginning, as its status was written
// last, and as it is to be.
type outcome[T any] struct{ before, written, obj T }

func (r *Reconciler[T, S]) succeeded(ctx context.Context, before, obj T, s Success) (ctrl.Result, error) {
	conditions.Delete(obj, meta.ReconcilingCondition)
	conditions.Delete(obj, meta.StalledCondition)
	conditions.MarkTrue(obj, meta.ReadyCondition, s.Reason, "%s", s.Message)
	*r.Status(obj).ObservedGeneration = obj.GetGeneration()
	if err := r.write(ctx, before, obj); err != nil {
		return ctrl.Result{}, err
	}
	for _, e := range []*event.Event{s.Event, s.Notice} {
		if e != nil && r.Events != nil {
			r.Events.Record(ctx, obj, *e)
		}
	}
	if s.Interval <= 0 {
		return ctrl.Result{}, nil
	}
	return jitter.JitteredRequeueInterval(ctrl.Result{RequeueAfter: s.Interval}), nil
}

func (r *Reconciler[T, S]) failed(ctx context.Context, o outcome[T], scope *S, e *Error) (ctrl.Result, error) {
	obj := o.obj
	if e.Quiet {
		return ctrl.Result{RequeueAfter: e.After}, nil
	}
	mark(obj, e)
	if e.Class == ClassStalled {
		*r.Status(obj).ObservedGeneration = obj.GetGeneration()
	}
	news := !sameReady(o.before, obj)
	if err := r.write(ctx, o.written, obj); err != nil {
		return ctrl.Result{}, err
	}
	if news {
		r.tell(ctx, obj, scope, e)
	}
	switch {
	case e.Class == ClassStalled:
		return ctrl.Result{}, nil
	case e.After > 0:
		return ctrl.Result{RequeueAfter: e.After}, nil
	case e.Class == ClassWaiting:
		return ctrl.Result{}, nil
	default:
		return ctrl.Result{}, e
	}
}

func (r *Reconciler[T, S]) tell(ctx context.Context, obj T, scope *S, e *Error) {
	log := ctrl.LoggerFrom(ctx)
	ev := event.Event{Severity: event.Error, Reason: e.Reason, Message: e.Error()}
	if e.Class == ClassWaiting {
		log.Info("waiting", "reason", e.Reason, "for", e.Error())
		ev.Severity = event.Info
	} else {
		log.Info("failed", "reason", e.Reason, "error", e.Error(), "retried", e.Class == ClassTransient)
	}
	if r.Events == nil || e.Progressing {
		return
	}
	if r.Metadata != nil {
		ev.Metadata = r.Metadata(scope)
	}
	r.Events.Record(ctx, obj, ev)
}

// mark turns a classed error into the conditions that Flux documents for it.
func mark(obj conditions.Setter, e *Error) {
	switch e.Class {
	case ClassStalled:
		conditions.MarkStalled(obj, e.Reason, "%s", e.Error())
		conditions.MarkFalse(obj, meta.ReadyCondition, e.Reason, "%s", e.Error())
	case ClassWaiting:
		conditions.Delete(obj, meta.StalledCondition)
		conditions.MarkReconciling(obj, meta.ProgressingReason, "%s", e.Error())
		if e.Progressing {
			conditions.MarkUnknown(obj, meta.ReadyCondition, e.Reason, "%s", e.Error())
			return
		}
		conditions.MarkFalse(obj, meta.ReadyCondition, e.Reason, "%s", e.Error())
	default:
		conditions.Delete(obj, meta.StalledCondition)
		conditions.MarkReconciling(obj, meta.ProgressingWithRetryReason, "%s", e.Error())
		conditions.MarkFalse(obj, meta.ReadyCondition, e.Reason, "%s", e.Error())
	}
}

func sameReady(a, b conditions.Getter) bool {
	x, y := conditions.Get(a, meta.ReadyCondition), conditions.Get(b, meta.ReadyCondition)
	return x != nil && y != nil && x.Status == y.Status && x.Reason == y.Reason && x.Message == y.Message
}

// write sends one merge patch of the status when anything in it changed.
func (r *Reconciler[T, S]) write(ctx context.Context, before, obj T) error {
	patch := client.MergeFrom(before)
	body, err := patch.Data(obj)
	if err != nil {
		return fmt.Errorf("compute status patch of %s: %w", client.ObjectKeyFromObject(obj), err)
	}
	if string(body) == "{}" {
		return nil
	}
	if err := r.Client.Status().Patch(ctx, obj, client.RawPatch(patch.Type(), body), client.FieldOwner(r.FieldOwner)); err != nil {
		return client.IgnoreNotFound(fmt.Errorf("write status of %s: %w", client.ObjectKeyFromObject(obj), err))
	}
	r.written.set(obj)
	return nil
}

func (r *Reconciler[T, S]) addFinalizer(ctx context.Context, obj T) error {
	if r.Finalizer == "" || controllerutil.ContainsFinalizer(obj, r.Finalizer) {
		return nil
	}
	return r.patchFinalizer(ctx, obj, func() { controllerutil.AddFinalizer(obj, r.Finalizer) })
}

func (r *Reconciler[T, S]) patchFinalizer(ctx context.Context, obj T, change func()) error {
	before := obj.DeepCopyObject().(T)
	change()
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Patch(ctx, obj, patch, client.FieldOwner(r.FieldOwner)); err != nil {
		return client.IgnoreNotFound(fmt.Errorf("write finalizer of %s: %w", client.ObjectKeyFromObject(obj), err))
	}
	r.written.set(obj)
	return nil
}

// claim writes the finalizer and annotations of the first of the objects, which
// are one in several states, and tells all what came of it. An object that is
// gone is an error: nothing may be made for it any more.
func (r *Reconciler[T, S]) claim(ctx context.Context, annotations map[string]string, objects ...T) error {
	obj := objects[0]
	if controllerutil.ContainsFinalizer(obj, r.Finalizer) {
		return nil
	}
	now := obj.DeepCopyObject().(T)
	controllerutil.AddFinalizer(now, r.Finalizer)
	all := now.GetAnnotations()
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, annotations)
	now.SetAnnotations(all)
	patch := client.MergeFromWithOptions(obj.DeepCopyObject().(T), client.MergeFromWithOptimisticLock{})
	if err := r.Client.Patch(ctx, now, patch, client.FieldOwner(r.FieldOwner)); err != nil {
		return fmt.Errorf("write finalizer of %s: %w", client.ObjectKeyFromObject(obj), err)
	}
	for _, o := range objects {
		o.SetFinalizers(now.GetFinalizers())
		o.SetAnnotations(now.GetAnnotations())
		o.SetResourceVersion(now.GetResourceVersion())
	}
	r.written.set(now)
	return nil
}

// remove runs the finalizing phases of an object that is being deleted.
func (r *Reconciler[T, S]) remove(ctx context.Context, obj T) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(obj, r.Finalizer) {
		return ctrl.Result{}, nil
	}
	before := obj.DeepCopyObject().(T)
	scope := r.Begin(obj)
	if err := Chain(ctx, scope, r.Finalize); err != nil {
		if ctx.Err() != nil {
			return ctrl.Result{}, nil
		}
		return r.failed(ctx, outcome[T]{before, before, obj}, scope, Classify(err))
	}
	r.Events.Gone(obj)
	return ctrl.Result{}, r.patchFinalizer(ctx, obj, func() { controllerutil.RemoveFinalizer(obj, r.Finalizer) })
}

// read takes the object from the cache, or live when the cache has not yet
// seen what this reconciler wrote last.
func (r *Reconciler[T, S]) read(ctx context.Context, key types.NamespacedName) (T, error) {
	obj := r.New()
	if err := r.Client.Get(ctx, key, obj); err != nil {
		return obj, err
	}
	if r.Live == nil || !r.written.newerThan(obj) {
		return obj, nil
	}
	obj = r.New()
	return obj, r.Live.Get(ctx, key, obj)
}

func (r *Reconciler[T, S]) forget(key types.NamespacedName) {
	r.written.forget(key)
	if r.Gone != nil {
		r.Gone(key)
	}
}

// newer compares resource versions, which are numbers in every API server that
// stores in etcd; anything else counts as not newer.
func newer(a, b string) bool {
	x, err := strconv.ParseUint(a, 10, 64)
	if err != nil {
		return false
	}
	y, err := strconv.ParseUint(b, 10, 64)
	return err == nil && x > y
}

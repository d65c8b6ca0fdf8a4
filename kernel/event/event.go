// Package event tells people what happened to an object: as a Kubernetes Event
// and, when an address is given, as a notification to the notification
// controller, in one call that never blocks.
package event

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	"github.com/fluxcd/pkg/runtime/events"
	"github.com/fluxcd/pkg/runtime/metrics"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/reference"
	ctrl "sigs.k8s.io/controller-runtime"
)

// Severity of an event.
type Severity string

// Severities: Trace goes to Kubernetes only, never to notifications.
const (
	Info  = Severity(corev1.EventTypeNormal)
	Error = Severity(corev1.EventTypeWarning)
	Trace = Severity("Trace")
)

// queueLength bounds what waits for a slow receiver; beyond it events are
// dropped and logged, because a worker never waits for one.
const queueLength = 8192

// Event is something that happened.
type Event struct {
	Severity Severity
	// Reason is a stable word in CamelCase.
	Reason  string
	Message string
	// Metadata is sent along, for example the revision under the API group's
	// "revision" key. It holds no secret.
	Metadata map[string]string
	// Notify sends the event to the notification controller alone: the API
	// server hears nothing of it.
	Notify bool
}

// Recorder records events of one controller.
type Recorder struct {
	sink events.Recorder
	// notify posts without a Kubernetes Event; nil without an address.
	notify  events.Recorder
	queue   chan func()
	scheme  *runtime.Scheme
	metrics *metrics.Recorder
}

// NewRecorder returns a recorder in the name of component that posts to addr,
// or only to Kubernetes when addr is empty. It runs with the manager.
func NewRecorder(mgr ctrl.Manager, addr, component string) (*Recorder, error) {
	sink, err := events.NewRecorder(mgr.GetLogger(), addr, component, events.WithManager(mgr), events.WithRetryMax(2))
	if err != nil {
		return nil, fmt.Errorf("make event recorder of %s: %w", component, err)
	}
	var notify events.Recorder
	if addr != "" {
		notify, err = events.NewRecorder(mgr.GetLogger(), addr, component, events.WithScheme(mgr.GetScheme()), events.WithRetryMax(2))
		if err != nil {
			return nil, fmt.Errorf("make notifier of %s: %w", component, err)
		}
	}
	r := &Recorder{sink: sink, notify: notify, queue: make(chan func(), queueLength), scheme: mgr.GetScheme()}
	if err := mgr.Add(r); err != nil {
		return nil, fmt.Errorf("add event recorder of %s: %w", component, err)
	}
	return r, nil
}

// Measure lets the recorder write Flux's metrics too.
func (r *Recorder) Measure(m *metrics.Recorder) { r.metrics = m }

// Reconciled writes the metrics of an object after a reconcile that began at
// start: duration, conditions and whether it is suspended.
func (r *Recorder) Reconciled(obj conditions.Getter, start time.Time, suspended bool) {
	ref := r.reference(obj)
	if ref == nil {
		return
	}
	r.metrics.RecordDuration(*ref, start)
	r.metrics.RecordSuspend(*ref, suspended)
	for _, kind := range measured() {
		c := conditions.Get(obj, kind)
		if c == nil {
			c = conditions.UnknownCondition(kind, "", "")
		}
		r.metrics.RecordCondition(*ref, *c)
	}
}

// Gone removes the metrics of an object that is deleted.
func (r *Recorder) Gone(obj conditions.Getter) {
	ref := r.reference(obj)
	if ref == nil {
		return
	}
	r.metrics.DeleteDuration(*ref)
	r.metrics.DeleteSuspend(*ref)
	for _, kind := range measured() {
		r.metrics.DeleteCondition(*ref, kind)
	}
}

// measured are the conditions that are metrics.
func measured() []string {
	return []string{meta.ReadyCondition, meta.ReconcilingCondition, meta.StalledCondition}
}

func (r *Recorder) reference(obj runtime.Object) *corev1.ObjectReference {
	if r == nil || r.metrics == nil {
		return nil
	}
	ref, err := reference.GetReference(r.scheme, obj)
	if err != nil {
		return nil // a kind that the scheme does not know has no metrics
	}
	return ref
}

// Record queues an event of an object and returns at once.
func (r *Recorder) Record(ctx context.Context, obj runtime.Object, e Event) {
	sink := r.sink
	if e.Notify {
		sink = r.notify
	}
	if sink == nil {
		return
	}
	obj, err := r.subject(obj)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "event dropped", "reason", e.Reason)
		return
	}
	send := func() {
		sink.AnnotatedEventf(obj, nil, e.Metadata, string(e.Severity), e.Reason, e.Reason, "%s", e.Message)
	}
	select {
	case r.queue <- send:
	default:
		ctrl.LoggerFrom(ctx).Info("event dropped: its receiver is too slow", "reason", e.Reason)
	}
}

// Start sends what is queued until the context ends.
func (r *Recorder) Start(ctx context.Context) error {
	for {
		select {
		case send := <-r.queue:
			send()
		case <-ctx.Done():
			return nil
		}
	}
}

// subject is what an event needs of an object, which is much less than a copy
// of it with its inventory: many events may be queued.
func (r *Recorder) subject(obj runtime.Object) (runtime.Object, error) {
	ref, err := reference.GetReference(r.scheme, obj)
	if err != nil {
		return nil, fmt.Errorf("name the object of an event: %w", err)
	}
	s := &metav1.PartialObjectMetadata{}
	s.SetGroupVersionKind(ref.GroupVersionKind())
	s.Namespace, s.Name, s.UID, s.ResourceVersion = ref.Namespace, ref.Name, ref.UID, ref.ResourceVersion
	if o, ok := obj.(metav1.Object); ok {
		s.Annotations = maps.Clone(o.GetAnnotations())
	}
	return s, nil
}

// Package event tells people what happened to an object: as a Kubernetes Event
// and, when an address is given, as a notification to the notification
// controller, in one call that never blocks.
package event

import (
	"context"
	"fmt"

	"github.com/fluxcd/pkg/runtime/events"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
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
const queueLength = 1024

// Event is something that happened.
type Event struct {
	Severity Severity
	// Reason is a stable word in CamelCase.
	Reason  string
	Message string
	// Metadata is sent along, for example the revision under the API group's
	// "revision" key. It holds no secret.
	Metadata map[string]string
}

// Recorder records events of one controller.
type Recorder struct {
	sink  events.Recorder
	queue chan func()
}

// NewRecorder returns a recorder in the name of component that posts to addr,
// or only to Kubernetes when addr is empty. It runs with the manager.
func NewRecorder(mgr ctrl.Manager, addr, component string) (*Recorder, error) {
	sink, err := events.NewRecorder(mgr.GetLogger(), addr, component, events.WithManager(mgr), events.WithRetryMax(2))
	if err != nil {
		return nil, fmt.Errorf("make event recorder of %s: %w", component, err)
	}
	r := &Recorder{sink: sink, queue: make(chan func(), queueLength)}
	if err := mgr.Add(r); err != nil {
		return nil, fmt.Errorf("add event recorder of %s: %w", component, err)
	}
	return r, nil
}

// Record queues an event of an object and returns at once.
func (r *Recorder) Record(ctx context.Context, obj runtime.Object, e Event) {
	obj = obj.DeepCopyObject()
	send := func() {
		r.sink.AnnotatedEventf(obj, nil, e.Metadata, string(e.Severity), e.Reason, e.Reason, "%s", e.Message)
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

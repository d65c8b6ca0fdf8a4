package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/api/config"
	"headwater.dev/api/link"
	"headwater.dev/kernel/phase"
)

// Times of reconcile: never again, soon, or with the queue's back-off.
const (
	done    time.Duration = 0
	soon                  = 100 * time.Millisecond
	backOff time.Duration = -1
	// parked items are woken by watches; this is for the day a watch fails.
	parked = time.Minute
)

// reconcile brings one item into the cluster and reports it. It returns when
// to look at the item again.
func (m *Mirror) reconcile(ctx context.Context, key string) time.Duration {
	item, recheck, ok := m.item(key)
	if !ok {
		return done
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	fc, err := m.current(ctx, item)
	if err == nil && item.Delete {
		return m.remove(ctx, item, own(item, fc))
	}
	if err == nil {
		fc, err = m.write(ctx, item, fc, recheck)
	}
	if err == nil && recheck {
		m.rechecked(key)
	}
	if retriable(err) {
		return soon
	}
	m.report(observe(item, fc, err), key)
	return m.after(item, err)
}

// after logs a failure and says when to try again.
func (m *Mirror) after(item link.Item, err error) time.Duration {
	if err == nil {
		return done
	}
	e := phase.Classify(err)
	m.config.Log.Info("configuration not mirrored", "id", item.ID, "reason", e.Reason, "error", err.Error())
	switch e.Class {
	case phase.ClassStalled:
		return done
	case phase.ClassWaiting:
		return parked
	default:
		return backOff
	}
}

// retriable says that a cache was behind, which is no failure.
func retriable(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err)
}

// current finds the FluxConfig of an item; nil when there is none.
func (m *Mirror) current(ctx context.Context, item link.Item) (*config.FluxConfig, error) {
	if item.Configuration == nil {
		return m.byID(item.ID), nil
	}
	namespace := item.Configuration.Namespace
	if !m.informer().HasSynced() {
		return m.api.get(ctx, namespace, item.Name)
	}
	o, ok, err := m.informer().GetStore().GetByKey(namespace + "/" + item.Name)
	if err != nil || !ok {
		return nil, err
	}
	return o.(*config.FluxConfig), nil
}

// byID finds the FluxConfig of an item that comes without its namespace.
func (m *Mirror) byID(id string) *config.FluxConfig {
	for _, o := range m.informer().GetStore().List() {
		if fc, ok := o.(*config.FluxConfig); ok && fold(fc.Annotations[config.AnnotationResourceID]) == fold(id) {
			return fc
		}
	}
	return nil
}

// write makes the cluster hold what the item says and returns the object.
func (m *Mirror) write(ctx context.Context, item link.Item, fc *config.FluxConfig, recheck bool) (*config.FluxConfig, error) {
	if err := m.config.Guard.check(item); err != nil {
		return fc, err
	}
	want := desiredObject(item, m.config.Now())
	if fc != nil && !fc.DeletionTimestamp.IsZero() {
		return fc, phase.Progressing("Deleting", parked,
			fmt.Errorf("FluxConfig %s/%s is being deleted; it will be made again when it is gone", fc.Namespace, fc.Name))
	}
	upToDate := fc != nil && same(fc, want)
	if upToDate && !recheck {
		return fc, nil
	}
	if err := m.ensureNamespace(ctx, want.Namespace); err != nil {
		return fc, classify(err)
	}
	if item.ProtectedVersion != "" {
		if err := m.keep(ctx, item); err != nil {
			return fc, classify(err)
		}
	}
	if !upToDate {
		ctx, span := m.begin(ctx, item)
		written, err := m.put(ctx, fc, want)
		m.end(item, span, err)
		if err != nil {
			return fc, classify(err)
		}
		fc = written
	}
	if item.ProtectedVersion == "" {
		return fc, classify(m.keep(ctx, item))
	}
	return fc, nil
}

func (m *Mirror) keep(ctx context.Context, item link.Item) error {
	return m.config.Settings.Keep(ctx, item.Configuration.Namespace, secretName(item.Name), item.ProtectedVersion, item.Sealed)
}

func (m *Mirror) put(ctx context.Context, fc, want *config.FluxConfig) (*config.FluxConfig, error) {
	if fc == nil {
		return m.api.create(ctx, want)
	}
	next := fc.DeepCopy()
	accepted := fc.Annotations[annotationAcceptedAt]
	sameGeneration := fc.Annotations[config.AnnotationGeneration] == want.Annotations[config.AnnotationGeneration]
	next.Spec = want.Spec
	next.Labels = merged(fc.Labels, want.Labels)
	next.Annotations = merged(fc.Annotations, want.Annotations)
	if want.Annotations[config.AnnotationProtectedVersion] == "" {
		delete(next.Annotations, config.AnnotationProtectedVersion)
	}
	if sameGeneration && accepted != "" {
		next.Annotations[annotationAcceptedAt] = accepted
	}
	if asked := fc.Annotations[meta.ReconcileRequestAnnotation]; sameGeneration && asked != "" {
		// A newer request may have been made in the cluster.
		next.Annotations[meta.ReconcileRequestAnnotation] = asked
	}
	return m.api.update(ctx, next)
}

func merged(have, want map[string]string) map[string]string {
	all := maps.Clone(have)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, want)
	return all
}

// same says whether an object needs no write: the parts that the hub decides
// are as wanted. Labels and annotations of others do not count, nor does a
// request to reconcile: each is made once, with its generation.
func same(fc, want *config.FluxConfig) bool {
	if !equality.Semantic.DeepEqual(canonicalSpec(fc.Spec), want.Spec) ||
		fc.Annotations[config.AnnotationProtectedVersion] != want.Annotations[config.AnnotationProtectedVersion] {
		return false
	}
	for key, value := range want.Labels {
		if fc.Labels[key] != value {
			return false
		}
	}
	for key, value := range want.Annotations {
		if key != annotationAcceptedAt && key != meta.ReconcileRequestAnnotation && fc.Annotations[key] != value {
			return false
		}
	}
	return true
}

func (m *Mirror) ensureNamespace(ctx context.Context, name string) error {
	api := m.kube.CoreV1().Namespaces()
	_, err := api.Get(ctx, name, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return err
	}
	_, err = api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create namespace %s: %w", name, err)
	}
	return nil
}

// own is the FluxConfig when it is that of the item: not one of the same name that
// another resource, or somebody in the cluster, has made.
func own(item link.Item, fc *config.FluxConfig) *config.FluxConfig {
	if fc == nil {
		return nil
	}
	id := fc.Annotations[config.AnnotationResourceID]
	if fold(id) == fold(item.ID) || id == "" && fc.Labels[config.LabelManaged] != "" {
		return fc
	}
	return nil
}

// remove deletes the FluxConfig and, once it is gone, its Secret; then the
// item is reported as deleted.
func (m *Mirror) remove(ctx context.Context, item link.Item, fc *config.FluxConfig) time.Duration {
	key := fold(item.ID)
	if fc != nil {
		var err error
		if fc.DeletionTimestamp.IsZero() {
			err = m.api.delete(ctx, fc.Namespace, fc.Name, fc.UID)
		}
		if retriable(err) {
			return soon
		}
		if err != nil {
			m.report(observe(item, fc, err), key)
			return m.after(item, err)
		}
		if m.informer().HasSynced() {
			m.report(observe(item, fc, nil), key)
			return parked
		}
		return soon
	}
	if item.Configuration != nil && m.config.Guard.reserved(item) == nil {
		err := m.config.Settings.Keep(ctx, item.Configuration.Namespace, secretName(item.Name), "", nil)
		if err != nil {
			return m.after(item, err)
		}
	}
	m.report(link.Observed{ID: item.ID, Generation: item.Generation, OperationID: item.OperationID, Deleted: true}, key)
	return done
}

// classify says what the API server's answer means for the item.
func classify(err error) error {
	var classed *phase.Error
	switch {
	case err == nil, errors.As(err, &classed), retriable(err):
		return err
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return phase.Stalled("ConfigurationInvalid", err)
	case apierrors.IsNotFound(err):
		return phase.Waiting("WaitingForExtension", parked,
			fmt.Errorf("the cluster does not know FluxConfigs yet; waiting for the extension microsoft.flux to be installed: %w", err))
	default:
		return err
	}
}

// report hands an observation on when it says something new.
func (m *Mirror) report(o link.Observed, key string) {
	m.mu.Lock()
	last, known := m.reported[key]
	if known && reflect.DeepEqual(last, o) {
		m.mu.Unlock()
		return
	}
	m.reported[key] = o
	o.TraceParent = m.written[key]
	delete(m.written, key)
	m.mu.Unlock()
	if o.Configuration != nil {
		now := m.config.Now().UTC()
		stamped := *o.Configuration
		stamped.StatusUpdatedAt = &now
		o.Configuration = &stamped
	}
	m.config.Report(o)
}

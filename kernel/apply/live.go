package apply

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/pkg/runtime/cel"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Health of an object, as kstatus computes it.
type Health = status.Status

// Healths.
const (
	Current     = status.CurrentStatus
	InProgress  = status.InProgressStatus
	Failed      = status.FailedStatus
	Terminating = status.TerminatingStatus
	NotFound    = status.NotFoundStatus
	Unknown     = status.UnknownStatus
)

// Live is what is kept of an object in the cluster.
type Live struct {
	Exists          bool
	UID             types.UID
	ResourceVersion string
	Deleting        bool
	// Owner by its labels.
	Owner types.NamespacedName
	// Fields is a digest of the set of fields that our manager owns and of when
	// it wrote them: it changes when somebody else writes one of them, or we do.
	Fields string
	// Left is set while fields belong to a manager that we take over from.
	Left bool
	// Others are the other managers of fields outside the status, last writer
	// first.
	Others []string
	// Steering holds the object's annotations and labels of our group that
	// steer the engine, by their short names.
	Steering map[string]string
	Health   Health
	Message  string
	// Succeeded is set of a Job that has completed.
	Succeeded bool
}

// liveOf reduces an object; full is nil when only its metadata is known.
func (w *Watcher) liveOf(o metav1.Object, full *unstructured.Unstructured, judge Judge) Live {
	l := Live{
		Exists: true, UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(),
		Deleting: o.GetDeletionTimestamp() != nil,
		Owner:    w.ownerOf(o),
	}
	for _, key := range steering() {
		value, ok := o.GetAnnotations()[w.group+"/"+key]
		if !ok {
			value, ok = o.GetLabels()[w.group+"/"+key]
		}
		if !ok {
			continue
		}
		if l.Steering == nil {
			l.Steering = map[string]string{}
		}
		l.Steering[key] = value
	}
	w.managers(&l, o.GetManagedFields())
	if l.steers(keySSA, ssaMerge) {
		l.Left = false
	}
	l.Health, l.Message = judge.health(full, l.Deleting)
	l.Succeeded = full != nil && isJob(full.GroupVersionKind().GroupKind()) && succeeded(full)
	return l
}

func (w *Watcher) managers(l *Live, entries []metav1.ManagedFieldsEntry) {
	slices.SortStableFunc(entries, func(a, b metav1.ManagedFieldsEntry) int {
		if a.Time == nil || b.Time == nil {
			return 0
		}
		return b.Time.Compare(a.Time.Time)
	})
	for _, f := range entries {
		if f.Subresource == "status" {
			continue
		}
		if f.Manager == w.manager && f.Operation == metav1.ManagedFieldsOperationApply {
			if f.FieldsV1 != nil {
				l.Fields = digestFields(f.FieldsV1.GetRawBytes(), f.Time)
			}
			continue
		}
		if f.Subresource == "" && w.predecessor(f.Manager) {
			l.Left = true
		}
		if !slices.Contains(l.Others, f.Manager) {
			l.Others = append(l.Others, f.Manager)
		}
	}
}

// predecessor tells managers whose fields become ours.
func (w *Watcher) predecessor(manager string) bool {
	return manager == w.manager || slices.ContainsFunc(w.predecessors, func(p string) bool { return strings.HasPrefix(manager, p) })
}

// steers reports whether the object in the cluster says so for a key.
func (l Live) steers(key, value string) bool { return strings.EqualFold(l.Steering[key], value) }

// Alone reports whether the object asks to be left alone.
func (l Live) Alone() bool { return l.steers(keySSA, ssaIgnore) || l.steers(keyReconcile, disabled) }

// digestFields does not depend on the order in which the fields were encoded.
// The time of the last write is part of it: who writes in our name is seen too.
func digestFields(raw []byte, at *metav1.Time) string {
	var set map[string]any
	if json.Unmarshal(raw, &set) == nil {
		if sorted, err := json.Marshal(set); err == nil {
			raw = sorted
		}
	}
	if at != nil {
		raw = append(raw, at.UTC().Format(time.RFC3339)...)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8])
}

// Judge computes the health of objects; kinds that it does not know are left
// to kstatus. The zero Judge knows none.
type Judge map[schema.GroupKind]func(*unstructured.Unstructured) (Health, string)

func (j Judge) health(u *unstructured.Unstructured, deleting bool) (Health, string) {
	if deleting {
		return Terminating, "being deleted"
	}
	if u == nil {
		return Current, ""
	}
	gk := u.GroupVersionKind().GroupKind()
	if f, ok := j[gk]; ok {
		return f(u)
	}
	if isJob(gk) {
		return jobHealth(u)
	}
	r, err := status.Compute(u)
	if err != nil {
		return Unknown, err.Error()
	}
	return r.Status, r.Message
}

func isJob(gk schema.GroupKind) bool { return gk.Group == "batch" && gk.Kind == "Job" }

func succeeded(job *unstructured.Unstructured) bool {
	health, _ := jobHealth(job)
	return health == Current
}

// ends reports whether an object is a Job that is deleted by itself when it is
// done.
func ends(u *unstructured.Unstructured) bool {
	if !isJob(u.GroupVersionKind().GroupKind()) {
		return false
	}
	_, found, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "ttlSecondsAfterFinished")
	return found
}

// jobHealth wants a Job to have ended, where kstatus is content with a start.
func jobHealth(u *unstructured.Unstructured) (Health, string) {
	list, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, item := range list {
		c, ok := item.(map[string]any)
		if !ok || c["status"] != "True" {
			continue
		}
		message, _ := c["message"].(string)
		switch c["type"] {
		case "Complete":
			return Current, "Job completed"
		case "Failed":
			return Failed, "Job failed: " + message
		}
	}
	return InProgress, "Job in progress"
}

// Plain are kinds without a status that matters: their metadata is enough.
func Plain(gk schema.GroupKind) bool {
	switch gk.Group {
	case "":
		switch gk.Kind {
		case "ConfigMap", "Secret", "ServiceAccount", "Namespace", "LimitRange", "ResourceQuota", "Endpoints":
			return true
		}
	case "rbac.authorization.k8s.io", "scheduling.k8s.io", "storage.k8s.io", "node.k8s.io", "admissionregistration.k8s.io":
		return true
	case "networking.k8s.io":
		return gk.Kind == "NetworkPolicy" || gk.Kind == "IngressClass"
	}
	return false
}

// olderThan compares resource versions, which are numbers; what is no number
// is never older.
func olderThan(a, b string) bool {
	x, err := strconv.ParseUint(a, 10, 64)
	if err != nil {
		return false
	}
	y, err := strconv.ParseUint(b, 10, 64)
	return err == nil && x < y
}

// patience bounds one look at an object by a user's expressions. Usual ones
// take microseconds; one that multiplies lists must not hold a worker.
const patience = 500 * time.Millisecond

// Expressed judges objects by a user's CEL expressions. An object is in
// progress while they fail on it, and when they take longer than half a second.
func Expressed(e *cel.StatusEvaluator) func(*unstructured.Unstructured) (Health, string) {
	return func(u *unstructured.Unstructured) (Health, string) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		r, err := e.Evaluate(ctx, u)
		switch {
		case ctx.Err() != nil:
			return InProgress, fmt.Sprintf("the health check expressions take longer than %s: make them cheaper", patience)
		case err != nil:
			return InProgress, err.Error()
		}
		return r.Status, r.Message
	}
}

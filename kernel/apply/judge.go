package apply

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Judge has the rules by which an owner judges kinds; those that it does not
// know are left to kstatus. The zero Judge knows none.
type Judge map[schema.GroupKind]Rule

// Rule is an idea of the health of a kind.
type Rule struct {
	// Text tells rules apart: what another one said does not count.
	Text string
	// Health is not decided when it could not be found out in time.
	Health func(*unstructured.Unstructured) (h Health, message string, decided bool)
}

// since keeps the rules that are the same as before, with what they remember.
func (j Judge) since(before Judge) Judge {
	j = maps.Clone(j)
	for gk, rule := range j {
		if old, ok := before[gk]; ok && old.Text == rule.Text {
			j[gk] = old
		}
	}
	return j
}

// health by kstatus.
func health(u *unstructured.Unstructured, deleting bool) (Health, string) {
	if deleting {
		return Terminating, "being deleted"
	}
	if u == nil {
		return Current, ""
	}
	if isJob(u.GroupVersionKind().GroupKind()) {
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

const (
	// patience bounds one look at an object by a user's expressions. Usual ones
	// take microseconds; one that multiplies lists must not hold a worker.
	patience = 500 * time.Millisecond
	// breather is how long expressions are not asked that were given up: an owner
	// of a thousand objects would hold a worker for minutes otherwise.
	breather = 5 * time.Second
)

// Expressed judges objects by a user's CEL expressions. An object is in
// progress while they fail on it. When they are given up after half a second
// nothing is decided: a process that stood still gives up cheap ones too.
func Expressed(x *kustomize.HealthCheckExpressions) (Rule, error) {
	e, err := cel.NewStatusEvaluator(x)
	if err != nil {
		return Rule{}, err
	}
	tooSlow := fmt.Sprintf("the health check expressions take longer than %s: make them cheaper", patience)
	var resting atomic.Int64 // until then
	return Rule{Text: x.Current + "\n" + x.Failed + "\n" + x.InProgress, Health: func(u *unstructured.Unstructured) (Health, string, bool) {
		if time.Now().UnixNano() < resting.Load() {
			return InProgress, tooSlow, false
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		r, err := e.Evaluate(ctx, u)
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			resting.Store(time.Now().Add(breather).UnixNano())
			return InProgress, tooSlow, false
		case err != nil:
			return InProgress, err.Error(), true
		}
		return r.Status, r.Message, true
	}}, nil
}

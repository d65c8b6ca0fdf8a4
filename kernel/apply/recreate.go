package apply

import (
	"context"

	ssaerrors "github.com/fluxcd/pkg/ssa/errors"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
)

// mayRecreate asks for consent: of the Kustomization for most objects, of the
// object itself for those whose deletion takes data with it.
func (e *Engine) mayRecreate(s sending, err error) bool {
	if !ssaerrors.IsImmutableError(err) {
		return false
	}
	if e.steers(s.u, keyForce, enabled) || s.was.steers(keyForce, enabled) {
		return true
	}
	if !s.Force || e.steers(s.u, keyForce, disabled) || s.was.steers(keyForce, disabled) {
		return false
	}
	switch s.u.GetKind() {
	case "PersistentVolumeClaim", "PersistentVolume", "Namespace", "CustomResourceDefinition":
		return false
	}
	return true
}

// malformed reports whether an object would be refused although there were none
// of its name: then the one that is there must not go, since nothing would come
// after it. The API server is asked for a dry run under a name that it makes up.
// What that cannot tell counts as well formed.
func (e *Engine) malformed(ctx context.Context, s sending) bool {
	switch s.u.GetKind() {
	case "CustomResourceDefinition", "APIService": // whose names say what they are
		return false
	}
	u := s.u.DeepCopy()
	u.SetGenerateName(u.GetName() + "-")
	u.SetName("")
	if u.GetKind() == "Service" && u.GroupVersionKind().Group == "" {
		withoutAllocations(u)
	}
	_, err := s.api.Create(ctx, u, metav1.CreateOptions{FieldManager: e.Manager, DryRun: []string{metav1.DryRunAll}})
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)
}

// withoutAllocations takes from a Service what no two of them can have.
func withoutAllocations(u *unstructured.Unstructured) {
	spec, _ := u.Object["spec"].(map[string]any)
	if spec["clusterIP"] != "None" {
		delete(spec, "clusterIP")
		delete(spec, "clusterIPs")
	}
	delete(spec, "healthCheckNodePort")
	ports, _ := spec["ports"].([]any)
	for _, p := range ports {
		if port, ok := p.(map[string]any); ok {
			delete(port, "nodePort")
		}
	}
}

func (e *Engine) remove(ctx context.Context, api dynamic.ResourceInterface, u *unstructured.Unstructured) error {
	background := metav1.DeletePropagationBackground
	err := api.Delete(ctx, u.GetName(), metav1.DeleteOptions{PropagationPolicy: &background})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

package helm

import (
	"context"
	"fmt"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/cel"
	"github.com/fluxcd/pkg/runtime/conditions"
	gocel "github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/kernel/phase"
)

// awaitDependencies parks until every dependency is ready. The watch on
// HelmReleases wakes dependents.
func (l *loop) awaitDependencies(ctx context.Context, s *scope) error {
	for _, d := range s.hr.Spec.DependsOn {
		key := dependencyKey(s.hr, d)
		if l.noCrossNamespace && key.Namespace != s.hr.Namespace {
			return denied(v2.HelmReleaseKind, key)
		}
		why, err := l.dependencyUnready(ctx, s.hr, d, key)
		if err != nil {
			return err
		}
		if why != "" {
			return phase.Waiting(v2.DependencyNotReadyReason, l.requeueDependency,
				fmt.Errorf("dependencies do not meet ready condition (%s): woken when it changes", why))
		}
	}
	return nil
}

func dependencyKey(hr *v2.HelmRelease, d v2.DependencyReference) types.NamespacedName {
	ns := d.Namespace
	if ns == "" {
		ns = hr.Namespace
	}
	return types.NamespacedName{Namespace: ns, Name: d.Name}
}

func (l *loop) dependencyUnready(ctx context.Context, hr *v2.HelmRelease, d v2.DependencyReference, key types.NamespacedName) (string, error) {
	var dep v2.HelmRelease
	if err := l.client.Get(ctx, key, &dep); err != nil {
		if client.IgnoreNotFound(err) == nil {
			return fmt.Sprintf("dependency '%s' is not found", key), nil
		}
		return "", fmt.Errorf("read dependency '%s': %w", key, err)
	}
	if d.ReadyExpr != "" {
		ok, err := evaluate(ctx, d.ReadyExpr, hr, &dep)
		if err != nil {
			return "", phase.Stalled(meta.InvalidCELExpressionReason, fmt.Errorf("spec.dependsOn '%s': readyExpr: %w", key, err))
		}
		if !ok {
			return fmt.Sprintf("dependency '%s' is not ready according to readyExpr", key), nil
		}
		return "", nil
	}
	if dep.Generation != dep.Status.ObservedGeneration || !conditions.IsTrue(&dep, meta.ReadyCondition) {
		return fmt.Sprintf("dependency '%s' is not ready", key), nil
	}
	return "", nil
}

// evaluate asks a CEL expression over self and dep.
func evaluate(ctx context.Context, expr string, self, dep *v2.HelmRelease) (bool, error) {
	e, err := cel.NewExpression(expr, cel.WithCompile(), cel.WithOutputType(gocel.BoolType), cel.WithStructVariables("self", "dep"))
	if err != nil {
		return false, err
	}
	vars := map[string]any{}
	for name, obj := range map[string]*v2.HelmRelease{"self": self, "dep": dep} {
		if vars[name], err = runtime.DefaultUnstructuredConverter.ToUnstructured(obj); err != nil {
			return false, fmt.Errorf("convert %s: %w", name, err)
		}
	}
	return e.EvaluateBoolean(ctx, vars)
}

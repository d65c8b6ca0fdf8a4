package helm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/cel"
	"github.com/fluxcd/pkg/runtime/conditions"
	gocel "github.com/google/cel-go/cel"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/strvals"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"headwater.dev/kernel/phase"
)

const (
	defaultValuesKey = "values.yaml"
	// shortestSecret is the length from which strings are worth hiding; shorter
	// ones would garble every message.
	shortestSecret = 6
)

// composeValues merges spec.valuesFrom in order and spec.values over them. The
// references are read as the tenant.
func (l *loop) composeValues(ctx context.Context, s *scope) error {
	values := map[string]any{}
	for i, ref := range s.hr.Spec.ValuesFrom {
		data, err := readReference(ctx, s.access.Client, s.hr.Namespace, ref)
		if err != nil {
			if ref.Optional && apierrors.IsNotFound(err) {
				continue
			}
			return phase.Transient("ValuesError", fmt.Errorf("spec.valuesFrom[%d]: %w", i, err))
		}
		if values, err = mergeReference(values, ref, data); err != nil {
			return phase.Transient("ValuesError", fmt.Errorf("spec.valuesFrom[%d]: %s '%s/%s': %w", i, ref.Kind, s.hr.Namespace, ref.Name, err))
		}
		if ref.Kind == "Secret" {
			s.secrets = append(s.secrets, leaves(data)...)
		}
	}
	if s.hr.Spec.Values != nil {
		inline := map[string]any{}
		if err := yaml.Unmarshal(s.hr.Spec.Values.Raw, &inline); err != nil {
			return phase.Stalled("ValuesError", fmt.Errorf("spec.values: %w", err))
		}
		values = loader.MergeMaps(values, inline)
	}
	s.values = values
	return nil
}

var errNoValuesKey = errors.New("missing key")

// readReference returns the bytes that a reference points to.
func readReference(ctx context.Context, c client.Reader, ns string, ref v2.ValuesReference) ([]byte, error) {
	key := ref.ValuesKey
	if key == "" {
		key = defaultValuesKey
	}
	name := types.NamespacedName{Namespace: ns, Name: ref.Name}
	var data []byte
	var ok bool
	switch ref.Kind {
	case "ConfigMap":
		var cm corev1.ConfigMap
		if err := c.Get(ctx, name, &cm); err != nil {
			return nil, fmt.Errorf("read ConfigMap '%s': %w", name, err)
		}
		if data, ok = cm.BinaryData[key]; !ok {
			var text string
			text, ok = cm.Data[key]
			data = []byte(text)
		}
	case "Secret":
		var secret corev1.Secret
		if err := c.Get(ctx, name, &secret); err != nil {
			return nil, fmt.Errorf("read Secret '%s': %w", name, err)
		}
		data, ok = secret.Data[key]
	default:
		return nil, fmt.Errorf("unsupported kind %q; use ConfigMap or Secret", ref.Kind)
	}
	if !ok {
		return nil, fmt.Errorf("%w '%s' in %s '%s'", errNoValuesKey, key, ref.Kind, name)
	}
	return data, nil
}

// mergeReference merges referenced bytes at the root or at the target path.
// Errors never quote the bytes.
func mergeReference(values map[string]any, ref v2.ValuesReference, data []byte) (map[string]any, error) {
	if ref.TargetPath == "" {
		more := map[string]any{}
		if err := yaml.Unmarshal(data, &more); err != nil {
			return nil, errors.New("value is not a YAML map")
		}
		return loader.MergeMaps(values, more), nil
	}
	value := flatValue(string(data), ref.Literal)
	if err := strvals.ParseIntoFile(ref.TargetPath+"=v", values, func([]rune) (any, error) { return value, nil }); err != nil {
		return nil, fmt.Errorf("targetPath %q: %w", ref.TargetPath, err)
	}
	return values, nil
}

// flatValue types a value as Helm's --set does; quotes and literal keep a
// string.
func flatValue(text string, literal bool) any {
	if literal {
		return text
	}
	for _, quote := range []string{"'", `"`} {
		if len(text) >= 2 && strings.HasPrefix(text, quote) && strings.HasSuffix(text, quote) {
			return text[1 : len(text)-1]
		}
	}
	switch text {
	case "true", "false":
		return text == "true"
	case "null":
		return nil
	case "0":
		return int64(0)
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && !strings.HasPrefix(text, "0") && !strings.HasPrefix(text, "+") {
		return n
	}
	return text
}

// leaves returns the strings in YAML that are long enough to give something
// away, and the text itself when it is no map.
func leaves(data []byte) []string {
	var v any
	if err := yaml.Unmarshal(data, &v); err != nil {
		return []string{string(data)}
	}
	var out []string
	var walk func(any)
	walk = func(v any) {
		switch x := v.(type) {
		case string:
			if len(x) >= shortestSecret {
				out = append(out, x)
			}
		case map[string]any:
			for _, e := range x {
				walk(e)
			}
		case []any:
			for _, e := range x {
				walk(e)
			}
		}
	}
	walk(v)
	return out
}

// redacted hides secrets in a message, the longest first.
func redacted(message string, secrets []string) string {
	secrets = slices.Clone(secrets)
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	for _, secret := range secrets {
		message = strings.ReplaceAll(message, secret, "***")
	}
	return message
}

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

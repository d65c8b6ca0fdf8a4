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
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/strvals"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"headwater.dev/kernel/depend"
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

// awaitDependencies parks until every dependency is ready. The watches on
// HelmReleases and Kustomizations wake the dependents.
func (l *loop) awaitDependencies(ctx context.Context, s *scope) error {
	refs, err := depend.Of(s.hr)
	if err != nil {
		return phase.Stalled(v2.DependencyNotReadyReason, err)
	}
	get := func(key depend.Key) (depend.Object, error) { return depend.Get(ctx, l.all, key) }
	if cycle := depend.Cycle(s.hr, get); cycle != "" {
		return phase.Stalled(v2.DependencyNotReadyReason, fmt.Errorf("dependency cycle %s: remove one of these dependsOn", cycle))
	}
	for _, ref := range refs {
		if l.noCrossNamespace && ref.Namespace != s.hr.Namespace {
			return denied(ref.Kind, ref.NamespacedName)
		}
		why, err := l.dependencyUnready(ctx, s.hr, ref)
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

// dependencyName says the kind only where it is not the usual one.
func dependencyName(key depend.Key) string {
	if key.Kind == v2.HelmReleaseKind {
		return key.NamespacedName.String()
	}
	return key.String()
}

func (l *loop) dependencyUnready(ctx context.Context, hr *v2.HelmRelease, ref depend.Ref) (string, error) {
	name := dependencyName(ref.Key)
	dep, err := depend.Get(ctx, l.all, ref.Key)
	if apierrors.IsNotFound(err) || apimeta.IsNoMatchError(err) {
		return fmt.Sprintf("dependency '%s' is not found", name), nil
	}
	if err != nil {
		return "", fmt.Errorf("read dependency '%s': %w", name, err)
	}
	if ref.ReadyExpr != "" {
		ok, err := depend.Evaluate(ctx, ref.ReadyExpr, hr, dep)
		if errors.Is(err, depend.ErrSlow) { // nothing else would bring the HelmRelease back
			return "", phase.Transient(v2.DependencyNotReadyReason, fmt.Errorf("%s '%s': readyExpr: %w", ref.Field, name, err))
		}
		if err != nil {
			return "", phase.Stalled(meta.InvalidCELExpressionReason, fmt.Errorf("%s '%s': readyExpr: %w", ref.Field, name, err))
		}
		if !ok {
			return fmt.Sprintf("dependency '%s' is not ready according to readyExpr", name), nil
		}
		return "", nil
	}
	if !depend.Ready(dep) {
		return fmt.Sprintf("dependency '%s' is not ready", name), nil
	}
	return "", nil
}

package manifest

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/envsubst"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// substituteKey is the label or annotation that opts an object out.
const substituteKey = "kustomize.toolkit.fluxcd.io/substitute"

var (
	variableName = regexp.MustCompile(`^[_[:alpha:]][_[:alpha:][:digit:]]*$`)
	yamlLine     = regexp.MustCompile(`line \d+`)
)

// Variables are the values of the post-build substitution.
type Variables struct {
	values map[string]string
	always bool
	strict bool
}

// NewVariables takes the strategy of spec.postBuild. Layers are values by
// name, later ones winning; spec.postBuild.substitute is the last of all. In
// strict mode a variable without a value and without a default is an error.
func NewVariables(post *kustomizev1.PostBuild, strict bool, layers ...map[string]string) (*Variables, error) {
	if post == nil {
		return nil, nil
	}
	v := &Variables{
		values: map[string]string{}, strict: strict,
		always: post.SubstituteStrategy == kustomizev1.SubstituteStrategyAlways,
	}
	for _, layer := range append(layers, post.Substitute) {
		for name, value := range layer {
			if !variableName.MatchString(name) {
				return nil, fmt.Errorf("variable name %q is invalid, must match %q", name, variableName)
			}
			v.values[name] = oneLine(value)
		}
	}
	return v, nil
}

// oneLine drops every line break that YAML knows, so that a value stays where
// it was put and can add neither fields nor documents.
func oneLine(value string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '\n', '\r', '\u0085', '\u2028', '\u2029':
			return -1
		}
		return r
	}, value)
}

// substitute replaces the variables in the text of one object, given with its
// JSON. The text of custom resource definitions is left alone: what looks like
// a variable there is documentation.
func (v *Variables) substitute(u *unstructured.Unstructured, raw []byte, w *work) (*unstructured.Unstructured, error) {
	if v == nil || (len(v.values) == 0 && !v.always) || !strings.Contains(string(raw), "$") {
		return u, nil
	}
	if u.GetKind() == "CustomResourceDefinition" ||
		u.GetLabels()[substituteKey] == kustomizev1.DisabledValue ||
		u.GetAnnotations()[substituteKey] == kustomizev1.DisabledValue {
		return u, nil
	}
	text, err := yaml.JSONToYAML(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Name(u), err)
	}
	if err := w.admit(string(text), v.values); err != nil {
		return nil, fmt.Errorf("%s: post build failed: variable substitution failed: %w", Name(u), err)
	}
	out, err := evaluate(string(text), func(name string) (string, bool) {
		value, ok := v.values[name]
		return value, ok || !v.strict
	})
	if err != nil {
		return nil, fmt.Errorf("%s: post build failed: variable substitution failed: %w", Name(u), err)
	}
	// The text of a YAML error may hold values, which may be secret.
	asJSON, err := yaml.YAMLToJSONStrict([]byte(out))
	if err != nil {
		return nil, fmt.Errorf("%s: post build failed: the result of the variable substitution is not valid YAML (%s): quote the variable",
			Name(u), yamlLine.FindString(err.Error()))
	}
	done := &unstructured.Unstructured{}
	if err := done.UnmarshalJSON(asJSON); err != nil {
		return nil, fmt.Errorf("%s: post build failed: the result of the variable substitution is not a Kubernetes object", Name(u))
	}
	return done, same(u, done)
}

// same makes sure that values did not turn an object into another kind.
func same(u, w *unstructured.Unstructured) error {
	if w.GetKind() == "List" || w.IsList() && !u.IsList() {
		return fmt.Errorf("%s: post build failed: a variable turned the object into a list", Name(u))
	}
	return nil
}

func evaluate(text string, value func(string) (string, bool)) (out string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("malformed expression")
		}
	}()
	return envsubst.Eval(text, value)
}

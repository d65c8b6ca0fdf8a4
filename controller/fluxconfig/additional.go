package fluxconfig

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/api/config"
	"headwater.dev/kernel/phase"
)

// reasonAdditional is why a configuration with impossible
// additionalConfigurations is not carried out.
const reasonAdditional = "InvalidAdditionalConfigurations"

// overlay lays additionalConfigurations over the spec of obj, which it changes.
// Objects are merged, lists are continued, and everything else may only be
// added: what a property of the configuration decides cannot be contradicted.
// kind is the source kind of the configuration or Kustomization; at is where
// the additions were written, for errors.
func overlay(c *config.FluxConfig, obj client.Object, kind, at string, raw *apiextensionsv1.JSON) error {
	if raw == nil || len(raw.Raw) == 0 || string(raw.Raw) == "null" {
		return nil
	}
	at += ".additionalConfigurations"
	var more map[string]any
	if err := utiljson.Unmarshal(raw.Raw, &more); err != nil {
		return phase.Stalled(reasonAdditional, fmt.Errorf("%s is not a JSON object", at))
	}
	whole, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return fmt.Errorf("convert %s: %w", obj.GetName(), err)
	}
	spec, _ := whole["spec"].(map[string]any)
	if err := allowed(c, kind, at, more, spec); err != nil {
		return err
	}
	if err := add(spec, more, at); err != nil {
		return err
	}
	return strictly(obj, spec, at)
}

// allowed refuses keys that are decided elsewhere, and takes defaults that may
// be replaced out of the spec.
func allowed(c *config.FluxConfig, kind, at string, more, spec map[string]any) error {
	decided := config.DecidedBy(kind)
	for _, key := range slices.Sorted(maps.Keys(more)) {
		if by, ok := decided[key]; ok {
			return phase.Stalled(reasonAdditional, fmt.Errorf("%s.%s cannot be set: the configuration's %s decides it", at, key, by))
		}
		account, isKustomization := more[key] == config.ServiceAccount, kind == kustomizev1.KustomizationKind
		switch {
		case key == "serviceAccountName" && isKustomization && c.Spec.Scope == "namespace" && !account:
			return phase.Stalled(reasonAdditional, fmt.Errorf("%s.%s is %v: a configuration of scope namespace applies as %s only", at, key, more[key], config.ServiceAccount))
		case key == "serviceAccountName" && isKustomization, key == "provider" && spec[key] == "generic":
			delete(spec, key)
		}
	}
	return nil
}

// add merges more into spec.
func add(spec, more map[string]any, at string) error {
	for _, key := range slices.Sorted(maps.Keys(more)) {
		have, there := spec[key]
		here := at + "." + key
		switch value := more[key].(type) {
		case map[string]any:
			inner, ok := have.(map[string]any)
			if !there {
				spec[key] = value
				continue
			}
			if !ok {
				return contradiction(here, have)
			}
			if err := add(inner, value, here); err != nil {
				return err
			}
		case []any:
			list, ok := have.([]any)
			if there && !ok {
				return contradiction(here, have)
			}
			spec[key] = append(slices.Clone(list), value...)
		default:
			if there && !reflect.DeepEqual(have, value) {
				return contradiction(here, have)
			}
			spec[key] = value
		}
	}
	return nil
}

func contradiction(at string, have any) error {
	text, err := json.Marshal(have)
	if err != nil {
		text = nil
	}
	return phase.Stalled(reasonAdditional, fmt.Errorf("%s cannot be set: it is %.200s by the configuration's own properties", at, text))
}

// strictly reads spec back into the typed object; a key that its kind does not
// have is an error that names it.
func strictly(obj client.Object, spec map[string]any, at string) error {
	raw, err := json.Marshal(spec)
	if err != nil {
		return phase.Stalled(reasonAdditional, fmt.Errorf("%s cannot be read: %w", at, err))
	}
	field := reflect.ValueOf(obj).Elem().FieldByName("Spec")
	fresh := reflect.New(field.Type())
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(fresh.Interface()); err != nil {
		kind := reflect.TypeOf(obj).Elem().Name()
		return phase.Stalled(reasonAdditional, fmt.Errorf("%s does not fit the spec of a %s: %s", at, kind, strings.TrimPrefix(err.Error(), "json: ")))
	}
	field.Set(fresh.Elem())
	return nil
}

// additionalOf is where the additions to a configuration's source are written.
func additionalOf(spec config.FluxConfigSpec) (at string, raw *apiextensionsv1.JSON) {
	switch {
	case spec.SourceKind == "GitRepository" && spec.GitRepository != nil:
		return "gitRepository", spec.GitRepository.AdditionalConfigurations
	case spec.SourceKind == "Bucket" && spec.Bucket != nil:
		return "bucket", spec.Bucket.AdditionalConfigurations
	case spec.SourceKind == "AzureBlob" && spec.AzureBlob != nil:
		return "azureBlob", spec.AzureBlob.AdditionalConfigurations
	case spec.SourceKind == "OCIRepository" && spec.OCIRepository != nil:
		return "ociRepository", spec.OCIRepository.AdditionalConfigurations
	default:
		return "", nil
	}
}

package manifest

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/kustomize/kyaml/openapi"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// What is read piece by piece is what kustomize reads itself, without prose.
func TestBuiltinSchema(t *testing.T) {
	schema.once.Do(prepare)
	take(t, everybody)
	defer schema.guard.Release(everybody)
	defer func() {
		openapi.ResetOpenAPI()
		schema.err = builtinSchema()
	}()
	openapi.ResetOpenAPI()
	want := spec.Definitions{}
	for name, s := range openapi.Schema().Definitions {
		withoutProse(&s)
		want[name] = s
	}
	openapi.ResetOpenAPI()
	if err := builtinSchema(); err != nil {
		t.Fatal(err)
	}
	got := openapi.Schema().Definitions
	if len(got) < 500 {
		t.Errorf("%d definitions", len(got))
	}
	plain := cmp.Options{cmpopts.EquateEmpty(), cmp.Transformer("ref", func(r spec.Ref) string { return r.String() })}
	for name, s := range want {
		have := got[name]
		withoutProse(&have) // kustomize's own definitions are read whole
		if diff := cmp.Diff(s, have, plain); diff != "" {
			t.Errorf("%s (-kustomize's, +ours):\n%s", name, diff)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d definitions, kustomize has %d", len(got), len(want))
	}
	deployment := openapi.SchemaForResourceType(yaml.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"})
	strategy, key := deployment.Lookup("spec", "template", "spec", "containers").PatchStrategyAndKey()
	if strategy != "merge" || key != "name" {
		t.Errorf("containers of a Deployment are patched by %q and %q", strategy, key)
	}
}

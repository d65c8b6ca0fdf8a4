package apply

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

func fromYAML(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(raw); err != nil {
		t.Fatal(err)
	}
	return u
}

const wantedDeployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, annotations: {a/b: "1"}}
spec:
  replicas: 1
  template: {spec: {containers: [{name: side, image: s}, {name: web, image: w1}]}}
`

// liveDeployment is scaled and has another image; who did is for the cases.
func liveDeployment(t *testing.T, managers map[string]string) *unstructured.Unstructured {
	u := fromYAML(t, strings.NewReplacer("replicas: 1", "replicas: 3", "w1", "w2", `"1"`, `"2"`).Replace(wantedDeployment))
	var fields []any
	for name, set := range managers {
		var v any
		if err := json.Unmarshal([]byte(set), &v); err != nil {
			t.Fatal(err)
		}
		fields = append(fields, map[string]any{"manager": name, "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": v})
	}
	if err := unstructured.SetNestedSlice(u.Object, fields, "metadata", "managedFields"); err != nil {
		t.Fatal(err)
	}
	return u
}

func TestYield(t *testing.T) {
	const image = `{"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"web\"}":{"f:image":{}}}}}}}`
	cases := map[string]struct {
		why      string
		managers map[string]string
		path     string
		at       pointer
		want     any
	}{
		"theirs":          {"what somebody else owns is left out", map[string]string{"hpa": `{"f:spec":{"f:replicas":{}}}`}, "/spec/replicas", pointer{"spec", "replicas"}, nil},
		"nobody's":        {"leaving it out would remove it", map[string]string{"hpa": `{"f:spec":{"f:paused":{}}}`}, "/spec/replicas", pointer{"spec", "replicas"}, int64(3)},
		"ours alone":      {"our own entry is not somebody else", map[string]string{"m": `{"f:spec":{"f:replicas":{}}}`}, "/spec/replicas", pointer{"spec", "replicas"}, int64(3)},
		"item of a list":  {"found by its key", map[string]string{"updater": image}, "/spec/template/spec/containers/1/image", pointer{"spec", "template", "spec", "containers", "1", "image"}, nil},
		"other item":      {"the key is another's", map[string]string{"updater": image}, "/spec/template/spec/containers/0/image", pointer{"spec", "template", "spec", "containers", "0", "image"}, "s"},
		"owned as whole":  {"a set that ends above owns all below", map[string]string{"x": `{"f:spec":{"f:template":{}}}`}, "/spec/template/spec/containers/1/image", pointer{"spec", "template", "spec", "containers", "1", "image"}, nil},
		"escaped":         {"RFC 6901", map[string]string{"x": `{"f:metadata":{"f:annotations":{"f:a/b":{}}}}`}, "/metadata/annotations/a~1b", pointer{"metadata", "annotations", "a/b"}, nil},
		"not in the live": {"it is not ours to add", nil, "/spec/missing", pointer{"spec", "missing"}, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			rules, err := CompileIgnores([]kustomizev1.IgnoreRule{{Paths: []string{c.path}, Target: &kustomize.Selector{Kind: "Deploy.*"}}})
			if err != nil {
				t.Fatal(err)
			}
			u := fromYAML(t, wantedDeployment)
			before := u.DeepCopy()
			got, err := yield(u, liveDeployment(t, c.managers), rules.of(u), "m")
			if err != nil {
				t.Fatal(err)
			}
			if value, _ := c.at.get(got.Object); value != c.want {
				t.Errorf("%s: got %v, want %v", c.why, value, c.want)
			}
			if d := cmp.Diff(before.Object, u.Object); d != "" {
				t.Errorf("the wanted object changed: %s", d)
			}
		})
	}
}

func TestIgnoresAreChecked(t *testing.T) {
	for text, want := range map[string]string{
		"spec/replicas": "spec.ignore[0].paths[0]", "": "spec.ignore[0].paths[0]", "/": "spec.ignore[0].paths[0]",
	} {
		if _, err := CompileIgnores([]kustomizev1.IgnoreRule{{Paths: []string{text}}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", text, err)
		}
	}
	_, err := CompileIgnores([]kustomizev1.IgnoreRule{{Paths: []string{"/x"}, Target: &kustomize.Selector{Name: "("}}})
	if err == nil || !strings.Contains(err.Error(), "spec.ignore[0].target") {
		t.Errorf("got %v", err)
	}
	rules, err := CompileIgnores([]kustomizev1.IgnoreRule{{Paths: []string{"/x"}, Target: &kustomize.Selector{Kind: "Service"}}})
	if err != nil || len(rules.of(newObject("ConfigMap", "x"))) > 0 {
		t.Errorf("a rule for Services matches a ConfigMap: %v", err)
	}
}

func TestStagesOfOurOwn(t *testing.T) {
	s, err := ParseStages([]string{"example.com/Base", "ConfigMap"})
	if err != nil {
		t.Fatal(err)
	}
	base := newObject("Base", "x")
	base.SetAPIVersion("example.com/v1")
	got := s.split([]*unstructured.Unstructured{newObject("Service", "x"), newObject("ConfigMap", "x"), base, newObject("Namespace", "x")})
	if len(got) != 3 || got[0][0].GetKind() != "Namespace" || len(got[1]) != 2 || got[2][0].GetKind() != "Service" {
		t.Errorf("got %v", got)
	}
	for _, bad := range []string{"", "a/b/c", "group/"} {
		if _, err := ParseStages([]string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestInventoryIsPackedWhenLarge(t *testing.T) {
	var refs []Ref
	for i := range 30_000 {
		refs = append(refs, Ref{ID: ID{Namespace: "a-namespace-with-a-long-name", Name: fmt.Sprintf("some-application-%05d", i), GroupKind: schema.GroupKind{Group: "apps", Kind: "Deployment"}}, Version: "v1"})
	}
	inv := Inventory(refs)
	raw, err := json.Marshal(inv)
	if err != nil {
		t.Fatal(err)
	}
	if len(raw) > 1<<20 {
		t.Errorf("%d references take %d bytes", len(refs), len(raw))
	}
	if inv.Entries[0].ID != "a-namespace-with-a-long-name_some-application-00000_apps_Deployment" {
		t.Errorf("the first entry is not plain: %v", inv.Entries[0])
	}
	if diff := cmp.Diff(refs, Refs(inv)); diff != "" {
		t.Error(diff)
	}
	small := Inventory(refs[:3000])
	if len(small.Entries) != 3000 {
		t.Errorf("a normal inventory has %d entries", len(small.Entries))
	}
	for _, id := range []string{"_!" + packedSuffix, "_" + packedSuffix, "_AAAA" + packedSuffix} {
		if got := Refs(&kustomizev1.ResourceInventory{Entries: []kustomizev1.ResourceRef{{ID: id}}}); len(got) != 0 {
			t.Errorf("%q gave %v", id, got)
		}
	}
}

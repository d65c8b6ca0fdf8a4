package deploy_test

import (
	"strings"
	"testing"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	imagev1automation "github.com/fluxcd/image-automation-controller/api/v1"
	imagev1 "github.com/fluxcd/image-reflector-controller/api/v1"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	notificationv1beta3 "github.com/fluxcd/notification-controller/api/v1beta3"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	swapi "github.com/fluxcd/source-watcher/api/v2/v1beta1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"headwater.dev/api/config"
	"headwater.dev/deploy"
)

func crds(t *testing.T) map[string]apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	docs, err := deploy.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]apiextensionsv1.CustomResourceDefinition{}
	for _, doc := range docs {
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(doc, &crd); err != nil {
			t.Fatal(err)
		}
		all[crd.Name] = crd
	}
	return all
}

func TestEveryKindIsThere(t *testing.T) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		sourcev1.AddToScheme, kustomizev1.AddToScheme, helmv2.AddToScheme, notificationv1.AddToScheme, notificationv1beta3.AddToScheme,
		imagev1.AddToScheme, imagev1automation.AddToScheme, swapi.AddToScheme, config.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	all := crds(t)
	if len(all) != 16 {
		t.Errorf("%d kinds, want 16", len(all))
	}
	for name, crd := range all {
		for _, v := range crd.Spec.Versions {
			gvk := schema.GroupVersionKind{Group: crd.Spec.Group, Version: v.Name, Kind: crd.Spec.Names.Kind}
			if v.Storage && (!scheme.Recognizes(gvk) || v.Deprecated) {
				t.Errorf("%s stores %s, which is deprecated or unknown to its API module", name, v.Name)
			}
			if !v.Served || v.Storage == v.Deprecated || v.Deprecated && (v.DeprecationWarning == nil || !strings.Contains(*v.DeprecationWarning, "upgrade to")) {
				t.Errorf("%s %s: served %v, stored %v, deprecated %v; old versions are served with a warning", name, v.Name, v.Served, v.Storage, v.Deprecated)
			}
		}
		if crd.Spec.Conversion != nil {
			t.Errorf("%s needs a conversion webhook", name)
		}
	}
}

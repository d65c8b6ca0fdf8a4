package deploy_test

import (
	"slices"
	"strings"
	"testing"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	imagev1automation "github.com/fluxcd/image-automation-controller/api/v1"
	imagev1 "github.com/fluxcd/image-reflector-controller/api/v1"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	notificationv1beta3 "github.com/fluxcd/notification-controller/api/v1beta3"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"headwater.dev/api/config"
	"headwater.dev/deploy"
	"headwater.dev/kernel/release"
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
		imagev1.AddToScheme, imagev1automation.AddToScheme, config.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	all := crds(t)
	if len(all) != 15 {
		t.Errorf("%d kinds, want 15", len(all))
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

// render renders a chart as Helm does.
func render(t *testing.T, name string, values map[string]any) (map[string]string, error) {
	t.Helper()
	files, err := deploy.Chart(name)
	if err != nil {
		t.Fatal(err)
	}
	chart, err := release.LoadFS(files, ".")
	if err != nil {
		t.Fatal(err)
	}
	all, err := util.ToRenderValues(chart, values, common.ReleaseOptions{Name: "flux", Namespace: "flux-system", IsInstall: true}, nil)
	if err != nil {
		return nil, err
	}
	return engine.Render(chart, all)
}

func TestExtensionChart(t *testing.T) {
	cases := map[string]struct {
		why       string
		values    map[string]any
		want, not []string
	}{
		"defaults": {"lockdown, all loops", nil,
			[]string{"--enable=fluxconfig,source,kustomize,helm\n", "--log-level=info", "name: source-controller", "kind: NetworkPolicy"},
			[]string{"--no-cross-namespace-refs", "flux-controllers-unrestricted"}},
		"lockdown off": {"the controllers act as administrator", map[string]any{"multiTenancy": map[string]any{"enforce": false}},
			[]string{"--no-cross-namespace-refs=false", "--default-service-account=\n", "flux-controllers-unrestricted"}, nil},
		"less": {"a loop and the policy can be left out", map[string]any{"source-controller": map[string]any{"enabled": false}, "networkPolicy": map[string]any{"enabled": false}},
			[]string{"--enable=fluxconfig,kustomize,helm\n"}, []string{"name: source-controller", "NetworkPolicy"}},
		"scheduling": {"pods go where the owner wants", map[string]any{"nodeSelector": map[string]any{"pool": "system"}, "tolerations": []any{map[string]any{"operator": "Exists"}}, "extraArgs": []any{"--max-retry-delay=1m"}},
			[]string{"pool: system", "operator: Exists", `"--max-retry-delay=1m"`}, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			files, err := render(t, deploy.ChartExtension, c.values)
			if err != nil {
				t.Fatal(err)
			}
			var text strings.Builder
			for _, f := range files {
				text.WriteString(f)
			}
			for _, w := range c.want {
				if !strings.Contains(text.String(), w) {
					t.Errorf("%s: %q is missing", c.why, w)
				}
			}
			for _, n := range c.not {
				if strings.Contains(text.String(), n) {
					t.Errorf("%s: %q is there", c.why, n)
				}
			}
		})
	}
}

func TestPodsAreRestricted(t *testing.T) {
	identity := map[string]any{"hub": map[string]any{"url": "https://hub"}, "cluster": map[string]any{"id": "/subscriptions/s"}}
	for chart, values := range map[string]map[string]any{deploy.ChartAgent: identity, deploy.ChartExtension: nil} {
		files, err := render(t, chart, values)
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range files {
			if !strings.HasSuffix(name, "/deployment.yaml") {
				continue
			}
			doc, _, _ := strings.Cut(text, "\n---\n")
			var d appsv1.Deployment
			if err := yaml.UnmarshalStrict([]byte(doc), &d); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			pod, c := d.Spec.Template.Spec, d.Spec.Template.Spec.Containers[0]
			s := c.SecurityContext
			if !*pod.SecurityContext.RunAsNonRoot || !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation || !slices.Contains(s.Capabilities.Drop, "ALL") || pod.SecurityContext.SeccompProfile == nil {
				t.Errorf("%s does not hold the restricted standard", name)
			}
			if d.Labels["app.kubernetes.io/part-of"] != "headwater" || c.Name != "manager" || c.Command[0] != "agent" || c.Resources.Limits.Memory().IsZero() {
				t.Errorf("%s: labels %v, container %+v", name, d.Labels, c)
			}
		}
	}
}

func TestAgentChartRefusesBadValues(t *testing.T) {
	for why, values := range map[string]map[string]any{
		"no hub":  {"cluster": map[string]any{"id": "/subscriptions/s"}},
		"no TLS":  {"hub": map[string]any{"url": "http://hub"}, "cluster": map[string]any{"id": "/subscriptions/s"}},
		"no ID":   {"hub": map[string]any{"url": "https://hub"}, "cluster": map[string]any{"id": "edge"}},
		"a level": {"hub": map[string]any{"url": "https://hub"}, "cluster": map[string]any{"id": "/subscriptions/s"}, "logLevel": "loud"},
	} {
		t.Run(why, func(t *testing.T) {
			if _, err := render(t, deploy.ChartAgent, values); err == nil {
				t.Error("it was rendered")
			}
		})
	}
}

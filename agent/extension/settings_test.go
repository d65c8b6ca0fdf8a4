package extension

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"headwater.dev/api/resource"
	"headwater.dev/kernel/phase"
)

// rendered is what settings make of the chart: its Deployment and the service
// account of the controllers.
func rendered(t *testing.T, settings map[string]string) (appsv1.Deployment, corev1.ServiceAccount) {
	t.Helper()
	chart, _, err := loadChart(testVersion)
	if err != nil {
		t.Fatal(err)
	}
	usual, _ := chart.Values["resources"].(map[string]any)
	values, warnings, err := Values(settings, usual)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("values: %v, warnings %q", err, warnings)
	}
	all, err := util.ToRenderValues(chart, values, common.ReleaseOptions{Name: "flux", Namespace: Namespace, IsInstall: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		t.Fatal(err)
	}
	var d appsv1.Deployment
	var a corev1.ServiceAccount
	for name, text := range files {
		switch {
		case strings.HasSuffix(name, "/deployment.yaml"):
			err = yaml.UnmarshalStrict([]byte(text), &d)
		case strings.HasSuffix(name, "/rbac.yaml"):
			first, _, _ := strings.Cut(text, "\n---")
			err = yaml.UnmarshalStrict([]byte(first), &a)
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return d, a
}

// TestSettingsAct reads, for every setting, what it changed in the Deployment
// that is applied.
func TestSettingsAct(t *testing.T) {
	arg := func(want string) func(appsv1.Deployment, corev1.ServiceAccount) bool {
		return func(d appsv1.Deployment, _ corev1.ServiceAccount) bool {
			return slices.Contains(d.Spec.Template.Spec.Containers[0].Args, want)
		}
	}
	env := func(name, want string) func(appsv1.Deployment, corev1.ServiceAccount) bool {
		return func(d appsv1.Deployment, _ corev1.ServiceAccount) bool {
			return slices.ContainsFunc(d.Spec.Template.Spec.Containers[0].Env, func(e corev1.EnvVar) bool { return e.Name == name && e.Value == want })
		}
	}
	amount := func(read func(corev1.ResourceRequirements) string, want string) func(appsv1.Deployment, corev1.ServiceAccount) bool {
		return func(d appsv1.Deployment, _ corev1.ServiceAccount) bool {
			return read(d.Spec.Template.Spec.Containers[0].Resources) == want
		}
	}
	pod := func(holds func(corev1.PodTemplateSpec) bool) func(appsv1.Deployment, corev1.ServiceAccount) bool {
		return func(d appsv1.Deployment, _ corev1.ServiceAccount) bool { return holds(d.Spec.Template) }
	}
	limits := func(r corev1.ResourceRequirements) string { return r.Limits.Memory().String() }
	tests := map[string]struct {
		settings map[string]string
		acts     func(appsv1.Deployment, corev1.ServiceAccount) bool
	}{
		"helm off":       {map[string]string{"helm-controller.enabled": "false"}, arg("--enable=fluxconfig,source,kustomize")},
		"source off":     {map[string]string{"source-controller.enabled": "false"}, arg("--enable=fluxconfig,kustomize,helm")},
		"kustomize off":  {map[string]string{"kustomize-controller.enabled": "false"}, arg("--enable=fluxconfig,source,helm")},
		"generators on":  {map[string]string{"source-watcher.enabled": "true"}, arg("--enable=fluxconfig,source,kustomize,helm,source-watcher")},
		"no enforcement": {map[string]string{"multiTenancy.enforce": "false"}, arg("--no-cross-namespace-refs=false")},
		"workers":        {map[string]string{"kustomize-controller.concurrent": "16"}, arg("--concurrent=16")},
		"requeue":        {map[string]string{"helm-controller.requeue-dependency": "5s"}, arg("--requeue-dependency=5s")},
		"log":            {map[string]string{"source-controller.log-level": "debug"}, arg("--log-level=debug")},
		"agent's log":    {map[string]string{"fluxconfig-agent.log-level": "error"}, arg("--log-level=error")},
		"memory":         {map[string]string{"source-controller.resources.limits.memory": "2Gi"}, amount(limits, "2Gi")},
		"cpu": {map[string]string{"helm-controller.resources.limits.cpu": "2"},
			amount(func(r corev1.ResourceRequirements) string { return r.Limits.Cpu().String() }, "2")},
		"requested cpu": {map[string]string{"kustomize-controller.resources.requests.cpu": "500m"},
			amount(func(r corev1.ResourceRequirements) string { return r.Requests.Cpu().String() }, "500m")},
		"drift":               {map[string]string{"helm-controller.detectDrift": "true"}, arg("--detect-drift")},
		"strict substitution": {map[string]string{"kustomize-controller.strict-substitution-mode": "true"}, arg("--strict-substitution")},
		"memory watch":        {map[string]string{"helm-controller.outOfMemoryWatch.enabled": "true", "helm-controller.outOfMemoryWatch.memoryThreshold": "50"}, env("GOMEMLIMIT", "536870912")},
		"memory watch of a limit": {map[string]string{"helm-controller.outOfMemoryWatch.enabled": "true", "source-controller.resources.limits.memory": "2Gi"},
			env("GOMEMLIMIT", "2040109465")},
		"workload identity": {map[string]string{"workloadIdentity.enable": "true", "workloadIdentity.azureClientId": "c", "workloadIdentity.azureTenantId": "t"},
			func(d appsv1.Deployment, a corev1.ServiceAccount) bool {
				return d.Spec.Template.Labels["azure.workload.identity/use"] == "true" && a.Annotations["azure.workload.identity/client-id"] == "c" &&
					a.Annotations["azure.workload.identity/tenant-id"] == "t"
			}},
		"API server's name": {map[string]string{"setKubeServiceHostFqdn": "true"},
			pod(func(p corev1.PodTemplateSpec) bool {
				return p.Annotations["kubernetes.azure.com/set-kube-service-host-fqdn"] == "true"
			})},
		"node selector": {map[string]string{"nodeSelector": `{"pool":"system"}`}, pod(func(p corev1.PodTemplateSpec) bool { return p.Spec.NodeSelector["pool"] == "system" })},
		"tolerations": {map[string]string{"tolerations": "- key: CriticalAddonsOnly\n  operator: Exists"},
			pod(func(p corev1.PodTemplateSpec) bool {
				return len(p.Spec.Tolerations) == 1 && p.Spec.Tolerations[0].Operator == corev1.TolerationOpExists
			})},
		"affinity": {map[string]string{"affinity": `{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"a","operator":"Exists"}]}]}}}`},
			pod(func(p corev1.PodTemplateSpec) bool {
				return p.Spec.Affinity != nil && p.Spec.Affinity.NodeAffinity != nil
			})},
		"priority": {map[string]string{"priorityClassName": "system-cluster-critical"}, pod(func(p corev1.PodTemplateSpec) bool { return p.Spec.PriorityClassName == "system-cluster-critical" })},
		"labels of pods": {map[string]string{"podLabels": `{"team":"a"}`}, pod(func(p corev1.PodTemplateSpec) bool {
			return p.Labels["team"] == "a" && p.Labels["app.kubernetes.io/name"] != ""
		})},
		"notes on pods":    {map[string]string{"podAnnotations": `{"note":"a"}`}, pod(func(p corev1.PodTemplateSpec) bool { return p.Annotations["note"] == "a" })},
		"environment":      {map[string]string{"env": `{"HTTPS_PROXY":"http://proxy:3128"}`}, env("HTTPS_PROXY", "http://proxy:3128")},
		"flags":            {map[string]string{"extraArgs": `["--max-retry-delay=5m"]`}, arg("--max-retry-delay=5m")},
		"identity is off":  {map[string]string{"workloadIdentity.enable": "false", "workloadIdentity.azureClientId": "c"}, func(_ appsv1.Deployment, a corev1.ServiceAccount) bool { return a.Annotations == nil }},
		"nothing is asked": {nil, arg("--concurrent=8")},
	}
	usual, account := rendered(t, nil)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d, a := rendered(t, test.settings)
			if !test.acts(d, a) {
				t.Errorf("%v does not act: %+v", test.settings, d.Spec.Template)
			}
			if len(test.settings) > 0 && name != "identity is off" && cmp.Equal(usual, d) && cmp.Equal(account, a) {
				t.Error("nothing changed")
			}
		})
	}
}

func TestSettingsWithoutEffectSayWhy(t *testing.T) {
	for key, words := range map[string]string{
		"what.ever": "this version does not know it", "useKubeletIdentity": "identity of the node", "source-controller.ssh-host-key-args": "known_hosts",
		"kustomize-controller.enable-in-memory-build": "without being asked",
		"helm-controller.outOfMemoryWatch.interval":   "all the time", "source-controller.detectDrift": "does not know it",
		"image-automation-controller.enabled": "does not bring the image-automation-controller",
	} {
		_, warnings, err := Values(map[string]string{key: "true"}, nil)
		if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], key) || !strings.Contains(warnings[0], words) {
			t.Errorf("%s: %q %v", key, warnings, err)
		}
	}
}

func TestStay(t *testing.T) {
	pin := func(v string) *string { return &v }
	tests := map[string]struct {
		why                string
		in                 resource.ExtensionProperties
		installed, brought string
		kept               string
		refused            bool
	}{
		"fresh":               {"nothing is installed", resource.ExtensionProperties{}, "", "1.4.0", "", false},
		"same":                {"", resource.ExtensionProperties{}, "1.4.0", "1.4.0", "", false},
		"minor":               {"followed by default", resource.ExtensionProperties{AutoUpgradeMinorVersion: true, AutoUpgradeMode: "compatible"}, "1.3.2", "1.4.0", "", false},
		"minor unasked":       {"", resource.ExtensionProperties{AutoUpgradeMode: "compatible"}, "1.3.2", "1.4.0", "autoUpgradeMinorVersion is false", false},
		"patch unasked":       {"", resource.ExtensionProperties{}, "1.4.0", "1.4.1", "autoUpgradeMinorVersion is false", false},
		"mode none":           {"", resource.ExtensionProperties{AutoUpgradeMinorVersion: true, AutoUpgradeMode: "none"}, "1.4.0", "1.4.1", "autoUpgradeMode is none", false},
		"mode patch":          {"", resource.ExtensionProperties{AutoUpgradeMinorVersion: true, AutoUpgradeMode: "patch"}, "1.4.0", "1.4.1", "", false},
		"mode patch, minor":   {"", resource.ExtensionProperties{AutoUpgradeMinorVersion: true, AutoUpgradeMode: "patch"}, "1.4.0", "1.5.0", "autoUpgradeMode is patch", false},
		"major":               {"never unasked", resource.ExtensionProperties{AutoUpgradeMinorVersion: true}, "1.4.0", "2.0.0", "another major version", false},
		"major asked":         {"", resource.ExtensionProperties{Version: pin("2.0.0")}, "1.4.0", "2.0.0", "", false},
		"pinned to installed": {"", resource.ExtensionProperties{Version: pin("1.4.0")}, "1.4.0", "1.5.0", "is asked for", false},
		"pinned elsewhere":    {"", resource.ExtensionProperties{Version: pin("1.2.0")}, "1.4.0", "1.5.0", "", true},
		"development":         {"what is no version is replaced", resource.ExtensionProperties{}, "dev", "1.5.0", "", false},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			kept, err := stay(&c.in, c.installed, c.brought)
			if (err != nil) != c.refused || !strings.Contains(kept, c.kept) || (kept == "") != (c.kept == "") {
				t.Errorf("%s: %q %v", c.why, kept, err)
			}
			if err != nil && (phase.Classify(err).Reason != "VersionNotAvailable" || !strings.Contains(err.Error(), "1.5.0") || !strings.Contains(err.Error(), "1.4.0")) {
				t.Errorf("the error does not name what there is: %v", err)
			}
		})
	}
}

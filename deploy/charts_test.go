package deploy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"

	"headwater.dev/agent"
	"headwater.dev/controller"
	"headwater.dev/deploy"
	"headwater.dev/dev/kubetest"
	"headwater.dev/hub"
	"headwater.dev/kernel/release"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

func load(t *testing.T, name string) *release.Chart {
	t.Helper()
	files, err := deploy.Chart(name)
	if err != nil {
		t.Fatal(err)
	}
	chart, err := release.LoadFS(files, ".")
	if err != nil {
		t.Fatal(err)
	}
	return chart
}

// render renders a chart as Helm does for a release "r" in namespace "ns", and
// reads every manifest strictly: a misspelt field fails the test.
func render(t *testing.T, name string, values map[string]any) (map[string]runtime.Object, error) {
	t.Helper()
	chart := load(t, name)
	all, err := util.ToRenderValues(chart, values, common.ReleaseOptions{Name: "r", Namespace: "ns", IsInstall: true}, nil)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		return nil, err
	}
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	objects := map[string]runtime.Object{}
	for file, text := range files {
		if !strings.HasSuffix(file, ".yaml") {
			continue
		}
		for doc := range strings.SplitSeq(text, "\n---\n") {
			if bare(doc) {
				continue
			}
			o, gvk, err := decoder.Decode([]byte(doc), nil, nil)
			if err != nil {
				t.Fatalf("%s: %v\n%s", file, err, doc)
			}
			m, err := meta.Accessor(o)
			if err != nil {
				t.Fatal(err)
			}
			objects[gvk.Kind+"/"+m.GetName()] = o
		}
	}
	return objects, nil
}

// bare says that a document holds comments only.
func bare(doc string) bool {
	for line := range strings.Lines(doc) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}

func mustRender(t *testing.T, name string, values map[string]any) map[string]runtime.Object {
	t.Helper()
	objects, err := render(t, name, values)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func object[T runtime.Object](t *testing.T, objects map[string]runtime.Object, name string) T {
	t.Helper()
	o, ok := objects[name].(T)
	if !ok {
		t.Fatalf("there is no %s", name)
	}
	return o
}

func identity() map[string]any {
	return map[string]any{"hub": map[string]any{"url": "https://hub"}, "cluster": map[string]any{"id": "/subscriptions/s"}}
}

func TestExtensionChart(t *testing.T) {
	lockdown := []string{"controllers", "--enable=fluxconfig,source,kustomize,helm", "--log-level=info", "--concurrent=8", "--requeue-dependency=30s"}
	cases := map[string]struct {
		why     string
		values  map[string]any
		args    []string
		without []string
		with    []string
	}{
		"defaults": {"lockdown, all loops, no administrator", nil, lockdown,
			[]string{"ClusterRoleBinding/flux-controllers-unrestricted"}, []string{"Service/source-controller", "NetworkPolicy/flux-controllers"}},
		"lockdown off": {"the controllers act as administrator", map[string]any{"multiTenancy": map[string]any{"enforce": false}},
			append(slices.Clone(lockdown), "--no-cross-namespace-refs=false", "--no-remote-bases=false", "--default-service-account="),
			nil, []string{"ClusterRoleBinding/flux-controllers-unrestricted"}},
		"less": {"a loop and the policy can be left out",
			map[string]any{"source-controller": map[string]any{"enabled": false}, "networkPolicy": map[string]any{"enabled": false}, "concurrent": float64(3)},
			[]string{"controllers", "--enable=fluxconfig,kustomize,helm", "--log-level=info", "--concurrent=3", "--requeue-dependency=30s"},
			[]string{"Service/source-controller", "NetworkPolicy/flux-controllers"}, nil},
		"cloud identity": {"whoever gives the controllers an identity lets everybody decrypt with it", map[string]any{"workloadIdentity": map[string]any{"enable": true}},
			append(slices.Clone(lockdown), "--shared-decryption-identity"), nil, nil},
		"cloud identity, lockdown off": {"both at once", map[string]any{"workloadIdentity": map[string]any{"enable": true}, "multiTenancy": map[string]any{"enforce": false}},
			append(slices.Clone(lockdown), "--no-cross-namespace-refs=false", "--no-remote-bases=false", "--default-service-account=", "--shared-decryption-identity"), nil, nil},
		"further flags": {"what has no value of its own can be passed", map[string]any{"extraArgs": []any{"--max-retry-delay=1m"}},
			append(slices.Clone(lockdown), "--max-retry-delay=1m"), nil, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			objects := mustRender(t, deploy.ChartExtension, c.values)
			d := object[*appsv1.Deployment](t, objects, "Deployment/flux-controllers")
			if diff := cmp.Diff(c.args, d.Spec.Template.Spec.Containers[0].Args); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.why, diff)
			}
			for _, key := range c.with {
				if objects[key] == nil {
					t.Errorf("%s: %s is missing", c.why, key)
				}
			}
			for _, key := range c.without {
				if objects[key] != nil {
					t.Errorf("%s: %s is there", c.why, key)
				}
			}
		})
	}
}

func TestExtensionScheduling(t *testing.T) {
	objects := mustRender(t, deploy.ChartExtension, map[string]any{"nodeSelector": map[string]any{"pool": "system"},
		"tolerations": []any{map[string]any{"operator": "Exists"}}, "resources": map[string]any{"limits": map[string]any{"memory": "2Gi"}}})
	pod := object[*appsv1.Deployment](t, objects, "Deployment/flux-controllers").Spec.Template.Spec
	if pod.NodeSelector["pool"] != "system" || len(pod.Tolerations) != 1 || pod.Tolerations[0].Operator != corev1.TolerationOpExists {
		t.Errorf("pods do not go where the owner wants: %v %v", pod.NodeSelector, pod.Tolerations)
	}
	if r := pod.Containers[0].Resources; r.Limits.Memory().String() != "2Gi" || r.Requests.Memory().String() != "64Mi" {
		t.Errorf("resources are %v", r)
	}
}

// TestExtensionServesArtifacts follows the way from the Service to the port of
// the process.
func TestExtensionServesArtifacts(t *testing.T) {
	objects := mustRender(t, deploy.ChartExtension, nil)
	s := object[*corev1.Service](t, objects, "Service/source-controller")
	pod := object[*appsv1.Deployment](t, objects, "Deployment/flux-controllers").Spec.Template
	for key, value := range s.Spec.Selector {
		if pod.Labels[key] != value {
			t.Errorf("the Service selects %s=%s, the pods have %q", key, value, pod.Labels[key])
		}
	}
	if port := s.Spec.Ports[0]; port.Port != 80 || port.TargetPort.String() != "http" {
		t.Errorf("the Service has port %+v", port)
	}
	if p := pod.Spec.Containers[0].Ports[0]; p.Name != "http" || p.ContainerPort != 9090 {
		t.Errorf("the process has port %+v", p)
	}
}

// TestExtensionRights holds the line of what the controllers may do in their
// own name.
func TestExtensionRights(t *testing.T) {
	role := object[*rbacv1.ClusterRole](t, mustRender(t, deploy.ChartExtension, nil), "ClusterRole/flux-controllers")
	for _, rule := range role.Rules {
		if slices.Contains(rule.Verbs, "*") || slices.Contains(rule.APIGroups, "*") {
			t.Errorf("a rule allows everything: %v", rule)
		}
		if slices.Contains(rule.Verbs, "escalate") {
			t.Errorf("the controllers can give what they do not have: %v", rule)
		}
		if slices.Contains(rule.Verbs, "impersonate") && !slices.Equal(rule.Resources, []string{"serviceaccounts"}) {
			t.Errorf("they can become somebody else than a service account: %v", rule)
		}
		if slices.Contains(rule.Verbs, "bind") && !slices.Equal(rule.ResourceNames, []string{"cluster-admin"}) {
			t.Errorf("they can bind other roles: %v", rule)
		}
	}
}

func TestPodsAreRestricted(t *testing.T) {
	pods := map[string]corev1.PodSpec{
		"agent":     object[*appsv1.Deployment](t, mustRender(t, deploy.ChartAgent, identity()), "Deployment/headwater-agent").Spec.Template.Spec,
		"extension": object[*appsv1.Deployment](t, mustRender(t, deploy.ChartExtension, nil), "Deployment/flux-controllers").Spec.Template.Spec,
		"hub":       object[*appsv1.StatefulSet](t, mustRender(t, deploy.ChartHub, nil), "StatefulSet/r").Spec.Template.Spec,
	}
	for name, pod := range pods {
		c := pod.Containers[0]
		s := c.SecurityContext
		if !*pod.SecurityContext.RunAsNonRoot || !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation ||
			!slices.Contains(s.Capabilities.Drop, "ALL") || pod.SecurityContext.SeccompProfile == nil {
			t.Errorf("%s does not hold the restricted standard", name)
		}
		if c.Resources.Limits.Memory().IsZero() || c.LivenessProbe == nil || c.ReadinessProbe == nil {
			t.Errorf("%s has no limit of memory or no probes", name)
		}
	}
}

// TestHostPod holds what dev/hostpod relies on to run the charts' Deployments
// as processes.
func TestHostPod(t *testing.T) {
	for chart, values := range map[string]map[string]any{deploy.ChartAgent: identity(), deploy.ChartExtension: nil} {
		for name, o := range mustRender(t, chart, values) {
			d, ok := o.(*appsv1.Deployment)
			if !ok {
				continue
			}
			c := d.Spec.Template.Spec.Containers[0]
			if d.Labels["app.kubernetes.io/part-of"] != "headwater" || c.Name != "manager" || c.Command[0] != "agent" || len(c.EnvFrom) > 0 {
				t.Errorf("%s: labels %v, container %+v", name, d.Labels, c)
			}
			for _, arg := range c.Args {
				if strings.Contains(arg, "-addr") || strings.HasPrefix(arg, "--storage") {
					t.Errorf("%s sets %s, which belongs into the environment", name, arg)
				}
			}
		}
	}
}

func TestHubChart(t *testing.T) {
	cases := map[string]struct {
		why    string
		values map[string]any
		want   []string
		egress int
	}{
		"defaults": {"known by its Service; it calls nobody", nil,
			[]string{"--data-dir=/data/hub", "--external-url=https://r.ns.svc", "--hostname=r.ns.svc", "--locations=local"}, 0},
		"outside": {"known by a name of the owner's, with a certificate of theirs",
			map[string]any{"externalURL": "https://hub.example:8443/", "tls": map[string]any{"existingSecret": "hub-tls"}, "locations": []any{"west", "east"}},
			[]string{"--external-url=https://hub.example:8443", "--tls-cert=/tls/tls.crt", "--tls-key=/tls/tls.key", "--locations=west,east"}, 0},
		"etcd": {"an external etcd must be reached",
			map[string]any{"etcd": map[string]any{"endpoints": []any{"https://a:2379", "https://b:2379"}, "tlsSecret": "etcd"}, "service": map[string]any{"port": 8443}},
			[]string{"--etcd-endpoints=https://a:2379,https://b:2379", "--etcd-ca=/etcd/ca.crt", "--external-url=https://r.ns.svc:8443"}, 1},
		"traces": {"their collector must be reached",
			map[string]any{"extraEnv": []any{map[string]any{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}}}, nil, 1},
		"issuers": {"those of an argument as well", map[string]any{"extraArgs": []any{"--oidc-issuer=https://i.example=a"}}, []string{"--oidc-issuer=https://i.example=a"}, 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			objects := mustRender(t, deploy.ChartHub, c.values)
			pod := object[*appsv1.StatefulSet](t, objects, "StatefulSet/r").Spec.Template.Spec
			for _, want := range c.want {
				if !slices.Contains(pod.Containers[0].Args, want) {
					t.Errorf("%s: %q is missing in %q", c.why, want, pod.Containers[0].Args)
				}
			}
			if *pod.AutomountServiceAccountToken {
				t.Error("the hub has a token of the cluster that it runs in")
			}
			mounted := map[string]bool{"data": true}
			for _, v := range pod.Volumes {
				mounted[v.Name] = true
			}
			for _, m := range pod.Containers[0].VolumeMounts {
				if !mounted[m.Name] {
					t.Errorf("volume %s is mounted and not there", m.Name)
				}
			}
			if n := object[*networkingv1.NetworkPolicy](t, objects, "NetworkPolicy/r"); len(n.Spec.Egress) != c.egress {
				t.Errorf("%s: egress is %v", c.why, n.Spec.Egress)
			}
		})
	}
}

// TestProgramsKnowTheArguments lets the programs read what the charts pass.
func TestProgramsKnowTheArguments(t *testing.T) {
	everything := map[string]any{"externalURL": "https://hub", "hostnames": []any{"h"}, "tenantId": "t", "subscriptionId": "s", "kmsURL": "hashivault://k",
		"tls": map[string]any{"existingSecret": "tls"}, "etcd": map[string]any{"endpoints": []any{"https://a:2379"}, "tlsSecret": "etcd"}}
	hubRoot := hub.NewCommand("1")
	serve, _, err := hubRoot.Find([]string{"serve"})
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string]struct {
		pod corev1.PodSpec
		cmd *cobra.Command
	}{
		"agent": {object[*appsv1.Deployment](t, mustRender(t, deploy.ChartAgent, identity()), "Deployment/headwater-agent").Spec.Template.Spec, agent.NewCommand()},
		"extension": {object[*appsv1.Deployment](t, mustRender(t, deploy.ChartExtension, map[string]any{"multiTenancy": map[string]any{"enforce": false},
			"detectDrift": true, "strictSubstitution": true}),
			"Deployment/flux-controllers").Spec.Template.Spec, controller.NewCommand()},
		"hub": {object[*appsv1.StatefulSet](t, mustRender(t, deploy.ChartHub, everything), "StatefulSet/r").Spec.Template.Spec, serve},
	}
	for name, p := range programs {
		t.Run(name, func(t *testing.T) {
			args := p.pod.Containers[0].Args
			if args[0] != p.cmd.Name() {
				t.Errorf("the pod runs %q, the command is %q", args[0], p.cmd.Name())
			}
			if err := p.cmd.ParseFlags(args[1:]); err != nil {
				t.Errorf("%s %q: %v", p.cmd.Name(), args, err)
			}
		})
	}
}

func TestBadValuesAreRefused(t *testing.T) {
	with := func(values map[string]any, key string, value any) map[string]any {
		values[key] = value
		return values
	}
	cases := map[string]struct {
		chart  string
		values map[string]any
	}{
		"an agent without a hub":      {deploy.ChartAgent, map[string]any{"cluster": map[string]any{"id": "/subscriptions/s"}}},
		"a hub without TLS":           {deploy.ChartAgent, with(identity(), "hub", map[string]any{"url": "http://hub"})},
		"a cluster without an ARM id": {deploy.ChartAgent, with(identity(), "cluster", map[string]any{"id": "edge"})},
		"a log level":                 {deploy.ChartAgent, with(identity(), "logLevel", "loud")},
		"no workers":                  {deploy.ChartExtension, map[string]any{"concurrent": 0}},
		"a word for a switch":         {deploy.ChartExtension, map[string]any{"multiTenancy": map[string]any{"enforce": "false"}}},
		"a hub's URL without TLS":     {deploy.ChartHub, map[string]any{"externalURL": "http://hub"}},
		"no location":                 {deploy.ChartHub, map[string]any{"locations": []any{}}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := render(t, c.chart, c.values); err == nil {
				t.Error("it was rendered")
			}
		})
	}
}

// TestHubRunsInARestrictedNamespace installs the hub in a real API server that
// enforces the restricted standard; its pod is simulated.
func TestHubRunsInARestrictedNamespace(t *testing.T) {
	c := kubetest.Start(t, kubetest.WithNode())
	ctx := t.Context()
	namespace := c.Namespace(t)
	ns, err := c.Client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ns.Labels["pod-security.kubernetes.io/enforce"] = "restricted"
	if _, err := c.Client.CoreV1().Namespaces().Update(ctx, ns, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: namespace}, Spec: corev1.PersistentVolumeSpec{
		Capacity:               corev1.ResourceList{corev1.ResourceStorage: kresource.MustParse("8Gi")},
		AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/nowhere"}},
	}}
	if _, err := c.Client.CoreV1().PersistentVolumes().Create(ctx, volume, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	releases, err := release.NewForConfig(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	request := release.Request{Name: "hub", Namespace: namespace, Chart: load(t, deploy.ChartHub)}
	if _, err := releases.Apply(ctx, request, 0); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, time.Minute, func() error {
		s, err := c.Client.AppsV1().StatefulSets(namespace).Get(ctx, "hub", metav1.GetOptions{})
		if err == nil && s.Status.ReadyReplicas != 1 {
			err = fmt.Errorf("%d replicas are ready", s.Status.ReadyReplicas)
		}
		return err
	})
	if _, err := releases.Uninstall(ctx, request, release.Removal{}); err != nil {
		t.Fatal(err)
	}
	claims, err := c.Client.CoreV1().PersistentVolumeClaims(namespace).List(ctx, metav1.ListOptions{})
	if err != nil || len(claims.Items) != 1 || !claims.Items[0].DeletionTimestamp.IsZero() {
		t.Errorf("the records went with the release: %v %v", claims, err)
	}
}

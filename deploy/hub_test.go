package deploy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/deploy"
	"headwater.dev/dev/kubetest"
	"headwater.dev/hub"
	"headwater.dev/hub/auth"
	"headwater.dev/kernel/release"
)

// replicas are the values of three hubs over an external etcd.
func replicas() map[string]any {
	return map[string]any{"replicas": 3, "keysSecret": "hub-keys",
		"etcd": map[string]any{"endpoints": []any{"https://etcd-0:2379", "https://etcd-1:2379", "https://etcd-2:2379"}, "tlsSecret": "etcd"}}
}

func TestHubReplicas(t *testing.T) {
	objects := mustRender(t, deploy.ChartHub, replicas())
	set := object[*appsv1.StatefulSet](t, objects, "StatefulSet/r")
	if *set.Spec.Replicas != 3 || len(set.Spec.Template.Spec.TopologySpreadConstraints) != 1 {
		t.Errorf("%d replicas, spread by %v", *set.Spec.Replicas, set.Spec.Template.Spec.TopologySpreadConstraints)
	}
	args := strings.Join(set.Spec.Template.Spec.Containers[0].Args, " ")
	if !strings.Contains(args, "--keys-from=/keys") || !strings.Contains(args, "etcd-2:2379") {
		t.Errorf("arguments: %s", args)
	}
	budget := object[*policyv1.PodDisruptionBudget](t, objects, "PodDisruptionBudget/r")
	if budget.Spec.MaxUnavailable.IntValue() != 1 {
		t.Errorf("the budget lets %v go at once", budget.Spec.MaxUnavailable)
	}
	for _, o := range mustRender(t, deploy.ChartHub, nil) {
		if o.GetObjectKind().GroupVersionKind().Kind == "PodDisruptionBudget" {
			t.Error("a lone hub has a budget, which would keep its node from being drained")
		}
	}
}

// TestHubReplicasRun installs three replicas. The node is simulated: it shows that
// the API server takes the objects and that all pods are scheduled and become ready.
func TestHubReplicasRun(t *testing.T) {
	c := kubetest.Start(t, kubetest.WithNode())
	ctx, namespace := t.Context(), c.Namespace(t)
	for i := range 3 {
		volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", namespace, i)}, Spec: corev1.PersistentVolumeSpec{
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: kresource.MustParse("8Gi")},
			AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/nowhere"}},
		}}
		if _, err := c.Client.CoreV1().PersistentVolumes().Create(ctx, volume, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	releases, err := release.NewForConfig(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	request := release.Request{Name: "hub", Namespace: namespace, Chart: load(t, deploy.ChartHub), Values: replicas()}
	if _, err := releases.Apply(ctx, request, 0); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, time.Minute, func() error {
		s, err := c.Client.AppsV1().StatefulSets(namespace).Get(ctx, "hub", metav1.GetOptions{})
		if err == nil && s.Status.ReadyReplicas != 3 {
			err = fmt.Errorf("%d replicas are ready", s.Status.ReadyReplicas)
		}
		return err
	})
	b, err := c.Client.PolicyV1().PodDisruptionBudgets(namespace).Get(ctx, "hub", metav1.GetOptions{})
	if err != nil || b.Spec.MaxUnavailable.IntValue() != 1 {
		t.Errorf("budget: %v, %v", b, err)
	}
	if _, err := releases.Uninstall(ctx, request, release.Removal{}); err != nil {
		t.Fatal(err)
	}
}

func TestHubReplicasNeedWhatTheyShare(t *testing.T) {
	for why, values := range map[string]map[string]any{
		"no etcd": {"replicas": 2, "keysSecret": "keys"},
		"no keys": {"replicas": 2, "etcd": map[string]any{"endpoints": []any{"https://a:2379"}}},
	} {
		if _, err := render(t, deploy.ChartHub, values); err == nil || !strings.Contains(err.Error(), "keysSecret") {
			t.Errorf("%s: %v", why, err)
		}
	}
}

// TestHubPeople gives the chart all that says who is let in and how much each may
// ask, and the program what the chart makes of it.
func TestHubPeople(t *testing.T) {
	objects := mustRender(t, deploy.ChartHub, map[string]any{
		"oidc": map[string]any{"issuers": []any{
			map[string]any{"url": "https://a.example", "audiences": []any{"x"}, "claims": map[string]any{"team": "ops"}},
			map[string]any{"url": "https://b.example/c", "audiences": []any{"y"}, "ca": "-----BEGIN CERTIFICATE-----\n"}}},
		"limits":    map[string]any{"reads": map[string]any{"perSecond": 0}, "address": map[string]any{"perSecond": 2500000, "burst": 7}, "writes": nil},
		"activity":  map[string]any{"retention": "48h", "max": 5},
		"extraArgs": []any{"--unregistered"}, "service": map[string]any{"type": "LoadBalancer"},
	})
	set := object[*appsv1.StatefulSet](t, objects, "StatefulSet/r")
	serve, _, err := hub.NewCommand("1").Find([]string{"serve"})
	if err != nil {
		t.Fatal(err)
	}
	if err := serve.ParseFlags(set.Spec.Template.Spec.Containers[0].Args[1:]); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"oidc-issuers": "/issuers/issuers.json", "limit-reads": "0", "limit-address": "2.5e+06", "limit-address-burst": "7",
		"limit-writes": "250", "limit-deletes-burst": "20000", "activity-retention": "48h0m0s", "activity-max": "5", "unregistered": "true"} {
		if got := serve.Flag(name).Value.String(); got != want {
			t.Errorf("--%s is %s, want %s", name, got, want)
		}
	}
	files := object[*corev1.ConfigMap](t, objects, "ConfigMap/r-issuers").Data
	list := filepath.Join(t.TempDir(), "issuers.json")
	if err := os.WriteFile(list, []byte(files["issuers.json"]), 0o600); err != nil {
		t.Fatal(err)
	}
	issuers, err := auth.ReadIssuers(list)
	if err != nil || len(issuers) != 2 || issuers[0].Claims["team"] != "ops" || issuers[1].CAFile != "/issuers/ca-1.crt" || files["ca-1.crt"] == "" {
		t.Errorf("issuers: %+v %v, files %v", issuers, err, files)
	}
	if s := object[*corev1.Service](t, objects, "Service/r"); s.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		t.Errorf("addresses of clients are lost: %q", s.Spec.ExternalTrafficPolicy)
	}
	if p := object[*networkingv1.NetworkPolicy](t, objects, "NetworkPolicy/r"); len(p.Spec.Egress) == 0 {
		t.Error("the hub may not ask its issuers")
	}
	for why, values := range map[string]map[string]any{
		"an issuer without TLS":      {"oidc": map[string]any{"issuers": []any{map[string]any{"url": "http://a", "audiences": []any{"x"}}}}},
		"an issuer for everybody":    {"oidc": map[string]any{"issuers": []any{map[string]any{"url": "https://a"}}}},
		"a limit that is not known":  {"limits": map[string]any{"posts": map[string]any{"burst": 1}}},
		"a limit that lets none in":  {"limits": map[string]any{"reads": map[string]any{"burst": 0}}},
		"a retention without a unit": {"activity": map[string]any{"retention": "90"}},
	} {
		if _, err := render(t, deploy.ChartHub, values); err == nil {
			t.Errorf("%s: accepted", why)
		}
	}
}

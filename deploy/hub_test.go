package deploy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/deploy"
	"headwater.dev/dev/kubetest"
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

package kubetest_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/api/config"
	"headwater.dev/dev/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

func TestNamespacesAreApart(t *testing.T) {
	c := kubetest.Start(t)
	var first string
	t.Run("inner", func(t *testing.T) {
		first = c.Namespace(t)
		if second := c.Namespace(t); first == second {
			t.Errorf("two namespaces with the name %s", first)
		}
		if _, err := c.Client.CoreV1().ServiceAccounts(first).Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
			t.Errorf("workloads cannot be created: %v", err)
		}
	})
	namespace, err := c.Client.CoreV1().Namespaces().Get(t.Context(), first, metav1.GetOptions{})
	if err == nil && namespace.DeletionTimestamp == nil || err != nil && !apierrors.IsNotFound(err) {
		t.Errorf("namespace outlives its test: %v, %v", namespace, err)
	}
}

func TestAuditLogHoldsRequests(t *testing.T) {
	c := kubetest.Start(t)
	name := c.Namespace(t)
	kubetest.Eventually(t, 10*time.Second, func() error {
		log, err := os.ReadFile(c.AuditLog())
		if err == nil && !bytes.Contains(log, []byte(name)) {
			err = errors.New("request is missing in the audit log")
		}
		return err
	})
}

func TestCRDsAreServed(t *testing.T) {
	c := kubetest.Start(t)
	for range 2 { // a second installation changes nothing
		kubetest.CRDs(t, c, "flux", "fluxconfig")
	}
	for _, version := range []string{"kustomize.toolkit.fluxcd.io/v1", config.GroupVersion().String()} {
		if _, err := c.Client.Discovery().ServerResourcesForGroupVersion(version); err != nil {
			t.Errorf("%s is not served: %v", version, err)
		}
	}
}

func TestSimulatedNodeRunsWorkloads(t *testing.T) {
	c := kubetest.Start(t, kubetest.WithNode())
	namespace := c.Namespace(t)
	labels := map[string]string{"app": "web"}
	pod := corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "init", Image: "example.com/init:1"}},
		Containers:     []corev1.Container{{Name: "web", Image: "example.com/web:1"}},
	}
	replicas := int32(3)
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod},
	}}
	if _, err := c.Client.AppsV1().Deployments(namespace).Create(t.Context(), deployment, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	once := pod
	once.RestartPolicy = corev1.RestartPolicyNever
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "once"}, Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: once}}}
	if _, err := c.Client.BatchV1().Jobs(namespace).Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, time.Minute, func() error {
		d, err := c.Client.AppsV1().Deployments(namespace).Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil || d.Status.AvailableReplicas != replicas {
			return fmt.Errorf("deployment: %d of %d available, %w", d.Status.AvailableReplicas, replicas, err)
		}
		j, err := c.Client.BatchV1().Jobs(namespace).Get(t.Context(), "once", metav1.GetOptions{})
		if err != nil || j.Status.Succeeded != 1 {
			return fmt.Errorf("job: %d succeeded, %w", j.Status.Succeeded, err)
		}
		return nil
	})
}

package hostpod_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"headwater.dev/dev/hostpod"
	"headwater.dev/dev/kubetest"
)

// roleVariable makes this test binary play the program of an image.
const roleVariable = "HOSTPOD_TEST_REPORT"

func TestMain(m *testing.M) {
	if name := os.Getenv(roleVariable); name != "" {
		if err := workload(name, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "workload:", err)
			os.Exit(1)
		}
		return
	}
	kubetest.Main(m)
}

// workload writes into a ConfigMap who it is for the API server and how it was
// called, and waits to be stopped. Called with "crash", it fails instead.
func workload(report string, args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if args[0] == "crash" {
		return errors.New("crashed as asked")
	}
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, forbidden := client.CoreV1().Secrets(os.Getenv("POD_NAMESPACE")).List(ctx, metav1.ListOptions{})
	object := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: report},
		Data: map[string]string{
			"user": review.Status.UserInfo.Username, "args": strings.Join(args, " "), "pid": fmt.Sprint(os.Getpid()),
			"setting": os.Getenv("SETTING"), "secrets": fmt.Sprint(apierrors.IsForbidden(forbidden)),
			"storage": os.Getenv("STORAGE_ADV_ADDR"),
		},
	}
	maps := client.CoreV1().ConfigMaps(os.Getenv("POD_NAMESPACE"))
	if _, err = maps.Create(ctx, object, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
		_, err = maps.Update(ctx, object, metav1.UpdateOptions{})
	}
	if err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// fixture is a namespace with a service account that may write ConfigMaps.
type fixture struct {
	*kubetest.Cluster
	namespace string
	runner    *hostpod.Runner
	dir       string
}

func setUp(t *testing.T) *fixture {
	t.Helper()
	c := kubetest.Start(t)
	f := &fixture{Cluster: c, namespace: c.Namespace(t), dir: t.TempDir()}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "worker"}}
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "worker"}, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"create", "update"},
	}}}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "worker"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "worker"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "worker", Namespace: f.namespace}},
	}
	settings := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{"color": "blue"}}
	_, err := c.Client.CoreV1().ServiceAccounts(f.namespace).Create(t.Context(), account, metav1.CreateOptions{})
	_, err2 := c.Client.RbacV1().Roles(f.namespace).Create(t.Context(), role, metav1.CreateOptions{})
	_, err3 := c.Client.RbacV1().RoleBindings(f.namespace).Create(t.Context(), binding, metav1.CreateOptions{})
	_, err4 := c.Client.CoreV1().ConfigMaps(f.namespace).Create(t.Context(), settings, metav1.CreateOptions{})
	self, err5 := os.Executable()
	programs := t.TempDir()
	if err := errors.Join(err, err2, err3, err4, err5, os.Symlink(self, filepath.Join(programs, "agent"))); err != nil {
		t.Fatal(err)
	}
	f.runner, err = hostpod.New(hostpod.Config{
		Config: c.Config, Programs: programs, Dir: filepath.Join(f.dir, "pods"), Logs: filepath.Join(f.dir, "logs"),
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.runner.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("runner: %v", err)
		}
	})
	return f
}

func (f *fixture) deployment(labels map[string]string, args ...string) *appsv1.Deployment {
	pod := map[string]string{"app": "worker"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "worker", Namespace: f.namespace, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: pod},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: pod},
				Spec: corev1.PodSpec{ServiceAccountName: "worker", Containers: []corev1.Container{{
					Name: "manager", Image: "headwater.dev/agent:1", Args: args,
					Env: []corev1.EnvVar{
						{Name: roleVariable, Value: "report"},
						{Name: "SETTING", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
							LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}, Key: "color"}}},
					},
				}}},
			},
		},
	}
}

func ours() map[string]string { return map[string]string{"app.kubernetes.io/part-of": "headwater"} }

// report waits until the workload says that it was called with the arguments.
func (f *fixture) report(t *testing.T, args string) map[string]string {
	t.Helper()
	var data map[string]string
	kubetest.Eventually(t, 30*time.Second, func() error {
		object, err := f.Client.CoreV1().ConfigMaps(f.namespace).Get(t.Context(), "report", metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("%w; processes: %+v", err, f.runner.Processes())
		}
		if data = object.Data; data["args"] != args {
			return fmt.Errorf("reported arguments %q, want %q; processes: %+v", data["args"], args, f.runner.Processes())
		}
		return nil
	})
	return data
}

// awaitGone waits until no process with the id is left.
func awaitGone(t *testing.T, pid string) {
	t.Helper()
	kubetest.Eventually(t, 30*time.Second, func() error {
		if _, err := os.Stat("/proc/" + pid); err == nil {
			return fmt.Errorf("process %s is still there", pid)
		}
		return nil
	})
}

func TestProcessFollowsItsDeployment(t *testing.T) {
	f := setUp(t)
	deployments := f.Client.AppsV1().Deployments(f.namespace)
	d, err := deployments.Create(t.Context(), f.deployment(ours(), "serve", "--namespace=$(POD_NAMESPACE)"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	first := f.report(t, "serve --namespace="+f.namespace)
	for key, want := range map[string]string{
		"user": "system:serviceaccount:" + f.namespace + ":worker", "setting": "blue", "secrets": "true",
	} {
		if first[key] != want {
			t.Errorf("%s = %q, want %q", key, first[key], want)
		}
	}

	d.Spec.Template.Spec.Containers[0].Args = []string{"serve", "again"}
	if d, err = deployments.Update(t.Context(), d, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	second := f.report(t, "serve again")
	awaitGone(t, first["pid"])
	if first["storage"] != second["storage"] {
		t.Errorf("address of artifacts changed from %s to %s: URLs in use are broken", first["storage"], second["storage"])
	}

	none := int32(0)
	d.Spec.Replicas = &none
	if d, err = deployments.Update(t.Context(), d, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, second["pid"])

	one := int32(1)
	d.Spec.Replicas = &one
	d.Spec.Template.Spec.Containers[0].Args = []string{"serve", "at last"}
	if _, err = deployments.Update(t.Context(), d, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	third := f.report(t, "serve at last")
	if err := deployments.Delete(t.Context(), "worker", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, third["pid"])
	kubetest.Eventually(t, 30*time.Second, func() error {
		left, err := os.ReadDir(filepath.Join(f.dir, "pods"))
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("files of a deleted deployment are left: %v", left)
		}
		return err
	})
}

func TestCrashIsRestartedAndTold(t *testing.T) {
	f := setUp(t)
	if _, err := f.Client.AppsV1().Deployments(f.namespace).Create(t.Context(), f.deployment(ours(), "crash"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, 30*time.Second, func() error {
		for _, p := range f.runner.Processes() {
			if p.Namespace == f.namespace && p.Restarts >= 2 && strings.Contains(p.Problem, "crashed as asked") {
				return nil
			}
		}
		return fmt.Errorf("processes: %+v", f.runner.Processes())
	})
}

func TestOtherDeploymentsAreLeftAlone(t *testing.T) {
	f := setUp(t)
	for name, labels := range map[string]map[string]string{"worker": nil, "marker": ours()} {
		d := f.deployment(labels, "serve")
		d.Name = name
		if _, err := f.Client.AppsV1().Deployments(f.namespace).Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	f.report(t, "serve")
	for _, p := range f.runner.Processes() {
		if p.Namespace == f.namespace && p.Deployment == "worker" {
			t.Errorf("a deployment without the label is run: %+v", p)
		}
	}
}

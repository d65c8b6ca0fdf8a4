package node

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"headwater.dev/dev/image"
	"headwater.dev/dev/k8s"
)

func TestMain(m *testing.M) {
	Reexec()
	os.Exit(m.Run())
}

// start brings up a node, or skips the test with the reason why this machine has none.
func start(t *testing.T, services ...int) *Node {
	t.Helper()
	if testing.Short() {
		t.Skip("starts Kubernetes; run without -short")
	}
	if err := Check(); err != nil {
		t.Skip(err)
	}
	binary, err := k8s.Ensure(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	root, err := image.FindRoot(".")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	n, err := Start(t.Context(), Config{
		Name: "node1", Dir: dir, Binary: binary, Root: root, Services: services, Progress: testWriter{t},
		Programs: []image.Program{{Name: "probe", Package: "./dev/node/testdata/probe"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			logTails(t, filepath.Join(dir, "logs"))
		}
	})
	return n
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func logTails(t *testing.T, dir string) {
	for _, name := range []string{"node", "containerd", "kubelet", "kube-proxy", "dns"} {
		data, err := os.ReadFile(filepath.Join(dir, name+".log"))
		if err != nil {
			continue
		}
		t.Logf("%s:\n%s", name, data[max(0, len(data)-2000):])
	}
}

func eventually(t *testing.T, what string, cond func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

func probe(args ...string) corev1.PodSpec {
	yes, no := true, false
	return corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever,
		Containers: []corev1.Container{{
			Name: "probe", Image: "headwater.dev/probe:dev", ImagePullPolicy: corev1.PullNever, Args: args,
			SecurityContext: &corev1.SecurityContext{
				RunAsNonRoot: &yes, ReadOnlyRootFilesystem: &yes, AllowPrivilegeEscalation: &no,
				Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
		}},
	}
}

// fetch runs a pod that gets a page, and returns what it got.
func fetch(t *testing.T, client kubernetes.Interface, name, url string) string {
	t.Helper()
	pods := client.CoreV1().Pods("default")
	if _, err := pods.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: probe(url)}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	phase := corev1.PodPending
	eventually(t, "pod "+name+" ends", func(ctx context.Context) error {
		pod, err := pods.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if phase = pod.Status.Phase; phase != corev1.PodSucceeded && phase != corev1.PodFailed {
			return fmt.Errorf("pod is %s: %+v", phase, pod.Status.ContainerStatuses)
		}
		return nil
	})
	out, err := pods.GetLogs(name, &corev1.PodLogOptions{}).DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if phase != corev1.PodSucceeded {
		t.Errorf("pod %s is %s and says: %s", name, phase, out)
	}
	return string(out)
}

func TestNode(t *testing.T) {
	host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello from the machine") }))
	defer host.Close()
	port := host.Listener.Addr().(*net.TCPAddr).Port
	n := start(t, port)
	config, err := n.Cluster().Config()
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, client)
	if got := fetch(t, client, "by-name", "http://web.default.svc.cluster.local"); !strings.HasPrefix(got, "hello from web-") || !strings.HasSuffix(got, "uid 65532\n") {
		t.Errorf("through the service the page is %q", got)
	}
	if got := fetch(t, client, "to-machine", fmt.Sprintf("http://%s:%d", Address, port)); got != "hello from the machine" {
		t.Errorf("from the machine the page is %q", got)
	}
	published, err := Publish(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	defer published.Close()
	resp, err := http.Get(fmt.Sprintf("http://%s:%d", Address, port))
	if err != nil {
		t.Fatalf("the machine does not reach its service as pods do: %v", err)
	}
	resp.Body.Close()
	if err := n.Err(); err != nil {
		t.Error(err)
	}
	stopLeavesNothing(t, n)
}

// serve runs two pods behind a service.
func serve(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	spec := probe()
	spec.RestartPolicy = corev1.RestartPolicyAlways
	spec.Containers[0].ReadinessProbe = &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1,
	}
	replicas, labels := int32(2), map[string]string{"app": "web"}
	_, err := client.AppsV1().Deployments("default").Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "two pods are available", func(ctx context.Context) error {
		d, err := client.AppsV1().Deployments("default").Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if d.Status.AvailableReplicas != 2 {
			return fmt.Errorf("%d of 2 pods are available", d.Status.AvailableReplicas)
		}
		return nil
	})
}

// stopLeavesNothing stops the node and looks for what it made.
func stopLeavesNothing(t *testing.T, n *Node) {
	t.Helper()
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(n.state.Dir); !os.IsNotExist(err) {
		t.Errorf("the node's files are left: %v", err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), n.cfg.Dir) {
		t.Error("mounts are left")
	}
	err = filepath.WalkDir(cgroupRoot, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == n.state.Cgroup {
			t.Errorf("cgroup %s is left", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range lines {
		line, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(line), n.cfg.Dir) {
			t.Errorf("process %s is left: %q", file, line)
		}
	}
}

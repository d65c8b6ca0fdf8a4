package node

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
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
	"headwater.dev/dev/registry"
)

func TestMain(m *testing.M) {
	Reexec()
	if dir := os.Getenv(victimDir); dir != "" {
		os.Exit(victim(dir))
	}
	os.Exit(m.Run())
}

// start brings up a node, or skips the test with the reason why this machine has none.
func start(t *testing.T, cfg Config) *Node {
	t.Helper()
	if testing.Short() {
		t.Skip("starts Kubernetes; run without -short")
	}
	if err := Check(); err != nil {
		t.Skip(err)
	}
	cfg.Name, cfg.Dir, cfg.Progress = "node1", t.TempDir(), testWriter{t}
	if err := complete(t.Context(), &cfg); err != nil {
		t.Fatal(err)
	}
	n, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			logTails(t, filepath.Join(cfg.Dir, "logs"))
		}
	})
	return n
}

func complete(ctx context.Context, cfg *Config) (err error) {
	if cfg.Binary, err = k8s.Ensure(ctx, os.Stderr); err != nil {
		return err
	}
	cfg.Root, err = image.FindRoot(".")
	return err
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
func fetch(t *testing.T, client kubernetes.Interface, name string, spec corev1.PodSpec) string {
	t.Helper()
	pods := client.CoreV1().Pods("default")
	if _, err := pods.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{}); err != nil {
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
	reg, err := registry.Start(registry.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	port, regPort := portOf(t, host.Listener.Addr().String()), portOf(t, reg.Addr())
	onNode := fmt.Sprintf("%s:%d", Address, regPort)
	n := start(t, Config{Programs: []image.Program{program()}, Services: []int{port, regPort}, Registries: []string{onNode}})
	client := clientOf(t, n)
	serve(t, client)
	if got := fetch(t, client, "by-name", probe("http://web.default.svc.cluster.local")); !strings.HasPrefix(got, "hello from web-") || !strings.HasSuffix(got, "uid 65532\n") {
		t.Errorf("through the service the page is %q", got)
	}
	if got := fetch(t, client, "to-machine", probe(fmt.Sprintf("http://%s:%d", Address, port))); got != "hello from the machine" {
		t.Errorf("from the machine the page is %q", got)
	}

	push(t, n, reg.Reference("team"))
	pulled := probe(fmt.Sprintf("http://%s:%d", Address, port))
	pulled.Containers[0].Image, pulled.Containers[0].ImagePullPolicy = onNode+"/team/probe:pulled", corev1.PullAlways
	if got := fetch(t, client, "pulled", pulled); got != "hello from the machine" {
		t.Errorf("the pulled image says %q", got)
	}

	published, err := Publish(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(fmt.Sprintf("http://%s:%d", Address, port))
	if err != nil {
		t.Fatalf("the machine does not reach its service as pods do: %v", err)
	}
	resp.Body.Close()
	if err := published.Close(); err != nil {
		t.Error(err)
	}
	if err := n.Err(); err != nil {
		t.Error(err)
	}
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	nothingIsLeft(t, n.cfg.Dir, n.state.Cgroup)
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return a.Port
}

func clientOf(t *testing.T, n *Node) kubernetes.Interface {
	t.Helper()
	config, err := n.Cluster().Config()
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func program() image.Program {
	return image.Program{Name: "probe", Package: "./dev/node/testdata/probe"}
}

func push(t *testing.T, n *Node, to string) {
	t.Helper()
	img, err := image.Build(t.Context(), program(), image.Options{Root: n.cfg.Root, Version: "pulled", Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := img.Push(t.Context(), to); err != nil {
		t.Fatal(err)
	}
}

// victimDir makes the test program start a node there and wait to be killed.
const victimDir = "HEADWATER_TEST_VICTIM_DIR"

func victim(dir string) int {
	ctx := context.Background()
	cfg := Config{Name: "victim", Dir: dir, Progress: os.Stderr}
	if err := complete(ctx, &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if _, err := Start(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("started")
	select {}
}

// A second node does not notice the first, nor that the first one's program is killed, and of that one nothing stays.
func TestKilledNextToAnother(t *testing.T) {
	other := start(t, Config{})
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), victimDir+"="+dir)
	cmd.Stderr = testWriter{t}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "started\n" {
		t.Fatalf("the other program says %q, %v", line, err)
	}
	s, err := loadState(state{Dir: filesDir(dir)}.file())
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	if err := CleanUp(dir); err != nil {
		t.Fatal(err)
	}
	nothingIsLeft(t, dir, s.Cgroup)
	if err := other.Err(); err != nil {
		t.Errorf("the other node: %v", err)
	}
	if _, err := other.ctr(t.Context(), "version"); err != nil {
		t.Errorf("the other node's containerd: %v", err)
	}
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

// nothingIsLeft looks for what the node of a folder made.
func nothingIsLeft(t *testing.T, dir, cgroup string) {
	t.Helper()
	if _, err := os.Stat(filesDir(dir)); !os.IsNotExist(err) {
		t.Errorf("the node's files are left: %v", err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), dir) {
		t.Error("mounts are left")
	}
	err = filepath.WalkDir(cgroupRoot, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == cgroup {
			t.Errorf("cgroup %s is left", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "all processes end", func(context.Context) error {
		lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			return err
		}
		for _, file := range lines {
			line, err := os.ReadFile(file)
			if err == nil && strings.Contains(string(line), dir) {
				return fmt.Errorf("process %s is left: %q", file, line)
			}
		}
		return nil
	})
}

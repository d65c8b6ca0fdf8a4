package extension

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/testr"
	"helm.sh/helm/v4/pkg/release/common"
	"helm.sh/helm/v4/pkg/storage"
	"helm.sh/helm/v4/pkg/storage/driver"
	authnv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/deploy"
	"headwater.dev/dev/kubetest"
	"headwater.dev/kernel/release"
)

const (
	testID      = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Kubernetes/connectedClusters/c/providers/Microsoft.KubernetesConfiguration/extensions/flux"
	testVersion = "1.2.3"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// keeper keeps settings in memory; sealing is the agent's business.
type keeper struct {
	mu     sync.Mutex
	values map[string]string
}

func (k *keeper) Keep(_ context.Context, _, _, version string, sealed []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case version == "":
		k.values = nil
	case len(sealed) > 0:
		key, value, _ := strings.Cut(string(sealed), "=")
		k.values = map[string]string{key: value}
	}
	return nil
}

func (k *keeper) Read(context.Context, string, string) (map[string]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.values, nil
}

// world is a cluster with the agent's chart, and a Manager that has the rights
// of the agent's service account and no others.
type world struct {
	t       *testing.T
	cluster *kubetest.Cluster
	agent   *rest.Config
	manager *Manager

	mu   sync.Mutex
	last map[string]link.Observed
}

func newWorld(t *testing.T) *world {
	c := kubetest.Start(t, kubetest.WithNode())
	w := &world{t: t, cluster: c, last: map[string]link.Observed{}}
	installAgent(t, c)
	token, err := c.Client.CoreV1().ServiceAccounts("headwater-system").CreateToken(t.Context(), "headwater-agent",
		&authnv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.agent = rest.AnonymousClientConfig(c.Config)
	w.agent.BearerToken = token.Status.Token
	w.manager, err = New(Config{
		REST: w.agent, Settings: &keeper{}, Image: Image{Reference: "headwater.dev/agent:9"}, Version: testVersion,
		Report: w.take, Now: time.Now, Deadline: 8 * time.Second, Log: quiet(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.manager.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return w
}

func quiet(t *testing.T) logr.Logger { return testr.New(t) }

func installAgent(t *testing.T, c *kubetest.Cluster) {
	files, err := deploy.Chart(deploy.ChartAgent)
	if err != nil {
		t.Fatal(err)
	}
	chart, err := release.LoadFS(files, ".")
	if err != nil {
		t.Fatal(err)
	}
	releases, err := release.NewForConfig(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	_, err = releases.Apply(t.Context(), release.Request{
		Name: "headwater-agent", Namespace: "headwater-system", Chart: chart,
		Values: map[string]any{
			"hub":     map[string]any{"url": "https://hub.example"},
			"cluster": map[string]any{"id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Kubernetes/connectedClusters/c"},
		},
		Options: release.Options{CreateNamespace: true},
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) take(o link.Observed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last[o.ID] = o
}

// item is the extension at a generation with settings "key=value".
func item(generation int64, settings ...string) link.Item {
	e := &resource.ExtensionProperties{ExtensionType: "Microsoft.Flux", ReleaseTrain: "Stable",
		Scope:                 &resource.ExtensionScope{Cluster: &resource.ExtensionScopeCluster{ReleaseNamespace: Namespace}},
		ConfigurationSettings: map[string]string{}}
	for _, s := range settings {
		key, value, _ := strings.Cut(s, "=")
		e.ConfigurationSettings[key] = value
	}
	return link.Item{ID: testID, Name: "flux", Generation: generation, Extension: e}
}

func (w *world) desire(items ...link.Item) { w.manager.Desired(link.Desired{Items: items}) }

// await waits until the generation has been answered and returns the answer.
func (w *world) await(generation int64, want func(link.Observed) bool) link.Observed {
	w.t.Helper()
	var o link.Observed
	kubetest.Eventually(w.t, time.Minute, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if o = w.last[testID]; o.Generation == generation && want(o) {
			return nil
		}
		return fmt.Errorf("generation %d: last report %+v %+v", generation, o, o.Extension)
	})
	return o
}

func installedAt(generation int64) func(link.Observed) bool {
	return func(o link.Observed) bool {
		e := o.Extension
		return e != nil && e.AcceptedGeneration == generation && e.Error == nil && e.CurrentVersion == testVersion &&
			slices.ContainsFunc(e.Statuses, func(s resource.ExtensionStatus) bool { return s.Code == "InstallationSucceeded" })
	}
}

func refused(code, words string) func(link.Observed) bool {
	return func(o link.Observed) bool {
		e := o.Extension
		return e != nil && e.AcceptedGeneration == o.Generation && e.Error != nil && e.Error.Code == code && strings.Contains(e.Error.Message, words)
	}
}

func (w *world) args() []string {
	d, err := w.cluster.Client.AppsV1().Deployments(Namespace).Get(w.t.Context(), deployment, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return d.Spec.Template.Spec.Containers[0].Args
}

func (w *world) dynamic() dynamic.Interface {
	d, err := dynamic.NewForConfig(w.cluster.Config)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// TestLife is the life of an extension, with the rights of the agent's chart.
func TestLife(t *testing.T) {
	w := newWorld(t)
	w.desire(item(1))
	w.await(1, installedAt(1))
	if !slices.Contains(w.args(), "--enable=fluxconfig,source,kustomize,helm") {
		t.Errorf("arguments are %q", w.args())
	}

	t.Run("editors may edit Flux objects", w.aggregates)
	t.Run("settings upgrade it", func(t *testing.T) {
		next := item(2, "multiTenancy.enforce=false", "image-reflector-controller.enabled=true")
		next.ProtectedVersion, next.Sealed = "v1", []byte("kustomize-controller.concurrent=3")
		w.desire(next)
		o := w.await(2, installedAt(2))
		if !slices.Contains(w.args(), "--concurrent=3") || !slices.Contains(w.args(), "--default-service-account=") {
			t.Errorf("arguments are %q", w.args())
		}
		if o.ProtectedVersion != "v1" {
			t.Error("the protected settings were not acknowledged")
		}
		if s := o.Extension.Statuses[0]; s.Level != levelWarning || !strings.Contains(s.Message, "image-reflector-controller") {
			t.Errorf("there is no warning: %+v", o.Extension.Statuses)
		}
	})
	t.Run("what is impossible is refused and leaves it", func(t *testing.T) {
		bad := item(3)
		version := "9.9.9"
		bad.Extension.Version = &version
		w.desire(bad)
		if o := w.await(3, refused("VersionNotAvailable", testVersion)); o.Extension.CurrentVersion != testVersion {
			t.Errorf("the installed version is lost: %+v", o.Extension)
		}
	})
	t.Run("an older version stays when upgrades are not wanted", w.stays)
	t.Run("A83 bounds of the owner", w.bounded)
	t.Run("what vanishes comes back", func(t *testing.T) {
		w.desire(item(4))
		w.await(4, installedAt(4))
		w.heal(t)
	})
	t.Run("what is changed is put back", w.drifts)
	t.Run("pods that fail later are a status", w.fails)
	t.Run("an interrupted upgrade is taken over", w.interrupted)
	t.Run("why it does not start is told", w.unschedulable)
	t.Run("it goes last", w.goes)
	t.Run("it comes again", func(t *testing.T) {
		w.desire(item(9))
		w.await(9, installedAt(9))
		gone := item(10)
		gone.Delete = true
		w.desire(gone)
		w.await(10, func(o link.Observed) bool { return o.Deleted })
	})
}

// fails lets the pods of an installed extension fail. That is a status and not
// a failed operation, also for an agent that has just started.
func (w *world) fails(t *testing.T) {
	ctx := t.Context()
	nodes, err := w.cluster.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cordon := func(on bool) {
		patch := fmt.Appendf(nil, `{"spec":{"unschedulable":%v}}`, on)
		for _, n := range nodes.Items {
			if _, err := w.cluster.Client.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	cordon(true)
	defer cordon(false)
	pods := metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=flux-extension"}
	if err := w.cluster.Client.CoreV1().Pods(Namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, pods); err != nil {
		t.Fatal(err)
	}
	var last link.Observed
	again, err := New(Config{
		REST: w.agent, Settings: &keeper{}, Image: Image{Reference: "headwater.dev/agent:9"}, Version: testVersion,
		Report: func(o link.Observed) { last = o }, Now: time.Now, Deadline: time.Nanosecond, Log: quiet(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	again.Desired(link.Desired{Items: []link.Item{item(4)}})
	kubetest.Eventually(t, time.Minute, func() error {
		if err := again.step(ctx); err != nil {
			return err
		}
		e := last.Extension
		if e == nil || len(e.Statuses) == 0 || e.Statuses[0].Code != "Unschedulable" {
			return fmt.Errorf("observed %+v", e)
		}
		if e.AcceptedGeneration != 4 || e.Error != nil {
			t.Errorf("the operation has failed: %+v", e)
		}
		return nil
	})
}

// stays looks at the extension with the eyes of a newer agent.
func (w *world) stays(t *testing.T) {
	var last link.Observed
	newer, err := New(Config{
		REST: w.agent, Settings: &keeper{}, Image: Image{Reference: "headwater.dev/agent:10"}, Version: "1.3.0",
		Report: func(o link.Observed) { last = o }, Now: time.Now, Deadline: time.Minute, Log: quiet(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	next := item(3, "kustomize-controller.concurrent=5")
	newer.Desired(link.Desired{Items: []link.Item{next}})
	kubetest.Eventually(t, time.Minute, func() error { return newer.step(t.Context()) })
	e := last.Extension
	if e.CurrentVersion != testVersion || !slices.ContainsFunc(e.Statuses, func(s resource.ExtensionStatus) bool {
		return s.Code == "UpgradeAvailable" && strings.Contains(s.Message, "1.3.0")
	}) {
		t.Errorf("observed %+v", e)
	}
	d, err := w.cluster.Client.AppsV1().Deployments(Namespace).Get(t.Context(), deployment, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if c := d.Spec.Template.Spec.Containers[0]; c.Image != "headwater.dev/agent:9" || !slices.Contains(c.Args, "--concurrent=5") {
		t.Errorf("settings act on the version that stays: %s %v", c.Image, c.Args)
	}
}

// bounded looks at the extension with the eyes of an agent whose owner bounds the
// hub: no setting may lift that.
func (w *world) bounded(t *testing.T) {
	var last link.Observed
	m, err := New(Config{
		REST: w.agent, Settings: &keeper{}, Image: Image{Reference: "headwater.dev/agent:9"}, Version: testVersion, Bounded: true,
		Report: func(o link.Observed) { last = o }, Now: time.Now, Deadline: time.Minute, Log: quiet(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, setting := range []string{"multiTenancy.enforce=false", `extraArgs=["--default-service-account="]`, `env={"HTTPS_PROXY":"http://thief"}`} {
		m.Desired(link.Desired{Items: []link.Item{item(3, setting)}})
		if err := m.step(t.Context()); err != nil {
			t.Fatal(err)
		}
		key, _, _ := strings.Cut(setting, "=")
		if e := last.Extension.Error; e == nil || e.Code != "NotAllowed" || !strings.Contains(e.Message, key) {
			t.Errorf("%s: %+v", setting, e)
		}
	}
	if err := m.within(map[string]string{"multiTenancy.enforce": "true", "kustomize-controller.concurrent": "3"}); err != nil {
		t.Errorf("what lifts nothing: %v", err)
	}
}

// aggregates looks for the Flux kinds in what editors may do.
func (w *world) aggregates(t *testing.T) {
	kubetest.Eventually(t, 30*time.Second, func() error {
		edit, err := w.cluster.Client.RbacV1().ClusterRoles().Get(t.Context(), "edit", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, r := range edit.Rules {
			if slices.Contains(r.APIGroups, "source.toolkit.fluxcd.io") && slices.Contains(r.Verbs, "create") {
				return nil
			}
		}
		return errors.New("editors may not make sources")
	})
}

// heal deletes the Deployment, then Helm's record.
func (w *world) heal(t *testing.T) {
	ctx := t.Context()
	kube := w.cluster.Client
	if err := kube.AppsV1().Deployments(Namespace).Delete(ctx, deployment, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, time.Minute, func() error {
		d, err := kube.AppsV1().Deployments(Namespace).Get(ctx, deployment, metav1.GetOptions{})
		if err == nil && !isAvailable(d) {
			err = errors.New("not available")
		}
		return err
	})
	records := metav1.ListOptions{LabelSelector: "owner=helm,name=" + releaseName}
	if err := kube.CoreV1().Secrets(Namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, records); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, time.Minute, func() error {
		list, err := kube.CoreV1().Secrets(Namespace).List(ctx, records)
		if err == nil && (len(list.Items) != 1 || list.Items[0].Labels["status"] != "deployed") {
			err = fmt.Errorf("%d records", len(list.Items))
		}
		return err
	})
}

// drifts stops the controllers and takes away a right of theirs.
func (w *world) drifts(t *testing.T) {
	ctx := t.Context()
	kube := w.cluster.Client
	role, err := kube.RbacV1().ClusterRoles().Get(ctx, deployment, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rules := len(role.Rules)
	role.Rules = role.Rules[1:]
	if _, err := kube.RbacV1().ClusterRoles().Update(ctx, role, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	stop := []byte(`{"spec":{"replicas":0}}`)
	if _, err := kube.AppsV1().Deployments(Namespace).Patch(ctx, deployment, types.MergePatchType, stop, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, time.Minute, func() error {
		role, err := kube.RbacV1().ClusterRoles().Get(ctx, deployment, metav1.GetOptions{})
		if err != nil {
			return err
		}
		d, err := kube.AppsV1().Deployments(Namespace).Get(ctx, deployment, metav1.GetOptions{})
		if err == nil && (len(role.Rules) != rules || !isAvailable(d)) {
			err = fmt.Errorf("%d rules, Deployment %+v", len(role.Rules), d.Status)
		}
		return err
	})
}

// interrupted leaves a release as a crash in the middle of an upgrade does.
func (w *world) interrupted(t *testing.T) {
	store := storage.Init(driver.NewSecrets(w.cluster.Client.CoreV1().Secrets(Namespace)))
	last, err := w.manager.releases.Last(t.Context(), releaseName, Namespace)
	if err != nil {
		t.Fatal(err)
	}
	last.SetStatus(common.StatusPendingUpgrade, "Preparing upgrade")
	if err := store.Update(last); err != nil {
		t.Fatal(err)
	}
	w.desire(item(5, "kustomize-controller.concurrent=7"))
	w.await(5, installedAt(5))
	if !slices.Contains(w.args(), "--concurrent=7") {
		t.Errorf("arguments are %q", w.args())
	}
}

func (w *world) unschedulable(t *testing.T) {
	w.desire(item(6, `nodeSelector={"planet":"mars"}`))
	w.await(6, func(o link.Observed) bool {
		return o.Extension != nil && slices.ContainsFunc(o.Extension.Statuses, func(s resource.ExtensionStatus) bool {
			return s.Level == levelError && s.Code == "Unschedulable"
		})
	})
	w.await(6, refused("ExtensionOperationFailed", "Unschedulable"))
	w.desire(item(7))
	w.await(7, installedAt(7))
}

// goes deletes the extension: not before its configurations, and with its kinds.
func (w *world) goes(t *testing.T) {
	ctx := t.Context()
	configs := w.dynamic().Resource(fluxConfigs()).Namespace(w.cluster.Namespace(t))
	fc := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": fluxConfigs().GroupVersion().String(), "kind": "FluxConfig", "metadata": map[string]any{"name": "apps"},
		"spec": map[string]any{"scope": "cluster", "sourceKind": "GitRepository", "gitRepository": map[string]any{"url": "https://git.example/apps", "syncInterval": "10m", "timeout": "10m"}},
	}}
	if _, err := configs.Create(ctx, fc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	gone := item(8)
	gone.Delete = true
	w.desire(gone)
	w.await(8, refused("ConfigurationsExist", "/apps"))
	if err := configs.Delete(ctx, "apps", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.await(8, func(o link.Observed) bool { return o.Deleted })
	if _, err := w.manager.releases.Last(ctx, releaseName, Namespace); !errors.Is(err, release.ErrNotFound) {
		t.Errorf("the release is still there: %v", err)
	}
	kubetest.Eventually(t, 30*time.Second, func() error {
		kinds, err := w.dynamic().Resource(crdResource()).List(ctx, metav1.ListOptions{LabelSelector: partOf + "=" + product})
		if err == nil && len(kinds.Items) > 0 {
			err = fmt.Errorf("%d kinds are left", len(kinds.Items))
		}
		return err
	})
}

// TestAgentRights tries what a stolen token of the agent must not allow.
func TestAgentRights(t *testing.T) {
	w := newWorld(t)
	kube, err := kubernetes.NewForConfig(w.agent)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	attempts := map[string]func() error{
		"list the Secrets of the cluster": func() error {
			_, err := kube.CoreV1().Secrets("").List(ctx, metav1.ListOptions{})
			return err
		},
		"give itself a role of its own making": func() error {
			_, err := kube.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "mine"},
				Rules: []rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}}}, metav1.CreateOptions{})
			return err
		},
		"change another ClusterRole": func() error {
			_, err := kube.RbacV1().ClusterRoles().Update(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "view"}}, metav1.UpdateOptions{})
			return err
		},
		"run a pod": func() error {
			_, err := kube.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
			return err
		},
	}
	for name, attempt := range attempts {
		t.Run(name, func(t *testing.T) {
			if err := attempt(); !apierrors.IsForbidden(err) {
				t.Errorf("want a refusal, got %v", err)
			}
		})
	}
}

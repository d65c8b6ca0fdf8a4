package release

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"helm.sh/helm/v4/pkg/release/common"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"headwater.dev/dev/kubetest"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// world is a namespace and a client for it.
type world struct {
	admin  *kubernetes.Clientset
	client *Client
	ns     string
}

func newWorld(t *testing.T) world {
	t.Helper()
	c := kubetest.Start(t)
	client, err := NewForConfig(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	return world{admin: kubernetes.NewForConfigOrDie(c.Config), client: client, ns: c.Namespace(t)}
}

func (w world) request(t *testing.T, values map[string]any) Request {
	t.Helper()
	chart, err := LoadDir("testdata/chart")
	if err != nil {
		t.Fatal(err)
	}
	return Request{Name: "demo", Namespace: w.ns, Chart: chart, Values: values}
}

func (w world) data(t *testing.T, name string) map[string]string {
	t.Helper()
	cm, err := w.admin.CoreV1().ConfigMaps(w.ns).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return cm.Data
}

func TestLifeOfARelease(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	if _, err := w.client.Last(ctx, "demo", w.ns); !errors.Is(err, ErrNotFound) {
		t.Fatalf("before install: got %v, want ErrNotFound", err)
	}
	rel, err := w.client.Install(ctx, w.request(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	if rel.Info.Status != common.StatusDeployed || rel.Version != 1 {
		t.Errorf("after install: %s, revision %d", rel.Info.Status, rel.Version)
	}
	if got := w.data(t, "demo-greeting")["greeting"]; got != "hello" {
		t.Errorf("greeting is %q", got)
	}
	if got := w.data(t, "demo-hook")["revision"]; got != "1" {
		t.Errorf("the hook ran for revision %q", got)
	}
	objs, err := w.client.Objects(rel)
	if err != nil {
		t.Fatal(err)
	}
	if len(objs) != 2 || objs[0].GetNamespace() != w.ns {
		t.Errorf("objects of the release: %v", objs)
	}
	wait, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := w.client.WaitReady(wait, objs); err != nil {
		t.Errorf("wait: %v", err)
	}

	if rel, err = w.client.Upgrade(ctx, w.request(t, map[string]any{"greeting": "bye"})); err != nil {
		t.Fatal(err)
	}
	if got := w.data(t, "demo-greeting")["greeting"]; rel.Version != 2 || got != "bye" {
		t.Errorf("after upgrade: revision %d, greeting %q", rel.Version, got)
	}
	if rel, err = w.client.Rollback(ctx, w.request(t, nil), 1); err != nil {
		t.Fatal(err)
	}
	if got := w.data(t, "demo-greeting")["greeting"]; rel.Version != 3 || got != "hello" {
		t.Errorf("after rollback: revision %d, greeting %q", rel.Version, got)
	}
	history, err := w.client.History(ctx, "demo", w.ns)
	if err != nil || len(history) != 3 || history[0].Version != 3 {
		t.Errorf("history: %d revisions, %v", len(history), err)
	}

	if _, err := w.client.Uninstall(ctx, w.request(t, nil), Removal{}); err != nil {
		t.Fatal(err)
	}
	_, err = w.admin.CoreV1().ConfigMaps(w.ns).Get(ctx, "demo-greeting", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("after uninstall: %v", err)
	}
	if _, err := w.client.Uninstall(ctx, w.request(t, nil), Removal{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("second uninstall: got %v, want ErrNotFound", err)
	}
}

func TestFailureNamesTheObject(t *testing.T) {
	w := newWorld(t)
	rel, err := w.client.Install(t.Context(), w.request(t, map[string]any{"invalid": true}))
	if err == nil || !strings.Contains(err.Error(), "demo-greeting") {
		t.Fatalf("got %v, want an error that names demo-greeting", err)
	}
	if rel == nil || rel.Info.Status != common.StatusFailed {
		t.Fatalf("the failed release is not returned: %+v", rel)
	}
	// The failed first revision is no obstacle.
	if _, err := w.client.Apply(t.Context(), w.request(t, nil), 0); err != nil {
		t.Errorf("after the failure: %v", err)
	}
}

func TestUnlock(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	rel, err := w.client.Install(ctx, w.request(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	// A process crashed while it upgraded.
	store, err := w.client.storage(w.ns)
	if err != nil {
		t.Fatal(err)
	}
	rel.Version = 2
	rel.Info.LastDeployed = time.Now()
	rel.SetStatus(common.StatusPendingUpgrade, "Preparing upgrade")
	if err := store.Create(rel); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.Upgrade(ctx, w.request(t, nil)); err == nil || !strings.Contains(err.Error(), "in progress") {
		t.Fatalf("upgrade of a pending release: %v", err)
	}
	if got, err := w.client.Unlock(ctx, "demo", w.ns, time.Hour); err != nil || !got.Info.Status.IsPending() {
		t.Errorf("unlocked too early: %v, %v", got.Info.Status, err)
	}
	if rel, err = w.client.Apply(ctx, w.request(t, nil), 0); err != nil || rel.Version != 3 {
		t.Errorf("apply after the crash: %v", err)
	}
}

func TestActsAsTheTenant(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	_, err := w.admin.CoreV1().ConfigMaps(w.ns).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "private"}, Data: map[string]string{"note": "seen"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := rest.CopyConfig(kubetest.Start(t).Config)
	user := "system:serviceaccount:" + w.ns + ":tenant"
	cfg.Impersonate = rest.ImpersonationConfig{UserName: user}
	tenant, err := NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	req := w.request(t, map[string]any{"lookup": "private"})
	req.CRDs = CRDsSkip
	if _, err := tenant.Install(ctx, req); err == nil || !strings.Contains(err.Error(), user) {
		t.Fatalf("without rights: got %v, want a refusal of %s", err, user)
	}
	w.grant(t, user)
	// Rights are in place; the tenant may still not bring cluster-wide kinds.
	req = w.request(t, map[string]any{"lookup": "private"})
	if _, err := tenant.Install(ctx, req); err == nil || !strings.Contains(err.Error(), "customresourcedefinitions") {
		t.Errorf("CRDs were applied with other rights than the tenant's: %v", err)
	}
	req = w.request(t, map[string]any{"lookup": "private"})
	req.CRDs = CRDsSkip
	if _, err := tenant.Install(ctx, req); err != nil {
		t.Fatal(err)
	}
	if got := w.data(t, "demo-greeting")["seen"]; got != "seen" {
		t.Errorf("lookup gave %q", got)
	}
}

// grant makes the user the admin of the namespace.
func (w world) grant(t *testing.T, user string) {
	t.Helper()
	_, err := w.admin.RbacV1().RoleBindings(w.ns).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "tenant"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, 10*time.Second, func() error {
		cfg := rest.CopyConfig(kubetest.Start(t).Config)
		cfg.Impersonate = rest.ImpersonationConfig{UserName: user}
		_, err := kubernetes.NewForConfigOrDie(cfg).CoreV1().Secrets(w.ns).List(t.Context(), metav1.ListOptions{})
		return err
	})
}

func TestCreateNamespaceAndCRDs(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	req := w.request(t, nil)
	req.Namespace, req.StorageNamespace = w.ns+"-made", w.ns
	if _, err := w.client.Install(ctx, req); err == nil {
		t.Error("install into a missing namespace succeeded")
	}
	req = w.request(t, nil)
	req.Namespace, req.StorageNamespace, req.CreateNamespace, req.Replace = w.ns+"-made", w.ns, true, true
	if _, err := w.client.Install(ctx, req); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = w.admin.CoreV1().Namespaces().Delete(context.Background(), req.Namespace, metav1.DeleteOptions{})
	})
	if _, err := w.client.discovery.ServerResourcesForGroupVersion("release.test/v1"); err != nil {
		t.Errorf("the chart's CRD is not served: %v", err)
	}
	if _, err := w.client.Last(ctx, "demo", w.ns); err != nil {
		t.Errorf("the release is not in the storage namespace: %v", err)
	}
	req = w.request(t, nil)
	req.Namespace, req.StorageNamespace, req.CRDs = w.ns+"-made", w.ns, CRDsCreateReplace
	if _, err := w.client.Upgrade(ctx, req); err != nil {
		t.Errorf("replace CRDs: %v", err)
	}
}

// A kind may vanish before the objects of it: the CRD of a chart that was
// removed by hand, or by another release.
func TestUninstallWithoutTheKind(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	crd := strings.ReplaceAll(readFile(t, "testdata/chart/crds/greetings.yaml"), "release.test", "vanishing.test")
	load := func() *Chart {
		chart, err := LoadFS(fstest.MapFS{
			"Chart.yaml":          {Data: []byte(minimalChart)},
			"crds/greetings.yaml": {Data: []byte(crd)},
			"templates/all.yaml": {Data: []byte("apiVersion: vanishing.test/v1\nkind: Greeting\nmetadata: {name: one}\n---\n" +
				"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: two}\n")},
		}, ".")
		if err != nil {
			t.Fatal(err)
		}
		return chart
	}
	req := Request{Name: "mini", Namespace: w.ns, Chart: load()}
	if _, err := w.client.Install(ctx, req); err != nil {
		t.Fatal(err)
	}
	crds := w.client.conn.Dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	if err := crds.Delete(ctx, "greetings.vanishing.test", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	kubetest.Eventually(t, 20*time.Second, func() error {
		rs, err := w.client.discovery.ServerResourcesForGroupVersion("vanishing.test/v1")
		if err == nil && len(rs.APIResources) > 0 {
			return errors.New("the kind is still served")
		}
		return nil
	})
	fresh, err := NewForConfig(w.client.conn.Config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fresh.Uninstall(ctx, req, Removal{}); err != nil {
		t.Fatalf("uninstall: %v", err)
	}
	_, err = w.admin.CoreV1().ConfigMaps(w.ns).Get(ctx, "two", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("the other object is still there: %v", err)
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

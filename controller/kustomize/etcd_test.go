package kustomize

import (
	"fmt"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/kubetest"
	"headwater.dev/kernel/host"
)

// replicated is a world in a cluster of its own whose etcd has three members.
func replicated(t *testing.T) (*world, *kubetest.Etcd) {
	t.Helper()
	c, etcd := kubetest.Replicated(t)
	kubetest.CRDs(t, c, "flux")
	scheme, err := host.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ctx: t.Context(), c: c, ns: c.Namespace(t)}
	if w.client, err = client.New(c.Config, client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	w.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "flux-applier", Namespace: w.ns}})
	w.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "applier", Namespace: w.ns},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "flux-applier", Namespace: w.ns}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
	})
	return w, etcd
}

// TestF06EtcdLosesLeaders: while etcd's leaders die one after the other, each
// revision is applied all the same, nothing is orphaned, and drift is mended.
func TestF06EtcdLosesLeaders(t *testing.T) {
	w, etcd := replicated(t)
	c := newChild(t, w)
	c.start("")
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.Wait = true })
	w.readyIn(time.Minute, "app", w.publish("repo", map[string]string{"a.yaml": cm("a", "0"), "m0.yaml": cm("m0", "0")}))
	for round := range 3 {
		value := fmt.Sprint(round + 1)
		files, want := map[string]string{"a.yaml": cm("a", value)}, map[string]string{"a": value}
		for i := range 20 {
			name := fmt.Sprintf("m%d", round*7+i)
			files[name+".yaml"], want[name] = cm(name, value), value
		}
		revision := w.publish("repo", files) // its work is under way when the leader dies
		etcd.LoseLeader(t)
		w.readyIn(2*time.Minute, "app", revision)
		w.holds("app", want)
	}
	etcd.LoseLeader(t)
	kubetest.Eventually(t, 20*time.Second, func() error { // each time as it is now: a write that failed may have been made
		m, err := w.configMap("a")
		if err != nil {
			return err
		}
		m.Data["key"] = "drift"
		return w.client.Update(w.ctx, m)
	})
	kubetest.Eventually(t, 20*time.Second, func() error {
		if m, err := w.configMap("a"); err != nil || m.Data["key"] != "3" {
			return fmt.Errorf("a = %v, %v", m.Data, err)
		}
		return nil
	})
}

package tenant_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"headwater.dev/dev/kubetest"
	"headwater.dev/kernel/tenant"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

func clients(t *testing.T, c *kubetest.Cluster) *tenant.Clients {
	t.Helper()
	own, err := tenant.New(c.Config, scheme.Scheme, nil)
	if err != nil {
		t.Fatal(err)
	}
	access, err := own.Own()
	if err != nil {
		t.Fatal(err)
	}
	mapper, err := apiutil.NewDynamicRESTMapper(access.Config, access.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	tenants, err := tenant.New(c.Config, scheme.Scheme, mapper)
	if err != nil {
		t.Fatal(err)
	}
	return tenants
}

func TestAnEmptyIdentityIsAnError(t *testing.T) {
	tenants := clients(t, kubetest.Start(t))
	for _, id := range []tenant.Identity{{}, {Namespace: "x"}, {ServiceAccount: "x"}} {
		if _, err := tenants.As(id); !errors.Is(err, tenant.ErrNoIdentity) {
			t.Errorf("%+v: got %v", id, err)
		}
	}
}

func TestEveryClientActsAsTheTenant(t *testing.T) {
	cluster := kubetest.Start(t)
	tenants := clients(t, cluster)
	mine, other := cluster.Namespace(t), cluster.Namespace(t)
	own, err := tenants.Own()
	if err != nil {
		t.Fatal(err)
	}
	role := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "applier", Namespace: mine},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "applier", Namespace: mine}},
	}
	if err := own.Client.Create(t.Context(), role); err != nil {
		t.Fatal(err)
	}
	access, err := tenants.As(tenant.Identity{Namespace: mine, ServiceAccount: "applier"})
	if err != nil {
		t.Fatal(err)
	}
	secrets := schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	calls := map[string]func(ns string) error{
		"typed": func(ns string) error {
			return access.Client.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "x-", Namespace: ns}})
		},
		"dynamic": func(ns string) error {
			_, err := access.Dynamic.Resource(secrets).Namespace(ns).List(t.Context(), metav1.ListOptions{})
			return err
		},
		"metadata": func(ns string) error {
			_, err := access.Metadata.Resource(secrets).Namespace(ns).List(t.Context(), metav1.ListOptions{})
			return err
		},
	}
	for name, call := range calls {
		kubetest.Eventually(t, 10*time.Second, func() error { return call(mine) }) // RBAC is eventually consistent
		err := call(other)
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "system:serviceaccount:"+mine+":applier") {
			t.Errorf("%s in another namespace: got %v", name, err)
		}
	}
}

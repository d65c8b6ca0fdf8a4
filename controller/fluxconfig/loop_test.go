package fluxconfig

import (
	"context"
	"fmt"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/api/config"
	"headwater.dev/dev/kubetest"
	"headwater.dev/kernel/host"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// start runs the loop against the shared API server until the test ends.
func start(t *testing.T) (client.Client, *kubetest.Cluster) {
	t.Helper()
	cluster := kubetest.Start(t)
	kubetest.CRDs(t, cluster, "flux", "fluxconfig")
	h, err := host.New(cluster.Config, host.Options{
		WatchAllNamespaces: true, MetricsAddr: "0", HealthAddr: "0", Concurrent: 4, NoCrossNamespaceRefs: true,
		DefaultServiceAccount: "flux-applier", MinRetryDelay: 50 * time.Millisecond, MaxRetryDelay: time.Second, StoragePath: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := Setup(ctx, h); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c, err := client.New(cluster.Config, client.Options{Scheme: h.Manager.GetScheme()})
	if err != nil {
		t.Fatal(err)
	}
	return c, cluster
}

func TestLoop(t *testing.T) {
	c, cluster := start(t)
	t.Run("a configuration lives and dies", func(t *testing.T) { life(t, c, cluster.Namespace(t)) })
	t.Run("configurations of a namespace share their rights", func(t *testing.T) { shared(t, c, cluster.Namespace(t)) })
	t.Run("a generated key stays and its public half is told", func(t *testing.T) { generatedKey(t, c, cluster.Namespace(t)) })
	t.Run("additions, identities and requests", func(t *testing.T) { additional(t, c, cluster.Namespace(t)) })
	t.Run("keys to verify with", func(t *testing.T) { trust(t, c, cluster.Namespace(t)) })
	t.Run("what others made is left alone", func(t *testing.T) { foreign(t, c, cluster.Namespace(t)) })
	t.Run("more than one object can tell of", func(t *testing.T) { large(t, c, cluster.Namespace(t)) })
	t.Run("rights outlive the deletion of others", func(t *testing.T) { rightsOutlive(t, c, cluster.Namespace(t)) })
}

func newConfig(ns, name, url string) *config.FluxConfig {
	minute := metav1.Duration{Duration: time.Minute}
	return &config.FluxConfig{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns},
		Spec: config.FluxConfigSpec{Scope: "cluster", SourceKind: "GitRepository", OperationID: "one",
			GitRepository: &config.GitRepository{URL: url, SyncInterval: minute, Timeout: minute},
			Kustomizations: []config.Kustomization{
				{Name: "a", SyncInterval: minute, Timeout: minute, Prune: true, Wait: true},
				{Name: "b", SyncInterval: minute, Timeout: minute, Prune: true, Wait: true, DependsOn: []string{"a"}},
			}},
	}
}

func life(t *testing.T, c client.Client, ns string) {
	ctx := t.Context()
	fc := newConfig(ns, "cfg", "https://git.example/x")
	create(t, c, fc)
	eventually(t, func() error {
		return firstError(exists(ctx, c, &sourcev1.GitRepository{}, ns, "cfg"), exists(ctx, c, &kustomizev1.Kustomization{}, ns, "cfg-a"),
			exists(ctx, c, &kustomizev1.Kustomization{}, ns, "cfg-b"), exists(ctx, c, &corev1.ServiceAccount{}, ns, "flux-applier"),
			exists(ctx, c, &rbacv1.ClusterRoleBinding{}, "", "flux-applier-binding-"+ns), compliance(ctx, c, fc, "Pending"))
	})

	// Status flows up as soon as it is there.
	setReady(t, c, &sourcev1.GitRepository{}, ns, "cfg", "True", "Succeeded", "stored")
	setReady(t, c, &kustomizev1.Kustomization{}, ns, "cfg-a", "True", "ReconciliationSucceeded", "applied")
	setReady(t, c, &kustomizev1.Kustomization{}, ns, "cfg-b", "False", "BuildFailed", "kustomization.yaml is wrong")
	eventually(t, func() error { return compliance(ctx, c, fc, "Non-Compliant") })
	if got := fc.Status.ManagedStatuses.Kustomizations[ns+"/cfg-b"].Message; got != "kustomization.yaml is wrong" {
		t.Errorf("message: %q", got)
	}
	setReady(t, c, &kustomizev1.Kustomization{}, ns, "cfg-b", "True", "ReconciliationSucceeded", "applied")
	eventually(t, func() error { return compliance(ctx, c, fc, "Compliant") })

	// What was compliant before a change says nothing of the change.
	if fc.Status.LastCompliantGeneration != fc.Generation {
		t.Errorf("compliant at %d of %d", fc.Status.LastCompliantGeneration, fc.Generation)
	}
	for i := range 5 {
		update(t, c, fc, func() { fc.Spec.Kustomizations[1].Path = fmt.Sprintf("./%d", i) })
		eventually(t, func() error {
			return firstError(compliance(ctx, c, fc, "Pending"), expect(fc.Status.ObservedGeneration == fc.Generation, "not observed"))
		})
		if fc.Status.LastCompliantGeneration >= fc.Generation {
			t.Errorf("change %d was compliant before anything applied it", i)
		}
	}
	setReady(t, c, &kustomizev1.Kustomization{}, ns, "cfg-b", "True", "ReconciliationSucceeded", "applied")
	eventually(t, func() error { return compliance(ctx, c, fc, "Compliant") })

	// What somebody removes by hand comes back.
	if err := c.Delete(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "flux-applier", Namespace: ns}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return exists(ctx, c, &corev1.ServiceAccount{}, ns, "flux-applier") })

	// Changes are followed through: an entry goes, the other is suspended.
	update(t, c, fc, func() {
		fc.Spec.Kustomizations = fc.Spec.Kustomizations[:1]
		fc.Spec.Suspend = true
	})
	eventually(t, func() error {
		k := &kustomizev1.Kustomization{}
		return firstError(gone(ctx, c, &kustomizev1.Kustomization{}, ns, "cfg-b"), exists(ctx, c, k, ns, "cfg-a"),
			expect(k.Spec.Suspend, "cfg-a is not suspended"), compliance(ctx, c, fc, "Suspended"))
	})

	if err := c.Delete(ctx, fc); err != nil {
		t.Fatal(err)
	}
	woken(t, func() error {
		return firstError(gone(ctx, c, &config.FluxConfig{}, ns, "cfg"), gone(ctx, c, &sourcev1.GitRepository{}, ns, "cfg"),
			gone(ctx, c, &kustomizev1.Kustomization{}, ns, "cfg-a"), gone(ctx, c, &corev1.ServiceAccount{}, ns, "flux-applier"),
			gone(ctx, c, &rbacv1.ClusterRoleBinding{}, "", "flux-applier-binding-"+ns))
	})
}

func shared(t *testing.T, c client.Client, ns string) {
	ctx := t.Context()
	one, two := newConfig(ns, "one", "https://git.example/x"), newConfig(ns, "two", "https://git.example/x")
	two.Spec.Scope = "namespace"
	create(t, c, one)
	create(t, c, two)
	eventually(t, func() error {
		return firstError(exists(ctx, c, &rbacv1.RoleBinding{}, ns, "flux-applier-binding"), exists(ctx, c, &rbacv1.ClusterRoleBinding{}, "", "flux-applier-binding-"+ns))
	})
	if err := c.Delete(ctx, one); err != nil {
		t.Fatal(err)
	}
	woken(t, func() error {
		return firstError(gone(ctx, c, &config.FluxConfig{}, ns, "one"), gone(ctx, c, &rbacv1.ClusterRoleBinding{}, "", "flux-applier-binding-"+ns))
	})
	if err := firstError(exists(ctx, c, &corev1.ServiceAccount{}, ns, "flux-applier"), exists(ctx, c, &rbacv1.RoleBinding{}, ns, "flux-applier-binding")); err != nil {
		t.Errorf("the other configuration lost its rights: %v", err)
	}
	if err := c.Delete(ctx, two); err != nil {
		t.Fatal(err)
	}
	woken(t, func() error {
		return firstError(gone(ctx, c, &corev1.ServiceAccount{}, ns, "flux-applier"), gone(ctx, c, &rbacv1.RoleBinding{}, ns, "flux-applier-binding"))
	})
}

func generatedKey(t *testing.T, c client.Client, ns string) {
	ctx := t.Context()
	fc := newConfig(ns, "ssh", "ssh://git@git.example/x")
	create(t, c, fc)
	secret := &corev1.Secret{}
	eventually(t, func() error {
		return firstError(exists(ctx, c, secret, ns, "ssh-auth"), exists(ctx, c, fc, ns, "ssh"), expect(fc.Status.RepositoryPublicKey != "", "no public key yet"))
	})
	if fc.Status.RepositoryPublicKey != string(secret.Data["identity.pub"]) || len(secret.Data["identity"]) == 0 {
		t.Errorf("public key %q does not belong to the Secret", fc.Status.RepositoryPublicKey)
	}
	first := fc.Status.RepositoryPublicKey
	update(t, c, fc, func() { fc.Spec.OperationID = "two" })
	eventually(t, func() error {
		return firstError(exists(ctx, c, fc, ns, "ssh"), expect(fc.Status.ObservedGeneration == fc.Generation, "not observed"))
	})
	if fc.Status.RepositoryPublicKey != first {
		t.Error("the key pair changed with the configuration")
	}
	// The key goes with the URL that needed it.
	update(t, c, fc, func() { fc.Spec.GitRepository.URL = "https://git.example/x" })
	eventually(t, func() error { return gone(ctx, c, &corev1.Secret{}, ns, "ssh-auth") })
}

func create(t *testing.T, c client.Client, obj client.Object) {
	t.Helper()
	if err := c.Create(t.Context(), obj); err != nil {
		t.Fatal(err)
	}
}

func update(t *testing.T, c client.Client, fc *config.FluxConfig, change func()) {
	t.Helper()
	before := fc.DeepCopy()
	change()
	if err := c.Patch(t.Context(), fc, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	kubetest.Eventually(t, time.Minute, check)
}

// woken is eventually for what a watch has to bring about before lookAgain does.
func woken(t *testing.T, check func() error) {
	t.Helper()
	kubetest.Within(t, lookAgain-5*time.Second, check)
}

func exists(ctx context.Context, c client.Client, obj client.Object, ns, name string) error {
	return c.Get(ctx, client.ObjectKey{Namespace: ns, Name: name}, obj)
}

func gone(ctx context.Context, c client.Client, obj client.Object, ns, name string) error {
	err := c.Get(ctx, client.ObjectKey{Namespace: ns, Name: name}, obj)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("%T %s/%s is still there (%v)", obj, ns, name, err)
}

func compliance(ctx context.Context, c client.Client, fc *config.FluxConfig, want string) error {
	if err := c.Get(ctx, client.ObjectKeyFromObject(fc), fc); err != nil {
		return err
	}
	return expect(fc.Status.ComplianceState == want, fmt.Sprintf("compliance is %q, want %q", fc.Status.ComplianceState, want))
}

func expect(ok bool, otherwise string) error {
	if ok {
		return nil
	}
	return fmt.Errorf("%s", otherwise)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// setReady plays the controller that owns a generated object.
func setReady(t *testing.T, c client.Client, obj interface {
	client.Object
	conditions.Setter
}, ns, name, status, reason, message string) {
	t.Helper()
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, obj); err != nil {
		t.Fatal(err)
	}
	before := obj.DeepCopyObject().(client.Object)
	conditions.Set(obj, &metav1.Condition{Type: "Ready", Status: metav1.ConditionStatus(status), Reason: reason, Message: message})
	if err := c.Status().Patch(t.Context(), obj, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
}

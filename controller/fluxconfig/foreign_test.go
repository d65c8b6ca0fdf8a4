package fluxconfig

import (
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/api/config"
)

// refused waits until the configuration says that it cannot have an object.
func refused(t *testing.T, c client.Client, fc *config.FluxConfig, want string) {
	t.Helper()
	eventually(t, func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(fc), fc); err != nil {
			return err
		}
		return expect(fc.Status.ProvisioningState == "Failed" && strings.Contains(fc.Status.Message, want),
			"status is "+fc.Status.ProvisioningState+": "+fc.Status.Message)
	})
}

func foreign(t *testing.T, c client.Client, ns string) {
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name, Namespace: ns} }
	bindingMeta := metav1.ObjectMeta{Name: "flux-applier-binding-" + ns}
	viewer := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"}
	for name, test := range map[string]struct {
		foreign client.Object
		want    string
	}{
		"account": {&corev1.ServiceAccount{ObjectMeta: meta("flux-applier")}, "ServiceAccount " + ns + "/flux-applier exists already"},
		"secret": {&corev1.Secret{ObjectMeta: meta("secret-auth"), Data: map[string][]byte{"identity": []byte("theirs")}},
			"Secret " + ns + "/secret-auth exists already"},
		"binding": {&rbacv1.ClusterRoleBinding{ObjectMeta: bindingMeta, RoleRef: viewer}, "ClusterRoleBinding /flux-applier-binding-" + ns + " exists already"},
	} {
		t.Run(name, func(t *testing.T) {
			create(t, c, test.foreign)
			fc := newConfig(ns, name, "ssh://git@git.example/x")
			create(t, c, fc)
			refused(t, c, fc, test.want)
			if err := c.Delete(t.Context(), fc); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error { return gone(t.Context(), c, &config.FluxConfig{}, ns, name) })
			before := test.foreign.GetResourceVersion()
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(test.foreign), test.foreign); err != nil || test.foreign.GetResourceVersion() != before {
				t.Errorf("the user's object was touched: %v", err)
			}
			if err := c.Delete(t.Context(), test.foreign); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("names of two configurations meet", func(t *testing.T) {
		one, two := newConfig(ns, "x", "https://git.example/x"), newConfig(ns, "x-a", "https://git.example/x")
		one.Spec.Kustomizations[0].Name, one.Spec.Kustomizations[1].DependsOn = "a-b", nil
		create(t, c, one)
		eventually(t, func() error { return exists(t.Context(), c, &kustomizev1.Kustomization{}, ns, "x-a-b") })
		create(t, c, two)
		refused(t, c, two, "Kustomization "+ns+"/x-a-b exists already and belongs to FluxConfig "+ns+"/x:")
	})
}

// A Kustomization that prunes does so as flux-applier: the rights stay until
// the last one of the namespace is gone.
func rightsOutlive(t *testing.T, c client.Client, ns string) {
	ctx := t.Context()
	one, two := newConfig(ns, "one", "https://git.example/x"), newConfig(ns, "two", "https://git.example/x")
	create(t, c, one)
	create(t, c, two)
	slow := &kustomizev1.Kustomization{}
	eventually(t, func() error {
		return firstError(exists(ctx, c, slow, ns, "two-a"), exists(ctx, c, &kustomizev1.Kustomization{}, ns, "one-b"),
			exists(ctx, c, &kustomizev1.Kustomization{}, ns, "two-b"))
	})
	before := slow.DeepCopy()
	slow.Finalizers = append(slow.Finalizers, "test.headwater.dev/pruning")
	if err := c.Patch(ctx, slow, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	for _, fc := range []*config.FluxConfig{two, one} {
		if err := c.Delete(ctx, fc); err != nil {
			t.Fatal(err)
		}
	}
	woken(t, func() error { return gone(ctx, c, &config.FluxConfig{}, ns, "one") })
	if err := firstError(exists(ctx, c, &corev1.ServiceAccount{}, ns, "flux-applier"),
		exists(ctx, c, &rbacv1.ClusterRoleBinding{}, "", "flux-applier-binding-"+ns)); err != nil {
		t.Errorf("the rights are gone while a Kustomization still prunes: %v", err)
	}
	if err := c.Patch(ctx, slow, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))); err != nil {
		t.Fatal(err)
	}
	woken(t, func() error {
		return firstError(gone(ctx, c, &config.FluxConfig{}, ns, "two"), gone(ctx, c, &corev1.ServiceAccount{}, ns, "flux-applier"),
			gone(ctx, c, &rbacv1.ClusterRoleBinding{}, "", "flux-applier-binding-"+ns))
	})
}

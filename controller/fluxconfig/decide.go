package fluxconfig

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/api/config"
	"headwater.dev/kernel/phase"
)

// bindingName is the name of the bindings of flux-applier; the cluster's
// carries the namespace behind it.
const bindingName = "flux-applier-binding"

func authName(c *config.FluxConfig) string { return c.Name + "-auth" }

// labelled gives the metadata of a generated object.
func labelled(c *config.FluxConfig, name string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Name: name, Namespace: c.Namespace, Labels: map[string]string{
		config.LabelManaged: "true", config.LabelName: c.Name, config.LabelNamespace: c.Namespace,
	}}
	if id := c.Spec.OperationID; id != "" && len(validation.IsValidLabelValue(id)) == 0 {
		m.Labels[config.LabelOperationID] = id
	}
	if at := requestedAt(c); at != "" {
		m.Annotations = map[string]string{meta.ReconcileRequestAnnotation: at}
	}
	return m
}

func authSecret(c *config.FluxConfig, data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: labelled(c, authName(c)), Data: data,
	}
}

// sourceOf builds the source; auth says whether the Secret of credentials is
// there to be referenced.
func sourceOf(c *config.FluxConfig, auth bool) (client.Object, error) {
	source, err := plainSource(c, auth)
	if err != nil {
		return nil, err
	}
	at, more := additionalOf(c.Spec)
	return source, overlay(c, source, c.Spec.SourceKind, at, more)
}

// plainSource is the source as the configuration's own properties ask for it.
func plainSource(c *config.FluxConfig, auth bool) (client.Object, error) {
	switch spec := c.Spec; {
	case spec.SourceKind == "GitRepository" && spec.GitRepository != nil:
		return gitRepository(c, auth), nil
	case spec.SourceKind == "Bucket" && spec.Bucket != nil:
		return bucket(c, auth)
	case spec.SourceKind == "AzureBlob" && spec.AzureBlob != nil:
		return blob(c, auth), nil
	case spec.SourceKind == "OCIRepository" && spec.OCIRepository != nil:
		return ociRepository(c, auth), nil
	default:
		return nil, phase.Stalled("InvalidSource", fmt.Errorf("spec.sourceKind is %q, but the body of that kind is missing in spec", spec.SourceKind))
	}
}

// secretRef is the Secret that a source reads: the user's own, ours, or none.
func secretRef(c *config.FluxConfig, local string, auth bool) *meta.LocalObjectReference {
	switch {
	case local != "":
		return &meta.LocalObjectReference{Name: local}
	case auth:
		return &meta.LocalObjectReference{Name: authName(c)}
	default:
		return nil
	}
}

func gitRepository(c *config.FluxConfig, auth bool) client.Object {
	g := c.Spec.GitRepository
	address := g.URL
	if s := scp(address); s != "" {
		address = s
	}
	out := &sourcev1.GitRepository{
		TypeMeta:   metav1.TypeMeta{APIVersion: sourcev1.GroupVersion.String(), Kind: sourcev1.GitRepositoryKind},
		ObjectMeta: labelled(c, c.Name),
		Spec: sourcev1.GitRepositorySpec{
			URL: address, Interval: g.SyncInterval, Timeout: &g.Timeout, Suspend: c.Spec.Suspend,
			SecretRef: secretRef(c, g.LocalAuthRef, auth), Provider: strings.ToLower(g.Provider),
			SparseCheckout: g.SparseCheckout, ServiceAccountName: identityName(c),
		},
	}
	if g.ObjectLevelIdentity != nil {
		out.Spec.Provider = sourcev1.GitProviderAzure
	}
	if r := g.Ref; r != nil {
		out.Spec.Reference = &sourcev1.GitRepositoryRef{Branch: r.Branch, Tag: r.Tag, SemVer: r.Semver, Commit: r.Commit}
	}
	return out
}

func bucket(c *config.FluxConfig, auth bool) (client.Object, error) {
	b := c.Spec.Bucket
	u, err := url.Parse(b.URL)
	if err != nil || u.Host == "" {
		return nil, phase.Stalled("InvalidURL", fmt.Errorf("bucket.url %q: use http://host[:port] or https://host[:port]", b.URL))
	}
	return &sourcev1.Bucket{
		TypeMeta:   metav1.TypeMeta{APIVersion: sourcev1.GroupVersion.String(), Kind: sourcev1.BucketKind},
		ObjectMeta: labelled(c, c.Name),
		Spec: sourcev1.BucketSpec{
			Provider: sourcev1.BucketProviderGeneric, BucketName: b.BucketName, Endpoint: u.Host,
			Insecure: u.Scheme == "http" && b.Insecure, Interval: b.SyncInterval, Timeout: &b.Timeout, Suspend: c.Spec.Suspend,
			SecretRef: secretRef(c, b.LocalAuthRef, auth),
		},
	}, nil
}

func blob(c *config.FluxConfig, auth bool) client.Object {
	b := c.Spec.AzureBlob
	return &sourcev1.Bucket{
		TypeMeta:   metav1.TypeMeta{APIVersion: sourcev1.GroupVersion.String(), Kind: sourcev1.BucketKind},
		ObjectMeta: labelled(c, c.Name),
		Spec: sourcev1.BucketSpec{
			Provider: sourcev1.BucketProviderAzure, BucketName: b.ContainerName, Endpoint: b.URL,
			Interval: b.SyncInterval, Timeout: &b.Timeout, Suspend: c.Spec.Suspend,
			SecretRef: secretRef(c, b.LocalAuthRef, auth), ServiceAccountName: identityName(c),
		},
	}
}

func ociRepository(c *config.FluxConfig, auth bool) client.Object {
	o := c.Spec.OCIRepository
	out := &sourcev1.OCIRepository{
		TypeMeta:   metav1.TypeMeta{APIVersion: sourcev1.GroupVersion.String(), Kind: sourcev1.OCIRepositoryKind},
		ObjectMeta: labelled(c, c.Name),
		Spec: sourcev1.OCIRepositorySpec{
			URL: o.URL, Interval: o.SyncInterval, Timeout: &o.Timeout, Suspend: c.Spec.Suspend, Insecure: o.Insecure,
			ServiceAccountName: o.ServiceAccountName, SecretRef: secretRef(c, o.LocalAuthRef, false),
		},
	}
	if o.UseWorkloadIdentity || o.ObjectLevelIdentity != nil {
		out.Spec.Provider = sourcev1.AzureOCIProvider
	}
	if name := identityName(c); name != "" {
		out.Spec.ServiceAccountName = name
	}
	if auth {
		out.Spec.CertSecretRef = &meta.LocalObjectReference{Name: authName(c)}
	}
	if r := o.Ref; r != nil {
		out.Spec.Reference = &sourcev1.OCIRepositoryRef{Tag: r.Tag, SemVer: r.Semver, Digest: r.Digest}
	}
	if l := o.LayerSelector; l != nil {
		out.Spec.LayerSelector = &sourcev1.OCILayerSelector{MediaType: l.MediaType, Operation: l.Operation}
	}
	if v := o.Verify; v != nil {
		out.Spec.Verify = &sourcev1.OCIRepositoryVerification{Provider: v.Provider}
		switch name := v.Config[trustInSecret]; {
		case name != "":
			out.Spec.Verify.SecretRef = &meta.LocalObjectReference{Name: name}
		case len(v.Config) > 0:
			out.Spec.Verify.SecretRef = &meta.LocalObjectReference{Name: trustName(c)}
		}
		for _, m := range v.MatchOIDCIdentity {
			out.Spec.Verify.MatchOIDCIdentity = append(out.Spec.Verify.MatchOIDCIdentity, sourcev1.OIDCIdentityMatch{Issuer: m.Issuer, Subject: m.Subject})
		}
	}
	return out
}

// sourceKindOf is the kind of the generated source.
func sourceKindOf(c *config.FluxConfig) string {
	if c.Spec.SourceKind == "AzureBlob" {
		return sourcev1.BucketKind
	}
	return c.Spec.SourceKind
}

// kustomizationName is the object's name of an entry.
func kustomizationName(c *config.FluxConfig, entry string) string { return c.Name + "-" + entry }

// kustomizationsOf builds a Kustomization per entry.
func kustomizationsOf(c *config.FluxConfig) ([]*kustomizev1.Kustomization, error) {
	names := map[string]bool{}
	for _, k := range c.Spec.Kustomizations {
		names[k.Name] = true
	}
	var out []*kustomizev1.Kustomization
	for _, k := range c.Spec.Kustomizations {
		depends, err := dependsOn(c, k, names)
		if err != nil {
			return nil, err
		}
		o := &kustomizev1.Kustomization{
			TypeMeta:   metav1.TypeMeta{APIVersion: kustomizev1.GroupVersion.String(), Kind: kustomizev1.KustomizationKind},
			ObjectMeta: labelled(c, kustomizationName(c, k.Name)),
			Spec: kustomizev1.KustomizationSpec{
				Interval: k.SyncInterval, RetryInterval: k.RetryInterval, Timeout: &k.Timeout, Path: k.Path,
				Prune: k.Prune, Force: k.Force, Wait: k.Wait, Suspend: c.Spec.Suspend || k.Suspend,
				ServiceAccountName: config.ServiceAccount, DependsOn: depends,
				SourceRef: kustomizev1.CrossNamespaceSourceReference{Kind: sourceKindOf(c), Name: c.Name, Namespace: c.Namespace},
				PostBuild: postBuild(k.PostBuild),
			},
		}
		if o.Spec.RetryInterval == nil {
			o.Spec.RetryInterval = &k.SyncInterval
		}
		if c.Spec.SourceKind == sourcev1.GitRepositoryKind {
			o.Spec.Patches = []kustomize.Patch{managedSource(c)}
		}
		if m := clusterOf(c, k); m != nil {
			o.Spec.KubeConfig = &meta.KubeConfigReference{ConfigMapRef: &meta.LocalObjectReference{Name: m.Name}}
		}
		if err := overlay(c, o, kustomizev1.KustomizationKind, "kustomizations["+k.Name+"]", k.AdditionalConfigurations); err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

// dependsOn resolves the names of dependencies, plain or prefixed.
func dependsOn(c *config.FluxConfig, k config.Kustomization, names map[string]bool) ([]kustomizev1.DependencyReference, error) {
	var out []kustomizev1.DependencyReference
	for _, d := range k.DependsOn {
		plain := d
		if !names[plain] {
			plain = strings.TrimPrefix(d, c.Name+"-")
		}
		if !names[plain] {
			return nil, phase.Stalled("InvalidDependency", fmt.Errorf("kustomizations[%s].dependsOn: there is no kustomization %q in this configuration", k.Name, d))
		}
		if plain == k.Name {
			return nil, phase.Stalled("InvalidDependency", fmt.Errorf("kustomizations[%s].dependsOn: it depends on itself", k.Name))
		}
		out = append(out, kustomizev1.DependencyReference{Name: kustomizationName(c, plain)})
	}
	return out, nil
}

func postBuild(p *config.PostBuild) *kustomizev1.PostBuild {
	if p == nil {
		return nil
	}
	out := &kustomizev1.PostBuild{Substitute: p.Substitute}
	for _, f := range p.SubstituteFrom {
		out.SubstituteFrom = append(out.SubstituteFrom, kustomizev1.SubstituteReference{Kind: f.Kind, Name: f.Name, Optional: f.Optional})
	}
	return out
}

// managedSource gives HelmReleases that ask for it the configuration's own
// GitRepository as chart source.
func managedSource(c *config.FluxConfig) kustomize.Patch {
	return kustomize.Patch{
		Target: &kustomize.Selector{Kind: "HelmRelease", AnnotationSelector: config.AnnotationUseManagedSource + "=true"},
		Patch: fmt.Sprintf("- op: add\n  path: /spec/chart/spec/sourceRef\n  value:\n    kind: GitRepository\n    name: %s\n    namespace: %s\n",
			c.Name, c.Namespace),
	}
}

// rights are the objects that let flux-applier of a namespace work: its service
// account, and the bindings that the namespace's configurations need.
type rights struct {
	cluster, namespace bool
}

// rightsOf decides which bindings a namespace's configurations need together.
func rightsOf(configs ...config.FluxConfig) rights {
	var r rights
	for _, c := range configs {
		if c.Spec.Scope == "namespace" {
			r.namespace = true
			continue
		}
		r.cluster = true
	}
	return r
}

func serviceAccount(namespace string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
		ObjectMeta: metav1.ObjectMeta{Name: config.ServiceAccount, Namespace: namespace, Labels: sharedLabels(namespace)},
	}
}

func clusterRoleBinding(namespace string) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRoleBinding"},
		ObjectMeta: metav1.ObjectMeta{Name: bindingName + "-" + namespace, Labels: sharedLabels(namespace)},
		RoleRef:    clusterAdmin(), Subjects: applier(namespace),
	}
}

func roleBinding(namespace string) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"},
		ObjectMeta: metav1.ObjectMeta{Name: bindingName, Namespace: namespace, Labels: sharedLabels(namespace)},
		RoleRef:    clusterAdmin(), Subjects: applier(namespace),
	}
}

// sharedLabels mark what the configurations of a namespace share.
func sharedLabels(namespace string) map[string]string {
	return map[string]string{config.LabelManaged: "true", config.LabelNamespace: namespace}
}

func clusterAdmin() rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}
}

func applier(namespace string) []rbacv1.Subject {
	return []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: config.ServiceAccount, Namespace: namespace}}
}

// removable gives the Kustomizations that none of the others depends on: those
// that may be deleted next. Where all depend on each other, it is all of them.
func removable(all []kustomizev1.Kustomization) []kustomizev1.Kustomization {
	needed := map[string]bool{}
	for _, k := range all {
		for _, d := range k.Spec.DependsOn {
			needed[d.Name] = true
		}
	}
	free := slices.DeleteFunc(slices.Clone(all), func(k kustomizev1.Kustomization) bool { return needed[k.Name] })
	if len(free) == 0 {
		return all
	}
	return free
}

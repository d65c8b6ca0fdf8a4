package mirror

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"headwater.dev/api/config"
	"headwater.dev/api/link"
	"headwater.dev/api/resource"
)

// annotationAcceptedAt on a FluxConfig is when the cluster took its generation.
const annotationAcceptedAt = config.Group + "/accepted-at"

// secretName is where the protected settings of a configuration live. Users
// name it too, as localAuthRef.
func secretName(configuration string) string { return configuration + "-protected-parameters" }

// desiredObject is the FluxConfig that an item asks for.
func desiredObject(item link.Item, now time.Time) *config.FluxConfig {
	fc := &config.FluxConfig{ObjectMeta: metav1.ObjectMeta{
		Namespace: item.Configuration.Namespace,
		Name:      item.Name,
		Labels: map[string]string{
			config.LabelManaged:   "true",
			config.LabelName:      item.Name,
			config.LabelNamespace: item.Configuration.Namespace,
		},
		Annotations: map[string]string{
			config.AnnotationResourceID:       item.ID,
			config.AnnotationGeneration:       strconv.FormatInt(item.Generation, 10),
			config.AnnotationProtectedVersion: item.ProtectedVersion,
			annotationAcceptedAt:              now.UTC().Format(time.RFC3339),
		},
	}}
	if item.ReconcileRequestedAt != "" {
		fc.Annotations[meta.ReconcileRequestAnnotation] = item.ReconcileRequestedAt
	}
	if item.OperationID != "" {
		fc.Labels[config.LabelOperationID] = item.OperationID
	}
	if item.ProtectedVersion == "" {
		delete(fc.Annotations, config.AnnotationProtectedVersion)
	}
	fc.Spec = specOf(item)
	return fc
}

// specOf translates a configuration. The result is stable: lists are sorted.
func specOf(item link.Item) config.FluxConfigSpec {
	p := item.Configuration
	s := config.FluxConfigSpec{
		CorrelationID: item.CorrelationID,
		OperationID:   item.OperationID,
		Scope:         p.Scope,
		SourceKind:    p.SourceKind,
		Suspend:       p.Suspend,
	}
	if s.Scope == "" {
		s.Scope = resource.ScopeCluster
	}
	if s.SourceKind == "" {
		s.SourceKind = resource.SourceGitRepository
	}
	if item.ProtectedVersion != "" {
		s.ProtectedParametersSecretRef = &meta.LocalObjectReference{Name: secretName(item.Name)}
	}
	switch s.SourceKind {
	case resource.SourceGitRepository:
		s.GitRepository = gitOf(p.GitRepository)
	case resource.SourceBucket:
		s.Bucket = bucketOf(p.Bucket)
	case resource.SourceAzureBlob:
		s.AzureBlob = blobOf(p.AzureBlob)
	case resource.SourceOCIRepository:
		s.OCIRepository = ociOf(p.OCIRepository)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Kustomizations)) {
		s.Kustomizations = append(s.Kustomizations, kustomizationOf(name, p.Kustomizations[name]))
	}
	return s
}

func gitOf(g *resource.GitRepository) *config.GitRepository {
	if g == nil {
		return nil
	}
	c := &config.GitRepository{
		URL:           g.URL,
		SyncInterval:  seconds(g.SyncIntervalInSeconds),
		Timeout:       seconds(g.TimeoutInSeconds),
		HTTPSUser:     value(g.HTTPSUser),
		HTTPSCACert:   value(g.HTTPSCACert),
		SSHKnownHosts: value(g.SSHKnownHosts),
		LocalAuthRef:  value(g.LocalAuthRef),
		Provider:      g.Provider,

		SparseCheckout:           g.SparseCheckout,
		ObjectLevelIdentity:      identityOf(g.ObjectLevelIdentity),
		AdditionalConfigurations: additionalOf(g.AdditionalConfigurations),
	}
	if r := g.RepositoryRef; r != nil {
		c.Ref = &config.GitReference{Branch: value(r.Branch), Tag: value(r.Tag), Semver: value(r.Semver), Commit: value(r.Commit)}
	}
	return c
}

func bucketOf(b *resource.Bucket) *config.Bucket {
	if b == nil {
		return nil
	}
	return &config.Bucket{
		URL: b.URL, BucketName: b.BucketName, Insecure: b.Insecure,
		SyncInterval: seconds(b.SyncIntervalInSeconds), Timeout: seconds(b.TimeoutInSeconds),
		AccessKey: value(b.AccessKey), LocalAuthRef: value(b.LocalAuthRef),
		AdditionalConfigurations: additionalOf(b.AdditionalConfigurations),
	}
}

func blobOf(b *resource.AzureBlob) *config.AzureBlob {
	if b == nil {
		return nil
	}
	c := &config.AzureBlob{
		URL: b.URL, ContainerName: b.ContainerName,
		SyncInterval: seconds(b.SyncIntervalInSeconds), Timeout: seconds(b.TimeoutInSeconds),
		LocalAuthRef:             value(b.LocalAuthRef),
		ObjectLevelIdentity:      identityOf(b.ObjectLevelIdentity),
		AdditionalConfigurations: additionalOf(b.AdditionalConfigurations),
	}
	if p := b.ServicePrincipal; p != nil {
		c.ServicePrincipal = &config.ServicePrincipal{
			ClientID: p.ClientID, TenantID: p.TenantID, ClientCertificateSendChain: p.ClientCertificateSendChain,
		}
	}
	if m := b.ManagedIdentity; m != nil {
		c.ManagedIdentityClientID = m.ClientID
	}
	return c
}

func ociOf(o *resource.OCIRepository) *config.OCIRepository {
	if o == nil {
		return nil
	}
	c := &config.OCIRepository{
		URL: o.URL, Insecure: o.Insecure, UseWorkloadIdentity: o.UseWorkloadIdentity,
		ServiceAccountName: value(o.ServiceAccountName),
		SyncInterval:       seconds(o.SyncIntervalInSeconds), Timeout: seconds(o.TimeoutInSeconds),
		TLS:                      o.TLSConfig != nil && *o.TLSConfig != resource.OCITLSConfig{},
		LocalAuthRef:             value(o.LocalAuthRef),
		ObjectLevelIdentity:      identityOf(o.ObjectLevelIdentity),
		AdditionalConfigurations: additionalOf(o.AdditionalConfigurations),
	}
	if r := o.RepositoryRef; r != nil {
		c.Ref = &config.OCIReference{Tag: value(r.Tag), Semver: value(r.Semver), Digest: value(r.Digest)}
	}
	if l := o.LayerSelector; l != nil {
		c.LayerSelector = &config.LayerSelector{MediaType: value(l.MediaType), Operation: value(l.Operation)}
	}
	if v := o.Verify; v != nil {
		c.Verify = &config.Verify{Provider: v.Provider, Config: v.VerificationConfig}
		for _, m := range v.MatchOIDCIdentity {
			c.Verify.MatchOIDCIdentity = append(c.Verify.MatchOIDCIdentity, config.OIDCIdentity(m))
		}
	}
	return c
}

func kustomizationOf(name string, k resource.Kustomization) config.Kustomization {
	c := config.Kustomization{
		Name: name, Path: k.Path, DependsOn: k.DependsOn,
		Timeout: seconds(k.TimeoutInSeconds), SyncInterval: seconds(k.SyncIntervalInSeconds),
		Prune: k.Prune, Force: k.Force, Wait: k.Wait, Suspend: k.Suspend,
		AdditionalConfigurations: additionalOf(k.AdditionalConfigurations),
	}
	if kc := k.KubeConfig; kc != nil {
		c.KubeConfig = &config.KubeConfig{ClusterResourceID: kc.ClusterResourceID, ObjectLevelIdentity: identityOf(kc.ObjectLevelIdentity)}
	}
	if k.RetryIntervalInSeconds != nil {
		interval := seconds(*k.RetryIntervalInSeconds)
		c.RetryInterval = &interval
	}
	if b := k.PostBuild; b != nil && len(b.Substitute)+len(b.SubstituteFrom) > 0 {
		c.PostBuild = &config.PostBuild{Substitute: b.Substitute}
		for _, f := range b.SubstituteFrom {
			c.PostBuild.SubstituteFrom = append(c.PostBuild.SubstituteFrom, config.SubstituteFrom(f))
		}
	}
	return c
}

func identityOf(i *resource.ObjectLevelIdentity) *config.ObjectLevelIdentity {
	if i == nil {
		return nil
	}
	return &config.ObjectLevelIdentity{ClientID: i.ClientID, TenantID: value(i.TenantID), ServiceAccountName: value(i.ServiceAccountName)}
}

// additionalOf brings free JSON into the form in which the API server hands it
// back, so that a comparison of specs sees real changes only.
func additionalOf(raw json.RawMessage) *apiextensionsv1.JSON {
	if !resource.HasAdditional(raw) {
		return nil
	}
	return &apiextensionsv1.JSON{Raw: canonical(raw)}
}

func canonical(raw []byte) []byte {
	var v any
	if err := utiljson.Unmarshal(raw, &v); err != nil {
		return raw
	}
	out, err := json.Marshal(v)
	if err != nil {
		return raw
	}
	return out
}

// canonicalSpec is a spec with all free JSON in that form.
func canonicalSpec(spec config.FluxConfigSpec) config.FluxConfigSpec {
	s := *spec.DeepCopy()
	var all []*apiextensionsv1.JSON
	if s.GitRepository != nil {
		all = append(all, s.GitRepository.AdditionalConfigurations)
	}
	if s.Bucket != nil {
		all = append(all, s.Bucket.AdditionalConfigurations)
	}
	if s.AzureBlob != nil {
		all = append(all, s.AzureBlob.AdditionalConfigurations)
	}
	if s.OCIRepository != nil {
		all = append(all, s.OCIRepository.AdditionalConfigurations)
	}
	for i := range s.Kustomizations {
		all = append(all, s.Kustomizations[i].AdditionalConfigurations)
	}
	for _, j := range all {
		if j != nil {
			j.Raw = canonical(j.Raw)
		}
	}
	return s
}

// defaultSeconds is the hub's default of intervals and timeouts, for a hub
// that leaves it out.
const defaultSeconds = 600

// maxSeconds is the longest duration that Go can hold.
const maxSeconds = int64(1<<63-1) / int64(time.Second)

func seconds(n int64) metav1.Duration {
	if n <= 0 {
		n = defaultSeconds
	}
	return metav1.Duration{Duration: time.Duration(min(n, maxSeconds)) * time.Second}
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

package mirror

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/api/config"
	"headwater.dev/api/link"
	"headwater.dev/api/resource"
)

func ptr[T any](v T) *T { return &v }

func of(d time.Duration) metav1.Duration { return metav1.Duration{Duration: d} }

func TestSpecOf(t *testing.T) {
	cases := map[string]struct {
		why  string
		in   link.Item
		want config.FluxConfigSpec
	}{
		"git": {
			why: "every field of a Git configuration arrives, sorted",
			in: link.Item{Name: "cfg", OperationID: "op", CorrelationID: "co", ProtectedVersion: "v1", Configuration: &resource.FluxConfigurationProperties{
				Scope: "namespace", Namespace: "ns", SourceKind: "GitRepository", Suspend: true,
				GitRepository: &resource.GitRepository{URL: "ssh://git@host/r", SyncIntervalInSeconds: 500, TimeoutInSeconds: 60,
					RepositoryRef: &resource.RepositoryRef{Tag: ptr("v1"), Commit: ptr("abc")}, SSHKnownHosts: ptr("aGs="), HTTPSUser: ptr("u"),
					HTTPSCACert: ptr("Y2E="), LocalAuthRef: ptr("auth"), Provider: "GitHub"},
				Bucket: &resource.Bucket{URL: "left over"},
				Kustomizations: map[string]resource.Kustomization{
					"infra": {Path: "./infra", Wait: true, TimeoutInSeconds: 10, SyncIntervalInSeconds: 20, RetryIntervalInSeconds: ptr(int64(5))},
					"apps": {DependsOn: []string{"infra"}, Prune: true, Force: true, PostBuild: &resource.PostBuild{
						Substitute: map[string]string{"a": "b"}, SubstituteFrom: []resource.SubstituteFrom{{Kind: "Secret", Name: "s", Optional: true}}}},
				},
			}},
			want: config.FluxConfigSpec{
				Scope: "namespace", SourceKind: "GitRepository", Suspend: true, OperationID: "op", CorrelationID: "co",
				ProtectedParametersSecretRef: &meta.LocalObjectReference{Name: "cfg-protected-parameters"},
				GitRepository: &config.GitRepository{URL: "ssh://git@host/r", SyncInterval: of(500 * time.Second), Timeout: of(time.Minute),
					Ref: &config.GitReference{Tag: "v1", Commit: "abc"}, SSHKnownHosts: "aGs=", HTTPSUser: "u", HTTPSCACert: "Y2E=", LocalAuthRef: "auth", Provider: "GitHub"},
				Kustomizations: []config.Kustomization{
					{Name: "apps", DependsOn: []string{"infra"}, Prune: true, Force: true, Timeout: of(10 * time.Minute), SyncInterval: of(10 * time.Minute),
						PostBuild: &config.PostBuild{Substitute: map[string]string{"a": "b"}, SubstituteFrom: []config.SubstituteFrom{{Kind: "Secret", Name: "s", Optional: true}}}},
					{Name: "infra", Path: "./infra", Wait: true, Timeout: of(10 * time.Second), SyncInterval: of(20 * time.Second), RetryInterval: ptr(of(5 * time.Second))},
				},
			},
		},
		"defaults": {
			why: "scope and source kind have defaults; an empty postBuild is none; impossible durations are bounded",
			in: link.Item{Name: "cfg", Configuration: &resource.FluxConfigurationProperties{
				GitRepository:  &resource.GitRepository{URL: "https://h/r", SyncIntervalInSeconds: 1 << 62},
				Kustomizations: map[string]resource.Kustomization{"k": {PostBuild: &resource.PostBuild{}}},
			}},
			want: config.FluxConfigSpec{
				Scope: "cluster", SourceKind: "GitRepository",
				GitRepository:  &config.GitRepository{URL: "https://h/r", SyncInterval: of(time.Duration(maxSeconds) * time.Second), Timeout: of(10 * time.Minute)},
				Kustomizations: []config.Kustomization{{Name: "k", Timeout: of(10 * time.Minute), SyncInterval: of(10 * time.Minute)}},
			},
		},
		"bucket": {
			why: "a bucket carries its public access key",
			in: link.Item{Configuration: &resource.FluxConfigurationProperties{Scope: "cluster", SourceKind: "Bucket",
				Bucket: &resource.Bucket{URL: "https://s3", BucketName: "b", Insecure: true, AccessKey: ptr("ak"), LocalAuthRef: ptr("l"), SyncIntervalInSeconds: 1, TimeoutInSeconds: 2}}},
			want: config.FluxConfigSpec{Scope: "cluster", SourceKind: "Bucket",
				Bucket: &config.Bucket{URL: "https://s3", BucketName: "b", Insecure: true, AccessKey: "ak", LocalAuthRef: "l", SyncInterval: of(time.Second), Timeout: of(2 * time.Second)}},
		},
		"blob": {
			why: "a blob container carries identities, never secrets",
			in: link.Item{Configuration: &resource.FluxConfigurationProperties{Scope: "cluster", SourceKind: "AzureBlob",
				AzureBlob: &resource.AzureBlob{URL: "https://a", ContainerName: "c", SyncIntervalInSeconds: 1, TimeoutInSeconds: 1,
					ServicePrincipal: &resource.ServicePrincipal{ClientID: "i", TenantID: "t", ClientCertificateSendChain: true},
					ManagedIdentity:  &resource.ManagedIdentity{ClientID: "m"}}}},
			want: config.FluxConfigSpec{Scope: "cluster", SourceKind: "AzureBlob",
				AzureBlob: &config.AzureBlob{URL: "https://a", ContainerName: "c", SyncInterval: of(time.Second), Timeout: of(time.Second), ManagedIdentityClientID: "m",
					ServicePrincipal: &config.ServicePrincipal{ClientID: "i", TenantID: "t", ClientCertificateSendChain: true}}},
		},
		"oci": {
			why: "an OCI repository says that TLS material is there, and how to verify",
			in: link.Item{Configuration: &resource.FluxConfigurationProperties{Scope: "cluster", SourceKind: "OCIRepository",
				OCIRepository: &resource.OCIRepository{URL: "oci://r/a", SyncIntervalInSeconds: 1, TimeoutInSeconds: 1,
					RepositoryRef: &resource.OCIRepositoryRef{Semver: ptr("1.x")}, LayerSelector: &resource.LayerSelector{Operation: ptr("copy")},
					Verify:    &resource.Verify{Provider: "cosign", VerificationConfig: map[string]string{"a": "b"}, MatchOIDCIdentity: []resource.MatchOIDCIdentity{{Issuer: "i", Subject: "s"}}},
					TLSConfig: &resource.OCITLSConfig{CACertificate: true}, ServiceAccountName: ptr("sa"), UseWorkloadIdentity: true}}},
			want: config.FluxConfigSpec{Scope: "cluster", SourceKind: "OCIRepository",
				OCIRepository: &config.OCIRepository{URL: "oci://r/a", SyncInterval: of(time.Second), Timeout: of(time.Second),
					Ref: &config.OCIReference{Semver: "1.x"}, LayerSelector: &config.LayerSelector{Operation: "copy"},
					Verify: &config.Verify{Provider: "cosign", Config: map[string]string{"a": "b"}, MatchOIDCIdentity: []config.OIDCIdentity{{Issuer: "i", Subject: "s"}}},
					TLS:    true, ServiceAccountName: "sa", UseWorkloadIdentity: true}},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, specOf(c.in)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.why, diff)
			}
		})
	}
}

// TestAdditions shows that everything of the newest version arrives, and that a
// FluxConfig as the API server hands it back needs no write.
func TestAdditions(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	item := link.Item{Name: "cfg", Generation: 3, ReconcileRequestedAt: "2026-01-02T03:04:05Z", Configuration: &resource.FluxConfigurationProperties{
		Namespace: "ns", GitRepository: &resource.GitRepository{URL: "https://h/r", SparseCheckout: []string{"deploy"},
			ObjectLevelIdentity:      &resource.ObjectLevelIdentity{ClientID: "c", TenantID: ptr("t"), ServiceAccountName: ptr("sa")},
			AdditionalConfigurations: json.RawMessage(`{"recurseSubmodules": true, "a<b": 1.0}`)},
		Kustomizations: map[string]resource.Kustomization{
			"one": {Suspend: true, AdditionalConfigurations: json.RawMessage(`{"decryption":{"provider":"sops"}}`)}, "two": {AdditionalConfigurations: json.RawMessage(`null`)}},
	}}
	want := desiredObject(item, now)
	git := want.Spec.GitRepository
	if string(git.AdditionalConfigurations.Raw) != `{"a\u003cb":1,"recurseSubmodules":true}` || git.ObjectLevelIdentity.ServiceAccountName != "sa" || git.SparseCheckout[0] != "deploy" {
		t.Errorf("source: %s %+v", git.AdditionalConfigurations.Raw, git)
	}
	if k := want.Spec.Kustomizations; !k[0].Suspend || k[0].AdditionalConfigurations == nil || k[1].AdditionalConfigurations != nil {
		t.Errorf("kustomizations: %+v", k)
	}
	back := want.DeepCopy()
	back.Spec.GitRepository.AdditionalConfigurations.Raw = []byte(`{"recurseSubmodules":true,"a<b":1}`)
	if !same(back, want) {
		t.Error("another spelling of the same JSON is a change")
	}
	if got := want.Annotations[meta.ReconcileRequestAnnotation]; got != item.ReconcileRequestedAt {
		t.Errorf("the request is %q", got)
	}
	back.Annotations[meta.ReconcileRequestAnnotation] = "2026-02-01T00:00:00Z" // by kubectl
	if !same(back, want) {
		t.Error("a request that was made in the cluster is undone")
	}
	item.Generation = 4
	if same(back, desiredObject(item, now)) {
		t.Error("a new request of the hub's is lost")
	}
}

func TestA83Guard(t *testing.T) {
	item := func(scope, namespace string) link.Item {
		return link.Item{Name: "cfg", Configuration: &resource.FluxConfigurationProperties{Scope: scope, Namespace: namespace}}
	}
	using := func(p resource.FluxConfigurationProperties) link.Item {
		p.Scope, p.Namespace = "cluster", "team-a"
		return link.Item{Name: "cfg", Configuration: &p}
	}
	laid := func(json string) link.Item {
		return using(resource.FluxConfigurationProperties{GitRepository: &resource.GitRepository{AdditionalConfigurations: []byte(json)}})
	}
	team := Guard{ServiceAccounts: []string{"team-*", "flux-applier"}}
	cases := map[string]struct {
		guard   Guard
		in      link.Item
		refused bool
	}{
		"no account named":         {team, item("cluster", "team-a"), false},
		"account of a registry":    {team, using(resource.FluxConfigurationProperties{OCIRepository: &resource.OCIRepository{ServiceAccountName: ptr("admin")}}), true},
		"account that is allowed":  {team, using(resource.FluxConfigurationProperties{OCIRepository: &resource.OCIRepository{ServiceAccountName: ptr("team-a")}}), false},
		"account laid over":        {team, laid(`{"serviceAccountName":"admin"}`), true},
		"account laid over deeply": {team, laid(`{"a":[{"ServiceAccountName":"admin"}]}`), true},
		"allowed one laid over":    {team, laid(`{"serviceAccountName":"flux-applier"}`), false},
		"any account by default":   {Guard{}, laid(`{"serviceAccountName":"admin"}`), false},
		"everything by default":    {Guard{Own: "own"}, item("cluster", "team-a"), false},
		"never the agent's own":    {Guard{Own: "own"}, item("namespace", "own"), true},
		"never the extension's Secret": {Guard{Own: "own"},
			link.Item{Name: "flux-extension", Configuration: &resource.FluxConfigurationProperties{Scope: "cluster", Namespace: "flux-system"}}, true},
		"that name elsewhere": {Guard{Own: "own"},
			link.Item{Name: "flux-extension", Configuration: &resource.FluxConfigurationProperties{Scope: "cluster", Namespace: "apps"}}, false},
		"a namespace that matches":  {Guard{Namespaces: []string{"team-*"}}, item("cluster", "team-a"), false},
		"a namespace that does not": {Guard{Namespaces: []string{"team-*"}}, item("cluster", "kube-system"), true},
		"scope namespace only":      {Guard{NamespaceScopeOnly: true}, item("cluster", "team-a"), true},
		"scope namespace":           {Guard{NamespaceScopeOnly: true}, item("namespace", "team-a"), false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if err := c.guard.check(c.in); (err != nil) != c.refused {
				t.Errorf("check: %v, want refused %v", err, c.refused)
			}
		})
	}
}

func TestOnlyWhatIsItsOwnIsDeleted(t *testing.T) {
	made := func(id, managed string) *config.FluxConfig {
		fc := &config.FluxConfig{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{}, Labels: map[string]string{}}}
		if id != "" {
			fc.Annotations[config.AnnotationResourceID] = id
		}
		if managed != "" {
			fc.Labels[config.LabelManaged] = managed
		}
		return fc
	}
	cases := map[string]struct {
		why string
		fc  *config.FluxConfig
		own bool
	}{
		"none":          {"it is gone", nil, false},
		"of this":       {"ids are compared without case", made("/Subscriptions/S/CFG", "true"), true},
		"of another":    {"the cluster had another name once", made("/subscriptions/s/other", "true"), false},
		"of somebody":   {"made in the cluster, by hand", made("", ""), false},
		"id taken away": {"the agent made it, and somebody took the annotation off", made("", "true"), true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := own(link.Item{ID: "/subscriptions/s/cfg"}, c.fc) != nil; got != c.own {
				t.Errorf("%s: own is %v", c.why, got)
			}
		})
	}
}

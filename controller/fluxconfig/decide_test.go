package fluxconfig

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/ssh"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/api/config"
	"headwater.dev/kernel/phase"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func gitConfig(url string, change func(*config.FluxConfig)) *config.FluxConfig {
	c := &config.FluxConfig{
		ObjectMeta: metav1.ObjectMeta{Name: "cfg", Namespace: "team"},
		Spec: config.FluxConfigSpec{Scope: "cluster", SourceKind: "GitRepository", OperationID: "op-1",
			GitRepository: &config.GitRepository{URL: url, Provider: "Generic", Ref: &config.GitReference{Branch: "main"},
				SyncInterval: metav1.Duration{Duration: 500 * time.Second}, Timeout: metav1.Duration{Duration: time.Minute}}},
	}
	if change != nil {
		change(c)
	}
	return c
}

func TestCredentialsOf(t *testing.T) {
	generated := func() (*ssh.KeyPair, error) {
		return &ssh.KeyPair{PrivateKey: []byte("new"), PublicKey: []byte("new.pub")}, nil
	}
	never := func() (*ssh.KeyPair, error) { return nil, errors.New("no key was to be generated") }
	cases := map[string]struct {
		why       string
		config    *config.FluxConfig
		protected map[string]string
		existing  map[string]string
		generate  func() (*ssh.KeyPair, error)
		want      map[string]string
		err       string
	}{
		"public": {why: "a public repository needs no Secret", config: gitConfig("https://git/x", nil)},
		"https": {why: "user and key", config: gitConfig("https://git/x", func(c *config.FluxConfig) { c.Spec.GitRepository.HTTPSUser = "me" }),
			protected: map[string]string{"httpsKey": b64("pat")}, want: map[string]string{"username": "me", "password": "pat"}},
		"https authority": {why: "an authority alone", config: gitConfig("https://git/x", func(c *config.FluxConfig) { c.Spec.GitRepository.HTTPSCACert = b64("pem") }),
			want: map[string]string{"ca.crt": "pem"}},
		"https without user": {why: "a key needs its user", config: gitConfig("https://git/x", nil),
			protected: map[string]string{"httpsKey": b64("pat")}, err: "gitRepository.httpsUser is empty"},
		"not base64": {why: "the setting is named, its value is not", config: gitConfig("https://git/x", func(c *config.FluxConfig) { c.Spec.GitRepository.HTTPSUser = "me" }),
			protected: map[string]string{"httpsKey": "%%canary%%"}, err: "httpsKey is empty or not base64"},
		"ssh with key": {why: "the user's key", config: gitConfig("ssh://git@git/x", func(c *config.FluxConfig) { c.Spec.GitRepository.SSHKnownHosts = b64("git ssh-ed25519 A") }),
			protected: map[string]string{"sshPrivateKey": b64("mine")}, want: map[string]string{"identity": "mine", "known_hosts": "git ssh-ed25519 A"}},
		"ssh generated": {why: "no key given", config: gitConfig("git@git:x", nil), generate: generated,
			want: map[string]string{"identity": "new", "identity.pub": "new.pub"}},
		"ssh kept": {why: "the pair lives as long as the configuration", config: gitConfig("ssh://git@git/x", nil),
			existing: map[string]string{"identity": "old", "identity.pub": "old.pub"}, want: map[string]string{"identity": "old", "identity.pub": "old.pub"}},
		"ssh key taken back": {why: "the user's key has no public half here, so it is not kept", config: gitConfig("ssh://git@git/x", nil),
			existing: map[string]string{"identity": "users"}, generate: generated, want: map[string]string{"identity": "new", "identity.pub": "new.pub"}},
		"local": {why: "the user's own Secret", config: gitConfig("ssh://git@git/x", func(c *config.FluxConfig) { c.Spec.GitRepository.LocalAuthRef = "mine" })},
		"bucket": {why: "access and secret key", config: &config.FluxConfig{Spec: config.FluxConfigSpec{SourceKind: "Bucket", Bucket: &config.Bucket{AccessKey: "a"}}},
			protected: map[string]string{"bucketSecretKey": b64("s")}, want: map[string]string{"accesskey": "a", "secretkey": "s"}},
		"blob account": {why: "an account key as given", config: &config.FluxConfig{Spec: config.FluxConfigSpec{SourceKind: "AzureBlob", AzureBlob: &config.AzureBlob{}}},
			protected: map[string]string{"azureBlob.accountKey": "k"}, want: map[string]string{"accountKey": "k"}},
		"blob principal": {why: "a service principal with a secret",
			config:    &config.FluxConfig{Spec: config.FluxConfigSpec{SourceKind: "AzureBlob", AzureBlob: &config.AzureBlob{ServicePrincipal: &config.ServicePrincipal{ClientID: "c", TenantID: "t"}}}},
			protected: map[string]string{"azureBlob.servicePrincipal.clientSecret": "s"}, want: map[string]string{"clientId": "c", "tenantId": "t", "clientSecret": "s"}},
		"oci": {why: "TLS material", config: &config.FluxConfig{Spec: config.FluxConfigSpec{SourceKind: "OCIRepository", OCIRepository: &config.OCIRepository{TLS: true}}},
			protected: map[string]string{"ociRepository.tlsConfig.caCertificate": b64("ca")}, want: map[string]string{"ca.crt": "ca"}},
		"unknown": {why: "a kind that is none", config: &config.FluxConfig{Spec: config.FluxConfigSpec{SourceKind: "Floppy"}}, err: `"Floppy" is not a source`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if c.generate == nil {
				c.generate = never
			}
			got, err := credentialsOf(c.config.Spec, bytesOf(c.protected), bytesOf(c.existing), c.generate)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || phase.Classify(err).Class != phase.ClassStalled || strings.Contains(err.Error(), "canary") {
					t.Fatalf("%s: got %v", c.why, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(bytesOf(c.want), got); d != "" {
				t.Errorf("%s (-want +got):\n%s", c.why, d)
			}
		})
	}
}

func bytesOf(m map[string]string) map[string][]byte {
	if m == nil {
		return nil
	}
	out := map[string][]byte{}
	for k, v := range m {
		out[k] = []byte(v)
	}
	return out
}

func TestGitRepositoryOf(t *testing.T) {
	c := gitConfig("git@host:team/app.git", func(c *config.FluxConfig) {
		c.Spec.Suspend = true
		c.Annotations = map[string]string{meta.ReconcileRequestAnnotation: "now"}
	})
	got, err := sourceOf(c, true)
	if err != nil {
		t.Fatal(err)
	}
	want := &sourcev1.GitRepository{
		TypeMeta: metav1.TypeMeta{APIVersion: "source.toolkit.fluxcd.io/v1", Kind: "GitRepository"},
		ObjectMeta: metav1.ObjectMeta{Name: "cfg", Namespace: "team", Annotations: map[string]string{"reconcile.fluxcd.io/requestedAt": "now"},
			Labels: map[string]string{"clusterconfig.azure.com/is-managed": "true", "clusterconfig.azure.com/name": "cfg",
				"clusterconfig.azure.com/namespace": "team", "clusterconfig.azure.com/operation-id": "op-1"}},
		Spec: sourcev1.GitRepositorySpec{URL: "ssh://git@host/team/app.git", Suspend: true, Provider: "generic",
			Interval: metav1.Duration{Duration: 500 * time.Second}, Timeout: &metav1.Duration{Duration: time.Minute},
			SecretRef: &meta.LocalObjectReference{Name: "cfg-auth"}, Reference: &sourcev1.GitRepositoryRef{Branch: "main"}},
	}
	if d := cmp.Diff(client.Object(want), got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestSourceBodyMustMatchItsKind(t *testing.T) {
	c := &config.FluxConfig{Spec: config.FluxConfigSpec{SourceKind: "Bucket", GitRepository: &config.GitRepository{}}}
	if _, err := sourceOf(c, false); err == nil || !strings.Contains(err.Error(), `spec.sourceKind is "Bucket"`) {
		t.Errorf("got %v", err)
	}
}

func TestKustomizationsOf(t *testing.T) {
	retry := metav1.Duration{Duration: 5 * time.Second}
	interval := metav1.Duration{Duration: time.Minute}
	c := gitConfig("https://git/x", func(c *config.FluxConfig) {
		c.Spec.Kustomizations = []config.Kustomization{
			{Name: "infra", Path: "./infra", SyncInterval: interval, Timeout: interval, Prune: true, Wait: true},
			{Name: "apps", DependsOn: []string{"infra", "cfg-infra"}, SyncInterval: interval, Timeout: interval, RetryInterval: &retry, Force: true,
				PostBuild: &config.PostBuild{Substitute: map[string]string{"a": "b"}, SubstituteFrom: []config.SubstituteFrom{{Kind: "Secret", Name: "s", Optional: true}}}},
		}
	})
	got, err := kustomizationsOf(c)
	if err != nil {
		t.Fatal(err)
	}
	infra, apps := got[0], got[1]
	if infra.Name != "cfg-infra" || !infra.Spec.Wait || !infra.Spec.Prune || infra.Spec.RetryInterval.Duration != time.Minute ||
		infra.Spec.ServiceAccountName != "flux-applier" || infra.Spec.SourceRef.Kind != "GitRepository" || infra.Spec.SourceRef.Name != "cfg" {
		t.Errorf("infra: %+v", infra.Spec)
	}
	if len(infra.Spec.Patches) != 1 || infra.Spec.Patches[0].Target.AnnotationSelector != "clusterconfig.azure.com/use-managed-source=true" {
		t.Errorf("patches: %+v", infra.Spec.Patches)
	}
	if len(apps.Spec.DependsOn) != 2 || apps.Spec.DependsOn[0].Name != "cfg-infra" || apps.Spec.DependsOn[1].Name != "cfg-infra" {
		t.Errorf("plain and prefixed names mean the same: %+v", apps.Spec.DependsOn)
	}
	if apps.Spec.RetryInterval.Duration != retry.Duration || apps.Spec.Wait || !apps.Spec.Force || apps.Spec.PostBuild.Substitute["a"] != "b" ||
		!apps.Spec.PostBuild.SubstituteFrom[0].Optional {
		t.Errorf("apps: %+v", apps.Spec)
	}
	for name, depends := range map[string]string{"there is no kustomization": "nowhere", "depends on itself": "apps"} {
		c.Spec.Kustomizations[1].DependsOn = []string{depends}
		if _, err := kustomizationsOf(c); err == nil || !strings.Contains(err.Error(), name) || phase.Classify(err).Class != phase.ClassStalled {
			t.Errorf("dependsOn %s: got %v", depends, err)
		}
	}
}

func TestRightsOf(t *testing.T) {
	cluster, namespace := config.FluxConfig{}, config.FluxConfig{Spec: config.FluxConfigSpec{Scope: "namespace"}}
	for _, c := range []struct {
		in   []config.FluxConfig
		want rights
	}{
		{nil, rights{}},
		{[]config.FluxConfig{cluster}, rights{cluster: true}},
		{[]config.FluxConfig{namespace}, rights{namespace: true}},
		{[]config.FluxConfig{namespace, cluster}, rights{cluster: true, namespace: true}},
	} {
		if got := rightsOf(c.in...); got != c.want {
			t.Errorf("got %+v, want %+v", got, c.want)
		}
	}
}

func TestRemovable(t *testing.T) {
	k := func(name string, on ...string) kustomizev1.Kustomization {
		out := kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, d := range on {
			out.Spec.DependsOn = append(out.Spec.DependsOn, kustomizev1.DependencyReference{Name: d})
		}
		return out
	}
	for why, c := range map[string]struct {
		in   []kustomizev1.Kustomization
		want []string
	}{
		"dependants first": {[]kustomizev1.Kustomization{k("a"), k("b", "a"), k("c", "b")}, []string{"c"}},
		"independent":      {[]kustomizev1.Kustomization{k("a"), k("b")}, []string{"a", "b"}},
		"a cycle ends too": {[]kustomizev1.Kustomization{k("a", "b"), k("b", "a")}, []string{"a", "b"}},
	} {
		var got []string
		for _, x := range removable(c.in) {
			got = append(got, x.Name)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", why, got, c.want)
		}
	}
}

func TestStatusOf(t *testing.T) {
	ready := func(status metav1.ConditionStatus, reason string, observed int64) *sourcev1.GitRepository {
		return &sourcev1.GitRepository{ObjectMeta: metav1.ObjectMeta{Generation: 2}, Status: sourcev1.GitRepositoryStatus{
			Conditions: []metav1.Condition{{Type: "Ready", Status: status, Reason: reason, Message: "m", ObservedGeneration: observed}}}}
	}
	cases := map[string]struct {
		why     string
		obj     client.Object
		stopped bool
		want    string
	}{
		"missing":    {"it does not exist", nil, false, pending},
		"silent":     {"nothing reported", &sourcev1.GitRepository{}, false, pending},
		"ready":      {"ready at this generation", ready("True", "Succeeded", 2), false, compliant},
		"stale":      {"ready at an older generation", ready("True", "Succeeded", 1), false, pending},
		"failed":     {"not ready", ready("False", "Failed", 2), false, nonCompliant},
		"dependency": {"waiting is not failing", ready("False", "DependencyNotReady", 2), false, pending},
		"unknown":    {"in progress", ready("Unknown", "Progressing", 2), false, pending},
		"suspended":  {"stopped by the user", ready("False", "Failed", 2), true, suspended},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := statusOf(c.obj, c.stopped); got.ComplianceState != c.want {
				t.Errorf("%s: got %+v", c.why, got)
			}
		})
	}
}

func TestOverall(t *testing.T) {
	for _, c := range []struct {
		stopped bool
		states  []string
		want    string
	}{
		{false, nil, pending},
		{false, []string{compliant, compliant}, compliant},
		{false, []string{compliant, pending}, pending},
		{false, []string{pending, nonCompliant}, nonCompliant},
		{true, []string{suspended, suspended}, suspended},
		{true, []string{suspended, compliant}, suspended},
	} {
		if got := overall(c.stopped, c.states); got != c.want {
			t.Errorf("overall(%v, %v) = %s, want %s", c.stopped, c.states, got, c.want)
		}
	}
}

func TestFluxObject(t *testing.T) {
	for id, want := range map[string]bool{
		"team_app_helm.toolkit.fluxcd.io_HelmRelease": true, "team_app_apps_Deployment": false,
		"_crd_apiextensions.k8s.io_CustomResourceDefinition": false, "team_app_other.io_HelmRelease": false, "nonsense": false,
	} {
		if _, got := fluxObject(id); got != want {
			t.Errorf("fluxObject(%q) = %v", id, got)
		}
	}
}

func TestSCP(t *testing.T) {
	for in, want := range map[string]string{
		"git@host:team/app.git": "ssh://git@host/team/app.git", "ssh://git@host/x": "", "https://host/x": "", "host:x": "", "": "",
	} {
		if got := scp(in); got != want {
			t.Errorf("scp(%q) = %q, want %q", in, got, want)
		}
	}
}

package fluxconfig

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/api/config"
	"headwater.dev/kernel/phase"
)

func free(s string) *apiextensionsv1.JSON { return &apiextensionsv1.JSON{Raw: []byte(s)} }

func TestOverlayOfSources(t *testing.T) {
	cases := map[string]struct {
		why  string
		in   func(*config.FluxConfig)
		want string // a part of the spec, as JSON
		err  string
	}{
		"nothing": {why: "null asks for nothing", in: func(c *config.FluxConfig) { c.Spec.GitRepository.AdditionalConfigurations = free(`null`) }, want: `{"url":"https://git/x"}`},
		"submodules": {why: "what the typed properties lack", in: func(c *config.FluxConfig) {
			c.Spec.GitRepository.AdditionalConfigurations = free(`{"recurseSubmodules":true,"verify":{"mode":"HEAD","secretRef":{"name":"keys"}},"ref":{"name":"refs/pull/1/head"}}`)
		}, want: `{"recurseSubmodules":true,"verify":{"mode":"HEAD","secretRef":{"name":"keys"}},"ref":{"branch":"main","name":"refs/pull/1/head"}}`},
		"provider": {why: "the default provider may be replaced", in: func(c *config.FluxConfig) {
			c.Spec.GitRepository.AdditionalConfigurations = free(`{"provider":"github"}`)
		}, want: `{"provider":"github"}`},
		"contradiction": {why: "a typed property stays", in: func(c *config.FluxConfig) {
			c.Spec.GitRepository.AdditionalConfigurations = free(`{"ref":{"branch":"other"}}`)
		}, err: `gitRepository.additionalConfigurations.ref.branch cannot be set: it is "main"`},
		"same again": {why: "saying the same is no contradiction", in: func(c *config.FluxConfig) {
			c.Spec.GitRepository.AdditionalConfigurations = free(`{"ref":{"branch":"main"}}`)
		}, want: `{"ref":{"branch":"main"}}`},
		"decided": {why: "the property that decides is named", in: func(c *config.FluxConfig) {
			c.Spec.GitRepository.AdditionalConfigurations = free(`{"interval":"1s"}`)
		}, err: "the configuration's syncIntervalInSeconds decides it"},
		"unknown": {why: "a typing error is not silent", in: func(c *config.FluxConfig) {
			c.Spec.GitRepository.AdditionalConfigurations = free(`{"recurseSubmodule":true}`)
		}, err: `does not fit the spec of a GitRepository: unknown field "recurseSubmodule"`},
		"wrong type": {why: "so is a wrong type", in: func(c *config.FluxConfig) {
			c.Spec.GitRepository.AdditionalConfigurations = free(`{"include":"deploy/**"}`)
		}, err: "does not fit the spec of a GitRepository"},
		"bucket of AWS": {why: "other clouds' buckets", in: func(c *config.FluxConfig) {
			c.Spec.SourceKind, c.Spec.GitRepository = "Bucket", nil
			c.Spec.Bucket = &config.Bucket{URL: "https://s3.amazonaws.com", BucketName: "b", AdditionalConfigurations: free(`{"provider":"aws","region":"eu-central-1","serviceAccountName":"reader","prefix":"p/"}`)}
		}, want: `{"provider":"aws","region":"eu-central-1","serviceAccountName":"reader","prefix":"p/"}`},
		"identity": {why: "a workload identity names its service account", in: func(c *config.FluxConfig) {
			c.Spec.GitRepository.ObjectLevelIdentity = &config.ObjectLevelIdentity{ClientID: "id"}
			c.Spec.GitRepository.SparseCheckout = []string{"deploy"}
		}, want: `{"provider":"azure","serviceAccountName":"cfg-identity","sparseCheckout":["deploy"]}`},
		"registry": {why: "a proxy, and what to leave out", in: func(c *config.FluxConfig) {
			c.Spec.SourceKind, c.Spec.GitRepository = "OCIRepository", nil
			c.Spec.OCIRepository = &config.OCIRepository{URL: "oci://r/x", Verify: &config.Verify{Provider: "cosign"},
				AdditionalConfigurations: free(`{"proxySecretRef":{"name":"proxy"},"ignore":"*.md"}`)}
		}, want: `{"proxySecretRef":{"name":"proxy"},"ignore":"*.md","verify":{"provider":"cosign"}}`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := sourceOf(gitConfig("https://git/x", c.in), false)
			holds(t, c.why, got, err, c.want, c.err)
		})
	}
}

// holds checks that the spec of an object has what want says, or the error.
func holds(t *testing.T, why string, obj client.Object, err error, want, wantErr string) {
	t.Helper()
	if wantErr != "" {
		if err == nil || !strings.Contains(err.Error(), wantErr) || phase.Classify(err).Class != phase.ClassStalled {
			t.Errorf("%s: got %v, want %q", why, err, wantErr)
		}
		return
	}
	if err != nil {
		t.Fatalf("%s: %v", why, err)
	}
	u, err := toUnstructured(obj)
	if err != nil {
		t.Fatal(err)
	}
	spec, part := u.Object["spec"].(map[string]any), map[string]any{}
	if err := json.Unmarshal([]byte(want), &part); err != nil {
		t.Fatal(err)
	}
	for key, value := range part {
		if diff := cmp.Diff(value, spec[key]); diff != "" {
			t.Errorf("%s: %s (-want +got):\n%s", why, key, diff)
		}
	}
}

func TestOverlayOfKustomizations(t *testing.T) {
	cases := map[string]struct {
		why, scope, in, want, err string
	}{
		"sops": {"secrets in Git", "namespace", `{"decryption":{"provider":"sops","secretRef":{"name":"age"}}}`, `{"decryption":{"provider":"sops","secretRef":{"name":"age"}}}`, ""},
		"everything else": {"names, images, components, health", "cluster",
			`{"targetNamespace":"x","namePrefix":"a-","images":[{"name":"i","newTag":"2"}],"components":["c"],"healthChecks":[{"kind":"Deployment","name":"d","apiVersion":"apps/v1"}],"deletionPolicy":"Orphan"}`,
			`{"targetNamespace":"x","namePrefix":"a-","images":[{"name":"i","newTag":"2"}],"components":["c"],"deletionPolicy":"Orphan"}`, ""},
		"list":               {"a list is continued", "cluster", `{"dependsOn":[{"name":"other","namespace":"team2"}]}`, `{"dependsOn":[{"name":"cfg-b"},{"name":"other","namespace":"team2"}]}`, ""},
		"variable":           {"variables come together", "cluster", `{"postBuild":{"substitute":{"y":"2"}}}`, `{"postBuild":{"substitute":{"x":"1","y":"2"}}}`, ""},
		"account":            {"with cluster scope less rights may be asked for", "cluster", `{"serviceAccountName":"deployer"}`, `{"serviceAccountName":"deployer"}`, ""},
		"account of others":  {"with namespace scope the identity is fixed", "namespace", `{"serviceAccountName":"admin"}`, "", "scope namespace applies as flux-applier only"},
		"its own account":    {"the same is allowed", "namespace", `{"serviceAccountName":"flux-applier"}`, `{"serviceAccountName":"flux-applier"}`, ""},
		"another source":     {"sources are the configuration's", "cluster", `{"sourceRef":{"kind":"GitRepository","name":"x"}}`, "", "the configuration's sourceKind decides it"},
		"suspend":            {"", "cluster", `{"suspend":true}`, "", "the configuration's suspend decides it"},
		"of a tenant's tree": {"a kubeconfig of another cluster", "cluster", `{"kubeConfig":{"secretRef":{"name":"kc"}}}`, `{"kubeConfig":{"secretRef":{"name":"kc"}}}`, ""},
		"no object":          {"", "cluster", `[]`, "", "is not a JSON object"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			fc := gitConfig("https://git/x", func(f *config.FluxConfig) {
				f.Spec.Scope = c.scope
				f.Spec.Kustomizations = []config.Kustomization{
					{Name: "a", DependsOn: []string{"b"}, PostBuild: &config.PostBuild{Substitute: map[string]string{"x": "1"}}, AdditionalConfigurations: free(c.in)},
					{Name: "b", Suspend: true},
				}
			})
			got, err := kustomizationsOf(fc)
			var first client.Object
			if err == nil {
				first = got[0]
				if got[0].Spec.Suspend || !got[1].Spec.Suspend {
					t.Error("suspending one kustomization suspends that one")
				}
				if patches := got[0].Spec.Patches; len(patches) != 1 || patches[0].Target.Kind != "HelmRelease" {
					t.Errorf("our own patch is lost: %v", patches)
				}
			}
			holds(t, c.why, first, err, c.want, c.err)
		})
	}
}

func TestTrustOf(t *testing.T) {
	const pem = "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----"
	tests := map[string]struct {
		why      string
		provider string
		config   map[string]string
		want     map[string]string
		secret   string
		err      string
	}{
		"keyless":      {"nothing but identities", "cosign", nil, nil, "", ""},
		"keys":         {"as they are or in base64; cosign looks for .pub", "cosign", map[string]string{"author": pem, "other.pub": b64(pem)}, map[string]string{"author.pub": pem, "other.pub": pem}, "cfg-verify", ""},
		"notation":     {"its files have names of their own", "notation", map[string]string{"trustpolicy.json": "{}", "ca.crt": b64(pem)}, map[string]string{"trustpolicy.json": "{}", "ca.crt": pem}, "cfg-verify", ""},
		"user's own":   {"a Secret that the user has made", "cosign", map[string]string{"secretName": "mine"}, nil, "mine", ""},
		"both":         {"one of them would be ignored", "cosign", map[string]string{"secretName": "mine", "a": pem}, nil, "", "give either secretName or keys"},
		"not a key":    {"it is named", "cosign", map[string]string{"a": "%%"}, nil, "", "verificationConfig.a is empty or not base64"},
		"an empty key": {"so is that", "cosign", map[string]string{"a": ""}, nil, "", "verificationConfig.a is empty or not base64"},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			fc := gitConfig("https://git/x", func(f *config.FluxConfig) {
				f.Spec.SourceKind, f.Spec.GitRepository = "OCIRepository", nil
				f.Spec.OCIRepository = &config.OCIRepository{URL: "oci://r/x", Verify: &config.Verify{Provider: c.provider, Config: c.config}}
			})
			got, err := trustOf(fc)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("%s: %v", c.why, err)
				}
				return
			}
			var data map[string]string
			if got != nil {
				data = map[string]string{}
				for k, v := range got.Data {
					data[k] = string(v)
				}
			}
			if diff := cmp.Diff(c.want, data); diff != "" || err != nil {
				t.Errorf("%s: %v (-want +got):\n%s", c.why, err, diff)
			}
			source, err := sourceOf(fc, false)
			if err != nil {
				t.Fatal(err)
			}
			named := ""
			if ref := source.(*sourcev1.OCIRepository).Spec.Verify.SecretRef; ref != nil {
				named = ref.Name
			}
			if named != c.secret {
				t.Errorf("%s: the source reads %q, want %q", c.why, named, c.secret)
			}
		})
	}
}

// trust plays a configuration whose artifacts are verified with keys of its own.
func trust(t *testing.T, c client.Client, ns string) {
	ctx := t.Context()
	const pem = "-----BEGIN PUBLIC KEY-----"
	fc := newConfig(ns, "cfg", "")
	fc.Spec.SourceKind, fc.Spec.GitRepository = "OCIRepository", nil
	fc.Spec.OCIRepository = &config.OCIRepository{URL: "oci://r.example/x", Verify: &config.Verify{Provider: "cosign", Config: map[string]string{"author": pem}}}
	create(t, c, fc)
	secret, source := &corev1.Secret{}, &sourcev1.OCIRepository{}
	eventually(t, func() error {
		return firstError(exists(ctx, c, secret, ns, "cfg-verify"), exists(ctx, c, source, ns, "cfg"))
	})
	if string(secret.Data["author.pub"]) != pem || source.Spec.Verify.SecretRef.Name != "cfg-verify" {
		t.Errorf("%v %+v", secret.Data, source.Spec.Verify)
	}
	update(t, c, fc, func() { fc.Spec.OCIRepository.Verify.Config = nil })
	eventually(t, func() error { return gone(ctx, c, &corev1.Secret{}, ns, "cfg-verify") })
	update(t, c, fc, func() { fc.Spec.OCIRepository.Verify.Config = map[string]string{"author": pem} })
	eventually(t, func() error { return exists(ctx, c, secret, ns, "cfg-verify") })
	if err := c.Delete(ctx, fc); err != nil {
		t.Fatal(err)
	}
	woken(t, func() error {
		return firstError(gone(ctx, c, &config.FluxConfig{}, ns, "cfg"), gone(ctx, c, &corev1.Secret{}, ns, "cfg-verify"))
	})
}

func TestPublishedHosts(t *testing.T) {
	for url, want := range map[string]int{
		"git@github.com:team/app.git": 3, "ssh://git@github.com/team/app": 3, "ssh://git@ssh.github.com:443/team/app": 3, "ssh://git@GitLab.com:22/x": 3,
		"git@bitbucket.org:x/y": 3, "git@ssh.dev.azure.com:v3/o/p/r": 1, "ssh://o@vs-ssh.visualstudio.com/v3/o/p/r": 1,
		"ssh://git@git.example/x": 0, "ssh://git@github.com.evil.example/x": 0, "ssh://git@github.com:2222/x": 0, "ssh://git@10.0.0.1/x": 0,
	} {
		if got := strings.Count(string(publishedHosts(url)), "\n"); got != want {
			t.Errorf("%s: %d lines, want %d", url, got, want)
		}
	}
}

// TestPublishedFingerprints compares the embedded keys with the fingerprints
// that the services publish beside them.
func TestPublishedFingerprints(t *testing.T) {
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("ssh-keygen is not installed")
	}
	out, err := exec.Command("ssh-keygen", "-lf", "known_hosts").Output()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		got = append(got, strings.TrimPrefix(strings.Fields(line)[1], "SHA256:"))
	}
	want := []string{
		"+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU", "p2QAMXNIC1TJYWeIOttrVc98/R1BUFWu3/LiyKgUfQM", "uNiVztksCsDhcc0u9e8BujQXVUpKZIDTMczCvj3tD2s",
		"eUXGGm1YGsMAS7vkcx6JOJdOGHPem5gQp4taiCfCLB8", "HbW3g8zUjNSksFbqTiUWPWg2Bq1x8xdGUrliXFzSnUw", "ROQFvPThGrW4RuWLoL9tq9I9zJ42fK4XywyRtbOz/EQ",
		"ybgmFkzwOSotHTHLJgHO0QN8L0xErw6vd0VhFA9m3SM", "FC73VB6C4OQLSCrjEayhMp9UMxS97caD/Yyi2bhW/J0", "46OSHA1Rmj8E8ERTC6xkNcmGOw9oFxYr0WF6zWW8l1E",
		"ohD8VZEXGWo6Ez8GSEJQ9WpafgLFsOfLOtGGQCQo6Og",
	}
	if !slices.Equal(got, want) {
		t.Errorf("fingerprints (-want +got):\n%s", cmp.Diff(want, got))
	}
	if info, err := os.Stat("known_hosts"); err != nil || int(info.Size()) != len(published) {
		t.Error("the embedded file is another one")
	}
}

// additional plays a configuration with an identity, additions, a request to
// reconcile and one suspended kustomization against a real API server.
func additional(t *testing.T, c client.Client, ns string) {
	ctx := t.Context()
	fc := newConfig(ns, "cfg", "https://git.example/x")
	fc.Spec.GitRepository.ObjectLevelIdentity = &config.ObjectLevelIdentity{ClientID: "client-1", TenantID: "tenant-1"}
	fc.Spec.GitRepository.AdditionalConfigurations = free(`{"recurseSubmodules":true}`)
	fc.Spec.Kustomizations[0].AdditionalConfigurations = free(`{"decryption":{"provider":"sops","secretRef":{"name":"age"}}}`)
	fc.Spec.Kustomizations[1].Suspend = true
	create(t, c, fc)
	git, a, b, account := &sourcev1.GitRepository{}, &kustomizev1.Kustomization{}, &kustomizev1.Kustomization{}, &corev1.ServiceAccount{}
	eventually(t, func() error {
		return firstError(exists(ctx, c, git, ns, "cfg"), exists(ctx, c, a, ns, "cfg-a"), exists(ctx, c, b, ns, "cfg-b"), exists(ctx, c, account, ns, "cfg-identity"))
	})
	if !git.Spec.RecurseSubmodules || git.Spec.ServiceAccountName != "cfg-identity" || git.Spec.Provider != "azure" {
		t.Errorf("source: %+v", git.Spec)
	}
	if a.Spec.Decryption == nil || a.Spec.Decryption.SecretRef.Name != "age" || a.Spec.Suspend || !b.Spec.Suspend {
		t.Errorf("kustomizations: %+v %+v", a.Spec, b.Spec)
	}
	if account.Annotations[annotationClientID] != "client-1" || account.Annotations[annotationTenantID] != "tenant-1" {
		t.Errorf("service account: %v", account.Annotations)
	}

	// A request counts as handled when all that are not suspended have handled it.
	const at = "2026-01-02T03:04:05Z"
	update(t, c, fc, func() { fc.Annotations = map[string]string{"reconcile.fluxcd.io/requestedAt": at} })
	eventually(t, func() error {
		return firstError(exists(ctx, c, git, ns, "cfg"), expect(git.Annotations["reconcile.fluxcd.io/requestedAt"] == at, "the source is not asked"))
	})
	if err := exists(ctx, c, a, ns, "cfg-a"); err != nil || a.Annotations["reconcile.fluxcd.io/requestedAt"] != "" {
		t.Errorf("the kustomization is asked before its source has answered: %v %v", a.Annotations, err)
	}
	before := git.DeepCopy()
	git.Status.LastHandledReconcileAt = at
	if err := c.Status().Patch(ctx, git, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		return firstError(exists(ctx, c, a, ns, "cfg-a"), expect(a.Annotations["reconcile.fluxcd.io/requestedAt"] == at, "the kustomization is not asked"))
	})
	if err := c.Get(ctx, client.ObjectKeyFromObject(fc), fc); err != nil || fc.Status.LastHandledReconcileAt != "" {
		t.Errorf("handled too early: %q %v", fc.Status.LastHandledReconcileAt, err)
	}
	was := a.DeepCopy()
	a.Status.LastHandledReconcileAt = at
	if err := c.Status().Patch(ctx, a, client.MergeFrom(was)); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		return firstError(exists(ctx, c, fc, ns, "cfg"), expect(fc.Status.LastHandledReconcileAt == at, "not handled"))
	})

	// Another cluster of Azure: where it is, and who asks for access.
	const aks = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/staging"
	update(t, c, fc, func() {
		fc.Spec.Kustomizations[1].KubeConfig = &config.KubeConfig{ClusterResourceID: aks, ObjectLevelIdentity: &config.ObjectLevelIdentity{ClientID: "client-2"}}
	})
	cluster := &corev1.ConfigMap{}
	eventually(t, func() error {
		return firstError(exists(ctx, c, cluster, ns, "cfg-b-kubeconfig"), exists(ctx, c, account, ns, "cfg-b-identity"), exists(ctx, c, b, ns, "cfg-b"),
			expect(b.Spec.KubeConfig != nil && b.Spec.KubeConfig.ConfigMapRef.Name == "cfg-b-kubeconfig", "the kustomization stays in this cluster"))
	})
	if diff := cmp.Diff(map[string]string{"provider": "azure", "cluster": aks, "serviceAccountName": "cfg-b-identity"}, cluster.Data); diff != "" || account.Annotations[annotationClientID] != "client-2" {
		t.Errorf("the cluster (-want +got):\n%s%v", diff, account.Annotations)
	}
	update(t, c, fc, func() { fc.Spec.Kustomizations[1].KubeConfig = nil })
	eventually(t, func() error {
		return firstError(gone(ctx, c, &corev1.ConfigMap{}, ns, "cfg-b-kubeconfig"), gone(ctx, c, &corev1.ServiceAccount{}, ns, "cfg-b-identity"),
			exists(ctx, c, &corev1.ServiceAccount{}, ns, "cfg-identity"))
	})

	// What Flux does not know is said, and nothing is half applied.
	update(t, c, fc, func() { fc.Spec.Kustomizations[0].AdditionalConfigurations = free(`{"decrypt":true}`) })
	refused(t, c, fc, `kustomizations[a].additionalConfigurations does not fit the spec of a Kustomization: unknown field "decrypt"`)
	update(t, c, fc, func() {
		fc.Spec.Kustomizations[0].AdditionalConfigurations = nil
		fc.Spec.GitRepository.ObjectLevelIdentity = nil
	})
	eventually(t, func() error {
		return firstError(gone(ctx, c, &corev1.ServiceAccount{}, ns, "cfg-identity"), exists(ctx, c, a, ns, "cfg-a"), expect(a.Spec.Decryption == nil, "decryption is still asked for"))
	})

	// A service account of the user's is used when it has the identity.
	theirs := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "mine", Namespace: ns}}
	create(t, c, theirs)
	update(t, c, fc, func() {
		fc.Spec.GitRepository.ObjectLevelIdentity = &config.ObjectLevelIdentity{ClientID: "c2", ServiceAccountName: "mine"}
	})
	refused(t, c, fc, "annotate it with azure.workload.identity/client-id=c2")
	old := theirs.DeepCopy()
	theirs.Annotations = map[string]string{annotationClientID: "c2"}
	if err := c.Patch(ctx, theirs, client.MergeFrom(old)); err != nil {
		t.Fatal(err)
	}
	update(t, c, fc, func() { fc.Spec.OperationID = "again" })
	eventually(t, func() error {
		return firstError(exists(ctx, c, git, ns, "cfg"), expect(git.Spec.ServiceAccountName == "mine", "the account is not used"))
	})
}

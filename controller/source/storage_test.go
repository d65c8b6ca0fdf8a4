package source

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/kubetest"
	"headwater.dev/dev/registry"
	"headwater.dev/kernel/host"
)

// everything is what this test binary logs, at the finest level: a process can
// have one logger.
var everything = sync.OnceValue(func() *logs {
	l := &logs{}
	ctrl.SetLogger(funcr.New(l.write, funcr.Options{Verbosity: 10}))
	return l
})

// begin starts the controllers over a disk, until stop.
func begin(t *testing.T, c *kubetest.Cluster, storage, metrics string) (p *process, stop func()) {
	t.Helper()
	p = &process{addr: freeAddr(t), storage: storage, logs: everything()}
	h, err := host.New(c.Config, host.Options{
		Namespace: "flux-system", WatchAllNamespaces: true, MetricsAddr: metrics, HealthAddr: "0",
		NoCrossNamespaceRefs: true, DefaultServiceAccount: "flux-applier", Concurrent: 4,
		RequeueDependency: time.Hour, MinRetryDelay: 50 * time.Millisecond, MaxRetryDelay: 2 * time.Second,
		StoragePath: p.storage, StorageAddr: p.addr, StorageAdvAddr: p.addr,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := Setup(ctx, h); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return p, stop
}

// TestStorage runs the controllers several times over disks that restart, fill
// up and break.
func TestStorage(t *testing.T) {
	c := kubetest.Start(t)
	kubetest.CRDs(t, c, "flux")
	t.Run("WarmRestartFetchesNothing", func(t *testing.T) { testWarmRestart(t, c) })
	t.Run("FullDiskIsSaidAndRecoveredFrom", func(t *testing.T) { testFullDisk(t, c) })
	t.Run("NoOutputShowsASecret", func(t *testing.T) { testCanary(t, c) })
	t.Run("A07ProxiesOnThisMachine", func(t *testing.T) { testA07Proxies(t, c) })
	t.Run("RealStorages", func(t *testing.T) { testRealStorages(t, c) })
	t.Run("OldVersionsWarn", func(t *testing.T) { testOldVersions(t, c) })
}

func newBucket(name, endpoint string, change func(*sourcev1.Bucket)) *sourcev1.Bucket {
	o := &sourcev1.Bucket{}
	o.Name = name
	o.Spec = sourcev1.BucketSpec{
		BucketName: "data", Endpoint: strings.TrimPrefix(endpoint, "http://"), Insecure: true, Interval: metav1.Duration{Duration: time.Hour},
		SecretRef: &meta.LocalObjectReference{Name: "keys"},
	}
	if change != nil {
		change(o)
	}
	return o
}

func testFullDisk(t *testing.T, c *kubetest.Cluster) {
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("cannot mount a small disk (needs root): %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	p, stop := begin(t, c, disk, "0")
	t.Cleanup(stop)
	w := p.world(t, c)
	storage := &s3{objects: map[string]string{"a.yaml": "a: 1\n"}}
	server := httptest.NewServer(storage)
	defer server.Close()
	w.secret("keys", "accesskey", "key", "secretkey", canary)
	o := newBucket("full", server.URL, nil)
	w.create(o)
	first := *w.ready(o, "")
	storage.set("big.yaml", strings.Repeat("0123456789abcdef", 256<<10)) // 4 MiB
	w.request(o)
	w.failing(o, sourcev1.ArchiveOperationFailedReason, "no space left on device")
	if c := conditions.Get(o, sourcev1.StorageOperationFailedCondition); c == nil || c.Status != metav1.ConditionTrue {
		t.Errorf("StorageOperationFailed: %+v", c)
	}
	if a := o.Status.Artifact; a == nil || a.Digest != first.Digest {
		t.Errorf("the old artifact is gone: %+v", a)
	}
	w.download(o.Status.Artifact)
	storage.set("big.yaml", "small: again\n")
	w.wait(o, func() error { // nobody asks for it
		if !conditions.IsReady(o) || conditions.Has(o, sourcev1.StorageOperationFailedCondition) {
			return fmt.Errorf("ready: %+v", conditions.Get(o, meta.ReadyCondition))
		}
		return nil
	})
	// A read-only disk serves what it has, and says so about what is new.
	if err := syscall.Mount("", disk, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skip(err)
	}
	storage.set("a.yaml", "a: 2\n")
	w.request(o)
	w.failing(o, sourcev1.DirCreationFailedReason, "read-only file system")
	w.download(o.Status.Artifact)
	if err := syscall.Mount("", disk, "", syscall.MS_REMOUNT, "size=2m"); err != nil {
		t.Fatal(err)
	}
	w.ready(o, "")
	// Damage is found at the next reconcile and repaired.
	files, err := filepath.Glob(filepath.Join(disk, "artifacts", "blobs", "sha256", "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if err := os.Truncate(f, 3); err != nil {
			t.Fatal(err)
		}
	}
	at := w.request(o)
	w.wait(o, func() error {
		if o.Status.LastHandledReconcileAt != at || !conditions.IsReady(o) {
			return fmt.Errorf("not handled")
		}
		return nil
	})
	w.download(o.Status.Artifact)
}

// testCanary gives a secret in every kind of reference, well and badly formed,
// to remotes that refuse and fail, and looks for it in everything that comes out.
func testCanary(t *testing.T, c *kubetest.Cluster) {
	metrics := freeAddr(t)
	p, stop := begin(t, c, t.TempDir(), metrics)
	t.Cleanup(stop)
	w := p.world(t, c)
	remote := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		user, pass, _ := r.BasicAuth()
		rw.WriteHeader(map[bool]int{true: http.StatusInternalServerError, false: http.StatusUnauthorized}[strings.HasSuffix(r.URL.Path, "500")])
		fmt.Fprintln(rw, r.Header, user, pass, canary)
	}))
	defer remote.Close()
	hostport := strings.TrimPrefix(remote.URL, "http://")
	storage := httptest.NewServer(&s3{objects: map[string]string{"a.yaml": "a: 1\n"}})
	defer storage.Close()
	docker, err := json.Marshal(map[string]any{"auths": map[string]any{hostport: map[string]string{"username": "u", "password": canary}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, pairs := range map[string][]string{
		"keys": {"accesskey", "key", "secretkey", canary}, "basic": {"username", "u", "password", canary}, "bearer": {"bearerToken", canary},
		"half": {"password", canary}, "ssh": {"identity", canary, "known_hosts", canary, "password", canary}, "tls": {"tls.crt", canary, "tls.key", canary},
		"ca": {"ca.crt", canary}, "proxy": {"address", "http://" + hostport, "username", "u", "password", canary}, "badproxy": {"address", canary},
		"docker": {".dockerconfigjson", string(docker)}, "baddocker": {".dockerconfigjson", canary}, "azure": {"accountKey", canary}, "sas": {"sasKey", "sig=" + canary},
		"principal": {"tenantId", "t", "clientId", "c", "clientCertificate", canary}, "gcp": {"serviceaccount", `{"type":"service_account","private_key":"` + canary + `","client_email":"x"}`},
		"githubapp": {"githubAppID", "1", "githubAppInstallationID", "1", "githubAppPrivateKey", canary}, "pub": {"cosign.pub", canary, "author.pub", canary},
		"trust": {trustedRootKey, canary}, "policy": {policyKey, canary, "a.crt", canary}, "nocert": {policyKey, notationPolicy, "a.crt", canary},
	} {
		w.secret(name, pairs...)
	}
	ref := func(name string) *meta.LocalObjectReference { return &meta.LocalObjectReference{Name: name} }
	hour := metav1.Duration{Duration: time.Hour}
	var all []sourceObject
	add := func(o sourceObject) { w.create(o); all = append(all, o) }
	for _, s := range []string{"basic", "bearer", "half", "tls", "ca", "githubapp"} {
		for i, suffix := range []string{"", "/500"} {
			g := &sourcev1.GitRepository{Spec: sourcev1.GitRepositorySpec{URL: remote.URL + "/r" + suffix, Interval: hour, SecretRef: ref(s)}}
			g.Name = fmt.Sprintf("%s-%d", s, i)
			add(g)
		}
		h := &sourcev1.HelmRepository{Spec: sourcev1.HelmRepositorySpec{URL: remote.URL, Interval: hour, SecretRef: ref(s), CertSecretRef: ref("ca")}}
		h.Name = s
		add(h)
	}
	for _, s := range []string{"proxy", "badproxy"} {
		g := &sourcev1.GitRepository{Spec: sourcev1.GitRepositorySpec{URL: remote.URL, Interval: hour, ProxySecretRef: ref(s)}}
		g.Name = s
		add(g)
		add(newBucket(s, remote.URL, func(b *sourcev1.Bucket) { b.Spec.ProxySecretRef = ref(s) }))
	}
	g := &sourcev1.GitRepository{Spec: sourcev1.GitRepositorySpec{URL: "ssh://git@" + hostport + "/x", Interval: hour, SecretRef: ref("ssh")}}
	g.Name = "ssh"
	add(g)
	for _, s := range []string{"docker", "baddocker", "basic", "half"} {
		o := &sourcev1.OCIRepository{Spec: sourcev1.OCIRepositorySpec{URL: "oci://" + hostport + "/x", Interval: hour, SecretRef: ref(s), Insecure: true}}
		o.Name = s
		add(o)
	}
	// What verifies is public, but whoever mixes Secrets up shall not publish one.
	reg, err := registry.Start(registry.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	signed := push(t, reg, "signed:1", layerOf(packed(t, "a.yaml", "a: 1\n"), fluxLayer))
	newSigner(t).sign(t, reg, "signed", signed)
	for name, v := range map[string]sourcev1.OCIRepositoryVerification{
		"pub": {Provider: "cosign", SecretRef: ref("pub")}, "trust": {Provider: "cosign", TrustedRootSecretRef: ref("trust")},
		"policy": {Provider: "notation", SecretRef: ref("policy")}, "nocert": {Provider: "notation", SecretRef: ref("nocert")},
	} {
		o := &sourcev1.OCIRepository{Spec: sourcev1.OCIRepositorySpec{URL: reg.OCIURL("signed"), Interval: hour, Insecure: true, Verify: &v, Reference: &sourcev1.OCIRepositoryRef{Tag: "1"}}}
		o.Name = "verify-" + name
		add(o)
	}
	w.newRepository("unsigned", false)
	w.commit("unsigned", map[string]string{"a.yaml": "a: 1\n"})
	v := &sourcev1.GitRepository{Spec: sourcev1.GitRepositorySpec{URL: w.git.URL("unsigned"), Interval: hour, Reference: &sourcev1.GitRepositoryRef{Branch: "main"},
		Verification: &sourcev1.GitRepositoryVerification{Mode: sourcev1.ModeGitHEAD, SecretRef: *ref("pub")}}}
	v.Name = "verify"
	add(v)
	registries := &sourcev1.HelmRepository{Spec: sourcev1.HelmRepositorySpec{URL: reg.OCIURL(""), Type: sourcev1.HelmRepositoryTypeOCI, Insecure: true, Interval: hour, SecretRef: ref("baddocker")}}
	registries.Name = "registry"
	w.create(registries)
	c1 := &sourcev1.HelmChart{Spec: sourcev1.HelmChartSpec{Chart: "signed", SourceRef: sourcev1.LocalHelmChartSourceReference{Kind: sourcev1.HelmRepositoryKind, Name: "registry"}, Interval: hour,
		Verify: &sourcev1.HelmChartVerification{Provider: "cosign", SecretRef: ref("pub")}}}
	c1.Name = "verify"
	add(c1)
	add(newBucket("good", storage.URL, nil))
	add(newBucket("refused", remote.URL, nil))
	for provider, secrets := range map[string][]string{"azure": {"azure", "sas", "principal"}, "gcp": {"gcp"}, "generic": {"basic"}} {
		for _, s := range secrets {
			add(newBucket(provider+"-"+s, remote.URL, func(b *sourcev1.Bucket) {
				b.Spec.Provider, b.Spec.SecretRef = provider, ref(s)
				if provider == "azure" {
					b.Spec.Endpoint = remote.URL
				}
			}))
		}
	}
	add(newBucket("ldap", remote.URL, func(b *sourcev1.Bucket) {
		b.Spec.SecretRef = nil
		b.Spec.STS = &sourcev1.BucketSTSSpec{Provider: "ldap", Endpoint: remote.URL, SecretRef: ref("basic")}
	}))
	for _, o := range all {
		w.wait(o, func() error {
			if r := conditions.Get(o, meta.ReadyCondition); r == nil || r.Status == metav1.ConditionUnknown {
				return fmt.Errorf("%T %s has no outcome: %+v", o, o.GetName(), r)
			}
			return nil
		})
		if a := o.GetArtifact(); a != nil {
			if bytes.Contains(w.download(a), []byte(canary)) {
				t.Errorf("%s serves the secret", o.GetName())
			}
		}
	}
	w.noCanary()
	resp, err := http.Get("http://" + metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	scrape, err := io.ReadAll(resp.Body)
	if err != nil || len(scrape) < 1000 || bytes.Contains(scrape, []byte(canary)) {
		t.Errorf("metrics: %v, %d bytes, secret in it: %v", err, len(scrape), bytes.Contains(scrape, []byte(canary)))
	}
	var events corev1.EventList
	if err := w.client.List(t.Context(), &events, client.InNamespace(w.namespace)); err != nil || len(events.Items) < 10 {
		t.Errorf("only %d events were looked at: %v", len(events.Items), err)
	}
	if len(p.logs.String()) < 1000 {
		t.Error("there are no logs to look at")
	}
}

// warnings collects what the API server warns of.
type warnings struct {
	mu   sync.Mutex
	text []string
}

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, text)
}

func testOldVersions(t *testing.T, c *kubetest.Cluster) {
	seen := &warnings{}
	config := rest.CopyConfig(c.Config)
	config.WarningHandler = seen
	api, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for kind, versions := range map[string][]string{
		"GitRepository": {"v1beta1", "v1beta2"}, "HelmRepository": {"v1beta1", "v1beta2"}, "HelmChart": {"v1beta1", "v1beta2"},
		"Bucket": {"v1beta1", "v1beta2"}, "OCIRepository": {"v1beta2"},
	} {
		for _, version := range versions {
			list := &unstructured.UnstructuredList{}
			list.SetAPIVersion("source.toolkit.fluxcd.io/" + version)
			list.SetKind(kind + "List")
			if err := api.List(t.Context(), list, client.InNamespace("default")); err != nil {
				t.Errorf("%s %s is not served: %v", version, kind, err)
			}
			want := version + " " + kind + " is deprecated"
			seen.mu.Lock()
			if all := strings.Join(seen.text, "\n"); !strings.Contains(all, want) {
				t.Errorf("no warning %q in %q", want, all)
			}
			seen.mu.Unlock()
		}
	}
}

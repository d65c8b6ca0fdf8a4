package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
		RequeueDependency: 30 * time.Second, MinRetryDelay: 50 * time.Millisecond, MaxRetryDelay: 2 * time.Second,
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

// fetches counts the packs that are fetched through it.
type fetches struct {
	http.Handler
	mu   sync.Mutex
	n    int
	asks int
}

func (f *fetches) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	f.mu.Lock()
	f.asks++
	if bytes.Contains(body, []byte("want ")) {
		f.n++
	}
	f.mu.Unlock()
	f.Handler.ServeHTTP(w, r)
}

func (f *fetches) counts() (packs, requests int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n, f.asks
}

func testWarmRestart(t *testing.T, c *kubetest.Cluster) {
	disk := t.TempDir()
	p, stop := begin(t, c, disk, "0")
	w := p.world(t, c)
	storage := &s3{objects: map[string]string{"a.yaml": "a: 1\n", ".sourceignore": "*.txt\n"}}
	s3 := httptest.NewServer(storage)
	defer s3.Close()
	w.newRepository("warm", false)
	w.commit("warm", map[string]string{"a.yaml": "a: 1\n"})
	remote, err := url.Parse(w.git.URL("warm"))
	if err != nil {
		t.Fatal(err)
	}
	door := &fetches{Handler: httputil.NewSingleHostReverseProxy(&url.URL{Scheme: remote.Scheme, Host: remote.Host})}
	front := httptest.NewServer(door)
	defer front.Close()
	w.secret("keys", "accesskey", "key", "secretkey", canary)
	b := newBucket("warm", s3.URL, nil)
	w.create(b)
	g := w.repository("warm", front.URL+remote.Path)
	before := map[sourceObject]string{b: w.ready(b, "").Digest, g: w.ready(g, "").Digest}
	packs, asked := door.counts()
	reads := storage.count()
	if packs == 0 || reads == 0 {
		t.Fatalf("nothing was counted: %d packs, %d reads", packs, reads)
	}
	stop()
	p, _ = begin(t, c, disk, "0")
	w.addr = p.addr
	for o, digest := range before {
		at := w.request(o)
		w.wait(o, func() error {
			if handled := handledAt(o); handled != at {
				return fmt.Errorf("handled %q", handled)
			}
			return nil
		})
		if a := w.ready(o, ""); a.Digest != digest {
			t.Errorf("%T: digest %s, was %s", o, a.Digest, digest)
		}
		w.wait(o, func() error { // the address of this process
			if a := o.GetArtifact(); a.URL != "http://"+p.addr+"/"+a.Path {
				return fmt.Errorf("URL %s", a.URL)
			}
			return nil
		})
		w.download(o.GetArtifact())
	}
	afterPacks, afterAsked := door.counts()
	if afterPacks != packs || afterAsked == asked {
		t.Errorf("the new process fetched %d packs in %d requests", afterPacks-packs, afterAsked-asked)
	}
	if n := storage.count(); n != reads {
		t.Errorf("the new process read %d objects", n-reads)
	}
	interop(t, g.GetArtifact(), `^gitrepository/[a-z0-9-]+/warm/[0-9a-f]{40}\.tar\.gz$`, `^main@sha1:[0-9a-f]{40}$`)
	interop(t, b.GetArtifact(), `^bucket/[a-z0-9-]+/warm/[0-9a-f]{64}\.tar\.gz$`, `^sha256:[0-9a-f]{64}$`)
}

func handledAt(o client.Object) string {
	switch o := o.(type) {
	case *sourcev1.Bucket:
		return o.Status.LastHandledReconcileAt
	case *sourcev1.GitRepository:
		return o.Status.LastHandledReconcileAt
	}
	return ""
}

// interop reads an artifact with nothing of ours: programs that everybody has,
// and the standard library, as the pages of Flux describe artifacts.
func interop(t *testing.T, a *meta.Artifact, path, revision string) {
	t.Helper()
	if !regexp.MustCompile(path).MatchString(a.Path) || !regexp.MustCompile(revision).MatchString(a.Revision) || !strings.HasSuffix(a.URL, "/"+a.Path) {
		t.Errorf("path %s, revision %s, URL %s", a.Path, a.Revision, a.URL)
	}
	resp, err := http.Get(a.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || fmt.Sprintf("sha256:%x", sha256.Sum256(data)) != a.Digest || int64(len(data)) != *a.Size {
		t.Fatalf("%v: %d bytes do not have digest %s and size %d", err, len(data), a.Digest, *a.Size)
	}
	gz, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for tr := tar.NewReader(gz); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir || strings.HasPrefix(h.Name, "/") || h.Uid != 0 || h.ModTime.Unix() > 0 {
			t.Errorf("entry %+v", h)
		}
		found = found || h.Name == "a.yaml"
	}
	if !found {
		t.Error("a.yaml is not in the archive")
	}
	for _, need := range []string{"curl", "sha256sum", "tar"} {
		if _, err := exec.LookPath(need); err != nil {
			t.Logf("without the programs of a shell: %v", err)
			return
		}
	}
	out, err := exec.Command("sh", "-ec", `curl -fsS -o "$1/a" "$2"; sha256sum "$1/a"; tar tzf "$1/a"; curl -fsSI "$2" | grep -i content-length`, "sh", t.TempDir(), a.URL).CombinedOutput()
	if err != nil || !strings.Contains(string(out), strings.TrimPrefix(a.Digest, "sha256:")) || !strings.Contains(string(out), "a.yaml\n") {
		t.Errorf("the programs of a shell: %v\n%s", err, out)
	}
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

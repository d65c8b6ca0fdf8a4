package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/helmrepo"
	"headwater.dev/dev/kubetest"
	"headwater.dev/dev/registry"
)

// fetches counts the packs that are fetched through it.
type fetches struct {
	http.Handler
	mu    sync.Mutex
	packs int
	asks  int
}

func (f *fetches) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	f.mu.Lock()
	f.asks++
	if bytes.Contains(body, []byte("want ")) {
		f.packs++
	}
	f.mu.Unlock()
	f.Handler.ServeHTTP(w, r)
}

// remotes are a server of every kind, and one object for each way to use them.
type remotes struct {
	git     *fetches
	storage *s3
	charts  *helmrepo.Server
	reg     *registry.Server
	objects map[string]sourceObject
}

func newRemotes(t *testing.T, w *world) *remotes {
	t.Helper()
	r := &remotes{objects: map[string]sourceObject{}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// Git, behind something that counts.
	w.newRepository("warm", false)
	files := map[string]string{"a.yaml": "a: 1\n"}
	for file, text := range chartFiles("local", "1.0.0") {
		files["local/"+file] = text
	}
	w.commit("warm", files)
	behind, err := url.Parse(w.git.URL("warm"))
	must(err)
	r.git = &fetches{Handler: httputil.NewSingleHostReverseProxy(&url.URL{Scheme: behind.Scheme, Host: behind.Host})}
	door := httptest.NewServer(r.git)
	t.Cleanup(door.Close)
	r.objects["git"] = w.repository("warm", door.URL+behind.Path)

	r.storage = &s3{objects: map[string]string{"a.yaml": "a: 1\n", ".sourceignore": "*.txt\n"}}
	s3 := httptest.NewServer(r.storage)
	t.Cleanup(s3.Close)
	w.secret("keys", "accesskey", "key", "secretkey", canary)
	b := newBucket("warm", s3.URL, nil)
	w.create(b)
	r.objects["bucket"] = b

	r.charts, err = helmrepo.Start(helmrepo.Config{Dir: t.TempDir()})
	must(err)
	t.Cleanup(func() { r.charts.Close() })
	_, err = r.charts.AddFiles(chartFiles("web", "1.0.0"))
	must(err)
	r.objects["index"] = w.helmRepository("warm", r.charts.URL())

	r.reg, err = registry.Start(registry.Config{Dir: t.TempDir()})
	must(err)
	t.Cleanup(func() { r.reg.Close() })
	good := newSigner(t)
	w.secret("cosign", "cosign.pub", good.public)
	one := push(t, r.reg, "app:1", layerOf(packed(t, "a.yaml", "a: 1\n"), fluxLayer))
	good.sign(t, r.reg, "app", one)
	good.sign(t, r.reg, "charts/web", pushChart(t, r.reg, "web", "1.0.0"))
	trusted := &meta.LocalObjectReference{Name: "cosign"}
	r.objects["oci"] = w.ociRepository("warm", r.reg.OCIURL("app"), &sourcev1.OCIRepositoryRef{Tag: "1"}, func(o *sourcev1.OCIRepository) {
		o.Spec.Verify = &sourcev1.OCIRepositoryVerification{Provider: "cosign", SecretRef: trusted}
	})
	w.helmRepository("registry", r.reg.OCIURL("charts"), func(o *sourcev1.HelmRepository) {
		o.Spec.Type, o.Spec.Insecure = sourcev1.HelmRepositoryTypeOCI, true
	})
	from := func(kind, name string) sourcev1.LocalHelmChartSourceReference {
		return sourcev1.LocalHelmChartSourceReference{Kind: kind, Name: name}
	}
	r.objects["chart of a repository"] = w.chart("web", "web", "1.x", from(sourcev1.HelmRepositoryKind, "warm"))
	r.objects["chart of a registry"] = w.chart("signed", "web", "1.x", from(sourcev1.HelmRepositoryKind, "registry"), func(c *sourcev1.HelmChart) {
		c.Spec.Verify = &sourcev1.HelmChartVerification{Provider: "cosign", SecretRef: trusted}
	})
	r.objects["chart of a tree"] = w.chart("local", "local", "", from(sourcev1.GitRepositoryKind, "warm"))
	return r
}

// sent gives what the servers have sent of content: numbers of packs and
// objects, and bytes.
func (r *remotes) sent() map[string]int64 {
	r.git.mu.Lock()
	defer r.git.mu.Unlock()
	return map[string]int64{
		"packs":             int64(r.git.packs),
		"objects":           int64(r.storage.count()),
		"bytes of indexes":  r.charts.Requests("GET", "index.yaml").Sent,
		"bytes of charts":   r.charts.Requests("GET", ".tgz").Sent,
		"bytes of manifest": r.reg.Requests("GET", "/manifests/").Sent, // signatures too
		"bytes of layers":   r.reg.Requests("GET", "/blobs/").Sent,
	}
}

// asked gives how often the servers were asked whether there is something new.
func (r *remotes) asked() map[string]int {
	r.git.mu.Lock()
	defer r.git.mu.Unlock()
	return map[string]int{
		"git": r.git.asks, "index": r.charts.Requests("GET", "index.yaml").NotModified,
		"oci": r.reg.Requests("HEAD", "/app/manifests/").Requests, "tags": r.reg.Requests("GET", "/tags/list").Requests,
	}
}

// testWarmRestart restarts the process over a disk with artifacts of all kinds.
func testWarmRestart(t *testing.T, c *kubetest.Cluster) {
	disk := t.TempDir()
	p, stop := begin(t, c, disk, "0")
	w := p.world(t, c)
	r := newRemotes(t, w)
	before := map[string]meta.Artifact{}
	for name, o := range r.objects {
		before[name] = *w.ready(o, "")
	}
	for what, n := range r.sent() {
		if n == 0 {
			t.Fatalf("no %s were counted", what)
		}
	}
	stop()
	sent, asked := r.sent(), r.asked()
	p, _ = begin(t, c, disk, "0")
	w.addr = p.addr
	for name, o := range r.objects {
		at := w.request(o)
		w.wait(o, func() error {
			if handled := handledAt(o); handled != at {
				return fmt.Errorf("handled %q", handled)
			}
			return nil
		})
		if a := w.ready(o, ""); a.Digest != before[name].Digest || a.LastUpdateTime != before[name].LastUpdateTime {
			t.Errorf("%s: %+v, was %+v", name, a, before[name])
		}
		w.wait(o, func() error { // the address of this process
			if a := o.GetArtifact(); a.URL != "http://"+p.addr+"/"+a.Path {
				return fmt.Errorf("URL %s", a.URL)
			}
			return nil
		})
		w.download(o.GetArtifact())
	}
	if diff := cmp.Diff(sent, r.sent()); diff != "" {
		t.Errorf("the new process fetched (-before +after):\n%s", diff)
	}
	for what, n := range r.asked() {
		if n <= asked[what] {
			t.Errorf("the new process did not ask %s", what)
		}
	}
	r.readByOthers(t)
}

// readByOthers has programs that know nothing of ours read the artifacts.
func (r *remotes) readByOthers(t *testing.T) {
	t.Helper()
	const sha = `[0-9a-f]{64}`
	for name, want := range map[string]interop{
		"git":                   {path: `gitrepository/[a-z0-9-]+/warm/[0-9a-f]{40}\.tar\.gz`, revision: `main@sha1:[0-9a-f]{40}`, file: "a.yaml"},
		"bucket":                {path: `bucket/[a-z0-9-]+/warm/` + sha + `\.tar\.gz`, revision: `sha256:` + sha, file: "a.yaml"},
		"oci":                   {path: `ocirepository/[a-z0-9-]+/warm/` + sha + `\.tar\.gz`, revision: `1@sha256:` + sha, file: "a.yaml"},
		"index":                 {path: `helmrepository/[a-z0-9-]+/warm/index-` + sha + `\.yaml`, revision: `sha256:` + sha},
		"chart of a repository": {path: `helmchart/[a-z0-9-]+/web/web-1\.0\.0\.tgz`, revision: `1\.0\.0`, file: "web/Chart.yaml"},
		"chart of a registry":   {path: `helmchart/[a-z0-9-]+/signed/web-1\.0\.0\.tgz`, revision: `1\.0\.0`, file: "web/Chart.yaml"},
		"chart of a tree":       {path: `helmchart/[a-z0-9-]+/local/local-1\.0\.0\.tgz`, revision: `1\.0\.0`, file: "local/Chart.yaml"},
	} {
		t.Run(name, func(t *testing.T) { want.check(t, r.objects[name].GetArtifact()) })
	}
	if len(r.objects) != 7 {
		t.Errorf("an object that nobody else reads: %v", r.objects)
	}
	o := r.objects["index"].(*sourcev1.HelmRepository)
	if want := "sha256:" + strings.TrimSuffix(o.Status.Artifact.Path[strings.LastIndex(o.Status.Artifact.Path, "index-")+6:], ".yaml"); o.Status.Artifact.Revision != want {
		t.Errorf("index revision %s, file %s", o.Status.Artifact.Revision, o.Status.Artifact.Path)
	}
	if data := fetched(t, o.Status.Artifact); !bytes.Contains(data, []byte("apiVersion: v1")) || !bytes.Contains(data, []byte("web")) {
		t.Errorf("no index: %.200s", data)
	}
	for name, link := range map[string]string{
		"git": "latest.tar.gz", "bucket": "latest.tar.gz", "oci": "latest.tar.gz", "index": "index.yaml", "chart of a tree": "latest.tar.gz",
	} {
		a := *r.objects[name].GetArtifact()
		a.URL = a.URL[:strings.LastIndexByte(a.URL, '/')+1] + link
		if len(fetched(t, &a)) == 0 {
			t.Errorf("%s: nothing at %s", name, a.URL)
		}
	}
}

func handledAt(o client.Object) string {
	switch o := o.(type) {
	case *sourcev1.Bucket:
		return o.Status.LastHandledReconcileAt
	case *sourcev1.GitRepository:
		return o.Status.LastHandledReconcileAt
	case *sourcev1.OCIRepository:
		return o.Status.LastHandledReconcileAt
	case *sourcev1.HelmRepository:
		return o.Status.LastHandledReconcileAt
	case *sourcev1.HelmChart:
		return o.Status.LastHandledReconcileAt
	}
	return ""
}

// interop is what an independent client expects of an artifact: patterns of its
// path and revision as the pages of Flux describe them, and a file in it.
type interop struct{ path, revision, file string }

// check reads an artifact with nothing of ours: programs that everybody has,
// and the standard library.
func (i interop) check(t *testing.T, a *meta.Artifact) {
	t.Helper()
	if !regexp.MustCompile("^"+i.path+"$").MatchString(a.Path) || !regexp.MustCompile("^"+i.revision+"$").MatchString(a.Revision) || !strings.HasSuffix(a.URL, "/"+a.Path) {
		t.Errorf("path %s, revision %s, URL %s", a.Path, a.Revision, a.URL)
	}
	data := fetched(t, a)
	if i.file == "" {
		return
	}
	found := map[string]bool{}
	gz, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for tr := tar.NewReader(gz); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir || strings.HasPrefix(h.Name, "/") || strings.Contains(h.Name, "..") || h.Uid != 0 {
			t.Errorf("entry %+v", h)
		}
		found[h.Name] = true
	}
	if !found[i.file] {
		t.Errorf("%s is not in the archive: %v", i.file, slices.Collect(maps.Keys(found)))
	}
	for _, need := range []string{"curl", "sha256sum", "tar"} {
		if _, err := exec.LookPath(need); err != nil {
			t.Logf("without the programs of a shell: %v", err)
			return
		}
	}
	out, err := exec.Command("sh", "-ec", `curl -fsS -o "$1/a" "$2"; sha256sum "$1/a"; tar tzf "$1/a"; curl -fsSI "$2" | grep -i content-length`, "sh", t.TempDir(), a.URL).CombinedOutput()
	if err != nil || !strings.Contains(string(out), strings.TrimPrefix(a.Digest, "sha256:")) || !strings.Contains(string(out), i.file+"\n") {
		t.Errorf("the programs of a shell: %v\n%s", err, out)
	}
}

// fetched gets an artifact and compares digest and size.
func fetched(t *testing.T, a *meta.Artifact) []byte {
	t.Helper()
	resp, err := http.Get(a.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || fmt.Sprintf("sha256:%x", sha256.Sum256(data)) != a.Digest || a.Size == nil || int64(len(data)) != *a.Size {
		t.Fatalf("%v: %d bytes do not have digest %s and size %v", err, len(data), a.Digest, a.Size)
	}
	return data
}

package source

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/dev/helmrepo"
	"headwater.dev/dev/registry"
	"headwater.dev/kernel/secret"
)

func chartFiles(name, version string) map[string]string {
	return map[string]string{
		"Chart.yaml":        "apiVersion: v2\nname: " + name + "\nversion: " + version + "\n",
		"values.yaml":       "replicas: 1\nimage: {tag: a, pull: Always}\n",
		"values-prod.yaml":  "replicas: 3\nimage: {tag: b}\n",
		"templates/cm.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n",
	}
}

func (w *world) helmRepository(name, url string, change ...func(*sourcev1.HelmRepository)) *sourcev1.HelmRepository {
	w.t.Helper()
	o := &sourcev1.HelmRepository{}
	o.Name = name
	o.Spec = sourcev1.HelmRepositorySpec{URL: url, Interval: metav1.Duration{Duration: time.Hour}}
	for _, c := range change {
		c(o)
	}
	w.create(o)
	return o
}

func (w *world) chart(name, chart, version string, ref sourcev1.LocalHelmChartSourceReference, change ...func(*sourcev1.HelmChart)) *sourcev1.HelmChart {
	w.t.Helper()
	o := &sourcev1.HelmChart{}
	o.Name = name
	o.Spec = sourcev1.HelmChartSpec{Chart: chart, Version: version, SourceRef: ref, Interval: metav1.Duration{Duration: time.Hour}}
	for _, c := range change {
		c(o)
	}
	w.create(o)
	return o
}

func TestHelmFromRepository(t *testing.T) {
	w := start(t)
	repo, err := helmrepo.Start(helmrepo.Config{Dir: t.TempDir(), Users: map[string]string{"dev": canary}})
	if err != nil {
		t.Fatal(err)
	}
	defer repo.Close()
	for _, v := range []string{"1.0.0", "1.2.0", "2.0.0-rc.1"} {
		if _, err := repo.AddFiles(chartFiles("web", v)); err != nil {
			t.Fatal(err)
		}
	}
	ref := sourcev1.LocalHelmChartSourceReference{Kind: sourcev1.HelmRepositoryKind, Name: "charts"}
	c := w.chart("web", "web", "1.x", ref)
	w.failing(c, sourceUnavailable, "failed to get source: HelmRepository '"+w.namespace+"/charts' not found")
	r := w.helmRepository("charts", repo.URL(), func(o *sourcev1.HelmRepository) { o.Spec.SecretRef = &meta.LocalObjectReference{Name: "creds"} })
	w.failing(r, sourcev1.AuthenticationFailedReason, "not found")
	w.secret("creds", "username", "dev", "password", canary)
	a := w.ready(r, "")
	if !strings.HasPrefix(a.Revision, "sha256:") || conditions.GetMessage(r, meta.ReadyCondition) != "stored artifact: revision '"+a.Revision+"'" {
		t.Errorf("artifact %+v", a)
	}
	if x, err := parseIndex(w.download(a)); err != nil || len(x.charts)+len(x.parsed) != 1 {
		t.Errorf("index: %v", err)
	}
	a = w.ready(c, "1.2.0")
	if want := "helmchart/" + w.namespace + "/web/web-1.2.0.tgz"; a.Path != want {
		t.Errorf("path %s, want %s", a.Path, want)
	}
	if got := conditions.Get(c, meta.ReadyCondition); got.Reason != sourcev1.ChartPullSucceededReason || got.Message != "pulled 'web' chart with version '1.2.0'" {
		t.Errorf("ready: %+v", got)
	}
	if files := untar(t, w.download(a)); files["web/values-prod.yaml"] == "" {
		t.Errorf("files %v", files)
	}

	// A new version is taken as soon as the index shows it.
	if _, err := repo.AddFiles(chartFiles("web", "1.3.0")); err != nil {
		t.Fatal(err)
	}
	w.request(r)
	w.ready(c, "1.3.0")

	// Values files are merged, and the version says so.
	w.update(c, func() { c.Spec.ValuesFiles = []string{"values.yaml", "values-prod.yaml"} })
	a = w.ready(c, fmt.Sprintf("1.3.0+%d", c.Generation))
	files := untar(t, w.download(a))
	if diff := cmp.Diff("image:\n  pull: Always\n  tag: b\nreplicas: 3\n", files["web/values.yaml"]); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(files["web/Chart.yaml"], "version: "+a.Revision) {
		t.Errorf("Chart.yaml: %s", files["web/Chart.yaml"])
	}
	w.update(c, func() { c.Spec.Version = ">=9" })
	w.failing(c, invalidChartReference, `in the range ">=9"`)
	if !conditions.IsTrue(c, sourcev1.FetchFailedCondition) || c.Status.Artifact == nil {
		t.Errorf("status %+v", c.Status)
	}
	w.gone(c)
	w.gone(r)
}

func TestHelmFromGit(t *testing.T) {
	w := start(t)
	w.newRepository("charts", false)
	files := map[string]string{"prod.yaml": "replicas: 5\n"}
	for name, text := range chartFiles("app", "0.1.0") {
		files["charts/app/"+name] = text
	}
	files["charts/app/Chart.yaml"] += "dependencies: [{name: lib, version: 0.x, repository: file://../lib}]\n"
	for name, text := range chartFiles("lib", "0.2.0") {
		files["charts/lib/"+name] = text
	}
	one := w.commit("charts", files)
	r := w.repository("charts", w.git.URL("charts"))
	ref := sourcev1.LocalHelmChartSourceReference{Kind: sourcev1.GitRepositoryKind, Name: "charts"}
	c := w.chart("app", "./charts/app", "", ref, func(o *sourcev1.HelmChart) { o.Spec.ValuesFiles = []string{"prod.yaml"} })
	fixed := w.chart("fixed", "charts/app", "", ref)
	rev := w.chart("rev", "charts/app", "", ref, func(o *sourcev1.HelmChart) { o.Spec.ReconcileStrategy = sourcev1.ReconcileStrategyRevision })
	a := w.ready(c, "0.1.0+1")
	got := untar(t, w.download(a))
	if got["app/values.yaml"] != "replicas: 5\n" || got["app/charts/lib/Chart.yaml"] == "" {
		t.Errorf("files %v", got)
	}
	if m := conditions.GetMessage(c, meta.ReadyCondition); m != "packaged 'app' chart with version '0.1.0+1' and merged values files [prod.yaml]" {
		t.Errorf("message %q", m)
	}
	first := w.ready(fixed, "0.1.0")
	w.ready(rev, "0.1.0+"+one[:12])

	// With the same version only the strategy Revision makes another chart.
	two := w.commit("charts", map[string]string{"charts/app/templates/cm.yaml": "changed: true\n"})
	w.request(r)
	w.ready(rev, "0.1.0+"+two[:12])
	w.wait(fixed, func() error {
		if fixed.Status.ObservedSourceArtifactRevision != "main@sha1:"+two {
			return fmt.Errorf("observed %s", fixed.Status.ObservedSourceArtifactRevision)
		}
		return nil
	})
	if fixed.Status.Artifact.Digest != first.Digest {
		t.Error("the chart changed although its version did not")
	}
	for name, bad := range map[string]struct{ chart, values, reason, message string }{
		"path":   {"charts/nope", "", invalidChartReference, `no path "charts/nope"`},
		"escape": {"../x", "", invalidChartReference, "leaves the source"},
		"values": {"charts/app", "nope.yaml", valuesFilesError, `no values file found at path "nope.yaml"`},
		"outer":  {"charts/app", "../../../../etc/passwd", valuesFilesError, "leaves the source"},
	} {
		o := w.chart("bad-"+name, bad.chart, "", ref, func(o *sourcev1.HelmChart) {
			if bad.values != "" {
				o.Spec.ValuesFiles = []string{bad.values}
			}
		})
		w.failing(o, bad.reason, bad.message)
	}
}

func TestHelmFromRegistry(t *testing.T) {
	w := start(t)
	reg, err := registry.Start(registry.Config{Dir: t.TempDir(), Users: map[string]string{"dev": canary}})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	for _, v := range []string{"1.0.0", "1.1.0"} {
		b := &bundle{files: map[string][]byte{}, meta: &chart.Metadata{Name: "web", Version: v}}
		for name, text := range chartFiles("web", v) {
			b.files[name] = []byte(text)
		}
		var buf strings.Builder
		if err := b.pack(&buf); err != nil {
			t.Fatal(err)
		}
		push(t, reg, "charts/web:"+v, layerOf(buf.String(), chartLayers[0]))
	}
	r := w.helmRepository("oci", reg.OCIURL("charts"), func(o *sourcev1.HelmRepository) {
		o.Spec.Type, o.Spec.Insecure = sourcev1.HelmRepositoryTypeOCI, true
		o.Spec.SecretRef = &meta.LocalObjectReference{Name: "login"}
	})
	c := w.chart("web", "web", "~1.0", sourcev1.LocalHelmChartSourceReference{Kind: sourcev1.HelmRepositoryKind, Name: "oci"})
	w.failing(c, sourcev1.AuthenticationFailedReason, "not found")
	w.secret("login", "username", "dev", "password", canary)
	w.wait(r, func() error {
		if !conditions.IsReady(r) {
			return fmt.Errorf("not ready")
		}
		return nil
	})
	w.download(w.ready(c, "1.0.0"))
	w.update(c, func() { c.Spec.Version = "" })
	w.download(w.ready(c, "1.1.0"))
}

// layerOf is a layer with the given bytes.
func layerOf(data, mediaType string) v1.Layer {
	return static.NewLayer([]byte(data), types.MediaType(mediaType))
}

func push(t *testing.T, reg *registry.Server, image string, layers ...v1.Layer) string {
	t.Helper()
	ref, err := name.ParseReference(reg.Reference(image), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layers...)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithAuth(&authn.Basic{Username: "dev", Password: canary})); err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

const indexHead = "apiVersion: v1\ngenerated: now\n"

func TestParseIndex(t *testing.T) {
	for name, c := range map[string]struct {
		why, in, chart string
		want           []string
		err            bool
	}{
		"helm":          {"as Helm writes it", indexHead + "entries:\n  a:\n  - version: 1.0.0\n    description: |\n      x:\n    urls: [a]\n  - version: 2.0.0\n  b:\n  - version: 3.0.0\n", "a", []string{"1.0.0", "2.0.0"}, false},
		"last":          {"the last chart", indexHead + "entries:\n  a:\n  - version: 1.0.0\n  b:\n  - version: 3.0.0\nserverInfo: {}\n", "b", []string{"3.0.0"}, false},
		"indented":      {"lists deeper than keys", "entries:\n    \"a\":\n      - version: 1.0.0\n    b:\n      - version: 2.0.0\napiVersion: v1\n", "a", []string{"1.0.0"}, false},
		"flow":          {"flow style", indexHead + "entries: {a: [{version: 1.0.0}]}\n", "a", []string{"1.0.0"}, false},
		"inner flow":    {"flow style per chart", indexHead + "entries:\n  a: [{version: 1.0.0}]\n", "a", []string{"1.0.0"}, false},
		"json":          {"JSON", `{"apiVersion":"v1","entries":{"a":[{"version":"1.0.0"}]}}`, "a", []string{"1.0.0"}, false},
		"empty":         {"no charts", indexHead + "entries: {}\n", "a", nil, false},
		"html":          {"a web page", "<!doctype html>\n<html>\n", "a", nil, true},
		"no version":    {"the API version is required", "entries:\n  a:\n  - version: 1.0.0\n", "a", nil, true},
		"nothing":       {"an empty file", "", "a", nil, true},
		"windows":       {"CRLF", "apiVersion: v1\r\nentries:\r\n  a:\r\n  - version: 1.0.0\r\n", "a", []string{"1.0.0"}, false},
		"comments":      {"comments and blank lines", indexHead + "entries:\n\n# c\n  a:\n  # d\n  - version: 1.0.0\n", "a", []string{"1.0.0"}, false},
		"other section": {"keys elsewhere are no charts", "apiVersion: v1\nannotations:\n  a:\n  - version: 9.0.0\nentries:\n  b:\n  - version: 1.0.0\n", "a", nil, false},
	} {
		x, err := parseIndex([]byte(c.in))
		if (err != nil) != c.err {
			t.Errorf("%s: %s: %v", name, c.why, err)
		}
		if err != nil {
			continue
		}
		list, err := x.versions(c.chart)
		var got []string
		for _, v := range list {
			got = append(got, v.Version)
		}
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("%s: %s: %v %s", name, c.why, err, diff)
		}
	}
}

func FuzzParseIndex(f *testing.F) {
	f.Add(indexHead+"entries:\n  a:\n  - version: 1.0.0\n", "a")
	f.Add("entries: &a\n  x: *a\napiVersion: v1", "x")
	f.Fuzz(func(t *testing.T, data, chart string) {
		x, err := parseIndex([]byte(data))
		if err != nil {
			return
		}
		if v, err := x.find(chart, ""); err == nil && v.Version == "" {
			t.Error("a version without a name was found")
		}
	})
}

func TestPickVersion(t *testing.T) {
	versions := []string{"1.0.0", "v1.5.0", "1.5.0-rc.1", "2.0.0-beta", "garbage", "1.5.0+build"}
	for want, expected := range map[string]string{
		"": "v1.5.0", "*": "v1.5.0", "1.0.0": "1.0.0", "^1": "v1.5.0", "2.0.0-beta": "2.0.0-beta", ">=2.0.0-0": "2.0.0-beta",
		"1.5.0+build": "1.5.0+build", ">=3": "", "x y": "", strings.Repeat("1", 300): "",
	} {
		got, err := pickVersion(versions, want)
		if got != expected || (err == nil) != (expected != "") {
			t.Errorf("%.20q: got %q, %v; want %q", want, got, err, expected)
		}
	}
}

func TestWebKeepsCredentialsAtHome(t *testing.T) {
	seen := map[string]string{}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen["other"] = r.Header.Get("Authorization")
		fmt.Fprint(w, "other")
	}))
	defer other.Close()
	home := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen["home"] = r.Header.Get("Authorization")
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, other.URL+"/x", http.StatusFound)
		case "/big":
			w.Write(make([]byte, 2000))
		default:
			fmt.Fprint(w, "home")
		}
	}))
	defer home.Close()
	w, err := newWeb(home.URL+"/repo", secret.Basic{Username: "u", Password: canary}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	get := func(ref string) (string, error) {
		u, err := w.resolve(ref)
		if err != nil {
			return "", err
		}
		f, err := w.get(t.Context(), u, "", 1000)
		return string(f.data), err
	}
	if got, err := get("index.yaml"); got != "home" || err != nil || seen["home"] == "" {
		t.Errorf("home: %q, %v, %v", got, err, seen)
	}
	for _, ref := range []string{"/away", other.URL + "/x", "http://169.254.169.254/latest", "http://[::1]:1/x"} {
		_, err := get(ref)
		if err == nil || !strings.Contains(err.Error(), errPrivate.Error()) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: got %v, want a refusal of the private address", ref, err)
		}
	}
	if _, err := get("/big"); err == nil || !strings.Contains(err.Error(), "larger than 1000 bytes") {
		t.Errorf("big: %v", err)
	}
	if _, err := get("file:///etc/passwd"); err == nil {
		t.Error("a file URL was accepted")
	}
	// The same rules when the other host may be reached.
	w.client.Transport = http.DefaultTransport
	if got, err := get("/away"); got != "other" || err != nil || seen["other"] != "" {
		t.Errorf("redirect: %q, %v, leaked %q", got, err, seen["other"])
	}
	if got, err := get(other.URL + "/x"); got != "other" || err != nil || seen["other"] != "" {
		t.Errorf("absolute URL: %q, %v, leaked %q", got, err, seen["other"])
	}
	from, _ := http.NewRequest(http.MethodGet, "https://a.example/", nil)
	to, _ := http.NewRequest(http.MethodGet, "http://a.example/", nil)
	if redirect(to, []*http.Request{from}) == nil {
		t.Error("a redirect from https to http was followed")
	}
	secure, err := newWeb("https://a.example/", secret.Basic{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := secure.resolve("http://a.example/x.tgz"); err == nil {
		t.Error("an http URL in an https index was accepted")
	}
}

func TestRefusePrivate(t *testing.T) {
	for address, refused := range map[string]bool{
		"127.0.0.1": true, "10.0.0.1": true, "192.168.1.1": true, "172.16.0.1": true, "169.254.169.254": true, "0.0.0.0": true,
		"::1": true, "fe80::1": true, "fd00::1": true, "::ffff:10.0.0.1": true, "224.0.0.1": true,
		"8.8.8.8": false, "2001:4860:4860::8888": false,
	} {
		err := refusePrivate("tcp", netip.AddrPortFrom(netip.MustParseAddr(address), 443).String(), nil)
		if (err != nil) != refused {
			t.Errorf("%s: %v", address, err)
		}
	}
}

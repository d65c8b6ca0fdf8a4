package source

import (
	"bytes"
	"fmt"
	"net/http"
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

	"headwater.dev/controller/source/charts"
	"headwater.dev/dev/front"
	"headwater.dev/dev/helmrepo"
	"headwater.dev/dev/registry"
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

func testHelmFromRepository(t *testing.T, w *world) {
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
	if v, err := charts.Find(bytes.NewReader(w.download(a)), "web", ""); err != nil || v.Version != "1.2.0" {
		t.Errorf("version %+v, %v", v, err)
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
	if !conditions.IsTrue(c, sourcev1.FetchFailedCondition) || !conditions.IsStalled(c) || c.Status.Artifact == nil {
		t.Errorf("status %+v", c.Status)
	}
	// A new index frees it.
	if _, err := repo.AddFiles(chartFiles("web", "9.0.0")); err != nil {
		t.Fatal(err)
	}
	w.request(r)
	w.ready(c, fmt.Sprintf("9.0.0+%d", c.Generation))
	w.gone(c)
	w.gone(r)
}

func testHelmFromGit(t *testing.T, w *world) {
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
		if !conditions.IsStalled(o) {
			t.Errorf("%s: not stalled", name)
		}
	}
	// What was missing comes with the next commit.
	w.commit("charts", map[string]string{"charts/nope/Chart.yaml": "apiVersion: v2\nname: nope\nversion: 3.0.0\n"})
	w.request(r)
	late := &sourcev1.HelmChart{}
	late.Name, late.Namespace = "bad-path", w.namespace
	w.ready(late, "3.0.0")
}

func testHelmFromRegistry(t *testing.T, w *world) {
	reg, err := registry.Start(registry.Config{Dir: t.TempDir(), Users: map[string]string{"dev": canary}})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	for _, v := range []string{"1.0.0", "1.1.0"} {
		b := &charts.Bundle{Files: map[string][]byte{}, Meta: &chart.Metadata{Name: "web", Version: v}}
		for name, text := range chartFiles("web", v) {
			b.Files[name] = []byte(text)
		}
		var buf strings.Builder
		if err := b.Pack(&buf); err != nil {
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
	w.download(w.ready(c, "1.0.0"))
	w.update(c, func() { c.Spec.Version = "" })
	w.download(w.ready(c, "1.1.0"))
	// One version is asked for by its tag: it works where tags are not listed.
	defer reg.Inject(front.Fault{Contains: "/tags/list", Status: http.StatusMethodNotAllowed})()
	w.failing(w.chart("range", "web", "1.x", c.Spec.SourceRef), chartPullError, "405")
	w.download(w.ready(w.chart("exact", "web", "1.0.0", c.Spec.SourceRef), "1.0.0"))
	// Nothing was ever said about the registry itself.
	w.wait(r, leftAlone(r))
	w.gone(r)
}

// leftAlone reports whether an object is one that the controllers leave alone.
func leftAlone(r *sourcev1.HelmRepository) func() error {
	return func() error {
		if len(r.Finalizers) > 0 || !emptyStatus(r) {
			return fmt.Errorf("finalizers %v, status %+v", r.Finalizers, r.Status)
		}
		return nil
	}
}

// testHelmBecomesRegistry changes the type of a repository that has an index,
// and changes it back.
func testHelmBecomesRegistry(t *testing.T, w *world) {
	repo, err := helmrepo.Start(helmrepo.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer repo.Close()
	if _, err := repo.AddFiles(chartFiles("web", "1.0.0")); err != nil {
		t.Fatal(err)
	}
	r := w.helmRepository("both", repo.URL())
	index := w.ready(r, "")
	w.update(r, func() { r.Spec.Type, r.Spec.URL = sourcev1.HelmRepositoryTypeOCI, "oci://registry.example/charts" })
	w.wait(r, leftAlone(r))
	if resp, err := http.Get(index.URL); err != nil || resp.Body.Close() != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("the index is still served: %v, %v", resp, err)
	}
	w.update(r, func() { r.Spec.Type, r.Spec.URL = sourcev1.HelmRepositoryTypeDefault, repo.URL() })
	w.download(w.ready(r, index.Revision))
	w.gone(r)
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

package source

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/dev/registry"
	"headwater.dev/kernel/artifact"
)

const fluxLayer = "application/vnd.cncf.flux.content.v1.tar+gzip"

func packed(t *testing.T, pairs ...string) string {
	t.Helper()
	var buf bytes.Buffer
	err := artifact.Pack(&buf, func(yield func(artifact.Entry, error) bool) {
		for i := 0; i < len(pairs); i += 2 {
			e := artifact.Entry{Path: pairs[i], Size: int64(len(pairs[i+1])), Open: func() (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader(pairs[i+1])), nil
			}}
			if !yield(e, nil) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func (w *world) ociRepository(name, url string, ref *sourcev1.OCIRepositoryRef, change ...func(*sourcev1.OCIRepository)) *sourcev1.OCIRepository {
	w.t.Helper()
	o := &sourcev1.OCIRepository{}
	o.Name = name
	o.Spec = sourcev1.OCIRepositorySpec{URL: url, Insecure: true, Interval: metav1.Duration{Duration: time.Hour}, Reference: ref}
	for _, c := range change {
		c(o)
	}
	w.create(o)
	return o
}

func testOCIRepository(t *testing.T, w *world) {
	reg, err := registry.Start(registry.Config{Dir: t.TempDir(), Users: map[string]string{"dev": canary}})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	one := push(t, reg, "app:1.0.0", layerOf(packed(t, "a.yaml", "a: 1\n", ".sourceignore", "*.txt\n", "x.txt", "x"), fluxLayer))
	rc := push(t, reg, "app:1.1.0-rc.1", layerOf(packed(t, "a.yaml", "a: 2\n"), fluxLayer))
	bad := push(t, reg, "app:bad", layerOf("no archive", fluxLayer))
	login := func(o *sourcev1.OCIRepository) { o.Spec.SecretRef = &meta.LocalObjectReference{Name: "login"} }

	o := w.ociRepository("range", reg.OCIURL("app"), &sourcev1.OCIRepositoryRef{SemVer: "1.x"}, login)
	w.failing(o, sourcev1.AuthenticationFailedReason, "not found")
	w.secret("login", ".dockerconfigjson", `{"auths":{"`+reg.Host()+`":{"username":"dev","password":"`+canary+`"}}}`)
	a := w.ready(o, "1.0.0@"+one)
	if want := "ocirepository/" + w.namespace + "/range/" + strings.TrimPrefix(one, "sha256:") + ".tar.gz"; a.Path != want {
		t.Errorf("path %s, want %s", a.Path, want)
	}
	if diff := cmp.Diff(map[string]string{"a.yaml": "a: 1\n", ".sourceignore": "*.txt\n"}, untar(t, w.download(a))); diff != "" {
		t.Error(diff)
	}
	if m := conditions.GetMessage(o, meta.ReadyCondition); m != "stored artifact for digest '1.0.0@"+one+"'" {
		t.Errorf("message %q", m)
	}
	// An unchanged digest costs one question.
	before := reg.Requests("", "").Requests
	w.request(o)
	w.ready(o, "1.0.0@"+one)
	if n := reg.Requests("GET", "/blobs/").Requests; n != 1 {
		t.Errorf("%d layers pulled, %d requests before", n, before)
	}

	for name, c := range map[string]struct {
		ref      sourcev1.OCIRepositoryRef
		change   func(*sourcev1.OCIRepository)
		revision string
	}{
		"tag":    {sourcev1.OCIRepositoryRef{Tag: "1.0.0"}, login, "1.0.0@" + one},
		"digest": {sourcev1.OCIRepositoryRef{Digest: rc}, login, rc},
		"filter": {sourcev1.OCIRepositoryRef{SemVer: ">=0.0.0-0", SemverFilter: ".*-rc.*"}, login, "1.1.0-rc.1@" + rc},
		"copy": {sourcev1.OCIRepositoryRef{Tag: "bad"}, func(o *sourcev1.OCIRepository) {
			login(o)
			o.Spec.LayerSelector = &sourcev1.OCILayerSelector{MediaType: fluxLayer, Operation: sourcev1.OCILayerCopy}
		}, "bad@" + bad},
	} {
		o := w.ociRepository(name, reg.OCIURL("app"), &c.ref, c.change)
		w.download(w.ready(o, c.revision))
	}
	for name, c := range map[string]struct {
		ref             sourcev1.OCIRepositoryRef
		change          func(*sourcev1.OCIRepository)
		reason, message string
	}{
		"missing":   {sourcev1.OCIRepositoryRef{Tag: "nope"}, login, sourcev1.OCIPullFailedReason, "not found in the registry"},
		"anonymous": {sourcev1.OCIRepositoryRef{Tag: "1.0.0"}, func(*sourcev1.OCIRepository) {}, sourcev1.AuthenticationFailedReason, "401"},
		"broken":    {sourcev1.OCIRepositoryRef{Tag: "bad"}, login, sourcev1.OCILayerOperationFailedReason, "failed to extract"},
		"no layer": {sourcev1.OCIRepositoryRef{Tag: "1.0.0"}, func(o *sourcev1.OCIRepository) {
			login(o)
			o.Spec.LayerSelector = &sourcev1.OCILayerSelector{MediaType: "application/x"}
		}, sourcev1.OCILayerOperationFailedReason, `no layer of media type "application/x"`},
		"bad filter": {sourcev1.OCIRepositoryRef{SemVer: "*", SemverFilter: "("}, login, sourcev1.OCIPullFailedReason, "semverFilter"},
	} {
		o := w.ociRepository(strings.ReplaceAll("bad-"+name, " ", "-"), reg.OCIURL("app"), &c.ref, c.change)
		w.failing(o, c.reason, c.message)
	}
	w.gone(o)
}

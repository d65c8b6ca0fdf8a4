package generator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	swapi "github.com/fluxcd/source-watcher/api/v2/v1beta1"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/controller/kustomize"
	"headwater.dev/dev/kubetest"
	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/host"
)

func TestMain(m *testing.M) { kubetest.Main(m) }

// world is the loop, and that of Kustomizations, running against a real API
// server.
type world struct {
	*testing.T
	cluster   *kubetest.Cluster
	client    client.Client
	store     *artifact.Store
	namespace string
}

func TestLoop(t *testing.T) {
	c := kubetest.Start(t)
	kubetest.CRDs(t, c, "flux")
	store := launch(t, c)
	scheme, err := host.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]func(*world){
		"Compose": testCompose, "Decompose": testDecompose, "PathPattern": testPathPattern, "Denied": testDenied, "Waits": testWaits, "Meddling": testMeddling,
		"Failure": testFailure, "Disabled": testDisabled, "Conflict": testConflict, "Cycle": testCycle, "Kustomization": testKustomization, "Idle": testIdle,
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{T: t, cluster: c, store: store, namespace: c.Namespace(t)}
			if w.client, err = client.New(c.Config, client.Options{Scheme: scheme}); err != nil {
				t.Fatal(err)
			}
			test(w)
		})
	}
}

func launch(t *testing.T, c *kubetest.Cluster) *artifact.Store {
	t.Helper()
	var store *artifact.Store
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { store.Handler().ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	h, err := host.New(c.Config, host.Options{
		Namespace: "flux-system", WatchAllNamespaces: true, MetricsAddr: "0", HealthAddr: "0",
		NoCrossNamespaceRefs: true, DefaultServiceAccount: "flux-applier", Concurrent: 4,
		RequeueDependency: time.Hour, MinRetryDelay: time.Second, MaxRetryDelay: time.Hour,
		StoragePath: t.TempDir(), StorageAdvAddr: strings.TrimPrefix(server.URL, "http://"),
	})
	if err != nil {
		t.Fatal(err)
	}
	store = h.Artifacts
	ctx, cancel := context.WithCancel(context.Background())
	for _, setup := range []func(context.Context, *host.Host) error{Setup, kustomize.Setup} {
		if err := setup(ctx, h); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return store
}

type files map[string]string

func (f files) entries() iter.Seq2[artifact.Entry, error] {
	return func(yield func(artifact.Entry, error) bool) {
		for _, name := range slices.Sorted(maps.Keys(f)) {
			data := f[name]
			e := artifact.Entry{Path: name, Size: int64(len(data)), Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(data)), nil }}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (w *world) create(o client.Object) {
	w.Helper()
	o.SetNamespace(w.namespace)
	if err := w.client.Create(w.Context(), o); err != nil {
		w.Fatal(err)
	}
}

// source gives a source of a kind an artifact, making it when there is none.
func (w *world) source(kind, name, revision string, content files) {
	w.Helper()
	o := newSource(kind)
	o.SetNamespace(w.namespace)
	o.SetName(name)
	hour := metav1.Duration{Duration: time.Hour}
	switch s := o.(type) {
	case *sourcev1.GitRepository:
		s.Spec = sourcev1.GitRepositorySpec{URL: "https://git.test/x", Interval: hour}
	case *sourcev1.OCIRepository:
		s.Spec = sourcev1.OCIRepositorySpec{URL: "oci://registry.test/x", Interval: hour}
	case *sourcev1.HelmChart:
		s.Spec = sourcev1.HelmChartSpec{Chart: "x", Interval: hour, SourceRef: sourcev1.LocalHelmChartSourceReference{Kind: "HelmRepository", Name: "x"}}
	}
	if err := w.client.Create(w.Context(), o); client.IgnoreAlreadyExists(err) != nil {
		w.Fatal(err)
	}
	a, err := w.store.Publish(w.Context(), artifact.Put{
		Key:  artifact.Key{Kind: kind, Namespace: w.namespace, Name: name},
		File: strings.NewReplacer(":", "-", "@", "-").Replace(revision) + ".tar.gz", Revision: revision,
		Write: func(out io.Writer) error { return artifact.Pack(out, content.entries()) },
	})
	if err != nil {
		w.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{"status": map[string]any{"artifact": a}})
	if err != nil {
		w.Fatal(err)
	}
	if err := w.client.Status().Patch(w.Context(), o, client.RawPatch("application/merge-patch+json", body)); err != nil {
		w.Fatal(err)
	}
}

func (w *world) generator(name string, spec swapi.ArtifactGeneratorSpec) *swapi.ArtifactGenerator {
	w.Helper()
	g := &swapi.ArtifactGenerator{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
	w.create(g)
	return g
}

func (w *world) update(o client.Object, change func()) {
	w.Helper()
	kubetest.Eventually(w, 10*time.Second, func() error {
		if err := w.client.Get(w.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		change()
		return w.client.Update(w.Context(), o)
	})
}

// ready waits until Ready is of a status and a reason at the current
// generation.
func (w *world) ready(g *swapi.ArtifactGenerator, status metav1.ConditionStatus, reason, message string) {
	w.Helper()
	kubetest.Eventually(w, 20*time.Second, func() error {
		if err := w.client.Get(w.Context(), client.ObjectKeyFromObject(g), g); err != nil {
			return err
		}
		c := conditions.Get(g, meta.ReadyCondition)
		if c == nil || c.Status != status || c.Reason != reason || c.ObservedGeneration != g.Generation || !strings.Contains(c.Message, message) {
			return fmt.Errorf("ready: %+v", c)
		}
		return nil
	})
}

// content waits for an ExternalArtifact with the given files, gets them as any
// client would, and returns the object.
func (w *world) content(name string, want files) *sourcev1.ExternalArtifact {
	w.Helper()
	x := &sourcev1.ExternalArtifact{}
	kubetest.Eventually(w, 20*time.Second, func() error {
		if err := w.client.Get(w.Context(), client.ObjectKey{Namespace: w.namespace, Name: name}, x); err != nil {
			return err
		}
		if x.Status.Artifact == nil || !conditions.IsReady(x) {
			return fmt.Errorf("no artifact yet: %+v", x.Status)
		}
		got, err := w.download(x.Status.Artifact)
		if err != nil {
			return err
		}
		if d := cmp.Diff(want, got); d != "" {
			return fmt.Errorf("content of %s (-want +got):\n%s", name, d)
		}
		return nil
	})
	return x
}

func (w *world) download(a *meta.Artifact) (files, error) {
	resp, err := http.Get(a.URL)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s, %v", a.URL, resp.Status, err)
	}
	dir := w.TempDir()
	if err := artifact.Extract(w.Context(), bytes.NewReader(data), dir, artifact.DefaultLimits()); err != nil {
		return nil, err
	}
	got := files{}
	for e, err := range artifact.Dir(dir, artifact.Ignore{}) {
		if err != nil {
			return nil, err
		}
		if e.Dir {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Path))
		if err != nil {
			return nil, err
		}
		got[e.Path] = string(text)
	}
	return got, nil
}

// gone waits until an object is not there any more.
func (w *world) gone(o client.Object) {
	w.Helper()
	kubetest.Eventually(w, 20*time.Second, func() error {
		if err := w.client.Get(w.Context(), client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
			return fmt.Errorf("%s is still there: %v", o.GetName(), err)
		}
		return nil
	})
}

func (w *world) delete(o client.Object) {
	w.Helper()
	if err := w.client.Delete(w.Context(), o); err != nil {
		w.Fatal(err)
	}
}

func (w *world) published(name string) bool {
	w.Helper()
	keys, err := w.store.Objects()
	if err != nil {
		w.Fatal(err)
	}
	return slices.ContainsFunc(keys, func(k artifact.Key) bool {
		return strings.EqualFold(k.Kind, sourcev1.ExternalArtifactKind) && k.Namespace == w.namespace && k.Name == name
	})
}

func spec(sources []swapi.SourceReference, outputs ...swapi.OutputArtifact) swapi.ArtifactGeneratorSpec {
	return swapi.ArtifactGeneratorSpec{Sources: sources, OutputArtifacts: outputs}
}

func from(alias, kind, name string) swapi.SourceReference {
	return swapi.SourceReference{Alias: alias, Kind: kind, Name: name}
}

func output(name string, ops ...swapi.CopyOperation) swapi.OutputArtifact {
	return swapi.OutputArtifact{Name: name, Copy: ops}
}

func testCompose(w *world) {
	w.source("OCIRepository", "chart", "1.0.0@sha256:c", files{"shop/Chart.yaml": "name: shop", "shop/values.yaml": "a: 1\nb: {c: 2}\n"})
	w.source("GitRepository", "values", "main@sha1:1", files{"prod.yaml": "b: {c: 3}\n", "other": "x"})
	w.source("HelmChart", "lib", "2.0.0", files{"lib/Chart.yaml": "name: lib"})
	s := spec([]swapi.SourceReference{from("chart", "OCIRepository", "chart"), from("git", "GitRepository", "values"), from("lib", "HelmChart", "lib")},
		output("shop", swapi.CopyOperation{From: "@chart/", To: "@artifact/"},
			swapi.CopyOperation{From: "@git/prod.yaml", To: "@artifact/shop/values.yaml", Strategy: "Merge"},
			swapi.CopyOperation{From: "@lib/lib/**", To: "@artifact/shop/charts/lib/"}))
	s.OutputArtifacts[0].OriginRevision = "@git"
	s.CommonMetadata = &swapi.CommonMetadata{Labels: map[string]string{"team": "a"}, Annotations: map[string]string{"note": "n"}}
	g := w.generator("shop", s)
	want := files{"shop/Chart.yaml": "name: shop", "shop/values.yaml": "a: 1\nb:\n  c: 3\n", "shop/charts/lib/Chart.yaml": "name: lib"}
	x := w.content("shop", want)
	w.ready(g, metav1.ConditionTrue, meta.SucceededReason, "generated 1 artifact(s)")
	a := x.Status.Artifact
	if a.Revision != "latest@"+a.Digest || a.Metadata["org.opencontainers.image.revision"] != "main@sha1:1" {
		w.Errorf("artifact %+v", a)
	}
	if x.Labels["team"] != "a" || x.Annotations["note"] != "n" || x.Labels[swapi.ArtifactGeneratorLabel] != string(g.UID) || !metav1.IsControlledBy(x, g) {
		w.Errorf("metadata %+v", x.ObjectMeta)
	}
	if !g.HasArtifactInInventory("shop", w.namespace, a.Digest) || !strings.HasPrefix(g.Status.ObservedSourcesDigest, "sha256:") || !slices.Contains(g.Finalizers, swapi.Finalizer) {
		w.Errorf("status %+v", g.Status)
	}
	w.source("GitRepository", "values", "main@sha1:2", files{"prod.yaml": "b: {c: 4}\n"})
	want["shop/values.yaml"] = "a: 1\nb:\n  c: 4\n"
	if x = w.content("shop", want); x.Status.Artifact.Digest == a.Digest {
		w.Error("another content has the same digest")
	}
	w.update(g, func() { g.Spec.CommonMetadata = nil; g.Spec.OutputArtifacts[0].Revision = "@git" })
	w.ready(g, metav1.ConditionTrue, meta.SucceededReason, "")
	kubetest.Eventually(w, 10*time.Second, func() error {
		if x = w.content("shop", want); x.Labels["team"] != "" || x.Annotations["note"] != "" || x.Status.Artifact.Revision != "main@sha1:2" {
			return fmt.Errorf("object %+v", x)
		}
		return nil
	})
	w.delete(g)
	w.gone(g)
	w.gone(x)
	if w.published("shop") {
		w.Error("the content is still there")
	}
}

func testDecompose(w *world) {
	w.source("GitRepository", "mono", "main@sha1:1", files{"front/a": "1", "back/b": "2"})
	g := w.generator("mono", spec([]swapi.SourceReference{from("repo", "GitRepository", "mono")},
		output("front", swapi.CopyOperation{From: "@repo/front/**", To: "@artifact/"}), output("back", swapi.CopyOperation{From: "@repo/back/**", To: "@artifact/"})))
	front, back := w.content("front", files{"a": "1"}), w.content("back", files{"b": "2"})
	w.source("GitRepository", "mono", "main@sha1:2", files{"front/a": "changed", "back/b": "2"})
	if x := w.content("front", files{"a": "changed"}); x.Status.Artifact.Revision == front.Status.Artifact.Revision {
		w.Error("a changed artifact kept its revision")
	}
	w.ready(g, metav1.ConditionTrue, meta.SucceededReason, "generated 2 artifact(s)")
	if x := w.content("back", files{"b": "2"}); x.ResourceVersion != back.ResourceVersion {
		w.Error("an artifact that did not change was written")
	}
	w.update(g, func() { g.Spec.OutputArtifacts = g.Spec.OutputArtifacts[:1] })
	w.gone(back)
	w.ready(g, metav1.ConditionTrue, meta.SucceededReason, "generated 1 artifact(s)")
	if len(g.Status.Inventory) != 1 || w.published("back") || !w.published("front") {
		w.Errorf("inventory %+v", g.Status.Inventory)
	}
}

func testPathPattern(w *world) {
	w.source("GitRepository", "apps", "main@sha1:1", files{"apps/One/f": "1", "apps/two/f": "2"})
	s := spec([]swapi.SourceReference{from("repo", "GitRepository", "apps")}, output("app-{app}", swapi.CopyOperation{From: "@repo/apps/{app}/**", To: "@artifact/"}))
	s.PathPattern = "@repo/apps/{app}"
	g := w.generator("apps", s)
	if x := w.content("app-one", files{"f": "1"}); x.Labels["app"] != "one" {
		w.Errorf("labels %v", x.Labels)
	}
	two := w.content("app-two", files{"f": "2"})
	w.source("GitRepository", "apps", "main@sha1:2", files{"apps/One/f": "1", "apps/three/f": "3"})
	w.content("app-three", files{"f": "3"})
	w.gone(two)
	w.ready(g, metav1.ConditionTrue, meta.SucceededReason, "generated 2 artifact(s)")
}

func testDenied(w *world) {
	ref := from("repo", "GitRepository", "x")
	ref.Namespace = "kube-system"
	g := w.generator("denied", spec([]swapi.SourceReference{ref}, output("denied", swapi.CopyOperation{From: "@repo/**", To: "@artifact/"})))
	w.ready(g, metav1.ConditionFalse, swapi.AccessDeniedReason, "cross-namespace references have been blocked")
	if !conditions.IsStalled(g) {
		w.Errorf("conditions %+v", g.Status.Conditions)
	}
	w.delete(g)
	w.gone(g)
}

func testWaits(w *world) {
	g := w.generator("waits", spec([]swapi.SourceReference{from("b", "Bucket", "later")}, output("waits", swapi.CopyOperation{From: "@b/f", To: "@artifact/"})))
	w.ready(g, metav1.ConditionFalse, swapi.SourceFetchFailedReason, "not found")
	b := &sourcev1.Bucket{ObjectMeta: metav1.ObjectMeta{Name: "later"}, Spec: sourcev1.BucketSpec{Endpoint: "s3.test", BucketName: "b", Interval: metav1.Duration{Duration: time.Hour}}}
	w.create(b)
	w.ready(g, metav1.ConditionFalse, swapi.SourceFetchFailedReason, "has no artifact yet")
	w.source("Bucket", "later", "sha256:1", files{"f": "1"})
	w.content("waits", files{"f": "1"})
}

func testFailure(w *world) {
	w.source("GitRepository", "repo", "main@sha1:1", files{"f": "1"})
	g := w.generator("fails", spec([]swapi.SourceReference{from("repo", "GitRepository", "repo")}, output("fails", swapi.CopyOperation{From: "@repo/none", To: "@artifact/"})))
	w.ready(g, metav1.ConditionFalse, meta.BuildFailedReason, `artifact "fails": copy[0] from "@repo/none" to "@artifact/": "none" is not in the source`)
	w.source("GitRepository", "repo", "main@sha1:2", files{"none": "1"})
	w.content("fails", files{"none": "1"})
	w.ready(g, metav1.ConditionTrue, meta.SucceededReason, "")
	w.event("fails", meta.BuildFailedReason)
	w.source("GitRepository", "repo", "main@sha1:3", files{"f": "1"})
	w.ready(g, metav1.ConditionFalse, meta.BuildFailedReason, "")
	w.content("fails", files{"none": "1"}) // the last good one stays
}

// event waits for an event of a generator.
func (w *world) event(name, reason string) {
	w.Helper()
	kubetest.Eventually(w, 10*time.Second, func() error {
		var list corev1.EventList
		if err := w.client.List(w.Context(), &list, client.InNamespace(w.namespace)); err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.InvolvedObject.Kind == swapi.ArtifactGeneratorKind && e.InvolvedObject.Name == name && e.Reason == reason {
				return nil
			}
		}
		return fmt.Errorf("no event %s among %d", reason, len(list.Items))
	})
}

func testMeddling(w *world) {
	w.source("GitRepository", "repo", "main@sha1:1", files{"f": "1"})
	g := w.generator("kept", spec([]swapi.SourceReference{from("repo", "GitRepository", "repo")}, output("kept", swapi.CopyOperation{From: "@repo/f", To: "@artifact/"})))
	x := w.content("kept", files{"f": "1"})
	w.ready(g, metav1.ConditionTrue, meta.SucceededReason, "")
	old := x.UID
	w.delete(x)
	kubetest.Eventually(w, 10*time.Second, func() error {
		if x = w.content("kept", files{"f": "1"}); x.UID == old {
			return fmt.Errorf("not deleted yet")
		}
		return nil
	})
	w.ready(g, metav1.ConditionTrue, meta.SucceededReason, "")
	kubetest.Eventually(w, 10*time.Second, func() error {
		if err := w.client.Get(w.Context(), client.ObjectKeyFromObject(x), x); err != nil {
			return err
		}
		x.Status.Artifact.Digest = "sha256:" + strings.Repeat("0", 64)
		return w.client.Status().Update(w.Context(), x)
	})
	kubetest.Eventually(w, 10*time.Second, func() error {
		if err := w.client.Get(w.Context(), client.ObjectKeyFromObject(x), x); err != nil {
			return err
		}
		if x.Status.Artifact == nil || strings.HasSuffix(x.Status.Artifact.Digest, "000") {
			return fmt.Errorf("still %+v", x.Status.Artifact)
		}
		return nil
	})
	w.content("kept", files{"f": "1"})
}

func testDisabled(w *world) {
	w.source("GitRepository", "repo", "main@sha1:1", files{"f": "1"})
	g := &swapi.ArtifactGenerator{ObjectMeta: metav1.ObjectMeta{Name: "off", Annotations: map[string]string{swapi.ReconcileAnnotation: "Disabled"}},
		Spec: spec([]swapi.SourceReference{from("repo", "GitRepository", "repo")}, output("off", swapi.CopyOperation{From: "@repo/f", To: "@artifact/"}))}
	w.create(g)
	kubetest.Eventually(w, 10*time.Second, func() error {
		if err := w.client.Get(w.Context(), client.ObjectKeyFromObject(g), g); err != nil {
			return err
		}
		if len(g.Finalizers) == 0 {
			return fmt.Errorf("not seen yet")
		}
		return nil
	})
	if len(g.Status.Conditions) > 0 {
		w.Errorf("it is reconciled: %+v", g.Status)
	}
	w.update(g, func() { g.Annotations[swapi.ReconcileAnnotation] = swapi.EnabledValue })
	w.content("off", files{"f": "1"})
	w.update(g, func() { g.Annotations[meta.ReconcileRequestAnnotation] = "now" })
	kubetest.Eventually(w, 10*time.Second, func() error {
		if err := w.client.Get(w.Context(), client.ObjectKeyFromObject(g), g); err != nil {
			return err
		}
		if g.Status.LastHandledReconcileAt != "now" {
			return fmt.Errorf("handled %q", g.Status.LastHandledReconcileAt)
		}
		return nil
	})
}

func testConflict(w *world) {
	x := &sourcev1.ExternalArtifact{ObjectMeta: metav1.ObjectMeta{Name: "taken"}, Spec: sourcev1.ExternalArtifactSpec{
		SourceRef: &meta.NamespacedObjectKindReference{APIVersion: "example.com/v1", Kind: "Renderer", Name: "r"}}}
	w.create(x)
	w.source("GitRepository", "repo", "main@sha1:1", files{"f": "1"})
	g := w.generator("conflict", spec([]swapi.SourceReference{from("repo", "GitRepository", "repo")}, output("taken", swapi.CopyOperation{From: "@repo/f", To: "@artifact/"})))
	w.ready(g, metav1.ConditionFalse, ownershipConflict, `ExternalArtifact "taken" exists and is not of this generator`)
	if w.published("taken") {
		w.Error("the content was published under another's name")
	}
	w.delete(g)
	w.gone(g)
	if err := w.client.Get(w.Context(), client.ObjectKeyFromObject(x), x); err != nil || x.Spec.SourceRef.Kind != "Renderer" {
		w.Errorf("another's object: %+v, %v", x, err)
	}
}

func testCycle(w *world) {
	w.source("GitRepository", "repo", "main@sha1:1", files{"f": "1"})
	first := w.generator("first", spec([]swapi.SourceReference{from("s", "GitRepository", "repo")}, output("one", swapi.CopyOperation{From: "@s/**", To: "@artifact/x/"})))
	w.content("one", files{"x/f": "1"})
	w.generator("second", spec([]swapi.SourceReference{from("s", "ExternalArtifact", "one")}, output("two", swapi.CopyOperation{From: "@s/**", To: "@artifact/y/"})))
	w.content("two", files{"y/x/f": "1"})
	w.source("GitRepository", "repo", "main@sha1:2", files{"f": "2"})
	w.content("two", files{"y/x/f": "2"})
	w.update(first, func() { first.Spec.Sources[0] = from("s", "ExternalArtifact", "two") })
	w.ready(first, metav1.ConditionFalse, swapi.ValidationFailedReason, "over other generators")
}

func testKustomization(w *world) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "flux-applier"}}
	w.create(account)
	w.create(&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "applier"}, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.namespace, Name: account.Name}}})
	manifest := func(value string) files {
		return files{"app/cm.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: made\n  namespace: " + w.namespace + "\ndata:\n  v: \"" + value + "\"\n"}
	}
	w.source("GitRepository", "repo", "main@sha1:1", manifest("1"))
	w.generator("app", spec([]swapi.SourceReference{from("s", "GitRepository", "repo")}, output("app", swapi.CopyOperation{From: "@s/app/**", To: "@artifact/deploy/"})))
	w.create(&kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Name: "app"}, Spec: kustomizev1.KustomizationSpec{
		Interval: metav1.Duration{Duration: time.Hour}, Path: "./deploy", Prune: true,
		SourceRef: kustomizev1.CrossNamespaceSourceReference{Kind: sourcev1.ExternalArtifactKind, Name: "app"},
	}})
	for _, value := range []string{"1", "2"} {
		w.source("GitRepository", "repo", "main@sha1:"+value, manifest(value))
		kubetest.Eventually(w, 30*time.Second, func() error {
			var cm corev1.ConfigMap
			if err := w.client.Get(w.Context(), client.ObjectKey{Namespace: w.namespace, Name: "made"}, &cm); err != nil {
				return err
			}
			if cm.Data["v"] != value {
				return fmt.Errorf("data %v", cm.Data)
			}
			return nil
		})
	}
}

// testIdle: an event of a source that changes none of its artifact causes no
// write, and neither does a request to reconcile, but for its answer.
func testIdle(w *world) {
	w.source("GitRepository", "repo", "main@sha1:1", files{"f": "1"})
	g := w.generator("idle", spec([]swapi.SourceReference{from("s", "GitRepository", "repo")}, output("idle", swapi.CopyOperation{From: "@s/f", To: "@artifact/"})))
	x := w.content("idle", files{"f": "1"})
	w.ready(g, metav1.ConditionTrue, meta.SucceededReason, "")
	before, err := os.ReadFile(w.cluster.AuditLog())
	if err != nil {
		w.Fatal(err)
	}
	w.update(g, func() {
		g.Annotations = map[string]string{meta.ReconcileRequestAnnotation: "now"}
	})
	kubetest.Eventually(w, 10*time.Second, func() error {
		if err := w.client.Get(w.Context(), client.ObjectKeyFromObject(g), g); err != nil {
			return err
		}
		if g.Status.LastHandledReconcileAt != "now" {
			return fmt.Errorf("not handled yet")
		}
		return nil
	})
	after, err := os.ReadFile(w.cluster.AuditLog())
	if err != nil {
		w.Fatal(err)
	}
	for _, line := range strings.Split(string(after[len(before):]), "\n") {
		if strings.Contains(line, "externalartifacts/idle") && strings.Contains(line, w.namespace) && !strings.Contains(line, `"verb":"get"`) {
			w.Errorf("an unchanged artifact was written: %.300s", line)
		}
	}
	if now := w.content("idle", files{"f": "1"}); now.ResourceVersion != x.ResourceVersion {
		w.Error("an unchanged object was written")
	}
}

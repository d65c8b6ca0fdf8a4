package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/kubetest"
)

func untar(t *testing.T, data []byte) map[string]string {
	t.Helper()
	gz, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for tr := tar.NewReader(gz); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			files[h.Name] = string(content)
		}
	}
}

func testGitRepositoryLife(t *testing.T, w *world) {
	w.newRepository("app", false)
	one := w.commit("app", map[string]string{"a.yaml": "a: 1\n", "notes.txt": "x", "logo.png": "x"})
	o := w.repository("app", w.git.URL("app"))
	a := w.ready(o, "main@sha1:"+one)
	if want := "gitrepository/" + w.namespace + "/app/" + one + ".tar.gz"; a.Path != want {
		t.Errorf("path %s, want %s", a.Path, want)
	}
	if diff := cmp.Diff(map[string]string{"a.yaml": "a: 1\n", "notes.txt": "x"}, untar(t, w.download(a))); diff != "" {
		t.Error(diff)
	}
	stored := conditions.Get(o, sourcev1.ArtifactInStorageCondition)
	if want := "stored artifact for revision 'main@sha1:" + one + "'"; stored == nil || stored.Message != want || conditions.GetMessage(o, meta.ReadyCondition) != want {
		t.Errorf("ArtifactInStorage %+v", stored)
	}
	if len(o.Status.Conditions) != 2 || o.Status.ObservedGeneration != o.Generation {
		t.Errorf("status %+v", o.Status)
	}

	// A commit is found when asked for; the request is acknowledged.
	two := w.commit("app", map[string]string{"a.yaml": "a: 2\n"})
	at := w.request(o)
	w.ready(o, "main@sha1:"+two)
	if o.Status.LastHandledReconcileAt != at {
		t.Errorf("handled %q, want %q", o.Status.LastHandledReconcileAt, at)
	}
	var events corev1.EventList
	kubetest.Eventually(t, 10*time.Second, func() error {
		if err := w.client.List(t.Context(), &events, client.InNamespace(w.namespace)); err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Reason == "NewArtifact" && e.Message == "stored artifact for commit 'change files'" {
				return nil
			}
		}
		return fmt.Errorf("no event NewArtifact in %d", len(events.Items))
	})

	// Unchanged: one listing, nothing fetched, no further change of the status.
	before := w.git.Traffic("app")
	version := o.ResourceVersion
	at = w.request(o)
	w.wait(o, func() error {
		if o.Status.LastHandledReconcileAt != at {
			return fmt.Errorf("not handled")
		}
		return nil
	})
	after := w.git.Traffic("app")
	if after.Lists-before.Lists != 1 || after.Fetches != before.Fetches || version == o.ResourceVersion {
		t.Errorf("unchanged: %d lists, %d fetches", after.Lists-before.Lists, after.Fetches-before.Fetches)
	}

	// Ignore rules make another artifact of the same revision.
	rules := "/*\n!/notes.txt"
	w.update(o, func() { o.Spec.Ignore = &rules })
	a = w.ready(o, "main@sha1:"+two)
	if diff := cmp.Diff(map[string]string{"notes.txt": "x"}, untar(t, w.download(a))); diff != "" {
		t.Error(diff)
	}

	// Suspended: nothing happens until resumed.
	w.update(o, func() { o.Spec.Suspend = true })
	three := w.commit("app", map[string]string{"notes.txt": "y"})
	w.request(o)
	w.update(o, func() { o.Spec.Suspend = false })
	w.ready(o, "main@sha1:"+three)

	dir := filepath.Join(w.storage, "artifacts", "gitrepository", w.namespace, "app")
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}
	w.gone(o)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("artifacts remain after deletion: %v", err)
	}
}

func testGitRepositoryFailures(t *testing.T, w *world) {
	w.newRepository("app", false)
	w.newRepository("empty", false)
	w.commit("app", map[string]string{"a.yaml": "a: 1\n"})
	for name, c := range map[string]struct {
		change          func(*sourcev1.GitRepository)
		reason, message string
		stalled         bool
	}{
		"branch":  {func(o *sourcev1.GitRepository) { o.Spec.Reference.Branch = "nope" }, sourcev1.GitOperationFailedReason, "the repository has no refs/heads/nope", false},
		"secret":  {func(o *sourcev1.GitRepository) { o.Spec.SecretRef = &meta.LocalObjectReference{Name: "nope"} }, sourcev1.AuthenticationFailedReason, "not found", false},
		"missing": {func(o *sourcev1.GitRepository) { o.Spec.URL = w.git.URL("nope") }, sourcev1.AuthenticationFailedReason, "", false},
		"range":   {func(o *sourcev1.GitRepository) { o.Spec.Reference.SemVer = "x.y" }, sourcev1.GitOperationFailedReason, "spec.ref: invalid semver", true},
		"verify": {func(o *sourcev1.GitRepository) {
			o.Spec.Verification = &sourcev1.GitRepositoryVerification{SecretRef: meta.LocalObjectReference{Name: "keys"}}
		}, verificationError, "spec.verify", false},
		"empty":     {func(o *sourcev1.GitRepository) { o.Spec.URL = w.git.URL("empty") }, "EmptyGitRepository", "git repository is empty", false},
		"ssh-azure": {func(o *sourcev1.GitRepository) { o.Spec.URL, o.Spec.Provider = w.git.SSHURL("app"), "azure" }, sourcev1.InvalidProviderConfigurationReason, "use an https URL", true},
		"sparse":    {func(o *sourcev1.GitRepository) { o.Spec.SparseCheckout = []string{"nope"} }, sourcev1.GitOperationFailedReason, `no directory "nope"`, false},
		"escape":    {func(o *sourcev1.GitRepository) { o.Spec.SparseCheckout = []string{"../x"} }, sourcev1.GitOperationFailedReason, "leaves the repository", true},
	} {
		t.Run(name, func(t *testing.T) {
			o := w.repository(name, w.git.URL("app"), c.change)
			w.failing(o, c.reason, c.message)
			if got := conditions.Has(o, meta.StalledCondition); got != c.stalled {
				t.Errorf("stalled: %v", got)
			}
			if name != "verify" && !conditions.IsTrue(o, sourcev1.FetchFailedCondition) || o.Status.Artifact != nil {
				t.Errorf("status %+v", o.Status)
			}
		})
	}
}

func testGitRepositorySecretActsAtOnce(t *testing.T, w *world) {
	w.newRepository("private", true)
	h := w.commit("private", map[string]string{"a.yaml": "a: 1\n"})
	o := w.repository("private", w.git.URL("private"), func(o *sourcev1.GitRepository) {
		o.Spec.SecretRef = &meta.LocalObjectReference{Name: "creds"}
	})
	w.failing(o, sourcev1.AuthenticationFailedReason, "not found")
	s := w.secret("creds", "username", "dev", "password", canary+"-wrong")
	w.failing(o, sourcev1.AuthenticationFailedReason, "401")
	w.update(s, func() { s.StringData = map[string]string{"password": canary} })
	w.ready(o, "main@sha1:"+h)
	for _, c := range []string{sourcev1.FetchFailedCondition, meta.ReconcilingCondition, meta.StalledCondition} {
		if conditions.Has(o, c) {
			t.Errorf("condition %s remains", c)
		}
	}
}

func testGitRepositoryRestoresLostArtifact(t *testing.T, w *world) {
	w.newRepository("app", false)
	h := w.commit("app", map[string]string{"a.yaml": "a: 1\n"})
	o := w.repository("app", w.git.URL("app"))
	a := w.ready(o, "main@sha1:"+h)
	if err := os.Remove(filepath.Join(w.storage, "artifacts", "blobs", "sha256", strings.TrimPrefix(a.Digest, "sha256:"))); err != nil {
		t.Fatal(err)
	}
	fetches := w.git.Traffic("app").Fetches
	at := w.request(o)
	w.wait(o, func() error {
		if o.Status.LastHandledReconcileAt != at {
			return fmt.Errorf("not handled")
		}
		return nil
	})
	w.download(w.ready(o, "main@sha1:"+h))
	if got := w.git.Traffic("app").Fetches; got != fetches {
		t.Errorf("fetched again although the mirror has the commit")
	}
}

// testHangingRemotesDelayNobody has more objects on a server that never answers
// than it gets workers, and one on another.
func testHangingRemotesDelayNobody(t *testing.T, w *world) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const hang = 6 * time.Second // far more than the other needs, also where it is slow
	for i := range 2 * perRemote {
		w.repository(fmt.Sprintf("hung-%d", i), "http://"+l.Addr().String()+"/x", func(o *sourcev1.GitRepository) {
			o.Spec.Timeout = &metav1.Duration{Duration: hang}
		})
	}
	w.newRepository("app", false)
	h := w.commit("app", map[string]string{"a.yaml": "a: 1\n"})
	begin := time.Now()
	o := w.repository("app", w.git.URL("app"))
	w.ready(o, "main@sha1:"+h)
	if d := time.Since(begin); d >= hang {
		t.Errorf("it took %s", d)
	}
	last := &sourcev1.GitRepository{}
	last.Name, last.Namespace = fmt.Sprintf("hung-%d", 2*perRemote-1), w.namespace
	w.failing(last, sourcev1.GitOperationFailedReason, "longer than spec.timeout (6s)")
}

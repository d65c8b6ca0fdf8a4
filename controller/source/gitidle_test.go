package source

import (
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/gitserver"
	"headwater.dev/dev/kubetest"
)

// testHundredUnchanged has a hundred GitRepositories look at one host that has
// nothing new: a look is one listing and one conversation, and writes nothing.
func testHundredUnchanged(t *testing.T, w *world) {
	const repositories, each, interval = 10, 10, 2 * time.Second
	begin := time.Now()
	for i := range repositories {
		name := fmt.Sprintf("r%d", i)
		w.newRepository(name, false)
		w.commit(name, map[string]string{"a.yaml": name})
		for j := range each {
			w.repository(fmt.Sprintf("%s-%d", name, j), w.git.URL(name), func(o *sourcev1.GitRepository) {
				o.Spec.Interval = metav1.Duration{Duration: interval}
			})
		}
	}
	versions := func() map[string]string {
		var list sourcev1.GitRepositoryList
		if err := w.client.List(t.Context(), &list, client.InNamespace(w.namespace)); err != nil {
			t.Fatal(err)
		}
		all := map[string]string{}
		for _, o := range list.Items {
			if conditions.IsReady(&o) {
				all[o.Name] = o.ResourceVersion
			}
		}
		return all
	}
	kubetest.Eventually(t, 3*time.Minute, func() error {
		if n := len(versions()); n != repositories*each {
			return fmt.Errorf("%d are ready", n)
		}
		return nil
	})
	total := func() gitserver.Traffic {
		var sum gitserver.Traffic
		for i := range repositories {
			one := w.git.Traffic(fmt.Sprintf("r%d", i))
			sum.Lists, sum.Fetches, sum.Connections = sum.Lists+one.Lists, sum.Fetches+one.Fetches, sum.Connections+one.Connections
		}
		return sum
	}
	before, written, traffic, used := versions(), w.written(begin), total(), cpu(t)
	var now gitserver.Traffic
	kubetest.Eventually(t, 3*time.Minute, func() error {
		if now = total(); now.Lists-traffic.Lists < 3*repositories*each {
			return fmt.Errorf("%d looks", now.Lists-traffic.Lists)
		}
		return nil
	})
	looks := now.Lists - traffic.Lists
	perLook := (cpu(t) - used) / time.Duration(looks)
	if d := now.Connections - traffic.Connections - looks; now.Fetches != traffic.Fetches || d < -8 || d > 8 {
		t.Errorf("%d looks cost %d conversations and %d fetches", looks, now.Connections-traffic.Connections, now.Fetches-traffic.Fetches)
	}
	if diff := cmp.Diff(before, versions()); diff != "" {
		t.Errorf("the API server was written to: %s", diff)
	}
	if diff := cmp.Diff(written, w.written(begin)); diff != "" {
		t.Errorf("the disk was written to: %s", diff)
	}
	// A hundred at an interval of a minute; the test's own Git server and API
	// client are in the figure.
	core := float64(perLook) / float64(time.Minute) * 100 * 100
	t.Logf("a look costs %s of processor time: %.2f %% of a core for a hundred a minute", perLook, core)
	if core > 10 { // 2 where nothing else runs: the rest of the process is in the figure, too
		t.Errorf("%.2f %% of a core, want at most 10", core)
	}
}

func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// written gives when each file of this world's artifacts and of all mirrors was
// written.
func (w *world) written(begin time.Time) map[string]time.Time {
	w.t.Helper()
	times := map[string]time.Time{}
	for _, dir := range []string{filepath.Join(w.storage, "git"), filepath.Join(w.storage, "artifacts", "gitrepository", w.namespace)} {
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err == nil && !info.ModTime().Before(begin) {
				times[name] = info.ModTime()
			}
			return err
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return times
}

// testRateLimitIsHonoured has a server ask to come back in an hour.
func testRateLimitIsHonoured(t *testing.T, w *world) {
	asked := make(chan struct{}, 100)
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		rw.Header().Set("Retry-After", "3600")
		rw.WriteHeader(http.StatusTooManyRequests)
	}))
	defer s.Close()
	o := w.repository("limited", s.URL+"/x", func(o *sourcev1.GitRepository) { o.Spec.Interval = metav1.Duration{Duration: 200 * time.Millisecond} })
	w.failing(o, sourcev1.GitOperationFailedReason, "it asks to wait 1h0m0s")
	// Another one that fails is tried again meanwhile, with growing pauses.
	w.newRepository("app", false)
	other := w.repository("other", w.git.URL("app"))
	w.failing(other, "EmptyGitRepository", "")
	w.commit("app", map[string]string{"a.yaml": "a"})
	w.ready(other, "")
	if n := len(asked); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
}

// testProxySecretActsAtOnce needs the Secret of a proxy, which is watched too.
func testProxySecretActsAtOnce(t *testing.T, w *world) {
	w.newRepository("app", false)
	h := w.commit("app", map[string]string{"a.yaml": "a"})
	var via []string
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte("p:"+canary)) {
			rw.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		via = append(via, r.URL.Path)
		r.Header.Del("Proxy-Authorization")
		r.RequestURI = ""
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			rw.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		rw.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		_, _ = io.Copy(rw, resp.Body)
	}))
	defer proxy.Close()
	s := w.secret("proxy", "address", proxy.URL, "username", "p", "password", canary+"-wrong")
	o := w.repository("app", w.git.URL("app"), func(o *sourcev1.GitRepository) {
		o.Spec.ProxySecretRef = &meta.LocalObjectReference{Name: "proxy"}
	})
	w.failing(o, sourcev1.GitOperationFailedReason, "407")
	w.update(s, func() { s.StringData = map[string]string{"password": canary} })
	w.ready(o, "main@sha1:"+h)
	if len(via) == 0 {
		t.Error("the proxy was passed by")
	}
}

package source

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/dev/helmrepo"
	"headwater.dev/dev/kubetest"
)

// pointed makes an object of every kind that talks to a remote, each at a host.
func pointed(w *world, host, proxy string, interval time.Duration) map[string]sourceObject {
	w.t.Helper()
	var by *meta.LocalObjectReference
	if proxy != "" {
		by = &meta.LocalObjectReference{Name: proxy}
	}
	every := metav1.Duration{Duration: interval}
	all := map[string]sourceObject{
		"git": &sourcev1.GitRepository{Spec: sourcev1.GitRepositorySpec{URL: "http://" + host + "/x", Interval: every, ProxySecretRef: by}},
		"oci": &sourcev1.OCIRepository{Spec: sourcev1.OCIRepositorySpec{URL: "oci://" + host + "/x", Insecure: true, Interval: every, ProxySecretRef: by}},
		"bucket": newBucket("", host, func(b *sourcev1.Bucket) {
			b.Spec.Interval, b.Spec.ProxySecretRef = every, by
		}),
	}
	if proxy == "" { // a HelmRepository has none
		all["helm"] = &sourcev1.HelmRepository{Spec: sourcev1.HelmRepositorySpec{URL: "http://" + host, Interval: every}}
	}
	for name, o := range all {
		o.SetName("at-" + name)
		w.create(o)
	}
	return all
}

// testA07Proxies has objects name a service on our own machine as their proxy.
func testA07Proxies(t *testing.T, c *kubetest.Cluster) {
	p, stop := begin(t, c, t.TempDir(), "0")
	t.Cleanup(stop)
	w := p.world(t, c)
	var asked atomic.Int32
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer inside.Close()
	w.secret("keys", "accesskey", "key", "secretkey", canary)
	w.secret("proxy", "address", inside.URL, "username", "u", "password", canary)
	for name, o := range pointed(w, "remote.example", "proxy", time.Hour) {
		w.wait(o, func() error {
			if r := conditions.Get(o, meta.ReadyCondition); r == nil || r.Status != metav1.ConditionFalse || !strings.Contains(r.Message, "proxies on this machine") && !strings.Contains(r.Message, "own machine") {
				return fmt.Errorf("%s: %+v", name, r)
			}
			return nil
		})
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("the service was asked %d times", n)
	}
}

// testA08MetadataServices points every kind at a cloud's metadata service, and
// says nothing of what is there.
func testA08MetadataServices(t *testing.T, w *world) {
	w.secret("keys", "accesskey", "key", "secretkey", canary)
	for name, o := range pointed(w, "169.254.169.254", "", time.Hour) {
		w.wait(o, func() error {
			if r := conditions.Get(o, meta.ReadyCondition); r == nil || r.Status != metav1.ConditionFalse || !strings.Contains(r.Message, "address") {
				return fmt.Errorf("%s: %+v", name, r)
			}
			return nil
		})
		if o.GetArtifact() != nil {
			t.Errorf("%s: artifact %+v", name, o.GetArtifact())
		}
	}
}

// testRetryAfter has a server ask every kind to come back in an hour, while the
// objects want to ask it five times a second.
func testRetryAfter(t *testing.T, w *world) {
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			w := *w
			w.t = t
			servers, asked := map[string]string{}, map[string]*atomic.Int32{}
			for _, kind := range []string{"git", "oci", "helm", "bucket"} {
				n := &atomic.Int32{}
				s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
					n.Add(1)
					rw.Header().Set("Retry-After", "3600")
					rw.WriteHeader(status)
				}))
				t.Cleanup(s.Close)
				servers[kind], asked[kind] = strings.TrimPrefix(s.URL, "http://"), n
			}
			const often = 200 * time.Millisecond
			all := map[string]sourceObject{
				"git":    &sourcev1.GitRepository{Spec: sourcev1.GitRepositorySpec{URL: "http://" + servers["git"] + "/x", Interval: metav1.Duration{Duration: often}}},
				"oci":    &sourcev1.OCIRepository{Spec: sourcev1.OCIRepositorySpec{URL: "oci://" + servers["oci"] + "/x", Insecure: true, Interval: metav1.Duration{Duration: often}}},
				"helm":   &sourcev1.HelmRepository{Spec: sourcev1.HelmRepositorySpec{URL: "http://" + servers["helm"], Interval: metav1.Duration{Duration: often}}},
				"bucket": newBucket("", servers["bucket"], func(b *sourcev1.Bucket) { b.Spec.SecretRef, b.Spec.Interval.Duration = nil, often }),
			}
			before := map[string]int32{}
			for kind, o := range all {
				o.SetName(fmt.Sprintf("limited-%s-%d", kind, status))
				w.create(o)
			}
			for kind, o := range all {
				w.wait(o, func() error {
					if !conditions.IsFalse(o, meta.ReadyCondition) {
						return fmt.Errorf("%s is not failing", kind)
					}
					return nil
				})
				before[kind] = asked[kind].Load()
			}
			// One that is well is asked ten times meanwhile.
			repo, err := helmrepo.Start(helmrepo.Config{Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			defer repo.Close()
			if _, err := repo.AddFiles(chartFiles("web", "1.0.0")); err != nil {
				t.Fatal(err)
			}
			w.ready(w.helmRepository(fmt.Sprintf("well-%d", status), repo.URL(), func(o *sourcev1.HelmRepository) { o.Spec.Interval.Duration = often }), "")
			kubetest.Eventually(t, 20*time.Second, func() error {
				if n := repo.Requests("GET", "index.yaml").Requests; n < 10 {
					return fmt.Errorf("asked %d times", n)
				}
				return nil
			})
			for kind, n := range before {
				if now := asked[kind].Load(); n == 0 || now != n {
					t.Errorf("%s: asked %d times, then %d times", kind, n, now)
				}
			}
		})
	}
}

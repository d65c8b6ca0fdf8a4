package source

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/opencontainers/go-digest"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/cluster"
	"headwater.dev/dev/gitserver"
	"headwater.dev/dev/kubetest"
	"headwater.dev/kernel/host"
)

// canary is a password that must not appear anywhere but in its Secret.
const canary = "canary-7f3a-Passw0rd"

func TestMain(m *testing.M) { kubetest.Main(m) }

// world is the controllers running against a real API server.
type world struct {
	t         *testing.T
	client    client.Client
	namespace string
	git       *gitserver.Server
	addr      string
	storage   string
	logs      *logs
}

// logs collects what the process logs.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) write(prefix, args string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.WriteString(prefix + " " + args + "\n")
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// TestLoops runs all kinds in one process against a real API server, real Git
// servers, registries and repositories.
func TestLoops(t *testing.T) {
	c := kubetest.Start(t)
	kubetest.CRDs(t, c, "flux")
	p := launch(t, c)
	for name, test := range map[string]func(*testing.T, *world){
		"A08MetadataServices":               testA08MetadataServices,
		"RetryAfter":                        testRetryAfter,
		"Bucket":                            testBucket,
		"GitAzureDevOps":                    testAzureDevOps,
		"GitCodeCommit":                     testCodeCommit,
		"GitHubApp":                         testGitHubApp,
		"GitInclude":                        testGitInclude,
		"GitSubmodules":                     testGitSubmodules,
		"GitHundredUnchanged":               testHundredUnchanged,
		"GitProxySecretActsAtOnce":          testProxySecretActsAtOnce,
		"GitRateLimitIsHonoured":            testRateLimitIsHonoured,
		"GitVerify":                         testGitVerify,
		"GitRepositoryFailures":             testGitRepositoryFailures,
		"GitRepositoryLife":                 testGitRepositoryLife,
		"GitRepositoryRestoresLostArtifact": testGitRepositoryRestoresLostArtifact,
		"GitRepositorySecretActsAtOnce":     testGitRepositorySecretActsAtOnce,
		"HangingRemotesDelayNobody":         testHangingRemotesDelayNobody,
		"ChartDependencies":                 testChartDependencies,
		"ChartVerify":                       testChartVerify,
		"HelmUnchanged":                     testHelmUnchanged,
		"OCIBundle":                         testOCIBundle,
		"OCINotation":                       testOCINotation,
		"OCIKeyless":                        testOCIKeyless,
		"OCIPrivate":                        testOCIPrivate,
		"OCIRateLimit":                      testOCIRateLimit,
		"OCIRequests":                       testOCIRequests,
		"OCIServiceAccount":                 testOCIServiceAccount,
		"OCIVerify":                         testOCIVerify,
		"HelmBecomesRegistry":               testHelmBecomesRegistry,
		"HelmFromGit":                       testHelmFromGit,
		"HelmFromRegistry":                  testHelmFromRegistry,
		"HelmFromRepository":                testHelmFromRepository,
		"OCIRepository":                     testOCIRepository,
	} {
		t.Run(name, func(t *testing.T) { test(t, p.world(t, c)) })
	}
}

// process is the controllers as one process runs them.
type process struct {
	addr, storage string
	logs          *logs
}

// launch starts the controllers; they end with the test.
func launch(t *testing.T, c *kubetest.Cluster) *process {
	t.Helper()
	p := &process{addr: freeAddr(t), storage: t.TempDir(), logs: everything()}
	h, err := host.New(c.Config, host.Options{
		Namespace: "flux-system", WatchAllNamespaces: true, MetricsAddr: "0", HealthAddr: "0",
		NoCrossNamespaceRefs: true, DefaultServiceAccount: "flux-applier", Concurrent: 4,
		RequeueDependency: time.Hour, MinRetryDelay: 50 * time.Millisecond, MaxRetryDelay: time.Minute,
		StoragePath: p.storage, StorageAddr: p.addr, StorageAdvAddr: p.addr, LoopbackProxies: true, SharedSourceIdentity: true,
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
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return p
}

// world gives a test a namespace and a Git server of its own.
func (p *process) world(t *testing.T, c *kubetest.Cluster) *world {
	t.Helper()
	scheme, err := host.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, namespace: c.Namespace(t), addr: p.addr, storage: p.storage, logs: p.logs}
	if w.client, err = client.New(c.Config, client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	w.git, err = gitserver.Start(gitserver.Config{Dir: t.TempDir(), Accounts: []gitserver.Account{{Name: "dev", Password: canary}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.git.Close() })
	t.Cleanup(w.noCanary)
	return w
}

func freeAddr(t *testing.T) string {
	t.Helper()
	port, err := cluster.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

// noCanary checks that the password is in no log, condition or event.
func (w *world) noCanary() {
	ctx := context.Background()
	seen := map[string]string{"log": w.logs.String()}
	var events corev1.EventList
	if err := w.client.List(ctx, &events, client.InNamespace(w.namespace)); err == nil {
		for _, e := range events.Items {
			seen["event "+e.Name] = fmt.Sprintf("%+v", e)
		}
	}
	for _, list := range []client.ObjectList{&sourcev1.GitRepositoryList{}, &sourcev1.HelmRepositoryList{}, &sourcev1.HelmChartList{}, &sourcev1.OCIRepositoryList{}, &sourcev1.BucketList{}} {
		if err := w.client.List(ctx, list, client.InNamespace(w.namespace)); err == nil {
			seen[fmt.Sprintf("%T", list)] = fmt.Sprintf("%+v", list)
		}
	}
	for where, text := range seen {
		if strings.Contains(text, canary) {
			w.t.Errorf("the password is in a %s", where)
		}
	}
}

func (w *world) create(o client.Object) {
	w.t.Helper()
	o.SetNamespace(w.namespace)
	if err := w.client.Create(w.t.Context(), o); err != nil {
		w.t.Fatal(err)
	}
}

// update changes an object that exists.
func (w *world) update(o client.Object, change func()) {
	w.t.Helper()
	kubetest.Eventually(w.t, 10*time.Second, func() error {
		if err := w.client.Get(w.t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		change()
		return w.client.Update(w.t.Context(), o)
	})
}

type sourceObject interface {
	sourcev1.Source
	client.Object
	conditions.Getter
}

// ready waits until o is ready at its current generation with the revision,
// when one is given.
func (w *world) ready(o sourceObject, revision string) *meta.Artifact {
	w.t.Helper()
	w.wait(o, func() error {
		if !conditions.IsReady(o) || conditions.GetObservedGeneration(o, meta.ReadyCondition) != o.GetGeneration() {
			return fmt.Errorf("not ready: %s", conditions.GetMessage(o, meta.ReadyCondition))
		}
		if revision != "" && !o.GetArtifact().HasRevision(revision) {
			return fmt.Errorf("artifact %+v", o.GetArtifact())
		}
		return nil
	})
	return o.GetArtifact()
}

// failing waits until Ready is False for a reason and a message.
func (w *world) failing(o sourceObject, reason, message string) {
	w.t.Helper()
	w.wait(o, func() error {
		c := conditions.Get(o, meta.ReadyCondition)
		if c == nil || c.Status != metav1.ConditionFalse || c.Reason != reason || !strings.Contains(c.Message, message) {
			return fmt.Errorf("ready: %+v", c)
		}
		return nil
	})
}

func (w *world) wait(o sourceObject, until func() error) {
	w.t.Helper()
	kubetest.Eventually(w.t, 20*time.Second, func() error {
		if err := w.client.Get(w.t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		return until()
	})
}

// download gets an artifact as any client would, and checks what the Flux
// pages say about it.
func (w *world) download(a *meta.Artifact) []byte {
	w.t.Helper()
	if a.URL != "http://"+w.addr+"/"+a.Path {
		w.t.Errorf("URL %s does not belong to path %s", a.URL, a.Path)
	}
	resp, err := http.Get(a.URL)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		w.t.Fatalf("GET %s: %s, %v", a.URL, resp.Status, err)
	}
	if got := digest.FromBytes(data).String(); got != a.Digest || a.Size == nil || *a.Size != int64(len(data)) {
		w.t.Errorf("digest %s and size %d, want %s and %v", got, len(data), a.Digest, a.Size)
	}
	return data
}

func (w *world) repository(name, url string, change ...func(*sourcev1.GitRepository)) *sourcev1.GitRepository {
	w.t.Helper()
	o := &sourcev1.GitRepository{}
	o.Name = name
	o.Spec = sourcev1.GitRepositorySpec{URL: url, Interval: metav1.Duration{Duration: time.Hour}, Reference: &sourcev1.GitRepositoryRef{Branch: "main"}}
	for _, c := range change {
		c(o)
	}
	w.create(o)
	return o
}

func (w *world) secret(name string, pairs ...string) *corev1.Secret {
	w.t.Helper()
	s := &corev1.Secret{StringData: map[string]string{}}
	s.Name = name
	for i := 0; i < len(pairs); i += 2 {
		s.StringData[pairs[i]] = pairs[i+1]
	}
	w.create(s)
	return s
}

func (w *world) commit(repo string, files map[string]string) string {
	w.t.Helper()
	h, err := w.git.Commit(repo, "main", "change files\n\nand more", files)
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

func (w *world) newRepository(name string, private bool) {
	w.t.Helper()
	if err := w.git.CreateRepository(name, private); err != nil {
		w.t.Fatal(err)
	}
}

// request asks for a reconcile now, as flux reconcile does.
func (w *world) request(o client.Object) string {
	w.t.Helper()
	at := time.Now().Format(time.RFC3339Nano)
	w.update(o, func() {
		a := o.GetAnnotations()
		if a == nil {
			a = map[string]string{}
		}
		a[meta.ReconcileRequestAnnotation] = at
		o.SetAnnotations(a)
	})
	return at
}

func (w *world) gone(o client.Object) {
	w.t.Helper()
	if err := w.client.Delete(w.t.Context(), o); err != nil {
		w.t.Fatal(err)
	}
	kubetest.Eventually(w.t, 10*time.Second, func() error {
		err := w.client.Get(w.t.Context(), client.ObjectKeyFromObject(o), o)
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %v", err)
		}
		return nil
	})
}

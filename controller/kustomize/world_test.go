package kustomize

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	clientretry "k8s.io/client-go/util/retry"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/kubetest"
	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/host"
)

// running is the one host of the test binary: controllers have unique names in
// a process.
var running struct {
	sync.Once
	h   *host.Host
	err error
	// receiver of its notifications.
	receiver receiver
}

// world is one tenant's namespace in a real cluster with a real host.
type world struct {
	t      *testing.T
	ctx    context.Context
	c      *kubetest.Cluster
	h      *host.Host
	client client.Client
	ns     string
	n      int
	// artifacts is where publish stores; labels tell objects of a host in a
	// process of its own.
	artifacts *artifact.Store
	labels    map[string]string
}

// newWorld makes a namespace whose flux-applier has a role: "admin" there, or
// "cluster-admin" everywhere.
func newWorld(t *testing.T, role string) *world {
	t.Helper()
	c := kubetest.Start(t, kubetest.WithNode())
	kubetest.CRDs(t, c, "flux")
	running.Do(func() { running.err = startHost(c) })
	if running.err != nil {
		t.Fatal(running.err)
	}
	w := &world{t: t, ctx: t.Context(), c: c, h: running.h, ns: c.Namespace(t), artifacts: running.h.Artifacts}
	var err error
	if w.client, err = client.New(c.Config, client.Options{Scheme: w.h.Manager.GetScheme()}); err != nil {
		t.Fatal(err)
	}
	w.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "flux-applier", Namespace: w.ns}})
	subject := []rbacv1.Subject{{Kind: "ServiceAccount", Name: "flux-applier", Namespace: w.ns}}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}
	if role == "cluster-admin" {
		w.create(&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: w.ns}, Subjects: subject, RoleRef: ref})
		return w
	}
	w.create(&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "applier", Namespace: w.ns}, Subjects: subject, RoleRef: ref})
	return w
}

// hostAgent tells the host's requests from those of the tests, which are the
// same administrator's.
const hostAgent = "host-under-test"

// childLabel keeps the objects of hosts in processes of their own from the one
// of the test binary.
const childLabel = "test.headwater.dev/child"

func startHost(c *kubetest.Cluster) error {
	ctrl.SetLogger(logr.Discard())
	dir, err := os.MkdirTemp("", "kustomize-test-")
	if err != nil {
		return err
	}
	config := rest.CopyConfig(c.Config)
	config.UserAgent = hostAgent
	running.receiver.start()
	h, err := newHost(config, dir, "!"+childLabel, nil)
	if err != nil {
		return err
	}
	running.h = h
	go func() { _ = h.Run(context.Background()) }()
	return nil
}

// newHost is a host with this loop, of objects with matching labels.
func newHost(config *rest.Config, dir, selector string, fault func(string)) (*host.Host, error) {
	h, err := host.New(config, host.Options{
		EventsAddr: running.receiver.url, Fault: fault, WatchLabelSelector: selector, LeaderElection: os.Getenv(childLeader) != "",
		Namespace: "default", WatchAllNamespaces: true, MetricsAddr: "0", HealthAddr: "0", StoragePath: dir,
		StorageAdvAddr: "127.0.0.1:1", NoCrossNamespaceRefs: true, DefaultServiceAccount: "flux-applier", NoRemoteBases: true, StrictSubstitution: true,
		Concurrent: 8, RequeueDependency: time.Hour, MinRetryDelay: 100 * time.Millisecond, MaxRetryDelay: time.Minute,
	})
	if err != nil {
		return nil, err
	}
	return h, Setup(context.Background(), h)
}

func (w *world) create(o client.Object) {
	w.t.Helper()
	if err := w.client.Create(w.ctx, o); err != nil {
		w.t.Fatalf("create %T: %v", o, err)
	}
}

// in is the same world for a subtest.
func (w *world) in(t *testing.T) *world {
	sub := *w
	sub.t, sub.ctx = t, t.Context()
	return &sub
}

// artifact stores files.
func (w *world) artifact(kind, name, revision string, files map[string]string) meta.Artifact {
	w.t.Helper()
	dir := w.t.TempDir()
	for p, body := range files {
		p = filepath.Join(dir, p)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(body), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	a, err := w.artifacts.Publish(w.ctx, artifact.Put{
		Key: artifact.Key{Kind: kind, Namespace: w.ns, Name: name}, File: strings.ReplaceAll(revision, ":", "-")[max(0, len(revision)-12):] + ".tar.gz", Revision: revision,
		Write: func(out io.Writer) error { return artifact.Pack(out, artifact.Dir(dir, artifact.Ignore{})) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// publish makes files the artifact of a GitRepository of the namespace.
func (w *world) publish(name string, files map[string]string) string {
	w.t.Helper()
	w.n++
	revision := fmt.Sprintf("main@sha1:%040d", w.n)
	a := w.artifact("gitrepository", name, revision, files)
	repo := &sourcev1.GitRepository{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.ns, Labels: w.labels}}
	repo.Spec = sourcev1.GitRepositorySpec{URL: "https://example.invalid/r", Interval: metav1.Duration{Duration: time.Hour}}
	if err := w.client.Create(w.ctx, repo.DeepCopy()); client.IgnoreAlreadyExists(err) != nil {
		w.t.Fatal(err)
	}
	if err := w.client.Get(w.ctx, client.ObjectKeyFromObject(repo), repo); err != nil {
		w.t.Fatal(err)
	}
	before := repo.DeepCopy()
	repo.Status.Artifact = &a
	conditions.MarkTrue(repo, meta.ReadyCondition, "Succeeded", "stored")
	if err := w.client.Status().Patch(w.ctx, repo, client.MergeFrom(before)); err != nil {
		w.t.Fatal(err)
	}
	return revision
}

// kustomization creates one over the GitRepository "repo".
func (w *world) kustomization(name string, change func(*kustomizev1.KustomizationSpec)) *kustomizev1.Kustomization {
	w.t.Helper()
	k := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.ns, Labels: w.labels}}
	k.Spec = kustomizev1.KustomizationSpec{
		Interval: metav1.Duration{Duration: time.Hour}, Prune: true, TargetNamespace: w.ns,
		RetryInterval: &metav1.Duration{Duration: time.Hour}, Timeout: &metav1.Duration{Duration: time.Minute},
		SourceRef: kustomizev1.CrossNamespaceSourceReference{Kind: "GitRepository", Name: "repo"},
	}
	if change != nil {
		change(&k.Spec)
	}
	w.create(k)
	return k
}

// change writes what f makes of a Kustomization that the loop writes to, too.
func (w *world) change(name string, f func(*kustomizev1.Kustomization)) *kustomizev1.Kustomization {
	w.t.Helper()
	var k *kustomizev1.Kustomization
	if err := clientretry.RetryOnConflict(clientretry.DefaultBackoff, func() error {
		k = w.get(name)
		f(k)
		return w.client.Update(w.ctx, k)
	}); err != nil {
		w.t.Fatal(err)
	}
	return k
}

func (w *world) get(name string) *kustomizev1.Kustomization {
	w.t.Helper()
	k := &kustomizev1.Kustomization{}
	if err := w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: name}, k); err != nil {
		w.t.Fatal(err)
	}
	return k
}

// ready waits until a Kustomization has applied a revision.
func (w *world) ready(name, revision string) *kustomizev1.Kustomization {
	w.t.Helper()
	var k *kustomizev1.Kustomization
	kubetest.Eventually(w.t, 20*time.Second, func() error {
		k = w.get(name)
		if !conditions.IsReady(k) || k.Status.LastAppliedRevision != revision || k.Status.ObservedGeneration != k.Generation {
			return fmt.Errorf("%s: revision %s, Ready %v", name, k.Status.LastAppliedRevision, conditions.Get(k, meta.ReadyCondition))
		}
		return nil
	})
	return k
}

// failed waits until Ready is False for a reason, with a message.
func (w *world) failed(name, reason, message string) {
	w.t.Helper()
	w.failedIn(20*time.Second, name, reason, message)
}

func (w *world) failedIn(timeout time.Duration, name, reason, message string) {
	w.t.Helper()
	kubetest.Eventually(w.t, timeout, func() error {
		c := conditions.Get(w.get(name), meta.ReadyCondition)
		if c == nil || c.Status != metav1.ConditionFalse || c.Reason != reason || !strings.Contains(c.Message, message) {
			return fmt.Errorf("Ready is %v, want reason %s with %q", c, reason, message)
		}
		return nil
	})
}

func (w *world) configMap(name string) (*corev1.ConfigMap, error) {
	cm := &corev1.ConfigMap{}
	return cm, w.client.Get(w.ctx, client.ObjectKey{Namespace: w.ns, Name: name}, cm)
}

// audited is a request in the API server's audit log.
type audited struct {
	Verb      string
	Stage     string
	UserAgent string
	ObjectRef struct{ Resource, Subresource, Namespace, Name string }
	User      struct{ Username string }
	Acting    *struct{ Username string } `json:"impersonatedUser"`
}

// requests reads the finished requests that concern the namespace.
func (w *world) requests() []audited { return w.requestsIn(w.c) }

// applied counts the applies of an object since a mark in the audit log.
func (w *world) applied(mark int, resource, name string) (n int) {
	w.t.Helper()
	for _, a := range w.requests()[mark:] {
		if a.Verb == "patch" && a.Acting != nil && a.ObjectRef.Resource == resource && a.ObjectRef.Name == name {
			n++
		}
	}
	return n
}

func (w *world) requestsIn(c *kubetest.Cluster) []audited {
	w.t.Helper()
	f, err := os.Open(c.AuditLog())
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var out []audited
	scan := bufio.NewScanner(f)
	scan.Buffer(nil, 4<<20)
	for scan.Scan() {
		var a audited
		if json.Unmarshal(scan.Bytes(), &a) == nil && a.Stage == "ResponseComplete" && a.ObjectRef.Namespace == w.ns {
			out = append(out, a)
		}
	}
	if err := scan.Err(); err != nil && !errors.Is(err, io.EOF) {
		w.t.Fatal(err)
	}
	return out
}

func cm(name, value string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: " + name + "\ndata:\n  key: \"" + value + "\"\n"
}

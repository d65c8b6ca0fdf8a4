package kustomize

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/dev/kubetest"
	"headwater.dev/kernel/apply"
	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/host"
	"headwater.dev/kernel/manifest"
)

// What a child process of the test binary is told by its environment.
const (
	childConfig  = "KUSTOMIZE_TEST_KUBECONFIG"
	childStorage = "KUSTOMIZE_TEST_STORAGE"
	childNumber  = "KUSTOMIZE_TEST_LABEL"
	childFault   = "KUSTOMIZE_TEST_FAULT"
	childLeader  = "KUSTOMIZE_TEST_LEADER" // its user agent: one of several
)

func TestMain(m *testing.M) {
	if os.Getenv(childConfig) != "" {
		if err := runChild(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	kubetest.Main(m)
}

// runChild runs the loop until it is killed, or kills itself at the point that
// it is told, <name> or <name>:<how often it is passed before>. At the
// point <name>!memory it gets no more memory instead.
func runChild() error {
	ctrl.SetLogger(logr.Discard())
	config, err := host.RESTConfig(os.Getenv(childConfig))
	if err != nil {
		return err
	}
	if config.UserAgent = os.Getenv(childLeader); config.UserAgent == "" {
		config.UserAgent = hostAgent
	}
	at, after, _ := strings.Cut(os.Getenv(childFault), ":")
	at, starves := strings.CutSuffix(at, "!memory")
	left, _ := strconv.Atoi(after)
	fault := func(point string) {
		if point != at {
			return
		}
		if left--; left < 0 && starves {
			if err := noMoreMemory(); err != nil {
				panic(err)
			}
		} else if left < 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal is on its way
		}
	}
	h, err := newHost(config, os.Getenv(childStorage), childLabel+"="+os.Getenv(childNumber), fault)
	if err != nil {
		return err
	}
	return h.Run(context.Background())
}

// child is a controller in a process of its own.
type child struct {
	w   *world
	dir string
	cmd *exec.Cmd
	// kubeconfig other than the cluster's, and the name of one of several.
	kubeconfig, leader string
}

// newChild makes w a world whose objects belong to a child.
func newChild(t *testing.T, w *world) *child {
	t.Helper()
	c := &child{w: w, dir: t.TempDir()}
	w.labels = map[string]string{childLabel: w.ns}
	var err error
	w.artifacts, err = artifact.Open(artifact.Options{Root: filepath.Join(c.dir, "artifacts"), Address: "127.0.0.1:1", TTL: time.Hour, Records: 100})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	return c
}

func (c *child) start(fault string) {
	c.w.t.Helper()
	self, err := os.Executable()
	if err != nil {
		c.w.t.Fatal(err)
	}
	c.cmd = exec.Command(self)
	kubeconfig := c.kubeconfig
	if kubeconfig == "" {
		kubeconfig = c.w.c.Kubeconfig
	}
	c.cmd.Env = append(os.Environ(), childLeader+"="+c.leader, childConfig+"="+kubeconfig, childStorage+"="+c.dir, childNumber+"="+c.w.ns, childFault+"="+fault)
	if !strings.HasSuffix(fault, "!memory") { // the runtime has much to say
		c.cmd.Stderr = os.Stderr
	}
	if err := c.cmd.Start(); err != nil {
		c.w.t.Fatal(err)
	}
}

// kill is kill -9.
func (c *child) kill() {
	if c.cmd != nil && c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	}
}

// dies waits until the child has killed itself.
func (c *child) dies() {
	c.w.t.Helper()
	done := make(chan error, 1)
	go func() { done <- c.cmd.Wait() }()
	select {
	case err := <-done:
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			c.w.t.Fatalf("the child ended by itself: %v", err)
		}
	case <-time.After(30 * time.Second):
		_ = c.cmd.Process.Kill()
		<-done
		c.w.t.Fatal("the child did not come to the point")
	}
}

// holds compares the ConfigMaps that carry the owner's labels, and the
// inventory, with what Git says.
func (w *world) holds(name string, want map[string]string) {
	w.t.Helper()
	var list corev1.ConfigMapList
	if err := w.client.List(w.ctx, &list, client.InNamespace(w.ns), client.MatchingLabels{group + "/name": name}); err != nil {
		w.t.Fatal(err)
	}
	got, listed := map[string]string{}, map[string]string{}
	for _, c := range list.Items {
		got[c.Name] = c.Data["key"]
	}
	for _, r := range apply.Refs(w.get(name).Status.Inventory) {
		listed[r.Name] = got[r.Name]
	}
	if d := cmp.Diff(want, got); d != "" {
		w.t.Errorf("in the cluster (-Git +cluster): %s", d)
	}
	if d := cmp.Diff(want, listed); d != "" {
		w.t.Errorf("in the inventory (-Git +inventory): %s", d)
	}
}

// TestF01KilledAtEveryPoint: kill -9 in each step of a reconcile and a restart
// give what a reconcile without it gives: nothing is orphaned, and nothing is
// there that Git does not say.
func TestF01KilledAtEveryPoint(t *testing.T) {
	w := newWorld(t, "admin")
	c := newChild(t, w)
	c.start("")
	w.kustomization("app", func(s *kustomizev1.KustomizationSpec) { s.Wait = true })
	revision := w.publish("repo", map[string]string{"a.yaml": cm("a", "0"), "x0.yaml": cm("x0", "0")})
	w.ready("app", revision)
	w.holds("app", map[string]string{"a": "0", "x0": "0"})
	c.kill()
	points := []string{"fetch", "build", "recorded", "apply", "apply:1", "applied", "prune", "pruned", "status"}
	for i, point := range points {
		t.Run(strings.ReplaceAll(point, ":", "-"), func(t *testing.T) {
			w := w.in(t)
			c := &child{w: w, dir: c.dir}
			t.Cleanup(c.kill)
			value, fresh := strconv.Itoa(i+1), "x"+strconv.Itoa(i+1)
			w.n = i + 1
			revision := w.publish("repo", map[string]string{"a.yaml": cm("a", value), fresh + ".yaml": cm(fresh, value)})
			c.start(point)
			c.dies()
			c.start("")
			w.ready("app", revision)
			w.holds("app", map[string]string{"a": value, fresh: value})
		})
	}
}

// TestF01KilledAndGitMovedOn: what a killed process made is not orphaned although
// Git has forgotten it when the next one starts; by a first apply, and by a
// later one.
func TestF01KilledAndGitMovedOn(t *testing.T) {
	w := newWorld(t, "admin")
	c := newChild(t, w)
	for i, point := range []string{"recorded", "apply:1", "applied", "pruned", "status"} {
		t.Run(strings.ReplaceAll(point, ":", "-"), func(t *testing.T) {
			w := w.in(t)
			name := fmt.Sprintf("app%d", i)
			w.kustomization(name, func(s *kustomizev1.KustomizationSpec) { s.Path = name })
			for round := range 2 {
				c := &child{w: w, dir: c.dir}
				t.Cleanup(c.kill)
				w.n = 4*i + 2*round
				files := map[string]string{name + "/a.yaml": cm(name, point)}
				for n := range 3 {
					extra := fmt.Sprintf("x%d-%d-%d", i, round, n)
					files[name+"/"+extra+".yaml"] = cm(extra, "1")
				}
				w.publish("repo", files)
				c.start(point)
				c.dies()
				revision := w.publish("repo", map[string]string{name + "/a.yaml": cm(name, "next")})
				c.start("")
				w.ready(name, revision)
				w.holds(name, map[string]string{name: "next"})
				c.kill()
			}
		})
	}
}

// TestWarmRestart: after a restart nothing is built or applied, and no status
// is written, for what is as it was left.
func TestWarmRestart(t *testing.T) {
	w := newWorld(t, "admin")
	c := newChild(t, w)
	c.start("")
	files := map[string]string{"one/a.yaml": cm("a", "1"), "two/b.yaml": cm("b", "1"), "probe/p.yaml": cm("p", "1")}
	revision := w.publish("repo", files)
	for _, name := range []string{"one", "two"} {
		w.kustomization(name, func(s *kustomizev1.KustomizationSpec) { s.Path, s.Wait = name, true })
	}
	w.ready("one", revision)
	w.ready("two", revision)
	if kept, err := filepath.Glob(filepath.Join(c.dir, "kustomizations", w.ns, "*.json")); err != nil || len(kept) != 2 {
		t.Errorf("kept %v, %v", kept, err)
	}
	c.kill()
	mark := len(w.requests())
	c.start("")
	w.kustomization("probe", func(s *kustomizev1.KustomizationSpec) { s.Path = "probe" })
	w.ready("probe", revision)
	for _, a := range w.requests()[mark:] {
		if a.Verb != "list" && a.Verb != "watch" && a.Verb != "create" && a.ObjectRef.Name != "probe" && a.ObjectRef.Name != "p" && a.ObjectRef.Resource != "events" {
			t.Errorf("%s %s/%s %s", a.Verb, a.ObjectRef.Resource, a.ObjectRef.Subresource, a.ObjectRef.Name)
		}
	}
	// What changed while nobody looked is found.
	c.kill()
	a, err := w.configMap("a")
	if err != nil {
		t.Fatal(err)
	}
	a.Data["key"] = "drift"
	if err := w.client.Update(w.ctx, a); err != nil {
		t.Fatal(err)
	}
	c.start("")
	kubetest.Eventually(t, 15*time.Second, func() error {
		if a, err := w.configMap("a"); err != nil || a.Data["key"] != "1" {
			return fmt.Errorf("a = %v, %v", a.Data, err)
		}
		return nil
	})
}

func TestStore(t *testing.T) {
	s := store{t.TempDir()}
	key := types.NamespacedName{Namespace: "n", Name: "k"}
	n := known{generation: 3, artifact: "sha256:a", digest: "d", refs: []apply.Ref{inputRef("ConfigMap", "n", "x")}}
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "a.yaml"), []byte(cm("a", "1")), 0o600); err != nil {
		t.Fatal(err)
	}
	built, err := manifest.Build(t.Context(), manifest.Request{Root: root, Spec: &kustomizev1.KustomizationSpec{}})
	if err != nil {
		t.Fatal(err)
	}
	n.record = built.Read
	receipts := []apply.Receipt{{ID: n.refs[0].ID, Want: "w", Fields: "f", Seen: "u"}}
	if err := s.save(key, "uid", n, receipts); err != nil {
		t.Fatal(err)
	}
	got, back, ok := s.load(key, "uid")
	if !ok || !got.restored || got.generation != 3 || got.refs[0] != n.refs[0] || got.record.Inputs != n.record.Inputs {
		t.Errorf("got %+v, %v", got, ok)
	}
	if d := cmp.Diff(receipts, back); d != "" {
		t.Error(d)
	}
	if _, _, ok := s.load(key, "another"); ok {
		t.Error("the record of an object of the same name was taken")
	}
	file := s.file(key)
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{"cut": raw[:len(raw)-5], "empty": nil, "changed": append([]byte{'x'}, raw[1:]...)} {
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, ok := s.load(key, "uid"); ok {
			t.Errorf("a damaged file was taken: %s", name)
		}
	}
	s.sweep(func(types.NamespacedName) bool { return false })
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the file of an object that is gone is there: %v", err)
	}
	if err := (store{}).save(key, "uid", n, nil); err != nil {
		t.Error(err)
	}
}

package apps

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kube "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"headwater.dev/dev/child"
	"headwater.dev/dev/cluster"
	"headwater.dev/dev/gitserver"
	"headwater.dev/dev/k8s"
	"headwater.dev/kernel/host"
)

const (
	// patience is how long one step may take before it counts as failed.
	patience = 10 * time.Minute
	// settling is how long the loops are left alone after their start: what only
	// the start needed is given back by then.
	settling = 17 * time.Second
	manager  = "bench"
)

// world is a control plane with a Git server, and the loops once they are started.
type world struct {
	dir, agent string
	cluster    *cluster.Cluster
	git        *gitserver.Server
	kube       kube.WithWatch
	loops      *child.Child
	metrics    string // address of the loops' metrics
	progress   io.Writer
}

func newWorld(ctx context.Context, dir, agent string, progress io.Writer) (*world, error) {
	binary, err := k8s.Ensure(ctx, progress)
	if err != nil {
		return nil, err
	}
	if agent, err = filepath.Abs(agent); err != nil {
		return nil, fmt.Errorf("find the agent: %w", err)
	}
	w := &world{dir: dir, agent: agent, progress: progress}
	w.cluster, err = cluster.Start(ctx, cluster.Options{Name: "apps", Dir: filepath.Join(dir, "cluster"), Binary: binary})
	if err != nil {
		return nil, err
	}
	err = w.prepare(ctx)
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// prepare does everything but the loops.
func (w *world) prepare(ctx context.Context) error {
	if err := w.cluster.StartControllers(ctx); err != nil {
		return err
	}
	config, err := w.cluster.Config()
	if err != nil {
		return err
	}
	scheme, err := host.Scheme()
	if err != nil {
		return err
	}
	if w.kube, err = kube.NewWithWatch(config, kube.Options{Scheme: scheme}); err != nil {
		return fmt.Errorf("make the cluster's client: %w", err)
	}
	if w.git, err = gitserver.Start(gitserver.Config{Dir: filepath.Join(w.dir, "git")}); err != nil {
		return err
	}
	return w.definitions(ctx)
}

// definitions installs those of the Flux API and waits until they are served.
func (w *world) definitions(ctx context.Context) error {
	root, err := k8s.ModuleRoot()
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(root, "deploy", "crds", "flux", "*.yaml"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("the repository has no definitions below deploy/crds/flux (%w)", errors.Join(err, os.ErrNotExist))
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read definition: %w", err)
		}
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(raw, &u.Object); err != nil {
			return fmt.Errorf("read definition %s: %w", file, err)
		}
		if err := w.apply(ctx, u); err != nil {
			return err
		}
	}
	return w.until(ctx, "serve the Flux API", func(ctx context.Context) error {
		return errors.Join(w.kube.List(ctx, kustomizations()), w.kube.List(ctx, repositories()))
	})
}

// startLoops starts the program and returns when it has settled.
func (w *world) startLoops(ctx context.Context) error {
	var addresses [3]string
	for i := range addresses {
		port, err := cluster.FreePort()
		if err != nil {
			return err
		}
		addresses[i] = net.JoinHostPort("127.0.0.1", fmt.Sprint(port))
	}
	w.metrics = addresses[0]
	var err error
	w.loops, err = child.Start(child.Spec{Name: "loops", Path: w.agent, Dir: w.dir, Log: filepath.Join(w.dir, "loops.log"), Args: []string{
		"controllers", "--kubeconfig", w.cluster.Kubeconfig(), "--enable=source,kustomize,helm", "--metrics-addr", w.metrics,
		"--health-addr", addresses[1], "--storage-addr", addresses[2], "--storage-adv-addr", addresses[2], "--storage-path", filepath.Join(w.dir, "storage"),
		// as upstream by default: everybody acts as the controllers
		"--no-cross-namespace-refs=false", "--default-service-account=", "--no-remote-bases=false",
	}})
	if err != nil {
		return fmt.Errorf("%w (make build makes the programs)", err)
	}
	if err := w.loops.Await(ctx, patience, func(ctx context.Context) error { _, err := w.requests(ctx); return err }); err != nil {
		return err
	}
	return pause(ctx, settling)
}

// pause is time that a scenario leaves to what it measures.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (w *world) close() error {
	var failed error
	if w.loops != nil {
		failed = w.loops.Stop(time.Second)
	}
	if w.git != nil {
		failed = errors.Join(failed, w.git.Close())
	}
	return errors.Join(failed, w.cluster.Stop())
}

// tail is what the loops said last.
func (w *world) tail() string {
	if w.loops == nil {
		return "(they were not started)"
	}
	return w.loops.Tail()
}

// apply writes an object as this program.
func (w *world) apply(ctx context.Context, u *unstructured.Unstructured) error {
	if err := w.kube.Apply(ctx, kube.ApplyConfigurationFromUnstructured(u), kube.FieldOwner(manager), kube.ForceOwnership); err != nil {
		return fmt.Errorf("apply %s %s: %w", u.GetKind(), u.GetName(), err)
	}
	return nil
}

// namespace makes one; its default service account comes later and is not needed.
func (w *world) namespace(ctx context.Context, name string) error {
	err := w.kube.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create namespace %s: %w", name, err)
	}
	return nil
}

// dropNamespace deletes one and returns when it has gone with all that was in it.
func (w *world) dropNamespace(ctx context.Context, name string) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := kube.IgnoreNotFound(w.kube.Delete(ctx, ns)); err != nil {
		return fmt.Errorf("delete namespace %s: %w", name, err)
	}
	return w.until(ctx, "empty namespace "+name, func(ctx context.Context) error {
		err := w.kube.Get(ctx, kube.ObjectKeyFromObject(ns), ns)
		if err == nil {
			return errors.New("it is still there")
		}
		return kube.IgnoreNotFound(err)
	})
}

// commit makes a repository hold files, and returns the revision that its source will have.
func (w *world) commit(repository string, files map[string]string) (string, error) {
	if err := w.git.CreateRepository(repository, false); err != nil {
		return "", err
	}
	hash, err := w.git.CommitChange(repository, "main", gitserver.Change{Message: "change", Write: files, Replace: true})
	return "main@sha1:" + hash, err
}

// until asks until there is no error; it is for what is not measured.
func (w *world) until(ctx context.Context, what string, done func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := done(ctx)
		if err == nil {
			return nil
		}
		if stopped := pause(ctx, 100*time.Millisecond); stopped != nil {
			return fmt.Errorf("%s: %w", what, errors.Join(stopped, err))
		}
	}
}

// requests is how many the loops' clients have sent to the API server.
func (w *world) requests(ctx context.Context) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.metrics+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("read the loops' metrics: %w", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(res.Status)
	}
	if err != nil {
		return 0, fmt.Errorf("read the loops' metrics: %w", err)
	}
	return sum(strings.Lines(string(text)), "rest_client_requests_total{")
}

// Package hostpod makes the pods of a simulated node real enough: for every
// Deployment of Headwater's own charts it runs the container's command as a
// process of this machine, with a token of the pod's service account, so that
// the access rights of the charts are the ones that count. It plays the
// kubelet for these Deployments and for nothing else.
package hostpod

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// Selector chooses the Deployments that are run.
const Selector = "app.kubernetes.io/part-of=headwater"

// Config of a Runner. All fields but Kubelet are required.
type Config struct {
	// Config is an administrator's access to the cluster.
	Config *rest.Config
	// Programs is the folder with a program for each image: bin/agent for headwater.dev/agent:1.
	Programs string
	// Dir is the folder for the processes' files (kubeconfig, token, storage), one folder each.
	Dir string
	// Logs is the folder for the processes' output: <deployment>.log.
	Logs string
	// Logger is told when processes start and end.
	Logger *slog.Logger
	// Kubelet makes kubectl logs work; nil: it does not.
	Kubelet *Kubelet
}

// Process says how a Deployment's process does.
type Process struct {
	Namespace, Deployment string
	PID                   int    // 0 while it does not run
	Restarts              int    // since the Deployment's last change
	Problem               string // why it does not run, or ended last; empty when it never did
	Log                   string
}

// Runner keeps one process for each chosen Deployment.
type Runner struct {
	config Config
	client kubernetes.Interface

	mu   sync.Mutex
	pods map[string]*pod // by namespace/deployment
	last map[string]ports
}

// New returns a Runner for the cluster; Run starts it.
func New(c Config) (*Runner, error) {
	client, err := kubernetes.NewForConfig(c.Config)
	if err != nil {
		return nil, fmt.Errorf("make client for host processes: %w", err)
	}
	return &Runner{config: c, client: client, pods: map[string]*pod{}, last: map[string]ports{}}, nil
}

// Run runs processes until the context is cancelled, and returns when the last
// of them has ended.
func (r *Runner) Run(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(r.client, 0,
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = Selector }))
	deployments := factory.Apps().V1().Deployments().Informer()
	changed := make(chan struct{}, 1)
	wake := func(any) {
		select {
		case changed <- struct{}{}:
		default: // one round is pending already, and rounds look at everything
		}
	}
	_, err := deployments.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: wake, UpdateFunc: func(_, o any) { wake(o) }, DeleteFunc: wake,
	})
	if err != nil {
		return fmt.Errorf("watch deployments: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	serving := make(chan error, 1)
	if r.config.Kubelet == nil {
		close(serving)
	} else {
		go func() {
			err := r.serve(ctx, *r.config.Kubelet)
			if err != nil {
				r.config.Logger.Error("kubectl logs does not work", "error", err)
			}
			serving <- err
		}()
	}
	err = r.follow(ctx, factory, deployments, changed)
	cancel()
	return errors.Join(err, <-serving)
}

// follow keeps the processes as the Deployments want them.
func (r *Runner) follow(ctx context.Context, factory informers.SharedInformerFactory, deployments cache.SharedIndexInformer, changed <-chan struct{}) error {
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer r.stopAll()
	if !cache.WaitForCacheSync(ctx.Done(), deployments.HasSynced) {
		return nil // cancelled
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			r.round(ctx, deployments.GetStore().List())
		}
	}
}

// round starts, replaces and stops processes after the Deployments that there are.
func (r *Runner) round(ctx context.Context, objects []any) {
	wanted := map[string]*appsv1.Deployment{}
	for _, object := range objects {
		d, ok := object.(*appsv1.Deployment)
		if ok && d.DeletionTimestamp == nil && (d.Spec.Replicas == nil || *d.Spec.Replicas > 0) {
			wanted[d.Namespace+"/"+d.Name] = d
		}
	}
	for _, p := range r.running() {
		d, ok := wanted[p.key()]
		if ok && fingerprint(d) == p.fingerprint {
			delete(wanted, p.key())
			continue
		}
		p.stop()
		r.mu.Lock()
		delete(r.pods, p.key())
		r.mu.Unlock()
		if !ok {
			p.forget()
		}
	}
	for key, d := range wanted {
		if err := r.start(ctx, key, d); err != nil {
			r.config.Logger.Error("cannot run deployment", "deployment", key, "error", err)
		}
	}
}

func (r *Runner) start(ctx context.Context, key string, d *appsv1.Deployment) error {
	p := &pod{
		client: r.client, config: r.config, deployment: d.DeepCopy(), fingerprint: fingerprint(d),
		dir: filepath.Join(r.config.Dir, d.Namespace+"-"+d.Name), log: filepath.Join(r.config.Logs, d.Name+".log"),
		done: make(chan struct{}),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	// A replaced process keeps its ports: artifact URLs that it handed out stay true.
	if p.ports = r.last[key]; p.ports == (ports{}) {
		if p.ports, err = freePorts(); err != nil {
			return err
		}
		r.last[key] = p.ports
	}
	ctx, p.cancel = context.WithCancel(ctx)
	r.pods[key] = p
	go p.run(ctx)
	return nil
}

// Processes returns the state of all processes, ordered by namespace and name.
func (r *Runner) Processes() []Process {
	var processes []Process
	for _, p := range r.running() {
		processes = append(processes, p.state())
	}
	slices.SortFunc(processes, func(a, b Process) int {
		return strings.Compare(a.Namespace+"/"+a.Deployment, b.Namespace+"/"+b.Deployment)
	})
	return processes
}

func (r *Runner) running() []*pod {
	r.mu.Lock()
	defer r.mu.Unlock()
	pods := make([]*pod, 0, len(r.pods))
	for _, p := range r.pods {
		pods = append(pods, p)
	}
	return pods
}

func (r *Runner) stopAll() {
	pods := r.running()
	for _, p := range pods {
		p.cancel()
	}
	for _, p := range pods {
		<-p.done
	}
}

// fingerprint changes when the Deployment's pods would be replaced.
func fingerprint(d *appsv1.Deployment) string {
	template, err := json.Marshal(d.Spec.Template)
	if err != nil { // an object that was decoded from JSON
		return d.ResourceVersion
	}
	sum := sha256.Sum256(append(template, d.UID...))
	return hex.EncodeToString(sum[:])
}

// container returns the container to run: the only one, or that called manager.
func container(d *appsv1.Deployment) (corev1.Container, error) {
	containers := d.Spec.Template.Spec.Containers
	if len(containers) == 1 {
		return containers[0], nil
	}
	for _, c := range containers {
		if c.Name == "manager" {
			return c, nil
		}
	}
	return corev1.Container{}, errors.New("none of its containers is called manager")
}

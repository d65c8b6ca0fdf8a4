package hostpod

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/client-go/kubernetes"

	"headwater.dev/dev/child"
	"headwater.dev/dev/cluster"
)

const (
	// firstPause and longestPause bound the time between the end of a process
	// and its next start; it doubles each time.
	firstPause   = time.Second
	longestPause = 30 * time.Second
	// healthyAfter is how long a process has to run to be started again at once.
	healthyAfter = time.Minute
	// grace is how long a process may take to end when asked to.
	grace = 5 * time.Second
)

// ports that a process listens on, all of 127.0.0.1.
type ports struct{ metrics, health, storage int }

func freePorts() (p ports, err error) {
	for _, port := range []*int{&p.metrics, &p.health, &p.storage} {
		if *port, err = cluster.FreePort(); err != nil {
			return ports{}, err
		}
	}
	return p, nil
}

// pod runs one version of one Deployment.
type pod struct {
	client      kubernetes.Interface
	config      Config
	deployment  *appsv1.Deployment
	fingerprint string
	dir, log    string
	ports       ports
	cancel      context.CancelFunc
	done        chan struct{} // closed when the process is gone

	mu       sync.Mutex
	pid      int
	restarts int
	problem  string
}

func (p *pod) key() string { return p.deployment.Namespace + "/" + p.deployment.Name }

// stop ends the process and returns when it is gone.
func (p *pod) stop() {
	p.cancel()
	<-p.done
}

// forget removes the files of a stopped pod; its log stays.
func (p *pod) forget() {
	if err := os.RemoveAll(p.dir); err != nil {
		p.config.Logger.Error("cannot remove files of deployment", "deployment", p.key(), "error", err)
	}
}

// run keeps the process running until the context is cancelled.
func (p *pod) run(ctx context.Context) {
	defer close(p.done)
	pause := firstPause
	for {
		began := time.Now()
		err := p.once(ctx)
		if ctx.Err() != nil {
			return
		}
		p.config.Logger.Warn("process ended", "deployment", p.key(), "error", err)
		p.note(err)
		if time.Since(began) > healthyAfter {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, longestPause)
	}
}

// once runs the process a single time. Its error says why it ended.
func (p *pod) once(ctx context.Context) error {
	spec, err := p.prepare(ctx)
	if err != nil {
		return err
	}
	refreshing, stop := context.WithCancel(ctx)
	refreshed := make(chan struct{})
	expires, err := p.writeToken(ctx)
	if err != nil {
		stop()
		return err
	}
	go func() {
		defer close(refreshed)
		p.keepToken(refreshing, expires)
	}()
	defer func() { stop(); <-refreshed }()

	process, err := child.Start(spec)
	if err != nil {
		return err
	}
	p.setPID(process.PID())
	defer p.setPID(0)
	p.config.Logger.Info("process started", "deployment", p.key(), "pid", process.PID())
	select {
	case <-process.Done():
		return process.Exited()
	case <-ctx.Done():
		return process.Stop(grace)
	}
}

// prepare writes the kubeconfig and says what to start.
func (p *pod) prepare(ctx context.Context) (child.Spec, error) {
	c, err := container(p.deployment)
	if err != nil {
		return child.Spec{}, err
	}
	if err := os.MkdirAll(filepath.Join(p.dir, "storage"), 0o700); err != nil {
		return child.Spec{}, fmt.Errorf("create process folder: %w", err)
	}
	if err := p.writeKubeconfig(); err != nil {
		return child.Spec{}, err
	}
	variables, err := p.environment(ctx, c)
	if err != nil {
		return child.Spec{}, err
	}
	program, arguments := commandLine(c)
	path := filepath.Join(p.config.Programs, program)
	if _, err := os.Stat(path); err != nil {
		return child.Spec{}, fmt.Errorf("image %s has no program on this machine (make build makes it): %w", c.Image, err)
	}
	for i := range arguments {
		arguments[i] = expand(arguments[i], variables)
	}
	return child.Spec{
		Name: p.deployment.Name, Path: path, Args: arguments, Env: flatten(variables), Dir: p.dir, Log: p.log,
	}, nil
}

func (p *pod) setPID(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pid = pid
}

// note remembers an end that nobody wanted.
func (p *pod) note(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.restarts++
	if err != nil {
		p.problem = err.Error()
	}
}

func (p *pod) state() Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Process{
		Namespace: p.deployment.Namespace, Deployment: p.deployment.Name,
		PID: p.pid, Restarts: p.restarts, Problem: p.problem, Log: p.log,
	}
}

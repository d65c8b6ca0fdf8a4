// Package extension installs what a cluster needs for GitOps, as the extension
// microsoft.flux: the kinds, and a Helm release with the controllers. It
// upgrades them when settings or version change, puts back what vanishes, and
// removes them on request.
//
// One goroutine does everything, so no two Helm operations of a cluster ever
// meet; a release that a crash left pending is taken over.
package extension

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"headwater.dev/api/link"
	"headwater.dev/kernel/release"
)

const (
	// Namespace that the extension lives in.
	Namespace = "flux-system"
	// releaseName is the Helm release.
	releaseName = "flux"
	// deployment runs the controllers.
	deployment = "flux-controllers"
	// secretName keeps protected settings.
	secretName = "flux-extension-protected-parameters"
)

// Image is what the controllers run.
type Image struct {
	// Reference is repository:tag.
	Reference  string
	PullPolicy string
}

// Settings keeps protected settings in Secrets.
type Settings interface {
	// Keep makes the Secret hold a version, or removes it for version "".
	Keep(ctx context.Context, namespace, name, version string, sealed []byte) error
	// Read returns what the Secret holds.
	Read(ctx context.Context, namespace, name string) (map[string]string, error)
}

// Config is what a Manager needs.
type Config struct {
	REST     *rest.Config
	Settings Settings
	Image    Image
	// Version of the extension that this agent brings.
	Version string
	// Bounded says that the cluster's owner bounds the hub: settings that would lift
	// the bounds are refused.
	Bounded bool
	// Report takes observations; it must not block.
	Report func(link.Observed)
	Now    func() time.Time
	// Deadline is how long the controllers may take to become available before
	// the operation counts as failed; 0 means 5 minutes.
	Deadline time.Duration
	Log      logr.Logger
}

// Manager is the loop over the extension.
type Manager struct {
	config   Config
	kube     kubernetes.Interface
	dynamic  dynamic.Interface
	metadata metadata.Interface
	releases *release.Client
	kinds    []kind
	wake     chan struct{}

	mu      sync.Mutex
	desired link.Desired

	// The rest belongs to the goroutine of Run.
	reported map[string]link.Observed
	begun    map[string]begun
	verified map[string]seen
}

// begun is when a generation of an item began to differ from what is there.
type begun struct {
	generation int64
	at         time.Time
}

// New prepares a Manager; it makes no request.
func New(c Config) (*Manager, error) {
	if c.REST == nil || c.Settings == nil || c.Report == nil || c.Now == nil || c.Image.Reference == "" || c.Version == "" {
		return nil, errors.New("an extension manager needs a cluster, a keeper of settings, a receiver of reports, a clock, an image and a version")
	}
	if c.Deadline == 0 {
		c.Deadline = 5 * time.Minute
	}
	m := &Manager{config: c, wake: make(chan struct{}, 1), reported: map[string]link.Observed{}, begun: map[string]begun{}, verified: map[string]seen{}}
	var err error
	if m.kinds, err = kinds(); err != nil {
		return nil, err
	}
	if m.kube, err = kubernetes.NewForConfig(c.REST); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	if m.dynamic, err = dynamic.NewForConfig(c.REST); err != nil {
		return nil, fmt.Errorf("make dynamic client: %w", err)
	}
	if m.metadata, err = metadata.NewForConfig(c.REST); err != nil {
		return nil, fmt.Errorf("make metadata client: %w", err)
	}
	if m.releases, err = release.NewForConfig(c.REST); err != nil {
		return nil, err
	}
	return m, nil
}

// Desired takes everything that the hub wants. It does not block.
func (m *Manager) Desired(d link.Desired) {
	m.mu.Lock()
	m.desired = d
	m.mu.Unlock()
	m.poke()
}

func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *Manager) snapshot() link.Desired {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.desired
}

// Times of the loop.
const (
	// verifyEvery is when everything is looked at again from scratch.
	verifyEvery = 5 * time.Minute
	// settle gathers what happens at once.
	settle = 200 * time.Millisecond
	// retryFirst and retryMax are the pauses after failures.
	retryFirst, retryMax = time.Second, time.Minute
)

// Run manages the extension until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	m.watch(ctx)
	pause := retryFirst
	for {
		again := verifyEvery
		if err := m.step(ctx); err != nil && ctx.Err() == nil {
			m.config.Log.Info("extension not as desired, will retry", "error", err.Error())
			again, pause = pause, min(pause*2, retryMax)
		} else {
			pause = retryFirst
		}
		timer := time.NewTimer(again)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case <-m.wake:
			timer.Stop()
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(settle):
			}
		}
	}
}

// trouble says since when an item has not been as asked for, and whether that
// is longer than the deadline.
func (m *Manager) trouble(item link.Item, good bool) (since time.Time, late bool) {
	if good {
		delete(m.begun, item.ID)
		return time.Time{}, false
	}
	b, ok := m.begun[item.ID]
	if !ok || b.generation != item.Generation {
		b = begun{item.Generation, m.config.Now()}
		m.begun[item.ID] = b
	}
	return b.at, m.config.Now().Sub(b.at) > m.config.Deadline
}

// report hands an observation on when it says something new.
func (m *Manager) report(o link.Observed) {
	if last, known := m.reported[o.ID]; known && reflect.DeepEqual(last, o) {
		return
	}
	m.reported[o.ID] = o
	if o.Extension != nil {
		now := m.config.Now().UTC()
		stamped := *o.Extension
		stamped.StatusUpdatedAt = &now
		o.Extension = &stamped
	}
	m.config.Report(o)
}

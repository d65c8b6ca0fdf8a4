// Package agent is the cluster's end of the line: it connects the cluster to
// its hub, installs the extension that runs the controllers, and mirrors
// configurations into the cluster and their state back.
package agent

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"headwater.dev/agent/extension"
	"headwater.dev/agent/mirror"
	"headwater.dev/agent/uplink"
	"headwater.dev/api/link"
)

// Config is what an Agent needs.
type Config struct {
	// REST reaches the cluster that the agent runs in.
	REST *rest.Config
	// Hub is the hub's https URL, and CA the PEM of who signed its certificate.
	Hub string
	CA  []byte
	// Cluster is the ARM id of the cluster, and Key its private key. Rotation is
	// what is kept of the keys before and after it.
	Cluster  string
	Key      *rsa.PrivateKey
	Rotation rotation
	// RotateEvery is how often the key is replaced; 0 for only when the hub asks.
	RotateEvery time.Duration
	// Namespace of the agent.
	Namespace string
	// Known is how far the hub's wishes had come before this process began.
	Known uplink.Mark
	// Version of this agent, which is also that of the extension it brings.
	Version string
	Image   extension.Image
	Guard   mirror.Guard
	Log     logr.Logger
	// Traces takes the agent's spans; nil for none.
	Traces trace.TracerProvider
	// enrolling says that the hub does not know the key yet.
	enrolling bool
}

// Agent is the three parts, wired together.
type Agent struct {
	uplink    *uplink.Uplink
	extension *extension.Manager
	mirror    *mirror.Mirror
	state     *state
}

// New checks the configuration and wires the parts; it makes no request.
func New(c Config) (*Agent, error) {
	if c.REST == nil {
		return nil, errors.New("an agent needs a cluster")
	}
	kube, err := kubernetes.NewForConfig(c.REST)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	a := &Agent{state: newState(kube, c.Namespace, identityOf(c.Hub, c.Cluster))}
	ring, err := newKeyring(kube, c)
	if err != nil {
		return nil, err
	}
	keeper := &settings{kube: kube, keys: ring.all}
	pulse := &heart{kube: kube, version: c.Version, now: time.Now}
	a.uplink, err = uplink.New(uplink.Config{
		Hub: c.Hub, CA: c.CA, Cluster: c.Cluster, Keyring: ring,
		Desired: a.desired, Heartbeat: pulse.beat, Log: c.Log.WithName("uplink"),
		Known: c.Known, Remember: a.state.remember, Tracer: tracer(c, "uplink"),
	})
	if err != nil {
		return nil, err
	}
	a.extension, err = extension.New(extension.Config{
		REST: c.REST, Settings: keeper, Image: c.Image, Version: c.Version, Bounded: c.Guard.Bounds(),
		Report: a.uplink.Report, Now: time.Now, Log: c.Log.WithName("extension"),
	})
	if err != nil {
		return nil, err
	}
	a.mirror, err = mirror.New(mirror.Config{
		REST: c.REST, Settings: keeper, Guard: c.Guard, Tracer: tracer(c, "mirror"),
		Report: a.uplink.Report, Now: time.Now, Log: c.Log.WithName("mirror"),
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// tracer is nil when nobody traces.
func tracer(c Config, part string) trace.Tracer {
	if c.Traces == nil {
		return nil
	}
	return c.Traces.Tracer("headwater.dev/agent/" + part)
}

// desired hands each part what is its own.
func (a *Agent) desired(d link.Desired) {
	a.extension.Desired(d)
	a.mirror.Desired(configurations(d.Items))
}

func configurations(items []link.Item) []link.Item {
	var list []link.Item
	for _, item := range items {
		if item.Configuration != nil {
			list = append(list, item)
		}
	}
	return list
}

// Run works until ctx ends. A hub that is away does not end it.
func (a *Agent) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.uplink.Run(ctx) })
	g.Go(func() error { return a.extension.Run(ctx) })
	g.Go(func() error { return a.mirror.Run(ctx) })
	return g.Wait()
}

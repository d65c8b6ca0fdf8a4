package main

import (
	"context"
	"crypto/rsa"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"

	"headwater.dev/agent/uplink"
	"headwater.dev/api/link"
	"headwater.dev/api/resource"
)

// member is one simulated cluster: it accepts everything at once.
type member struct {
	id  string
	key *rsa.PrivateKey
	// connections is how often a first message of a connection came in.
	connections atomic.Int64

	mu sync.Mutex
	// delivered is when each path of the configuration first arrived.
	delivered map[string]time.Time
	accepted  map[string]int64
}

func (f *fleet) member(name string, key *rsa.PrivateKey) *member {
	return &member{id: f.user.ClusterID(fleetGroup, "Microsoft.Kubernetes", "connectedClusters", name), key: key,
		delivered: map[string]time.Time{}, accepted: map[string]int64{}}
}

// startAgents starts all agents, spread over a moment as clusters are.
func (f *fleet) startAgents(ctx context.Context, over time.Duration) error {
	ctx, f.stop = context.WithCancel(ctx)
	f.agents, ctx = errgroup.WithContext(ctx)
	ca, err := f.hub.authority()
	if err != nil {
		return err
	}
	for i, m := range f.members {
		var up *uplink.Uplink
		up, err = uplink.New(uplink.Config{Hub: f.hub.url, CA: ca, Cluster: m.id, Key: m.key, Log: logr.Discard(),
			Desired: func(d link.Desired) { m.take(d, up.Report) }, Heartbeat: beat, Connected: func() { m.connections.Add(1) }})
		if err != nil {
			return err
		}
		f.agents.Go(func() error {
			select {
			case <-time.After(over * time.Duration(i) / time.Duration(len(f.members))):
			case <-ctx.Done():
				return nil
			}
			return up.Run(ctx)
		})
	}
	return nil
}

func beat(context.Context) link.Heartbeat {
	return link.Heartbeat{KubernetesVersion: "1.37.2", TotalNodeCount: 3, TotalCoreCount: 12, AgentVersion: "1.0.0"}
}

// take accepts what is new and reports it as compliant.
func (m *member) take(d link.Desired, report func(link.Observed)) {
	now := time.Now().UTC()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, item := range d.Items {
		if m.accepted[item.ID] == item.Generation {
			continue
		}
		m.accepted[item.ID] = item.Generation
		o := link.Observed{ID: item.ID, Generation: item.Generation}
		switch {
		case item.Extension != nil:
			o.Extension = &resource.ExtensionObserved{AcceptedGeneration: item.Generation, AcceptedAt: now, CurrentVersion: "1.0.0"}
		case item.Configuration != nil:
			m.delivered[item.Configuration.Kustomizations["app"].Path] = now
			o.Configuration = &resource.FluxConfigurationObserved{AcceptedGeneration: item.Generation, AcceptedAt: now, StatusUpdatedAt: &now,
				StatusGeneration: item.Generation, ComplianceState: resource.Compliant, SourceSyncedCommitID: "main@sha1:0123456789012345678901234567890123456789",
				Statuses: []resource.ObjectStatus{reported("GitRepository", now), reported("Kustomization", now)}}
		}
		report(o)
	}
}

func reported(kind string, now time.Time) resource.ObjectStatus {
	return resource.ObjectStatus{Name: "app", Namespace: "apps", Kind: kind, ComplianceState: resource.Compliant,
		StatusConditions: []resource.StatusCondition{{LastTransitionTime: now, Type: "Ready", Status: "True", Reason: "ReconciliationSucceeded",
			Message: "Applied revision: main@sha1:0123456789012345678901234567890123456789"}}}
}

// arrived is when a path arrived; zero when it has not.
func (m *member) arrived(path string) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.delivered[path]
}

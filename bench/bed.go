package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"headwater.dev/client"
	"headwater.dev/dev"
	"headwater.dev/kernel/host"
)

// hubVersion is the api-version that scenarios speak.
const hubVersion = "2025-04-01"

// bed is what scenarios run on.
type bed struct {
	system    *dev.System
	kube      kube.WithWatch
	hub       *client.Client
	cluster   string        // its id in the hub
	compliant time.Duration // from the start of the system to the sample compliant
}

// prepare brings a system up and the sample to compliance. When it fails with a
// bed, the bed's system is up.
func prepare(ctx context.Context, dir string, progress io.Writer) (*bed, error) {
	began := time.Now()
	system, err := dev.Up(ctx, dev.Options{Dir: dir, Progress: progress})
	if err != nil {
		return nil, fmt.Errorf("%w (make build makes the programs)", err)
	}
	b := &bed{system: system}
	if err := system.Sample(ctx, progress); err != nil {
		return b, err
	}
	b.compliant = time.Since(began)
	return b, b.connect()
}

// connect makes the clients of the cluster and of the hub.
func (b *bed) connect() error {
	scheme, err := host.Scheme()
	if err != nil {
		return err
	}
	member := b.system.Members[0]
	config, err := member.Config()
	if err != nil {
		return err
	}
	if b.kube, err = kube.NewWithWatch(config, kube.Options{Scheme: scheme}); err != nil {
		return fmt.Errorf("make the cluster's client: %w", err)
	}
	ca, err := os.ReadFile(b.system.Hub.CA())
	if err != nil {
		return fmt.Errorf("read the hub's authority: %w", err)
	}
	admin, err := b.system.Hub.Admin()
	if err != nil {
		return err
	}
	b.hub, err = client.New(client.Config{Hub: b.system.Hub.URL, CA: ca, TenantID: admin.TenantID, SubscriptionID: admin.SubscriptionID,
		ClientID: admin.ClientID, ClientSecret: admin.ClientSecret})
	if err != nil {
		return err
	}
	b.cluster = b.hub.ClusterID(dev.ResourceGroup, "Microsoft.Kubernetes", "connectedClusters", member.Name)
	return nil
}

// startUp is the scenario run: preparing the bed has measured it.
func startUp(_ context.Context, b *bed) (string, error) { return seconds(b.compliant), nil }

package client_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/client"
	"headwater.dev/hub"
)

// connect runs a real hub and returns its administrator's client.
func connect(t *testing.T) *client.Client {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	h, err := hub.New(ctx, hub.Config{DataDir: dir, Listen: "127.0.0.1:0", Locations: []string{"local"}, Unregistered: true})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the hub ended: %v", err)
		}
	})
	config := client.Config{Hub: h.URL()}
	if config.CA, err = os.ReadFile(filepath.Join(dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "admin.json"))
	if err == nil {
		err = json.Unmarshal(raw, &config)
	}
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestTypesAgainstARealHub writes and reads every kind of resource in Go types.
func TestTypesAgainstARealHub(t *testing.T) {
	c, ctx := connect(t), t.Context()
	if _, err := client.Put[client.Resource[struct{}]](ctx, c, c.GroupID("g"), client.VersionCore, client.Resource[struct{}]{Location: "local"}); err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	cluster := client.Resource[client.Cluster]{Location: "local", Identity: &resource.Identity{Type: "SystemAssigned"}}
	cluster.Properties.AgentPublicKeyCertificate = base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&key.PublicKey))
	id := c.ClusterID("g", "Microsoft.Kubernetes", "connectedClusters", "c")
	p, err := client.Put[client.Resource[client.Cluster]](ctx, c, id, client.VersionCluster, cluster)
	if err != nil {
		t.Fatalf("the provider is not registered, and the client does not do it: %v", err)
	}
	got, err := p.Wait(ctx)
	if err != nil || got.Properties.ConnectivityStatus != resource.Connecting || got.Properties.AgentPublicKeyCertificate != cluster.Properties.AgentPublicKeyCertificate {
		t.Errorf("the cluster is %+v, %v", got, err)
	}

	branch := "main"
	want := client.Resource[client.Configuration]{}
	want.Properties.Scope, want.Properties.Namespace, want.Properties.SourceKind = resource.ScopeCluster, "apps", resource.SourceGitRepository
	want.Properties.GitRepository = &resource.GitRepository{URL: "https://h/r", TimeoutInSeconds: 60, SyncIntervalInSeconds: 60, Provider: "Generic",
		RepositoryRef: &resource.RepositoryRef{Branch: &branch}}
	want.Properties.Kustomizations = map[string]resource.Kustomization{"a": {Path: "./a", TimeoutInSeconds: 60, SyncIntervalInSeconds: 60, Wait: true}}
	config := client.ConfigurationID(id, "cfg")
	created, err := client.Put[client.Resource[client.Configuration]](ctx, c, config, client.VersionConfiguration, want)
	if err != nil || created.Done() {
		t.Fatalf("the operation has ended without an agent: %v", err)
	}
	all, err := client.List[client.Resource[client.Configuration]](ctx, c, id+"/providers/"+resource.TypeFluxConfiguration, client.VersionConfiguration)
	if err != nil || len(all) != 1 {
		t.Fatalf("there are %d configurations, %v", len(all), err)
	}
	if diff := cmp.Diff(want.Properties.FluxConfigurationProperties, all[0].Properties.FluxConfigurationProperties); diff != "" {
		t.Errorf("the configuration is not what was asked for: %s", diff)
	}
	patch := map[string]any{"properties": map[string]any{"suspend": true}}
	if _, err := client.Patch[client.Resource[client.Configuration]](ctx, c, config, client.VersionConfiguration, patch); err != nil {
		t.Fatal(err)
	}
	if now, err := client.Get[client.Resource[client.Configuration]](ctx, c, config, client.VersionConfiguration); err != nil || !now.Properties.Suspend {
		t.Errorf("it is not suspended: %v", err)
	}
	// The first configuration brings the extension with it.
	extensions, err := client.List[client.Resource[client.Extension]](ctx, c, id+"/providers/"+resource.TypeExtension, client.VersionConfiguration)
	if err != nil || len(extensions) != 1 || arm.Fold(extensions[0].Properties.ExtensionType) != resource.ExtensionFlux {
		t.Errorf("the extensions are %+v, %v", extensions, err)
	}
	gone, err := client.Delete(ctx, c, config, client.VersionConfiguration, true)
	if err == nil {
		_, err = gone.Wait(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Get[client.Resource[client.Configuration]](ctx, c, config, client.VersionConfiguration); !client.IsNotFound(err) {
		t.Errorf("after deletion: %v", err)
	}
}

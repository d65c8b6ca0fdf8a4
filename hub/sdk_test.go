package hub

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	sdk "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/kubernetesconfiguration/armkubernetesconfiguration/v2"

	"headwater.dev/client"
)

const (
	sdkRP, sdkKind, sdkCluster, sdkGroup = "Microsoft.Kubernetes", "connectedClusters", "berlin", "fleet"
)

var quick = &runtime.PollUntilDoneOptions{Frequency: time.Second}

// azure makes the clients that a user of the SDK makes.
func azure(t *testing.T, r *running) *sdk.ClientFactory {
	t.Helper()
	options := &arm.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: r.http,
		Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: r.URL() + "/", Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
			cloud.ResourceManager: {Endpoint: r.URL(), Audience: r.URL()}}}}}
	credential, err := azidentity.NewClientSecretCredential(r.admin.TenantID, r.admin.ClientID, r.admin.ClientSecret,
		&azidentity.ClientSecretCredentialOptions{ClientOptions: options.ClientOptions, DisableInstanceDiscovery: true})
	if err != nil {
		t.Fatal(err)
	}
	factory, err := sdk.NewClientFactory(r.admin.SubscriptionID, credential, options)
	if err != nil {
		t.Fatal(err)
	}
	return factory
}

// own is our own client for what this SDK does not cover.
func own(t *testing.T, r *running) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{Hub: r.URL(), TenantID: r.admin.TenantID, ClientID: r.admin.ClientID,
		ClientSecret: r.admin.ClientSecret, SubscriptionID: r.admin.SubscriptionID, HTTP: r.http})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// connected makes the group and a cluster with a working agent.
func connected(t *testing.T, r *running) *fake {
	t.Helper()
	c := own(t, r)
	if _, err := client.Put[any](t.Context(), c, c.GroupID(sdkGroup), client.VersionCore, map[string]any{"location": "local"}); err != nil {
		t.Fatal(err)
	}
	id := c.ClusterID(sdkGroup, sdkRP, sdkKind, sdkCluster)
	agent := newFake(t, r, id)
	_, err := client.Put[any](t.Context(), c, id, client.VersionCluster, map[string]any{"location": "local",
		"properties": map[string]any{"agentPublicKeyCertificate": agent.certificate()}})
	if err != nil {
		t.Fatal(err)
	}
	agent.run(t)
	return agent
}

func configuration() sdk.FluxConfiguration {
	return sdk.FluxConfiguration{Properties: &sdk.FluxConfigurationProperties{
		Scope: to.Ptr(sdk.ScopeTypeCluster), Namespace: to.Ptr("apps"), SourceKind: to.Ptr(sdk.SourceKindTypeGitRepository),
		GitRepository: &sdk.GitRepositoryDefinition{URL: to.Ptr("https://git.example/apps.git"), HTTPSUser: to.Ptr("me"),
			RepositoryRef: &sdk.RepositoryRefDefinition{Branch: to.Ptr("main")}},
		ConfigurationProtectedSettings: map[string]*string{"httpsKey": to.Ptr("Y2FuYXJ5LTQ3MTE=")},
		Kustomizations: map[string]*sdk.KustomizationDefinition{
			"infra": {Path: to.Ptr("./infra"), Prune: to.Ptr(true)},
			"apps":  {Path: to.Ptr("./apps"), DependsOn: []*string{to.Ptr("infra")}}},
	}}
}

// TestGoSDK is what a program written for Azure does, with the provider not yet
// registered, as in a new subscription.
func TestGoSDK(t *testing.T) {
	r := run(t, Config{Unregistered: true})
	agent := connected(t, r)
	factory := azure(t, r)
	t.Run("extension", func(t *testing.T) { extensionStory(t, factory) })
	t.Run("configuration", func(t *testing.T) { configurationStory(t, factory, agent) })
	t.Run("end", func(t *testing.T) {
		poller, err := factory.NewExtensionsClient().BeginDelete(t.Context(), sdkGroup, sdkRP, sdkKind, sdkCluster, "flux", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := poller.PollUntilDone(t.Context(), quick); err != nil {
			t.Fatal(err)
		}
	})
}

func extensionStory(t *testing.T, factory *sdk.ClientFactory) {
	extensions := factory.NewExtensionsClient()
	poller, err := extensions.BeginCreate(t.Context(), sdkGroup, sdkRP, sdkKind, sdkCluster, "flux", sdk.Extension{
		Properties: &sdk.ExtensionProperties{ExtensionType: to.Ptr("microsoft.flux"), AutoUpgradeMinorVersion: to.Ptr(true)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	created, err := poller.PollUntilDone(t.Context(), quick)
	if err != nil {
		t.Fatal(err)
	}
	if *created.Properties.ProvisioningState != sdk.ProvisioningStateSucceeded || *created.Properties.CurrentVersion != "1.2.3" {
		t.Errorf("created: %s %s", *created.Properties.ProvisioningState, *created.Properties.CurrentVersion)
	}
	patch, err := extensions.BeginUpdate(t.Context(), sdkGroup, sdkRP, sdkKind, sdkCluster, "flux", sdk.PatchExtension{
		Properties: &sdk.PatchExtensionProperties{ConfigurationSettings: map[string]*string{"helm-controller.enabled": to.Ptr("false")}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	patched, err := patch.PollUntilDone(t.Context(), quick)
	if err != nil {
		t.Fatal(err)
	}
	if v := patched.Properties.ConfigurationSettings["helm-controller.enabled"]; v == nil || *v != "false" {
		t.Errorf("patched settings: %v", patched.Properties.ConfigurationSettings)
	}
	var names []string
	for pager := extensions.NewListPager(sdkGroup, sdkRP, sdkKind, sdkCluster, nil); pager.More(); {
		page, err := pager.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Value {
			names = append(names, *e.Name)
		}
	}
	if len(names) != 1 || names[0] != "flux" {
		t.Errorf("list: %v", names)
	}
}

func configurationStory(t *testing.T, factory *sdk.ClientFactory, agent *fake) {
	configurations := factory.NewFluxConfigurationsClient()
	poller, err := configurations.BeginCreateOrUpdate(t.Context(), sdkGroup, sdkRP, sdkKind, sdkCluster, "apps", configuration(), nil)
	if err != nil {
		t.Fatal(err)
	}
	created, err := poller.PollUntilDone(t.Context(), quick)
	if err != nil {
		t.Fatal(err)
	}
	if *created.Properties.ComplianceState != sdk.FluxComplianceStateCompliant || *created.Properties.SourceSyncedCommitID != "main@sha1:4711" {
		t.Errorf("created: %s %s", *created.Properties.ComplianceState, *created.Properties.SourceSyncedCommitID)
	}
	if got := agent.secret("apps/httpsKey"); got != "Y2FuYXJ5LTQ3MTE=" {
		t.Errorf("the agent was given %q", got)
	}
	if v := created.Properties.ConfigurationProtectedSettings["httpsKey"]; v != nil {
		t.Error("the secret came back")
	}
	again, err := configurations.BeginCreateOrUpdate(t.Context(), sdkGroup, sdkRP, sdkKind, sdkCluster, "apps", created.FluxConfiguration, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !again.Done() {
		t.Error("a PUT of what was fetched is an operation")
	}
	patch, err := configurations.BeginUpdate(t.Context(), sdkGroup, sdkRP, sdkKind, sdkCluster, "apps", sdk.FluxConfigurationPatch{
		Properties: &sdk.FluxConfigurationPatchProperties{Suspend: to.Ptr(true), Kustomizations: map[string]*sdk.KustomizationPatchDefinition{
			"apps": nil, "infra": {Path: to.Ptr("./other")}}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	patched, err := patch.PollUntilDone(t.Context(), quick)
	if err != nil {
		t.Fatal(err)
	}
	if k := patched.Properties.Kustomizations; len(k) != 1 || *k["infra"].Path != "./other" || !*k["infra"].Prune {
		t.Errorf("patched kustomizations: %v", k)
	}
	for pager := configurations.NewListPager(sdkGroup, sdkRP, sdkKind, sdkCluster, nil); pager.More(); {
		page, err := pager.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Value) != 1 {
			t.Errorf("list has %d configurations", len(page.Value))
		}
	}
	gone, err := configurations.BeginDelete(t.Context(), sdkGroup, sdkRP, sdkKind, sdkCluster, "apps", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gone.PollUntilDone(t.Context(), quick); err != nil {
		t.Fatal(err)
	}
	_, err = configurations.Get(t.Context(), sdkGroup, sdkRP, sdkKind, sdkCluster, "apps", nil)
	var failed *azcore.ResponseError
	if !errors.As(err, &failed) || failed.StatusCode != http.StatusNotFound || failed.ErrorCode != "ResourceNotFound" {
		t.Errorf("after deletion: %v", err)
	}
}

// TestRestartInTheMiddle begins an operation, restarts the hub, and polls on.
func TestRestartInTheMiddle(t *testing.T) {
	dir := t.TempDir()
	r := run(t, Config{DataDir: dir})
	c := own(t, r)
	ctx := t.Context()
	if _, err := client.Put[any](ctx, c, c.GroupID(sdkGroup), client.VersionCore, map[string]any{"location": "local"}); err != nil {
		t.Fatal(err)
	}
	id := c.ClusterID(sdkGroup, sdkRP, sdkKind, sdkCluster)
	agent := newFake(t, r, id)
	if _, err := client.Put[any](ctx, c, id, client.VersionCluster, map[string]any{"location": "local",
		"properties": map[string]any{"agentPublicKeyCertificate": agent.certificate()}}); err != nil {
		t.Fatal(err)
	}
	poller, err := client.Put[map[string]any](ctx, c, client.ConfigurationID(id, "apps"), client.VersionConfiguration, map[string]any{
		"properties": map[string]any{"gitRepository": map[string]any{"url": "https://git.example/apps.git"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	second := run(t, Config{DataDir: dir, Listen: r.listener.Addr().String()})
	if second.admin != r.admin || filepath.Dir(second.dir) == "" {
		t.Error("the administrator changed with the restart")
	}
	agent.hub = second
	agent.run(t)
	done, err := poller.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if props := done["properties"].(map[string]any); props["provisioningState"] != "Succeeded" {
		t.Errorf("after the restart: %v", props["provisioningState"])
	}
}

// TestCanary looks for a secret in everything that the hub leaves on disk, says
// in its log, and answers.
func TestCanary(t *testing.T) {
	const canary, encoded = "canary-4711-secret", "Y2FuYXJ5LTQ3MTEtc2VjcmV0"
	var log bytes.Buffer
	dir := t.TempDir()
	r := run(t, Config{DataDir: dir, Logger: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	c := own(t, r)
	ctx := t.Context()
	if _, err := client.Put[any](ctx, c, c.GroupID(sdkGroup), client.VersionCore, map[string]any{"location": "local"}); err != nil {
		t.Fatal(err)
	}
	id := c.ClusterID(sdkGroup, "Microsoft.ContainerService", "managedClusters", sdkCluster) // no key: not sealed, only wrapped
	if _, err := client.Put[any](ctx, c, id, "2024-05-01", map[string]any{"location": "local"}); err != nil {
		t.Fatal(err)
	}
	props := map[string]any{"gitRepository": map[string]any{"url": "https://git.example/apps.git", "httpsUser": "me"},
		"configurationProtectedSettings": map[string]any{"httpsKey": encoded}}
	put, err := client.Put[map[string]any](ctx, c, client.ConfigurationID(id, "apps"), client.VersionConfiguration, map[string]any{"properties": props})
	if err != nil {
		t.Fatal(err)
	}
	props["configurationProtectedSettings"] = map[string]any{"wrong": encoded}
	_, refused := client.Put[any](ctx, c, client.ConfigurationID(id, "apps"), client.VersionConfiguration, map[string]any{"properties": props})
	if refused == nil {
		t.Error("an unknown protected setting is taken")
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	said := map[string]string{"log": log.String(), "answer": fmt.Sprint(put.Accepted()), "refusal": fmt.Sprint(refused)}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		said[path] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(said) < 8 {
		t.Fatalf("looked at %d things only", len(said))
	}
	for where, what := range said {
		if strings.Contains(what, canary) || strings.Contains(what, encoded) {
			t.Errorf("the secret is in %s", where)
		}
	}
}

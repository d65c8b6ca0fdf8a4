// Command sdkproof is what a program does that was written for Azure with one
// version of the SDK for Go. Its test builds it once for each version.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	sdk "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/kubernetesconfiguration/armkubernetesconfiguration/v2"
)

const group, rp, kind, cluster = "fleet", "Microsoft.Kubernetes", "connectedClusters", "berlin"

var quick = &runtime.PollUntilDoneOptions{Frequency: time.Second}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	factory, err := connect()
	if err == nil {
		err = errors.Join(extensions(ctx, factory), configurations(ctx, factory), rest(ctx, factory))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("all is well")
}

func connect() (*sdk.ClientFactory, error) {
	pem, err := os.ReadFile(os.Getenv("HUB_CA"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	hub := os.Getenv("HUB")
	options := &arm.ClientOptions{ClientOptions: azcore.ClientOptions{
		Transport: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}},
		Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: hub + "/", Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
			cloud.ResourceManager: {Endpoint: hub, Audience: hub}}}}}
	credential, err := azidentity.NewClientSecretCredential(os.Getenv("AZURE_TENANT_ID"), os.Getenv("AZURE_CLIENT_ID"), os.Getenv("AZURE_CLIENT_SECRET"),
		&azidentity.ClientSecretCredentialOptions{ClientOptions: options.ClientOptions, DisableInstanceDiscovery: true})
	if err != nil {
		return nil, err
	}
	return sdk.NewClientFactory(os.Getenv("AZURE_SUBSCRIPTION_ID"), credential, options)
}

// done waits for an operation that began without an error.
func done[T any](ctx context.Context, p *runtime.Poller[T], err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return p.PollUntilDone(ctx, quick)
}

func extensions(ctx context.Context, factory *sdk.ClientFactory) error {
	c := factory.NewExtensionsClient()
	p, err := c.BeginCreate(ctx, group, rp, kind, cluster, "flux", sdk.Extension{Properties: &sdk.ExtensionProperties{
		ExtensionType: to.Ptr("microsoft.flux"), AutoUpgradeMinorVersion: to.Ptr(true)}}, nil)
	made, err := done(ctx, p, err)
	if err != nil {
		return fmt.Errorf("create the extension: %w", err)
	}
	if *made.Properties.ProvisioningState != sdk.ProvisioningStateSucceeded {
		return fmt.Errorf("the extension is %s", *made.Properties.ProvisioningState)
	}
	u, err := c.BeginUpdate(ctx, group, rp, kind, cluster, "flux", sdk.PatchExtension{Properties: &sdk.PatchExtensionProperties{
		ConfigurationSettings: map[string]*string{"helm-controller.enabled": to.Ptr("false")}}}, nil)
	changed, err := done(ctx, u, err)
	if err != nil {
		return fmt.Errorf("update the extension: %w", err)
	}
	if v := changed.Properties.ConfigurationSettings["helm-controller.enabled"]; v == nil || *v != "false" {
		return fmt.Errorf("updated settings: %v", changed.Properties.ConfigurationSettings)
	}
	n := 0
	for pager := c.NewListPager(group, rp, kind, cluster, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("list extensions: %w", err)
		}
		n += len(page.Value)
	}
	if n != 1 {
		return fmt.Errorf("%d extensions", n)
	}
	return nil
}

func configurations(ctx context.Context, factory *sdk.ClientFactory) error {
	c := factory.NewFluxConfigurationsClient()
	p, err := c.BeginCreateOrUpdate(ctx, group, rp, kind, cluster, "apps", sdk.FluxConfiguration{Properties: &sdk.FluxConfigurationProperties{
		Scope: to.Ptr(sdk.ScopeTypeCluster), Namespace: to.Ptr("apps"), SourceKind: to.Ptr(sdk.SourceKindTypeGitRepository),
		GitRepository: &sdk.GitRepositoryDefinition{URL: to.Ptr("https://git.example/apps.git"), HTTPSUser: to.Ptr("me"),
			RepositoryRef: &sdk.RepositoryRefDefinition{Branch: to.Ptr("main")}},
		ConfigurationProtectedSettings: map[string]*string{"httpsKey": to.Ptr("c2VjcmV0")},
		Kustomizations: map[string]*sdk.KustomizationDefinition{
			"infra": {Path: to.Ptr("./infra"), Prune: to.Ptr(true)}, "apps": {Path: to.Ptr("./apps"), DependsOn: []*string{to.Ptr("infra")}}}}}, nil)
	made, err := done(ctx, p, err)
	if err != nil {
		return fmt.Errorf("create the configuration: %w", err)
	}
	if *made.Properties.ComplianceState != sdk.FluxComplianceStateCompliant || *made.Properties.SourceSyncedCommitID != "main@sha1:4711" {
		return fmt.Errorf("the configuration is %s at %s", *made.Properties.ComplianceState, *made.Properties.SourceSyncedCommitID)
	}
	if made.Properties.ConfigurationProtectedSettings["httpsKey"] != nil {
		return errors.New("the secret came back")
	}
	again, err := c.BeginCreateOrUpdate(ctx, group, rp, kind, cluster, "apps", made.FluxConfiguration, nil)
	if err != nil || !again.Done() {
		return fmt.Errorf("put what was fetched: done %v: %w", err == nil && again.Done(), err)
	}
	u, err := c.BeginUpdate(ctx, group, rp, kind, cluster, "apps", sdk.FluxConfigurationPatch{Properties: &sdk.FluxConfigurationPatchProperties{
		Suspend: to.Ptr(true), Kustomizations: map[string]*sdk.KustomizationPatchDefinition{"apps": nil, "infra": {Path: to.Ptr("./other")}}}}, nil)
	changed, err := done(ctx, u, err)
	if err != nil {
		return fmt.Errorf("update the configuration: %w", err)
	}
	if k := changed.Properties.Kustomizations; len(k) != 1 || *k["infra"].Path != "./other" || !*k["infra"].Prune {
		return fmt.Errorf("updated kustomizations: %v", k)
	}
	for pager := c.NewListPager(group, rp, kind, cluster, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil || len(page.Value) != 1 {
			return fmt.Errorf("list %d configurations: %w", len(page.Value), err)
		}
	}
	d, err := c.BeginDelete(ctx, group, rp, kind, cluster, "apps", nil)
	if _, err := done(ctx, d, err); err != nil {
		return fmt.Errorf("delete the configuration: %w", err)
	}
	_, err = c.Get(ctx, group, rp, kind, cluster, "apps", nil)
	var failed *azcore.ResponseError
	if !errors.As(err, &failed) || failed.StatusCode != http.StatusNotFound || failed.ErrorCode != "ResourceNotFound" {
		return fmt.Errorf("after the deletion: %w", err)
	}
	return nil
}

// rest reads the older kind of configuration, and removes the extension.
func rest(ctx context.Context, factory *sdk.ClientFactory) error {
	for pager := factory.NewSourceControlConfigurationsClient().NewListPager(group, rp, kind, cluster, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil || len(page.Value) != 0 {
			return fmt.Errorf("list %d source control configurations: %w", len(page.Value), err)
		}
	}
	p, err := factory.NewExtensionsClient().BeginDelete(ctx, group, rp, kind, cluster, "flux", nil)
	if _, err := done(ctx, p, err); err != nil {
		return fmt.Errorf("delete the extension: %w", err)
	}
	return nil
}

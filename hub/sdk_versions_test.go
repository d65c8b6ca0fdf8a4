package hub

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/hybridkubernetes/armhybridkubernetes"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armresources"
)

// TestGoSDKVersions builds one program with each older version of the SDK, and
// one for roles, locks and the activity log, each in a module of its own, and
// runs them against a hub with an agent.
func TestGoSDKVersions(t *testing.T) {
	dir, programs := t.TempDir(), map[string]string{}
	for proof, source := range map[string]string{"v1.1.1": "main.go", "v2.0.0": "main.go", "v2.1.0": "main.go", "rights": "rights/main.go"} {
		t.Run("build "+proof, func(t *testing.T) { programs[proof] = buildProof(t, filepath.Join(dir, proof), proof, source) })
	}
	// Only now: the agent's token lives for a quarter of an hour, and builds take long.
	r := run(t, Config{})
	connected(t, r)
	for proof, program := range programs {
		t.Run(proof, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), program)
			cmd.Env = append(os.Environ(), "HUB="+r.URL(), "HUB_CA="+filepath.Join(r.dir, "ca.crt"), "AZURE_TENANT_ID="+r.admin.TenantID,
				"AZURE_CLIENT_ID="+r.admin.ClientID, "AZURE_CLIENT_SECRET="+r.admin.ClientSecret, "AZURE_SUBSCRIPTION_ID="+r.admin.SubscriptionID)
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "all is well") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// buildProof makes a program in a module of its own, in dir; it skips where the
// modules that it needs are neither there nor to be had.
func buildProof(t *testing.T, dir, version, source string) string {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{filepath.Join(version, "go.mod"), filepath.Join(version, "go.sum"), source} {
		text, err := os.ReadFile(filepath.Join("testdata", "sdk", name))
		if err != nil {
			t.Fatal(err)
		}
		if name == source && strings.HasPrefix(version, "v1.") {
			text = []byte(strings.Replace(string(text), `armkubernetesconfiguration/v2"`, `armkubernetesconfiguration"`, 1))
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
		return cmd.CombinedOutput()
	}
	if out, err := command("mod", "download"); err != nil {
		t.Skipf("the modules of this version cannot be had: %v\n%s", err, out)
	}
	program := filepath.Join(dir, "proof")
	if out, err := command("build", "-o", program, "."); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return program
}

// identity is what SDK clients are made with.
func identity(t *testing.T, r *running) (azcore.TokenCredential, *arm.ClientOptions) {
	t.Helper()
	options := &arm.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: r.http,
		Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: r.URL() + "/", Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
			cloud.ResourceManager: {Endpoint: r.URL(), Audience: r.URL()}}}}}
	credential, err := azidentity.NewClientSecretCredential(r.admin.TenantID, r.admin.ClientID, r.admin.ClientSecret,
		&azidentity.ClientSecretCredentialOptions{ClientOptions: options.ClientOptions, DisableInstanceDiscovery: true})
	if err != nil {
		t.Fatal(err)
	}
	return credential, options
}

// TestGoSDKOfResources manages groups, providers and resources of any type.
func TestGoSDKOfResources(t *testing.T) {
	r := run(t, Config{})
	credential, options := identity(t, r)
	factory, err := armresources.NewClientFactory(r.admin.SubscriptionID, credential, options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, groups := t.Context(), factory.NewResourceGroupsClient()
	made, err := groups.CreateOrUpdate(ctx, sdkGroup, armresources.ResourceGroup{Location: to.Ptr("local"), Tags: map[string]*string{"a": to.Ptr("b")}}, nil)
	if err != nil || *made.Name != sdkGroup || *made.Properties.ProvisioningState != "Succeeded" {
		t.Fatalf("group: %+v %v", made, err)
	}
	if changed, err := groups.Update(ctx, sdkGroup, armresources.ResourceGroupPatchable{Tags: map[string]*string{"c": to.Ptr("d")}}, nil); err != nil || *changed.Tags["c"] != "d" {
		t.Errorf("update: %+v %v", changed, err)
	}
	if exists, err := groups.CheckExistence(ctx, sdkGroup, nil); err != nil || !exists.Success {
		t.Errorf("existence: %+v %v", exists, err)
	}
	if page, err := groups.NewListPager(nil).NextPage(ctx); err != nil || len(page.Value) != 1 {
		t.Errorf("groups: %+v %v", page, err)
	}
	providers := factory.NewProvidersClient()
	if p, err := providers.Register(ctx, "Microsoft.Kubernetes", nil); err != nil || *p.RegistrationState != "Registered" {
		t.Errorf("register: %+v %v", p, err)
	}
	if page, err := providers.NewListPager(nil).NextPage(ctx); err != nil || len(page.Value) < 4 {
		t.Errorf("providers: %+v %v", page, err)
	}
	resources, id := factory.NewClient(), "/subscriptions/"+r.admin.SubscriptionID+"/resourceGroups/"+sdkGroup+"/providers/Microsoft.ContainerService/managedClusters/oslo"
	const version = "2024-05-01"
	put, err := resources.BeginCreateOrUpdateByID(ctx, id, version, armresources.GenericResource{Location: to.Ptr("local")}, nil)
	if err == nil {
		_, err = put.PollUntilDone(ctx, quick)
	}
	if err != nil {
		t.Fatalf("put by id: %v", err)
	}
	if got, err := resources.GetByID(ctx, id, version, nil); err != nil || *got.Name != "oslo" {
		t.Errorf("get by id: %+v %v", got, err)
	}
	if page, err := resources.NewListByResourceGroupPager(sdkGroup, nil).NextPage(ctx); err != nil || len(page.Value) != 1 || *page.Value[0].Name != "oslo" {
		t.Errorf("resources: %+v %v", page, err)
	}
	gone, err := resources.BeginDeleteByID(ctx, id, version, nil)
	if err == nil {
		_, err = gone.PollUntilDone(ctx, quick)
	}
	if err != nil {
		t.Errorf("delete by id: %v", err)
	}
	last, err := groups.BeginDelete(ctx, sdkGroup, nil)
	if err == nil {
		_, err = last.PollUntilDone(ctx, quick)
	}
	if err != nil {
		t.Errorf("delete the group: %v", err)
	}
	if exists, err := groups.CheckExistence(ctx, sdkGroup, nil); err != nil || exists.Success {
		t.Errorf("after its deletion: %+v %v", exists, err)
	}
}

// TestGoSDKOfConnectedClusters registers a cluster as Azure Arc's client does.
func TestGoSDKOfConnectedClusters(t *testing.T) {
	r := run(t, Config{Unregistered: true})
	credential, options := identity(t, r)
	groups, err := armresources.NewResourceGroupsClient(r.admin.SubscriptionID, credential, options)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if _, err := groups.CreateOrUpdate(ctx, sdkGroup, armresources.ResourceGroup{Location: to.Ptr("local")}, nil); err != nil {
		t.Fatal(err)
	}
	clusters, err := armhybridkubernetes.NewConnectedClusterClient(r.admin.SubscriptionID, credential, options)
	if err != nil {
		t.Fatal(err)
	}
	agent := newFake(t, r, "")
	put, err := clusters.BeginCreate(ctx, sdkGroup, sdkCluster, armhybridkubernetes.ConnectedCluster{Location: to.Ptr("local"),
		Identity:   &armhybridkubernetes.ConnectedClusterIdentity{Type: to.Ptr(armhybridkubernetes.ResourceIdentityTypeSystemAssigned)},
		Properties: &armhybridkubernetes.ConnectedClusterProperties{AgentPublicKeyCertificate: to.Ptr(agent.certificate()), Distribution: to.Ptr("k3s")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	made, err := put.PollUntilDone(ctx, quick)
	if err != nil || *made.Properties.ProvisioningState != armhybridkubernetes.ProvisioningStateSucceeded || *made.Properties.Distribution != "k3s" || made.Identity.PrincipalID == nil {
		t.Fatalf("cluster: %+v %v", made, err)
	}
	if changed, err := clusters.Update(ctx, sdkGroup, sdkCluster, armhybridkubernetes.ConnectedClusterPatch{Tags: map[string]*string{"a": to.Ptr("b")}}, nil); err != nil || *changed.Tags["a"] != "b" {
		t.Errorf("update: %+v %v", changed, err)
	}
	if page, err := clusters.NewListBySubscriptionPager(nil).NextPage(ctx); err != nil || len(page.Value) != 1 {
		t.Errorf("in the subscription: %+v %v", page, err)
	}
	if page, err := clusters.NewListByResourceGroupPager(sdkGroup, nil).NextPage(ctx); err != nil || len(page.Value) != 1 {
		t.Errorf("in the group: %+v %v", page, err)
	}
	gone, err := clusters.BeginDelete(ctx, sdkGroup, sdkCluster, nil)
	if err == nil {
		_, err = gone.PollUntilDone(ctx, quick)
	}
	if err != nil {
		t.Errorf("delete: %v", err)
	}
	var failed *azcore.ResponseError
	if _, err := clusters.Get(ctx, sdkGroup, sdkCluster, nil); !errors.As(err, &failed) || failed.StatusCode != http.StatusNotFound {
		t.Errorf("after its deletion: %v", err)
	}
}

// Command rightsproof is what a program does that was written for Azure's
// authorization, locks and activity log.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/authorization/armauthorization/v2"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/monitor/armmonitor"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resources/armlocks"
)

const (
	group     = "fleet"
	custom    = "33333333-3333-3333-3333-333333333333"
	name      = "44444444-4444-4444-4444-444444444444"
	principal = "55555555-5555-5555-5555-555555555555"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	subscription := os.Getenv("AZURE_SUBSCRIPTION_ID")
	credential, options, err := connect()
	if err == nil {
		err = errors.Join(roles(ctx, subscription, credential, options), locks(ctx, subscription, credential, options), activity(ctx, subscription, credential, options))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("all is well")
}

func connect() (azcore.TokenCredential, *arm.ClientOptions, error) {
	pem, err := os.ReadFile(os.Getenv("HUB_CA"))
	if err != nil {
		return nil, nil, err
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
	return credential, options, err
}

// code is the code of a failed request.
func code(err error) string {
	var failed *azcore.ResponseError
	if errors.As(err, &failed) {
		return failed.ErrorCode
	}
	return fmt.Sprint(err)
}

func roles(ctx context.Context, subscription string, credential azcore.TokenCredential, options *arm.ClientOptions) error {
	factory, err := armauthorization.NewClientFactory(subscription, credential, options)
	if err != nil {
		return err
	}
	scope := "subscriptions/" + subscription
	definitions, assignments := factory.NewRoleDefinitionsClient(), factory.NewRoleAssignmentsClient()
	page, err := definitions.NewListPager(scope, &armauthorization.RoleDefinitionsClientListOptions{Filter: to.Ptr("roleName eq 'Contributor'")}).NextPage(ctx)
	if err != nil || len(page.Value) != 1 || *page.Value[0].Name != "b24988ac-6180-42a0-ab88-20f7382dd24c" || *page.Value[0].Properties.RoleType != "BuiltInRole" {
		return fmt.Errorf("find Contributor: %d: %w", len(page.Value), err)
	}
	made, err := definitions.CreateOrUpdate(ctx, scope, custom, armauthorization.RoleDefinition{Properties: &armauthorization.RoleDefinitionProperties{
		RoleName: to.Ptr("Releaser"), RoleType: to.Ptr("CustomRole"), AssignableScopes: []*string{to.Ptr("/" + scope)},
		Permissions: []*armauthorization.Permission{{Actions: []*string{to.Ptr("*/read")}}}}}, nil)
	if err != nil || *made.Properties.Permissions[0].Actions[0] != "*/read" {
		return fmt.Errorf("make a role: %w", err)
	}
	inGroup := scope + "/resourceGroups/" + group
	given, err := assignments.Create(ctx, inGroup, name, armauthorization.RoleAssignmentCreateParameters{Properties: &armauthorization.RoleAssignmentProperties{
		PrincipalID: to.Ptr(principal), RoleDefinitionID: made.ID, PrincipalType: to.Ptr(armauthorization.PrincipalTypeUser)}}, nil)
	if err != nil || *given.Properties.Scope != "/"+inGroup || *given.Properties.PrincipalType != armauthorization.PrincipalTypeUser {
		return fmt.Errorf("give it: %w", err)
	}
	if _, err := assignments.GetByID(ctx, *given.ID, nil); err != nil {
		return fmt.Errorf("read it: %w", err)
	}
	list, err := assignments.NewListForSubscriptionPager(&armauthorization.RoleAssignmentsClientListForSubscriptionOptions{
		Filter: to.Ptr("assignedTo('" + principal + "')")}).NextPage(ctx)
	if err != nil || len(list.Value) != 1 || *list.Value[0].Name != name {
		return fmt.Errorf("list it: %d: %w", len(list.Value), err)
	}
	if _, err := definitions.Delete(ctx, scope, custom, nil); code(err) != "RoleDefinitionHasAssignments" {
		return fmt.Errorf("delete a role in use: %w", err)
	}
	if _, err := assignments.Delete(ctx, inGroup, name, nil); err != nil {
		return fmt.Errorf("take it: %w", err)
	}
	_, err = definitions.Delete(ctx, scope, custom, nil)
	return err
}

func locks(ctx context.Context, subscription string, credential azcore.TokenCredential, options *arm.ClientOptions) error {
	client, err := armlocks.NewManagementLocksClient(subscription, credential, options)
	if err != nil {
		return err
	}
	lock := armlocks.ManagementLockObject{Properties: &armlocks.ManagementLockProperties{Level: to.Ptr(armlocks.LockLevelReadOnly), Notes: to.Ptr("proof")}}
	if _, err := client.CreateOrUpdateAtResourceGroupLevel(ctx, group, "still", lock, nil); err != nil {
		return fmt.Errorf("lock the group: %w", err)
	}
	if _, err := client.CreateOrUpdateAtSubscriptionLevel(ctx, "all", lock, nil); err != nil {
		return fmt.Errorf("lock the subscription: %w", err)
	}
	if _, err := client.CreateOrUpdateAtResourceLevel(ctx, group, "Microsoft.Kubernetes", "", "connectedClusters", "berlin", "one", lock, nil); err != nil {
		return fmt.Errorf("lock the cluster: %w", err)
	}
	var names []string
	for pager := client.NewListAtSubscriptionLevelPager(nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, l := range page.Value {
			names = append(names, *l.Name)
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"all", "one", "still"}) {
		return fmt.Errorf("locks: %v", names)
	}
	_, one := client.DeleteAtResourceLevel(ctx, group, "Microsoft.Kubernetes", "", "connectedClusters", "berlin", "one", nil)
	_, all := client.DeleteAtSubscriptionLevel(ctx, "all", nil)
	_, still := client.DeleteAtResourceGroupLevel(ctx, group, "still", nil)
	return errors.Join(one, all, still)
}

func activity(ctx context.Context, subscription string, credential azcore.TokenCredential, options *arm.ClientOptions) error {
	client, err := armmonitor.NewActivityLogsClient(subscription, credential, options)
	if err != nil {
		return err
	}
	filter := "eventTimestamp ge '" + time.Now().Add(-time.Hour).UTC().Format(time.RFC3339) + "' and resourceProvider eq 'Microsoft.Authorization'"
	var operations []string
	for pager := client.NewListPager(filter, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("read the activity log: %w", err)
		}
		for _, e := range page.Value {
			operations = append(operations, *e.OperationName.Value+" "+*e.Status.Value+" "+*e.HTTPRequest.Method)
		}
	}
	for _, want := range []string{"Microsoft.Authorization/roleAssignments/write Succeeded PUT", "Microsoft.Authorization/roleDefinitions/delete Failed DELETE",
		"Microsoft.Authorization/locks/write Succeeded PUT"} {
		if !slices.Contains(operations, want) {
			return fmt.Errorf("the activity log lacks %q: %q", want, operations)
		}
	}
	return nil
}

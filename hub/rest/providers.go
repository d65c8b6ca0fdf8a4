package rest

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/api/resource/versions"
	"headwater.dev/hub/store"
)

// provider is a namespace that this hub serves.
type provider struct {
	namespace string
	types     []string
	// operations are "type/verb" with what they do.
	operations [][2]string
}

func providers() []provider {
	crud := func(typ, what string) [][2]string {
		return [][2]string{{typ + "/read", "Gets " + what + "."}, {typ + "/write", "Creates or updates " + what + "."},
			{typ + "/delete", "Deletes " + what + "."}}
	}
	configuration := [][2]string{{"register/action", "Registers the subscription with Microsoft.KubernetesConfiguration."}}
	configuration = append(configuration, crud("sourceControlConfigurations", "a source control configuration")...)
	configuration = append(configuration, crud("extensions", "an extension")...)
	configuration = append(configuration, [2]string{"extensions/operations/read", "Gets the status of an operation on an extension."})
	configuration = append(configuration, crud("fluxConfigurations", "a Flux configuration")...)
	configuration = append(configuration, [2]string{"fluxConfigurations/reconcile/action", "Asks the cluster to look at the source at once."},
		[2]string{"fluxConfigurations/operations/read", "Gets the status of an operation on a Flux configuration."},
		[2]string{"extensionTypes/read", "Gets an extension type."}, [2]string{"extensionTypes/versions/read", "Gets a version of an extension type."})
	return []provider{
		{"Headwater.Identity", []string{"servicePrincipals"}, append(crud("servicePrincipals", "a service principal"),
			[2]string{"servicePrincipals/addPassword/action", "Adds a secret."}, [2]string{"servicePrincipals/addKey/action", "Adds a certificate."},
			[2]string{"servicePrincipals/addSubject/action", "Adds a subject of a foreign issuer."},
			[2]string{"servicePrincipals/removeCredential/action", "Removes a secret, certificate or subject."})},
		{"Microsoft.Authorization", []string{"roleDefinitions", "roleAssignments", "locks"}, slices.Concat(crud("roleDefinitions", "a role definition"),
			crud("roleAssignments", "a role assignment"), crud("locks", "a lock"))},
		{"Microsoft.Insights", []string{"eventtypes", "eventtypes/values"}, [][2]string{{"eventtypes/values/read", "Reads the activity log."}}},
		{"Microsoft.ContainerService", []string{"managedClusters"}, crud("managedClusters", "a managed cluster")},
		{"Microsoft.Kubernetes", []string{"connectedClusters"}, crud("connectedClusters", "a connected cluster")},
		{"Microsoft.KubernetesConfiguration", []string{"extensions", "fluxConfigurations", "sourceControlConfigurations",
			"extensionTypes", "extensionTypes/versions", "locations/extensionTypes", "locations/extensionTypes/versions", "extensions/operations", "fluxConfigurations/operations"}, configuration},
		{"Microsoft.Resources", []string{"subscriptions", "resourceGroups", "resources", "providers", "tags"},
			append(crud("subscriptions/resourceGroups", "a resource group"), [2]string{"tags/read", "Reads tags."}, [2]string{"tags/write", "Changes tags."})},
	}
}

func providerOf(namespace string) (provider, bool) {
	for _, p := range providers() {
		if strings.EqualFold(p.namespace, namespace) {
			return p, true
		}
	}
	return provider{}, false
}

// canon is the usual casing of a namespace or type; others are left alone.
func canon(s string) string {
	for _, p := range providers() {
		if strings.EqualFold(p.namespace, s) {
			return p.namespace
		}
		for _, t := range p.types {
			if strings.EqualFold(t, s) {
				return t
			}
		}
	}
	return s
}

// Canon is the usual casing of the provider and type names of a resource id.
func Canon(id arm.ID) arm.ID { return id.Recase(canon) }

// alwaysRegistered reports whether a namespace needs no registration.
func alwaysRegistered(namespace string) bool {
	return slices.ContainsFunc([]string{"Microsoft.Resources", "Microsoft.Authorization", "Microsoft.Insights", "Headwater.Identity"},
		func(free string) bool { return strings.EqualFold(namespace, free) })
}

func registrationKey(subscription, namespace string) string {
	return "/providers-registered/" + arm.Fold(subscription) + "/" + arm.Fold(namespace)
}

func (s *Server) isRegistered(ctx context.Context, subscription, namespace string) (bool, error) {
	if alwaysRegistered(namespace) {
		return true, nil
	}
	_, err := s.store.Get(ctx, registrationKey(subscription, namespace))
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (s *Server) setRegistered(ctx context.Context, subscription, namespace string, registered bool) error {
	key := registrationKey(subscription, namespace)
	if !registered {
		return s.remove(ctx, key)
	}
	value, err := json.Marshal(map[string]any{"namespace": namespace})
	if err != nil {
		return err
	}
	_, err = s.store.Put(ctx, store.Put{Key: key, Part: store.Desired, Value: value, Expect: store.AnyRevision})
	return err
}

// registered refuses a call for a type whose provider is not registered in the
// subscription, with the code at which SDKs register it and try again.
func (c *call) registered(typ string) error {
	namespace, _, _ := strings.Cut(typ, "/")
	ok, err := c.server.isRegistered(c.ctx(), c.id.Subscription(), namespace)
	if err != nil || ok {
		return err
	}
	return arm.Errorf(arm.CodeNotRegistered, "The subscription is not registered to use namespace '%s'. Register it with "+
		"`az provider register --namespace %s` or POST /subscriptions/%s/providers/%s/register.",
		namespace, namespace, c.id.Subscription(), namespace)
}

func (s *Server) provider(c *call, p provider) (map[string]any, error) {
	ok, err := s.isRegistered(c.ctx(), c.id.Subscription(), p.namespace)
	if err != nil {
		return nil, err
	}
	state := map[bool]string{true: "Registered", false: "NotRegistered"}[ok]
	policy := map[bool]string{true: "RegistrationFree", false: "RegistrationRequired"}[alwaysRegistered(p.namespace)]
	types := []map[string]any{}
	for _, t := range p.types {
		list := versions.Of(p.namespace + "/" + t)
		if list == nil {
			list = []string{"2025-04-01", "2024-11-01", "2023-07-01", "2022-11-01", "2022-09-01", "2021-04-01", "2020-06-01", "2019-05-01"}
		}
		types = append(types, map[string]any{"resourceType": t, "locations": s.locations, "apiVersions": list, "capabilities": "None"})
	}
	return map[string]any{"id": c.id.String() + "/providers/" + p.namespace, "namespace": p.namespace,
		"registrationState": state, "registrationPolicy": policy, "resourceTypes": types}, nil
}

func (s *Server) listProviders(c *call) error {
	page := arm.Page[map[string]any]{Value: []map[string]any{}}
	for _, p := range providers() {
		v, err := s.provider(c, p)
		if err != nil {
			return err
		}
		page.Value = append(page.Value, v)
	}
	return c.reply(200, page)
}

func (c *call) provider() (provider, error) {
	p, ok := providerOf(c.r.PathValue("ns"))
	if !ok {
		return p, arm.Errorf(arm.CodeInvalidNamespace, "The resource namespace '%s' is invalid: this hub does not serve it.", c.r.PathValue("ns"))
	}
	return p, nil
}

func (s *Server) getProvider(c *call) error {
	p, err := c.provider()
	if err != nil {
		return err
	}
	v, err := s.provider(c, p)
	if err != nil {
		return err
	}
	return c.reply(200, v)
}

func (s *Server) registerProvider(c *call) error {
	p, err := c.provider()
	if err != nil {
		return err
	}
	if err := s.setRegistered(c.ctx(), c.id.Subscription(), p.namespace, true); err != nil {
		return err
	}
	return s.getProvider(c)
}

// unregisterProvider is refused while the subscription holds resources of the
// provider.
func (s *Server) unregisterProvider(c *call) error {
	p, err := c.provider()
	if err != nil {
		return err
	}
	if alwaysRegistered(p.namespace) {
		return arm.Errorf(arm.CodeConflict, "%s cannot be unregistered.", p.namespace)
	}
	inUse := ""
	_, err = store.Each(c.ctx(), s.store, c.id.Key()+"/", func(r store.Record) error {
		namespace, rest, _ := strings.Cut(typeOfKey(r.Key), "/")
		if namespace == arm.Fold(p.namespace) && !strings.HasSuffix(rest, "/operations") {
			inUse = r.Key
		}
		return nil
	})
	if err != nil {
		return err
	}
	if inUse != "" {
		return arm.Errorf(arm.CodeConflict, "The namespace '%s' cannot be unregistered while there are resources of it, such as %s: delete them first.",
			p.namespace, inUse)
	}
	if err := s.setRegistered(c.ctx(), c.id.Subscription(), p.namespace, false); err != nil {
		return err
	}
	return s.getProvider(c)
}

func (s *Server) listOperations(c *call) error {
	p, err := c.provider()
	if err != nil {
		return err
	}
	value := []map[string]any{}
	for _, o := range p.operations {
		typ, verb, _ := strings.Cut(o[0], "/")
		value = append(value, map[string]any{"name": p.namespace + "/" + o[0], "isDataAction": false, "origin": "user,system",
			"display": map[string]string{"provider": p.namespace, "resource": typ, "operation": verb, "description": o[1]}})
	}
	return c.reply(200, arm.Page[map[string]any]{Value: value})
}

// isCluster reports whether a folded type is one that configurations live in.
func isCluster(typ string) bool {
	return strings.EqualFold(typ, resource.TypeConnectedCluster) || strings.EqualFold(typ, resource.TypeManagedCluster)
}

package rest

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/hub/store"
)

// subscriptionRecord is what the store holds of a subscription.
type subscriptionRecord struct {
	SubscriptionID string `json:"subscriptionId"`
	DisplayName    string `json:"displayName"`
	State          string `json:"state"`
}

// metadata tells clients where everything is: one object that serves the
// readers of all its api-versions.
func (s *Server) metadata(w http.ResponseWriter, r *http.Request) {
	base := baseURL(r)
	raw, err := encode(map[string]any{
		"name": "Headwater", "portal": base, "portalEndpoint": base, "gallery": base, "galleryEndpoint": base,
		"resourceManager": base, "graph": base + "/graph", "graphEndpoint": base + "/graph", "graphAudience": base + "/graph",
		"microsoftGraphResourceId": base + "/graph", "batch": base, "media": base, "sqlManagement": base,
		"vmImageAliasDoc": base + "/aliases.json", "activeDirectoryDataLake": base,
		"authentication": map[string]any{"loginEndpoint": base, "audiences": []string{base},
			"tenant": "common", "identityProvider": "AAD"},
		"suffixes": map[string]string{"storage": "storage." + r.Host, "keyVaultDns": "vault." + r.Host,
			"acrLoginServer": "acr." + r.Host, "sqlServerHostname": "sql." + r.Host},
	})
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_, _ = w.Write(raw)
}

func (s *Server) subscription(record subscriptionRecord) map[string]any {
	return map[string]any{
		"id": "/subscriptions/" + record.SubscriptionID, "subscriptionId": record.SubscriptionID,
		"displayName": record.DisplayName, "state": record.State, "tenantId": s.directory.TenantID(),
		"authorizationSource": "RoleBased", "managedByTenants": []any{},
		"subscriptionPolicies": map[string]string{"locationPlacementId": "Internal_2014-09-01", "quotaId": "Internal_2014-09-01", "spendingLimit": "Off"},
	}
}

func (s *Server) listSubscriptions(c *call) error {
	const prefix = "/subscriptions/"
	return c.page(listing{
		prefix: prefix,
		match: func(key string) bool {
			return below(prefix, key) && c.rights.Touches(key)
		},
		render: func(r store.Record) (map[string]any, error) {
			var record subscriptionRecord
			if err := json.Unmarshal(r.Desired, &record); err != nil {
				return nil, err
			}
			return s.subscription(record), nil
		},
	})
}

func (s *Server) getSubscription(c *call) error {
	r, err := s.store.Get(c.ctx(), c.id.Key())
	if err != nil {
		return err
	}
	var record subscriptionRecord
	if err := json.Unmarshal(r.Desired, &record); err != nil {
		return err
	}
	return c.reply(200, s.subscription(record))
}

func (s *Server) listTenants(c *call) error {
	tenant := s.directory.TenantID()
	return c.reply(200, arm.Page[map[string]any]{Value: []map[string]any{{
		"id": "/tenants/" + tenant, "tenantId": tenant, "displayName": "Headwater",
		"defaultDomain": "headwater.local", "domains": []string{"headwater.local"}, "tenantCategory": "Home", "countryCode": "US",
	}}})
}

func (s *Server) listLocations(c *call) error {
	value := []map[string]any{}
	for _, l := range s.locations {
		value = append(value, map[string]any{"id": c.id.String() + "/locations/" + l, "name": l, "displayName": l,
			"regionalDisplayName": l, "type": "Region",
			"metadata": map[string]any{"regionType": "Physical", "regionCategory": "Recommended"}})
	}
	return c.reply(200, arm.Page[map[string]any]{Value: value})
}

// listResources lists the tracked resources of a subscription or group. The
// filter "resourceType eq '…'" is understood, others are refused.
func (s *Server) listResources(c *call) error {
	types := []string{arm.Fold(resource.TypeConnectedCluster), arm.Fold(resource.TypeManagedCluster)}
	if filter := c.r.URL.Query().Get("$filter"); filter != "" {
		name, value, ok := strings.Cut(filter, " eq ")
		if !ok || !strings.EqualFold(strings.TrimSpace(name), "resourceType") {
			return arm.Errorf(arm.CodeInvalidParameter, "The $filter is not supported: use resourceType eq 'Namespace/type'.")
		}
		types = []string{arm.Fold(strings.Trim(strings.TrimSpace(value), "'"))}
	}
	return c.page(listing{
		prefix: c.id.Key() + "/",
		match: func(key string) bool {
			typ := typeOfKey(key)
			return slices.Contains(types, typ) && isCluster(typ) && c.visible(typ, key)
		},
		render: func(r store.Record) (map[string]any, error) {
			e, err := read[resource.ClusterProperties](r)
			if err != nil {
				return nil, err
			}
			return tracked(e), nil
		},
	})
}

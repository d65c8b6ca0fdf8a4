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
		prefix: prefix, children: true,
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

// listResources lists the tracked resources of a subscription or group that a
// $filter selects; $expand shows the time of creation and of the last change.
func (s *Server) listResources(c *call) error {
	selects, err := c.selection()
	if err != nil {
		return err
	}
	expand := arm.Fold(c.query("$expand"))
	return c.page(listing{
		prefix: c.id.Key() + "/",
		match: func(key string) bool {
			typ := typeOfKey(key)
			return isCluster(typ) && c.visible(typ, key)
		},
		render: func(r store.Record) (map[string]any, error) {
			e, err := read[resource.ClusterProperties](r)
			if err != nil {
				return nil, err
			}
			if !selects(e.Type, e.Name, e.Location, e.ID, e.Tags) {
				return nil, nil
			}
			m := tracked(e)
			for name, value := range map[string]any{"createdTime": e.SystemData.CreatedAt, "changedTime": e.SystemData.LastModifiedAt,
				"provisioningState": map[bool]string{true: resource.Deleting, false: resource.Succeeded}[e.Deleting]} {
				if strings.Contains(expand, arm.Fold(name)) {
					m[name] = value
				}
			}
			return m, nil
		},
	})
}

// selection reads $filter. What it returns reports whether a resource is meant.
// Terms about tags are about one and the same tag. A term that is not understood
// is an error that names those that are.
func (c *call) selection() (func(typ, name, location, id string, tags map[string]string) bool, error) {
	terms, err := arm.ParseFilter(c.query("$filter"))
	if err != nil {
		return nil, arm.Errorf(arm.CodeInvalidParameter, "The $filter cannot be read: %v.", err)
	}
	var tag []arm.Term
	for _, t := range terms {
		known := slices.Contains([]string{"resourcetype", "name", "location", "resourcegroup"}, arm.Fold(t.Name)) && (t.Op == "eq" || t.Op == "ne")
		switch {
		case t.Is("tagName", "eq") || t.Is("tagValue", "eq"):
			tag = append(tag, t)
		case !known:
			return nil, arm.Errorf(arm.CodeInvalidParameter, "The $filter is not supported: compare resourceType, name, location or resourceGroup with eq or ne, "+
				"or tagName and tagValue with eq, and join them with and.")
		}
	}
	return func(typ, name, location, id string, tags map[string]string) bool {
		parsed, _ := arm.ParseID(id) // ids of records are ids
		have := map[string]string{"resourcetype": typ, "name": name, "location": location, "resourcegroup": parsed.ResourceGroup()}
		for _, t := range terms {
			if of, ok := have[arm.Fold(t.Name)]; ok && strings.EqualFold(of, t.Value) != (t.Op == "eq") {
				return false
			}
		}
		return len(tag) == 0 || anyTag(tags, tag)
	}, nil
}

// anyTag reports whether there is a tag for which all terms hold.
func anyTag(tags map[string]string, terms []arm.Term) bool {
	for k, v := range tags {
		holds := func(t arm.Term) bool {
			return strings.EqualFold(t.Name, "tagName") && strings.EqualFold(k, t.Value) || strings.EqualFold(t.Name, "tagValue") && v == t.Value
		}
		if !slices.ContainsFunc(terms, func(t arm.Term) bool { return !holds(t) }) {
			return true
		}
	}
	return false
}

package rest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"headwater.dev/api/resource"
	"headwater.dev/hub/auth"
)

// TestListOfAFleet lists the configurations of several clusters in two groups.
func TestListOfAFleet(t *testing.T) {
	h := start(t, func(c *Config) { c.PageSize = 2 })
	h.furnish()
	const other = inSubscription + "/resourceGroups/other"
	h.must(201, "PUT", path(other, "2022-09-01"), `{"location":"local"}`)
	const inBerlin2 = inCluster + "-2" // its key comes between Berlin's and those of what is in Berlin
	inOslo := strings.Replace(inCluster, inGroup, other, 1) + "-Oslo"
	for _, cluster := range []string{inBerlin2, inOslo} {
		h.must(201, "PUT", path(cluster, "2024-01-01"), `{"location":"local","properties":{"agentPublicKeyCertificate":"`+testCertificate()+`"}}`)
	}
	const flux = "/providers/Microsoft.KubernetesConfiguration/fluxConfigurations"
	for _, id := range []string{inCluster + flux + "/a", inCluster + flux + "/b", inCluster + flux + "/c", inBerlin2 + flux + "/d", inOslo + flux + "/e"} {
		h.must(201, "PUT", path(id, "2023-05-01"), gitBody)
		now := h.clock()
		h.report(id, resource.FluxConfigurationObserved{AcceptedGeneration: 1, StatusGeneration: 1, ComplianceState: resource.Compliant, StatusUpdatedAt: &now})
	}
	now := h.clock()
	h.report(inOslo, resource.ClusterObserved{LastConnectivityTime: &now})

	for name, c := range map[string]struct {
		why, token, path string
		want             [][]string
	}{
		"subscription":        {"all clusters", h.token, inSubscription + flux, [][]string{{"d", "a"}, {"b", "c"}, {"e"}}},
		"group":               {"those of one group", h.token, inGroup + flux, [][]string{{"d", "a"}, {"b", "c"}}},
		"extensions":          {"the other type", h.token, inSubscription + strings.Replace(flux, "fluxConfigurations", "extensions", 1), [][]string{{"flux", "flux"}, {"flux"}}},
		"reader of a cluster": {"only what may be seen", h.somebody(auth.Reader, inBerlin2), inSubscription + flux, [][]string{{"d"}}},
	} {
		admin := h.token
		h.token = c.token
		if diff := cmp.Diff(c.want, h.walk(path(c.path, "2023-05-01"))); diff != "" {
			t.Errorf("%s: %s (-want +got):\n%s", name, c.why, diff)
		}
		h.token = admin
	}

	one := h.must(200, "GET", path(inOslo+flux+"/e", "2023-05-01"), "").object(t)
	all := h.must(200, "GET", path(other+flux, "2023-05-01"), "").object(t)["value"].([]any)
	if diff := cmp.Diff([]any{one}, all); diff != "" {
		t.Errorf("a configuration in the list is as it is alone (-want +got):\n%s", diff)
	}
	if a := h.send("GET", path(inSubscription+"/resourceGroups/none"+flux, "2023-05-01"), ""); a.status != 404 || a.code() != "ResourceGroupNotFound" {
		t.Errorf("a group that does not exist: %d %s", a.status, a.body)
	}
	if got := one["properties"].(map[string]any)["complianceState"]; got != resource.Compliant {
		t.Errorf("compliance is %v", got)
	}
}

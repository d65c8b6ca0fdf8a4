package rest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/api/resource/versions"
)

// dawn is when a property came, with which stable and which preview version, and
// the last version that has it.
type dawn struct{ property, stable, preview, last string }

// has reports whether a version has the property; it reads dates, as people do.
func (d dawn) has(version string) bool {
	since := d.stable
	if strings.HasSuffix(version, "-preview") {
		since = d.preview
	}
	date := version[:len("2006-01-02")]
	return date >= since && (d.last == "" || date <= d.last)
}

// appears checks which of the properties are shown.
func appears(t *testing.T, version string, shown answered, table []dawn) {
	t.Helper()
	props, _ := shown.object(t)["properties"].(map[string]any)
	for _, d := range table {
		if _, there := props[d.property]; there != d.has(version) {
			t.Errorf("%s: %s is shown: %v", version, d.property, there)
		}
	}
}

// TestExtensionVersions replays an extension's life in every api-version.
func TestExtensionVersions(t *testing.T) {
	table := []dawn{
		{"installState", "", "", "2021-05-01"}, {"installedVersion", "", "", "2022-03-01"},
		{"currentVersion", "2022-07-01", "2022-04-02", ""}, {"isSystemExtension", "2022-07-01", "2022-04-02", ""},
		{"autoUpgradeMode", "2025-03-01", "2025-03-01", ""}, {"extensionState", "2025-03-01", "2025-03-01", ""},
		{"extensionType", "", "", ""}, {"autoUpgradeMinorVersion", "", "", ""}, {"releaseTrain", "", "", ""}, {"version", "", "", ""}, {"scope", "", "", ""},
		{"configurationSettings", "", "", ""}, {"configurationProtectedSettings", "", "", ""}, {"provisioningState", "", "", ""}, {"statuses", "", "", ""}, {"errorInfo", "", "", ""},
		{"packageUri", "", "", ""}, {"customLocationSettings", "", "", ""}, {"aksAssignedIdentity", "", "", ""},
	}
	h := start(t)
	h.furnish()
	all := versions.Of(resource.TypeExtension)
	for _, v := range []string{"2020-07-01-preview", "2021-05-01-preview", "2021-09-01", "2022-03-01", "2022-04-02-preview", "2022-07-01", "2022-11-01", "2023-05-01",
		"2024-11-01", "2024-11-02-preview", "2025-03-01"} {
		if !slices.Contains(all, v) {
			t.Errorf("%s is not served", v)
		}
	}
	id := inExtensions + "/flux"
	for _, version := range all {
		t.Run(version, func(t *testing.T) {
			created := h.must(201, "PUT", path(id, version), `{"identity":{"type":"SystemAssigned"},"properties":{"extensionType":"Microsoft.Flux","autoUpgradeMinorVersion":true,
			  "releaseTrain":"Stable","scope":{"cluster":{"releaseNamespace":"flux-system"}},"configurationSettings":{"helm-controller.enabled":"false","x":"1"},
			  "configurationProtectedSettings":{"secret":"CANARY"}}}`)
			if created.header.Get(arm.HeaderAsyncOperation) == "" || created.property(t, "properties.provisioningState") != resource.Creating {
				t.Errorf("creation: %v %s", created.header, created.body)
			}
			h.report(id, resource.ExtensionObserved{AcceptedGeneration: 1, CurrentVersion: "1.0.0"})
			shown := h.must(200, "GET", path(id, version), "")
			appears(t, version, shown, table)
			if strings.Contains(shown.body, "CANARY") || shown.property(t, "identity.principalId") == nil || shown.property(t, "properties.extensionType") != "Microsoft.Flux" {
				t.Errorf("shown: %s", shown.body)
			}
			again := h.must(200, "PUT", path(id, version), shown.body)
			if again.header.Get(arm.HeaderAsyncOperation) != "" || h.record(id).Generation != 1 {
				t.Errorf("a PUT of what was fetched is a change: %s", again.body)
			}
			h.must(202, "PATCH", path(id, version), `{"properties":{"configurationSettings":{"x":null,"y":"2"},"autoUpgradeMinorVersion":false}}`)
			now := h.must(200, "GET", path(id, version), "")
			if diff := cmp.Diff(map[string]any{"helm-controller.enabled": "false", "y": "2"}, now.property(t, "properties.configurationSettings")); diff != "" {
				t.Errorf("after PATCH (-want +got):\n%s", diff)
			}
			h.must(200, "DELETE", path(id, version)+"&forceDelete=true", "")
		})
	}
}

// TestConnectedClusterVersions replays a cluster's life in every api-version.
func TestConnectedClusterVersions(t *testing.T) {
	table := []dawn{
		{"privateLinkState", "2024-01-01", "2021-04-01", ""}, {"distributionVersion", "2024-01-01", "2022-10-01", ""}, {"azureHybridBenefit", "2024-01-01", "2022-10-01", ""},
		{"arcAgentProfile", "2024-01-01", "2023-11-01", ""}, {"oidcIssuerProfile", "2026-05-01", "2024-07-01", ""}, {"securityProfile", "2026-05-01", "2024-07-01", ""},
		{"agentPublicKeyCertificate", "", "", ""}, {"distribution", "", "", ""}, {"infrastructure", "", "", ""}, {"kubernetesVersion", "", "", ""}, {"totalNodeCount", "", "", ""},
		{"totalCoreCount", "", "", ""}, {"agentVersion", "", "", ""}, {"connectivityStatus", "", "", ""}, {"lastConnectivityTime", "", "", ""}, {"provisioningState", "", "", ""},
		{"offering", "", "", ""}, {"managedIdentityCertificateExpirationTime", "", "", ""},
	}
	h := start(t)
	h.furnish()
	all := versions.Of(resource.TypeConnectedCluster)
	for _, v := range []string{"2021-03-01", "2021-10-01", "2024-01-01", "2026-05-01"} {
		if !slices.Contains(all, v) {
			t.Errorf("%s is not served", v)
		}
	}
	const whole = `"privateLinkState":"Disabled","distributionVersion":"1.2","azureHybridBenefit":"NotApplicable","arcAgentProfile":{"agentAutoUpgrade":"Enabled"},` +
		`"oidcIssuerProfile":{"enabled":true},"securityProfile":{"workloadIdentity":{"enabled":true}},"distribution":"k3s","infrastructure":"generic"`
	for i, version := range all {
		t.Run(version, func(t *testing.T) {
			id := fmt.Sprintf("%s/providers/Microsoft.Kubernetes/connectedClusters/c%d", inGroup, i)
			body := `{"location":"local","tags":{"team":"a"},"identity":{"type":"SystemAssigned"},"properties":{"agentPublicKeyCertificate":"` + testCertificate() + `",` + whole + `}}`
			h.must(201, "PUT", path(id, versions.Of(resource.TypeConnectedCluster)[0]), body)
			now := h.clock()
			h.report(id, resource.ClusterObserved{KubernetesVersion: "1.37.0", TotalNodeCount: 3, TotalCoreCount: 12, AgentVersion: "1.2.3", LastConnectivityTime: &now})
			shown := h.must(200, "GET", path(id, version), "")
			appears(t, version, shown, table)
			for at, want := range map[string]any{"properties.connectivityStatus": "Connected", "properties.totalNodeCount": 3.0, "properties.kubernetesVersion": "1.37.0",
				"tags.team": "a", "location": "local", "identity.type": "SystemAssigned", "type": resource.TypeConnectedCluster} {
				if got := shown.property(t, at); got != want {
					t.Errorf("%s is %v, want %v", at, got, want)
				}
			}
			generation := h.record(id).Generation
			h.must(200, "PUT", path(id, version), shown.body)
			if h.record(id).Generation != generation {
				t.Errorf("a PUT of what was fetched is a change: %s", h.record(id).Desired)
			}
			patched := h.must(200, "PATCH", path(id, version), `{"tags":{"team":"b"},"properties":{"azureHybridBenefit":"True"}}`)
			if patched.property(t, "tags.team") != "b" {
				t.Errorf("after PATCH: %s", patched.body)
			}
			want := map[bool]string{true: "True", false: "NotApplicable"}[dawn{"", "2024-01-01", "2022-10-01", ""}.has(version)]
			if got := h.must(200, "GET", path(id, all[0]), "").property(t, "properties.azureHybridBenefit"); got != want {
				t.Errorf("azureHybridBenefit after a PATCH of %s: %v, want %s", version, got, want)
			}
			h.must(200, "DELETE", path(id, version), "")
			h.must(404, "GET", path(id, version), "")
		})
	}
}

// TestOtherVersions asks, in every api-version, for what has one form in all.
func TestOtherVersions(t *testing.T) {
	h := start(t, func(c *Config) { c.ImportSources, c.ExtensionVersions = true, []string{"1.0.0"} })
	h.furnish()
	h.must(201, "PUT", path(inSources+"/old", "2022-03-01"), `{"properties":{"repositoryUrl":"https://git.example/v1","operatorNamespace":"v1","operatorScope":"namespace"}}`)
	for _, version := range versions.Of("Microsoft.KubernetesConfiguration/sourceControlConfigurations") {
		shown := h.must(200, "GET", path(inSources+"/old", version), "")
		if shown.property(t, "properties.repositoryUrl") != "https://git.example/v1" || shown.property(t, "properties.complianceStatus.complianceState") != "Pending" {
			t.Errorf("%s: %s", version, shown.body)
		}
		h.must(200, "PUT", path(inSources+"/old", version), shown.body)
	}
	if g := h.record(inSources + "/old").Generation; g != 1 {
		t.Errorf("PUTs of what was fetched are %d changes", g-1)
	}
	for _, version := range versions.Of("Microsoft.KubernetesConfiguration/extensionTypes") {
		for _, at := range []string{"", "/microsoft.flux", "/microsoft.flux/versions", "/Microsoft.Flux/versions/1.0.0"} {
			if a := h.send("GET", path(inTypes+at, version), ""); a.status != 200 {
				t.Errorf("%s %s: %d %s", version, at, a.status, a.body)
			}
		}
	}
	h.must(201, "PUT", path(inManaged, "2022-11-01"), `{"location":"local","properties":{"kubernetesVersion":"1.37.0"}}`)
	for _, version := range []string{"2020-03-01", "2022-11-01", "2023-10-02-preview", "2025-05-01", "2026-03-01"} {
		shown := h.must(200, "GET", path(inManaged, version), "")
		if shown.property(t, "properties.powerState.code") != "Running" || shown.property(t, "properties.kubernetesVersion") != "1.37.0" {
			t.Errorf("managed cluster in %s: %s", version, shown.body)
		}
		h.must(200, "PUT", path(inManaged, version), shown.body)
	}
	if g := h.record(inManaged).Generation; g != 1 {
		t.Errorf("PUTs of what was fetched are %d changes", g-1)
	}
}

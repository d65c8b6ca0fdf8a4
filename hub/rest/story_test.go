package rest

import (
	"strings"
	"testing"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
)

const gitBody = `{"properties":{"scope":"cluster","namespace":"cluster-config","sourceKind":"GitRepository",
 "gitRepository":{"url":"https://git.example/repo","repositoryRef":{"branch":"main"}},
 "kustomizations":{"infra":{"path":"./infrastructure","prune":true},"apps":{"path":"./apps","dependsOn":["infra"]}}}}`

// path makes a URL of an id, with a version.
func path(id, version string) string { return id + "?api-version=" + version }

func TestConfigurationFromBirthToDeath(t *testing.T) {
	h := start(t)
	h.step("a group", "PUT", path(inGroup, "2022-09-01"), `{"location":"local","tags":{"team":"a"}}`)
	h.step("a cluster with its key", "PUT", path(inCluster, "2024-01-01"),
		`{"location":"local","identity":{"type":"SystemAssigned"},"properties":{"agentPublicKeyCertificate":"`+testCertificate()+`"}}`)
	h.step("clients look for Flux v1 first", "GET", path(inCluster+"/providers/Microsoft.KubernetesConfiguration/sourceControlConfigurations", "2022-03-01"), "")
	cfg := inConfigurations + "/apps"
	created := h.step("creation is 201 with a place to poll", "PUT", path(cfg, "2023-05-01"), gitBody)
	operation := strings.TrimPrefix(created.header.Get(arm.HeaderAsyncOperation), h.server.URL)
	h.step("nobody has taken it yet", "GET", operation, "")
	h.step("the extension came by itself", "GET", path(inExtensions, "2022-07-01"), "")
	h.accept(inExtensions + "/flux")
	h.accept(cfg)
	h.step("the agent has taken it", "GET", operation, "")
	now := h.clock()
	h.report(cfg, resource.FluxConfigurationObserved{AcceptedGeneration: 1, AcceptedAt: now, ComplianceState: resource.NonCompliant, StatusGeneration: 1,
		ErrorMessage: "Kustomization cluster-config/apps-infra: build failed", SourceSyncedCommitID: "main@sha1:4711", StatusUpdatedAt: &now, SourceUpdatedAt: &now,
		Statuses: []resource.ObjectStatus{{Name: "apps-infra", Namespace: "cluster-config", Kind: "Kustomization", ComplianceState: resource.NonCompliant,
			StatusConditions: []resource.StatusCondition{{Type: "Ready", Status: "False", Reason: "BuildFailed", Message: "build failed", LastTransitionTime: now}}}}})
	fetched := h.step("what the agent reported", "GET", path(cfg, "2025-04-01"), "")
	h.step("a PUT of what was fetched changes nothing", "PUT", path(cfg, "2025-04-01"), fetched.body)
	h.step("a PATCH removes one kustomization and changes another", "PATCH", path(cfg, "2023-05-01"),
		`{"properties":{"kustomizations":{"apps":null,"infra":{"path":"./infra"}}}}`)
	h.step("an old client sees what its version has", "GET", path(cfg, "2022-03-01"), "")
	h.accept(cfg)
	gone := h.step("deletion waits for the cluster", "DELETE", path(cfg, "2023-05-01"), "")
	operation = strings.TrimPrefix(gone.header.Get(arm.HeaderAsyncOperation), h.server.URL)
	h.step("it is being deleted", "GET", path(cfg, "2023-05-01"), "")
	h.step("no client knows the word Deleting", "GET", operation, "")
	h.step("meanwhile it cannot be made again", "PUT", path(cfg, "2023-05-01"), gitBody)
	if err := h.store.Delete(t.Context(), arm.Fold(cfg), -1); err != nil { // the gateway, when the agent says Deleted
		t.Fatal(err)
	}
	h.step("the cluster has removed it", "GET", operation, "")
	h.step("it is gone", "GET", path(cfg, "2023-05-01"), "")
	h.step("deleting it again is no error", "DELETE", path(cfg, "2023-05-01"), "")
	h.golden("configuration")
}

func TestProviderStory(t *testing.T) {
	h := start(t)
	h.step("where everything is", "GET", "/metadata/endpoints?api-version=2022-09-01", "")
	h.step("subscriptions", "GET", path("/subscriptions", "2022-12-01"), "")
	h.step("tenants", "GET", path("/tenants", "2022-12-01"), "")
	h.step("one subscription", "GET", path(inSubscription, "2022-12-01"), "")
	h.step("locations", "GET", path(inSubscription+"/locations", "2022-12-01"), "")
	h.step("operations of a provider", "GET", path("/providers/Microsoft.KubernetesConfiguration/operations", "2023-05-01"), "")
	h.step("leave the provider", "POST", path(inSubscription+"/providers/Microsoft.Kubernetes/unregister", "2021-04-01"), "")
	h.step("now its types are refused", "GET", path(inCluster, "2024-01-01"), "")
	h.step("register it again", "POST", path(inSubscription+"/providers/microsoft.kubernetes/register", "2019-05-01"), "")
	h.step("now the cluster is missing only", "GET", path(inCluster, "2024-01-01"), "")
	h.step("the extension catalogue", "GET",
		path(inSubscription+"/providers/Microsoft.KubernetesConfiguration/locations/local/extensionTypes", "2023-05-01-preview"), "")
	h.golden("provider")
}

func TestRefusals(t *testing.T) {
	h := start(t)
	h.furnish()
	v := func(id string) string { return path(id, "2023-05-01") }
	h.must(201, "PUT", v(inConfigurations+"/there"), gitBody)
	tests := map[string]struct {
		why, method, path, body string
		status                  int
		code                    string
	}{
		"no version":            {"", "GET", inCluster, "", 400, arm.CodeMissingAPIVersion},
		"unknown version":       {"", "GET", path(inCluster, "1999-01-01"), "", 400, arm.CodeInvalidAPIVersion},
		"two versions":          {"", "GET", path(inCluster, "2024-01-01") + "&API-VERSION=2021-10-01", "", 400, arm.CodeInvalidAPIVersion},
		"unknown namespace":     {"", "GET", path(inGroup+"/providers/Microsoft.Compute/virtualMachines/v", "2024-01-01"), "", 404, arm.CodeInvalidNamespace},
		"unknown type":          {"", "GET", path(inGroup+"/providers/Microsoft.Kubernetes/planets/v", "2024-01-01"), "", 404, arm.CodeInvalidType},
		"unknown path":          {"", "GET", "/nowhere", "", 404, arm.CodeRouteNotFound},
		"wrong method":          {"", "PUT", path(inConfigurations, "2023-05-01"), "{}", 405, arm.CodeMethodNotAllowed},
		"unknown subscription":  {"", "GET", path("/subscriptions/cccccccc-0000-0000-0000-000000000003/resourceGroups/g", "2022-09-01"), "", 404, arm.CodeSubscriptionNotFound},
		"unknown group":         {"a cluster needs its group", "PUT", path(strings.Replace(inCluster, "fleet", "other", 1), "2024-01-01"), "{}", 404, arm.CodeGroupNotFound},
		"missing cluster":       {"the parent is named", "PUT", v(strings.Replace(inConfigurations, "Berlin", "Paris", 1) + "/a"), gitBody, 404, arm.CodeNotFound},
		"foreign cluster type":  {"", "GET", v(strings.Replace(inConfigurations, "connectedClusters", "planets", 1)), "", 404, arm.CodeNotFound},
		"patch of nothing":      {"", "PATCH", v(inConfigurations + "/none"), "{}", 404, arm.CodeNotFound},
		"no JSON":               {"", "PUT", v(inConfigurations + "/a"), `{"properties":`, 400, arm.CodeInvalidBody},
		"not an object":         {"", "PUT", v(inConfigurations + "/a"), `[]`, 400, arm.CodeInvalidBody},
		"null":                  {"", "PUT", v(inConfigurations + "/a"), `null`, 400, arm.CodeInvalidBody},
		"more than an object":   {"", "PUT", v(inConfigurations + "/a"), `{} {}`, 400, arm.CodeInvalidBody},
		"no body":               {"", "PUT", v(inConfigurations + "/a"), "", 400, arm.CodeInvalidBody},
		"properties are a list": {"", "PUT", v(inConfigurations + "/a"), `{"properties":[]}`, 400, arm.CodeInvalidBody},
		"too much":              {"", "PUT", v(inConfigurations + "/a"), `{"properties":{"x":"` + strings.Repeat("x", maxBody) + `"}}`, 413, arm.CodeBodyTooLarge},
		"everything wrong":      {"", "PUT", v(inConfigurations + "/A_b"), `{"properties":{"scope":"moon"}}`, 400, arm.CodeValidationFailed},
		"scope is fixed":        {"", "PUT", v(inConfigurations + "/there"), strings.Replace(gitBody, `"scope":"cluster"`, `"scope":"namespace"`, 1), 400, arm.CodeValidationFailed},
		"PATCH of scope":        {"", "PATCH", v(inConfigurations + "/there"), `{"properties":{"scope":"namespace"}}`, 400, arm.CodeValidationFailed},
		"Flux v1":               {"", "PUT", path(inCluster+"/providers/Microsoft.KubernetesConfiguration/sourceControlConfigurations/a", "2022-03-01"), "{}", 400, arm.CodeNotSupported},
		"namespace scope":       {"", "PUT", v(inExtensions + "/flux"), `{"properties":{"extensionType":"microsoft.flux","scope":{"namespace":{"targetNamespace":"a"}}}}`, 400, arm.CodeValidationFailed},
		"another extension":     {"", "PUT", v(inExtensions + "/x"), `{"properties":{"extensionType":"microsoft.dapr"}}`, 400, arm.CodeValidationFailed},
		"second instance":       {"", "PUT", v(inExtensions + "/second"), `{"properties":{"extensionType":"Microsoft.Flux"}}`, 409, arm.CodeConflict},
		"extension in use":      {"", "DELETE", v(inExtensions + "/flux"), "", 409, arm.CodeConflict},
		"provider in use":       {"", "POST", path(inSubscription+"/providers/Microsoft.Kubernetes/unregister", "2021-04-01"), "", 409, arm.CodeConflict},
		"force is no word":      {"", "DELETE", v(inConfigurations+"/there") + "&forceDelete=maybe", "", 400, arm.CodeInvalidParameter},
		"unknown operation":     {"", "GET", v(inConfigurations + "/there/operations/none"), "", 404, arm.CodeOperationNotFound},
		"foreign token of page": {"", "GET", v(inConfigurations) + "&$skiptoken=L3ZhdWx0", "", 400, arm.CodeInvalidParameter},
		"encoded slash":         {"", "GET", path(inGroup+"%2Fproviders", "2022-09-01"), "", 400, arm.CodeInvalidID},
		"dots":                  {"", "GET", path(inSubscription+"/resourceGroups/%2e%2e", "2022-09-01"), "", 400, arm.CodeInvalidID},
		"letters that fold":     {"the Kelvin sign is not k", "GET", path(inSubscription+"/resourceGroups/%E2%84%AA", "2022-09-01"), "", 400, arm.CodeInvalidID},
		"cluster without key":   {"", "PUT", path(inGroup+"/providers/Microsoft.Kubernetes/connectedClusters/c", "2024-01-01"), `{"location":"local"}`, 400, arm.CodeValidationFailed},
		"cluster moves":         {"", "PUT", path(inCluster, "2024-01-01"), `{"location":"moon","properties":{"agentPublicKeyCertificate":"` + testCertificate() + `"}}`, 400, arm.CodeLocationChanged},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			a := h.send(tc.method, tc.path, tc.body)
			if a.status != tc.status || a.code() != tc.code {
				t.Errorf("%s: got %d %s, want %d %s: %s", tc.why, a.status, a.code(), tc.status, tc.code, a.body)
			}
			if !strings.HasPrefix(a.header.Get("Content-Type"), "application/json") {
				t.Errorf("an error of type %s", a.header.Get("Content-Type"))
			}
		})
	}
}

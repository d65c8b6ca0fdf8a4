package rest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
)

// TestChecklist goes through what real clients of the API rely on, point by
// point.
func TestChecklist(t *testing.T) {
	for _, point := range []struct {
		name  string
		check func(*testing.T, *hub)
	}{
		{"1 paths fold, names keep their casing", paths},
		{"2 versions show what they have", projection},
		{"3 what only the server sets is ignored, what is unset is null", readOnly},
		{"4 statuses and headers of writes", writes},
		{"5 operations", operations},
		{"6 secrets come in and never out", secrets},
		{"7 everything wrong is told at once", validation},
		{"8 the first configuration brings the extension", firstConfiguration},
		{"9 compliance follows the agent", complianceStates},
		{"10 freshness and the first failure are shown", freshness},
		{"11 PATCH keeps, sets and resets", patches},
		{"12 any replica finishes an operation", replicas},
		{"13 pages and errors", pagesAndErrors},
	} {
		t.Run(point.name, func(t *testing.T) {
			h := start(t)
			h.furnish()
			point.check(t, h)
		})
	}
}

func paths(t *testing.T, h *hub) {
	h.must(201, "PUT", path(inConfigurations+"/apps", "2023-05-01"), gitBody)
	for _, url := range []string{
		strings.ToUpper(inConfigurations+"/apps") + "?API-VERSION=2023-05-01", "//" + strings.TrimPrefix(inConfigurations, "/") + "//apps/?Api-Version=2023-05-01",
		strings.ReplaceAll(strings.ReplaceAll(inConfigurations, "resourceGroups", "resourcegroups"), "connectedClusters", "ConnectedClusters") + "/APPS?api-version=2023-05-01",
	} {
		a := h.must(200, "GET", url, "")
		if a.property(t, "id") != inConfigurations+"/apps" || a.property(t, "name") != "apps" {
			t.Errorf("%s shows %v", url, a.property(t, "id"))
		}
	}
	h.must(200, "PUT", path(strings.ToLower(inConfigurations)+"/APPS", "2023-05-01"), gitBody)
	if got := len(h.must(200, "GET", path(inConfigurations, "2023-05-01"), "").object(t)["value"].([]any)); got != 1 {
		t.Errorf("two casings are %d resources", got)
	}
}

func projection(t *testing.T, h *hub) {
	h.must(201, "PUT", path(inConfigurations+"/oci", "2025-04-01"), `{"properties":{"sourceKind":"OCIRepository","ociRepository":{"url":"oci://r/x"},"kustomizations":{"a":{"validation":"client"}}}}`)
	old := h.must(200, "GET", path(inConfigurations+"/oci", "2022-03-01"), "")
	if old.property(t, "properties.sourceKind") != "OCIRepository" || strings.Contains(old.body, "oci://") || strings.Contains(old.body, "validation") {
		t.Errorf("an old client sees %s", old.body)
	}
	if older := h.must(200, "GET", path(inConfigurations+"/oci", "2021-11-01-preview"), ""); older.property(t, "properties.kustomizations.a.validation") != "none" {
		t.Errorf("a client that knows validation sees %s", older.body)
	}
}

func readOnly(t *testing.T, h *hub) {
	id := inConfigurations + "/apps"
	h.must(201, "PUT", path(id, "2025-04-01"), strings.Replace(gitBody, `"scope"`, `"statuses":[{"name":"x"}],"complianceState":"Compliant","provisioningState":"Succeeded","repositoryPublicKey":"k","sourceSyncedCommitId":"c","errorMessage":"e","scope"`, 1))
	a := h.must(200, "GET", path(id, "2025-04-01"), "")
	for at, want := range map[string]any{"complianceState": "Pending", "provisioningState": "Creating", "repositoryPublicKey": "", "sourceSyncedCommitId": "", "errorMessage": "",
		"bucket": nil, "azureBlob": nil, "ociRepository": nil, "reconciliationWaitDuration": nil, "sourceUpdatedAt": nil, "gitRepository.sshKnownHosts": nil, "gitRepository.localAuthRef": nil,
		"gitRepository.repositoryRef.tag": nil, "kustomizations.infra.retryIntervalInSeconds": nil, "kustomizations.infra.postBuild": nil, "kustomizations.infra.dependsOn": nil,
		"kustomizations.infra.wait": true, "kustomizations.infra.name": "infra"} {
		steps := strings.Split(at, ".")
		of, _ := a.property(t, strings.Join(append([]string{"properties"}, steps[:len(steps)-1]...), ".")).(map[string]any)
		if got, there := of[steps[len(steps)-1]]; got != want || !there {
			t.Errorf("%s is %v (%v), want %v", at, got, there, want)
		}
	}
}

func writes(t *testing.T, h *hub) {
	id := inConfigurations + "/apps"
	for _, step := range []struct {
		why, method, body string
		status            int
		polled            bool
		state             any
	}{
		{"creation", "PUT", gitBody, 201, true, "Creating"},
		{"the same again, still under way", "PUT", gitBody, 200, true, "Creating"},
		{"a change", "PUT", strings.Replace(gitBody, "main", "next", 1), 200, true, "Updating"},
		{"a PATCH", "PATCH", `{"properties":{"suspend":true}}`, 202, true, "Updating"},
		{"deletion", "DELETE", "", 202, true, nil},
		{"deletion again", "DELETE", "", 202, true, nil},
	} {
		a := h.send(step.method, path(id, "2023-05-01"), step.body)
		poll := a.header.Get(arm.HeaderAsyncOperation)
		if a.status != step.status || (poll != "") != step.polled || step.polled && (!strings.HasPrefix(poll, h.server.URL+"/subscriptions/") || a.header.Get(arm.HeaderRetryAfter) != "1") {
			t.Errorf("%s: %d %v", step.why, a.status, a.header)
		}
		if step.state != nil && a.property(t, "properties.provisioningState") != step.state {
			t.Errorf("%s: %s", step.why, a.body)
		}
	}
	h.must(200, "DELETE", path(id, "2023-05-01")+"&forceDelete=true", "")
	h.must(204, "DELETE", path(id, "2023-05-01"), "")
	h.must(201, "PUT", path(id, "2023-05-01"), gitBody)
	h.accept(id)
	if a := h.must(200, "PATCH", path(id, "2023-05-01"), `{"properties":{"suspend":false}}`); a.header.Get(arm.HeaderAsyncOperation) != "" {
		t.Errorf("a PATCH that changes nothing starts something: %v", a.header)
	}
}

func operations(t *testing.T, h *hub) {
	id := inConfigurations + "/apps"
	poll := func(a answered) string {
		return strings.TrimPrefix(a.header.Get(arm.HeaderAsyncOperation), h.server.URL)
	}
	status := func(url, want string) {
		t.Helper()
		a := h.must(200, "GET", url, "")
		o := a.object(t)
		if o["status"] != want || o["id"] == nil || o["name"] == nil || o["startTime"] == nil || fmt.Sprint(o["properties"]) != "map[]" {
			t.Errorf("want %s: %s", want, a.body)
		}
		if _, there := o["error"]; !there {
			t.Errorf("error is left out: %s", a.body)
		}
	}
	created := poll(h.must(201, "PUT", path(id, "2023-05-01"), gitBody))
	status(created, "Creating")
	h.pass(time.Second)
	h.accept(id)
	status(created, "Succeeded")
	if end := h.must(200, "GET", created, "").object(t)["endTime"]; end != h.clock().Format(time.RFC3339) {
		t.Errorf("it ended at %v", end)
	}
	updated := poll(h.must(202, "PATCH", path(id, "2023-05-01"), `{"properties":{"suspend":true}}`))
	status(updated, "Updating")
	h.report(id, resource.FluxConfigurationObserved{AcceptedGeneration: 2, Error: &resource.ErrorDetail{Code: "Refused", Message: "no"}})
	status(updated, "Failed")
	status(created, "Succeeded")
	deleted := poll(h.must(202, "DELETE", path(id, "2023-05-01"), ""))
	status(deleted, "InProgress")
	h.must(200, "DELETE", path(id, "2023-05-01")+"&forceDelete=true", "")
	h.pass(48 * time.Hour)
	h.token = h.login(h.admin.ClientID, h.admin.ClientSecret)
	status(deleted, "Succeeded")
	if a := h.must(404, "GET", path(id+"/operations/nope", "2023-05-01"), ""); a.code() != arm.CodeOperationNotFound {
		t.Errorf("an unknown operation: %s", a.body)
	}
}

func secrets(t *testing.T, h *hub) {
	id := inConfigurations + "/apps"
	body := func(protected string) string {
		return `{"properties":{"gitRepository":{"url":"https://git.example/x","httpsUser":"u"}` + protected + `}}`
	}
	h.must(201, "PUT", path(id, "2025-04-01"), body(`,"configurationProtectedSettings":{"httpsKey":"Q0FOQVJZ"}`))
	first := h.desired(id).ProtectedVersion
	for _, step := range []struct {
		why, method, protected string
		kept                   bool
	}{
		{"absent keeps", "PUT", ``, true}, {"null keeps", "PUT", `,"configurationProtectedSettings":null`, true},
		{"another value replaces", "PUT", `,"configurationProtectedSettings":{"httpsKey":"T1RIRVI="}`, false},
	} {
		a := h.must(200, step.method, path(id, "2025-04-01"), body(step.protected))
		if kept := h.desired(id).ProtectedVersion == first; kept != step.kept || strings.Contains(a.body, "Q0FOQVJZ") || strings.Contains(a.body, "T1RIRVI=") {
			t.Errorf("%s: kept %v, %s", step.why, kept, a.body)
		}
	}
	h.must(200, "PUT", path(id, "2025-04-01"), strings.Replace(body(`,"configurationProtectedSettings":{}`), `,"httpsUser":"u"`, "", 1))
	if d := h.desired(id); d.ProtectedVersion != "" || len(d.ProtectedKeys) != 0 {
		t.Errorf("{} clears: %+v", d)
	}
}

func validation(t *testing.T, h *hub) {
	a := h.must(400, "PUT", path(inConfigurations+"/"+strings.Repeat("a", 40), "2025-04-01"), `{"properties":{"scope":"x","gitRepository":{"url":"ftp://x","timeoutInSeconds":0},"kustomizations":{"`+strings.Repeat("b", 23)+`":{}}}}`)
	var targets []string
	for _, d := range a.property(t, "error.details").([]any) {
		targets = append(targets, d.(map[string]any)["target"].(string))
	}
	want := []string{"properties.scope", "properties.gitRepository.url", "properties.gitRepository.timeoutInSeconds", "properties.kustomizations." + strings.Repeat("b", 23)}
	if diff := cmp.Diff(want, targets); diff != "" || a.code() != arm.CodeValidationFailed {
		t.Errorf("details (-want +got):\n%s", diff)
	}
	if a := h.must(400, "PUT", path(inConfigurations+"/a", "2025-04-01"), `{"properties":{"sourceKind":"Bucket"}}`); !strings.Contains(a.body, "Invalid source kind match.") {
		t.Errorf("Azure's words are kept: %s", a.body)
	}
}

func firstConfiguration(t *testing.T, h *hub) {
	h.must(201, "PUT", path(inConfigurations+"/apps", "2025-04-01"), gitBody)
	list := h.must(200, "GET", path(inExtensions, "2022-07-01"), "").object(t)["value"].([]any)
	if len(list) != 1 || list[0].(map[string]any)["name"] != "flux" {
		t.Errorf("extensions: %v", list)
	}
	if a := h.must(200, "GET", path(inCluster+"/providers/Microsoft.KubernetesConfiguration/sourceControlConfigurations", "2022-03-01"), ""); strings.TrimSpace(a.body) != `{"value":[]}` {
		t.Errorf("az looks for Flux v1: %s", a.body)
	}
}

func complianceStates(t *testing.T, h *hub) {
	id := inConfigurations + "/apps"
	h.must(201, "PUT", path(id, "2025-04-01"), gitBody)
	now := h.clock()
	h.report(inCluster, resource.ClusterObserved{LastConnectivityTime: &now})
	state := func() any {
		return h.must(200, "GET", path(id, "2025-04-01"), "").property(t, "properties.complianceState")
	}
	for _, step := range []struct {
		why  string
		o    resource.FluxConfigurationObserved
		want string
	}{
		{"nothing reported", resource.FluxConfigurationObserved{}, "Pending"},
		{"a status of an older generation", resource.FluxConfigurationObserved{AcceptedGeneration: 1, ComplianceState: "Compliant"}, "Pending"},
		{"a failure", resource.FluxConfigurationObserved{AcceptedGeneration: 1, StatusGeneration: 1, ComplianceState: "Non-Compliant"}, "Non-Compliant"},
		{"all ready", resource.FluxConfigurationObserved{AcceptedGeneration: 1, StatusGeneration: 1, ComplianceState: "Compliant"}, "Compliant"},
	} {
		h.report(id, step.o)
		if got := state(); got != step.want {
			t.Errorf("%s: %v, want %s", step.why, got, step.want)
		}
	}
	h.must(202, "PATCH", path(id, "2025-04-01"), `{"properties":{"suspend":true}}`)
	h.report(id, resource.FluxConfigurationObserved{AcceptedGeneration: 2, StatusGeneration: 2, ComplianceState: "Suspended"})
	if got := state(); got != "Suspended" {
		t.Errorf("suspended: %v", got)
	}
	h.pass(16 * time.Minute)
	if got := state(); got != "Unknown" {
		t.Errorf("a silent agent: %v", got)
	}
}

func freshness(t *testing.T, h *hub) {
	id := inConfigurations + "/apps"
	h.must(201, "PUT", path(id, "2025-04-01"), gitBody)
	at := h.clock()
	h.report(id, resource.FluxConfigurationObserved{AcceptedGeneration: 1, StatusGeneration: 1, ComplianceState: "Non-Compliant", SourceSyncedCommitID: "main@sha1:1",
		SourceUpdatedAt: &at, StatusUpdatedAt: &at, ErrorMessage: "Kustomization ns/apps-infra: BuildFailed: bad yaml"})
	a := h.must(200, "GET", path(id, "2025-04-01"), "")
	for key, want := range map[string]any{"statusUpdatedAt": "2026-01-02T03:04:05Z", "sourceUpdatedAt": "2026-01-02T03:04:05Z", "sourceSyncedCommitId": "main@sha1:1",
		"errorMessage": "Kustomization ns/apps-infra: BuildFailed: bad yaml"} {
		if got := a.property(t, "properties."+key); got != want {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
}

func patches(t *testing.T, h *hub) {
	id := inConfigurations + "/apps"
	h.must(201, "PUT", path(id, "2025-04-01"), gitBody)
	for _, step := range []struct{ why, body, at, want string }{
		{"absent keeps", `{}`, "gitRepository.url", "https://git.example/repo"},
		{"a value sets", `{"gitRepository":{"syncIntervalInSeconds":60}}`, "gitRepository.syncIntervalInSeconds", "60"},
		{"and leaves the others", `{"gitRepository":{"timeoutInSeconds":30}}`, "gitRepository.syncIntervalInSeconds", "60"},
		{"null resets to the default", `{"gitRepository":{"syncIntervalInSeconds":null}}`, "gitRepository.syncIntervalInSeconds", "600"},
		{"a kustomization is merged", `{"kustomizations":{"infra":{"force":true}}}`, "kustomizations.infra.path", "./infrastructure"},
		{"{} changes nothing", `{"kustomizations":{"infra":{}}}`, "kustomizations.infra.force", "true"},
		{"a new one has defaults", `{"kustomizations":{"new":{"path":"./n"}}}`, "kustomizations.new.wait", "true"},
		{"null removes one", `{"kustomizations":{"new":null}}`, "kustomizations.new", "<nil>"},
		{"variables come and go with null", `{"kustomizations":{"infra":{"postBuild":{"substitute":{"a":"1"}}}}}`, "kustomizations.infra.postBuild.substitute.a", "1"},
		{"postBuild is removed with null", `{"kustomizations":{"infra":{"postBuild":null}}}`, "kustomizations.infra.postBuild", "<nil>"},
		{"a new kind clears the other's body", `{"sourceKind":"Bucket","bucket":{"url":"https://s3.example","bucketName":"b"},"gitRepository":{},"azureBlob":{}}`, "gitRepository", "<nil>"},
	} {
		if a := h.send("PATCH", path(id, "2025-04-01"), `{"properties":`+step.body+`}`); a.status != 202 && a.status != 200 {
			t.Fatalf("%s: %d %s", step.why, a.status, a.body)
		}
		if got := fmt.Sprint(h.must(200, "GET", path(id, "2025-04-01"), "").property(t, "properties."+step.at)); got != step.want {
			t.Errorf("%s: %s is %s, want %s", step.why, step.at, got, step.want)
		}
	}
	for _, key := range []string{`"scope":"namespace"`, `"namespace":"x"`, `"waitForReconciliation":true`, `"reconciliationWaitDuration":"PT1M"`} {
		if a := h.send("PATCH", path(id, "2025-04-01"), `{"properties":{`+key+`}}`); a.status != 400 || !strings.Contains(a.body, "cannot be changed with PATCH") {
			t.Errorf("%s: %d %s", key, a.status, a.body)
		}
	}
	if a := h.send("PATCH", path(id, "2025-04-01"), `{"properties":{}}`, "Content-Type: application/merge-patch+json"); a.status != 200 {
		t.Errorf("merge patch: %d", a.status)
	}
}

// replicas shows that what one replica began another answers, and goes on with:
// nothing but the store is shared.
func replicas(t *testing.T, h *hub) {
	id := inConfigurations + "/apps"
	operation := strings.TrimPrefix(h.must(201, "PUT", path(id, "2025-04-01"), gitBody).header.Get(arm.HeaderAsyncOperation), h.server.URL)
	first := h.rest
	second, err := New(Config{Store: h.store, Vault: h.vault, Directory: h.auth, Clock: h.clock, NewID: h.newID})
	if err != nil {
		t.Fatal(err)
	}
	h.rest = second
	if a := h.must(200, "GET", operation, ""); a.property(t, "status") != "Creating" {
		t.Errorf("the other replica: %s", a.body)
	}
	h.accept(id)
	for _, replica := range []*Server{first, second} {
		h.rest = replica
		if a := h.must(200, "GET", operation, ""); a.property(t, "status") != "Succeeded" {
			t.Errorf("after the agent: %s", a.body)
		}
	}
}

func pagesAndErrors(t *testing.T, h *hub) {
	for i := range 3 {
		h.must(201, "PUT", path(fmt.Sprintf("%s/c%d", inConfigurations, i), "2025-04-01"), gitBody)
	}
	a := h.must(200, "GET", path(inConfigurations, "2025-04-01")+"&$top=2", "")
	next, _ := a.object(t)["nextLink"].(string)
	if !strings.HasPrefix(next, h.server.URL+"/") || !strings.Contains(next, "api-version=2025-04-01") {
		t.Fatalf("nextLink is called as it is: %q", next)
	}
	if rest := h.must(200, "GET", strings.TrimPrefix(next, h.server.URL), "").object(t)["value"].([]any); len(rest) != 1 {
		t.Errorf("the last page has %d", len(rest))
	}
	missing := h.send("GET", path(inConfigurations+"/nope", "2025-04-01"), "", "x-ms-correlation-request-id: abc", "x-ms-client-request-id: mine", "x-ms-return-client-request-id: true")
	if missing.status != 404 || missing.property(t, "error.code") != "ResourceNotFound" || missing.property(t, "error.message") == "" {
		t.Errorf("missing: %s", missing.body)
	}
	for name, want := range map[string]string{"x-ms-correlation-request-id": "abc", "x-ms-client-request-id": "mine", "x-ms-error-code": "ResourceNotFound", "Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-cache"} {
		if got := missing.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if missing.header.Get("x-ms-request-id") == "" {
		t.Error("no request id")
	}
}

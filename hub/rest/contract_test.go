package rest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
)

const canary = "Y2FuYXJ5LTQ3MTE=" // base64 of canary-4711

func withSecret(t *testing.T) string {
	t.Helper()
	body := strings.Replace(gitBody, `"repositoryRef"`, `"httpsUser":"me","repositoryRef"`, 1)
	return strings.TrimSuffix(body, "}}") + `,"configurationProtectedSettings":{"httpsKey":"` + canary + `"}}}`
}

func TestProtectedSettings(t *testing.T) {
	h := start(t)
	h.furnish()
	cfg := inConfigurations + "/apps"
	v := path(cfg, "2025-04-01")
	created := h.must(201, "PUT", v, withSecret(t))
	first := h.desired(cfg)
	if first.ProtectedVersion == "" || first.ProtectedHash == "" || cmp.Diff([]string{"httpsKey"}, first.ProtectedKeys) != "" {
		t.Fatalf("the record does not refer to the vault: %+v", first)
	}
	if sealed, err := h.vault.Release(t.Context(), arm.Fold(cfg), first.ProtectedVersion, &testKey().PublicKey); err != nil || len(sealed) == 0 {
		t.Fatalf("the vault does not hold them: %v", err)
	}
	if got := created.property(t, "properties.configurationProtectedSettings"); got != nil {
		t.Errorf("GET shows %v, want null, which means kept when it is sent back", got)
	}
	fetched := h.must(200, "GET", v, "")
	h.must(200, "PUT", v, fetched.body)
	h.must(200, "PUT", v, withSecret(t))
	if again := h.record(cfg); again.Generation != 1 {
		t.Errorf("the same secret again is generation %d, want 1", again.Generation)
	}
	h.must(200, "PUT", v, strings.Replace(withSecret(t), "./apps", "./other", 1))
	second := h.desired(cfg)
	if second.ProtectedVersion == first.ProtectedVersion {
		t.Error("a change that sends secrets keeps the old version")
	}
	cleared := strings.Replace(strings.Replace(withSecret(t), `"httpsKey":"`+canary+`"`, "", 1), `"httpsUser":"me",`, "", 1)
	a := h.must(200, "PUT", v, cleared)
	if d := h.desired(cfg); d.ProtectedVersion != "" || len(d.ProtectedKeys) > 0 {
		t.Errorf("{} does not clear: %+v", d)
	}
	if _, err := h.vault.Release(t.Context(), arm.Fold(cfg), second.ProtectedVersion, &testKey().PublicKey); err == nil {
		t.Error("the vault still holds what was cleared")
	}
	if got := a.property(t, "properties.configurationProtectedSettings"); cmp.Diff(map[string]any{}, got) != "" {
		t.Errorf("without secrets GET shows %v, want {}", got)
	}
	refused := h.must(400, "PUT", v, strings.Replace(withSecret(t), `"httpsKey"`, `"sshPrivateKey"`, 1))
	_, err := store.Each(t.Context(), h.store, "/", func(r store.Record) error {
		if text := string(r.Desired) + string(r.Observed); strings.Contains(text, canary) || strings.Contains(text, "canary-4711") {
			return fmt.Errorf("the store shows it in %s", r.Key)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for _, text := range []string{created.body, fetched.body, refused.body, a.body} {
		if strings.Contains(text, canary) {
			t.Errorf("an answer shows it: %s", text)
		}
	}
}

func TestLiftedSecrets(t *testing.T) {
	h := start(t)
	h.furnish()
	v := path(inConfigurations+"/blob", "2025-04-01")
	a := h.must(201, "PUT", v, `{"properties":{"namespace":"a","sourceKind":"AzureBlob","azureBlob":{"url":"https://a.blob.test","containerName":"c","accountKey":"canary-4711"}}}`)
	if got, ok := a.property(t, "properties.azureBlob").(map[string]any); !ok || got["accountKey"] != nil || strings.Contains(a.body, "canary") {
		t.Errorf("accountKey is not null: %s", a.body)
	}
	if strings.Contains(string(h.record(inConfigurations+"/blob").Desired), "canary") {
		t.Error("accountKey reached the store")
	}
	h.must(200, "PUT", v, a.body)
	if g := h.record(inConfigurations + "/blob").Generation; g != 1 {
		t.Errorf("a PUT of what was answered is generation %d", g)
	}
}

func TestCasingAndTracing(t *testing.T) {
	h := start(t)
	h.furnish()
	h.must(201, "PUT", path(inConfigurations+"/apps", "2023-05-01"), gitBody)
	odd := strings.ToUpper(inSubscription) + "//RESOURCEGROUPS/FLEET/Providers/microsoft.KUBERNETES/connectedclusters/BERLIN/providers/MICROSOFT.kubernetesconfiguration/FluxConfigurations/APPS/"
	a := h.send("GET", odd+"?API-Version=2023-05-01", "", "x-ms-correlation-request-id: mine", "x-ms-client-request-id: caller", "x-ms-return-client-request-id: true")
	if a.status != 200 || a.property(t, "id") != inConfigurations+"/apps" {
		t.Fatalf("%d %s: want the id as it was made", a.status, a.body)
	}
	want := map[string]string{arm.HeaderCorrelationID: "mine", arm.HeaderClientRequestID: "caller", "Cache-Control": "no-cache"}
	for name, value := range want {
		if got := a.header.Get(name); got != value {
			t.Errorf("%s is %q, want %q", name, got, value)
		}
	}
	if a.header.Get(arm.HeaderRequestID) == "" {
		t.Error("no request id")
	}
	a = h.send("GET", path(inConfigurations+"/apps", "2023-05-01"), "", "x-ms-correlation-request-id: a\" level=ERROR")
	if got := a.header.Get(arm.HeaderCorrelationID); strings.Contains(got, "level") {
		t.Errorf("a correlation id that could forge a log line is kept: %q", got)
	}
}

// walk follows a list to its end and answers the names on each page.
func (h *hub) walk(next string) (names [][]string) {
	h.t.Helper()
	for next != "" {
		a := h.must(200, "GET", next, "")
		var page arm.Page[struct{ Name string }]
		if err := json.Unmarshal([]byte(a.body), &page); err != nil {
			h.t.Fatal(err)
		}
		if page.NextLink != "" && !strings.HasPrefix(page.NextLink, h.server.URL) {
			h.t.Fatalf("nextLink %q is not absolute", page.NextLink)
		}
		next = strings.TrimPrefix(page.NextLink, h.server.URL)
		var here []string
		for _, v := range page.Value {
			here = append(here, v.Name)
		}
		names = append(names, here)
	}
	return names
}

func TestPages(t *testing.T) {
	h := start(t, func(c *Config) { c.PageSize = 3 })
	h.furnish()
	for i := range 7 {
		h.must(201, "PUT", path(inConfigurations+fmt.Sprintf("/c%d", i), "2023-05-01"), gitBody)
	}
	want := [][]string{{"c0", "c1", "c2"}, {"c3", "c4", "c5"}, {"c6"}}
	if diff := cmp.Diff(want, h.walk(path(inConfigurations, "2023-05-01"))); diff != "" {
		t.Errorf("pages (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(7, len(h.walk(path(inConfigurations, "2023-05-01")+"&$top=1"))); diff != "" {
		t.Errorf("pages of one (-want +got):\n%s", diff)
	}
}

// TestPagesOfLargeStatuses lists configurations whose agent has very much to say.
func TestPagesOfLargeStatuses(t *testing.T) {
	h := start(t)
	h.furnish()
	many := resource.FluxConfigurationObserved{AcceptedGeneration: 1, StatusGeneration: 1, ComplianceState: resource.Compliant}
	for i := range 900 {
		many.Statuses = append(many.Statuses, resource.ObjectStatus{Name: fmt.Sprintf("o%d", i), Kind: "Kustomization", ComplianceState: resource.Compliant,
			StatusConditions: []resource.StatusCondition{{Type: "Ready", Status: "False", Message: strings.Repeat("x", 800), LastTransitionTime: h.clock()}}})
	}
	for i := range 9 {
		h.must(201, "PUT", path(inConfigurations+fmt.Sprintf("/c%d", i), "2023-05-01"), gitBody)
		h.report(inConfigurations+fmt.Sprintf("/c%d", i), many)
	}
	want := [][]string{{"c0", "c1", "c2", "c3"}, {"c4", "c5", "c6", "c7"}, {"c8"}}
	if diff := cmp.Diff(want, h.walk(path(inConfigurations, "2023-05-01"))); diff != "" {
		t.Errorf("pages of nearly 1 MiB each (-want +got):\n%s", diff)
	}
}

func TestAgentAwayFor48Hours(t *testing.T) {
	h := start(t)
	h.furnish()
	cfg := path(inConfigurations+"/apps", "2023-05-01")
	operation := strings.TrimPrefix(h.must(201, "PUT", cfg, gitBody).header.Get(arm.HeaderAsyncOperation), h.server.URL)
	h.pass(48*time.Hour + time.Second)
	h.token = h.login(h.admin.ClientID, h.admin.ClientSecret)
	a := h.must(200, "GET", operation, "")
	if a.property(t, "status") != "Failed" || a.property(t, "error.code") != arm.CodeAgentTimeout {
		t.Errorf("after 48 hours: %s", a.body)
	}
	again := h.must(200, "PUT", cfg, gitBody)
	if again.property(t, "properties.provisioningState") != resource.Updating || h.record(inConfigurations+"/apps").Generation != 2 {
		t.Errorf("applying again does not begin anew: %s", again.body)
	}
}

func TestWaitForReconciliation(t *testing.T) {
	h := start(t)
	h.furnish()
	id := inConfigurations + "/apps"
	body := strings.Replace(gitBody, `"scope"`, `"waitForReconciliation":true,"reconciliationWaitDuration":"PT5M","scope"`, 1)
	operation := strings.TrimPrefix(h.must(201, "PUT", path(id, "2025-04-01"), body).header.Get(arm.HeaderAsyncOperation), h.server.URL)
	status := func() any { return h.must(200, "GET", operation, "").property(t, "status") }
	o := resource.FluxConfigurationObserved{AcceptedGeneration: 1, AcceptedAt: h.clock(), ComplianceState: resource.NonCompliant, StatusGeneration: 1}
	h.report(id, o)
	if got := status(); got != "Creating" {
		t.Errorf("accepted but not compliant: %v", got)
	}
	h.must(202, "POST", path(id+"/reconcile", "2025-04-01"), "")
	o.AcceptedGeneration = 2
	h.report(id, o)
	if got := status(); got != "Creating" {
		t.Errorf("a request to reconcile ends the wait of the change before it: %v", got)
	}
	h.pass(6 * time.Minute)
	if got := status(); got != "Failed" {
		t.Errorf("after the wait: %v", got)
	}
	o.ComplianceState, o.SettledGeneration = resource.Compliant, 1
	h.report(id, o)
	if got := status(); got != "Succeeded" {
		t.Errorf("compliant: %v", got)
	}
	o.ComplianceState = resource.NonCompliant
	h.report(id, o)
	if got := status(); got != "Succeeded" {
		t.Errorf("a later failure is the compliance state's, not the operation's: %v", got)
	}
}

func TestComplianceOfASilentAgent(t *testing.T) {
	h := start(t)
	h.furnish()
	id := inConfigurations + "/apps"
	h.must(201, "PUT", path(id, "2025-04-01"), gitBody)
	h.report(id, resource.FluxConfigurationObserved{AcceptedGeneration: 1, ComplianceState: resource.Compliant, StatusGeneration: 1})
	now := h.clock()
	h.report(inCluster, resource.ClusterObserved{LastConnectivityTime: &now, TotalNodeCount: 3, AgentVersion: "1.2.3"})
	state := func() any {
		return h.must(200, "GET", path(id, "2025-04-01"), "").property(t, "properties.complianceState")
	}
	if got := state(); got != resource.Compliant {
		t.Errorf("connected: %v", got)
	}
	h.pass(resource.OfflineAfter + time.Second)
	if got := state(); got != resource.Unknown {
		t.Errorf("silent: %v", got)
	}
	if got := h.must(200, "GET", path(inCluster, "2024-01-01"), "").property(t, "properties.connectivityStatus"); got != resource.Offline {
		t.Errorf("the cluster is %v", got)
	}
}

func TestExtensionPatch(t *testing.T) {
	h := start(t)
	h.furnish()
	id := path(inExtensions+"/flux", "2023-05-01")
	h.must(201, "PUT", id, `{"location":"local","identity":{"type":"SystemAssigned"},"properties":{"extensionType":"microsoft.flux","autoUpgradeMinorVersion":true,
	  "configurationSettings":{"a":"1","b":"2"},"configurationProtectedSettings":{}}}`)
	h.accept(inExtensions + "/flux")
	fetched := h.must(200, "GET", id, "")
	if a := h.must(200, "PUT", id, fetched.body); a.header.Get(arm.HeaderAsyncOperation) != "" || h.record(inExtensions+"/flux").Generation != 1 {
		t.Errorf("a PUT of what was fetched is a change: %s", a.body)
	}
	a := h.must(202, "PATCH", id, `{"properties":{"configurationSettings":{"b":null,"c":"3"},"autoUpgradeMinorVersion":false,"version":"1.2.3"}}`)
	if diff := cmp.Diff(map[string]any{"a": "1", "c": "3"}, a.property(t, "properties.configurationSettings")); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	h.accept(inExtensions + "/flux")
	if a := h.must(200, "PATCH", id, `{"properties":{"configurationSettings":{"a":"1"}}}`); a.header.Get(arm.HeaderAsyncOperation) != "" {
		t.Error("a PATCH that changes nothing has an operation")
	}
}

func TestDeletionTakesEverythingAlong(t *testing.T) {
	h := start(t)
	h.furnish()
	h.must(201, "PUT", path(inConfigurations+"/apps", "2023-05-01"), withSecret(t))
	h.must(200, "DELETE", path(inGroup, "2022-09-01"), "")
	h.must(404, "GET", path(inGroup, "2022-09-01"), "")
	h.must(404, "HEAD", path(inGroup, "2022-09-01"), "")
	left := []string{}
	for _, prefix := range []string{arm.Fold(inGroup), "/vault/"} {
		if _, err := store.Each(t.Context(), h.store, prefix, func(r store.Record) error { left = append(left, r.Key); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range left {
		if strings.Contains(key, "resourcegroups") {
			t.Errorf("left behind: %s", key)
		}
	}
	h.furnish()
	h.must(204, "HEAD", path(inGroup, "2022-09-01"), "")
	h.must(201, "PUT", path(inConfigurations+"/apps", "2023-05-01"), gitBody)
	h.must(200, "DELETE", path(inConfigurations+"/apps", "2023-05-01")+"&forceDelete=true", "")
	h.must(404, "GET", path(inConfigurations+"/apps", "2023-05-01"), "")
	h.must(200, "DELETE", path(inCluster, "2024-01-01"), "")
	h.must(204, "DELETE", path(inCluster, "2024-01-01"), "")
}

func TestRights(t *testing.T) {
	h := start(t)
	h.furnish()
	h.must(201, "PUT", path(inSubscription+"/resourceGroups/other", "2022-09-01"), `{"location":"local"}`)
	h.must(201, "PUT", path(inConfigurations+"/apps", "2023-05-01"), gitBody)
	reader, secret, err := h.auth.CreatePrincipal(t.Context(), "reader", 0)
	if err != nil {
		t.Fatal(err)
	}
	owner := h.token
	h.token = h.login(reader.ID, secret)
	h.must(403, "GET", path(inConfigurations+"/apps", "2023-05-01"), "")
	if _, err := h.auth.Assign(t.Context(), reader.ObjectID, auth.Reader, inGroup); err != nil {
		t.Fatal(err)
	}
	h.must(200, "GET", path(inConfigurations+"/apps", "2023-05-01"), "")
	for _, r := range [][2]string{{"PUT", inConfigurations + "/apps"}, {"PATCH", inConfigurations + "/apps"}, {"DELETE", inConfigurations + "/apps"},
		{"PUT", inExtensions + "/flux"}, {"GET", strings.Replace(inConfigurations, "fleet", "other", 1) + "/apps"}, {"GET", inSubscription}} {
		if a := h.send(r[0], path(r[1], "2023-05-01"), gitBody); a.status != http.StatusForbidden {
			t.Errorf("%s %s: %d, want 403", r[0], r[1], a.status)
		}
	}
	groups := h.must(200, "GET", path(inSubscription+"/resourcegroups", "2022-09-01"), "")
	if strings.Contains(groups.body, "other") || !strings.Contains(groups.body, "fleet") {
		t.Errorf("a list is not what the reader may see: %s", groups.body)
	}
	h.token = "ey.no.token"
	if a := h.send("GET", path(inConfigurations+"/apps", "2023-05-01"), ""); a.status != 401 || a.header.Get("WWW-Authenticate") == "" {
		t.Errorf("a made-up token: %d %v", a.status, a.header)
	}
	h.token = owner
}

func TestManagedCluster(t *testing.T) {
	h := start(t)
	h.furnish()
	aks := inGroup + "/providers/Microsoft.ContainerService/managedClusters/aks"
	h.must(201, "PUT", path(aks, "2022-11-01"), `{"location":"local","properties":{"kubernetesVersion":"1.37.0"},"tags":{"a":"b"}}`)
	a := h.must(200, "GET", path(aks, "2024-05-01"), "")
	if a.property(t, "properties.provisioningState") != "Succeeded" || a.property(t, "properties.powerState.code") != "Running" || a.property(t, "properties.kubernetesVersion") != "1.37.0" {
		t.Errorf("managed cluster: %s", a.body)
	}
	a = h.must(200, "PATCH", path(aks, "2024-05-01"), `{"tags":{"c":"d"}}`)
	if diff := cmp.Diff(map[string]any{"c": "d"}, a.property(t, "tags")); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	h.must(201, "PUT", path(aks+"/providers/Microsoft.KubernetesConfiguration/fluxConfigurations/apps", "2023-05-01"), gitBody)
	all := h.must(200, "GET", path(inSubscription+"/resources", "2021-04-01"), "")
	for _, want := range []string{"managedClusters/aks", "connectedClusters/Berlin"} {
		if !strings.Contains(all.body, want) {
			t.Errorf("resources without %s: %s", want, all.body)
		}
	}
}

func TestChangesAtTheSameTime(t *testing.T) {
	h := start(t)
	h.furnish()
	id := path(inConfigurations+"/apps", "2023-05-01")
	h.must(201, "PUT", id, gitBody)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if a := h.send("PATCH", id, fmt.Sprintf(`{"properties":{"kustomizations":{"k%d":{"path":"./k%d"}}}}`, i, i)); a.status != 202 {
				t.Errorf("PATCH %d: %d %s", i, a.status, a.body)
			}
		})
	}
	all.Wait()
	got, ok := h.must(200, "GET", id, "").property(t, "properties.kustomizations").(map[string]any)
	if !ok || len(got) != 2+8 {
		t.Errorf("%d kustomizations, want all ten: an acknowledged change was lost", len(got))
	}
}

func TestRunningOperations(t *testing.T) {
	h := start(t)
	h.furnish()
	running := path(inCluster+"/providers/Microsoft.KubernetesConfiguration/operations", "2023-05-01")
	names := func() int {
		all, ok := h.must(200, "GET", running, "").object(t)["value"].([]any)
		if !ok {
			t.Fatal("no list")
		}
		return len(all)
	}
	h.must(201, "PUT", path(inConfigurations+"/apps", "2023-05-01"), gitBody)
	if got := names(); got != 2 {
		t.Errorf("%d operations run, want those of the configuration and its extension", got)
	}
	h.accept(inConfigurations + "/apps")
	h.accept(inExtensions + "/flux")
	if got := names(); got != 0 {
		t.Errorf("%d operations run after both were taken", got)
	}
}

package rest

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/api/resource/versions"
	"headwater.dev/hub/store"
)

const (
	inManaged = inGroup + "/providers/Microsoft.ContainerService/managedClusters/Aks"
	inSources = inCluster + "/providers/Microsoft.KubernetesConfiguration/sourceControlConfigurations"
	inTypes   = inCluster + "/providers/Microsoft.KubernetesConfiguration/extensionTypes"
)

func TestReconcileNow(t *testing.T) {
	h := start(t)
	h.furnish()
	id := inConfigurations + "/apps"
	h.must(404, "POST", path(id+"/reconcile", "2025-04-01"), "")
	h.must(201, "PUT", path(id, "2025-04-01"), gitBody)
	h.accept(id)
	a := h.must(202, "POST", path(id+"/reconcile", "2023-05-01"), "")
	operation := strings.TrimPrefix(a.header.Get(arm.HeaderAsyncOperation), h.server.URL)
	if operation == "" {
		t.Fatalf("no place to poll: %v", a.header)
	}
	status := func() any { return h.must(200, "GET", operation, "").property(t, "status") }
	asked := h.desired(id).ReconcileRequestedAt
	o := resource.FluxConfigurationObserved{AcceptedGeneration: 1, AcceptedAt: h.clock()}
	for _, step := range []struct {
		why, handled string
		accepted     int64
		want         string
	}{
		{"the cluster has not heard of it", "", 1, "Updating"},
		{"it has, and works on it", "", 2, "Updating"},
		{"an older request was handled", "2020-01-01T00:00:00Z", 2, "Updating"},
		{"every object has handled it", asked, 2, "Succeeded"},
	} {
		o.AcceptedGeneration, o.LastHandledReconcileAt = step.accepted, step.handled
		h.report(id, o)
		if got := status(); got != step.want {
			t.Errorf("%s: %v, want %s", step.why, got, step.want)
		}
	}
	shown := h.must(200, "GET", path(id, versions.NewestPreview), "")
	if shown.property(t, "properties.lastHandledReconcileAt") != asked || shown.property(t, "properties.provisioningState") != resource.Succeeded {
		t.Errorf("shown: %s", shown.body)
	}

	h.must(202, "POST", path(id+"/reconcile", "2023-05-01"), "")
	second := h.must(202, "POST", path(id+"/reconcile", "2023-05-01"), "")
	operation = strings.TrimPrefix(second.header.Get(arm.HeaderAsyncOperation), h.server.URL)
	h.accept(id)
	h.pass(defaultWait + time.Second)
	h.token = h.login(h.admin.ClientID, h.admin.ClientSecret)
	if a := h.must(200, "GET", operation, ""); a.property(t, "status") != "Failed" || !strings.Contains(a.body, "not every object of the configuration has handled it") {
		t.Errorf("a request that is never handled ends: %s", a.body)
	}
	h.must(202, "PATCH", path(id, "2023-05-01"), `{"properties":{"suspend":true}}`)
	if a := h.must(409, "POST", path(id+"/reconcile", "2023-05-01"), ""); !strings.Contains(a.body, "is suspended") {
		t.Errorf("suspended: %s", a.body)
	}
}

// TestARequestThatNobodyTook shows that a request to reconcile expires by itself:
// it changes nothing of the configuration, nor how long a change waits.
func TestARequestThatNobodyTook(t *testing.T) {
	h := start(t)
	h.furnish()
	taken, waiting := inConfigurations+"/taken", inConfigurations+"/waiting"
	ask := func(id string) string {
		return strings.TrimPrefix(h.must(202, "POST", path(id+"/reconcile", "2023-05-01"), "").header.Get(arm.HeaderAsyncOperation), h.server.URL)
	}
	for _, id := range []string{taken, waiting} {
		h.must(201, "PUT", path(id, "2025-04-01"), gitBody)
	}
	h.accept(taken)
	h.pass(47 * time.Hour)
	h.token = h.login(h.admin.ClientID, h.admin.ClientSecret)
	ask(taken)
	request := ask(taken)
	ask(waiting)
	h.pass(2 * time.Hour)
	h.token = h.login(h.admin.ClientID, h.admin.ClientSecret)
	a := h.must(200, "GET", path(waiting, "2025-04-01"), "")
	if a.property(t, "properties.provisioningState") != resource.Failed || !strings.Contains(a.body, "did not take the change within 48 hours") {
		t.Errorf("a request made a change live longer: %s", a.body)
	}
	if a := h.must(409, "POST", path(waiting+"/reconcile", "2023-05-01"), ""); !strings.Contains(a.body, "apply it again") {
		t.Errorf("a request for what is not handed out any more: %s", a.body)
	}
	h.pass(47 * time.Hour)
	h.token = h.login(h.admin.ClientID, h.admin.ClientSecret)
	if a := h.must(200, "GET", path(taken, "2025-04-01"), ""); a.property(t, "properties.provisioningState") != resource.Succeeded || a.property(t, "properties.errorMessage") != "" {
		t.Errorf("a request that nobody took made the configuration fail: %s", a.body)
	}
	if a := h.must(200, "GET", request, ""); a.property(t, "status") != "Failed" || !strings.Contains(a.body, "did not take the request within 48 hours; nothing was changed") {
		t.Errorf("the request: %s", a.body)
	}
	if a := h.must(200, "PUT", path(taken, "2025-04-01"), gitBody); a.header.Get(arm.HeaderAsyncOperation) != "" {
		t.Errorf("a PUT of the same is a change: %s", a.body)
	}
	h.must(202, "PATCH", path(taken, "2025-04-01"), `{"properties":{"suspend":true}}`)
	if a := h.must(200, "GET", path(taken, "2025-04-01"), ""); a.property(t, "properties.provisioningState") != resource.Updating {
		t.Errorf("a change after it: %s", a.body)
	}
}

// TestFetchedModelsAreNoChange puts back what was shown, for every type, after
// the agent reported all it can.
func TestFetchedModelsAreNoChange(t *testing.T) {
	h := start(t)
	h.furnish()
	h.must(200, "PUT", path(inCluster, "2026-05-01"), `{"location":"local","tags":{"a":"b"},"identity":{"type":"SystemAssigned"},"properties":{"agentPublicKeyCertificate":"`+testCertificate()+`",
	  "infrastructure":"auto","arcAgentProfile":{"agentAutoUpgrade":"Enabled","agentErrors":[{"message":"x"}]},"oidcIssuerProfile":{"enabled":true},"aadProfile":null,"privateLinkState":"Disabled"}}`)
	h.must(201, "PUT", path(inManaged, "2022-11-01"), `{"location":"local","properties":{"kubernetesVersion":"","dnsPrefix":"x"}}`)
	h.must(201, "PUT", path(inConfigurations+"/apps", "2025-04-01"), gitBody)
	h.must(202, "PATCH", path(inExtensions+"/flux", "2025-03-01"), `{"properties":{"configurationSettings":{"a":"1","b":"2"},"configurationProtectedSettings":{"c":"CANARY"}}}`)
	now := h.clock()
	seen := resource.ClusterObserved{KubernetesVersion: "1.37.0", TotalNodeCount: 3, TotalCoreCount: 12, AgentVersion: "1.2.3", Distribution: "kind", Infrastructure: "generic", LastConnectivityTime: &now}
	h.report(inCluster, seen)
	h.report(inManaged, seen)
	h.accept(inExtensions + "/flux")
	h.accept(inConfigurations + "/apps")
	for id, version := range map[string]string{
		inGroup: "2022-09-01", inCluster: "2026-05-01", inManaged: "2022-11-01", inConfigurations + "/apps": "2025-04-01", inExtensions + "/flux": "2025-03-01",
	} {
		t.Run(id[strings.LastIndex(id, "/")+1:], func(t *testing.T) {
			before := h.record(id)
			shown := h.must(200, "GET", path(id, version), "")
			again := h.must(200, "PUT", path(id, version), shown.body)
			if after := h.record(id); after.Generation != before.Generation || again.header.Get(arm.HeaderAsyncOperation) != "" {
				t.Errorf("a PUT of what was fetched is a change: %s -> %s", before.Desired, after.Desired)
			}
			if strings.Contains(shown.body, "CANARY") || strings.Contains(shown.body, "agentErrors") {
				t.Errorf("shown: %s", shown.body)
			}
		})
	}
	shown := h.must(200, "GET", path(inCluster, "2026-05-01"), "")
	for at, want := range map[string]any{
		"distribution": "kind", "infrastructure": "generic", "kubernetesVersion": "1.37.0", "totalNodeCount": 3.0, "totalCoreCount": 12.0, "agentVersion": "1.2.3",
		"connectivityStatus": "Connected", "arcAgentProfile.agentAutoUpgrade": "Enabled", "oidcIssuerProfile.enabled": true, "provisioningState": "Succeeded",
	} {
		if got := shown.property(t, "properties."+at); got != want {
			t.Errorf("%s is %v, want %v", at, got, want)
		}
	}
	if old := h.must(200, "GET", path(inCluster, "2021-10-01"), ""); strings.Contains(old.body, "arcAgentProfile") || strings.Contains(old.body, "privateLink") {
		t.Errorf("2021-10-01 shows what it does not have: %s", old.body)
	}
	h.must(200, "PUT", path(inCluster, "2021-10-01"), h.must(200, "GET", path(inCluster, "2021-10-01"), "").body)
	if got := h.must(200, "GET", path(inCluster, "2026-05-01"), "").property(t, "properties.arcAgentProfile.agentAutoUpgrade"); got != "Enabled" {
		t.Errorf("an old client's PUT lost %v", got)
	}
	h.pass(resource.ExpiredAfter + time.Hour)
	h.token = h.login(h.admin.ClientID, h.admin.ClientSecret)
	if got := h.must(200, "GET", path(inCluster, "2024-01-01"), "").property(t, "properties.connectivityStatus"); got != resource.Expired {
		t.Errorf("after ninety days: %v", got)
	}
}

func TestExtensionSettingsVanish(t *testing.T) {
	h := start(t)
	h.furnish()
	id := inExtensions + "/flux"
	body := func(settings string) string {
		return `{"properties":{"extensionType":"microsoft.flux","configurationSettings":` + settings + `}}`
	}
	h.must(201, "PUT", path(id, "2022-11-01"), body(`{"a":"1","b":"2"}`))
	settings := func() any {
		return h.must(200, "GET", path(id, "2022-11-01"), "").property(t, "properties.configurationSettings")
	}
	for _, step := range []struct{ why, method, body, want string }{
		{"PATCH merges", "PATCH", `{"properties":{"configurationSettings":{"c":"3"}}}`, "map[a:1 b:2 c:3]"},
		{"null removes a key", "PATCH", `{"properties":{"configurationSettings":{"a":null}}}`, "map[b:2 c:3]"},
		{"PUT replaces", "PUT", body(`{"c":"4"}`), "map[c:4]"},
		{"null removes all", "PATCH", `{"properties":{"configurationSettings":null}}`, "<nil>"},
	} {
		if a := h.send(step.method, path(id, "2022-11-01"), step.body); a.status >= 300 {
			t.Fatalf("%s: %s", step.why, a.body)
		}
		if got := fmt.Sprint(settings()); got != step.want {
			t.Errorf("%s: %s, want %s", step.why, got, step.want)
		}
		if stored := fmt.Sprint(h.desired(id).Properties["configurationSettings"]); stored != step.want {
			t.Errorf("%s: the cluster is asked for %s", step.why, stored)
		}
	}
	if a := h.send("PATCH", path(id, "2022-11-01"), `{"properties":{"configurationSettings":{"a":true}}}`); a.status != 400 || !strings.Contains(a.body, `write \"true\", not true`) {
		t.Errorf("a setting that is no text: %s", a.body)
	}
}

func TestExtensionTypes(t *testing.T) {
	h := start(t, func(c *Config) { c.ExtensionVersions = []string{"1.5.0", "1.4.1", "1.3.0", "1.2.0", "1.6.0-rc.1"} })
	h.furnish()
	located := inSubscription + "/providers/Microsoft.KubernetesConfiguration/locations/local/extensionTypes"
	for _, base := range []string{inTypes, located} {
		for query, want := range map[string]string{
			"":                      "1.5.0 1.4.1 1.3.0",
			"&releaseTrain=preview": "1.6.0-rc.1 1.5.0 1.4.1 1.3.0",
			"&showLatest=true":      "1.5.0", "&majorVersion=1": "1.5.0 1.4.1 1.3.0", "&MajorVersion=2": "",
		} {
			list, _ := h.must(200, "GET", path(base+"/microsoft.flux/versions", "2023-05-01-preview")+query, "").object(t)["value"].([]any)
			var got []string
			for _, v := range list {
				got = append(got, v.(map[string]any)["name"].(string))
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s: %v, want %s", query, got, want)
			}
		}
		h.must(200, "GET", path(base+"/Microsoft.Flux/versions/1.4.1", "2026-05-01"), "")
		if a := h.must(404, "GET", path(base+"/microsoft.flux/versions/1.2.0", "2026-05-01"), ""); !strings.Contains(a.body, "1.3.0") {
			t.Errorf("the supported ones are not named: %s", a.body)
		}
		h.must(404, "GET", path(base+"/microsoft.dapr/versions", "2026-05-01"), "")
		if a := h.must(200, "GET", path(base, "2026-05-01")+"&clusterType=appliances", ""); len(a.object(t)["value"].([]any)) != 0 {
			t.Errorf("another type of cluster: %s", a.body)
		}
	}
	pinned := func(v string) string {
		return `{"properties":{"extensionType":"microsoft.flux","autoUpgradeMinorVersion":false,"version":"` + v + `"}}`
	}
	if a := h.must(400, "PUT", path(inExtensions+"/flux", "2023-05-01"), pinned("1.2.0")); a.property(t, "error.target") != "properties.version" || !strings.Contains(a.body, "from 1.3 on") {
		t.Errorf("an old version is pinned: %s", a.body)
	}
	if a := h.must(400, "PUT", path(inExtensions+"/flux", "2023-05-01"), pinned("1.6.0-rc.1")); !strings.Contains(a.body, "releaseTrain Preview") {
		t.Errorf("a pre-release of the train Stable: %s", a.body)
	}
	h.must(400, "PUT", path(inExtensions+"/flux", "2023-05-01"), `{"properties":{"extensionType":"microsoft.flux","releaseTrain":"Express"}}`)
	h.must(201, "PUT", path(inExtensions+"/flux", "2023-05-01"), strings.Replace(pinned("1.6.0-rc.1"), `"version"`, `"releaseTrain":"preview","version"`, 1))
	h.must(200, "PUT", path(inExtensions+"/flux", "2023-05-01"), pinned("1.3.0"))
	h.report(inExtensions+"/flux", resource.ExtensionObserved{AcceptedGeneration: 2, CurrentVersion: "1.2.9"})
	if a := h.must(200, "GET", path(inExtensions+"/flux", "2023-05-01"), ""); !strings.Contains(a.body, "VersionNotSupported") {
		t.Errorf("an old version runs: %s", a.body)
	}
}

func TestSourceControlConfigurations(t *testing.T) {
	const body = `{"properties":{"repositoryUrl":"https://git.example/v1","operatorNamespace":"v1","operatorParams":"--git-branch=main","configurationProtectedSettings":{"httpsKey":"CANARY"}}}`
	closed := start(t)
	closed.furnish()
	if a := closed.must(400, "PUT", path(inSources+"/old", "2023-05-01"), body); a.code() != arm.CodeNotSupported || !strings.Contains(a.body, "fluxConfigurations/old") {
		t.Errorf("creation is refused with the way out: %s", a.body)
	}
	closed.must(204, "DELETE", path(inSources+"/old", "2023-05-01"), "")

	h := start(t, func(c *Config) { c.ImportSources = true })
	h.furnish()
	h.must(201, "PUT", path(inSources+"/old", "2022-03-01"), body)
	h.must(200, "PUT", path(inSources+"/old", "2022-03-01"), body)
	if again := h.must(200, "PUT", path(inSources+"/old", "2022-03-01"), h.must(200, "GET", path(inSources+"/old", "2022-03-01"), "").body); h.record(inSources+"/old").Generation != 1 {
		t.Errorf("a PUT of what was fetched is a change: %s", again.body)
	}
	shown := h.must(200, "GET", path(inSources+"/old", "2022-03-01"), "")
	if shown.property(t, "properties.operatorScope") != "cluster" || !strings.Contains(shown.body, "headwater migrate") || strings.Contains(shown.body, "CANARY") {
		t.Errorf("shown: %s", shown.body)
	}
	if strings.Contains(string(h.record(inSources+"/old").Desired), "CANARY") {
		t.Error("a protected setting is stored")
	}
	if a := h.must(200, "GET", path(inSources, "2022-03-01"), ""); len(a.object(t)["value"].([]any)) != 1 {
		t.Errorf("listed: %s", a.body)
	}
	for why, refused := range map[string]answered{
		"the extension":              h.send("PUT", path(inExtensions+"/flux", "2022-11-01"), `{"properties":{"extensionType":"microsoft.flux"}}`),
		"which a configuration does": h.send("PUT", path(inConfigurations+"/new", "2022-11-01"), gitBody),
	} {
		if refused.status != 409 || !strings.Contains(refused.body, "(Flux v1): old") {
			t.Errorf("%s cannot be installed: %d %s", why, refused.status, refused.body)
		}
	}
	h.must(400, "PUT", path(inSources+"/bad", "2022-03-01"), `{"properties":{"repositoryUrl":"ftp://x","operatorScope":"galaxy"}}`)
	h.must(200, "DELETE", path(inSources+"/old", "2022-03-01"), "")
	h.must(404, "GET", path(inSources+"/old", "2022-03-01"), "")
	h.must(201, "PUT", path(inConfigurations+"/new", "2022-11-01"), gitBody)
	if a := h.must(409, "PUT", path(inSources+"/old", "2022-03-01"), body); !strings.Contains(a.body, "cannot be beside it") {
		t.Errorf("beside the extension: %s", a.body)
	}
}

func TestResourceFilters(t *testing.T) {
	h := start(t)
	h.furnish()
	h.must(201, "PUT", path(inSubscription+"/resourceGroups/other", "2022-09-01"), `{"location":"local","tags":{"env":"test","team":"prod"}}`)
	h.must(201, "PUT", path(inManaged, "2022-11-01"), `{"location":"local","tags":{"env":"prod","team":"a"}}`)
	names := func(id, filter string) string {
		q := "&$filter=" + strings.NewReplacer(" ", "%20", "'", "%27").Replace(filter)
		list, _ := h.must(200, "GET", path(id, "2021-04-01")+q, "").object(t)["value"].([]any)
		var out []string
		for _, v := range list {
			out = append(out, v.(map[string]any)["name"].(string))
		}
		return strings.Join(out, " ")
	}
	for filter, want := range map[string]string{
		"": "Berlin Aks", "resourceType eq 'microsoft.kubernetes/connectedClusters'": "Berlin", "name eq 'aks'": "Aks",
		"resourceGroup eq 'FLEET' and location eq 'local'": "Berlin Aks", "resourceGroup eq 'other'": "", "resourceType ne 'Microsoft.Kubernetes/connectedClusters'": "Aks",
		"tagName eq 'env' and tagValue eq 'prod'": "Aks", "tagname eq 'team' and tagvalue eq 'prod'": "", "tagName eq 'ENV'": "Aks",
	} {
		got := names(inSubscription+"/resources", filter)
		if !sameWords(got, want) {
			t.Errorf("resources where %s: %q, want %q", filter, got, want)
		}
	}
	if got := names(inSubscription+"/resourcegroups", "tagName eq 'env' and tagValue eq 'test'"); got != "other" {
		t.Errorf("groups: %q", got)
	}
	if got := names(inSubscription+"/resourcegroups", "tagName eq 'env' and tagValue eq 'prod'"); got != "" {
		t.Errorf("both terms are about one tag: %q", got)
	}
	if a := h.must(200, "GET", path(inGroup+"/resources", "2021-04-01")+"&$expand=createdTime,provisioningState", ""); !strings.Contains(a.body, `"createdTime":"2026`) || strings.Contains(a.body, "changedTime") {
		t.Errorf("expanded: %s", a.body)
	}
	for _, filter := range []string{"plan%20eq%20%27x%27", "name%20gt%20%27x%27", "name"} {
		if a := h.must(400, "GET", path(inSubscription+"/resources", "2021-04-01")+"&$filter="+filter, ""); a.code() != arm.CodeInvalidParameter {
			t.Errorf("%s: %s", filter, a.body)
		}
	}
}

func sameWords(a, b string) bool {
	count := map[string]int{}
	for _, w := range strings.Fields(a) {
		count[w]++
	}
	for _, w := range strings.Fields(b) {
		count[w]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

// blocking holds deletions back until it is told to let them go.
type blocking struct {
	store.Store
	mu   sync.Mutex
	held chan struct{}
	fail bool
}

func (b *blocking) Delete(ctx context.Context, key string, expect int64) error {
	b.mu.Lock()
	held, fail := b.held, b.fail
	b.mu.Unlock()
	if fail {
		return fmt.Errorf("%w: cut off", store.ErrUnavailable)
	}
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return b.Store.Delete(ctx, key, expect)
}

func (b *blocking) set(held chan struct{}, fail bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held, b.fail = held, fail
}

// TestGroupDeletion deletes a group that takes long, is cut off, and is finished
// by whoever asks for it.
func TestGroupDeletion(t *testing.T) {
	b := &blocking{}
	h := start(t, func(c *Config) { b.Store = c.Store; c.Store = b; c.DeletePatience = time.Second })
	h.furnish()
	h.must(201, "PUT", path(inConfigurations+"/apps", "2025-04-01"), gitBody)
	b.set(nil, true)
	h.must(503, "DELETE", path(inGroup, "2022-09-01"), "") // the storage is cut off in the middle
	held := make(chan struct{})
	b.set(held, false)
	a := h.must(202, "DELETE", path(inGroup, "2022-09-01"), "")
	place := strings.TrimPrefix(a.header.Get("Location"), h.server.URL)
	if place == "" || a.header.Get(arm.HeaderRetryAfter) != "1" {
		t.Fatalf("no place to ask: %v", a.header)
	}
	h.must(202, "GET", place, "")
	if got := h.must(200, "GET", path(inGroup, "2022-09-01"), "").property(t, "properties.provisioningState"); got != resource.Deleting {
		t.Errorf("meanwhile the group is %v", got)
	}
	for why, refused := range map[string]answered{
		"a cluster":  h.send("PUT", path(inGroup+"/providers/Microsoft.Kubernetes/connectedClusters/new", "2024-01-01"), `{"location":"local","properties":{"agentPublicKeyCertificate":"`+testCertificate()+`"}}`),
		"the group":  h.send("PUT", path(inGroup, "2022-09-01"), `{"location":"local"}`),
		"other tags": h.send("PATCH", path(inGroup, "2022-09-01"), `{"tags":{"a":"b"}}`),
	} {
		if refused.status != http.StatusConflict || refused.code() != arm.CodeGroupBeingDeleted {
			t.Errorf("%s is let in: %d %s", why, refused.status, refused.body)
		}
	}
	close(held)
	wait(t, func() bool { return h.send("GET", place, "").status == 200 })
	h.must(404, "GET", path(inGroup, "2022-09-01"), "")
	if left := keysBelow(t, h, inGroup); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	h.must(201, "PUT", path(inGroup, "2022-09-01"), `{"location":"local"}`)
	h.must(200, "GET", place, "") // the old deletion has ended, and the new group stays
	h.must(200, "GET", path(inGroup, "2022-09-01"), "")
}

func wait(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if done() {
			return
		}
	}
	t.Fatal("it does not come")
}

func keysBelow(t *testing.T, h *hub, id string) []string {
	t.Helper()
	var keys []string
	if _, err := store.Each(t.Context(), h.store, arm.Fold(id)+"/", func(r store.Record) error {
		keys = append(keys, r.Key)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return keys
}

// TestNoOrphans races makers against deletions of what their resource is in: of
// a cluster, and of a group. Whoever wins, nothing outlives its parent.
func TestNoOrphans(t *testing.T) {
	h := start(t)
	key := `{"location":"local","properties":{"agentPublicKeyCertificate":"` + testCertificate() + `"}}`
	var made atomic.Int64
	for round := range 25 {
		h.must(201, "PUT", path(inGroup, "2022-09-01"), `{"location":"local"}`)
		h.must(201, "PUT", path(inCluster, "2024-01-01"), key)
		parent := inCluster
		if round%2 == 1 {
			parent = inGroup
		}
		var all sync.WaitGroup
		for i := range 6 {
			all.Go(func() {
				var a answered
				if i%3 == 0 && parent == inGroup {
					a = h.send("PUT", path(fmt.Sprintf("%s/providers/Microsoft.Kubernetes/connectedClusters/c%d", inGroup, i), "2024-01-01"), key)
				} else {
					a = h.send("PUT", path(fmt.Sprintf("%s/c%d", inConfigurations, i), "2025-04-01"),
						strings.Replace(gitBody, `"url":`, `"httpsUser":"u","url":`, 1)[:len(gitBody)+len(`"httpsUser":"u",`)-2]+`,"configurationProtectedSettings":{"httpsKey":"YQ=="}}}`)
				}
				made.Add(int64(map[bool]int{true: 1}[a.status == 201]))
				if a.status >= 500 || a.status == 400 {
					t.Errorf("%d %s", a.status, a.body)
				}
			})
		}
		all.Go(func() {
			h.must(200, "DELETE", path(parent, map[string]string{inCluster: "2024-01-01", inGroup: "2022-09-01"}[parent]), "")
		})
		all.Wait()
		for _, k := range keysBelow(t, h, parent) {
			if !strings.Contains(k, "/operations/") {
				t.Errorf("round %d: %s outlives %s", round, k, parent)
			}
		}
		if parent == inCluster {
			h.must(200, "DELETE", path(inGroup, "2022-09-01"), "")
		}
	}
	if made.Load() == 0 {
		t.Error("no maker ever won: this was no race")
	}
}

// TestOrphansOfACrash lets a hub die between making a record and looking for its
// parent: whoever makes the parent anew does not inherit the record.
func TestOrphansOfACrash(t *testing.T) {
	h := start(t)
	h.furnish()
	h.must(201, "PUT", path(inConfigurations+"/apps", "2025-04-01"), gitBody)
	orphan := h.record(inConfigurations + "/apps")
	for _, parent := range []struct{ id, version string }{{inCluster, "2024-01-01"}, {inGroup, "2022-09-01"}} {
		h.must(200, "DELETE", path(parent.id, parent.version), "")
		if _, err := h.store.Put(t.Context(), store.Put{Key: orphan.Key, Part: store.Desired, Value: orphan.Desired}); err != nil {
			t.Fatal(err)
		}
		if parent.id == inGroup {
			h.must(201, "PUT", path(inGroup, "2022-09-01"), `{"location":"local"}`)
			if left := keysBelow(t, h, inGroup); len(left) > 0 {
				t.Errorf("the new group inherits %v", left)
			}
		}
		h.must(201, "PUT", path(inCluster, "2024-01-01"), `{"location":"local","properties":{"agentPublicKeyCertificate":"`+testCertificate()+`"}}`)
		if a := h.must(200, "GET", path(inConfigurations, "2025-04-01"), ""); strings.TrimSpace(a.body) != `{"value":[]}` {
			t.Errorf("the new cluster inherits %s", a.body)
		}
	}
}

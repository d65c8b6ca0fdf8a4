package rest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
	"headwater.dev/api/resource/versions"
)

// era is what the fluxConfigurations of some api-versions have.
type era struct {
	versions []string
	// top, git and kustomization are the writable properties that a client of the
	// era knows beside those of all.
	top, git, kustomization []string
	// kinds are the sources that the era has.
	kinds []string
	// synced is what the era calls the commit.
	synced string
	// ca is what it calls the authority, objects whether dependsOn has objects.
	ca      string
	objects bool
}

func eras() []era {
	const commit = "sourceSyncedCommitId"
	return []era{
		{[]string{"2021-06-01-preview", "2021-11-01-preview"}, nil, nil, []string{"validation"}, []string{"git"}, "lastSourceSyncedCommitId", "httpsCAFile", true},
		{[]string{"2022-01-01-preview", "2022-01-15-preview"}, nil, nil, nil, []string{"git", "bucket"}, "lastSourceSyncedCommitId", "httpsCACert", true},
		{[]string{"2022-03-01"}, nil, nil, nil, []string{"git", "bucket"}, commit, "httpsCACert", false},
		{[]string{"2022-04-02-preview", "2022-07-01", "2022-11-01"}, nil, nil, nil, []string{"git", "bucket", "blob"}, commit, "httpsCACert", false},
		{[]string{"2023-05-01"}, []string{"waitForReconciliation", "reconciliationWaitDuration"}, nil, []string{"wait", "postBuild"},
			[]string{"git", "bucket", "blob"}, commit, "httpsCACert", false},
		{[]string{"2024-11-01"}, []string{"waitForReconciliation", "reconciliationWaitDuration"}, []string{"provider"}, []string{"wait", "postBuild"},
			[]string{"git", "bucket", "blob"}, commit, "httpsCACert", false},
		{[]string{"2024-04-01-preview", "2024-06-01-preview", "2025-04-01"}, []string{"waitForReconciliation", "reconciliationWaitDuration"}, []string{"provider"},
			[]string{"wait", "postBuild"}, []string{"git", "bucket", "blob", "oci"}, commit, "httpsCACert", false},
		{[]string{versions.NewestPreview}, []string{"waitForReconciliation", "reconciliationWaitDuration", "reconcileRequestedAt", "lastHandledReconcileAt"},
			[]string{"provider", "sparseCheckout", "objectLevelIdentity", "additionalConfigurations"},
			[]string{"wait", "postBuild", "suspend", "kubeConfig", "additionalConfigurations"}, []string{"git", "bucket", "blob", "oci"}, commit, "httpsCACert", false},
	}
}

// example is the specification's example of an era, told in our words: every
// property that a client of the era can set.
func (e era) example(kind string) string {
	dependsOn := `["infra"]`
	if e.objects {
		dependsOn = `[{"kustomizationName":"infra"}]`
	}
	extra := map[string]string{
		"wait": `"wait":false`, "postBuild": `"postBuild":{"substitute":{"region":"eu"},"substituteFrom":[{"kind":"ConfigMap","name":"vars","optional":true}]}`,
		"validation": `"validation":"none"`, "suspend": `"suspend":true`, "additionalConfigurations": `"additionalConfigurations":{"decryption":{"provider":"sops"}}`,
		"kubeConfig": `"kubeConfig":{"clusterResourceId":"/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/staging",` +
			`"objectLevelIdentity":{"clientId":"i","tenantId":"t","serviceAccountName":null}}`,
		"provider": `"provider":"Generic"`, "sparseCheckout": `"sparseCheckout":["deploy"]`, "waitForReconciliation": `"waitForReconciliation":true`,
		"reconciliationWaitDuration": `"reconciliationWaitDuration":"PT30M"`,
	}
	with := func(first string, keys []string) string {
		for _, k := range keys {
			if text, ok := extra[k]; ok {
				first += "," + text
			}
		}
		return "{" + first + "}"
	}
	apps := with(`"path":"./apps/staging","dependsOn":`+dependsOn+`,"timeoutInSeconds":300,"syncIntervalInSeconds":450,"retryIntervalInSeconds":60,"prune":true,"force":true`, e.kustomization)
	source := map[string]string{
		"git": `"sourceKind":"GitRepository","gitRepository":` + with(`"url":"https://git.example/team/apps","timeoutInSeconds":500,"syncIntervalInSeconds":700,`+
			`"repositoryRef":{"branch":"main","tag":null,"semver":null,"commit":null},"`+e.ca+`":"Y2E="`, e.git),
		"bucket": `"sourceKind":"Bucket","bucket":{"url":"https://s3.example","bucketName":"apps","insecure":false,"timeoutInSeconds":500,"syncIntervalInSeconds":700,"accessKey":"me"}`,
		"blob": `"sourceKind":"AzureBlob","azureBlob":{"url":"https://a.blob.example","containerName":"apps","timeoutInSeconds":500,"syncIntervalInSeconds":700,` +
			`"servicePrincipal":{"clientId":"c","tenantId":"t","clientSecret":"CANARY","clientCertificateSendChain":false}}`,
		"oci": `"sourceKind":"OCIRepository","ociRepository":{"url":"oci://registry.example/apps","timeoutInSeconds":500,"syncIntervalInSeconds":700,"repositoryRef":{"tag":null,"semver":">=1.0","digest":null},` +
			`"layerSelector":{"mediaType":"application/x","operation":"copy"},"verify":{"provider":"cosign","verificationConfig":{"secretName":"keys"},"matchOidcIdentity":[{"issuer":"^i$","subject":"^s$"}]},` +
			`"insecure":false,"useWorkloadIdentity":false,"serviceAccountName":"puller","tlsConfig":{"caCertificate":"CANARY"}}`,
	}[kind]
	secrets := ""
	if kind == "bucket" {
		secrets = `,"configurationProtectedSettings":{"bucketSecretKey":"Q0FOQVJZ"}`
	}
	return `{"properties":` + with(`"scope":"namespace","namespace":"team-a","suspend":false,`+source+
		`,"kustomizations":{"infra":{"path":"","prune":false},"apps":`+apps+`}`+secrets, e.top) + `}`
}

// TestVersions replays, for every api-version, what its specification shows:
// create, show, send back what was shown, patch, show again.
func TestVersions(t *testing.T) {
	h := start(t)
	h.furnish()
	covered := map[string]bool{}
	for i, e := range eras() {
		for _, version := range e.versions {
			covered[version] = true
			for _, kind := range e.kinds {
				t.Run(version+"/"+kind, func(t *testing.T) { replay(t, h, e, version, kind, fmt.Sprintf("%s-%d-%s", version, i, kind)) })
			}
		}
	}
	for _, v := range []string{"2022-03-01", "2022-07-01", "2022-11-01", "2023-05-01", "2024-11-01", versions.Newest, "2021-11-01-preview",
		"2022-01-01-preview", "2024-04-01-preview", versions.NewestPreview} {
		if !covered[v] || !versions.Known(resource.TypeFluxConfiguration, v) {
			t.Errorf("%s is not replayed", v)
		}
	}
}

func replay(t *testing.T, h *hub, e era, version, kind, name string) {
	id := inConfigurations + "/" + name
	sent := e.example(kind)
	created := h.must(201, "PUT", path(id, version), sent)
	if created.header.Get(arm.HeaderAsyncOperation) == "" || created.header.Get(arm.HeaderRetryAfter) != "1" ||
		created.property(t, "properties.provisioningState") != resource.Creating {
		t.Errorf("creation: %v %s", created.header, created.body)
	}
	h.report(id, resource.FluxConfigurationObserved{AcceptedGeneration: 1, AcceptedAt: h.clock(), ComplianceState: resource.Compliant, StatusGeneration: 1,
		SettledGeneration: 1, SourceSyncedCommitID: "main@sha1:4711"})
	shown := h.must(200, "GET", path(id, version), "")
	echoed(t, "properties", decoded(t, sent)["properties"], shown.object(t)["properties"])
	if strings.Contains(shown.body, "CANARY") || strings.Contains(shown.body, "Q0FOQVJZ") {
		t.Errorf("a secret is shown: %s", shown.body)
	}
	if shown.property(t, "properties."+e.synced) != "main@sha1:4711" {
		t.Errorf("%s is not %s: %s", e.synced, "main@sha1:4711", shown.body)
	}
	known(t, e, kind, shown)

	generation := h.record(id).Generation
	again := h.must(200, "PUT", path(id, version), shown.body)
	if again.header.Get(arm.HeaderAsyncOperation) != "" || h.record(id).Generation != generation {
		t.Errorf("a PUT of what was fetched is a change: %s", again.body)
	}
	if diff := cmp.Diff(shown.object(t), again.object(t)); diff != "" {
		t.Errorf("and it shows something else: %s", diff)
	}

	h.must(202, "PATCH", path(id, version), `{"properties":{"suspend":true,"kustomizations":{"apps":{"retryIntervalInSeconds":null,"prune":false},"new":{}}}}`)
	now := h.must(200, "GET", path(id, version), "")
	for at, want := range map[string]any{
		"suspend": true, "kustomizations.apps.retryIntervalInSeconds": nil, "kustomizations.apps.prune": false, "kustomizations.apps.force": true,
		"kustomizations.apps.path": "./apps/staging", "kustomizations.new.prune": false, "kustomizations.new.timeoutInSeconds": 600.0, "namespace": "team-a",
	} {
		if got := now.property(t, "properties."+at); got != want {
			t.Errorf("after PATCH %s is %v, want %v", at, got, want)
		}
	}
}

func decoded(t *testing.T, s string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(s), &m); err != nil {
		t.Fatalf("%v: %s", err, s)
	}
	return m
}

// echoed checks that everything that was sent is shown as it was, but secrets.
func echoed(t *testing.T, at string, sent, shown any) {
	t.Helper()
	want, ok := sent.(map[string]any)
	if !ok {
		if diff := cmp.Diff(sent, shown); diff != "" {
			t.Errorf("%s changed (-sent +shown):\n%s", at, diff)
		}
		return
	}
	have, _ := shown.(map[string]any)
	for key, value := range want {
		if slices.Contains([]string{"configurationProtectedSettings", "clientSecret", "tlsConfig"}, key) {
			continue
		}
		echoed(t, at+"."+key, value, have[key])
	}
}

// known checks that nothing is shown that a client of the era does not know.
func known(t *testing.T, e era, kind string, shown answered) {
	t.Helper()
	top := append([]string{"scope", "namespace", "sourceKind", "suspend", "gitRepository", "kustomizations", "configurationProtectedSettings", "statuses",
		"repositoryPublicKey", "complianceState", "provisioningState", "errorMessage", e.synced}, e.top...)
	if e.synced == "sourceSyncedCommitId" {
		top = append(top, "sourceUpdatedAt", "statusUpdatedAt")
	} else {
		top = append(top, "lastSourceSyncedAt")
	}
	for kind, body := range map[string]string{"bucket": "bucket", "blob": "azureBlob", "oci": "ociRepository"} {
		if slices.Contains(e.kinds, kind) {
			top = append(top, body)
		}
	}
	props, _ := shown.object(t)["properties"].(map[string]any)
	only(t, "properties", props, top)
	if kind == "git" {
		git, _ := props["gitRepository"].(map[string]any)
		only(t, "gitRepository", git, append([]string{"url", "timeoutInSeconds", "syncIntervalInSeconds", "repositoryRef", "sshKnownHosts", "httpsUser", e.ca, "localAuthRef"}, e.git...))
	}
	all, _ := props["kustomizations"].(map[string]any)
	apps, _ := all["apps"].(map[string]any)
	only(t, "kustomizations.apps", apps, append([]string{"name", "path", "dependsOn", "timeoutInSeconds", "syncIntervalInSeconds", "retryIntervalInSeconds", "prune", "force"}, e.kustomization...))
}

func only(t *testing.T, at string, m map[string]any, allowed []string) {
	t.Helper()
	for key := range m {
		if !slices.Contains(allowed, key) {
			t.Errorf("%s.%s is not of this version", at, key)
		}
	}
}

// TestOldClientKeepsTheNew shows both laws of versions at the door: a client of
// 2022 changes what it knows and keeps what it does not.
func TestOldClientKeepsTheNew(t *testing.T) {
	h := start(t)
	h.furnish()
	id := inConfigurations + "/apps"
	h.must(201, "PUT", path(id, versions.NewestPreview), `{"properties":{"gitRepository":{"url":"https://git.example/x","provider":"GitHub","sparseCheckout":["deploy"],
	  "additionalConfigurations":{"recurseSubmodules":true}},"kustomizations":{"a":{"wait":false,"suspend":true,"additionalConfigurations":{"namePrefix":"x-","n":12345678901234567}}}}}`)
	h.accept(id)
	fetched := h.must(200, "GET", path(id, "2022-03-01"), "")
	for _, word := range []string{"GitHub", "sparse", "additional", `"wait"`, "namePrefix"} {
		if strings.Contains(fetched.body, word) {
			t.Errorf("2022-03-01 shows %s: %s", word, fetched.body)
		}
	}
	changed := strings.Replace(fetched.body, "https://git.example/x", "https://git.example/y", 1)
	h.must(200, "PUT", path(id, "2022-03-01"), changed)
	now := h.must(200, "GET", path(id, versions.NewestPreview), "")
	for at, want := range map[string]any{
		"gitRepository.url": "https://git.example/y", "gitRepository.provider": "GitHub", "gitRepository.additionalConfigurations.recurseSubmodules": true,
		"kustomizations.a.suspend": true, "kustomizations.a.wait": false, "kustomizations.a.additionalConfigurations.namePrefix": "x-",
	} {
		if got := now.property(t, "properties."+at); got != want {
			t.Errorf("%s is %v, want %v", at, got, want)
		}
	}
	if !strings.Contains(now.body, `"n":12345678901234567`) {
		t.Errorf("a number was not echoed unchanged: %s", now.body)
	}
	h.must(202, "PATCH", path(id, versions.NewestPreview), `{"properties":{"gitRepository":{"additionalConfigurations":null},"kustomizations":{"a":{"suspend":false}}}}`)
	now = h.must(200, "GET", path(id, versions.NewestPreview), "")
	if now.property(t, "properties.gitRepository.additionalConfigurations") != nil || now.property(t, "properties.kustomizations.a.suspend") == true {
		t.Errorf("null removes: %s", now.body)
	}
}

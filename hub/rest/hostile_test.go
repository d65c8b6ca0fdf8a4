package rest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

const hostileConfiguration = `{"properties":{"scope":"cluster","namespace":"ns","sourceKind":"GitRepository","suspend":false,
"waitForReconciliation":false,"reconciliationWaitDuration":"PT5M","configurationProtectedSettings":{"httpsKey":"aGk="},
"gitRepository":{"url":"https://git.example/x","timeoutInSeconds":600,"syncIntervalInSeconds":600,"httpsUser":"u","provider":"Generic",
"httpsCACert":"aGk=","sshKnownHosts":"aGk=","localAuthRef":"x","repositoryRef":{"branch":"main","tag":"t","semver":"1","commit":"c"}},
"bucket":{"url":"https://b.example","bucketName":"b","insecure":false,"accessKey":"k","timeoutInSeconds":1,"localAuthRef":"x"},
"azureBlob":{"url":"https://b.example","containerName":"b","accountKey":"k","sasToken":"s","managedIdentity":{"clientId":"x"},
"servicePrincipal":{"clientId":"a","tenantId":"b","clientSecret":"c","clientCertificateSendChain":true}},
"ociRepository":{"url":"oci://r.example/x","repositoryRef":{"tag":"t"},"layerSelector":{"mediaType":"m","operation":"copy"},"useWorkloadIdentity":true,
"insecure":true,"serviceAccountName":"s","verify":{"provider":"cosign","verificationConfig":{"a":"b"},"matchOidcIdentity":[{"issuer":"a","subject":"b"}]},
"tlsConfig":{"clientCertificate":"aGk=","privateKey":"aGk=","caCertificate":"aGk="}},
"kustomizations":{"a":{"path":"./x","dependsOn":["b"],"timeoutInSeconds":600,"syncIntervalInSeconds":600,"retryIntervalInSeconds":1,"prune":true,
"force":true,"wait":true,"postBuild":{"substitute":{"x":"y"},"substituteFrom":[{"kind":"ConfigMap","name":"c","optional":true}]}},"b":{}}}}`

const plainConfiguration = `{"properties":{"namespace":"ns","sourceKind":"GitRepository","gitRepository":{"url":"https://git.example/x",
"httpsUser":"u","timeoutInSeconds":600,"repositoryRef":{"branch":"main"}},"bucket":{},"configurationProtectedSettings":{"httpsKey":"aGk="},
"kustomizations":{"a":{"path":"./x","dependsOn":["b"],"syncIntervalInSeconds":600,"prune":true,
"postBuild":{"substitute":{"x":"y"},"substituteFrom":[{"kind":"ConfigMap","name":"c"}]}},"b":{}}}}`

const hostileExtension = `{"identity":{"type":"SystemAssigned"},"plan":{"name":"a","publisher":"b","product":"c"},"properties":{
"extensionType":"microsoft.flux","autoUpgradeMinorVersion":true,"releaseTrain":"Stable","version":"1.0.0","autoUpgradeMode":"none",
"scope":{"cluster":{"releaseNamespace":"flux-system"},"namespace":{"targetNamespace":"x"}},
"configurationSettings":{"a":"b"},"configurationProtectedSettings":{"a":"b"},"statuses":[{"code":"x"}]}}`

const hostileCluster = `{"location":"local","tags":{"a":"b"},"identity":{"type":"SystemAssigned"},"properties":{"agentPublicKeyCertificate":"aGk=",
"distribution":"k3s","infrastructure":"x","kind":"ProvisionedCluster","arcAgentProfile":{"agentAutoUpgrade":"Enabled"},
"aadProfile":{"enableAzureRBAC":true,"adminGroupObjectIDs":["a"],"tenantID":"x"},"azureHybridBenefit":"True","provisioningState":"x"}}`

// variants are the document with one value at a time replaced by what a client
// should not send there.
func variants(doc any, with any, visit func(at string)) {
	var walk func(v any, at string, set func(any))
	walk = func(v any, at string, set func(any)) {
		set(with)
		visit(at)
		set(v)
		switch v := v.(type) {
		case map[string]any:
			for k, inner := range v {
				walk(inner, at+"."+k, func(x any) { v[k] = x })
			}
		case []any:
			for i, inner := range v {
				walk(inner, fmt.Sprintf("%s[%d]", at, i), func(x any) { v[i] = x })
			}
		}
	}
	m := doc.(map[string]any)
	for k, inner := range m {
		walk(inner, k, func(x any) { m[k] = x })
	}
}

// TestHostileBodies sends every wrong type in every place: the answer is never
// a failure of the hub.
func TestHostileBodies(t *testing.T) {
	var deep any = "x"
	for range 200 {
		deep = map[string]any{"a": []any{deep}}
	}
	hostile := []any{nil, true, json.Number("1e999999"), json.Number("-1"), json.Number("0.5"), json.Number("9223372036854775808"), "", "\x00é\u2028",
		strings.Repeat("x", 70000), []any{}, []any{nil}, []any{map[string]any{"a": nil}}, map[string]any{}, map[string]any{"": nil},
		map[string]any{"a": nil}, map[string]any{"a/../b": map[string]any{"prune": 1}}, deep}
	h := start(t)
	h.furnish()
	for name, test := range map[string]struct{ path, version, body string }{
		"configuration": {inConfigurations + "/c", "2025-04-01", hostileConfiguration},
		"plain":         {inConfigurations + "/p", "2025-04-01", plainConfiguration},
		"old":           {inConfigurations + "/o", "2022-03-01", hostileConfiguration},
		"extension":     {inExtensions + "/flux", "2023-05-01", hostileExtension},
		"cluster":       {inCluster, "2024-01-01", hostileCluster},
		"group":         {inGroup, "2022-09-01", hostileCluster},
	} {
		t.Run(name, func(t *testing.T) {
			var doc any
			if err := json.Unmarshal([]byte(test.body), &doc); err != nil {
				t.Fatal(err)
			}
			for i, v := range hostile {
				variants(doc, v, func(at string) {
					raw, err := json.Marshal(doc)
					if err != nil {
						t.Fatal(err)
					}
					for _, method := range []string{"PUT", "PATCH"} {
						a := h.send(method, path(test.path, test.version), string(raw))
						if a.status >= 500 {
							t.Errorf("%s with hostile value %d at %s: %d %s", method, i, at, a.status, a.body)
						}
						if method == "PATCH" && a.status < 300 {
							if g := h.send("GET", path(test.path, test.version), ""); g.status != 200 {
								t.Errorf("GET after hostile value %d at %s: %d %s", i, at, g.status, g.body)
							}
						}
					}
				})
			}
		})
	}
}

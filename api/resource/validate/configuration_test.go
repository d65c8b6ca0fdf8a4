package validate

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"headwater.dev/api/arm"
	"headwater.dev/api/resource"
)

func object(t *testing.T, s string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(s), &m); err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return m
}

// targets are the targets of all problems.
func targets(p *Problems) []string {
	out := []string{}
	var e *arm.Error
	if errors.As(p.Err(), &e) {
		for _, d := range e.Details {
			out = append(out, d.Target)
		}
	}
	return out
}

func TestConfigurationDefaults(t *testing.T) {
	var p Problems
	got := Configuration(&p, "apps", object(t, `{"gitRepository":{"url":"https://git.example/apps","syncIntervalInSeconds":null},"kustomizations":{"a":null,"b":{"path":"./x","wait":false}}}`), nil)
	if err := p.Err(); err != nil {
		t.Fatal(err)
	}
	want := resource.FluxConfigurationProperties{Scope: "cluster", Namespace: "default", SourceKind: "GitRepository",
		GitRepository: &resource.GitRepository{URL: "https://git.example/apps", TimeoutInSeconds: 600, SyncIntervalInSeconds: 600, Provider: "Generic"},
		Kustomizations: map[string]resource.Kustomization{
			"a": {TimeoutInSeconds: 600, SyncIntervalInSeconds: 600, Wait: true},
			"b": {Path: "./x", TimeoutInSeconds: 600, SyncIntervalInSeconds: 600}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestConfigurationProblems(t *testing.T) {
	git := func(fields string) string {
		return `{"gitRepository":{"url":"https://git.example/apps"` + fields + `}}`
	}
	kustomizations := func(all string) string {
		return `{"gitRepository":{"url":"https://git.example/apps"},"kustomizations":` + all + `}`
	}
	const repo = "properties.gitRepository"
	tests := map[string]struct {
		why, name, in string
		keys          []string
		want          []string
	}{
		"fine":                  {"", "a.b", git(``), nil, nil},
		"capital":               {"objects in a cluster have lower-case names", "App", git(``), nil, []string{"name"}},
		"long name":             {"", strings.Repeat("a", 64), git(``), nil, []string{"name"}},
		"no body":               {"", "a", `{"sourceKind":"Bucket"}`, nil, []string{"properties.sourceKind"}},
		"empty other body":      {"{} of another kind means none", "a", `{"bucket":{},"gitRepository":{"url":"ssh://git@h/r"}}`, nil, nil},
		"unknown kind":          {"", "a", `{"sourceKind":"FTP"}`, nil, []string{"properties.sourceKind"}},
		"folded kind":           {"words fold", "a", `{"sourceKind":"gitrepository","gitRepository":{"url":"git@h:r"}}`, nil, nil},
		"scope and namespace":   {"all at once", "a", `{"scope":"x","namespace":"A b","gitRepository":{"url":"https://h/r"}}`, nil, []string{"properties.scope", "properties.namespace"}},
		"wrong types":           {"", "a", `{"suspend":"yes","gitRepository":{"url":"https://h/r","timeoutInSeconds":"1"},"kustomizations":{"k":{"prune":1}}}`, nil, []string{"properties.suspend", repo + ".timeoutInSeconds", "properties.kustomizations.k.prune"}},
		"lists for objects":     {"", "a", `{"gitRepository":[],"kustomizations":[]}`, nil, []string{repo, "properties.sourceKind", "properties.kustomizations"}},
		"url":                   {"", "a", `{"gitRepository":{"url":"ftp://h/r"}}`, nil, []string{repo + ".url"}},
		"url with password":     {"it would be stored in the clear", "a", `{"gitRepository":{"url":"https://u:p@h/r"}}`, nil, []string{repo + ".url"}},
		"interval":              {"", "a", git(`,"syncIntervalInSeconds":0`), nil, []string{repo + ".syncIntervalInSeconds"}},
		"user without key":      {"", "a", git(`,"httpsUser":"u"`), nil, []string{repo + ".httpsUser"}},
		"user with key":         {"", "a", git(`,"httpsUser":"u"`), []string{"httpsKey"}, nil},
		"empty user":            {"policies send empty strings", "a", git(`,"httpsUser":"","sshKnownHosts":"","httpsCACert":""`), nil, nil},
		"ssh key for https":     {"", "a", git(``), []string{"sshPrivateKey"}, []string{"properties.configurationProtectedSettings.sshPrivateKey"}},
		"https user for ssh":    {"", "a", `{"gitRepository":{"url":"git@h:r","httpsUser":"u"}}`, nil, []string{repo + ".httpsUser"}},
		"reference and secrets": {"", "a", git(`,"localAuthRef":"s","httpsUser":"u"`), []string{"httpsKey"}, []string{repo + ".localAuthRef"}},
		"no base64":             {"", "a", git(`,"httpsCACert":"-----BEGIN"`), nil, []string{repo + ".httpsCACert"}},
		"bucket":                {"", "a", `{"sourceKind":"Bucket","bucket":{"url":"s3://x","accessKey":"k"}}`, nil, []string{"properties.bucket.url", "properties.bucket.bucketName", "properties.bucket.accessKey"}},
		"blob with two ways in": {"", "a", `{"sourceKind":"AzureBlob","azureBlob":{"url":"https://b","containerName":"c","managedIdentity":{"clientId":"i"}}}`, []string{"azureBlob.sasToken"}, []string{"properties.azureBlob"}},
		"blob url with a token": {"", "a", `{"sourceKind":"AzureBlob","azureBlob":{"url":"https://b/?sv=1&sig=x","containerName":"c"}}`, nil, []string{"properties.azureBlob.url"}},
		"principal incomplete":  {"", "a", `{"sourceKind":"AzureBlob","azureBlob":{"url":"https://b","containerName":"c","servicePrincipal":{"clientId":"i"}}}`, nil, []string{"properties.azureBlob.servicePrincipal", "properties.azureBlob.servicePrincipal"}},
		"oci":                   {"", "a", `{"sourceKind":"OCIRepository","ociRepository":{"url":"https://r/a","repositoryRef":{"digest":"x"},"layerSelector":{"operation":"eat"}}}`, []string{"ociRepository.tlsConfig.privateKey"}, []string{"properties.ociRepository.url", "properties.ociRepository.repositoryRef.digest", "properties.ociRepository.layerSelector.operation", "properties.ociRepository.tlsConfig"}},
		"wait":                  {"", "a", `{"reconciliationWaitDuration":"5 minutes","gitRepository":{"url":"https://h/r"}}`, nil, []string{"properties.reconciliationWaitDuration"}},
		"name of kustomization": {"", "a", kustomizations(`{"A.b":{}}`), nil, []string{"properties.kustomizations.A.b"}},
		"joined names":          {"together they name one object", strings.Repeat("a", 40), kustomizations(`{"` + strings.Repeat("b", 23) + `":{}}`), nil, []string{"properties.kustomizations." + strings.Repeat("b", 23)}},
		"joined names fit":      {"", strings.Repeat("a", 40), kustomizations(`{"` + strings.Repeat("b", 22) + `":{}}`), nil, nil},
		"dependency":            {"", "a", kustomizations(`{"x":{"dependsOn":["y"]}}`), nil, []string{"properties.kustomizations.x.dependsOn[0]"}},
		"prefixed dependency":   {"both names are taken", "a", kustomizations(`{"x":{"dependsOn":["a-y"]},"y":{}}`), nil, nil},
		"itself":                {"", "a", kustomizations(`{"x":{"dependsOn":["x"]}}`), nil, []string{"properties.kustomizations.x.dependsOn[0]"}},
		"circle":                {"", "a", kustomizations(`{"x":{"dependsOn":["y"]},"y":{"dependsOn":["z"]},"z":{"dependsOn":["x"]}}`), nil, []string{"properties.kustomizations.x.dependsOn"}},
		"post build":            {"", "a", kustomizations(`{"x":{"postBuild":{"substitute":{"a-b":"1"},"substituteFrom":[{"kind":"Pod","name":""}]}}}`), nil, []string{"properties.kustomizations.x.postBuild.substitute.a-b", "properties.kustomizations.x.postBuild.substituteFrom[0].kind", "properties.kustomizations.x.postBuild.substituteFrom[0].name"}},
		"empty post build":      {"null and {} remove it", "a", kustomizations(`{"x":{"postBuild":{}},"y":{"postBuild":null}}`), nil, nil},
		"additions":             {"what a property decides cannot be added", "a", git(`,"additionalConfigurations":{"url":"x","recurseSubmodules":true}`), nil, []string{repo + ".additionalConfigurations.url"}},
		"additions of a list":   {"", "a", git(`,"additionalConfigurations":[]`), nil, []string{repo + ".additionalConfigurations"}},
		"no additions":          {"null and {} are none", "a", kustomizations(`{"x":{"additionalConfigurations":null},"y":{"additionalConfigurations":{}}}`), nil, nil},
		"additions too large":   {"", "a", kustomizations(`{"x":{"additionalConfigurations":{"a":"` + strings.Repeat("x", 70000) + `"}}}`), nil, []string{"properties.kustomizations.x.additionalConfigurations"}},
		"path added":            {"", "a", kustomizations(`{"x":{"additionalConfigurations":{"path":"./y","decryption":{}}}}`), nil, []string{"properties.kustomizations.x.additionalConfigurations.path"}},
		"remote cluster":        {"", "a", kustomizations(`{"x":{"kubeConfig":{"clusterResourceId":"/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/c","objectLevelIdentity":{"clientId":"i"}}}}`), nil, nil},
		"remote, wrong cluster": {"there is another way", "a", kustomizations(`{"x":{"kubeConfig":{"clusterResourceId":"/x"},"additionalConfigurations":{"kubeConfig":{}}}}`), nil, []string{"properties.kustomizations.x.kubeConfig.clusterResourceId", "properties.kustomizations.x.kubeConfig.objectLevelIdentity", "properties.kustomizations.x.kubeConfig"}},
		"identity":              {"", "a", git(`,"objectLevelIdentity":{"tenantId":"t","serviceAccountName":"A b"}`), nil, []string{repo + ".objectLevelIdentity.clientId", repo + ".objectLevelIdentity.serviceAccountName"}},
		"identity and key":      {"", "a", git(`,"objectLevelIdentity":{"clientId":"c"},"httpsUser":"u"`), []string{"httpsKey"}, []string{repo + ".objectLevelIdentity"}},
		"identity of a bucket":  {"S3 knows no Azure", "a", `{"sourceKind":"Bucket","bucket":{"url":"https://b","bucketName":"n","objectLevelIdentity":{"clientId":"c"}}}`, nil, []string{"properties.bucket.objectLevelIdentity"}},
		"sparse checkout":       {"", "a", git(`,"sparseCheckout":["deploy","/etc","../x",""]`), nil, []string{repo + ".sparseCheckout[1]", repo + ".sparseCheckout[2]", repo + ".sparseCheckout[3]"}},
		"keys to verify with":   {"", "a", `{"sourceKind":"OCIRepository","ociRepository":{"url":"oci://r/a","verify":{"verificationConfig":{"a":"-----BEGIN PUBLIC KEY-----","b":"YQ==","c":"%%","secretName":"s"}}}}`, nil, []string{"properties.ociRepository.verify.verificationConfig.c", "properties.ociRepository.verify.verificationConfig"}},
		"verify":                {"", "a", `{"sourceKind":"OCIRepository","ociRepository":{"url":"oci://r/a","verify":{"provider":"gpg","matchOidcIdentity":[{"issuer":"i"}]}}}`, nil, []string{"properties.ociRepository.verify.provider", "properties.ociRepository.verify.matchOidcIdentity[0]"}},
		"server's fields":       {"a fetched model can be sent back", "a", `{"statuses":[1],"complianceState":7,"provisioningState":"x","errorMessage":"","gitRepository":{"url":"https://h/r"},"kustomizations":{"x":{"name":"other","validation":"none"}}}`, nil, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var p Problems
			Configuration(&p, tc.name, object(t, tc.in), tc.keys)
			if diff := cmp.Diff(append([]string{}, tc.want...), targets(&p)); diff != "" {
				t.Errorf("%s: %v (-want +got):\n%s", tc.why, p.Err(), diff)
			}
		})
	}
}

func TestTakeSecrets(t *testing.T) {
	tests := map[string]struct {
		why, in string
		values  map[string]string
		given   bool
		left    string
		targets []string
	}{
		"absent":      {"kept", `{"suspend":true}`, nil, false, `{"suspend":true}`, nil},
		"null":        {"kept", `{"configurationProtectedSettings":null}`, nil, false, `{}`, nil},
		"empty":       {"cleared", `{"configurationProtectedSettings":{}}`, nil, true, `{}`, nil},
		"given":       {"replaced", `{"configurationProtectedSettings":{"httpsKey":"YQ=="}}`, map[string]string{"httpsKey": "YQ=="}, true, `{}`, nil},
		"unknown":     {"a typing error would be silent", `{"configurationProtectedSettings":{"httpskey":"YQ=="}}`, map[string]string{"httpskey": "YQ=="}, true, `{}`, []string{"properties.configurationProtectedSettings.httpskey"}},
		"not base64":  {"", `{"configurationProtectedSettings":{"httpsKey":"a b!"}}`, map[string]string{"httpsKey": "a b!"}, true, `{}`, []string{"properties.configurationProtectedSettings.httpsKey"}},
		"not a text":  {"", `{"configurationProtectedSettings":{"httpsKey":7}}`, nil, true, `{}`, []string{"properties.configurationProtectedSettings.httpsKey"}},
		"in the body": {"", `{"azureBlob":{"url":"u","accountKey":"k","servicePrincipal":{"clientId":"i","clientSecret":"s"}},"ociRepository":{"tlsConfig":{"privateKey":"p","caCertificate":null}}}`, map[string]string{"azureBlob.accountKey": "k", "azureBlob.servicePrincipal.clientSecret": "s", "ociRepository.tlsConfig.privateKey": "p"}, true, `{"azureBlob":{"url":"u","servicePrincipal":{"clientId":"i"}},"ociRepository":{}}`, nil},
		"null bodies": {"", `{"azureBlob":null,"ociRepository":{"tlsConfig":null}}`, nil, false, `{"azureBlob":null,"ociRepository":{}}`, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var p Problems
			in := object(t, tc.in)
			values, given := TakeSecrets(&p, in)
			if given != tc.given || cmp.Diff(tc.values, values) != "" {
				t.Errorf("%s: got %v %v", tc.why, values, given)
			}
			if diff := cmp.Diff(object(t, tc.left), in); diff != "" {
				t.Errorf("what is left (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(append([]string{}, tc.targets...), targets(&p)); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMergeConfiguration(t *testing.T) {
	const stored = `{"scope":"cluster","namespace":"n","sourceKind":"GitRepository","suspend":false,"gitRepository":{"url":"u","httpsUser":"me"},"bucket":null,
	  "kustomizations":{"a":{"path":"p","prune":true,"postBuild":{"substitute":{"x":"1","y":"2"}}},"b":{"path":"q"}}}`
	tests := map[string]struct {
		why, patch string
		path       string // of what changed
		want       any
		targets    []string
	}{
		"absent keeps":        {"", `{}`, "gitRepository", map[string]any{"url": "u", "httpsUser": "me"}, nil},
		"value sets":          {"", `{"suspend":true}`, "suspend", true, nil},
		"null removes":        {"", `{"gitRepository":{"httpsUser":null}}`, "gitRepository", map[string]any{"url": "u"}, nil},
		"null deletes one":    {"", `{"kustomizations":{"a":null}}`, "kustomizations", map[string]any{"b": map[string]any{"path": "q"}}, nil},
		"empty changes none":  {"SDKs send {} for a null value", `{"kustomizations":{"b":{}}}`, "kustomizations.b", map[string]any{"path": "q"}, nil},
		"empty makes one":     {"", `{"kustomizations":{"c":{}}}`, "kustomizations.c", map[string]any{}, nil},
		"fields merge":        {"", `{"kustomizations":{"b":{"prune":true}}}`, "kustomizations.b", map[string]any{"path": "q", "prune": true}, nil},
		"substitutions merge": {"", `{"kustomizations":{"a":{"postBuild":{"substitute":{"x":null,"z":"3"}}}}}`, "kustomizations.a.postBuild.substitute", map[string]any{"y": "2", "z": "3"}, nil},
		"new kind clears":     {"az sends {} for the others", `{"sourceKind":"Bucket","bucket":{"url":"b"},"gitRepository":{}}`, "gitRepository", nil, nil},
		"new kind alone":      {"", `{"sourceKind":"Bucket","bucket":{"url":"b"}}`, "gitRepository", nil, nil},
		"empty selected":      {"no change", `{"gitRepository":{}}`, "gitRepository", map[string]any{"url": "u", "httpsUser": "me"}, nil},
		"same scope":          {"repeating is no change", `{"scope":"cluster"}`, "scope", "cluster", nil},
		"other scope":         {"", `{"scope":"namespace","namespace":"m"}`, "scope", "cluster", []string{"properties.scope", "properties.namespace"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var p Problems
			var got any = MergeConfiguration(&p, object(t, stored), object(t, tc.patch))
			for _, step := range strings.Split(tc.path, ".") {
				got = got.(map[string]any)[step]
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.why, diff)
			}
			if diff := cmp.Diff(append([]string{}, tc.targets...), targets(&p)); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{"PT5M": 5 * time.Minute, "PT1H": time.Hour, "P1D": 24 * time.Hour, "pt1h30m5s": 90*time.Minute + 5*time.Second} {
		if got, err := Duration(in); err != nil || got != want {
			t.Errorf("%s: %v %v", in, got, err)
		}
	}
	for _, in := range []string{"", "P", "PT", "5m", "P1DT", "PT99999999999H", "PT-1M"} {
		if got, err := Duration(in); err == nil {
			t.Errorf("%q is %v", in, got)
		}
	}
}

func TestExtensionProblems(t *testing.T) {
	tests := map[string]struct {
		in   string
		want []string
	}{
		"fine":            {`{"extensionType":"Microsoft.Flux","scope":null,"version":null,"configurationSettings":null}`, nil},
		"no type":         {`{}`, []string{"properties.extensionType"}},
		"other type":      {`{"extensionType":"microsoft.dapr"}`, []string{"properties.extensionType"}},
		"namespace scope": {`{"extensionType":"microsoft.flux","scope":{"namespace":{"targetNamespace":"a"}}}`, []string{"properties.scope.namespace"}},
		"elsewhere":       {`{"extensionType":"microsoft.flux","scope":{"cluster":{"releaseNamespace":"a"}}}`, []string{"properties.scope.cluster.releaseNamespace"}},
		"pinned":          {`{"extensionType":"microsoft.flux","version":"1.2.3","autoUpgradeMinorVersion":false}`, nil},
		"pinned loosely":  {`{"extensionType":"microsoft.flux","version":"1.2.3"}`, []string{"properties.version"}},
		"no version":      {`{"extensionType":"microsoft.flux","version":"new","autoUpgradeMinorVersion":false}`, []string{"properties.version"}},
		"setting":         {`{"extensionType":"microsoft.flux","configurationSettings":{"a":true}}`, []string{"properties.configurationSettings.a"}},
		"mode":            {`{"extensionType":"microsoft.flux","autoUpgradeMode":"always"}`, []string{"properties.autoUpgradeMode"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var p Problems
			Extension(&p, "flux", object(t, tc.in))
			if diff := cmp.Diff(append([]string{}, tc.want...), targets(&p)); diff != "" {
				t.Errorf("%v (-want +got):\n%s", p.Err(), diff)
			}
		})
	}
}

func FuzzConfiguration(f *testing.F) {
	f.Add("a", `{"gitRepository":{"url":"https://h/r"},"kustomizations":{"x":{"dependsOn":["y"]},"y":{"postBuild":{}}}}`, `{"kustomizations":{"x":null}}`)
	f.Add("b", `{"sourceKind":"OCIRepository","ociRepository":{"tlsConfig":{"privateKey":"s"}}}`, `{"sourceKind":"Bucket"}`)
	f.Fuzz(func(t *testing.T, name, properties, patch string) {
		var in, change map[string]any
		if json.Unmarshal([]byte(properties), &in) != nil || json.Unmarshal([]byte(patch), &change) != nil || in == nil || change == nil {
			return
		}
		var p Problems
		TakeSecrets(&p, in)
		TakeSecrets(&p, change)
		read := Configuration(&p, name, MergeConfiguration(&p, in, change), nil)
		raw, err := json.Marshal(read)
		if err != nil {
			t.Fatal(err)
		}
		if p.Err() != nil {
			return
		}
		var again map[string]any
		if err := json.Unmarshal(raw, &again); err != nil {
			t.Fatal(err)
		}
		var q Problems
		if diff := cmp.Diff(read, Configuration(&q, name, again, nil)); diff != "" || q.Err() != nil {
			t.Fatalf("what was read does not read the same: %v %s", q.Err(), diff)
		}
	})
}

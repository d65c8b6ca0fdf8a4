package cli

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const base = "/subscriptions/" + testSubscription + "/resourceGroups/g/providers/"

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// TestCreateBody shows what a user's words become on the wire.
func TestCreateBody(t *testing.T) {
	create := []string{"k8s-configuration", "flux", "create", "-g", "g", "-c", "c", "-n", "cfg", "--no-wait"}
	defaults := object{"scope": "cluster", "namespace": "default", "suspend": false, "kustomizations": object{"kustomization-1": object{}}}
	with := func(more object) object {
		out := object{}
		for k, v := range defaults {
			out[k] = v
		}
		for k, v := range more {
			out[k] = v
		}
		return out
	}
	tests := map[string]struct {
		why, args string
		want      object
	}{
		"git": {
			why: "the shortest command", args: "-u https://git.example/r --branch main",
			want: with(object{"sourceKind": "GitRepository", "gitRepository": object{"url": "https://git.example/r", "repositoryRef": object{"branch": "main"}}}),
		},
		"kustomizations": {
			why: "every word of -k", args: "-t managedClusters --ns team -s namespace -u ssh://git@h/r --tag v1 --interval 1m --timeout 1h10s --suspend " +
				"-k name=infra path=./infra prune=true sync_interval=30s retryInterval=1m timeout=2m force=true disable_health_check=true " +
				"-k name=apps dependsOn=[infra] substitute.ENV=prod substitute.URL=http://x/?a=b",
			want: object{"scope": "namespace", "namespace": "team", "suspend": true, "sourceKind": "GitRepository",
				"gitRepository": object{"url": "ssh://git@h/r", "repositoryRef": object{"tag": "v1"}, "syncIntervalInSeconds": 60.0, "timeoutInSeconds": 3610.0},
				"kustomizations": object{
					"infra": object{"path": "./infra", "prune": true, "force": true, "wait": false, "syncIntervalInSeconds": 30.0, "retryIntervalInSeconds": 60.0, "timeoutInSeconds": 120.0},
					"apps":  object{"dependsOn": []any{"infra"}, "postBuild": object{"substitute": object{"ENV": "prod", "URL": "http://x/?a=b"}}}}},
		},
		"https credentials": {
			why: "a password is encoded and protected", args: "-u https://h/r --semver >=1.0 --https-user u --https-key p@ss --https-ca-cert QUJD --provider generic",
			want: with(object{"sourceKind": "GitRepository", "configurationProtectedSettings": object{"httpsKey": b64("p@ss")},
				"gitRepository": object{"url": "https://h/r", "repositoryRef": object{"semver": ">=1.0"}, "httpsUser": "u", "httpsCACert": "QUJD", "provider": "generic"}}),
		},
		"bucket": {
			why: "insecure is false unless asked for", args: "--kind bucket -u https://s3 --bucket-name b --bucket-access-key a --bucket-secret-key s",
			want: with(object{"sourceKind": "Bucket", "configurationProtectedSettings": object{"bucketSecretKey": b64("s")},
				"bucket": object{"url": "https://s3", "bucketName": "b", "accessKey": "a", "insecure": false}}),
		},
		"blob": {
			why: "az has long names for a service principal", args: "--kind azblob -u https://b --container-name c --service-principal-client-id i --sp-tenant-id t --sp-client-secret s --sp-cert-send-chain true",
			want: with(object{"sourceKind": "AzureBlob", "azureBlob": object{"url": "https://b", "containerName": "c",
				"servicePrincipal": object{"clientId": "i", "tenantId": "t", "clientSecret": "s", "clientCertificateSendChain": true}}}),
		},
		"blob identity": {
			why: "a managed identity needs its client id only", args: "--kind azblob -u https://b --container-name c --mi-client-id i",
			want: with(object{"sourceKind": "AzureBlob", "azureBlob": object{"url": "https://b", "containerName": "c", "managedIdentity": object{"clientId": "i"}}}),
		},
		"oci": {
			why: "the layer, the signature and TLS", args: "--kind oci -u oci://r/a --semver 1.x --oci-media-type m --oci-operation copy --oci-insecure --use-workload-identity true " +
				"--service-account-name sa --verification-provider cosign --verification-config k=v --match-oidc-identity {\"issuer\":\"i\",\"subject\":\"s\"} --tls-ca-certificate QQ==",
			want: with(object{"sourceKind": "OCIRepository", "ociRepository": object{"url": "oci://r/a", "repositoryRef": object{"semver": "1.x"},
				"layerSelector": object{"mediaType": "m", "operation": "copy"}, "insecure": true, "useWorkloadIdentity": true, "serviceAccountName": "sa",
				"verify":    object{"provider": "cosign", "verificationConfig": object{"k": "v"}, "matchOidcIdentity": []any{object{"issuer": "i", "subject": "s"}}},
				"tlsConfig": object{"caCertificate": "QQ=="}}}),
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r, x := record(t)
			x.ok(append(create, strings.Fields(tc.args)...)...)
			cluster := "Microsoft.Kubernetes/connectedClusters"
			if strings.Contains(tc.args, "managedClusters") {
				cluster = "Microsoft.ContainerService/managedClusters"
			}
			if want := "PUT " + base + cluster + "/c/providers/Microsoft.KubernetesConfiguration/fluxConfigurations/cfg?api-version=2025-04-01"; r.last() != want {
				t.Errorf("%s: sent %s, want %s", tc.why, r.last(), want)
			}
			if diff := cmp.Diff(object{"properties": tc.want}, r.body); diff != "" {
				t.Errorf("%s: %s", tc.why, diff)
			}
		})
	}
}

func TestUpdateBody(t *testing.T) {
	tests := map[string]struct {
		why, args string
		want      object
	}{
		"suspend":       {why: "only what is given is sent", args: "--suspend true", want: object{"suspend": true}},
		"resume":        {why: "false is a value", args: "--suspend=false", want: object{"suspend": false}},
		"kustomization": {why: "others stay as they are", args: "-k name=apps path=./new", want: object{"kustomizations": object{"apps": object{"path": "./new"}}}},
		"reference": {
			why: "the new reference is the only one", args: "--commit abc",
			want: object{"gitRepository": object{"repositoryRef": object{"commit": "abc", "branch": nil, "tag": nil, "semver": nil}}},
		},
		"kind": {
			why: "the bodies of other kinds are cleared", args: "--kind bucket -u http://s3 --bucket-name b --yes",
			want: object{"sourceKind": "Bucket", "bucket": object{"url": "http://s3", "bucketName": "b"}, "gitRepository": object{}, "azureBlob": object{}, "ociRepository": object{}},
		},
		"password": {why: "half of the credentials may change", args: "--https-key new", want: object{"configurationProtectedSettings": object{"httpsKey": b64("new")}}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r, x := record(t)
			x.ok(append([]string{"k8s-configuration", "flux", "update", "-g", "g", "-c", "c", "-n", "cfg", "--no-wait"}, strings.Fields(tc.args)...)...)
			if !strings.HasPrefix(r.last(), "PATCH ") {
				t.Errorf("%s: sent %s", tc.why, r.last())
			}
			if diff := cmp.Diff(object{"properties": tc.want}, r.body); diff != "" {
				t.Errorf("%s: %s", tc.why, diff)
			}
		})
	}
}

func TestKustomizationBody(t *testing.T) {
	verb := func(args string) []string {
		return append(strings.Fields("k8s-configuration flux kustomization "+args), "-g", "g", "-c", "c", "-n", "cfg", "--no-wait")
	}
	r, x := record(t)
	for args, want := range map[string]any{
		"create -k apps --path ./apps --depends-on infra,db --prune true --sync-interval 1m": object{"path": "./apps", "dependsOn": []any{"infra", "db"}, "prune": true, "syncIntervalInSeconds": 60.0},
		"update -k infra --disable-health-check":                                             object{"wait": false},
		"delete -k infra --yes":                                                              nil,
	} {
		x.ok(verb(args)...)
		name := strings.Fields(args)[2]
		if diff := cmp.Diff(object{"properties": object{"kustomizations": object{name: want}}}, r.body); diff != "" {
			t.Errorf("%s: %s", args, diff)
		}
	}
	x.fails(1, "has a kustomization infra already: use update", verb("create -k infra")...)
	x.fails(3, "no kustomization nope", verb("update -k nope --path x")...)
	x.fails(1, "not confirmed", verb("delete -k infra")...)
}

func TestExtensionBody(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("from file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, x := record(t)
	create := strings.Fields("k8s-extension create -g g -c c -n flux --no-wait --extension-type microsoft.flux")
	x.ok(append(create, "--config", "a=b", "multiTenancy.enforce=false", "--config-protected", "k=@"+secret, "--version", "1.2.3", "--release-namespace", "flux-system")...)
	want := object{"properties": object{"extensionType": "microsoft.flux", "autoUpgradeMinorVersion": false, "version": "1.2.3",
		"scope":                          object{"cluster": object{"releaseNamespace": "flux-system"}},
		"configurationSettings":          object{"a": "b", "multiTenancy.enforce": "false"},
		"configurationProtectedSettings": object{"k": "from file"}}}
	if diff := cmp.Diff(want, r.body); diff != "" {
		t.Error(diff)
	}
	x.fails(1, "--target-namespace is for --scope namespace", append(create, "--target-namespace", "x")...)
	x.fails(1, "needs --target-namespace", append(create, "--scope", "namespace")...)
	x.fails(1, "either --configuration-settings or --configuration-settings-file", append(create, "--config", "a=b", "--config-file", secret)...)
	update := strings.Fields("k8s-extension update -g g -c c -n flux --no-wait")
	x.fails(1, "there is nothing to change", update...)
	x.fails(1, "not confirmed", append(update, "--config-protected", "a=c")...)
	x.ok(append(update, "--config-protected", "a=c", "--yes")...)
	x.ok(append(update, "--config", "a=c")...)
	if diff := cmp.Diff(object{"properties": object{"configurationSettings": object{"a": "c"}}}, r.body); diff != "" {
		t.Error(diff)
	}
}

// TestA99SecretsFromFiles reads what should not be on a command line.
func TestA99SecretsFromFiles(t *testing.T) {
	r, x := record(t)
	dir := t.TempDir()
	key, hosts := filepath.Join(dir, "key"), filepath.Join(dir, "hosts")
	for file, text := range map[string]string{key: testKey(t), hosts: "# ours\nh ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	create := strings.Fields("k8s-configuration flux create -g g -c c -n cfg --no-wait --branch main")
	x.ok(append(create, "-u", "git@h:r", "--ssh-private-key-file", key, "--known-hosts-file", hosts)...)
	props := r.body["properties"].(object)
	if got := props["configurationProtectedSettings"]; !cmp.Equal(got, object{"sshPrivateKey": b64(testKey(t))}) {
		t.Error("the private key is not what the file holds")
	}
	if got := props["gitRepository"].(object)["sshKnownHosts"]; !strings.HasPrefix(got.(string), b64("# ours\nh ssh")[:12]) {
		t.Errorf("the host keys are %v", got)
	}
	x.in = "typed\n"
	x.ok(append(create, "-u", "https://h/r", "--https-user", "u", "--https-key", "@-")...)
	if got := r.body["properties"].(object)["configurationProtectedSettings"]; !cmp.Equal(got, object{"httpsKey": b64("typed")}) {
		t.Error("the password is not what was typed")
	}
	x.ok("k8s-configuration", "flux", "create", "-g", "g", "-c", "c", "-n", "cfg", "--no-wait", "--kind", "oci", "-u", "oci://r/x", "--tag", "1", "--verification-config", "author=@"+hosts, "plain=YQ==")
	verify := r.body["properties"].(object)["ociRepository"].(object)["verify"].(object)["verificationConfig"].(object)
	if !strings.HasPrefix(verify["author"].(string), "# ours") || verify["plain"] != "YQ==" {
		t.Errorf("the keys are %v", verify)
	}
}

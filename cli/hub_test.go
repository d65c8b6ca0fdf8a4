package cli

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// registerCluster makes a connected cluster without an agent.
func registerCluster(x terminal, name string) {
	x.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		x.t.Fatal(err)
	}
	public := base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&key.PublicKey))
	x.ok("rest", "-m", "put", "-u", "/subscriptions/{subscriptionId}/resourceGroups/"+x.env["RESOURCE_GROUP"]+"/providers/Microsoft.Kubernetes/connectedClusters/"+name+"?api-version=2024-01-01",
		"-b", fmt.Sprintf(`{"location":"local","identity":{"type":"SystemAssigned"},"properties":{"agentPublicKeyCertificate":%q}}`, public))
}

func TestGroupsOfARealHub(t *testing.T) {
	_, x := startHub(t)
	x.ok("group", "create", "-n", "g", "-l", "local", "--tags", "team=a", "cost=1")
	o := x.object("group", "show", "-n", "g")
	if diff := cmp.Diff(object{"team": "a", "cost": "1"}, o["tags"]); diff != "" {
		t.Error(diff)
	}
	if out := x.ok("group", "list", "-o", "table"); !strings.Contains(out, "Name  Location  Status") || !strings.Contains(out, "g     local     Succeeded") {
		t.Errorf("the table is\n%s", out)
	}
	x.fails(3, "ResourceGroupNotFound", "group", "show", "-n", "nope")
	x.fails(1, "not confirmed", "group", "delete", "-n", "g")
	x.in = "n\n"
	x.fails(1, "cancelled", "group", "delete", "-n", "g")
	x.in = "y\n"
	x.ok("group", "delete", "-n", "g")
	x.fails(3, "headwater group create", "group", "show", "-n", "g")
}

func TestConfigurationsOfARealHub(t *testing.T) {
	_, x := startHub(t)
	x.env["RESOURCE_GROUP"] = "g"
	x.ok("group", "create", "-n", "g")
	registerCluster(x, "c")
	flux := func(words string) []string { return append(strings.Fields("k8s-configuration flux "+words), "-c", "c") }
	x.ok(flux("create -n cfg -u https://h/r --branch main --https-user u --https-key verysecret --no-wait -k name=infra path=./i prune=true -k name=apps depends_on=infra substitute.A=b")...)
	o := x.object(flux("show -n cfg")...)
	kustomizations := o["kustomizations"].(object)
	if got := kustomizations["apps"].(object)["postBuild"].(object)["substitute"]; !cmp.Equal(got, object{"A": "b"}) {
		t.Errorf("the variables of apps are %v", got)
	}
	if o["resourceGroup"] != "g" || o["provisioningState"] != "Creating" {
		t.Errorf("the configuration is in %v and %v", o["resourceGroup"], o["provisioningState"])
	}
	if out := x.ok(flux("show -n cfg")...); strings.Contains(out, "verysecret") || strings.Contains(out, base64.StdEncoding.EncodeToString([]byte("verysecret"))) {
		t.Error("the password is shown")
	}
	x.ok(flux("update -n cfg --suspend true --no-wait -k name=infra path=./new")...)
	o = x.object(flux("show -n cfg")...)
	infra := o["kustomizations"].(object)["infra"].(object)
	if o["suspend"] != true || infra["path"] != "./new" || infra["prune"] != true || len(o["kustomizations"].(object)) != 2 {
		t.Errorf("after the update it is %v", o)
	}
	x.ok(flux("kustomization create -n cfg -k more --path ./more --interval 1m --no-wait")...)
	x.ok(flux("kustomization delete -n cfg -k apps --yes --no-wait")...)
	var names []string
	for name := range x.object(flux("kustomization list -n cfg")...) {
		names = append(names, name)
	}
	if len(names) != 2 || strings.Contains(strings.Join(names, " "), "apps") {
		t.Errorf("kustomizations are %v", names)
	}
	if out := x.ok(flux("kustomization list -n cfg -o table")...); !strings.Contains(out, "more   ./more") {
		t.Errorf("the table is\n%s", out)
	}
	table := x.ok(flux("list -o table")...)
	if header := strings.Fields(strings.SplitN(table, "\n", 2)[0]); !cmp.Equal(header, []string{"Namespace", "Name", "Scope", "ProvisioningState", "ComplianceState", "StatusUpdatedAt", "SourceUpdatedAt"}) {
		t.Errorf("the columns are %v", header)
	}
	if out := x.ok(flux("show -n cfg -o yaml")...); !strings.Contains(out, "sourceKind: GitRepository") {
		t.Errorf("YAML is\n%s", out)
	}
	x.fails(3, "(ResourceNotFound)", flux("show -n nope")...)
	x.fails(1, "ValidationFailed", flux("update -n cfg --no-wait -k name=infra depends_on=nope")...)
	x.fails(1, "It", flux("delete -n cfg")...)
	x.ok(flux("delete -n cfg --force --yes")...)
	x.fails(3, "(ResourceNotFound)", flux("show -n cfg")...)
}

func TestExtensionsOfARealHub(t *testing.T) {
	_, x := startHub(t)
	x.env["RESOURCE_GROUP"] = "g"
	x.ok("group", "create", "-n", "g")
	registerCluster(x, "c")
	verb := func(words string) []string { return append(strings.Fields("k8s-extension "+words), "-c", "c") }
	x.ok(verb("create -n flux --extension-type microsoft.flux --no-wait --config multiTenancy.enforce=false")...)
	o := x.object(verb("show -n flux")...)
	if diff := cmp.Diff(object{"multiTenancy.enforce": "false"}, o["configurationSettings"]); diff != "" {
		t.Error(diff)
	}
	x.ok(verb("update -n flux --no-wait --yes --config helm-controller.detectDrift=true")...)
	if got := x.object(verb("show -n flux")...)["configurationSettings"].(object); len(got) != 2 {
		t.Errorf("settings are merged into %v", got)
	}
	x.ok(verb("update -n flux --no-wait --yes --remove-configuration-settings multiTenancy.enforce")...)
	if got := x.object(verb("show -n flux")...)["configurationSettings"].(object); len(got) != 1 || got["helm-controller.detectDrift"] != "true" {
		t.Errorf("after removal settings are %v", got)
	}
	x.fails(1, "--configuration-settings sets it", verb("update -n flux --no-wait --yes --remove-configuration-settings a --config a=b")...)
	if out := x.ok(verb("list -o table")...); !strings.Contains(out, "microsoft.flux") {
		t.Errorf("the table is\n%s", out)
	}
	x.ok(verb("delete -n flux --force --yes")...)
	if out := x.ok(verb("list")...); strings.TrimSpace(out) != "[]" {
		t.Errorf("after deletion there is %s", out)
	}
}

func TestLogin(t *testing.T) {
	h, x := startHub(t)
	env := x.env
	dir := t.TempDir()
	x.env = map[string]string{"HEADWATER_CONFIG_DIR": dir}
	x.fails(1, `use "headwater login"`, "group", "list")
	login := []string{"login", "--hub", h.URL(), "--ca", env["HEADWATER_CA"], "--service-principal", "-u", env["AZURE_CLIENT_ID"], "--tenant", env["AZURE_TENANT_ID"]}
	x.fails(1, "AZURE_CLIENT_SECRET is not set", login...)
	x.fails(1, "log in anew", append(login, "-p", "wrong")...)
	if _, err := os.Stat(filepath.Join(dir, "profile.json")); !os.IsNotExist(err) {
		t.Error("credentials that do not work were kept")
	}
	x.in = env["AZURE_CLIENT_SECRET"] + "\n"
	if out := x.ok(append(login, "-p", "@-")...); strings.Contains(out, env["AZURE_CLIENT_SECRET"]) || !strings.Contains(out, env["AZURE_SUBSCRIPTION_ID"]) {
		t.Errorf("login prints %s", out)
	}
	info, err := os.Stat(filepath.Join(dir, "profile.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the login is kept in %v, %v; want mode 0600", info, err)
	}
	x.ok("group", "list")
	x.env["HEADWATER_HUB"] = "https://127.0.0.1:1"
	x.fails(1, "no credentials for https://127.0.0.1:1", "group", "list") // the secret stays with its hub
	delete(x.env, "HEADWATER_HUB")
	x.env["AZURE_CLIENT_ID"] = "somebody"
	x.fails(1, "AZURE_CLIENT_SECRET is not set", "group", "list")
	delete(x.env, "AZURE_CLIENT_ID")
	x.ok("logout")
	x.fails(1, "not logged in", "group", "list")
}

func TestUntrustedHub(t *testing.T) {
	_, x := startHub(t)
	delete(x.env, "HEADWATER_CA")
	x.fails(1, "HEADWATER_CA", "group", "list")
}

func TestRest(t *testing.T) {
	_, x := startHub(t)
	o := x.object("rest", "--method", "get", "--url", "/subscriptions/{subscriptionId}?api-version=2022-12-01")
	if o["subscriptionId"] != x.env["AZURE_SUBSCRIPTION_ID"] {
		t.Errorf("got %v", o)
	}
	x.fails(1, "is not JSON", "rest", "-m", "put", "-u", "/x", "-b", "{")
	x.fails(1, "MissingApiVersionParameter", "rest", "-u", "/subscriptions")
	x.fails(1, "is not a URL of the hub", "rest", "-u", "https://elsewhere.example/")
}

func TestVersionAndCompletion(t *testing.T) {
	x := terminal{t: t}
	if v := x.object("version"); v["headwater"] == "" {
		t.Errorf("the version is %v", v)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out := x.ok("completion", shell); !strings.Contains(out, "headwater") {
			t.Errorf("there is no completion for %s", shell)
		}
	}
	if out := x.ok("__complete", "k8s-configuration", "flux", "create", "--kind", ""); !strings.Contains(out, "azblob") {
		t.Errorf("kinds are not completed: %s", out)
	}
}

func TestHelpNamesEveryVerb(t *testing.T) {
	x := terminal{t: t}
	for group, verbs := range map[string]string{
		"": "login group connectedk8s k8s-extension k8s-configuration migrate rest version completion", "group": "create list show delete",
		"connectedk8s": "connect list show delete", "k8s-extension": "create update list show delete extension-types",
		"k8s-configuration flux":                 "create update show list delete reconcile kustomization deployed-object",
		"k8s-configuration flux kustomization":   "create update delete list show suspend resume",
		"k8s-configuration flux deployed-object": "list show",
	} {
		out := x.ok(append(strings.Fields(group), "--help")...)
		for verb := range strings.FieldsSeq(verbs) {
			if !strings.Contains(out, "\n  "+verb+" ") {
				t.Errorf("the help of %q does not name %s", group, verb)
			}
		}
	}
}

// TestDeployedObjects looks at a status as agents report it.
func TestDeployedObjects(t *testing.T) {
	r, x := record(t)
	long := strings.Repeat("long message ", 10)
	status := object{"kind": "HelmRelease", "namespace": "apps", "name": "redis", "complianceState": "Non-Compliant",
		"statusConditions": []any{object{"type": "Ready", "status": "False", "message": long}}}
	r.config = object{"properties": object{"statuses": []any{status}}}
	verb := func(words string) []string {
		return append(strings.Fields("k8s-configuration flux deployed-object "+words), "-g", "g", "-c", "c", "-n", "cfg")
	}
	var got []object
	if err := json.Unmarshal([]byte(x.ok(verb("list")...)), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]object{status}, got); diff != "" {
		t.Errorf("JSON is the status as it is: %s", diff)
	}
	want := "Kind         Namespace  Name   ComplianceState  Message\n" +
		"-----------  ---------  -----  ---------------  ------------------------------------------------------------\n" +
		"HelmRelease  apps       redis  Non-Compliant    " + long[:59] + "…"
	if got := strings.Split(x.ok(verb("list -o table")...), "\n"); len(got) < 3 || !strings.HasPrefix(want, got[0]+"\n") || got[2] != strings.Split(want, "\n")[2] {
		t.Errorf("the table is\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
	x.ok(verb("show --object-kind helmrelease --object-namespace apps --object-name redis")...)
	x.fails(3, "deployed-object list", verb("show --object-kind HelmRelease --object-namespace apps --object-name nope")...)
}

func TestWaitForCompliance(t *testing.T) {
	create := strings.Fields("k8s-configuration flux create -g g -c c -n cfg -u https://h/r --branch main --wait-for-compliance")
	r, x := record(t)
	r.config = object{"id": base + "x", "properties": object{"complianceState": "Compliant"}}
	x.ok(create...)
	r.config = object{"id": base + "x", "properties": object{"complianceState": "Non-Compliant", "errorMessage": "Kustomization cfg/apps: no such file"}}
	x.fails(1, "not compliant in time: Non-Compliant: Kustomization cfg/apps: no such file", append(create, "--compliance-timeout", "2s")...)
}

func TestPatience(t *testing.T) {
	for name, tc := range map[string]struct {
		takes time.Duration
		want  string
	}{"short": {patience / 2, ""}, "long": {2 * patience, "waiting for rain\n"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var said bytes.Buffer
				cmd := &cobra.Command{}
				cmd.SetErr(&said)
				failure := errors.New("dry")
				err := patiently(cmd, "waiting for rain", func() error {
					<-time.After(tc.takes)
					return failure
				})
				if err != failure || said.String() != tc.want {
					t.Errorf("got %v and %q, want %q", err, said.String(), tc.want)
				}
			})
		})
	}
}

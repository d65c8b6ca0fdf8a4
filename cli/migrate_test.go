package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"headwater.dev/api/resource"
	"headwater.dev/hub"
)

func TestTwinOf(t *testing.T) {
	v1 := func(params string) resource.SourceControlProperties {
		return resource.SourceControlProperties{RepositoryURL: "https://h/r", OperatorNamespace: "ns", OperatorScope: "namespace", OperatorParams: params}
	}
	tests := map[string]struct {
		why   string
		in    resource.SourceControlProperties
		git   object
		all   object
		notes []string
	}{
		"plain": {"one kustomization for the whole repository", v1("--git-branch=main"),
			object{"url": "https://h/r", "repositoryRef": object{"branch": "main"}}, object{"kustomization-1": object{"path": "", "prune": false}}, nil},
		"all that has a counterpart": {"paths, intervals and garbage collection", v1("--git-branch main --git-path=a,b/c --git-poll-interval=3m --git-timeout 45s --sync-garbage-collection --git-readonly"),
			object{"url": "https://h/r", "repositoryRef": object{"branch": "main"}, "syncIntervalInSeconds": int64(180), "timeoutInSeconds": int64(45)},
			object{"kustomization-1": object{"path": "a", "prune": true}, "kustomization-2": object{"path": "b/c", "prune": true}}, nil},
		"what has none": {"is said", v1("--git-branch=main --manifest-generation=true nonsense --git-poll-interval=soon"),
			object{"url": "https://h/r", "repositoryRef": object{"branch": "main"}}, object{"kustomization-1": object{"path": "", "prune": false}},
			[]string{"nonsense", "git-poll-interval=soon", "manifest-generation=true has no counterpart"}},
		"branch": {"Flux v1 had another default", v1(""), object{"url": "https://h/r", "repositoryRef": object{"branch": "master"}},
			object{"kustomization-1": object{"path": "", "prune": false}}, []string{"follows master"}},
		"SSH and Helm": {"a new key, and releases of another kind", resource.SourceControlProperties{RepositoryURL: "git@h:r", OperatorParams: "--git-branch=x", SSHKnownHostsContents: "aA==", EnableHelmOperator: true},
			object{"url": "git@h:r", "repositoryRef": object{"branch": "x"}, "sshKnownHosts": "aA=="}, object{"kustomization-1": object{"path": "", "prune": false}},
			[]string{"helm.toolkit.fluxcd.io", "repositoryPublicKey"}},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			props, notes := twinOf(c.in)
			if diff := cmp.Diff(c.git, props["gitRepository"]); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.why, diff)
			}
			if diff := cmp.Diff(c.all, props["kustomizations"]); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.why, diff)
			}
			all := strings.Join(notes, "\n")
			for _, words := range c.notes {
				if !strings.Contains(all, words) {
					t.Errorf("%s: no note of %q in %q", c.why, words, notes)
				}
			}
			if len(notes) != len(c.notes) {
				t.Errorf("%s: notes %q", c.why, notes)
			}
		})
	}
}

func TestMigrationAtARealHub(t *testing.T) {
	_, x := startHub(t, func(c *hub.Config) { c.ImportSources = true })
	x.env["RESOURCE_GROUP"] = "g"
	x.ok("group", "create", "-n", "g")
	registerCluster(x, "c")
	old := "/subscriptions/{subscriptionId}/resourceGroups/g/providers/Microsoft.Kubernetes/connectedClusters/c/providers/Microsoft.KubernetesConfiguration/sourceControlConfigurations/apps?api-version=2022-03-01"
	put := func() {
		x.ok("rest", "-m", "put", "-u", old, "-b", `{"properties":{"repositoryUrl":"https://h/r","operatorNamespace":"apps","operatorParams":"--git-branch=main --git-path=deploy"}}`)
	}
	put()
	v1 := func(words ...string) []string {
		return append(append([]string{"k8s-configuration"}, words...), "-c", "c")
	}
	if out := x.ok(v1("list", "-o", "table")...); !strings.Contains(out, "https://h/r") {
		t.Errorf("the table is\n%s", out)
	}
	if o := x.object(v1("show", "-n", "apps")...); o["operatorScope"] != "cluster" {
		t.Errorf("shown: %v", o)
	}
	x.fails(1, "(Flux v1): apps", v1("flux", "create", "-n", "apps", "-u", "https://h/r", "--branch", "main")...)

	migrate := []string{"migrate", "-c", "c", "-n", "apps"}
	plan := x.run(migrate...)
	if plan.code != 0 || !strings.Contains(plan.err, "nothing is changed") || !strings.Contains(plan.out, `"path": "deploy"`) {
		t.Errorf("the plan is %d %s %s", plan.code, plan.out, plan.err)
	}
	x.ok(v1("show", "-n", "apps")...) // and it is still there
	x.fails(1, "the old one was put back", append(migrate, "--https-user", "only-a-user", "--yes")...)
	x.fails(1, `it was {"repositoryUrl":"https://h/r"`, append(migrate, "--https-user", "only-a-user", "--yes")...)
	x.ok(v1("show", "-n", "apps")...)
	x.ok(append(migrate, "--https-user", "me", "--https-key", "CANARY", "--yes", "--no-wait")...)
	x.fails(3, "(ResourceNotFound)", v1("show", "-n", "apps")...)
	o := x.object(v1("flux", "show", "-n", "apps")...)
	if git := o["gitRepository"].(object); git["url"] != "https://h/r" || git["httpsUser"] != "me" || o["namespace"] != "apps" {
		t.Errorf("the twin is %v", o)
	}
	x.fails(3, "(ResourceNotFound)", migrate...)
}

func TestReconcileAndSuspend(t *testing.T) {
	r, x := record(t)
	x.env["RESOURCE_GROUP"] = "g"
	const config = "/subscriptions/" + testSubscription + "/resourceGroups/g/providers/Microsoft.Kubernetes/connectedClusters/c/providers/Microsoft.KubernetesConfiguration/fluxConfigurations/cfg"
	flux := func(words string) []string {
		return append(strings.Fields("k8s-configuration flux "+words), "-c", "c", "-n", "cfg")
	}
	x.ok(flux("reconcile")...)
	if got := r.last(); got != "POST "+config+"/reconcile?api-version=2026-07-01-preview" {
		t.Errorf("reconcile asks %s", got)
	}
	for word, want := range map[string]bool{"suspend": true, "resume": false} {
		x.ok(flux("kustomization " + word + " -k infra")...)
		if diff := cmp.Diff(object{"properties": object{"kustomizations": object{"infra": object{"suspend": want}}}}, r.body); diff != "" || r.last() != "PATCH "+config+"?api-version=2026-07-01-preview" {
			t.Errorf("%s asks %s (-want +got):\n%s", word, r.last(), diff)
		}
	}
	x.fails(3, "has no kustomization nope", flux("kustomization suspend -k nope")...)
}

func TestExtensionTypesOfARealHub(t *testing.T) {
	_, x := startHub(t, func(c *hub.Config) { c.ExtensionVersions = []string{"1.4.0", "1.3.0", "1.2.0", "1.1.0", "1.5.0-rc.1"} })
	x.env["RESOURCE_GROUP"] = "g"
	x.ok("group", "create", "-n", "g")
	registerCluster(x, "c")
	types := func(words string) []string { return strings.Fields("k8s-extension extension-types " + words) }
	if out := x.ok(types("list-by-location -l local -o table")...); !strings.Contains(out, "microsoft.flux") {
		t.Errorf("types are\n%s", out)
	}
	for words, want := range map[string]string{
		"list-versions-by-cluster -c c -o table":                                            "Version\n-------\n1.4.0\n1.3.0\n1.2.0",
		"list-versions-by-location -l local --show-latest -o table":                         "Version\n-------\n1.4.0",
		"list-versions-by-location -l local --release-train preview --show-latest -o table": "Version\n-------\n1.5.0-rc.1",
	} {
		var got []string
		for _, line := range strings.Split(strings.TrimSpace(x.ok(types(words)...)), "\n") {
			got = append(got, strings.TrimSpace(line))
		}
		if strings.Join(got, "\n") != want {
			t.Errorf("%s prints\n%s", words, strings.Join(got, "\n"))
		}
	}
	if o := x.object(types("show-by-cluster -c c")...); o["name"] != "microsoft.flux" {
		t.Errorf("the type is %v", o)
	}
}

package tenant_test

import (
	"errors"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"headwater.dev/kernel/tenant"
)

// kubeconfig with one more line for the cluster and one for the user.
func kubeconfig(cluster, user string) []byte {
	return []byte(`apiVersion: v1
kind: Config
clusters:
- name: c
  cluster:
    server: https://192.0.2.1:6443
` + cluster + `
users:
- name: u
  user:
    token: s3cr3t
` + user + `
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`)
}

// TestA42KubeConfigOfTenants: what a tenant's kubeconfig may not ask for.
func TestA42KubeConfigOfTenants(t *testing.T) {
	all := tenant.Policy{InsecureTLS: true, Exec: true, Proxy: true}
	cases := map[string]struct {
		cluster, user string
		want          string // of the error
		policy        bool   // allowed by policy
	}{
		"good":            {"", "", "", false},
		"exec":            {"", "    exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/sh, interactiveMode: Never}", `user "u": exec would run a command`, true},
		"auth provider":   {"", "    auth-provider: {name: gcp}", `user "u": auth-provider is not supported`, false},
		"token file":      {"", "    tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token", `user "u": tokenFile names a file`, false},
		"cert file":       {"", "    client-certificate: /etc/passwd", `user "u": client-certificate names a file`, false},
		"key file":        {"", "    client-key: /etc/passwd", `user "u": client-key names a file`, false},
		"impersonation":   {"", "    as: system:admin", `user "u": as is not supported`, false},
		"CA file":         {"    certificate-authority: /etc/passwd", "", `cluster "c": certificate-authority names a file`, false},
		"insecure TLS":    {"    insecure-skip-tls-verify: true", "", `--insecure-kubeconfig-tls`, true},
		"proxy":           {"    proxy-url: http://127.0.0.1:3128", "", `--kubeconfig-proxy`, true},
		"unused and evil": {"- name: other\n  cluster: {server: https://192.0.2.2, certificate-authority: /etc/passwd}", "", `cluster "other"`, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := tenant.KubeConfig(kubeconfig(c.cluster, c.user), tenant.Policy{})
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if _, err := tenant.KubeConfig(kubeconfig(c.cluster, c.user), all); (err == nil) != (c.policy || c.want == "") {
				t.Errorf("with everything allowed: %v", err)
			}
		})
	}
	for name, raw := range map[string]string{
		"not YAML": "token: [s3cr3t", "plain server": strings.Replace(string(kubeconfig("", "")), "https://", "http://", 1),
		"no context": strings.Replace(string(kubeconfig("", "")), "current-context: x", "", 1), "empty": "",
	} {
		_, err := tenant.KubeConfig([]byte(raw), tenant.Policy{})
		if err == nil || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestA42MetadataServiceIsNoCluster(t *testing.T) {
	tenants, err := tenant.New(&rest.Config{Host: "https://127.0.0.1:1"}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := tenants.At(tenant.Cluster{Key: "k", Config: &rest.Config{Host: "https://169.254.169.254"}}, tenant.Identity{Namespace: "n"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.HTTP.Get("https://169.254.169.254/latest/meta-data")
	if err == nil || !strings.Contains(err.Error(), "is no address of a cluster") {
		t.Errorf("got %v", err)
	}
	if _, err := tenants.At(tenant.Cluster{}, tenant.Identity{Namespace: "n"}); !errors.Is(err, tenant.ErrNoIdentity) {
		t.Errorf("a cluster without a key: %v", err)
	}
}

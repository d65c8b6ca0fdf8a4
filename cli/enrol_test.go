package cli

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/agent/uplink"
	"headwater.dev/dev/kubetest"
)

// TestEnrolment lets a real cluster in without anybody's login in it: its agent
// is played by the test, with the agent's own way of asking.
func TestEnrolment(t *testing.T) {
	cluster := kubetest.Start(t, kubetest.WithNode())
	_, x := startHub(t)
	x.env["RESOURCE_GROUP"] = "shops"
	ctx := t.Context()
	x.ok("group", "create", "-n", "shops")
	token, _ := x.object("enrolment", "token", "create", "-n", "t", "--cluster-name", "shop-*", "--uses", "2", "--life", "1h", "--tags", "site=shop")["token"].(string)
	if token == "" {
		t.Fatal("no token is told")
	}
	if listed := x.ok("enrolment", "token", "list", "-o", "table"); !strings.Contains(listed, "shop-*") || strings.Contains(listed, token) {
		t.Errorf("the list of tokens: %s", listed)
	}
	x.fails(1, "within 30 days", "enrolment", "token", "create", "-n", "u", "--life", "999h")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	site := terminal{t: t, env: maps.Clone(x.env)} // has no login
	for _, secret := range []string{"AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"} {
		delete(site.env, secret)
	}
	site.env["KUBECONFIG"] = cluster.Kubeconfig
	site.fails(1, "headwater enrolment token create", "connectedk8s", "connect", "-n", "shop-1", "--enrolment-token", "@"+file, "--tags", "a=b")
	site.ok("connectedk8s", "connect", "-n", "shop-1", "--enrolment-token", "@"+file, "--no-wait")
	secret, err := cluster.Client.CoreV1().Secrets(agentNamespace).Get(ctx, "headwater-agent-enrolment", metav1.GetOptions{})
	if err != nil || string(secret.Data["enrolment-token"]) != token {
		t.Fatalf("the token in the cluster: %v", err)
	}
	if _, err := cluster.Client.CoreV1().Secrets(agentNamespace).Get(ctx, identityName, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("connect made a key: %v", err)
	}

	settings, err := cluster.Client.CoreV1().ConfigMaps(agentNamespace).Get(ctx, "headwater-agent-config", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	asking, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	waits := make(chan string, 10)
	done := make(chan error, 1)
	go func() {
		done <- uplink.Enrol(asking, uplink.Enrolling{Hub: settings.Data["hub"], CA: []byte(settings.Data["ca.crt"]), Cluster: settings.Data["cluster-id"], Key: key,
			Token:   func(context.Context) (string, error) { return string(secret.Data["enrolment-token"]), nil },
			Waiting: func(_ context.Context, what string) { waits <- what }, Log: testr.New(t)})
	}()
	what := <-waits
	_, err = cluster.Client.CoreV1().ConfigMaps(agentNamespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: stateName},
		Data: map[string]string{"enrolment": what}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	site.fails(1, "headwater enrolment approve", "connectedk8s", "connect", "-n", "shop-1", "--enrolment-token", "@"+file, "--onboarding-timeout", "1")
	name := what[strings.LastIndex(what, " ")+1:]
	if listed := x.ok("enrolment", "list", "-o", "table"); !strings.Contains(listed, name) || !strings.Contains(listed, "shop-1") || !strings.Contains(listed, "Pending") {
		t.Errorf("the list of enrolments: %s", listed)
	}
	x.fails(1, "is for the key", "enrolment", "approve", "-n", name, "--key-fingerprint", "00")
	x.ok("enrolment", "approve", "-n", name)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	x.fails(1, "approved already", "enrolment", "reject", "-n", name)
	if shown := x.ok("connectedk8s", "show", "-n", "shop-1"); !strings.Contains(shown, `"site": "shop"`) {
		t.Errorf("the cluster: %s", shown)
	}
	x.ok("enrolment", "token", "delete", "-n", "t", "--yes")
	x.fails(3, "not found", "enrolment", "token", "show", "-n", "t")
	x.ok("connectedk8s", "delete", "-n", "shop-1", "--yes", "--force")
	if err := (&kube{config: cluster.Config, client: cluster.Client}).uninstall(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Client.CoreV1().Secrets(agentNamespace).Get(ctx, "headwater-agent-enrolment", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the token is left in the cluster: %v", err)
	}
}

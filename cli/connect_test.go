package cli

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"headwater.dev/api/link"
	"headwater.dev/dev/kubetest"
)

// beat speaks once for a cluster, as its agent does: with what "connect" left in
// the cluster and nothing else.
func beat(ctx context.Context, kube kubernetes.Interface, config *http.Client) error {
	settings, err := kube.CoreV1().ConfigMaps(agentNamespace).Get(ctx, "headwater-agent-config", metav1.GetOptions{})
	if err != nil {
		return err
	}
	secret, err := kube.CoreV1().Secrets(agentNamespace).Get(ctx, identityName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	block, _ := pem.Decode(secret.Data["tls.key"])
	if block == nil {
		return errors.New("there is no key in the Secret")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return err
	}
	if bits := key.(*rsa.PrivateKey).N.BitLen(); bits != 4096 {
		return fmt.Errorf("the key has %d bits", bits)
	}
	hub, id := settings.Data["hub"], settings.Data["cluster-id"]
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, nil)
	if err != nil {
		return err
	}
	assertion, err := jwt.Signed(signer).Claims(jwt.Claims{Issuer: id, Subject: id, Audience: jwt.Audience{hub + link.PathToken},
		ID: fmt.Sprint(time.Now().UnixNano()), Expiry: jwt.NewNumericDate(time.Now().Add(time.Minute)), IssuedAt: jwt.NewNumericDate(time.Now())}).Serialize()
	if err != nil {
		return err
	}
	resp, err := config.PostForm(hub+link.PathToken, url.Values{"grant_type": {"client_credentials"},
		"client_assertion_type": {link.ClientAssertionType}, "client_assertion": {assertion}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var token struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&token); err != nil || token.AccessToken == "" {
		return fmt.Errorf("no token: %s, %w", resp.Status, err)
	}
	body, err := json.Marshal(link.Report{Session: "s", Sequence: time.Now().UnixNano(), Heartbeat: &link.Heartbeat{KubernetesVersion: "1.37.0", TotalNodeCount: 1}})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, hub+link.PathObserved, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token.AccessToken)
	req.Header.Set("Content-Type", "application/json")
	answer, err := config.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the report is answered with %s", answer.Status)
	}
	return nil
}

// TestConnectedCluster connects a real cluster, whose agent is played by the
// test, and disconnects it.
func TestConnectedCluster(t *testing.T) {
	cluster := kubetest.Start(t, kubetest.WithNode())
	kube, err := kubernetes.NewForConfig(cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	_, x := startHub(t)
	x.env["KUBECONFIG"] = cluster.Kubeconfig
	x.env["RESOURCE_GROUP"] = "fleet"
	ctx := t.Context()
	secrets := kube.CoreV1().Secrets(agentNamespace)

	x.fails(3, "ResourceGroupNotFound", "connectedk8s", "connect", "-n", "one")
	if _, err := secrets.Get(ctx, identityName, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("a refused connect leaves a key: %v", err)
	}

	agent := make(chan error, 1)
	go func() { agent <- eventually(ctx, func() error { return beat(ctx, kube, trusting(t, x)) }) }()
	o := x.object("connectedk8s", "connect", "-n", "one", "-l", "local", "--tags", "site=berlin")
	if err := <-agent; err != nil {
		t.Fatalf("the agent cannot speak for the cluster: %v", err)
	}
	if o["connectivityStatus"] != "Connected" || o["kubernetesVersion"] != "1.37.0" {
		t.Errorf("the connected cluster is %v", o)
	}
	if out := x.ok("connectedk8s", "list", "-o", "table"); !strings.Contains(out, "one   fleet") {
		t.Errorf("the table is\n%s", out)
	}
	if _, err := kube.AppsV1().Deployments(agentNamespace).Get(ctx, agentRelease, metav1.GetOptions{}); err != nil {
		t.Errorf("the agent is not installed: %v", err)
	}

	t.Run("again", func(t *testing.T) {
		x.ok("connectedk8s", "connect", "-n", "one", "--agent-image", "example.com/agent:2", "--agent-hub-url", "https://hub.example:1", "--no-wait")
		if again := x.object("connectedk8s", "show", "-n", "one"); again["agentPublicKeyCertificate"] != o["agentPublicKeyCertificate"] {
			t.Error("the cluster has another key")
		}
		d, err := kube.AppsV1().Deployments(agentNamespace).Get(ctx, agentRelease, metav1.GetOptions{})
		if err != nil || d.Spec.Template.Spec.Containers[0].Image != "example.com/agent:2" {
			t.Errorf("the agent is %v, %v", d.Spec.Template.Spec.Containers, err)
		}
		m, err := kube.CoreV1().ConfigMaps(agentNamespace).Get(ctx, "headwater-agent-config", metav1.GetOptions{})
		if err != nil || m.Data["hub"] != "https://hub.example:1" {
			t.Errorf("the agent is sent to %v, %v", m.Data, err)
		}
	})
	t.Run("under another name", func(t *testing.T) {
		x.fails(1, "headwater connectedk8s delete -g fleet -n one", "connectedk8s", "connect", "-n", "two", "-l", "local")
		x.fails(1, "is connected as", "connectedk8s", "delete", "-n", "two", "--yes")
		x.fails(3, "ResourceNotFound", "connectedk8s", "show", "-n", "two")
	})
	t.Run("another cluster", func(t *testing.T) {
		mine, err := secrets.Get(ctx, identityName, metav1.GetOptions{})
		if err == nil {
			err = secrets.Delete(ctx, identityName, metav1.DeleteOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
		x.fails(1, "another cluster is connected as one", "connectedk8s", "connect", "-n", "one")
		x.fails(1, "not connected to a hub", "connectedk8s", "delete", "-n", "one", "--yes")
		mine.ResourceVersion, mine.UID = "", ""
		if _, err := secrets.Create(ctx, mine, metav1.CreateOptions{}); err != nil {
			t.Fatalf("a refused connect has made a key: %v", err)
		}
	})
	t.Run("agent that does not come", func(t *testing.T) {
		registerCluster(x, "silent")
		x.fails(1, "--force removes the hub's record only", "connectedk8s", "delete", "-n", "silent", "--yes")
		x.ok("connectedk8s", "delete", "-n", "silent", "--yes", "--force")
	})

	x.fails(1, "not confirmed", "connectedk8s", "delete", "-n", "one")
	x.ok("connectedk8s", "delete", "-n", "one", "--yes")
	x.fails(3, "ResourceNotFound", "connectedk8s", "show", "-n", "one")
	x.fails(3, "ResourceNotFound", "connectedk8s", "delete", "-n", "one", "--yes")
	kubetest.Eventually(t, 20*time.Second, func() error {
		_, deployment := kube.AppsV1().Deployments(agentNamespace).Get(ctx, agentRelease, metav1.GetOptions{})
		_, identity := secrets.Get(ctx, identityName, metav1.GetOptions{})
		if !apierrors.IsNotFound(deployment) || !apierrors.IsNotFound(identity) {
			return fmt.Errorf("left in the cluster: agent %v, identity %v", deployment, identity)
		}
		return nil
	})
}

func TestUnreachableCluster(t *testing.T) {
	_, x := startHub(t)
	x.env["RESOURCE_GROUP"] = "g"
	x.ok("group", "create", "-n", "g")
	x.env["KUBECONFIG"] = "/nonexistent"
	x.fails(1, "--kube-config", "connectedk8s", "connect", "-n", "c")
	dead := t.TempDir() + "/config"
	text := "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: \"https://127.0.0.1:1\"}}]\n" +
		"contexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u}]\n"
	if err := os.WriteFile(dead, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	x.fails(1, "https://127.0.0.1:1", "connectedk8s", "connect", "-n", "c", "--kube-config", dead)
	x.fails(1, `context "nope" does not exist`, "connectedk8s", "connect", "-n", "c", "--kube-config", dead, "--kube-context", "nope")
}

// trusting is an HTTP client that trusts the terminal's hub.
func trusting(t *testing.T, x terminal) *http.Client {
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(x.env["HEADWATER_CA"])
	if err != nil || !pool.AppendCertsFromPEM(ca) {
		t.Errorf("the hub's authority cannot be used: %v", err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

// eventually calls f until it returns nil, from a goroutine of its own.
func eventually(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute) // less than a command gets
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

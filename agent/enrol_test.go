package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"headwater.dev/agent/uplink"
	"headwater.dev/api/link"
	"headwater.dev/client"
	"headwater.dev/dev/kubetest"
	"headwater.dev/hub"
)

// asAgent is a client with the rights that the chart gives the agent.
func asAgent(t *testing.T) (admin, own kubernetes.Interface) {
	t.Helper()
	c := kubetest.Start(t, kubetest.WithNode())
	installAgentChart(t, c.Config)
	as := rest.CopyConfig(c.Config)
	as.Impersonate.UserName = "system:serviceaccount:headwater-system:headwater-agent"
	own, err := kubernetes.NewForConfig(as)
	if err != nil {
		t.Fatal(err)
	}
	return c.Client, own
}

// startHub runs a real hub and answers its authority and a client of its owner.
func startHub(t *testing.T) (ca string, owner *client.Client) {
	t.Helper()
	dir := t.TempDir()
	h, err := hub.New(t.Context(), hub.Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	var admin struct{ TenantID, ClientID, ClientSecret, SubscriptionID string }
	raw, err := os.ReadFile(filepath.Join(dir, "admin.json"))
	if err == nil {
		err = json.Unmarshal(raw, &admin)
	}
	pem, err2 := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err = errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	owner, err = client.New(client.Config{Hub: h.URL(), CA: pem, TenantID: admin.TenantID, ClientID: admin.ClientID,
		ClientSecret: admin.ClientSecret, SubscriptionID: admin.SubscriptionID})
	if err != nil {
		t.Fatal(err)
	}
	return string(pem), owner
}

const enrolmentVersion = "?api-version=2022-10-01-preview"

// TestA84AgentEnrolsByItself gives a cluster nothing but a token: the agent, with
// its own rights, makes a key, asks, says what it waits for, and goes on when
// somebody has approved.
func TestA84AgentEnrolsByItself(t *testing.T) {
	kube, own := asAgent(t)
	ca, owner := startHub(t)
	ctx := t.Context()
	group := owner.GroupID("fleet")
	send := func(method, path, body string) map[string]any {
		t.Helper()
		raw, err := owner.Send(ctx, method, path+enrolmentVersion, []byte(body))
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		var answer map[string]any
		if err := json.Unmarshal(raw, &answer); err != nil {
			t.Fatal(err)
		}
		return answer
	}
	send(http.MethodPut, group, `{"location":"local"}`)
	token := send(http.MethodPut, group+"/providers/Headwater.Identity/enrolmentTokens/t", `{"properties":{}}`)["properties"].(map[string]any)["token"].(string)

	const namespace = "headwater-system"
	id := owner.ClusterID("fleet", "Microsoft.Kubernetes", "connectedClusters", "edge")
	settings, err := kube.CoreV1().ConfigMaps(namespace).Get(ctx, configMap, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	settings.Data["hub"], settings.Data["ca.crt"], settings.Data["cluster-id"] = owner.Hub(), ca, id
	if _, err := kube.CoreV1().ConfigMaps(namespace).Update(ctx, settings, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = kube.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: enrolmentSecret},
		StringData: map[string]string{enrolmentToken: token}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, name := range []string{enrolmentSecret, identitySecret} {
			_ = kube.CoreV1().Secrets(namespace).Delete(context.Background(), name, metav1.DeleteOptions{})
		}
		_ = kube.CoreV1().ConfigMaps(namespace).Delete(context.Background(), stateMap, metav1.DeleteOptions{})
	})

	c := Config{Log: testr.New(t)}
	done := make(chan error, 1)
	running, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	go func() { done <- identify(running, own, namespace, &c) }()

	var name string
	kubetest.Eventually(t, patience, func() error {
		m, err := kube.CoreV1().ConfigMaps(namespace).Get(ctx, stateMap, metav1.GetOptions{})
		if err != nil {
			return err
		}
		what := m.Data[stateEnrolment]
		if !strings.Contains(what, "headwater enrolment approve -g fleet -n ") {
			return fmt.Errorf("the agent says it waits for %q", what)
		}
		name = strings.TrimSpace(what[strings.LastIndex(what, " ")+1:])
		return nil
	})
	secret, err := kube.CoreV1().Secrets(namespace).Get(ctx, identitySecret, metav1.GetOptions{})
	if err != nil || len(secret.Data[enrolmentMark]) == 0 {
		t.Fatalf("the pending identity: %v, %v", secret.Labels, err)
	}
	select {
	case err := <-done:
		t.Fatalf("went on before anybody approved: %v", err)
	default:
	}
	send(http.MethodPost, group+"/providers/Headwater.Identity/enrolments/"+name+"/approve", "{}")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if secret, err = kube.CoreV1().Secrets(namespace).Get(ctx, identitySecret, metav1.GetOptions{}); err != nil || len(secret.Data[enrolmentMark]) != 0 {
		t.Errorf("the identity is still pending: %v", err)
	}
	// The key that was enrolled is the one that connects.
	connected := make(chan struct{}, 1)
	u, err := uplink.New(uplink.Config{Hub: c.Hub, CA: c.CA, Cluster: c.Cluster, Key: c.Key, Log: c.Log, Desired: func(link.Desired) { connected <- struct{}{} }})
	if err != nil {
		t.Fatal(err)
	}
	up, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- u.Run(up) }()
	select {
	case <-connected:
	case <-time.After(patience):
		t.Error("the enrolled agent does not connect")
	}
	stop()
	<-ended
}

// TestA86MarkSurvivesRestarts keeps what the hub desired last in the cluster,
// with the agent's own rights.
func TestA86MarkSurvivesRestarts(t *testing.T) {
	kube, own := asAgent(t)
	const namespace = "headwater-system"
	ctx := t.Context()
	t.Cleanup(func() {
		_ = kube.CoreV1().ConfigMaps(namespace).Delete(context.Background(), stateMap, metav1.DeleteOptions{})
	})
	s := newState(own, namespace, identityOf("https://hub/", cluster))
	if m, err := s.load(ctx); err != nil || m != (uplink.Mark{}) {
		t.Fatalf("before anything: %v, %v", m, err)
	}
	want := uplink.Mark{Epoch: 2, Revision: 119}
	for revision := int64(100); revision <= want.Revision; revision++ {
		if err := s.remember(ctx, uplink.Mark{Epoch: 2, Revision: revision}); err != nil {
			t.Fatal(err)
		}
		if m, err := s.load(ctx); err != nil || m.Revision != revision { // at once: a crash may follow
			t.Fatalf("the mark is %v, %v, want %d", m, err, revision)
		}
	}
	c := Config{Hub: "https://hub", Cluster: strings.ToUpper(cluster), Namespace: namespace, Log: testr.New(t)}
	if err := recall(ctx, own, &c); err != nil || c.Known != want {
		t.Errorf("the next process knows %v, %v", c.Known, err)
	}
	c.Cluster += "2"
	if err := recall(ctx, own, &c); err != nil || c.Known != (uplink.Mark{}) {
		t.Errorf("another cluster knows %v, %v", c.Known, err)
	}
	if err := s.write(ctx, map[string]string{stateRevision: "x"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.load(ctx); !errors.Is(err, errIdentity) {
		t.Errorf("a mark that is no number: %v", err)
	}
}

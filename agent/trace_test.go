package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	otel "go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"headwater.dev/agent/mirror"
	"headwater.dev/agent/uplink"
	"headwater.dev/api/config"
	"headwater.dev/api/link"
	"headwater.dev/client"
	"headwater.dev/dev/kubetest"
	"headwater.dev/hub"
	"headwater.dev/kernel/trace"
)

// otlp takes OTLP over HTTP, as a collector does.
type otlp struct {
	mu    sync.Mutex
	spans []*spans.Span
	raw   bytes.Buffer
}

func (c *otlp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = unzipped
	}
	raw, err := io.ReadAll(body)
	var sent collector.ExportTraceServiceRequest
	if err = errors.Join(err, proto.Unmarshal(raw, &sent)); err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, "no traces", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw.Write(raw)
	for _, resource := range sent.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
}

// path names the spans from the root of a span's trace down to it.
func (c *otlp) path(s *spans.Span) string {
	name := s.Name
	for _, a := range s.Attributes {
		if a.Key == "url.path" && strings.HasPrefix(a.Value.GetStringValue(), "/agents/") {
			name += " " + a.Value.GetStringValue()
		}
		if a.Key == "headwater.part" {
			name += " " + a.Value.GetStringValue()
		}
	}
	for _, above := range c.spans {
		if bytes.Equal(above.SpanId, s.ParentSpanId) && bytes.Equal(above.TraceId, s.TraceId) {
			return c.path(above) + " > " + name
		}
	}
	return name
}

// traced is a provider that sends to the collector, and what sends the rest.
func traced(t *testing.T, service string) (otel.TracerProvider, func()) {
	t.Helper()
	provider, stop, err := trace.Start(t.Context(), service, "1.2.3")
	if err != nil || provider == nil {
		t.Fatalf("no traces of %s: %v", service, err)
	}
	return provider, stop
}

// tracedHub is a real hub that traces and its owner.
func tracedHub(t *testing.T, traces otel.TracerProvider) (ca []byte, owner *client.Client, secret string, stop func()) {
	t.Helper()
	dir := t.TempDir()
	h, err := hub.New(t.Context(), hub.Config{DataDir: dir, Traces: traces})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	var admin struct{ TenantID, ClientID, ClientSecret, SubscriptionID string }
	raw, err := os.ReadFile(filepath.Join(dir, "admin.json"))
	if err == nil {
		err = json.Unmarshal(raw, &admin)
	}
	ca, err2 := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err = errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	owner, err = client.New(client.Config{Hub: h.URL(), CA: ca, TenantID: admin.TenantID, ClientID: admin.ClientID,
		ClientSecret: admin.ClientSecret, SubscriptionID: admin.SubscriptionID})
	if err != nil {
		t.Fatal(err)
	}
	return ca, owner, admin.ClientSecret, stop
}

// TestTraceFromRequestToAgent follows one PUT through a real hub, uplink, mirror
// and API server, by what a collector receives: the request, the record's write,
// the delivery, the write of the FluxConfig, the report, and that one's record
// are one trace, each below what led to it, and no span holds a secret.
func TestTraceFromRequestToAgent(t *testing.T) {
	c := &otlp{}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	hubTraces, flushHub := traced(t, "headwater-hub")
	agentTraces, flushAgent := traced(t, "headwater-agent")
	ca, owner, password, stopHub := tracedHub(t, hubTraces)

	const canary = "canary-trace-7f31"
	ctx := t.Context()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	id := owner.ClusterID("fleet", "Microsoft.Kubernetes", "connectedClusters", "traced")
	put := func(path, version string, body map[string]any) {
		t.Helper()
		if _, err := client.Put[any](ctx, owner, path, version, body); err != nil {
			t.Fatal(err)
		}
	}
	put(owner.GroupID("fleet"), client.VersionCore, map[string]any{"location": "local"})
	put(id, client.VersionCluster, map[string]any{"location": "local", "properties": map[string]any{"agentPublicKeyCertificate": base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&key.PublicKey))}})

	cluster := kubetest.Start(t, kubetest.WithNode())
	kubetest.CRDs(t, cluster, "fluxconfig")
	kube, err := kubernetes.NewForConfig(cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	keeper := &settings{kube: kube, keys: func() []*rsa.PrivateKey { return []*rsa.PrivateKey{key} }}
	var u *uplink.Uplink
	m, err := mirror.New(mirror.Config{REST: cluster.Config, Settings: keeper, Now: time.Now, Log: testr.New(t), Tracer: agentTraces.Tracer("mirror"),
		Report: func(o link.Observed) { u.Report(o) }})
	if err != nil {
		t.Fatal(err)
	}
	u, err = uplink.New(uplink.Config{Hub: owner.Hub(), CA: ca, Cluster: id, Key: key, Log: testr.New(t), Tracer: agentTraces.Tracer("uplink"),
		Heartbeat: func(context.Context) link.Heartbeat { return link.Heartbeat{AgentVersion: "1"} },
		Desired:   func(d link.Desired) { m.Desired(configurations(d.Items)) }})
	if err != nil {
		t.Fatal(err)
	}
	running, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- u.Run(running) }()
	go func() { ended <- m.Run(running) }()
	stopAgent := sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-ended, <-ended); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stopAgent)

	put(client.ConfigurationID(id, "apps"), client.VersionConfiguration, map[string]any{"properties": map[string]any{
		"scope": "namespace", "namespace": cluster.Namespace(t), "sourceKind": "GitRepository",
		"gitRepository":                  map[string]any{"url": "https://git.example/apps.git", "httpsUser": "me", "repositoryRef": map[string]any{"branch": "main"}},
		"kustomizations":                 map[string]any{"app": map[string]any{"path": "./app"}},
		"configurationProtectedSettings": map[string]any{"httpsKey": base64.StdEncoding.EncodeToString([]byte(canary))}}})
	kubetest.Eventually(t, patience, func() error {
		got, err := client.Get[client.Resource[client.Configuration]](ctx, owner, client.ConfigurationID(id, "apps"), client.VersionConfiguration)
		if err == nil && got.Properties.ProvisioningState != "Succeeded" {
			err = fmt.Errorf("the configuration is %s", got.Properties.ProvisioningState)
		}
		return err
	})
	stopAgent()
	flushAgent()
	stopHub()
	flushHub()
	objects, err := dynamic.NewForConfig(cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := objects.Resource(config.GroupVersion().WithResource("fluxconfigs")).List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 1 {
		t.Fatalf("FluxConfigs in the cluster: %v, %v", list, err)
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	trees := map[string][]string{}
	for _, s := range c.spans {
		id := hex.EncodeToString(s.TraceId)
		trees[id] = append(trees[id], c.path(s))
	}
	const wants = `PUT
PUT > write record desired
PUT > deliver > write FluxConfig
PUT > deliver > write FluxConfig > report
PUT > deliver > write FluxConfig > report > POST /agents/v1/observed
PUT > deliver > write FluxConfig > report > POST /agents/v1/observed > write record observed`
	found := false
	for _, tree := range trees {
		missing := 0
		for want := range strings.SplitSeq(wants, "\n") {
			if !strings.Contains("\n"+strings.Join(tree, "\n")+"\n", "\n"+want+"\n") {
				missing++
			}
		}
		found = found || missing == 0
	}
	if !found {
		t.Errorf("no trace goes from the request to the agent and back, all of\n%s\nin one of %q", wants, trees)
	}
	for what, secret := range map[string]string{"a protected setting": canary, "its base64": base64.StdEncoding.EncodeToString([]byte(canary)), "a client's secret": password, "a token": "Bearer ", "a JWT": "eyJhbGciOi"} {
		if bytes.Contains(c.raw.Bytes(), []byte(secret)) {
			t.Errorf("a span holds %s", what)
		}
	}
}

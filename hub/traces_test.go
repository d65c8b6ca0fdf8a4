package hub

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"headwater.dev/api/link"
	"headwater.dev/client"
	"headwater.dev/kernel/trace"
)

// receiver takes OTLP over HTTP, as a collector does.
type receiver struct {
	mu    sync.Mutex
	spans map[string]string // name and path by trace id
	raw   bytes.Buffer
}

func (c *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
	if err == nil {
		err = proto.Unmarshal(raw, &sent)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, "no traces", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw.Write(raw)
	for _, resource := range sent.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			for _, span := range scope.Spans {
				text := span.Name
				for _, a := range span.Attributes {
					if a.Key == "url.path" {
						text += " " + a.Value.GetStringValue()
					}
				}
				c.spans[hex.EncodeToString(span.TraceId)] += text + "\n"
			}
		}
	}
}

// TestTraces follows a configuration from the request of a client that traces,
// through the record and the message, with a real receiver of OTLP.
func TestTraces(t *testing.T) {
	c := &receiver{spans: map[string]string{}}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	if provider, _, err := trace.Start(t.Context(), "hub", "1"); provider != nil || err != nil {
		t.Fatalf("traces without being asked: %v, %v", provider, err)
	}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	provider, stop, err := trace.Start(t.Context(), "headwater-hub", "1.2.3")
	if err != nil || provider == nil {
		t.Fatal(err)
	}
	const id, canary = "0af7651916cd43dd8448eb211c80319c", "canary-trace-1b2e"
	r, _, agent, config := waiting(t, Config{Traces: provider})
	user, err := client.New(client.Config{Hub: r.URL(), TenantID: r.admin.TenantID, ClientID: r.admin.ClientID, ClientSecret: r.admin.ClientSecret,
		SubscriptionID: r.admin.SubscriptionID, HTTP: &http.Client{Transport: tracing{r.http.Transport, "00-" + id + "-b7ad6b7169203331-01"}}})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(wanted(canary))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := user.Send(t.Context(), http.MethodPut, config+"?api-version="+client.VersionConfiguration, raw); err != nil {
		t.Fatal(err)
	}
	if err := agent.login(t.Context()); err != nil {
		t.Fatal(err)
	}
	desired, err := agent.desired(t.Context(), 0)
	if err != nil || len(desired.Items) != 2 { // the configuration, and the extension that it needs
		t.Fatalf("the agent is told nothing: %v", err)
	}
	for _, item := range desired.Items {
		if !strings.HasPrefix(item.TraceParent, "00-"+id+"-") {
			t.Errorf("of %s the agent is told %q", item.ID, item.TraceParent)
		}
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !strings.Contains(c.spans[id], "PUT /subscriptions/") {
		t.Errorf("the trace of the request has %q of %v", c.spans[id], c.spans)
	}
	for _, spans := range c.spans {
		if strings.Contains(spans, link.PathDesired) {
			t.Errorf("a stream has a span: %s", spans)
		}
	}
	for what, secret := range map[string]string{"a protected setting": canary, "a client's secret": r.admin.ClientSecret, "an agent's token": agent.token} {
		if bytes.Contains(c.raw.Bytes(), []byte(secret)) {
			t.Errorf("a span holds %s", what)
		}
	}
}

// tracing is a client that has a span of its own.
type tracing struct {
	next   http.RoundTripper
	parent string
}

func (t tracing) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Traceparent", t.parent)
	return t.next.RoundTrip(r)
}

package uplink

import (
	"net/http"
	"testing"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"headwater.dev/api/link"
)

// TestReportContinuesTheTrace tells the hub which change a report belongs to, once.
func TestReportContinuesTheTrace(t *testing.T) {
	const id = "0af7651916cd43dd8448eb211c80319c"
	spans := tracetest.NewSpanRecorder()
	u := &Uplink{outbox: newOutbox(), config: Config{Tracer: sdk.NewTracerProvider(sdk.WithSpanProcessor(spans)).Tracer("uplink")}}
	send := func() string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://hub", nil)
		if err != nil {
			t.Fatal(err)
		}
		parcels := u.outbox.peek(10, 1000)
		u.continued(req, parcels)()
		u.outbox.accepted(parcels)
		return req.Header.Get("Traceparent")
	}
	u.Report(link.Observed{ID: "/a", TraceParent: "00-" + id + "-b7ad6b7169203331-01"})
	u.Report(link.Observed{ID: "/a", Generation: 2}) // newer, before the first was sent
	got := send()
	if ended := spans.Ended(); len(ended) != 1 || got != "00-"+id+"-"+ended[0].SpanContext().SpanID().String()+"-01" {
		t.Errorf("the report says %q; spans %v", got, ended)
	}
	u.outbox.renew([]link.Item{{ID: "/a"}})
	if got := send(); got != "" || len(spans.Ended()) != 1 {
		t.Errorf("the trace is told again: %q", got)
	}
}

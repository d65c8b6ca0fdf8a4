package mirror

import (
	"errors"
	"strings"
	"testing"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"headwater.dev/api/link"
)

// TestWriteContinuesTheTrace makes the span of a write a child of the request's,
// and hands it to one report of the item.
func TestWriteContinuesTheTrace(t *testing.T) {
	const id = "0af7651916cd43dd8448eb211c80319c"
	spans := tracetest.NewSpanRecorder()
	provider := sdk.NewTracerProvider(sdk.WithSpanProcessor(spans))
	var reports []link.Observed
	m := &Mirror{written: map[string]string{}, reported: map[string]link.Observed{},
		config: Config{Tracer: provider.Tracer("mirror"), Report: func(o link.Observed) { reports = append(reports, o) }}}
	item := link.Item{ID: "/A/b", Generation: 3, TraceParent: "00-" + id + "-b7ad6b7169203331-01"}
	_, span := m.begin(t.Context(), item)
	m.end(item, span, errors.New("canary"))
	m.report(link.Observed{ID: item.ID, Generation: 3}, "/a/b")
	m.report(link.Observed{ID: item.ID, Generation: 3, Deleted: true}, "/a/b")
	ended := spans.Ended()
	if len(ended) != 1 || ended[0].SpanContext().TraceID().String() != id || ended[0].Parent().SpanID().String() != "b7ad6b7169203331" || strings.Contains(ended[0].Status().Description, "canary") {
		t.Fatalf("spans: %v", ended)
	}
	want := "00-" + id + "-" + ended[0].SpanContext().SpanID().String() + "-01"
	if len(reports) != 2 || reports[0].TraceParent != want || reports[1].TraceParent != "" {
		t.Errorf("reports belong to %v, want the first to %s", reports, want)
	}
	m.config.Tracer = nil
	if _, span := m.begin(t.Context(), item); span.SpanContext().IsValid() {
		t.Error("a span although nobody traces")
	}
}

package mirror

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"headwater.dev/api/link"
	parents "headwater.dev/kernel/trace"
)

// begin continues the trace of who asked for an item with its write.
func (m *Mirror) begin(ctx context.Context, item link.Item) (context.Context, trace.Span) {
	if m.config.Tracer == nil || item.TraceParent == "" {
		return ctx, trace.SpanFromContext(ctx)
	}
	return m.config.Tracer.Start(parents.Under(ctx, item.TraceParent), "write FluxConfig",
		trace.WithAttributes(attribute.String("headwater.id", item.ID), attribute.Int64("headwater.generation", item.Generation)))
}

// end ends the span of a write; the next report of the item belongs to it. What
// the API server says may quote what it was sent, so an error has no text.
func (m *Mirror) end(item link.Item, span trace.Span, err error) {
	if !span.SpanContext().IsValid() {
		return
	}
	if err != nil {
		span.SetStatus(codes.Error, "not written")
	}
	m.mu.Lock()
	m.written[fold(item.ID)] = parents.Parent(trace.ContextWithSpan(context.Background(), span))
	m.mu.Unlock()
	span.End()
}

package uplink

import (
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	parents "headwater.dev/kernel/trace"
)

// continued makes a span of a report that some change has led to, below the
// first such change and linked to the others, and tells the hub. It returns what
// ends the span.
func (u *Uplink) continued(req *http.Request, parcels []parcel) func() {
	if u.config.Tracer == nil {
		return func() {}
	}
	ctx, links := req.Context(), []trace.Link{}
	for _, p := range parcels {
		if p.observed.TraceParent == "" {
			continue
		}
		under := parents.Under(req.Context(), p.observed.TraceParent)
		if len(links) == 0 {
			ctx = under
		}
		links = append(links, trace.LinkFromContext(under))
	}
	if len(links) == 0 {
		return func() {}
	}
	ctx, span := u.config.Tracer.Start(ctx, "report", trace.WithSpanKind(trace.SpanKindClient), trace.WithLinks(links[1:]...),
		trace.WithAttributes(attribute.Int("headwater.items", len(parcels))))
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(req.Header))
	return func() { span.End() }
}

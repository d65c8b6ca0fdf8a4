package hub

import (
	"context"
	"net/http"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"headwater.dev/api/link"
	"headwater.dev/hub/store"
	parents "headwater.dev/kernel/trace"
)

// tracerName is the name under which the hub's own spans are made.
const tracerName = "headwater.dev/hub"

// traced makes a span of every request, below that of a client that has one.
// Streams of agents, which last for minutes, and probes are left out.
func traced(p trace.TracerProvider, next http.Handler) http.Handler {
	if p == nil {
		return next
	}
	return otelhttp.NewHandler(next, "request", otelhttp.WithTracerProvider(p), otelhttp.WithMeterProvider(noop.NewMeterProvider()),
		otelhttp.WithPropagators(propagation.TraceContext{}),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return r.Method }),
		otelhttp.WithFilter(func(r *http.Request) bool {
			switch r.URL.Path {
			case link.PathDesired, "/healthz", "/livez", "/readyz":
				return false
			}
			return true
		}))
}

// spanning makes a span of every write to the store that belongs to one. Spans
// have the part that was written, never keys or values.
type spanning struct {
	store.Store
	tracer trace.Tracer
}

func tracedStore(p trace.TracerProvider, s store.Store) store.Store {
	if p == nil {
		return s
	}
	return spanning{Store: s, tracer: p.Tracer(tracerName)}
}

// Put is the store's, in a span.
func (s spanning) Put(ctx context.Context, put store.Put) (store.Record, error) {
	ctx, end := s.begin(ctx, "write record", attribute.String("headwater.part", put.Part.String()))
	record, err := s.Store.Put(ctx, put)
	end(err)
	return record, err
}

// Delete is the store's, in a span.
func (s spanning) Delete(ctx context.Context, key string, expect int64) error {
	ctx, end := s.begin(ctx, "delete record")
	err := s.Store.Delete(ctx, key, expect)
	end(err)
	return err
}

// begin leaves alone what belongs to no span: the hub's own housekeeping. What the
// store says may quote a record, so an error has no text.
func (s spanning) begin(ctx context.Context, name string, about ...attribute.KeyValue) (context.Context, func(error)) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, func(error) {}
	}
	ctx, span := s.tracer.Start(ctx, name, trace.WithAttributes(about...))
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, "not done")
		}
		span.End()
	}
}

// delivering makes a span of an item's delivery to its agent; it lasts as long as
// it takes to write the message down. Nil when nobody traces.
func delivering(p trace.TracerProvider) func(context.Context, link.Item) string {
	if p == nil {
		return nil
	}
	tracer := p.Tracer(tracerName)
	return func(ctx context.Context, item link.Item) string {
		ctx, span := tracer.Start(parents.Under(ctx, item.TraceParent), "deliver", trace.WithSpanKind(trace.SpanKindProducer),
			trace.WithAttributes(attribute.String("headwater.id", item.ID), attribute.Int64("headwater.generation", item.Generation)))
		defer span.End()
		return parents.Parent(ctx)
	}
}

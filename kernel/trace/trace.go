// Package trace sends spans by OpenTelemetry's protocol where the standard
// variables of the environment ask for it, and carries the parent of a span
// through records and messages. Where nobody asks, there is no provider and
// nothing is made.
package trace

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// header is the name under which W3C's trace context travels.
const header = "traceparent"

// stopPatience bounds the wait for the last spans.
const stopPatience = 5 * time.Second

// Start makes a provider that exports over OTLP/HTTP, as OTEL_EXPORTER_OTLP_* and
// OTEL_TRACES_SAMPLER say. It is nil, and costs nothing, unless one of
// OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set.
// stop sends what is left; call it once, also for a nil provider.
func Start(ctx context.Context, service, version string) (provider trace.TracerProvider, stop func(), err error) {
	stop = func() {}
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" ||
		strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return nil, stop, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, stop, fmt.Errorf("set up traces (OTEL_EXPORTER_OTLP_*): %w", err)
	}
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", service), attribute.String("service.version", version)),
		resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil {
		return nil, stop, fmt.Errorf("set up traces (OTEL_RESOURCE_ATTRIBUTES): %w", err)
	}
	p := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(about))
	return p, func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
		defer cancel()
		_ = p.Shutdown(last) // a collector that is away loses spans, nothing else
	}, nil
}

// Parent writes the span of a context down; "" when there is none.
func Parent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier.Get(header)
}

// Under is a context below the span that was written down. What is no span
// leaves the context as it is.
func Under(ctx context.Context, parent string) context.Context {
	if parent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{header: parent})
}

package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"headwater.dev/api/arm"
)

// Poller follows a long-running operation. T is the resource that it makes or
// changes.
type Poller[T any] struct {
	client  *Client
	id      string
	version string
	// operation is the URL to poll, empty when there is nothing to wait for.
	operation string
	// location is the URL that answers 202 until the operation has ended, for
	// operations without a document.
	location string
	wait     time.Duration
	first    T
	gone     bool
}

// Accepted is the resource as it was answered when the operation began.
func (p *Poller[T]) Accepted() T { return p.first }

// Done reports whether nothing is left to wait for.
func (p *Poller[T]) Done() bool { return p.operation == "" && p.location == "" }

// Wait returns when the operation has ended: the resource as it is then, or the
// operation's error.
func (p *Poller[T]) Wait(ctx context.Context) (T, error) {
	var zero T
	if err := p.waitAtLocation(ctx); err != nil {
		return zero, err
	}
	for wait := 200 * time.Millisecond; p.operation != ""; wait = p.wait {
		select {
		case <-ctx.Done():
			return zero, fmt.Errorf("wait for %s: %w", p.id, ctx.Err())
		case <-time.After(wait):
		}
		a, err := p.client.do(ctx, request{method: http.MethodGet, target: p.operation})
		if err != nil {
			return zero, err
		}
		var o arm.Operation
		if err := decode(a, &o); err != nil {
			return zero, err
		}
		if !o.Done() {
			p.wait = retryAfter(a.header, p.wait)
			continue
		}
		p.operation = ""
		if o.Error != nil {
			return zero, &Error{Detail: *o.Error, Status: http.StatusOK, RequestID: a.header.Get(arm.HeaderRequestID)}
		}
		if arm.Fold(o.Status) != arm.Fold(arm.StatusSucceeded) {
			return zero, fmt.Errorf("the operation on %s ended as %s", p.id, o.Status)
		}
		if p.gone {
			return zero, nil
		}
		return Get[T](ctx, p.client, p.id, p.version)
	}
	return p.first, nil
}

// waitAtLocation returns when the location no longer answers 202.
func (p *Poller[T]) waitAtLocation(ctx context.Context) error {
	for p.location != "" {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", p.id, ctx.Err())
		case <-time.After(p.wait):
		}
		a, err := p.client.do(ctx, request{method: http.MethodGet, target: p.location})
		if err != nil {
			return err
		}
		if a.status != http.StatusAccepted {
			p.location = ""
		}
	}
	return nil
}

func retryAfter(h http.Header, otherwise time.Duration) time.Duration {
	n, err := strconv.Atoi(h.Get(arm.HeaderRetryAfter))
	if err != nil || n < 0 {
		return otherwise
	}
	return min(time.Duration(n)*time.Second, time.Minute)
}

// begin sends a request that starts an operation.
func begin[T any](ctx context.Context, c *Client, r request) (*Poller[T], error) {
	a, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	p := &Poller[T]{client: c, id: r.target, version: r.version, operation: a.header.Get(arm.HeaderAsyncOperation),
		wait: retryAfter(a.header, time.Second), gone: r.method == http.MethodDelete}
	if p.operation == "" && a.status == http.StatusAccepted {
		p.location = a.header.Get("Location")
	}
	return p, decode(a, &p.first)
}

// Put creates or replaces the resource at id.
func Put[T any](ctx context.Context, c *Client, id, version string, body any) (*Poller[T], error) {
	return begin[T](ctx, c, request{method: http.MethodPut, target: id, version: version, body: body})
}

// Patch changes the resource at id.
func Patch[T any](ctx context.Context, c *Client, id, version string, body any) (*Poller[T], error) {
	return begin[T](ctx, c, request{method: http.MethodPatch, target: id, version: version, body: body})
}

// Reconcile asks the cluster to look at the source of the configuration at id at
// once. The operation ends when it has.
func Reconcile[T any](ctx context.Context, c *Client, id, version string) (*Poller[T], error) {
	p, err := begin[T](ctx, c, request{method: http.MethodPost, target: id + "/reconcile", version: version})
	if p != nil {
		p.id = id
	}
	return p, err
}

// Delete removes the resource at id. With force only the hub's record goes,
// where there is a difference.
func Delete(ctx context.Context, c *Client, id, version string, force bool) (*Poller[struct{}], error) {
	r := request{method: http.MethodDelete, target: id, version: version}
	if force {
		r.query = url.Values{"forceDelete": {"true"}}
	}
	return begin[struct{}](ctx, c, r)
}

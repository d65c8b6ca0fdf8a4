package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"headwater.dev/api/arm"
)

// The api-versions that this client speaks.
const (
	VersionConfiguration = "2025-04-01"
	// VersionPreview has Headwater's own properties too, such as the suspend of
	// one kustomization.
	VersionPreview = "2026-07-01-preview"
	// VersionCatalogue and VersionSourceControl are those that az sends.
	VersionCatalogue     = "2023-05-01-preview"
	VersionSourceControl = "2022-03-01"
	VersionCluster       = "2024-01-01"
	VersionCore          = "2022-09-01"
)

const (
	// tries bounds how often a request is sent when the hub is away for a moment.
	tries = 8
	// maxWait bounds the wait between two tries.
	maxWait = 3 * time.Second
	// maxAnswer bounds the body of an answer.
	maxAnswer = 64 << 20
)

// Error is an answer that is not a success.
type Error struct {
	// Detail is what the hub said.
	Detail arm.Error
	// Status is the HTTP status.
	Status int
	// RequestID finds the request in the hub's log.
	RequestID string
}

// Error is the message with its details.
func (e *Error) Error() string { return e.Detail.Error() }

// Unwrap gives the ARM error.
func (e *Error) Unwrap() error { return &e.Detail }

// IsNotFound reports whether err says that something does not exist.
func IsNotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}

// answer is what the hub said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// request is one call to the API; target is an id or path with an api-version,
// or an absolute URL of the hub.
type request struct {
	method  string
	target  string
	version string
	query   url.Values
	body    any
}

// do sends a request, and sends it again while the hub is away for a moment,
// when its token has ended, or when a provider has to be registered first.
func (c *Client) do(ctx context.Context, r request) (answer, error) {
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return answer{}, fmt.Errorf("encode request: %w", err)
		}
	}
	target, err := c.resolve(r)
	if err != nil {
		return answer{}, err
	}
	registered, renewed := false, false
	for try := 1; ; try++ {
		a, err := c.once(ctx, r.method, target, body)
		var e *Error
		switch {
		case err == nil:
			return a, nil
		case errors.As(err, &e) && e.Detail.Code == arm.CodeNotRegistered && !registered:
			registered = true
			if err := c.register(ctx, e.Detail.Message, r.target); err != nil {
				return a, err
			}
			continue
		case errors.As(err, &e) && e.Status == http.StatusUnauthorized && !renewed:
			renewed = true
			continue
		}
		if try == tries || !passing(r.method, err) {
			return a, err
		}
		select {
		case <-ctx.Done():
			return a, errors.Join(ctx.Err(), err)
		case <-time.After(min(retryAfter(a.header, time.Duration(try)*250*time.Millisecond), maxWait)):
		}
	}
}

// passing reports whether an error is likely gone in a moment and the request
// can be sent again: every request that was not received, and reads.
func passing(method string, err error) bool {
	var e *Error
	if errors.As(err, &e) {
		return e.Status == http.StatusServiceUnavailable || e.Status == http.StatusTooManyRequests
	}
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return true
	}
	var transport *url.Error
	return errors.As(err, &transport) && method == http.MethodGet && !errors.Is(err, context.Canceled) && !certificate(err)
}

// certificate reports whether the hub's certificate was the trouble.
func certificate(err error) bool {
	return strings.Contains(err.Error(), "x509:") || strings.Contains(err.Error(), "tls:")
}

func (c *Client) resolve(r request) (string, error) {
	if r.version == "" && strings.HasPrefix(r.target, "/") { // a path with its own query
		r.target = c.config.Hub + r.target
	}
	if strings.Contains(r.target, "://") {
		// Only the hub gets the token, whatever an answer says.
		u, err := url.Parse(r.target)
		if err != nil || u.Scheme+"://"+u.Host != c.config.Hub {
			return "", fmt.Errorf("%s is not a URL of the hub %s", r.target, c.config.Hub)
		}
		return r.target, nil
	}
	q := url.Values{}
	for k, v := range r.query {
		q[k] = v
	}
	q.Set("api-version", r.version)
	u := url.URL{Path: r.target, RawQuery: q.Encode()}
	return c.config.Hub + u.String(), nil
}

func (c *Client) once(ctx context.Context, method, target string, body []byte) (answer, error) {
	token, err := c.bearer(ctx)
	if err != nil {
		return answer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return answer{}, &url.Error{Op: method, URL: target, Err: err}
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: raw}
	if resp.StatusCode < 400 {
		return a, nil
	}
	if resp.StatusCode == http.StatusUnauthorized {
		c.forget(token)
	}
	e := &Error{Status: resp.StatusCode, RequestID: resp.Header.Get(arm.HeaderRequestID)}
	var wrapped arm.ErrorBody
	if err := json.Unmarshal(raw, &wrapped); err == nil && wrapped.Error.Code != "" {
		e.Detail = wrapped.Error
		return a, e
	}
	e.Detail.Code, e.Detail.Message = strconv.Itoa(resp.StatusCode), http.StatusText(resp.StatusCode)
	return a, e
}

// register registers the provider of a path in its subscription.
func (c *Client) register(ctx context.Context, message, target string) error {
	id, err := arm.ParseID(target)
	namespace := id.Provider()
	if err != nil || namespace == "" { // a collection: the namespace is the last one named
		parts := strings.Split(target, "/")
		for i, p := range parts {
			if strings.EqualFold(p, "providers") && i+1 < len(parts) {
				namespace = parts[i+1]
			}
		}
	}
	if namespace == "" {
		return errors.New(message)
	}
	path := "/subscriptions/" + c.config.SubscriptionID + "/providers/" + namespace + "/register"
	target, err = c.resolve(request{target: path, version: VersionCore})
	if err != nil {
		return err
	}
	_, err = c.once(ctx, http.MethodPost, target, nil)
	return err
}

func decode(a answer, into any) error {
	if into == nil || len(a.body) == 0 {
		return nil
	}
	if err := json.Unmarshal(a.body, into); err != nil {
		return fmt.Errorf("read the hub's answer: %w", err)
	}
	return nil
}

// Send sends any request: target is a path with its api-version as query, or a
// URL of the hub; body is JSON or empty. It returns the body of the answer.
func (c *Client) Send(ctx context.Context, method, target string, body []byte) ([]byte, error) {
	r := request{method: method, target: target}
	if !strings.HasPrefix(target, "/") && !strings.Contains(target, "://") {
		r.target = "/" + target
	}
	if len(body) > 0 {
		r.body = json.RawMessage(body)
	}
	a, err := c.do(ctx, r)
	return a.body, err
}

// Get reads the resource at an id or path.
func Get[T any](ctx context.Context, c *Client, id, version string) (T, error) {
	var out T
	a, err := c.do(ctx, request{method: http.MethodGet, target: id, version: version})
	if err != nil {
		return out, err
	}
	return out, decode(a, &out)
}

// List reads all pages of a collection.
func List[T any](ctx context.Context, c *Client, path, version string) ([]T, error) {
	out := []T{}
	for target := path; target != ""; {
		a, err := c.do(ctx, request{method: http.MethodGet, target: target, version: version})
		if err != nil {
			return nil, err
		}
		var page arm.Page[T]
		if err := decode(a, &page); err != nil {
			return nil, err
		}
		out, target = append(out, page.Value...), page.NextLink
	}
	return out, nil
}

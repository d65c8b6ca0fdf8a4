package front

import (
	"io"
	"net/http"
	"strings"
	"sync"
)

// Count is what happened to the requests of one kind.
type Count struct {
	// Requests is the number of requests that were answered or given up.
	Requests int
	// NotModified, Refused and Failed are those answered 304, 401 or 403, and 5xx.
	NotModified, Refused, Failed int
	// Received and Sent are bytes of bodies, headers not included.
	Received, Sent int64
}

func (c *Count) add(o Count) {
	c.Requests += o.Requests
	c.NotModified += o.NotModified
	c.Refused += o.Refused
	c.Failed += o.Failed
	c.Received += o.Received
	c.Sent += o.Sent
}

// Counters adds up requests by method and path. The zero value has seen nothing.
type Counters struct {
	mu sync.Mutex
	by map[[2]string]Count
}

// Requests sums the requests of a method (empty: all) whose path contains a text (empty: all).
func (c *Counters) Requests(method, contains string) Count {
	c.mu.Lock()
	defer c.mu.Unlock()
	var sum Count
	for k, n := range c.by {
		if (method == "" || method == k[0]) && strings.Contains(k[1], contains) {
			sum.add(n)
		}
	}
	return sum
}

func (c *Counters) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := &countingBody{ReadCloser: r.Body}
		r.Body = body
		out := &countingWriter{ResponseWriter: w, status: http.StatusOK}
		defer func() {
			n := Count{Requests: 1, Received: body.n, Sent: out.n}
			switch {
			case out.status == http.StatusNotModified:
				n.NotModified = 1
			case out.status == http.StatusUnauthorized || out.status == http.StatusForbidden:
				n.Refused = 1
			case out.status >= 500:
				n.Failed = 1
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.by == nil {
				c.by = map[[2]string]Count{}
			}
			k := [2]string{r.Method, r.URL.Path}
			sum := c.by[k]
			sum.add(n)
			c.by[k] = sum
		}()
		next.ServeHTTP(out, r)
	})
}

type countingBody struct {
	io.ReadCloser
	n int64
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	return n, err
}

type countingWriter struct {
	http.ResponseWriter
	status int
	n      int64
}

func (w *countingWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.n += int64(n)
	return n, err
}

// Unwrap gives http.ResponseController the connection's own writer.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

package rest

import (
	"log/slog"
	"net/http"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"headwater.dev/api/arm"
)

const (
	// maxBody bounds what a client may send, in bytes.
	maxBody = 1 << 20
	// readPatience and writePatience bound how long a client may take to send a
	// body and to take its answer.
	readPatience, writePatience = 30 * time.Second, 2 * time.Minute
)

var traceID = regexp.MustCompile(`^[-A-Za-z0-9_.{}:|]{1,128}$`)

// trace gives every request an id, keeps the client's correlation id, and sets
// the headers that every answer carries. An id that could break a log line is
// replaced.
func trace(newID func() string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		id := newID()
		h.Set(arm.HeaderRequestID, id)
		correlation := r.Header.Get(arm.HeaderCorrelationID)
		if !traceID.MatchString(correlation) {
			correlation = id
		}
		h.Set(arm.HeaderCorrelationID, correlation)
		client := r.Header.Get(arm.HeaderClientRequestID)
		if strings.EqualFold(r.Header.Get(arm.HeaderReturnClientID), "true") && traceID.MatchString(client) {
			h.Set(arm.HeaderClientRequestID, client)
		}
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
		next.ServeHTTP(w, r)
	})
}

// meters are the door's metrics.
type meters struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func meter(reg prometheus.Registerer) (meters, error) {
	m := meters{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "headwater_rest_requests_total",
			Help: "Requests at the users' door by method and status code."}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "headwater_rest_request_duration_seconds",
			Help: "Duration of requests at the users' door.", Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 10)}, []string{"method"}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds} {
		if err := reg.Register(c); err != nil {
			return m, err
		}
	}
	return m, nil
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets deadlines be set through the wrapper.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// observe logs and counts requests: path and status, never bodies, queries or
// headers.
func (s *Server) observe(m meters, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sw, start := &statusWriter{ResponseWriter: w}, time.Now()
		next.ServeHTTP(sw, r)
		method := r.Method
		switch method {
		case "GET", "HEAD", "PUT", "PATCH", "POST", "DELETE":
		default:
			method = "OTHER"
		}
		took := time.Since(start)
		m.requests.WithLabelValues(method, strconv.Itoa(sw.status)).Inc()
		m.seconds.WithLabelValues(method).Observe(took.Seconds())
		s.log.LogAttrs(r.Context(), slog.LevelInfo, "request", slog.String("method", method), slog.String("path", r.URL.Path),
			slog.Int("status", sw.status), slog.Duration("took", took), slog.String("requestId", w.Header().Get(arm.HeaderRequestID)),
			slog.String("correlationId", w.Header().Get(arm.HeaderCorrelationID)))
	})
}

// recovered turns a panic into a 500 and a log line with the stack.
func recovered(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				log.Error("panic while answering", "method", r.Method, "panic", p, "stack", string(debug.Stack()))
				write(w, arm.Errorf(arm.CodeInternal, "The hub could not answer; the request id %s finds the reason in its log.",
					w.Header().Get(arm.HeaderRequestID)))
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// limit bounds the body of a request, and the time that it may take.
func limit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.SetWriteDeadline(time.Now().Add(writePatience)) // a connection without deadlines goes without
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r)
		_ = control.SetWriteDeadline(time.Time{}) // the connection serves others later
	})
}

// fold brings the literals of a path to lower case, because ids are compared
// without regard to case, and leaves the names as they are, because they are
// echoed. Repeated slashes and one at the end do not count. A path that could
// be read in two ways (encoded slashes, dots) is refused.
func fold(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var segments []string
		for _, s := range strings.Split(r.URL.Path, "/") {
			if s == "" {
				continue
			}
			if err := arm.CheckSegment(s); err != nil {
				write(w, arm.Errorf(arm.CodeInvalidID, "The path is not a resource id: %v.", err))
				return
			}
			segments = append(segments, s)
		}
		if strings.Contains(strings.ToLower(r.URL.RawPath), "%2f") {
			write(w, arm.Errorf(arm.CodeInvalidID, "The path is not a resource id: a name cannot contain an encoded slash."))
			return
		}
		literal := true
		for i := 0; i < len(segments); i++ {
			if !literal {
				literal = true
				continue
			}
			segments[i] = arm.Fold(segments[i])
			literal = false
			switch {
			case segments[i] == "providers": // a namespace and a type follow
				for j := i + 1; j <= i+2 && j < len(segments); j++ {
					segments[j] = arm.Fold(segments[j])
				}
				i += 2
			case segments[i] == "metadata":
				literal = true
			}
		}
		next.ServeHTTP(w, withPath(r, "/"+strings.Join(segments, "/")))
	})
}

func withPath(r *http.Request, path string) *http.Request {
	out := r.Clone(r.Context())
	out.Body = r.Body
	out.URL.Path, out.URL.RawPath = path, ""
	return out
}

// Package front is the front door that the development servers share: an HTTP listener with an address that outlives
// restarts, optional TLS under a certificate authority of its own, faults on demand, and counters that tests and
// benchmarks read. What is behind the door (Git, OCI, Helm) is each server's own business.
package front

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Config says where a server listens and how it presents itself.
type Config struct {
	// Addr is the listen address, "127.0.0.1:0" when empty.
	Addr string
	// Advertise is the host name or address used in URLs that the server hands out; the listen address when empty.
	Advertise string
	// Authority signs the server's certificate; nil means plain HTTP.
	Authority *Authority
	// Hosts are further names and addresses that the certificate is valid for.
	Hosts []string
}

// Server is a running listener.
type Server struct {
	*Faults
	*Counters

	addr      *net.TCPAddr
	advertise string
	scheme    string
	http      *http.Server
	cancel    context.CancelFunc
	done      chan struct{}
}

// Listen opens the listener and serves the handler behind the counters and the faults until Close.
func Listen(cfg Config, handler http.Handler) (*Server, error) {
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", cfg.Addr, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		Faults:    &Faults{},
		Counters:  &Counters{},
		addr:      l.Addr().(*net.TCPAddr),
		advertise: cfg.Advertise,
		scheme:    "http",
		cancel:    cancel,
		done:      make(chan struct{}),
	}
	if s.advertise == "" {
		s.advertise = s.addr.IP.String()
	}
	if cfg.Authority != nil {
		cert, err := cfg.Authority.Issue(append([]string{"localhost", "127.0.0.1", s.addr.IP.String(), s.advertise}, cfg.Hosts...)...)
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
		s.scheme = "https"
	}
	s.http = &http.Server{
		Handler:           s.Counters.count(s.Faults.wrap(handler)),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	go func() {
		defer close(s.done)
		_ = s.http.Serve(l)
	}()
	return s, nil
}

// URL is the base address for clients, without a trailing slash.
func (s *Server) URL() string { return s.URLFor(s.advertise) }

// URLFor is URL as seen by clients that reach the server under another host name or address.
func (s *Server) URLFor(host string) string {
	u := url.URL{Scheme: s.scheme, Host: net.JoinHostPort(host, strconv.Itoa(s.addr.Port))}
	return u.String()
}

// Host is the advertised host and port.
func (s *Server) Host() string { return net.JoinHostPort(s.advertise, strconv.Itoa(s.addr.Port)) }

// Addr is the address that the server listens on.
func (s *Server) Addr() string { return s.addr.String() }

// Close ends every connection, hanging ones too, and waits until the listener is gone.
func (s *Server) Close() error {
	s.cancel()
	err := s.http.Close()
	<-s.done
	return err
}

// Basic lets only requests with one of the users' passwords (HTTP basic authentication) through.
// No users means no authentication.
func Basic(realm string, users map[string]string, next http.Handler) http.Handler {
	if len(users) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, ok := r.BasicAuth()
		want, known := users[user]
		if !ok || !known || subtle.ConstantTimeCompare([]byte(password), []byte(want)) != 1 {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf("Basic realm=%q", realm))
			http.Error(w, "wrong or missing user name and password", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

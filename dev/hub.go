package dev

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"headwater.dev/dev/child"
)

const (
	hubTimeout = time.Minute
	// hubGrace is how long the hub may take to finish what it is doing.
	hubGrace = 5 * time.Second
)

// Hub is the hub's process. It can be killed and started again; its address and
// its data stay.
type Hub struct {
	// URL is its address, https://host:port.
	URL string
	// Data is its data folder.
	Data string

	spec child.Spec

	mu      sync.Mutex
	process *child.Child
}

// Admin is the service principal that the hub makes at its first start.
type Admin struct {
	TenantID       string `json:"tenantId"`
	ClientID       string `json:"clientId"`
	ClientSecret   string `json:"clientSecret"`
	SubscriptionID string `json:"subscriptionId"`
}

// newHub describes the hub's process; Start starts it.
func newHub(o Options, port int) *Hub {
	h := &Hub{
		URL:  "https://" + net.JoinHostPort(o.advertised(), strconv.Itoa(port)),
		Data: o.path("hub"),
	}
	h.spec = child.Spec{
		Name: "hub", Path: filepath.Join(o.Bin, "hub"), Log: o.path("logs", "hub.log"),
		Args: []string{
			"serve", "--data-dir", h.Data, "--listen", net.JoinHostPort(o.Listen, strconv.Itoa(port)), "--external-url", h.URL,
			"--import-source-control-configurations", // so that "headwater migrate" can be tried
		},
	}
	return h
}

// CA returns the path of the certificate that clients have to trust.
func (h *Hub) CA() string { return filepath.Join(h.Data, "ca.crt") }

// Log returns the path of the hub's log.
func (h *Hub) Log() string { return h.spec.Log }

// Start starts the hub and returns when it answers. A running hub stays as it is.
func (h *Hub) Start(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process != nil && h.process.Exited() == nil {
		return nil
	}
	if err := os.MkdirAll(h.Data, 0o700); err != nil {
		return fmt.Errorf("create the hub's data folder: %w", err)
	}
	process, err := child.Start(h.spec)
	if err != nil {
		return err
	}
	h.process = process
	return process.Await(ctx, hubTimeout, h.answers)
}

// Kill ends the hub as a crash would.
func (h *Hub) Kill() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process == nil {
		return nil
	}
	if err := h.process.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-h.process.Done()
	return nil
}

// Stop asks the hub to end and returns when it has.
func (h *Hub) Stop() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process == nil {
		return nil
	}
	return h.process.Stop(hubGrace)
}

// Err returns why the hub ended, or nil while it runs.
func (h *Hub) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process == nil {
		return nil
	}
	return h.process.Exited()
}

// PID returns the id of the hub's process; 0 when it was not started.
func (h *Hub) PID() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process == nil {
		return 0
	}
	return h.process.PID()
}

// Client returns an HTTP client that trusts the hub.
func (h *Hub) Client() (*http.Client, error) {
	pem, err := os.ReadFile(h.CA())
	if err != nil {
		return nil, fmt.Errorf("read the hub's certificate authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", h.CA())
	}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	}}, nil
}

// answers returns nil when the hub serves its users.
func (h *Hub) answers(ctx context.Context) error {
	client, err := h.Client()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL+"/metadata/endpoints?api-version=2022-09-01", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET /metadata/endpoints: %s", response.Status)
	}
	_, err = h.Admin()
	return err
}

// Admin reads the first service principal's credentials.
func (h *Hub) Admin() (Admin, error) {
	var a Admin
	content, err := os.ReadFile(filepath.Join(h.Data, "admin.json"))
	if err != nil {
		return a, fmt.Errorf("read the hub's first credentials: %w", err)
	}
	if err := json.Unmarshal(content, &a); err != nil {
		return a, fmt.Errorf("parse the hub's first credentials: %w", err)
	}
	return a, nil
}

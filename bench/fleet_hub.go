package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"headwater.dev/client"
)

// fleetHub is a hub with embedded etcd in a process of its own.
type fleetHub struct {
	program, dir, listen, url string
	// insight is where it serves its metrics and profiles.
	insight string
	process *exec.Cmd
}

// start starts the hub, at the same address every time, and returns when it is ready.
func (h *fleetHub) start(ctx context.Context) error {
	if h.listen == "" {
		var err error
		if h.listen, err = freeAddress(); err != nil {
			return err
		}
		if h.insight, err = freeAddress(); err != nil {
			return err
		}
		h.url = "https://" + h.listen
	}
	log, err := os.OpenFile(filepath.Join(h.dir, "hub.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	h.process = exec.Command(h.program, "serve", "--data-dir", filepath.Join(h.dir, "data"), "--listen", h.listen, "--log-level", "error",
		"--metrics-listen", h.insight, "--profiling", "--limit-reads", "0", "--limit-writes", "0", "--limit-address", "0")
	h.process.Stdout, h.process.Stderr = log, log
	// The hub must not outlive the measurement, however that ends.
	h.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := h.process.Start(); err != nil {
		return fmt.Errorf("start the hub: %w (make build makes the programs)", err)
	}
	return h.ready(ctx)
}

// freeAddress is one that nobody listens at.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("choose a port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// profile keeps what the hub tells of itself at a path, a profile or its metrics, in
// a folder; it does nothing without a folder.
func (h *fleetHub) profile(ctx context.Context, dir, name, path string) error {
	if dir == "" {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.insight+path, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("take the hub's profile %s: %w", path, err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("it answers %s", res.Status)
	}
	if err != nil {
		return fmt.Errorf("take the hub's profile %s: %w", path, err)
	}
	return os.WriteFile(filepath.Join(dir, name), raw, 0o600)
}

func (h *fleetHub) ready(ctx context.Context) error {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // only whether it answers
	defer transport.CloseIdleConnections()
	probe := &http.Client{Transport: transport, Timeout: time.Second}
	for deadline := time.Now().Add(time.Minute); ; {
		res, err := probe.Get(h.url + "/readyz")
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("it answers %s", res.Status)
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(h.dir, "hub.log"))
			return fmt.Errorf("the hub did not become ready: %w; its log:\n%s", err, log)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// kill ends the hub without a warning.
func (h *fleetHub) kill() error {
	if h.process == nil {
		return nil
	}
	err := h.process.Process.Kill()
	_ = h.process.Wait() // it says that it was killed
	h.process = nil
	if errors.Is(err, os.ErrProcessDone) {
		return errors.New("the hub had ended by itself")
	}
	return err
}

func (h *fleetHub) authority() ([]byte, error) {
	ca, err := os.ReadFile(filepath.Join(h.dir, "data", "ca.crt"))
	if err == nil && !x509.NewCertPool().AppendCertsFromPEM(ca) {
		err = errors.New("it holds no certificate")
	}
	if err != nil {
		return nil, fmt.Errorf("read the hub's authority: %w", err)
	}
	return ca, nil
}

// client is the administrator.
func (h *fleetHub) client() (*client.Client, error) {
	ca, err := h.authority()
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(filepath.Join(h.dir, "data", "admin.json"))
	if err != nil {
		return nil, err
	}
	var admin struct{ TenantID, ClientID, ClientSecret, SubscriptionID string }
	if err := json.Unmarshal(raw, &admin); err != nil {
		return nil, fmt.Errorf("read the administrator: %w", err)
	}
	return client.New(client.Config{Hub: h.url, CA: ca, TenantID: admin.TenantID, SubscriptionID: admin.SubscriptionID,
		ClientID: admin.ClientID, ClientSecret: admin.ClientSecret})
}

// memory is what the hub holds in memory: everything that is resident, the mapped
// pages of the embedded etcd's database included, and how large that database is.
func (h *fleetHub) memory(what string) ([]figure, error) {
	peak, now, err := h.resident()
	if err != nil {
		return nil, err
	}
	mapped, err := number(fmt.Sprintf("/proc/%d/status", h.process.Process.Pid), `(?m)^RssFile:\s*(\d+) kB$`)
	if err != nil {
		return nil, err
	}
	db, err := os.Stat(filepath.Join(h.dir, "data", "etcd", "member", "snap", "db"))
	if err != nil {
		return nil, fmt.Errorf("look at the hub's database: %w", err)
	}
	return []figure{{what: "memory " + what, value: now, most: gib, unit: "MiB"}, {what: "its peak so far", value: peak, unit: "MiB"},
		{what: "of it mapped from files", value: float64(mapped) / 1024, unit: "MiB"}, {what: "database", value: float64(db.Size()) / (1 << 20), unit: "MiB"}}, nil
}

// resident is the most memory the hub has held and what it holds, in MiB.
func (h *fleetHub) resident() (peak, now float64, err error) {
	file := fmt.Sprintf("/proc/%d/status", h.process.Process.Pid)
	high, err := number(file, `(?m)^VmHWM:\s*(\d+) kB$`)
	if err != nil {
		return 0, 0, err
	}
	rss, err := number(file, `(?m)^VmRSS:\s*(\d+) kB$`)
	return float64(high) / 1024, float64(rss) / 1024, err
}

// state is what the hub can say when something does not come.
func (h *fleetHub) state() string {
	log, _ := os.ReadFile(filepath.Join(h.dir, "hub.log"))
	log = log[max(0, len(log)-4096):]
	peak, now, err := h.resident()
	if err != nil {
		return fmt.Sprintf("the hub has gone (%v); the end of its log:\n%s", err, log)
	}
	return fmt.Sprintf("the hub holds %.0f MiB (peak %.0f MiB); the end of its log:\n%s", now, peak, log)
}

// Package blobstore starts real object storages on the loopback interface for
// tests of Buckets: a gateway with the API of S3 that checks signatures, a
// server with the API of Google Cloud Storage that checks none, and Azurite,
// the emulator of Azure Blob Storage, which checks signatures of accounts and
// SAS keys, and the claims (not the signatures) of tokens.
package blobstore

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Server is a running storage.
type Server struct {
	// Addr is its host and port.
	Addr string
	cmd  *exec.Cmd
	out  *output
	done chan struct{}
}

// output keeps what a server prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf.Len() > 64<<10 {
		return len(p), nil
	}
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Close ends the server.
func (s *Server) Close() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(3 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
}

// S3 starts a gateway over the empty folder dir with one account.
func S3(ctx context.Context, dir, access, secret string) (*Server, error) {
	program, err := gateway(ctx)
	if err != nil {
		return nil, err
	}
	return start(ctx, func(addr string) *exec.Cmd {
		cmd := exec.Command(program, "s3", "-dir", dir, "-listen", addr)
		cmd.Env = append(os.Environ(), "S3_ACCESS_KEY="+access, "S3_SECRET_KEY="+secret)
		return cmd
	})
}

// GCS starts a server with the API of Google Cloud Storage over the empty
// folder dir.
func GCS(ctx context.Context, dir string) (*Server, error) {
	program, err := gateway(ctx)
	if err != nil {
		return nil, err
	}
	return start(ctx, func(addr string) *exec.Cmd { return exec.Command(program, "gcs", "-dir", dir, "-listen", addr) })
}

// Azure starts Azurite over the empty folder dir with one account, whose key is
// base64. With certificate and key files it serves https and accepts tokens.
func Azure(ctx context.Context, dir, account, key string, tls ...string) (*Server, error) {
	program, err := azurite(ctx)
	if err != nil {
		return nil, err
	}
	return start(ctx, func(addr string) *exec.Cmd {
		host, port, _ := net.SplitHostPort(addr)
		args := []string{program, "--blobHost", host, "--blobPort", port, "--location", dir, "--silent", "--disableTelemetry", "--skipApiVersionCheck"}
		if len(tls) == 2 {
			args = append(args, "--cert", tls[0], "--key", tls[1], "--oauth", "basic")
		}
		cmd := exec.Command("node", args...)
		cmd.Env = append(os.Environ(), "AZURITE_ACCOUNTS="+account+":"+key)
		return cmd
	})
}

// start runs a server on a free port and waits until it accepts connections.
func start(ctx context.Context, command func(addr string) *exec.Cmd) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: l.Addr().String(), out: &output{}, done: make(chan struct{})}
	l.Close()
	s.cmd = command(s.Addr)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start storage: %w", err)
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.done)
	}()
	for {
		if c, err := net.DialTimeout("tcp", s.Addr, time.Second); err == nil {
			c.Close()
			return s, nil
		}
		select {
		case <-s.done:
			return nil, fmt.Errorf("start storage: it ended: %s", s.out)
		case <-ctx.Done():
			s.Close()
			return nil, fmt.Errorf("start storage: %w: %s", ctx.Err(), s.out)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

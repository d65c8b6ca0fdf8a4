package k8s

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// reportEvery is the time between two lines of progress.
const reportEvery = 10 * time.Second

type buildRequest struct {
	source   string // folder of the module
	version  string // of Kubernetes, v1.2.3
	output   string
	progress io.Writer
}

// build compiles the module and moves the finished binary to its place, which
// therefore never holds a half-written file.
func build(ctx context.Context, r buildRequest) error {
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("build k8sdev: the go command is needed once (or set %s to a ready binary): %w", Override, err)
	}
	if err := os.MkdirAll(filepath.Dir(r.output), 0o755); err != nil {
		return fmt.Errorf("create cache folder: %w", err)
	}
	partial := fmt.Sprintf("%s.%d", r.output, os.Getpid())
	defer os.Remove(partial)

	cmd := exec.CommandContext(ctx, "go", "build", "-v", "-trimpath", "-ldflags", linkerFlags(r.version), "-o", partial, ".")
	cmd.Dir = r.source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	output, err := cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("build k8sdev: %w", err)
	}
	begin := time.Now()
	fmt.Fprintf(r.progress, "building Kubernetes %s from its Go modules, once (about ten minutes on two cores)\n", r.version)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("build k8sdev: %w", err)
	}
	complaints := follow(output, r.progress, begin)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("build k8sdev in %s: %w\n%s", r.source, errors.Join(err, ctx.Err()), complaints)
	}
	if err := os.Rename(partial, r.output); err != nil {
		return fmt.Errorf("keep k8sdev: %w", err)
	}
	fmt.Fprintf(r.progress, "built Kubernetes %s in %.0f s\n", r.version, time.Since(begin).Seconds())
	return nil
}

// linkerFlags gives every component the version that it announces; without
// them the API server calls itself v0.0.0.
func linkerFlags(version string) string {
	const pkg = "k8s.io/component-base/version."
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	return fmt.Sprintf("-s -w -X %sgitVersion=%s -X %sgitMajor=%s -X %sgitMinor=%s -X %sgitTreeState=clean",
		pkg, version, pkg, parts[0], pkg, parts[1], pkg)
}

// follow reads the compiler's output until it ends, reports how far it is,
// and returns the lines that are neither package names nor downloads.
func follow(output io.Reader, progress io.Writer, begin time.Time) string {
	var packages, downloads atomic.Int64
	done := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		ticker := time.NewTicker(reportEvery)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				fmt.Fprintf(progress, "  %4.0f s: %d modules downloaded, %d packages compiled\n",
					time.Since(begin).Seconds(), downloads.Load(), packages.Load())
			}
		}
	}()
	var complaints strings.Builder
	lines := bufio.NewScanner(output)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "go: downloading "):
			downloads.Add(1)
		case strings.ContainsAny(line, " :"):
			complaints.WriteString(line + "\n")
		default:
			packages.Add(1)
		}
	}
	_, _ = io.Copy(io.Discard, output) // a line beyond the buffer must not block the compiler
	close(done)
	<-finished
	return complaints.String()
}

// lock waits until this process holds the lock file, and returns the release.
func lock(ctx context.Context, path string, progress io.Writer) (func(), error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for waited := 0; ; waited++ {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			file.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if waited%50 == 0 {
			fmt.Fprintln(progress, "waiting for another process that builds Kubernetes")
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, fmt.Errorf("wait for lock %s: %w", path, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

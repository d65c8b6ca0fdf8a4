package kustomize

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// rlimitData bounds a process's private writable memory on Linux.
const rlimitData = 2

// headroom is left to a process that is to get no more memory.
const headroom = 8 << 20

var dataSize = regexp.MustCompile(`(?m)^VmData:\s*(\d+) kB$`)

// noMoreMemory limits this process to the memory that it has.
func noMoreMemory() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	found := dataSize.FindSubmatch(status)
	if found == nil {
		return errors.New("no VmData in /proc/self/status")
	}
	kib, err := strconv.ParseUint(string(found[1]), 10, 64)
	if err != nil {
		return err
	}
	limit := kib<<10 + headroom
	return syscall.Setrlimit(rlimitData, &syscall.Rlimit{Cur: limit, Max: limit})
}

// TestF07OutOfMemory: a process that reaches its limit in the middle of a build
// ends, and the next one does what it was about to; nothing is left over.
func TestF07OutOfMemory(t *testing.T) {
	w := newWorld(t, "admin")
	c := newChild(t, w)
	c.start("")
	w.kustomization("app", nil)
	w.readyIn(time.Minute, "app", w.publish("repo", map[string]string{"a.yaml": cm("a", "1"), "b.yaml": cm("b", "1")}))
	c.kill()

	// Much to read, of which nothing is applied.
	files := map[string]string{"a.yaml": cm("a", "2"), "c.yaml": cm("c", "2")}
	for i := range 20 {
		var many strings.Builder
		for n := range 100 {
			_, _ = fmt.Fprintf(&many, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: x%d-%d, annotations: {config.kubernetes.io/local-config: \"true\"}}\ndata: {k: %q}\n",
				i, n, strings.Repeat("much ", 2000))
		}
		files[fmt.Sprintf("x%d.yaml", i)] = many.String()
	}
	revision := w.publish("repo", files)
	c.start("build!memory")
	done := make(chan error, 1)
	go func() { done <- c.cmd.Wait() }()
	select {
	case err := <-done:
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 { // how Go's runtime ends
			t.Fatalf("the child ended with %v, not for want of memory", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the child lives, with no more memory")
	}
	w.holds("app", map[string]string{"a": "1", "b": "1"})
	c.start("")
	w.readyIn(time.Minute, "app", revision)
	w.holds("app", map[string]string{"a": "2", "c": "2"})
}

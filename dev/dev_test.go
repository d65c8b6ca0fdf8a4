package dev

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"headwater.dev/dev/k8s"
	"headwater.dev/dev/node"
	"headwater.dev/kernel/process"
)

// TestMain lets the test binary be the supervisor that Start starts.
func TestMain(m *testing.M) {
	node.Reexec()
	if len(os.Args) > 1 && os.Args[1] == "supervise" {
		if err := NewCommand("test").ExecuteContext(process.Context()); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// built returns the folder of the programs, or skips the test.
func built(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("brings up a whole system; run without -short")
	}
	root, err := k8s.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(root, "bin")
	for _, program := range []string{"hub", "headwater", "agent"} {
		if _, err := os.Stat(filepath.Join(bin, program)); err != nil {
			t.Skipf("bin/%s is missing; make test builds it", program)
		}
	}
	return bin
}

func TestUpThenDownLeavesNothing(t *testing.T) {
	bin := built(t)
	dir := filepath.Join(t.TempDir(), ".dev")
	args := []string{"--dir=" + dir, "--bin=" + bin}
	o := Options{Dir: dir, Bin: bin, Progress: t.Output()}
	t.Cleanup(func() { _ = Stop(context.Background(), dir, t.Output()) })
	if err := Start(t.Context(), o, args); err != nil {
		t.Fatal(err)
	}
	status, err := ReadStatus(dir)
	if err != nil || !status.Healthy() {
		t.Errorf("status %+v, error %v", status, err)
	}
	if err := Start(t.Context(), o, args); !errors.Is(err, ErrRunning) {
		t.Errorf("second start: %v, want ErrRunning", err)
	}

	inShell(t, dir, `kubectl -n headwater-system wait deployment headwater-agent --for=condition=Available --timeout=60s`)
	if log := inShell(t, dir, `kubectl -n headwater-system logs deployment/headwater-agent --tail=1`); log == "" || strings.Contains(log, "\n") {
		t.Errorf("kubectl logs: %q, want the last line of the agent's log", log)
	}
	port := inShell(t, dir, `kubectl get nodes -o jsonpath='{.items[0].status.daemonEndpoints.kubeletEndpoint.Port}'`)
	stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	if r, err := stranger.Get("https://127.0.0.1:" + port + "/containerLogs/headwater-system/headwater-agent-x/agent"); err == nil {
		r.Body.Close()
		t.Errorf("logs are shown to anybody: %s", r.Status)
	} else if !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("stranger: %v, want a refusal for lack of a certificate", err)
	}
	if listed := inShell(t, dir, `headwater connectedk8s show -g $RESOURCE_GROUP -n $CLUSTER -o json`); !strings.Contains(listed, `"Connected"`) {
		t.Errorf("the cluster is not connected: %s", listed)
	}
	for _, name := range []string{
		"KUBECONFIG", "HEADWATER_HUB", "HEADWATER_CA", "AZURE_SUBSCRIPTION_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET",
		"RESOURCE_GROUP", "CLUSTER", "GIT_URL", "GIT_SSH_URL", "GIT_USER", "GIT_PASSWORD", "OCI_REGISTRY", "HELM_REPOSITORY",
	} {
		if inShell(t, dir, "echo $"+name) == "" {
			t.Errorf("%s is not set", name)
		}
	}

	pids := descendants(t, dir)
	if len(pids) < 7 {
		t.Errorf("%d processes, want supervisor, hub, agent and five of the cluster", len(pids))
	}
	if err := Stop(t.Context(), dir, t.Output()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state is left: %v", err)
	}
	for _, pid := range pids {
		if err := gone(t, pid); err != nil {
			t.Error(err)
		}
	}
}

// inShell runs a line as a user would who has sourced the environment.
func inShell(t *testing.T, dir, line string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", ". "+quote(filepath.Join(dir, "env"))+" && "+line)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", line, err, out)
	}
	return strings.TrimSpace(string(out))
}

// descendants returns the supervisor's process and its children.
func descendants(t *testing.T, dir string) []int {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	supervisor, err := strconv.Atoi(string(content))
	if err != nil {
		t.Fatal(err)
	}
	pids := []int{supervisor}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", supervisor))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		children, err := os.ReadFile(file)
		if err != nil {
			continue // a thread that ended meanwhile
		}
		for _, field := range strings.Fields(string(children)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// gone waits for the end of a process; that of a child that nobody waited for counts.
func gone(t *testing.T, pid int) error {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil && syscall.Kill(pid, 0) != nil || strings.Contains(string(stat), ") Z ") {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("process %d is left: %s", pid, stat)
		}
		select {
		case <-t.Context().Done():
			return t.Context().Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestUpForProgramsAndDown(t *testing.T) {
	bin := built(t)
	dir := filepath.Join(t.TempDir(), ".dev")
	s, err := Up(t.Context(), Options{Dir: dir, Bin: bin, Progress: t.Output(), Node: NoNode})
	if err != nil {
		t.Fatal(err)
	}
	down := func() error { return s.Down(context.Background()) }
	t.Cleanup(func() {
		if down != nil {
			_ = down()
		}
	})
	if _, err := Up(t.Context(), Options{Dir: dir, Bin: bin}); !errors.Is(err, ErrRunning) {
		t.Errorf("second system in the folder: %v, want ErrRunning", err)
	}
	if err := s.Hub.Kill(); err != nil {
		t.Fatal(err)
	}
	if s.Err() == nil || s.Status().Healthy() {
		t.Error("a dead hub goes unnoticed")
	}
	if err := s.Hub.Start(t.Context()); err != nil {
		t.Fatalf("hub does not come back: %v", err)
	}
	if err := s.Err(); err != nil {
		t.Errorf("hub is back, but: %v", err)
	}
	err, down = down(), nil
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state is left: %v", err)
	}
}

package dev

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStateFolderHasOneOwner(t *testing.T) {
	dir := filepath.Join(t.TempDir(), ".dev")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir); !errors.Is(err, ErrRunning) {
		t.Errorf("second owner: %v, want ErrRunning", err)
	}
	if err := stale(dir); !errors.Is(err, ErrRunning) {
		t.Errorf("start beside a running system: %v, want ErrRunning", err)
	}
	if err := Stop(t.Context(), dir, io.Discard); err == nil || !strings.Contains(err.Error(), "another program") {
		t.Errorf("stop of a test's system: %v, want a refusal", err)
	}
	unlock()
	if err := Stop(t.Context(), dir, io.Discard); err != nil {
		t.Errorf("stop without a system: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state is left: %v", err)
	}
}

func TestWhatADeadSupervisorLeftIsRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), ".dev")
	old := filepath.Join(dir, "clusters", "cluster-1", "etcd")
	if err := os.MkdirAll(old, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := stale(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("old data is left: %v", err)
	}
}

func TestStatusWithoutSystem(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadStatus(filepath.Join(dir, "missing")); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no folder: %v, want ErrNotRunning", err)
	}
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadStatus(dir); err == nil || !strings.Contains(err.Error(), "on its way up") {
		t.Errorf("before the first status: %v", err)
	}
	unlock()
	if _, err := ReadStatus(dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("owner is gone: %v, want ErrNotRunning", err)
	}
}

func TestStatusTellsWhatIsDown(t *testing.T) {
	cases := map[string]struct {
		why     string
		part    Part
		healthy bool
		line    string
	}{
		"up":        {"runs", Part{Name: "hub", Address: "https://h", PID: 1}, true, "hub   up     0         https://h"},
		"down":      {"ended and is not back", Part{Name: "hub", Address: "https://h", Problem: "exit status 1"}, false, "hub   down   0         https://h"},
		"restarted": {"runs again", Part{Name: "pod", Log: "/l", PID: 2, Restarts: 3, Problem: "exit status 1"}, true, "pod   restarted  3         /l"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := Status{Parts: []Part{c.part}}
			var out bytes.Buffer
			if err := s.Print(&out); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(out.String(), c.line) || strings.Contains(out.String(), "exit status") != (c.part.Problem != "") {
				t.Errorf("%s: printed\n%s", c.why, out.String())
			}
			if s.Healthy() != c.healthy {
				t.Errorf("%s: healthy = %v", c.why, s.Healthy())
			}
		})
	}
}

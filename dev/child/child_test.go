package child_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"headwater.dev/dev/child"
)

func start(t *testing.T, script string) *child.Child {
	t.Helper()
	c, err := child.Start(child.Spec{
		Name: "script", Path: "/bin/sh", Args: []string{"-c", script},
		Log: filepath.Join(t.TempDir(), "logs", "script.log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop(0) })
	return c
}

func TestStopEndsTheWholeGroup(t *testing.T) {
	c := start(t, `trap "" TERM; sleep 300 & echo $!; wait; sleep 300`)
	var grandchild int
	err := c.Await(t.Context(), 10*time.Second, func(context.Context) (err error) {
		grandchild, err = strconv.Atoi(c.Tail())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(10 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for alive(grandchild) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d survived its group", grandchild)
		}
		select {
		case <-t.Context().Done():
		case <-time.After(time.Millisecond):
		}
	}
	if err := c.Stop(0); err != nil {
		t.Errorf("stop of an ended process: %v", err)
	}
}

// alive reports whether the process runs; one that nobody waited for does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || !strings.Contains(string(stat), ") Z ")
}

func TestExitedQuotesTheLog(t *testing.T) {
	c := start(t, `echo the reason >&2; exit 3`)
	<-c.Done()
	err := c.Exited()
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "the reason") {
		t.Errorf("Exited() = %v, want the status and the reason", err)
	}
}

func TestAwaitGivesUp(t *testing.T) {
	never := errors.New("not yet")
	t.Run("when the process ends", func(t *testing.T) {
		c := start(t, `exit 1`)
		err := c.Await(t.Context(), time.Minute, func(context.Context) error { return never })
		if err == nil || !strings.Contains(err.Error(), "exit status 1") {
			t.Errorf("error %v, want the exit status", err)
		}
	})
	t.Run("after the timeout", func(t *testing.T) {
		c := start(t, `sleep 300`)
		err := c.Await(t.Context(), time.Millisecond, func(context.Context) error { return never })
		if !errors.Is(err, never) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want the last reason and the timeout", err)
		}
	})
}

func TestStartReportsMissingProgram(t *testing.T) {
	_, err := child.Start(child.Spec{Name: "ghost", Path: "/nonexistent", Log: filepath.Join(t.TempDir(), "log")})
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "ghost") {
		t.Errorf("error %v, want one that names the program's role and says that it is missing", err)
	}
}

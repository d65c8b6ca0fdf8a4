package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// statusEvery is the time between two looks at the system's parts.
	statusEvery = 2 * time.Second
	// downTimeout is how long the supervisor may take to stop everything.
	downTimeout = 2 * time.Minute
)

// ErrNotRunning says that there is no system in the state folder.
var ErrNotRunning = errors.New("no system is running; dev up starts one")

// Supervise brings the system up, keeps .dev/status.json, and takes the system
// down when the context is cancelled. It is what dev up leaves running.
func Supervise(ctx context.Context, o Options) error {
	s, err := Up(ctx, o)
	if err != nil {
		return err
	}
	err = s.watch(ctx)
	down, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
	defer cancel()
	return errors.Join(err, s.Down(down))
}

// watch writes the status whenever it changed, until the context is cancelled.
func (s *System) watch(ctx context.Context) error {
	var last Status
	for {
		if now := s.Status(); !reflect.DeepEqual(now, last) {
			if err := s.writeStatus(now); err != nil {
				return err
			}
			last = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(statusEvery):
		}
	}
}

func (s *System) writeStatus(status Status) error {
	content, err := json.MarshalIndent(status, "", "  ")
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	file := s.Options.path(statusFile)
	if err := os.WriteFile(file+".new", content, 0o600); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

// Start starts a supervisor in the background and returns when the system is
// up. What it says meanwhile goes to progress.
func Start(ctx context.Context, o Options, args []string) error {
	progress := o.Progress
	o, err := o.complete()
	if err != nil {
		return err
	}
	if err := stale(o.Dir); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	log, err := os.OpenFile(o.path("up.log"), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open log of supervisor: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(self, append([]string{"supervise"}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // outlives the terminal
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start supervisor: %w", err)
	}
	if err := os.WriteFile(o.path("pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		return errors.Join(fmt.Errorf("write pid file: %w", err), cmd.Process.Signal(syscall.SIGTERM))
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return follow(ctx, o, progress, ended)
}

// follow copies the supervisor's log until the system is up or the supervisor
// ends. When the context is cancelled the supervisor is told to give up.
func follow(ctx context.Context, o Options, progress io.Writer, ended <-chan error) error {
	log, err := os.Open(o.path("up.log"))
	if err != nil {
		return fmt.Errorf("read log of supervisor: %w", err)
	}
	defer log.Close()
	for {
		_, ready := os.Stat(o.path(statusFile))
		if _, err := io.Copy(progress, log); err != nil {
			return fmt.Errorf("read log of supervisor: %w", err)
		}
		if ready == nil {
			return nil
		}
		select {
		case err := <-ended:
			_, _ = io.Copy(progress, log) // the reason; it stays in the file too
			return fmt.Errorf("system did not come up (logs are in %s, dev down removes them): %w", o.Dir, err)
		case <-ctx.Done():
			return errors.Join(ctx.Err(), Stop(context.WithoutCancel(ctx), o.Dir, progress))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// stale removes what a dead supervisor left; a living one is an error.
func stale(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create state folder: %w", err)
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := cleanUp(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create state folder: %w", err)
	}
	return nil
}

// Stop takes down the system of a state folder, whoever runs it, and removes
// the folder. Without a system only the folder goes.
func Stop(ctx context.Context, dir string, progress io.Writer) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	unlock, err := lock(dir)
	if err == nil {
		defer unlock()
		return cleanUp(dir)
	}
	if !errors.Is(err, ErrRunning) {
		return err
	}
	content, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		return fmt.Errorf("the system in %s belongs to another program, end that one: %w", dir, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return fmt.Errorf("read pid file: %w", err)
	}
	fmt.Fprintln(progress, "stopping")
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop supervisor %d: %w", pid, err)
	}
	return awaitUnlocked(ctx, dir, pid)
}

// awaitUnlocked waits until the supervisor has let go of the state folder, and
// removes what is left of it.
func awaitUnlocked(ctx context.Context, dir string, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	for {
		if _, err := os.Stat(filepath.Join(dir, "lock")); errors.Is(err, os.ErrNotExist) && syscall.Kill(pid, 0) != nil {
			return cleanUp(dir)
		}
		if unlock, err := lockExisting(dir); err == nil {
			defer unlock()
			return cleanUp(dir)
		}
		select {
		case <-ctx.Done():
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill supervisor %d: %w", pid, err)
			}
			return errors.Join(fmt.Errorf("supervisor %d did not end in time and was killed: %w", pid, ctx.Err()), cleanUp(dir))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// lockExisting locks the state folder without creating it.
func lockExisting(dir string) (func(), error) {
	if _, err := os.Stat(filepath.Join(dir, "lock")); err != nil {
		return nil, err
	}
	return lock(dir)
}

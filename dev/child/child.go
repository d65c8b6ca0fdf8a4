// Package child runs the processes that a development system consists of.
// Each gets a process group of its own, a log file, and on Linux dies with the
// process that started it, however that ends.
package child

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// tailLength is how much of the log an error message quotes at most, in bytes.
const tailLength = 2000

// Spec says what to run.
type Spec struct {
	Name string   // for messages
	Path string   // the program
	Args []string // without the program's name
	Env  []string // KEY=VALUE; nil: this process's environment
	Dir  string   // working directory; empty: this process's
	Log  string   // file that stdout and stderr are appended to; its folder is made
}

// Child is a process that was started. Its methods may be called by several
// goroutines.
type Child struct {
	name string
	log  string
	pid  int
	done chan struct{}
	err  error // of Wait; valid when done is closed
}

// Start starts the process.
func Start(s Spec) (*Child, error) {
	if err := os.MkdirAll(filepath.Dir(s.Log), 0o755); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(s.Path, s.Args...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = s.Env, s.Dir, log, log
	cmd.SysProcAttr = attributes()

	c := &Child{name: s.Name, log: s.Log, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The kernel ties "dies with its parent" to the parent's thread, not
		// its process: this thread must live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			c.pid = cmd.Process.Pid
		}
		started <- err
		if err != nil {
			return
		}
		c.err = cmd.Wait()
		close(c.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	return c, nil
}

// Name returns the name that the process was started with.
func (c *Child) Name() string { return c.name }

// PID returns the process's id, which is also its process group's.
func (c *Child) PID() int { return c.pid }

// Log returns the path of the log file.
func (c *Child) Log() string { return c.log }

// Done is closed when the process has ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// Exited returns an error with the end of the log when the process has ended,
// and nil while it runs.
func (c *Child) Exited() error {
	select {
	case <-c.done:
		state := "exit status 0"
		if c.err != nil {
			state = c.err.Error()
		}
		return fmt.Errorf("%s ended: %s; last lines of %s:\n%s", c.name, state, c.log, c.Tail())
	default:
		return nil
	}
}

// Signal sends the signal to the whole process group. A process that has
// ended is no error.
func (c *Child) Signal(signal syscall.Signal) error {
	if err := syscall.Kill(-c.pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %s: %w", c.name, err)
	}
	return nil
}

// Stop ends the process group: SIGTERM, and SIGKILL when it is still there
// after the grace period. It returns when the process has ended.
func (c *Child) Stop(grace time.Duration) error {
	if err := c.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-c.done:
	case <-time.After(grace):
	}
	if err := c.Signal(syscall.SIGKILL); err != nil { // also those of the group that the first signal did not end
		return err
	}
	<-c.done
	return nil
}

// Tail returns the last lines of the log.
func (c *Child) Tail() string {
	file, err := os.Open(c.log)
	if err != nil {
		return ""
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > tailLength {
		_, _ = file.Seek(-tailLength, io.SeekEnd) // else the whole file is quoted
	}
	var buffer bytes.Buffer
	_, _ = buffer.ReadFrom(file)
	text := buffer.String()
	if len(text) >= tailLength {
		if _, rest, ok := strings.Cut(text, "\n"); ok {
			text = rest
		}
	}
	return strings.TrimRight(text, "\n")
}

// Await polls until ready returns nil. It gives up when the process ends, when
// the context does, or after the timeout, with the last reason.
func (c *Child) Await(ctx context.Context, timeout time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-c.done:
			return c.Exited()
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready (log: %s): %w", c.name, c.log, errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

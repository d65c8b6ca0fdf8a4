package gitserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

var namePattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}){0,3}$`)

// ErrNotFound is returned for a repository that does not exist.
var ErrNotFound = errors.New("git repository not found")

const privateMark = "headwater-private"

// checkName accepts names that are safe as a path below the repositories' folder and cannot lead into a repository.
func checkName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("repository name %q: use up to four parts of letters, digits, '.', '_' and '-', separated by '/'", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasSuffix(part, ".git") || strings.HasSuffix(part, ".lock") {
			return fmt.Errorf("repository name %q: no part may end in .git or .lock", name)
		}
	}
	return nil
}

func (s *Server) repositoriesDir() string { return filepath.Join(s.cfg.Dir, "repositories") }

// Dir is the path of a repository that exists; otherwise the error wraps ErrNotFound.
func (s *Server) existing(name string) (string, error) {
	if err := checkName(name); err != nil {
		return "", err
	}
	dir := filepath.Join(s.repositoriesDir(), name+".git")
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%q: %w", name, ErrNotFound)
		}
		return "", fmt.Errorf("open git repository %q: %w", name, err)
	}
	return dir, nil
}

// CreateRepository makes an empty bare repository whose default branch is main. One that exists is kept, and only its
// being private or public is changed.
func (s *Server) CreateRepository(name string, private bool) error {
	if err := checkName(name); err != nil {
		return err
	}
	dir := filepath.Join(s.repositoriesDir(), name+".git")
	if _, err := s.existing(name); errors.Is(err, ErrNotFound) {
		if err := s.initialise(dir); err != nil {
			return fmt.Errorf("create git repository %q: %w", name, err)
		}
	} else if err != nil {
		return err
	}
	mark := filepath.Join(dir, privateMark)
	var err error
	if private {
		err = os.WriteFile(mark, nil, 0o600)
	} else if err = os.Remove(mark); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("set whether git repository %q is private: %w", name, err)
	}
	return nil
}

func (s *Server) initialise(dir string) error {
	ctx := context.Background()
	if _, err := s.run(ctx, command{args: []string{"init", "--quiet", "--bare", "--initial-branch=main", dir}}); err != nil {
		return err
	}
	// As the big hosts do: commits may be asked for by name, partial clones work, history may be rewritten; and no
	// garbage collection in the background, which would outlive the server.
	for _, kv := range [][2]string{
		{"uploadpack.allowReachableSHA1InWant", "true"}, {"uploadpack.allowFilter", "true"},
		{"receive.denyNonFastForwards", "false"}, {"receive.autogc", "false"}, {"gc.auto", "0"},
	} {
		if _, err := s.run(ctx, command{dir: dir, args: []string{"config", kv[0], kv[1]}}); err != nil {
			return err
		}
	}
	return nil
}

// DeleteRepository removes a repository and what is in it.
func (s *Server) DeleteRepository(name string) error {
	dir, err := s.existing(name)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("delete git repository %q: %w", name, err)
	}
	return nil
}

// Repositories lists the names of all repositories, sorted.
func (s *Server) Repositories() ([]string, error) {
	var names []string
	root := s.repositoriesDir()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || !strings.HasSuffix(path, ".git") {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		names = append(names, strings.TrimSuffix(filepath.ToSlash(rel), ".git"))
		return filepath.SkipDir
	})
	if err != nil {
		return nil, fmt.Errorf("list git repositories: %w", err)
	}
	slices.Sort(names)
	return names, nil
}

func isPrivate(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, privateMark))
	return err == nil
}

// command is one run of git. Arguments never pass through a shell.
type command struct {
	dir   string
	args  []string
	env   []string
	stdin []byte
}

// environment is all that git sees: nothing of the user's own configuration.
func (s *Server) environment(extra ...string) []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.cfg.Dir, "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_TERMINAL_PROMPT=0",
	}, extra...)
}

// process prepares git so that it and its children end with the context.
func (s *Server) process(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.git, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	cmd.Env = s.environment()
	return cmd
}

func (s *Server) run(ctx context.Context, c command) (string, error) {
	cmd := s.process(ctx, c.args...)
	cmd.Dir = c.dir
	cmd.Env = s.environment(c.env...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(c.stdin), &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("git %s: %w: %s", c.args[0], err, strings.TrimSpace(errOut.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

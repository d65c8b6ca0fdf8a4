package blobstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"headwater.dev/dev/k8s"
)

// ErrMissing says that a storage cannot be had on this machine.
var ErrMissing = errors.New("storage server is not available")

// gateway gives the binary of tools/storagedev, built once for its sources (a
// minute or two) and kept in the user's cache.
func gateway(ctx context.Context) (string, error) {
	return prepared(ctx, "storagedev", "storagedev", func(ctx context.Context, source, dir string) error {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, "storagedev"), ".")
		cmd.Dir, cmd.Env = source, append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
		return run(cmd)
	})
}

// azurite gives the program of Azurite, installed once by npm from the lock
// file of tools/azurite and kept in the user's cache.
func azurite(ctx context.Context) (string, error) {
	for _, need := range []string{"node", "npm"} {
		if _, err := exec.LookPath(need); err != nil {
			return "", fmt.Errorf("%w: Azurite needs %s (Debian: nodejs, npm)", ErrMissing, need)
		}
	}
	return prepared(ctx, "azurite", "node_modules/azurite/dist/src/blob/main.js", func(ctx context.Context, source, dir string) error {
		for _, name := range []string{"package.json", "package-lock.json"} {
			data, err := os.ReadFile(filepath.Join(source, name))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
				return err
			}
		}
		cmd := exec.CommandContext(ctx, "npm", "ci", "--omit=dev", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
		cmd.Dir = dir
		return run(cmd)
	})
}

func run(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s: %w\n%s", ErrMissing, strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

// prepared gives a file that make leaves in a folder, from the cache when the
// sources in tools/<name> are the same. Processes that ask at the same time
// wait for one that makes it.
func prepared(ctx context.Context, name, file string, build func(ctx context.Context, source, dir string) error) (string, error) {
	root, err := k8s.ModuleRoot()
	if err != nil {
		return "", err
	}
	source := filepath.Join(root, "tools", name)
	sum, err := fingerprint(source)
	if err != nil {
		return "", err
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache folder (set XDG_CACHE_HOME or HOME): %w", err)
	}
	base = filepath.Join(base, "headwater", name)
	done := filepath.Join(base, sum)
	if _, err := os.Stat(filepath.Join(done, file)); err == nil {
		return filepath.Join(done, file), nil
	}
	if err := os.MkdirAll(base, 0o755); err != nil {
		return "", fmt.Errorf("create cache folder: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(base, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(filepath.Join(done, file)); err == nil { // somebody else made it meanwhile
		return filepath.Join(done, file), nil
	}
	partial, err := os.MkdirTemp(base, "partial-")
	if err != nil {
		return "", fmt.Errorf("create cache folder: %w", err)
	}
	defer os.RemoveAll(partial)
	if err := build(ctx, source, partial); err != nil {
		return "", err
	}
	if err := os.RemoveAll(done); err != nil {
		return "", err
	}
	return filepath.Join(done, file), os.Rename(partial, done)
}

func fingerprint(source string) (string, error) {
	h := sha256.New()
	entries, err := os.ReadDir(source)
	if err != nil {
		return "", fmt.Errorf("read sources: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(source, e.Name()))
		if err != nil {
			return "", fmt.Errorf("read sources: %w", err)
		}
		fmt.Fprintln(h, e.Name(), len(data))
		h.Write(data)
	}
	return fmt.Sprintf("%x", h.Sum(nil))[:16], nil
}

// lock waits for the lock file and returns the release.
func lock(ctx context.Context, path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

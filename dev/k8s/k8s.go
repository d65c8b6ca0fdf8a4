// Package k8s provides the Kubernetes binaries of the development tools: it
// builds the module tools/k8sdev once and keeps the result in the user's
// cache, so that every cluster and every test binary on the machine shares it.
package k8s

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// Override is the environment variable that names a ready binary to use
// instead of building one.
const Override = "HEADWATER_K8SDEV"

// unusedFor is how long a build that nobody asked for stays in the cache.
const unusedFor = 14 * 24 * time.Hour

// ErrNoModule says that no folder at or above the searched ones holds the
// sources of the module headwater.dev.
var ErrNoModule = errors.New("sources of module headwater.dev not found")

var kubernetesVersion = regexp.MustCompile(`(?m)^\s*k8s\.io/kubernetes (v[0-9.]+)$`)

// Ensure returns the path of the k8sdev binary (etcd, kube-apiserver,
// kube-controller-manager, kube-scheduler, kubelet, kube-proxy, kubectl, kwok
// and minidns, chosen by the first argument), building it first when the
// cache holds none for the present sources. A build takes about ten minutes on
// two cores; progress gets a line every few seconds meanwhile. Processes that
// ask at the same time wait for one build.
func Ensure(ctx context.Context, progress io.Writer) (string, error) {
	if path := os.Getenv(Override); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("%s names no binary; unset it to build one: %w", Override, err)
		}
		return filepath.Abs(path)
	}
	root, err := ModuleRoot()
	if err != nil {
		return "", fmt.Errorf("find the sources of k8sdev (or set %s to a ready binary): %w", Override, err)
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	source := filepath.Join(root, "tools", "k8sdev")
	hash, version, err := fingerprint(source)
	if err != nil {
		return "", err
	}
	binary := filepath.Join(cache, hash, "k8sdev")
	if usable(binary) {
		return binary, nil
	}
	unlock, err := lock(ctx, filepath.Join(cache, "lock"), progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	if usable(binary) { // somebody else built it while we waited
		return binary, nil
	}
	if err := build(ctx, buildRequest{source: source, version: version, output: binary, progress: progress}); err != nil {
		return "", err
	}
	dropUnused(cache, hash)
	return binary, nil
}

// ModuleRoot returns the folder of the module headwater.dev: at or above the
// working directory, else at or above the folder of the running program.
func ModuleRoot() (string, error) {
	starts := []string{}
	if wd, err := os.Getwd(); err == nil {
		starts = append(starts, wd)
	}
	if exe, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(exe))
	}
	for _, dir := range starts {
		for {
			content, err := os.ReadFile(filepath.Join(dir, "go.mod"))
			if err == nil && strings.HasPrefix(string(content), "module headwater.dev\n") {
				return dir, nil
			}
			parent := filepath.Dir(dir)
			if parent == dir {
				break
			}
			dir = parent
		}
	}
	return "", ErrNoModule
}

func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache folder (set XDG_CACHE_HOME or HOME): %w", err)
	}
	dir := filepath.Join(base, "headwater", "k8sdev")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("create cache folder: %w", err)
	}
	return dir, nil
}

// fingerprint hashes everything that decides the binary, and reads the
// version of Kubernetes that it will be.
func fingerprint(source string) (hash, version string, err error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.GOOS, runtime.GOARCH)
	err = filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if ext := filepath.Ext(path); ext != ".go" && ext != ".mod" && ext != ".sum" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		if match := kubernetesVersion.FindSubmatch(content); name == "go.mod" && match != nil {
			version = string(match[1])
		}
		fmt.Fprintln(h, name, len(content))
		h.Write(content)
		return nil
	})
	if err != nil {
		return "", "", fmt.Errorf("read sources of k8sdev: %w", err)
	}
	if version == "" {
		return "", "", fmt.Errorf("%s/go.mod requires no released version of k8s.io/kubernetes", source)
	}
	return hex.EncodeToString(h.Sum(nil))[:16], version, nil
}

// usable reports whether the binary is there, and marks it as used today.
func usable(binary string) bool {
	info, err := os.Stat(binary)
	if err != nil || info.Mode()&0o111 == 0 {
		return false
	}
	now := time.Now()
	_ = os.Chtimes(filepath.Dir(binary), now, now) // a read-only cache is fine: it only ages faster
	return true
}

// dropUnused removes builds of other sources that nobody used for a while.
func dropUnused(cache, keep string) {
	entries, err := os.ReadDir(cache)
	if err != nil {
		return
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !entry.IsDir() || entry.Name() == keep || time.Since(info.ModTime()) < unusedFor {
			continue
		}
		_ = os.RemoveAll(filepath.Join(cache, entry.Name())) // tried again at the next build
	}
}

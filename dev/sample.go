package dev

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"headwater.dev/dev/image"
	"headwater.dev/examples"
)

// simulatedImage is what the sample's workloads name where nothing really runs.
const simulatedImage = "registry.k8s.io/pause:3.10"

// sampleImage is an image that the sample's workloads can run.
func (s *System) sampleImage() string {
	if s.Options.Node == Real {
		return image.Repository + "/pause:" + s.nodeVersion
	}
	return simulatedImage
}

// publishCharts puts the sample's charts into the Helm repository.
func (s *servers) publishCharts() error {
	charts, err := fs.ReadDir(examples.Files, "charts")
	if err != nil {
		return fmt.Errorf("read the sample's charts: %w", err)
	}
	for _, c := range charts {
		files, err := filesBelow(path.Join("charts", c.Name()))
		if err != nil {
			return err
		}
		if _, err := s.helm.AddFiles(files); err != nil {
			return fmt.Errorf("publish chart %s: %w", c.Name(), err)
		}
	}
	return nil
}

// filesBelow reads a folder of the sample; keys are relative paths.
func filesBelow(dir string) (map[string]string, error) {
	files := map[string]string{}
	err := fs.WalkDir(examples.Files, dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		content, err := examples.Files.ReadFile(p)
		files[strings.TrimPrefix(p, dir+"/")] = string(content)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the sample: %w", err)
	}
	return files, nil
}

// account reaches the Git server as somebody.
type account struct{ url, user, password string }

// header is the value of an Authorization header.
func (a account) header() string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(a.user+":"+a.password))
}

// createRepository makes a repository that everybody may read; one that exists
// stays as it is.
func (a account) createRepository(ctx context.Context, name string) error {
	body, err := json.Marshal(map[string]any{"name": name, "private": false})
	if err != nil {
		return fmt.Errorf("describe repository %s: %w", name, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+"/-/repositories", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask for repository %s: %w", name, err)
	}
	req.Header.Set("Authorization", a.header())
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("create repository %s: %w", name, err)
	}
	defer res.Body.Close()
	if res.StatusCode < 300 {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	if strings.Contains(string(text), "exists") {
		return nil
	}
	return fmt.Errorf("create repository %s: %s: %s", name, res.Status, strings.TrimSpace(string(text)))
}

// push makes files the content of a repository's branch main, with git itself.
func (a account) push(ctx context.Context, repository string, files map[string]string) error {
	dir, err := os.MkdirTemp("", "sample-")
	if err != nil {
		return fmt.Errorf("make work tree: %w", err)
	}
	defer os.RemoveAll(dir)
	for name, content := range files {
		p := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return fmt.Errorf("make work tree: %w", err)
		}
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			return fmt.Errorf("write work tree: %w", err)
		}
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main"}, {"add", "--all"}, {"commit", "--quiet", "--message", "Sample"},
		{"push", "--quiet", "--force", a.url + "/" + repository + ".git", "main"},
	} {
		if err := a.git(ctx, dir, args...); err != nil {
			return err
		}
	}
	return nil
}

func (a account) git(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull,
		"GIT_AUTHOR_NAME=dev", "GIT_AUTHOR_EMAIL=dev@localhost", "GIT_COMMITTER_NAME=dev", "GIT_COMMITTER_EMAIL=dev@localhost",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=http.extraHeader", "GIT_CONFIG_VALUE_0=Authorization: "+a.header())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
	}
	return nil
}

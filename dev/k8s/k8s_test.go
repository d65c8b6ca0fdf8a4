package k8s

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFingerprint(t *testing.T) {
	const mod = "module m\n\nrequire (\n\tk8s.io/kubernetes v1.37.2\n)\n"
	cases := map[string]struct {
		why     string
		files   map[string]string
		changes bool
		err     string
	}{
		"same":         {"equal sources share a build", map[string]string{}, false, ""},
		"code":         {"a changed source is another binary", map[string]string{"main.go": "package main // changed"}, true, ""},
		"sums":         {"a changed dependency is another binary", map[string]string{"go.sum": "x"}, true, ""},
		"new file":     {"an added source is another binary", map[string]string{"sub/a.go": "package sub"}, true, ""},
		"test file":    {"tests are not in the binary", map[string]string{"main_test.go": "package main"}, false, ""},
		"other file":   {"only Go sources and module files count", map[string]string{"README.md": "x"}, false, ""},
		"no version":   {"the binary must announce a version", map[string]string{"go.mod": "module m\n"}, false, "requires no released version"},
		"two segments": {"a version that is none is refused", map[string]string{"go.mod": "module m\nrequire k8s.io/kubernetes latest\n"}, false, "requires no released version"},
	}
	write := func(t *testing.T, dir string, files map[string]string) {
		t.Helper()
		for name, content := range files {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, map[string]string{"go.mod": mod, "go.sum": "", "main.go": "package main"})
			before, version, err := fingerprint(dir)
			if err != nil || version != "v1.37.2" {
				t.Fatalf("fingerprint: version %q, error %v", version, err)
			}
			write(t, dir, c.files)
			after, _, err := fingerprint(dir)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("%s: error %v, want %q", c.why, err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if changed := before != after; changed != c.changes {
				t.Errorf("%s: changed = %v, want %v", c.why, changed, c.changes)
			}
		})
	}
}

func TestFollowSeparatesComplaintsFromProgress(t *testing.T) {
	output := "go: downloading k8s.io/api v0.37.2\nk8s.io/api/core/v1\n# headwater.dev/tools/k8sdev\n./main.go:3:1: syntax error\n"
	got := follow(strings.NewReader(output), io.Discard, time.Now())
	if want := "# headwater.dev/tools/k8sdev\n./main.go:3:1: syntax error\n"; got != want {
		t.Errorf("complaints %q, want %q", got, want)
	}
}

func TestOverride(t *testing.T) {
	file := filepath.Join(t.TempDir(), "k8sdev")
	t.Setenv(Override, file)
	if _, err := Ensure(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), Override) {
		t.Errorf("missing file: error %v, want one that names %s", err, Override)
	}
	if err := os.WriteFile(file, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := Ensure(t.Context(), io.Discard); err != nil || got != file {
		t.Errorf("Ensure = %q, %v; want %q", got, err, file)
	}
}

func TestLockIsExclusiveAndObeysContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var said bytes.Buffer
	if _, err := lock(ctx, path, &said); !errors.Is(err, context.Canceled) {
		t.Errorf("second lock: error %v, want context.Canceled", err)
	}
	if !strings.Contains(said.String(), "waiting") {
		t.Errorf("the one who waits is told nothing: %q", said.String())
	}
	unlock()
	again, err := lock(t.Context(), path, io.Discard)
	if err != nil {
		t.Fatalf("lock after release: %v", err)
	}
	again()
}

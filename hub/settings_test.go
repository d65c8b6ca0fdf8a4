package hub

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"headwater.dev/client"
	"headwater.dev/hub/store/etcd"
)

// parsed is what a command makes of its sources.
func parsed(t *testing.T, file string, env map[string]string, args ...string) (Config, error) {
	t.Helper()
	var c Config
	cmd := &cobra.Command{Use: "serve", SilenceErrors: true, SilenceUsage: true, RunE: func(*cobra.Command, []string) error { return nil }}
	serveFlags(cmd, &c)
	settings(cmd, func(name string) string { return env[name] })
	if file != "" {
		path := filepath.Join(t.TempDir(), "hub.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	cmd.SetArgs(args)
	return c, cmd.Execute()
}

func TestSettingsComeFromThreeSources(t *testing.T) {
	file := "data-dir: /file\nlisten: 1.1.1.1:1\nexternal-url: https://file\nhostname: [a, b]\nunregistered: true\n"
	var got Config
	cmd := &cobra.Command{RunE: func(*cobra.Command, []string) error { return nil }}
	serveFlags(cmd, &got)
	settings(cmd, func(name string) string {
		return map[string]string{"HEADWATER_HUB_LISTEN": "2.2.2.2:2", "HEADWATER_HUB_EXTERNAL_URL": "https://env"}[name]
	})
	path := filepath.Join(t.TempDir(), "hub.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.SetArgs([]string{"--config", path, "--external-url", "https://flag"})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	want := []any{"/file", "2.2.2.2:2", "https://flag", []string{"a", "b"}, true}
	if d := cmp.Diff(want, []any{got.DataDir, got.Listen, got.ExternalURL, got.Hostnames, got.Unregistered}); d != "" {
		t.Errorf("file, environment, flag (-want +got):\n%s", d)
	}
}

func TestBadSettingsAreNamed(t *testing.T) {
	tests := map[string]struct {
		file string
		env  map[string]string
		want []string
	}{
		"unknown":       {"data-dir: /x\nlisten-on: y\n", nil, []string{`"listen-on"`, "hub.yaml"}},
		"wrong type":    {"data-dir: /x\nunregistered: perhaps\n", nil, []string{`"unregistered"`, "perhaps"}},
		"nested":        {"data-dir: {a: b}\n", nil, []string{`"data-dir"`, "line 1"}},
		"no YAML":       {"data-dir: [\n", nil, []string{"hub.yaml"}},
		"environment":   {"data-dir: /x\n", map[string]string{"HEADWATER_HUB_ETCD_QUOTA": "much"}, []string{"HEADWATER_HUB_ETCD_QUOTA", "much"}},
		"missing":       {"", nil, []string{"data-dir", "HEADWATER_HUB_DATA_DIR"}},
		"two at a time": {"data-dir: /x\na: 1\nb: 2\n", nil, []string{`"a"`, `"b"`}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := parsed(t, tc.file, tc.env)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not name %s", err, want)
				}
			}
		})
	}
}

func TestCheck(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	r := run(t, Config{})
	results := func(c Config) map[string]error {
		all := map[string]error{}
		for _, f := range c.check(t.Context(), time.Now()) {
			all[f.what] = f.err
		}
		return all
	}
	for what, err := range results(Config{DataDir: r.dir, Listen: strings.TrimPrefix(r.URL(), "https://")}) {
		if err != nil {
			t.Errorf("a hub that runs: %s: %v", what, err)
		}
	}
	for what, err := range results(Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0"}) {
		if err != nil {
			t.Errorf("before the first start: %s: %v", what, err)
		}
	}
	open := t.TempDir()
	if err := os.WriteFile(filepath.Join(open, "vault.key"), []byte("!!!\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		in         Config
		what, want string
	}{
		"directory":   {Config{DataDir: "/dev/null/x"}, "data directory", "--data-dir"},
		"address":     {Config{DataDir: t.TempDir(), Listen: taken.Addr().String()}, "address", "--listen"},
		"keys":        {Config{DataDir: open}, "keys", "chmod 600"},
		"certificate": {Config{DataDir: t.TempDir(), TLSCert: "/nowhere", TLSKey: "/nowhere"}, "certificate and clock", "--tls-cert"},
		"storage":     {Config{DataDir: t.TempDir(), EtcdEndpoints: []string{"http://127.0.0.1:1"}}, "storage", "http://127.0.0.1:1"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			err := results(tc.in)[tc.what]
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %v, want a way out with %q", tc.what, err, tc.want)
			}
		})
	}
	if _, ok := etcd.Running(filepath.Join(r.dir, "etcd")); !ok {
		t.Error("a running hub was not noticed")
	}
	if errors.Is(results(Config{DataDir: r.dir})["storage"], os.ErrNotExist) {
		t.Error("its storage was not reached")
	}
}

// TestReplicasTakeSharedKeys starts a hub with another one's keys.
func TestReplicasTakeSharedKeys(t *testing.T) {
	first := run(t, Config{})
	second := run(t, Config{KeysFrom: first.dir})
	for _, name := range keyFiles() {
		a, err := digestFile(filepath.Join(first.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := digestFile(filepath.Join(second.dir, name)); err != nil || a == "" || a != b {
			t.Errorf("%s differs: %v", name, err)
		}
	}
	if h, err := New(t.Context(), Config{DataDir: t.TempDir(), KeysFrom: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "vault.key") {
		t.Errorf("a directory without keys: %v", err)
		h.Close()
	}
}

// TestAFullStorageSaysSo fills a small storage through the users' door.
func TestAFullStorageSaysSo(t *testing.T) {
	r, user, _, id := waiting(t, Config{EtcdQuota: 8 << 20})
	large := wanted("secret")
	large["properties"].(map[string]any)["kustomizations"] = map[string]any{"app": map[string]any{"path": "./app",
		"postBuild": map[string]any{"substitute": map[string]any{"x": strings.Repeat("x", 200<<10)}}}}
	raw, err := json.Marshal(large)
	if err != nil {
		t.Fatal(err)
	}
	token := r.bearer(t)
	for i, refused := 0, false; !refused; i++ { // not through the client, which would try again for long
		resp := r.send(t, http.MethodPut, fmt.Sprintf("%s-%d?api-version=%s", id, i, client.VersionConfiguration), token, bytes.NewReader(raw))
		said, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		refused = resp.StatusCode == http.StatusServiceUnavailable
		if refused && (!bytes.Contains(said, []byte("hub compact")) || resp.Header.Get("Retry-After") != "60") {
			t.Fatalf("a full storage: %s, Retry-After %q: %s", resp.Status, resp.Header.Get("Retry-After"), said)
		}
		if !refused && (resp.StatusCode >= http.StatusBadRequest || i == 100) {
			t.Fatalf("write %d: %s: %s", i, resp.Status, said)
		}
	}
	if _, err := client.Get[any](t.Context(), user, id+"-0", client.VersionConfiguration); err != nil {
		t.Errorf("reading from a full storage: %v", err)
	}
	for i := range 20 {
		if _, err := client.Delete(t.Context(), user, fmt.Sprintf("%s-%d", id, i), client.VersionConfiguration, true); err != nil {
			t.Fatalf("deleting from a full storage: %v", err)
		}
	}
	cmd := newCompactCommand()
	cmd.SetArgs([]string{"--data-dir", r.dir})
	cmd.SetOut(io.Discard)
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put[any](t.Context(), user, id, client.VersionConfiguration, wanted("secret")); err != nil {
		t.Errorf("after space was made: %v", err)
	}
}

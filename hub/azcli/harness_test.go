package azcli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"headwater.dev/hub/auth"
)

// hub is a process of the hub's program.
type hub struct {
	url, dir, az string
	admin        auth.Admin
}

// start builds and starts the hub, with further flags, or skips where there is no az.
func start(t *testing.T, flags ...string) *hub {
	t.Helper()
	az, err := exec.LookPath("az")
	if err != nil {
		t.Skip("the Azure CLI is not installed: apt-get install azure-cli")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "hub")
	if out, err := exec.Command("go", "build", "-o", program, "headwater.dev/cmd/hub").CombinedOutput(); err != nil {
		t.Fatalf("build the hub: %v\n%s", err, out)
	}
	data := filepath.Join(dir, "data")
	cmd := exec.Command(program, append([]string{"serve", "--data-dir", data, "--listen", "127.0.0.1:0", "--metrics-listen", ""}, flags...)...)
	var log bytes.Buffer
	cmd.Stderr = &log
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the hub ended with: %v", err)
		}
		if t.Failed() {
			t.Logf("the end of the hub's log:\n%s", log.Bytes()[max(0, log.Len()-2000):])
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	url := regexp.MustCompile(`https://\S+`).FindString(line)
	if err != nil || url == "" {
		t.Fatalf("the hub said %q: %v", line, err)
	}
	h := &hub{url: url, dir: data, az: az}
	raw, err := os.ReadFile(filepath.Join(data, "admin.json"))
	if err == nil {
		err = json.Unmarshal(raw, &h.admin)
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// shell is an az with a configuration of its own, like a person's.
type shell struct {
	t    *testing.T
	hub  *hub
	home string
}

func (h *hub) shell(t *testing.T) *shell {
	s := &shell{t: t, hub: h, home: t.TempDir()}
	s.az("cloud", "register", "-n", "Headwater", "--endpoint-resource-manager", h.url, "--endpoint-active-directory", h.url+"/adfs",
		"--endpoint-active-directory-resource-id", h.url, "--endpoint-active-directory-graph-resource-id", h.url)
	s.az("cloud", "set", "-n", "Headwater")
	return s
}

func (s *shell) run(args ...string) (string, string, error) {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), s.hub.az, args...)
	cmd.Env = append(os.Environ(), "AZURE_CONFIG_DIR="+s.home, "HOME="+s.home, "REQUESTS_CA_BUNDLE="+filepath.Join(s.hub.dir, "ca.crt"),
		"AZURE_CORE_COLLECT_TELEMETRY=no", "AZURE_CORE_INSTANCE_DISCOVERY=false", "AZURE_CORE_NO_COLOR=1", "no_proxy=*")
	cmd.WaitDelay = 10 * time.Second
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	return strings.TrimSpace(out.String()), complaint.String(), err
}

// az runs a command that must succeed and answers what it prints.
func (s *shell) az(args ...string) string {
	s.t.Helper()
	out, complaint, err := s.run(args...)
	if err != nil {
		s.t.Fatalf("az %s: %v\n%s%s", strings.Join(args, " "), err, out, complaint)
	}
	return out
}

// want runs a command that must print something.
func (s *shell) want(what string, args ...string) {
	s.t.Helper()
	if out := s.az(args...); !strings.Contains(out, what) {
		s.t.Errorf("az %s: %q is missing in\n%s", strings.Join(args, " "), what, out)
	}
}

// refused runs a command that must fail and say why.
func (s *shell) refused(why string, args ...string) {
	s.t.Helper()
	out, complaint, err := s.run(args...)
	if err == nil || !strings.Contains(complaint, why) {
		s.t.Errorf("az %s: %v, %q is missing in\n%s%s", strings.Join(args, " "), err, why, out, complaint)
	}
}

func (s *shell) login(id, secret string) {
	s.t.Helper()
	s.az("login", "--service-principal", "-u", id, "-p", secret, "--tenant", s.hub.admin.TenantID)
}

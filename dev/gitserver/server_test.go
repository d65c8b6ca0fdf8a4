package gitserver

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"headwater.dev/dev/front"
)

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	s, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// git runs the real client without any configuration of the user's.
func git(t *testing.T, dir string, env []string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.WaitDelay = time.Second
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.org", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@example.org",
	}, env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("git %s: %w\n%s", args[0], err, out)
	}
	return string(out), err
}

func mustGit(t *testing.T, dir string, env []string, args ...string) string {
	t.Helper()
	out, err := git(t, dir, env, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func withLogin(url, user, password string) string {
	return strings.Replace(url, "://", "://"+user+":"+password+"@", 1)
}

// newKey makes a key pair: the public line, and the environment for a git client that uses the private half.
func newKey(t *testing.T, s *Server) (public string, env []string) {
	t.Helper()
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("no ssh client here: install openssh-client")
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	keyFile, known := filepath.Join(dir, "id"), filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(known, []byte(s.KnownHosts()), 0o600); err != nil {
		t.Fatal(err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return string(ssh.MarshalAuthorizedKey(sshPub)), []string{fmt.Sprintf(
		"GIT_SSH_COMMAND=ssh -F none -i %s -o IdentitiesOnly=yes -o BatchMode=yes -o UserKnownHostsFile=%s -o StrictHostKeyChecking=yes", keyFile, known)}
}

func TestHTTP(t *testing.T) {
	s := start(t, Config{Accounts: []Account{
		{Name: "ann", Password: "secret"}, {Name: "bob", Password: "secret2", ReadOnly: true}, {Name: "eve", Password: "x", Repositories: []string{"other"}},
	}})
	for name, private := range map[string]bool{"team/public": false, "team/private": true} {
		if err := s.CreateRepository(name, private); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(name, "main", "start", map[string]string{"a/b.txt": "one\n", `odd "name".txt`: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	cases := map[string]struct {
		why  string
		url  string
		push bool
		want string // part of the error; empty: success
	}{
		"public anonymous":   {"anybody reads a public repository", s.URL("team/public"), false, ""},
		"public push":        {"nobody pushes without a name", s.URL("team/public"), true, "could not read Username"},
		"private anonymous":  {"a private one asks for a name", s.URL("team/private"), false, "could not read Username"},
		"missing anonymous":  {"and a missing one looks the same", s.URL("team/nothing"), false, "could not read Username"},
		"private ann":        {"an account reads and writes", withLogin(s.URL("team/private"), "ann", "secret"), true, ""},
		"wrong password":     {"a wrong password is refused", withLogin(s.URL("team/private"), "ann", "wrong"), false, "Authentication failed"},
		"read-only account":  {"a read-only account cannot push", withLogin(s.URL("team/private"), "bob", "secret2"), true, "403"},
		"of another":         {"other repositories' accounts do not see a private one", withLogin(s.URL("team/private"), "eve", "x"), false, "not found"},
		"missing with login": {"a missing one is not found", withLogin(s.URL("team/nothing"), "ann", "secret"), false, "not found"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := clone(t, c.url, c.push, nil)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s: got %v, want %q", c.why, err, c.want)
			}
		})
	}
}

// clone clones, and pushes a new commit when told to.
func clone(t *testing.T, url string, push bool, env []string) error {
	t.Helper()
	dir := t.TempDir()
	if _, err := git(t, "", env, "clone", "--quiet", url, dir); err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(dir, "a/b.txt"))
	if err != nil || string(data) != "one\n" {
		return fmt.Errorf("cloned file holds %q, %v", data, err)
	}
	if !push {
		return nil
	}
	mustGit(t, dir, env, "commit", "--quiet", "--allow-empty", "-m", "more")
	_, err = git(t, dir, env, "push", "--quiet", "origin", "HEAD:refs/heads/"+strings.ToLower(rand.Text()))
	return err
}

func TestSSH(t *testing.T) {
	s := start(t, Config{})
	for _, name := range []string{"app", "other"} {
		if err := s.CreateRepository(name, true); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(name, "main", "start", map[string]string{"a/b.txt": "one\n"}); err != nil {
			t.Fatal(err)
		}
	}
	account, accountEnv := newKey(t, s)
	reader, readerEnv := newKey(t, s)
	writer, writerEnv := newKey(t, s)
	_, strangerEnv := newKey(t, s)
	if err := s.AddAccount(Account{Name: "ann", Keys: []string{account}}); err != nil {
		t.Fatal(err)
	}
	for key, write := range map[string]bool{reader: false, writer: true} {
		if err := s.AddDeployKey(DeployKey{Repository: "app", Key: key, Write: write}); err != nil {
			t.Fatal(err)
		}
	}
	cases := map[string]struct {
		repo string
		env  []string
		push bool
		want string
	}{
		"account pushes":              {"app", accountEnv, true, ""},
		"read key reads":              {"app", readerEnv, false, ""},
		"read key cannot push":        {"app", readerEnv, true, "may not push"},
		"write key pushes":            {"app", writerEnv, true, ""},
		"key is for one repository":   {"other", writerEnv, false, "not found"},
		"unknown key":                 {"app", strangerEnv, false, "Permission denied"},
		"repository that is not":      {"nothing", accountEnv, false, "not found"},
		"a path out of the directory": {"../../etc", accountEnv, false, "not found"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := clone(t, s.SSHURL(c.repo), c.push, c.env)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if err := s.RemoveDeployKey(writer); err != nil {
		t.Fatal(err)
	}
	if err := clone(t, s.SSHURL("app"), false, writerEnv); err == nil {
		t.Error("a removed deploy key still opens the repository")
	}
}

func TestSSHRunsNothingElse(t *testing.T) {
	s := &sshServer{server: &Server{cfg: Config{Dir: t.TempDir()}}}
	for _, line := range []string{
		"ls", "git-upload-archive '/app.git'", "git-upload-pack '/a.git'; id", "git-upload-pack /app.git --help", "git-upload-pack --exec=id",
		"git-upload-pack '/app.git' '/b.git'", "git upload-pack $(id)", "git-upload-pack '/../x'", "git-upload-pack '/app.git/../../x'",
	} {
		if p, err := s.authorise(identity{Name: "ann"}, line); err == nil {
			t.Errorf("%q was accepted as %+v", line, p)
		}
	}
}

func TestCheckName(t *testing.T) {
	cases := map[string]bool{
		"app": true, "team/app-1.x_y": true, "a/b/c/d": true,
		"": false, "/app": false, "app/": false, "a//b": false, "..": false, "../x": false, "a/../b": false, "-x": false, ".hidden": false,
		"a.git/hooks": false, "x.git": false, "x.lock": false, "a b": false, "a\nb": false, "a/b/c/d/e": false, "a\\b": false, "a\x00": false,
	}
	for name, want := range cases {
		if got := checkName(name) == nil; got != want {
			t.Errorf("checkName(%q) accepts: %v, want %v", name, got, want)
		}
	}
}

func TestTLSAndRestart(t *testing.T) {
	dir := t.TempDir()
	s := start(t, Config{Dir: dir, TLS: true, Accounts: []Account{{Name: "ann", Password: "secret"}}})
	if err := s.CreateRepository("app", true); err != nil {
		t.Fatal(err)
	}
	sha, err := s.Commit("app", "main", "start", map[string]string{"a/b.txt": "one\n"})
	if err != nil {
		t.Fatal(err)
	}
	known, addr, sshAddr := s.KnownHosts(), s.Addr(), s.SSHAddr()
	ca := s.Authority().PEM()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = start(t, Config{Dir: dir, TLS: true, HTTPAddr: addr, SSHAddr: sshAddr})
	if s.KnownHosts() != known || !bytes.Equal(s.Authority().PEM(), ca) {
		t.Error("host key or authority changed by a restart")
	}
	url := withLogin(s.URL("app"), "ann", "secret")
	if _, err := git(t, "", nil, "ls-remote", url); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a client that does not trust the authority got %v", err)
	}
	out := mustGit(t, "", []string{"GIT_SSL_CAINFO=" + s.Authority().File()}, "ls-remote", url, "refs/heads/main")
	if out != sha+"\trefs/heads/main\n" {
		t.Errorf("ls-remote says %q, want %s", out, sha)
	}
}

func TestCommits(t *testing.T) {
	s := start(t, Config{})
	if err := s.CreateRepository("app", false); err != nil {
		t.Fatal(err)
	}
	first, err := s.Commit("app", "main", "one", map[string]string{"keep": "1", "gone": "2", "dir/x": "3"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Tag("app", "v1.0.0", first); err != nil {
		t.Fatal(err)
	}
	second, err := s.CommitChange("app", "main", Change{Message: "two\n\nbody", Write: map[string]string{"new": ""}, Delete: []string{"gone", "dir"}})
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	mustGit(t, "", nil, "clone", "--quiet", s.URL("app"), work)
	if got := mustGit(t, work, nil, "ls-files"); got != "keep\nnew\n" {
		t.Errorf("tree after the second commit: %q", got)
	}
	if got := mustGit(t, work, nil, "rev-list", "HEAD"); got != second+"\n"+first+"\n" {
		t.Errorf("history: %q, want %s %s", got, second, first)
	}
	orphan, err := s.CommitChange("app", "main", Change{Message: "rewritten", Write: map[string]string{"only": "x"}, Orphan: true})
	if err != nil {
		t.Fatal(err)
	}
	mustGit(t, work, nil, "fetch", "--quiet", "origin", "+main:refs/remotes/origin/main")
	if got := mustGit(t, work, nil, "rev-list", "origin/main"); got != orphan+"\n" {
		t.Errorf("history after the rewrite: %q, want %s", got, orphan)
	}
	shallow := t.TempDir()
	mustGit(t, shallow, nil, "init", "--quiet")
	mustGit(t, shallow, nil, "fetch", "--quiet", "--depth=1", s.URL("app"), first)
	for name, files := range map[string]map[string]string{
		"leaves the tree": {"../x": ""}, "absolute": {"/x": ""}, "into .git": {"a/.GIT/config": ""}, "empty": {"": ""},
	} {
		if _, err := s.Commit("app", "main", "bad", files); err == nil {
			t.Errorf("a path that %s was accepted", name)
		}
	}
	if _, err := s.Commit("app", "a..b", "bad", nil); err == nil {
		t.Error("a bad branch name was accepted")
	}
	if _, err := s.Commit("nothing", "main", "bad", nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("commit to a missing repository: %v", err)
	}
}

func TestTraffic(t *testing.T) {
	s := start(t, Config{Accounts: []Account{{Name: "ann", Password: "secret"}}})
	if err := s.CreateRepository("app", false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit("app", "main", "start", map[string]string{"a/b.txt": "one\n"}); err != nil {
		t.Fatal(err)
	}
	step := func(what string, want Traffic, do func()) {
		t.Helper()
		before := s.Traffic("app")
		do()
		after := s.Traffic("app")
		got := Traffic{
			Connections: after.Connections - before.Connections, Lists: after.Lists - before.Lists,
			Fetches: after.Fetches - before.Fetches, Pushes: after.Pushes - before.Pushes,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
		if after.Sent <= before.Sent {
			t.Errorf("%s: no bytes counted", what)
		}
	}
	for _, version := range []string{"0", "2"} {
		step("ls-remote v"+version, Traffic{Connections: 1, Lists: 1}, func() {
			mustGit(t, "", nil, "-c", "protocol.version="+version, "ls-remote", s.URL("app"))
		})
		step("clone v"+version, Traffic{Connections: 1, Lists: 1, Fetches: 1}, func() {
			mustGit(t, "", nil, "-c", "protocol.version="+version, "clone", "--quiet", s.URL("app"), t.TempDir())
		})
	}
	key, env := newKey(t, s)
	if err := s.AddDeployKey(DeployKey{Repository: "app", Key: key, Write: true}); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"0", "2"} {
		step("ls-remote over SSH v"+version, Traffic{Connections: 1, Lists: 1}, func() {
			mustGit(t, "", env, "-c", "protocol.version="+version, "ls-remote", s.SSHURL("app"))
		})
	}
	step("clone and push over SSH", Traffic{Connections: 2, Lists: 1, Fetches: 1, Pushes: 1}, func() {
		if err := clone(t, s.SSHURL("app"), true, env); err != nil {
			t.Error(err)
		}
	})
}

func TestFaults(t *testing.T) {
	s := start(t, Config{})
	other := start(t, Config{})
	for _, srv := range []*Server{s, other} {
		if err := srv.CreateRepository("app", false); err != nil {
			t.Fatal(err)
		}
		if _, err := srv.Commit("app", "main", "start", map[string]string{"a/b.txt": "one\n"}); err != nil {
			t.Fatal(err)
		}
	}
	s.Inject(front.Fault{Contains: "/app.git", Status: 503, Times: 1})
	if _, err := git(t, "", nil, "ls-remote", s.URL("app")); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("with a 503: %v", err)
	}
	if _, err := git(t, "", nil, "ls-remote", s.URL("app")); err != nil {
		t.Errorf("after the fault is used up: %v", err)
	}
	remove := s.Inject(front.Fault{Redirect: other.BaseURL()})
	want := mustGit(t, "", nil, "ls-remote", other.URL("app"))
	if got := mustGit(t, "", nil, "ls-remote", s.URL("app")); !strings.HasSuffix(got, want) {
		t.Errorf("through a redirect: %q, want %q", got, want)
	}
	remove()
	s.Inject(front.Fault{Hang: true})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL("app")+"/info/refs?service=git-upload-pack", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := http.DefaultClient.Do(req); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a hanging server answered %v, %v", resp, err)
	}
}

func TestAdministration(t *testing.T) {
	s := start(t, Config{Accounts: []Account{{Name: "root", Password: "r", Admin: true}, {Name: "ann", Password: "a"}}})
	call := func(method, path, user, body string) int {
		req, err := http.NewRequestWithContext(t.Context(), method, s.BaseURL()+"/-/"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if user != "" {
			req.SetBasicAuth(user, user[:1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	cases := []struct {
		method, path, user, body string
		want                     int
	}{
		{"POST", "repositories", "", `{"name":"app"}`, 401},
		{"POST", "repositories", "ann", `{"name":"app"}`, 403},
		{"POST", "repositories", "root", `{"name":"../app"}`, 400},
		{"POST", "repositories", "root", `{"nme":"app"}`, 400},
		{"POST", "repositories", "root", `{"name":"app","private":true}`, 204},
		{"POST", "keys", "root", `{"repository":"app","key":"nonsense"}`, 400},
		{"POST", "keys", "root", `{"repository":"nothing","key":"nonsense"}`, 404},
		{"POST", "accounts", "root", `{"name":"bob","password":"b"}`, 204},
		{"GET", "repositories", "root", "", 200},
		{"GET", "known-hosts", "", "", 200},
	}
	for _, c := range cases {
		if got := call(c.method, c.path, c.user, c.body); got != c.want {
			t.Errorf("%s %s by %q with %s: %d, want %d", c.method, c.path, c.user, c.body, got, c.want)
		}
	}
	if _, err := git(t, "", nil, "ls-remote", withLogin(s.URL("app"), "bob", "b")); err != nil {
		t.Errorf("the new account cannot read the new repository: %v", err)
	}
}

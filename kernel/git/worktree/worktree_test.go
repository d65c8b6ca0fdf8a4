package worktree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"headwater.dev/dev/gitserver"
	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/git"
)

const password = "canary-Passw0rd"

type fixture struct {
	*gitserver.Server
	t       *testing.T
	mirrors *git.Mirrors
	linked  bool // "file" is a link
}

func serve(t *testing.T) *fixture {
	t.Helper()
	s, err := gitserver.Start(gitserver.Config{Dir: t.TempDir(), Accounts: []gitserver.Account{{Name: "dev", Password: password}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	f := &fixture{Server: s, t: t}
	if f.mirrors, err = git.OpenMirrors(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	return f
}

// module is a submodule in a commit.
type gitlink struct{ path, url, commit string }

// push makes a repository of files and submodules with git itself.
func (f *fixture) push(repo string, private bool, files map[string]string, links ...gitlink) string {
	f.t.Helper()
	if err := f.CreateRepository(repo, private); err != nil {
		f.t.Fatal(err)
	}
	dir := f.t.TempDir()
	run(f.t, dir, "init", "-q", "-b", "main")
	var modules strings.Builder
	for i, l := range links {
		fmt.Fprintf(&modules, "[submodule \"m%d\"]\n\tpath = %s\n\turl = %s\n", i, l.path, l.url)
		run(f.t, dir, "update-index", "--add", "--cacheinfo", "160000,"+l.commit+","+l.path)
	}
	if _, own := files[modulesFile]; len(links) > 0 && !own {
		write(f.t, dir, map[string]string{modulesFile: modules.String()})
		run(f.t, dir, "add", modulesFile)
	}
	write(f.t, dir, files)
	for name := range files {
		run(f.t, dir, "add", name)
	}
	run(f.t, dir, "commit", "-q", "--allow-empty", "-m", "m")
	run(f.t, dir, "push", "-q", "-f", strings.Replace(f.URL(repo), "://", "://dev:"+password+"@", 1), "main")
	return strings.TrimSpace(run(f.t, dir, "rev-parse", "HEAD"))
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if to, ok := strings.CutPrefix(content, "-> "); ok {
			if err := os.Symlink(to, file); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %v: %v", args, err)
	}
	return string(out)
}

// files gives what a tree of the repository holds, with its submodules.
func (f *fixture) files(url string, c git.Credentials, directories ...string) (map[string]string, error) {
	f.t.Helper()
	r, err := git.NewRemote(url, c)
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
	defer cancel()
	_, s, err := f.mirrors.For(r).Update(ctx, r, git.Reference{Branch: "main"}, func(git.Target) bool { return false })
	if err != nil {
		f.t.Fatal(err)
	}
	defer s.Close()
	t := New()
	defer t.Close()
	if _, err := s.File("file"); f.linked && !errors.Is(err, fs.ErrNotExist) {
		f.t.Errorf("a file was read through a link: %v", err)
	}
	if err := t.Add(ctx, s, directories, &Modules{Mirrors: f.mirrors, Remote: r}); err != nil {
		return nil, err
	}
	return contents(t, nil)
}

func contents(t *Tree, ignore *string) (map[string]string, error) {
	files := map[string]string{}
	for e, err := range t.Files(ignore) {
		if err != nil {
			return nil, err
		}
		if e.Dir {
			continue
		}
		r, err := e.Open()
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return nil, err
		}
		files[e.Path] = string(data)
	}
	return files, nil
}

func TestSubmodulesOfSubmodules(t *testing.T) {
	f := serve(t)
	inner := f.push("libs/inner", true, map[string]string{"inner.yaml": "i"})
	outer := f.push("libs/outer", true, map[string]string{"outer.yaml": "o", ".sourceignore": "secret.txt", "secret.txt": "x"}, gitlink{"deep/inner", "../inner.git", inner})
	f.push("libs/outer", true, map[string]string{"outer.yaml": "newer, not pinned"})
	f.push("app", true, map[string]string{"a.yaml": "a", "secret.txt": "kept"}, gitlink{"vendor/outer", "../libs/outer.git", outer}, gitlink{"again", f.URL("libs/inner"), inner})
	c := git.Credentials{Username: "dev", Password: password}
	got, err := f.files(f.URL("app"), c)
	want := map[string]string{"a.yaml": "a", "secret.txt": "kept", ".gitmodules": got[".gitmodules"], "vendor/outer/outer.yaml": "o",
		"vendor/outer/.sourceignore": "secret.txt", "vendor/outer/.gitmodules": got["vendor/outer/.gitmodules"],
		"vendor/outer/deep/inner/inner.yaml": "i", "again/inner.yaml": "i"}
	if got[".gitmodules"] == "" {
		delete(want, ".gitmodules") // files of version control stay out
		delete(want, "vendor/outer/.gitmodules")
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	got, err = f.files(f.URL("app"), c, "again")
	if diff := cmp.Diff(map[string]string{"again/inner.yaml": "i"}, got); err != nil || diff != "" {
		t.Errorf("sparse: %v\n%s", err, diff)
	}
}

// TestSubmodulesGetNoCredentialsElsewhere has a submodule on a server that
// records what it is sent.
func TestSubmodulesGetNoCredentialsElsewhere(t *testing.T) {
	f := serve(t)
	var seen []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization")+r.Header.Get("Cookie"))
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer elsewhere.Close()
	commit := strings.Repeat("ab", 20)
	f.push("app", true, nil, gitlink{"m", elsewhere.URL + "/x.git", commit})
	_, err := f.files(f.URL("app"), git.Credentials{Username: "dev", Password: password})
	if !errors.Is(err, ErrModule) || !errors.Is(err, git.ErrAuth) || len(seen) == 0 || strings.Join(seen, "") != "" {
		t.Errorf("%v; sent %q", err, seen)
	}
}

// TestA27HostileSubmodules tries what submodules were abused for.
func TestA27HostileSubmodules(t *testing.T) {
	f := serve(t)
	lib := f.push("lib", false, map[string]string{"x": "1"})
	for name, url := range map[string]string{
		"file":            "file:///etc",
		"absolute path":   "/etc",
		"ext":             "ext::sh -c touch% pwned",
		"option":          "--upload-pack=touch pwned",
		"dash host":       "ssh://-oProxyCommand=id/x",
		"leaves server":   "../../../../../x",
		"metadata":        "http://169.254.169.254/latest/meta-data",
		"git":             "git://example.com/x",
		"ssh without key": "git@127.0.0.1:lib.git",
		"empty":           "",
		"control":         "\"http://example.com/\\n0000\"",
	} {
		f.push("app", false, map[string]string{"a": "1"}, gitlink{"m", url, lib})
		if _, err := f.files(f.URL("app"), git.Credentials{}); !errors.Is(err, ErrModule) {
			t.Errorf("%s: %v", name, err)
		}
	}
	at := f.URL("lib")
	for name, modules := range map[string]string{
		"other path":     "[submodule \"m\"]\npath = ../../etc\nurl = " + at,
		"git directory":  "[submodule \"../../.git/hooks\"]\npath = .git/hooks\nurl = " + at,
		"absolute":       "[submodule \"m\"]\npath = /etc\nurl = " + at,
		"no section":     "path = m\nurl = " + at,
		"update command": "[submodule \"x\"]\npath = n\nurl = " + at + "\nupdate = !touch pwned",
	} {
		f.push("app", false, map[string]string{"a": "1", modulesFile: modules}, gitlink{"m", at, lib})
		got, err := f.files(f.URL("app"), git.Credentials{})
		delete(got, modulesFile)
		if diff := cmp.Diff(map[string]string{"a": "1"}, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
	if _, err := os.Stat("pwned"); err == nil {
		t.Error("something was executed")
	}
}

func TestSubmodulesAreBounded(t *testing.T) {
	f := serve(t)
	h := f.push("r0", false, map[string]string{"x": "0"})
	for i := range maxNesting + 1 {
		h = f.push(fmt.Sprintf("r%d", i+1), false, nil, gitlink{"m", fmt.Sprintf("../r%d.git", i), h})
	}
	if _, err := f.files(f.URL(fmt.Sprintf("r%d", maxNesting)), git.Credentials{}); err != nil {
		t.Errorf("%d deep: %v", maxNesting, err)
	}
	if _, err := f.files(f.URL(fmt.Sprintf("r%d", maxNesting+1)), git.Credentials{}); !errors.Is(err, ErrModule) || !strings.Contains(err.Error(), "nested more than") {
		t.Errorf("%d deep: %v", maxNesting+1, err)
	}
}

// TestA27FiltersAreNotRun has files that make git itself run filters or fetch
// from another server: they are content like all others.
func TestA27FiltersAreNotRun(t *testing.T) {
	f := serve(t)
	pointer := "version https://git-lfs.github.com/spec/v1\noid sha256:" + strings.Repeat("ab", 32) + "\nsize 12345\n"
	want := map[string]string{"big.dat": pointer, "x.sh": "echo", "sub/config": "[core]\n\tsshCommand = touch pwned\n"}
	files := map[string]string{".gitattributes": "*.dat filter=lfs\n*.sh filter=run export-ignore\n", ".lfsconfig": "[lfs]\nurl = http://169.254.169.254/\n"}
	for name, content := range want {
		files[name] = content
	}
	f.push("app", false, files)
	got, err := f.files(f.URL("app"), git.Credentials{})
	delete(got, ".gitattributes")
	delete(got, ".lfsconfig")
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

func TestSymbolicLinksBecomeCopies(t *testing.T) {
	f := serve(t)
	f.push("app", false, map[string]string{"real/a.yaml": "a", "real/sub/b.yaml": "b", "real/sub/up": "-> ../a.yaml", "file": "-> real/a.yaml", "dir": "-> real",
		"chain": "-> dir", "out": "-> ../../../etc/passwd", "abs": "-> /etc/passwd", "broken": "-> nothing", "real/loop": "-> ..", "real/self": "-> self", "one/two": "-> ../two/one", "two/one": "-> ../one/two"})
	want := map[string]string{}
	for _, d := range []string{"real", "dir", "chain"} {
		want[d+"/a.yaml"], want[d+"/sub/b.yaml"], want[d+"/sub/up"] = "a", "b", "a"
	}
	want["file"] = "a"
	f.linked = true
	got, err := f.files(f.URL("app"), git.Credentials{})
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	got, err = f.files(f.URL("app"), git.Credentials{}, "real/sub")
	if diff := cmp.Diff(map[string]string{"real/sub/b.yaml": "b"}, got); err != nil || diff != "" {
		t.Errorf("a link out of the sparse checkout: %v\n%s", err, diff)
	}
}

func TestInclude(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"app/x.yaml": "x", "app/deep/y.yaml": "y", "z.yaml": "z", "app/link": "-> /etc/passwd"})
	for name, c := range map[string]struct {
		from, to string
		want     map[string]string
	}{
		"everything":     {"", "lib", map[string]string{"own": "1", "lib/app/x.yaml": "x", "lib/app/deep/y.yaml": "y", "lib/z.yaml": "z"}},
		"a directory":    {"./app/", "a/b", map[string]string{"own": "1", "a/b/x.yaml": "x", "a/b/deep/y.yaml": "y"}},
		"to the root":    {"app", "/", map[string]string{"own": "1", "x.yaml": "x", "deep/y.yaml": "y"}},
		"a file":         {"z.yaml", "own", map[string]string{"own": "z"}},
		"cannot get out": {"../../app", "../../../up", map[string]string{"own": "1", "up/x.yaml": "x", "up/deep/y.yaml": "y"}},
		"missing":        {"nope", "a", nil},
		"a link":         {"app/link", "a", nil},
		"under a file":   {"app", "own/a", nil},
		"file to root":   {"z.yaml", "", nil},
	} {
		tree := New()
		own := artifact.Entry{Size: 1, Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("1")), nil }}
		if err := tree.put("own", item{open: func() (artifact.Entry, error) { return own, nil }}); err != nil {
			t.Fatal(err)
		}
		err := tree.Include(dir, c.from, c.to)
		if (c.want == nil) != errors.Is(err, ErrInclude) {
			t.Errorf("%s: %v", name, err)
		}
		if c.want == nil {
			continue
		}
		got, err := contents(tree, nil)
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
}

func TestResolve(t *testing.T) {
	for _, c := range []struct{ parent, raw, want string }{
		{"https://h/a/b.git", "../c.git", "https://h/a/c.git"},
		{"https://h/a/b.git", "./c.git", "https://h/a/b.git/c.git"},
		{"ssh://git@h:22/a/b", "../../c", "ssh://git@h:22/c"},
		{"https://h/a", "git@github.com:x/y.git", "ssh://git@github.com/x/y.git"},
		{"https://h/a", "https://other/x", "https://other/x"},
		{"https://h/a", "http://h/x", ""},
		{"http://h/a", "http://h/x", "http://h/x"},
		{"https://h/a", "C:\\x", ""},
		{"https://h/a", "../", ""},
		{"https://h/a", "x/y", ""},
	} {
		if got, err := resolve(c.parent, c.raw); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s in %s: got %q, %v", c.raw, c.parent, got, err)
		}
	}
}

func FuzzModules(f *testing.F) {
	f.Add("[submodule \"a\"]\n\tpath = x\n\turl = ../y.git # c\n[core]\npath=z", "https://h/a/b")
	f.Add("[submodule \"a\\\"b\"] path = \"q;\\\\\"\r\nurl = git@h:x", "ssh://git@h/a")
	f.Add("[suBmodule \"\"]url=./", "0") // found by fuzzing: parents without a host, or a scheme
	f.Add("[suBmodule \"\"]url=./", "//0/0")
	f.Fuzz(func(t *testing.T, data, parent string) {
		list, err := parseModules([]byte(data))
		if err != nil {
			return
		}
		for _, m := range list {
			u, err := resolve(parent, m.url)
			if err == nil && !strings.HasPrefix(u, "http://") && !strings.HasPrefix(u, "https://") && !strings.HasPrefix(u, "ssh://") {
				t.Errorf("%q in %q gives %q", m.url, parent, u)
			}
			if strings.ContainsAny(m.path+m.url, "\n") {
				t.Errorf("a value of more than one line: %q", m)
			}
		}
	})
}

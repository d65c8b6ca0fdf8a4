package git

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"headwater.dev/dev/gitserver"
)

// write gives the URL with the account that may push.
func (f *fixture) write(repo string) string {
	return strings.Replace(f.URL(repo), "://", "://dev:"+password+"@", 1)
}

func (f *fixture) change(repo, branch string, c gitserver.Change) string {
	f.t.Helper()
	h, err := f.CommitChange(repo, branch, c)
	if err != nil {
		f.t.Fatal(err)
	}
	return h
}

// clone gives a work tree of the public repository that may push.
func (f *fixture) clone() string {
	f.t.Helper()
	dir := filepath.Join(f.t.TempDir(), "work")
	git(f.t, "", "clone", "-q", f.write("public"), dir)
	return dir
}

func TestReferencesThatMove(t *testing.T) {
	f := serve(t, false)
	at := func(ref Reference) (string, error) {
		revision, _, err := f.update(f.URL("public"), Credentials{}, ref)
		return revision, err
	}
	if _, err := at(Reference{Branch: "main"}); !errors.Is(err, ErrEmpty) {
		t.Errorf("an empty repository: %v", err)
	}
	one := f.commit("public", "main", map[string]string{"v": "1"})
	dir := f.clone()
	git(t, dir, "tag", "-a", "-m", "first", "moving")
	git(t, dir, "push", "-q", "origin", "moving", "main:refs/heads/other")
	if got, err := at(Reference{Tag: "moving"}); got != "moving@sha1:"+one {
		t.Errorf("tag: %s, %v", got, err)
	}
	git(t, dir, "tag", "-f", "-a", "-m", "again", "moving")
	git(t, dir, "push", "-q", "-f", "origin", "moving")
	if got, err := at(Reference{Tag: "moving"}); got != "moving@sha1:"+one {
		t.Errorf("another tag object of the same commit: %s, %v", got, err)
	}
	two := f.commit("public", "main", map[string]string{"v": "2"})
	git(t, dir, "fetch", "-q", "origin", "main")
	git(t, dir, "tag", "-f", "moving", "FETCH_HEAD")
	git(t, dir, "push", "-q", "-f", "origin", "moving")
	if got, err := at(Reference{Tag: "moving"}); got != "moving@sha1:"+two {
		t.Errorf("moved tag: %s, %v", got, err)
	}
	if got, err := at(Reference{Branch: "other"}); got != "other@sha1:"+one {
		t.Errorf("a second branch of the same mirror: %s, %v", got, err)
	}
	git(t, dir, "push", "-q", "origin", ":refs/heads/other")
	if _, err := at(Reference{Branch: "other"}); !errors.Is(err, ErrReference) || errors.Is(err, ErrEmpty) {
		t.Errorf("deleted branch: %v", err)
	}
}

// strict makes a repository give only what its references show, as servers of
// version 0 do when nobody changed that.
func (f *fixture) strict(t *testing.T, version string) string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(f.dir, "repositories", "public.git"))
	if err != nil || len(dirs) != 1 {
		t.Fatal(dirs, err)
	}
	git(t, dirs[0], "config", "uploadpack.allowReachableSHA1InWant", "false")
	s := httptest.NewServer(speaking(f, version))
	t.Cleanup(s.Close)
	return s.URL + "/public.git"
}

func TestPinnedCommits(t *testing.T) {
	f := serve(t, true)
	ca := Credentials{CA: f.Authority().PEM()}
	var commits []string
	for i := range 5 {
		commits = append(commits, f.commit("public", "main", map[string]string{"v": fmt.Sprint(i)}))
	}
	side := f.change("public", "side", gitserver.Change{Message: "m", Write: map[string]string{"v": "side"}, Orphan: true})
	for name, url := range map[string]string{"version 2": f.URL("public"), "version 1": f.strict(t, "version=1"), "version 0": f.strict(t, ""), "ssh": f.SSHURL("public")} {
		t.Run(name, func(t *testing.T) {
			c := ca
			if name == "ssh" {
				c = Credentials{Identity: f.keys["ed25519"], KnownHosts: []byte(f.KnownHosts())}
			}
			for _, c2 := range []struct {
				why    string
				ref    Reference
				want   string
				inFile string
			}{
				{"below the tip", Reference{Commit: commits[1]}, "sha1:" + commits[1], "1"},
				{"on its branch", Reference{Commit: commits[2], Branch: "main"}, "main@sha1:" + commits[2], "2"},
				{"the tip", Reference{Commit: commits[4], Branch: "main"}, "main@sha1:" + commits[4], "4"},
				{"known already, on another branch", Reference{Commit: commits[2], Branch: "side"}, "", ""},
				{"new, on another branch", Reference{Commit: side, Branch: "main"}, "", ""},
				{"on no branch of that name", Reference{Commit: commits[0], Branch: "nope"}, "", ""},
				{"nowhere", Reference{Commit: strings.Repeat("ab", 20)}, "", ""},
				{"nowhere, with branch", Reference{Commit: strings.Repeat("ab", 20), Branch: "main"}, "", ""},
			} {
				got, files, err := f.update(url, c, c2.ref)
				if got != c2.want || files["v"] != c2.inFile {
					t.Errorf("%s: %q with %v, %v", c2.why, got, files, err)
				}
				if c2.want == "" && !errors.Is(err, ErrReference) {
					t.Errorf("%s: %v", c2.why, err)
				}
			}
		})
	}
}

// TestA26SparseCheckoutIsNoOracle asks for paths outside of the repository: the
// answer is the same whether they exist or not.
func TestA26SparseCheckoutIsNoOracle(t *testing.T) {
	f := serve(t, false)
	f.commit("public", "main", map[string]string{"dir/a": "1", "file": "1"})
	r, err := NewRemote(f.URL("public"), Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	_, s, err := f.mirrors.For(r).Update(t.Context(), r, Reference{Branch: "main"}, func(Target) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	answer := func(dir string) string {
		files, err := contents(s, Selection{Directories: []string{dir}})
		if err == nil {
			return fmt.Sprint(files)
		}
		return strings.ReplaceAll(err.Error(), dir, "DIR")
	}
	for exists, missing := range map[string]string{"../../etc": "../../nope", "/etc": "/nope", "dir/../../etc": "dir/../../nope", "etc/passwd": "etc/nope", "file": "nope", ".git": ".nope", "proc/self": "proc/nope"} {
		if a, b := answer(exists), answer(missing); a != b || !strings.Contains(a, "sparse checkout") {
			t.Errorf("%q: %s\n%q: %s", exists, a, missing, b)
		}
	}
	if got := answer("./dir"); got != "map[dir/a:1]" {
		t.Errorf("a directory: %s", got)
	}
}

// TestManyReferences asks for one reference of ten thousand: the server sends
// those of that name alone.
func TestManyReferences(t *testing.T) {
	f := serve(t, false)
	h := f.commit("public", "main", map[string]string{"v": "1"})
	var packed strings.Builder
	packed.WriteString("# pack-refs with: peeled fully-peeled sorted \n")
	for i := range 10000 {
		fmt.Fprintf(&packed, "%s refs/heads/b/%05d\n", h, i)
	}
	for i := range 1000 {
		fmt.Fprintf(&packed, "%s refs/tags/v1.%03d.0\n", h, i)
	}
	if err := os.WriteFile(filepath.Join(f.dir, "repositories", "public.git", "packed-refs"), []byte(packed.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ref  Reference
		want string
		most int64
	}{
		{Reference{Branch: "b/07777"}, "b/07777@sha1:" + h, 2000},
		{Reference{SemVer: "<1.100.0"}, "", 1 << 20},
		{Reference{SemVer: "1.x"}, "v1.999.0@sha1:" + h, 1 << 20},
	} {
		before := f.Traffic("public").Sent
		got, _, err := f.update(f.URL("public"), Credentials{}, c.ref)
		if err != nil && !strings.Contains(err.Error(), "is a version in the range") || c.want != "" && got != c.want {
			t.Errorf("%+v: %q, %v", c.ref, got, err)
		}
		if sent := f.Traffic("public").Sent - before; sent > c.most {
			t.Errorf("%+v: %d bytes, want at most %d", c.ref, sent, c.most)
		}
	}
}

// TestServersWithoutShallowFetches have no other way than to send histories, as
// AWS CodeCommit does. What was compacted away is then missing when it comes
// back: the mirror notices and starts again.
func TestServersWithoutShallowFetches(t *testing.T) {
	f := serve(t, true)
	next := version0(f)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		body := rec.Body.Bytes()
		if r.Method == http.MethodGet {
			body = bytes.ReplaceAll(body, []byte(" shallow "), []byte(" shallxw "))
		}
		_, _ = w.Write(body)
	}))
	defer s.Close()
	url := s.URL + "/public.git"
	first := strings.Repeat("the first content\n", 50)
	f.commit("public", "main", map[string]string{"v": first})
	check := func(want string) error {
		_, files, err := f.update(url, Credentials{}, Reference{Branch: "main"})
		if err == nil && files["v"] != want {
			err = fmt.Errorf("content %.40q", files["v"])
		}
		return err
	}
	if err := check(first); err != nil {
		t.Fatal(err)
	}
	for i := range maxPacks + 5 {
		text := fmt.Sprintf("content %d\n", i)
		f.commit("public", "main", map[string]string{"v": text})
		if err := check(text); err != nil {
			t.Fatalf("commit %d: %v", i, err)
		}
	}
	f.commit("public", "main", map[string]string{"v": first})
	err := check(first)
	if errors.Is(err, ErrDamaged) {
		r, rerr := NewRemote(url, Credentials{})
		if rerr != nil {
			t.Fatal(rerr)
		}
		if rerr := f.mirrors.For(r).Reset(t.Context()); rerr != nil {
			t.Fatal(rerr)
		}
		err = check(first)
	}
	if err != nil {
		t.Errorf("content that comes back: %v", err)
	}
}

package git

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"headwater.dev/dev/gitserver"
)

const password = "canary-Passw0rd"

type fixture struct {
	*gitserver.Server
	t       *testing.T
	mirrors *Mirrors
	keys    map[string][]byte // private keys by kind, all authorised
	dir     string            // of the server
}

// serve starts a Git server with the repositories "public" and "private".
func serve(t *testing.T, tls bool) *fixture {
	t.Helper()
	f := &fixture{t: t, keys: map[string][]byte{}, dir: t.TempDir()}
	var public []string
	for kind, key := range privateKeys(t) {
		signer, err := ssh.NewSignerFromKey(key)
		if err != nil {
			t.Fatal(err)
		}
		public = append(public, string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
		block, err := ssh.MarshalPrivateKey(key, "")
		if err != nil {
			t.Fatal(err)
		}
		f.keys[kind] = pem.EncodeToMemory(block)
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(password))
		if err != nil {
			t.Fatal(err)
		}
		f.keys[kind+" with passphrase"] = pem.EncodeToMemory(block)
	}
	var err error
	f.Server, err = gitserver.Start(gitserver.Config{Dir: f.dir, TLS: tls,
		Accounts: []gitserver.Account{{Name: "dev", Password: password, Keys: public}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	for repo, private := range map[string]bool{"public": false, "private": true} {
		if err := f.CreateRepository(repo, private); err != nil {
			t.Fatal(err)
		}
	}
	if f.mirrors, err = OpenMirrors(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	return f
}

func privateKeys(t *testing.T) map[string]any {
	t.Helper()
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, d, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"rsa": r, "ecdsa": e, "ed25519": &d}
}

func (f *fixture) commit(repo, branch string, files map[string]string) string {
	f.t.Helper()
	h, err := f.Commit(repo, branch, "change\n\nbody", files)
	if err != nil {
		f.t.Fatal(err)
	}
	return h
}

// update fetches and gives revision and files.
func (f *fixture) update(raw string, c Credentials, ref Reference) (string, map[string]string, error) {
	r, err := NewRemote(raw, c)
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
	defer cancel()
	t, s, err := f.mirrors.For(r).Update(ctx, r, ref, func(Target) bool { return false })
	if err != nil {
		return "", nil, err
	}
	defer s.Close()
	files, err := contents(s, Selection{})
	return t.Revision(), files, err
}

func contents(s *Snapshot, sel Selection) (map[string]string, error) {
	files := map[string]string{}
	for e, err := range s.Files(sel) {
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
		if err != nil || int64(len(data)) != e.Size {
			return nil, fmt.Errorf("%s: %d bytes of %d: %v", e.Path, len(data), e.Size, err)
		}
		files[e.Path] = string(data)
	}
	return files, nil
}

func TestFetchOverEveryTransport(t *testing.T) {
	f := serve(t, true)
	want := map[string]string{"a/b.yaml": "x: 1\n", "run.sh": "#!/bin/sh\n"}
	h := f.commit("private", "main", want)
	old := httptest.NewServer(version0(f))
	defer old.Close()
	version1 := httptest.NewServer(speaking(f, "version=1"))
	defer version1.Close()
	ca := f.Authority().PEM()
	known := []byte(f.KnownHosts())
	cases := map[string]struct {
		url string
		c   Credentials
	}{
		"https":           {f.URL("private"), Credentials{Username: "dev", Password: password, CA: ca}},
		"https version 1": {version1.URL + "/private.git", Credentials{Username: "dev", Password: password}},
		"https version 0": {old.URL + "/private.git", Credentials{Username: "dev", Password: password}},
	}
	for kind, key := range f.keys {
		cases["ssh "+kind] = struct {
			url string
			c   Credentials
		}{f.SSHURL("private"), Credentials{Identity: key, KnownHosts: known, Passphrase: []byte(password)}}
	}
	for name, c := range cases {
		revision, files, err := f.update(c.url, c.c, Reference{Branch: "main"})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if revision != "main@sha1:"+h {
			t.Errorf("%s: revision %s", name, revision)
		}
		if diff := cmp.Diff(want, files); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// version0 is the server as one that knows nothing of version 2.
func version0(f *fixture) http.Handler { return speaking(f, "") }

// speaking is the server as one that is asked for another version.
func speaking(f *fixture, version string) http.Handler {
	to, _ := url.Parse(f.BaseURL())
	return &httputil.ReverseProxy{
		Transport: trusting(f),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Header.Set("Git-Protocol", version)
		},
	}
}

func trusting(f *fixture) http.RoundTripper {
	u, _ := url.Parse(f.BaseURL())
	c, err := newHTTPClient(u, Credentials{CA: f.Authority().PEM()}, &seen{})
	if err != nil {
		f.t.Fatal(err)
	}
	return c.Transport
}

func TestReferences(t *testing.T) {
	f := serve(t, false)
	one := f.commit("public", "main", map[string]string{"v": "1"})
	dir := filepath.Join(t.TempDir(), "work")
	git(t, "", "clone", "-q", f.URL("public"), dir)
	git(t, dir, "tag", "v1.0.0")
	two := f.commit("public", "main", map[string]string{"v": "2"})
	git(t, dir, "pull", "-q")
	git(t, dir, "tag", "-a", "-m", "two", "v1.2.0")
	git(t, dir, "tag", "v2.0.0-rc.1")
	git(t, dir, "tag", "nightly")
	git(t, dir, "remote", "set-url", "origin", strings.Replace(f.URL("public"), "://", "://dev:"+password+"@", 1))
	git(t, dir, "push", "-q", "--tags")
	feature := f.commit("public", "feature/x", map[string]string{"v": "3"})
	for name, c := range map[string]struct {
		ref       Reference
		want, err string
	}{
		"branch":            {Reference{Branch: "main"}, "main@sha1:" + two, ""},
		"branch with slash": {Reference{Branch: "feature/x"}, "feature/x@sha1:" + feature, ""},
		"master by default": {Reference{}, "", "refs/heads/master"},
		"tag":               {Reference{Tag: "v1.0.0"}, "v1.0.0@sha1:" + one, ""},
		"annotated tag":     {Reference{Tag: "v1.2.0"}, "v1.2.0@sha1:" + two, ""},
		"tag over branch":   {Reference{Branch: "main", Tag: "v1.0.0"}, "v1.0.0@sha1:" + one, ""},
		"range":             {Reference{SemVer: ">=1.0.0"}, "v1.2.0@sha1:" + two, ""},
		"range with pre":    {Reference{SemVer: ">=1.0.0-0"}, "v2.0.0-rc.1@sha1:" + two, ""},
		"range of patches":  {Reference{SemVer: "~1.0.0"}, "v1.0.0@sha1:" + one, ""},
		"empty range":       {Reference{SemVer: ">=9"}, "", "tags is a version in the range"},
		"bad range":         {Reference{SemVer: "foo"}, "", "invalid semver range"},
		"name":              {Reference{Name: "refs/heads/main"}, "refs/heads/main@sha1:" + two, ""},
		"head":              {Reference{Name: "HEAD"}, "HEAD@sha1:" + two, ""},
		"commit":            {Reference{Commit: one}, "sha1:" + one, ""},
		"commit on branch":  {Reference{Commit: one, Branch: "main"}, "main@sha1:" + one, ""},
		"missing commit":    {Reference{Commit: strings.Repeat("ab", 20)}, "", "reference not found"},
		"missing branch":    {Reference{Branch: "nope"}, "", "reference not found"},
		"prefix of branch":  {Reference{Branch: "mai"}, "", "reference not found"},
		"injection":         {Reference{Branch: "main\n0000"}, "", "invalid branch"},
		"dash":              {Reference{Branch: "--upload-pack=x"}, "", "invalid branch"},
		"bad commit":        {Reference{Commit: "HEAD"}, "", "invalid object name"},
	} {
		got, _, err := f.update(f.URL("public"), Credentials{}, c.ref)
		if got != c.want || (err == nil) != (c.err == "") || (err != nil && !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: got %q, %v; want %q, %q", name, got, err, c.want, c.err)
		}
	}
}

func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

func TestOnlyWhatIsNewIsFetched(t *testing.T) {
	f := serve(t, false)
	files := map[string]string{}
	for i := range 300 {
		files[fmt.Sprintf("apps/%03d/a.yaml", i)] = strings.Repeat(fmt.Sprintf("value %d of many\n", i*7919), 100)
	}
	f.commit("public", "main", files)
	if _, _, err := f.update(f.URL("public"), Credentials{}, Reference{Branch: "main"}); err != nil {
		t.Fatal(err)
	}
	first := f.Traffic("public")
	// Small changes, so that deltas are sent whose bases are in earlier packs.
	for i := range 3 {
		name := fmt.Sprintf("apps/%03d/a.yaml", i)
		files[name] += "and more\n"
		h := f.commit("public", "main", map[string]string{name: files[name]})
		before := f.Traffic("public")
		revision, got, err := f.update(f.URL("public"), Credentials{}, Reference{Branch: "main"})
		if err != nil || revision != "main@sha1:"+h {
			t.Fatalf("%s, %v", revision, err)
		}
		if diff := cmp.Diff(files, got); diff != "" {
			t.Fatal(diff)
		}
		if sent := f.Traffic("public").Sent - before.Sent; sent > first.Sent/4 {
			t.Errorf("%d bytes for one changed file, %d for all", sent, first.Sent)
		}
	}
	before := f.Traffic("public")
	r, err := NewRemote(f.URL("public"), Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	_, s, err := f.mirrors.For(r).Update(t.Context(), r, Reference{Branch: "main"}, func(Target) bool { return true })
	if err != nil || s != nil {
		t.Fatalf("%v, %v", s, err)
	}
	after := f.Traffic("public")
	if after.Lists-before.Lists != 1 || after.Fetches != before.Fetches {
		t.Errorf("unchanged: %d lists and %d fetches, want 1 and 0", after.Lists-before.Lists, after.Fetches-before.Fetches)
	}
}

func TestForcedPushAndManyPacks(t *testing.T) {
	f := serve(t, false)
	big := map[string]string{"n": "0"}
	for i := range 100 {
		big[fmt.Sprintf("d/%d/big.yaml", i)] = strings.Repeat(fmt.Sprintf("value %d\n", i*7919), 200)
	}
	f.commit("public", "main", big)
	r, _ := NewRemote(f.URL("public"), Credentials{})
	largest := int64(0)
	for i := range 2*maxPacks + 5 {
		h, err := f.CommitChange("public", "main", gitserver.Change{Message: "m", Write: map[string]string{"n": fmt.Sprint(i)}})
		if err != nil {
			t.Fatal(err)
		}
		before := f.Traffic("public").Sent
		revision, got, err := f.update(f.URL("public"), Credentials{}, Reference{Branch: "main"})
		if err != nil || revision != "main@sha1:"+h || got["n"] != fmt.Sprint(i) || len(got) != len(big) {
			t.Fatalf("commit %d: %s, %d files, %v", i, revision, len(got), err)
		}
		if i > 0 {
			largest = max(largest, f.Traffic("public").Sent-before)
		}
	}
	packs, _ := filepath.Glob(filepath.Join(f.mirrors.For(r).dir, "*.pack"))
	if len(packs) > maxPacks+1 {
		t.Errorf("%d packs", len(packs))
	}
	if largest > 3000 {
		t.Errorf("%d bytes for one changed line: compacting fetched again", largest)
	}
	h, err := f.CommitChange("public", "main", gitserver.Change{Message: "m", Write: map[string]string{"n": "forced"}, Orphan: true, Replace: true})
	if err != nil {
		t.Fatal(err)
	}
	revision, got, err := f.update(f.URL("public"), Credentials{}, Reference{Branch: "main"})
	if diff := cmp.Diff(map[string]string{"n": "forced"}, got); err != nil || revision != "main@sha1:"+h || diff != "" {
		t.Errorf("after a forced push: %s, %v %s", revision, err, diff)
	}
}

func TestDamagedMirrorHeals(t *testing.T) {
	f := serve(t, false)
	f.commit("public", "main", map[string]string{"a": "1"})
	if _, _, err := f.update(f.URL("public"), Credentials{}, Reference{Branch: "main"}); err != nil {
		t.Fatal(err)
	}
	r, _ := NewRemote(f.URL("public"), Credentials{})
	packs, _ := filepath.Glob(filepath.Join(f.mirrors.For(r).dir, "*.pack"))
	for _, p := range packs {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	if _, files, err := f.update(f.URL("public"), Credentials{}, Reference{Branch: "main"}); err != nil || files["a"] != "1" {
		t.Errorf("%v, %v", files, err)
	}
}

func TestErrorsHaveClassesAndNoSecrets(t *testing.T) {
	f := serve(t, true)
	f.commit("private", "main", map[string]string{"a": "1"})
	ca := f.Authority().PEM()
	basic := func(user, pass string) Credentials { return Credentials{Username: user, Password: pass, CA: ca} }
	_, other, _ := ed25519.GenerateKey(rand.Reader)
	block, _ := ssh.MarshalPrivateKey(&other, "")
	unknown := pem.EncodeToMemory(block)
	signer, _ := ssh.NewSignerFromKey(&other)
	host := strings.Fields(f.KnownHosts())[0]
	wrongHost := []byte(host + " " + string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	key := f.keys["ed25519"]
	for name, c := range map[string]struct {
		url  string
		c    Credentials
		want error
	}{
		"no password":         {f.URL("private"), Credentials{CA: ca}, ErrAuth},
		"wrong password":      {f.URL("private"), basic("dev", password+"x"), ErrAuth},
		"unknown CA":          {f.URL("private"), Credentials{Username: "dev", Password: password}, nil},
		"missing repository":  {f.URL("nope"), basic("dev", password), ErrRepository},
		"ssh missing":         {f.SSHURL("nope"), Credentials{Identity: key, KnownHosts: []byte(f.KnownHosts())}, ErrRepository},
		"ssh wrong key":       {f.SSHURL("private"), Credentials{Identity: unknown, KnownHosts: []byte(f.KnownHosts())}, ErrAuth},
		"ssh unknown host":    {f.SSHURL("private"), Credentials{Identity: key, KnownHosts: []byte("example.com " + strings.SplitN(f.KnownHosts(), " ", 2)[1])}, ErrHostKey},
		"ssh changed host":    {f.SSHURL("private"), Credentials{Identity: key, KnownHosts: wrongHost}, ErrHostKey},
		"ssh no known hosts":  {f.SSHURL("private"), Credentials{Identity: key}, ErrInvalid},
		"ssh no key":          {f.SSHURL("private"), Credentials{KnownHosts: []byte(f.KnownHosts())}, ErrInvalid},
		"ssh no passphrase":   {f.SSHURL("private"), Credentials{Identity: f.keys["rsa with passphrase"], KnownHosts: []byte(f.KnownHosts())}, ErrInvalid},
		"ssh quotes in path":  {strings.Replace(f.SSHURL("x"), "/x.git", "/x';touch%20$HOME/pwned;'", 1), Credentials{Identity: key, KnownHosts: []byte(f.KnownHosts())}, nil},
		"file":                {"file:///etc", Credentials{}, ErrInvalid},
		"ext":                 {"ext::sh -c id", Credentials{}, ErrInvalid},
		"git":                 {"git://example.com/x", Credentials{}, ErrInvalid},
		"dash host":           {"ssh://-oProxyCommand=id/x", Credentials{Identity: key, KnownHosts: []byte("x")}, ErrInvalid},
		"no host":             {"https:///x", Credentials{}, ErrInvalid},
		"no path":             {"https://example.com/", Credentials{}, ErrInvalid},
		"control character":   {"https://example.com/a%0Ab", Credentials{}, ErrInvalid},
		"password in the URL": {strings.Replace(f.URL("nope"), "://", "://dev:"+password+"@", 1), Credentials{CA: ca}, ErrRepository},
	} {
		_, _, err := f.update(c.url, c.c, Reference{Branch: "main"})
		if err == nil || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), password) {
			t.Errorf("%s: the error shows the password: %v", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(os.Getenv("HOME"), "pwned")); err == nil {
		t.Error("a path was executed")
	}
}

func TestRedirects(t *testing.T) {
	f := serve(t, false)
	f.commit("public", "main", map[string]string{"a": "1"})
	var leaked string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leaked = r.Header.Get("Authorization")
		http.Redirect(w, r, f.BaseURL()+strings.TrimPrefix(r.URL.Path, "/there")+"?"+r.URL.RawQuery, http.StatusFound)
	}))
	defer elsewhere.Close()
	from := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/loop") {
			http.Redirect(w, r, r.URL.String(), http.StatusFound)
			return
		}
		http.Redirect(w, r, elsewhere.URL+"/there"+r.URL.Path+"?"+r.URL.RawQuery, http.StatusMovedPermanently)
	}))
	defer from.Close()
	if _, files, err := f.update(from.URL+"/public.git", Credentials{}, Reference{Branch: "main"}); err != nil || files["a"] != "1" {
		t.Errorf("without credentials: %v, %v", files, err)
	}
	for name, c := range map[string]Credentials{"basic": {Username: "u", Password: password}, "bearer": {BearerToken: password}} {
		_, _, err := f.update(from.URL+"/public.git", c, Reference{Branch: "main"})
		if err == nil || !strings.Contains(err.Error(), "not sent to another host") || leaked != "" {
			t.Errorf("%s: got %v, leaked %q", name, err, leaked)
		}
	}
	if _, _, err := f.update(from.URL+"/loop", Credentials{}, Reference{Branch: "main"}); err == nil || !strings.Contains(err.Error(), "more than 5 redirects") {
		t.Errorf("loop: %v", err)
	}
	https, _ := url.Parse("https://a.example/x/info/refs")
	if _, err := follow(https, "http://a.example/x/info/refs", Credentials{}); err == nil {
		t.Error("https to http was followed")
	}
}

func TestHangingServersEnd(t *testing.T) {
	f := serve(t, false)
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, raw := range []string{"http://" + l.Addr().String() + "/x", "ssh://git@" + l.Addr().String() + "/x"} {
		r, err := NewRemote(raw, Credentials{Identity: f.keys["ed25519"], KnownHosts: []byte(f.KnownHosts())})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		start := time.Now()
		_, _, err = f.mirrors.For(r).Update(ctx, r, Reference{}, func(Target) bool { return false })
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 5*time.Second {
			t.Errorf("%s: %v after %s", raw, err, time.Since(start))
		}
	}
}

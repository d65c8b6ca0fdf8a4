package artifact

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/google/go-cmp/cmp"
)

func open(t *testing.T, o Options) *Store {
	t.Helper()
	if o.Root == "" {
		o.Root = t.TempDir()
	}
	o.Address = "source.example"
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var key = Key{Kind: "GitRepository", Namespace: "apps", Name: "web"}

func publish(t *testing.T, s *Store, file, content string) meta.Artifact {
	t.Helper()
	a, err := s.Publish(t.Context(), Put{Key: key, File: file, Latest: "latest.tar.gz", Revision: "main@sha1:" + file,
		Write: func(w io.Writer) error { _, err := io.WriteString(w, content); return err }})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// archive packs files given as path and content; a path that ends in "/" is a
// directory.
func archive(t *testing.T, files ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	err := Pack(&buf, func(yield func(Entry, error) bool) {
		for i := 0; i < len(files); i += 2 {
			name, content := files[i], files[i+1]
			e := Entry{Path: strings.TrimSuffix(name, "/"), Dir: strings.HasSuffix(name, "/"), Size: int64(len(content)),
				Executable: strings.HasSuffix(name, ".sh"),
				Open:       func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }}
			if !yield(e, nil) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestPublishServesTheLayoutClientsKnow(t *testing.T) {
	s := open(t, Options{})
	a := publish(t, s, "aaa.tar.gz", "one")
	if want := "gitrepository/apps/web/aaa.tar.gz"; a.Path != want || a.URL != "http://source.example/"+want {
		t.Errorf("path %q, URL %q, want %q", a.Path, a.URL, want)
	}
	if a.Size == nil || *a.Size != 3 || a.Digest != "sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed" {
		t.Errorf("size %v, digest %s", a.Size, a.Digest)
	}
	publish(t, s, "bbb.tar.gz", "two")
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	for path, want := range map[string]string{
		"/gitrepository/apps/web/aaa.tar.gz":                             "200 one",
		"/gitrepository/apps/web/bbb.tar.gz":                             "200 two",
		"/gitrepository/apps/web/latest.tar.gz":                          "200 two",
		"/gitrepository/apps/web/":                                       "404 ",
		"/gitrepository/apps/web":                                        "404 ",
		"/":                                                              "404 ",
		"/gitrepository/apps/web/../web/aaa.tar.gz":                      "404 ",
		"/gitrepository/apps/web/%2e%2e":                                 "404 ",
		"/gitrepository/apps/web/..%2f..%2f..%2ftmp":                     "404 ",
		"/blobs/sha256/" + strings.TrimPrefix(a.Digest, "sha256:") + "/": "404 ",
		"/blobs/sha256/x/" + strings.TrimPrefix(a.Digest, "sha256:"):     "404 ",
	} {
		req, _ := http.NewRequest(http.MethodGet, server.URL, nil)
		req.URL.Opaque = path // as it is, uncleaned
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		got := resp.Status[:4]
		if resp.StatusCode == http.StatusOK {
			got += string(body)
		}
		if got != want {
			t.Errorf("GET %s: %q, want %q", path, got, want)
		}
	}
	resp, err := http.Post(server.URL+"/gitrepository/apps/web/aaa.tar.gz", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", resp.Status)
	}
}

func TestPublishRefusesNamesThatLeaveTheLayout(t *testing.T) {
	s := open(t, Options{})
	for _, p := range []Put{
		{Key: Key{"GitRepository", "..", "x"}, File: "a"},
		{Key: Key{"blobs", "a", "x"}, File: "a"},
		{Key: Key{"TMP", "a", "x"}, File: "a"},
		{Key: key, File: "../a"},
		{Key: key, File: "a", Latest: "x/y"},
		{Key: key},
	} {
		p.Write = func(io.Writer) error { return nil }
		if _, err := s.Publish(t.Context(), p); err == nil {
			t.Errorf("published %+v", p)
		}
	}
}

func TestFailedPublicationChangesNothing(t *testing.T) {
	s := open(t, Options{})
	a := publish(t, s, "aaa.tar.gz", "one")
	boom := errors.New("boom")
	_, err := s.Publish(t.Context(), Put{Key: key, File: "aaa.tar.gz", Write: func(w io.Writer) error {
		io.WriteString(w, "half")
		return boom
	}})
	if !errors.Is(err, boom) {
		t.Fatalf("got %v", err)
	}
	if err := s.Verify(t.Context(), a); err != nil {
		t.Error(err)
	}
	left, _ := os.ReadDir(filepath.Join(s.Root(), tempDir))
	if len(left) != 0 {
		t.Errorf("temporary files left: %v", left)
	}
}

func TestWarmRestartFindsArtifactsAndDamage(t *testing.T) {
	s := open(t, Options{})
	good, bad, gone := publish(t, s, "a.tar.gz", "good"), publish(t, s, "b.tar.gz", "bad"), publish(t, s, "c.tar.gz", "gone")
	d, _ := parseDigest(bad.Digest)
	os.Chmod(s.blob(d), 0o600)
	if err := os.WriteFile(s.blob(d), []byte("BAD"), 0o600); err != nil {
		t.Fatal(err)
	}
	g, _ := parseDigest(gone.Digest)
	os.Remove(s.blob(g))
	s = open(t, Options{Root: s.Root()})
	if err := s.Verify(t.Context(), good); err != nil {
		t.Errorf("good: %v", err)
	}
	if err := s.Verify(t.Context(), bad); !errors.Is(err, ErrDigest) {
		t.Errorf("bad: %v", err)
	}
	if err := s.Verify(t.Context(), gone); !errors.Is(err, ErrNotFound) {
		t.Errorf("gone: %v", err)
	}
	publish(t, s, "b.tar.gz", "bad")
	if err := s.Verify(t.Context(), bad); err != nil {
		t.Errorf("publishing again did not repair: %v", err)
	}
}

func TestExpired(t *testing.T) {
	now := time.Unix(1000, 0)
	at := func(name string, ago time.Duration) published { return published{name, now.Add(-ago)} }
	for name, c := range map[string]struct {
		why   string
		files []published
		want  []string
	}{
		"only current":     {"the current artifact stays however old", []published{at("cur", time.Hour)}, nil},
		"young":            {"one more record within the TTL stays", []published{at("cur", 0), at("a", time.Second)}, nil},
		"old":              {"beyond the TTL it goes", []published{at("cur", 0), at("a", 2*time.Minute)}, []string{"a"}},
		"too many":         {"the oldest beyond the count go", []published{at("cur", 0), at("a", 3*time.Second), at("b", 2*time.Second), at("c", time.Second)}, []string{"b", "a"}},
		"current is older": {"a moved-back branch makes an older file current", []published{at("cur", time.Hour), at("a", time.Second)}, nil},
	} {
		got := expired(c.files, "cur", Options{TTL: time.Minute, Records: 2, Now: func() time.Time { return now }})
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s: %s", name, c.why, diff)
		}
	}
}

func TestCollectAndSweepNeverRemoveWhatIsInUse(t *testing.T) {
	s := open(t, Options{Records: 1})
	r := NewReader(s, t.TempDir(), nil)
	old := publish(t, s, "old.tar.gz", "old")
	f, err := r.File(t.Context(), old)
	if err != nil {
		t.Fatal(err)
	}
	cur := publish(t, s, "new.tar.gz", "new")
	removed, err := s.Collect(key, cur)
	if diff := cmp.Diff([]string{"old.tar.gz"}, removed); diff != "" || err != nil {
		t.Fatalf("%v %s", err, diff)
	}
	if n, err := s.Sweep(); n != 0 || err != nil {
		t.Fatalf("swept %d blobs that are in use: %v", n, err)
	}
	if got, err := os.ReadFile(f.Path); string(got) != "old" {
		t.Errorf("file in use: %q, %v", got, err)
	}
	f.Release()
	f.Release()
	if n, err := s.Sweep(); n != 1 || err != nil {
		t.Errorf("swept %d, %v, want the released blob", n, err)
	}
	if err := s.Verify(t.Context(), cur); err != nil {
		t.Error(err)
	}
	if keys, err := s.Objects(); err != nil || len(keys) != 1 || keys[0].String() != key.String() {
		t.Errorf("objects %v, %v", keys, err)
	}
	if err := s.Remove(key); err != nil {
		t.Fatal(err)
	}
	if n, _ := s.Sweep(); n != 1 {
		t.Errorf("swept %d after removal, want 1", n)
	}
}

func TestReaderExtractsOncePerDigest(t *testing.T) {
	s := open(t, Options{})
	a := publish(t, s, "a.tar.gz", string(archive(t, "apps/", "", "apps/x.yaml", "x: 1\n", "run.sh", "#!/bin/sh\n")))
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		s.Handler().ServeHTTP(w, r)
	}))
	defer server.Close()
	a.URL = server.URL + "/" + a.Path
	for name, r := range map[string]Reader{"local": NewReader(s, t.TempDir(), nil), "remote": NewReader(nil, t.TempDir(), nil)} {
		requests.Store(0)
		roots := make([]string, 50)
		trees := make([]*Tree, len(roots))
		var wg sync.WaitGroup
		for i := range roots {
			wg.Go(func() {
				tree, err := r.Tree(context.Background(), a)
				if err != nil {
					t.Error(err)
					return
				}
				roots[i], trees[i] = tree.Root, tree
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		for _, root := range roots {
			if root != roots[0] {
				t.Fatalf("%s: extracted twice: %s and %s", name, root, roots[0])
			}
		}
		if want := map[string]int64{"local": 0, "remote": 1}[name]; requests.Load() != want {
			t.Errorf("%s: %d requests, want %d", name, requests.Load(), want)
		}
		if got, err := os.ReadFile(filepath.Join(roots[0], "apps/x.yaml")); string(got) != "x: 1\n" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if info, err := os.Stat(filepath.Join(roots[0], "run.sh")); err != nil || info.Mode().Perm() != 0o555 {
			t.Errorf("%s: run.sh: %v, %v", name, info.Mode(), err)
		}
		for _, tree := range trees {
			tree.Release()
		}
	}
}

func TestA29ReaderRefusesWrongContent(t *testing.T) {
	good := archive(t, "a.yaml", "a: 1\n")
	s := open(t, Options{})
	a := publish(t, s, "a.tar.gz", string(good))
	for name, c := range map[string]struct {
		serve http.HandlerFunc
		want  error
	}{
		"other archive": {func(w http.ResponseWriter, _ *http.Request) { w.Write(archive(t, "a.yaml", "a: 2\n")) }, ErrDigest},
		"trailing data": {func(w http.ResponseWriter, _ *http.Request) { w.Write(good); w.Write(make([]byte, 8)) }, nil},
		"truncated":     {func(w http.ResponseWriter, _ *http.Request) { w.Write(good[:len(good)-9]) }, nil},
		"gone":          {http.NotFound, ErrNotFound},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}, nil},
	} {
		server := httptest.NewServer(c.serve)
		a.URL = server.URL + "/" + a.Path
		dir := t.TempDir()
		r := NewReader(nil, dir, nil)
		_, err := r.Tree(t.Context(), a)
		if err == nil || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%s: tree: got %v, want %v", name, err, c.want)
		}
		if _, err = r.File(t.Context(), a); err == nil || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%s: file: got %v, want %v", name, err, c.want)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%s: left on disk: %v", name, left)
		}
		server.Close()
	}
}

func TestReaderStaysWithinItsDiskBudget(t *testing.T) {
	now := time.Unix(0, 0)
	r := &reader{now: func() time.Time { return now }, items: map[string]*item{
		"held": {path: "held", bytes: idleBytes, refs: 1},
		"old":  {path: "old", bytes: 1, used: now.Add(-2 * idleTime)},
		"big":  {path: "big", bytes: idleBytes, used: now.Add(-2 * time.Second)},
		"new":  {path: "new", bytes: 1, used: now},
	}}
	got := r.evict()
	if len(got) != 2 || r.items["held"] == nil || r.items["new"] == nil {
		t.Errorf("evicted %v, kept %d", got, len(r.items))
	}
}

package artifact

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What is kept in memory looks like what is unpacked on disk.
func TestContentInMemory(t *testing.T) {
	raw := archive(t, "apps/", "", "apps/x.yaml", "x: 1\n", "apps/deep/er/y.yaml", "y: 2\n", "empty", "", "run.sh", "#!/bin/sh\n")
	s := open(t, Options{})
	a := publish(t, s, "a.tar.gz", string(raw))
	dir := filepath.Join(t.TempDir(), "trees")
	r := NewReader(s, dir, nil)
	c, err := r.Content(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	if c.Files == nil || c.Root != "" {
		t.Fatalf("a small artifact is not in memory: %+v", c)
	}
	if err := fstest.TestFS(c.Files, "apps/x.yaml", "apps/deep/er/y.yaml", "empty", "run.sh"); err != nil {
		t.Error(err)
	}
	tree, err := r.Tree(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Release()
	if diff := cmp.Diff(listing(t, os.DirFS(tree.Root)), listing(t, c.Files)); diff != "" {
		t.Errorf("(-disk, +memory):\n%s", diff)
	}
	again, err := r.Content(t.Context(), a)
	if err != nil || again.Files != c.Files {
		t.Errorf("unpacked twice: %v", err)
	}
	got, err := fs.ReadFile(c.Files, "apps/x.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got[0] = '!'
	if kept, _ := fs.ReadFile(c.Files, "apps/x.yaml"); string(kept) != "x: 1\n" {
		t.Errorf("a reader changed the content: %q", kept)
	}
}

// listing is every path with its mode and content.
func listing(t *testing.T, files fs.FS) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		out[name] = "directory"
		if !d.IsDir() {
			data, err := fs.ReadFile(files, name)
			if err != nil {
				return err
			}
			out[name] = info.Mode().String() + " " + string(data)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLargeContentIsOnDisk(t *testing.T) {
	tests := map[string]struct{ name, content string }{
		"in all":   {"large", strings.Repeat("0", memoryBytes+1)},
		"as it is": {"noise", noise(memoryBytes + 1)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := open(t, Options{})
			a := publish(t, s, "a.tar.gz", string(archive(t, "small", "s", tt.name, tt.content)))
			c, err := NewReader(s, filepath.Join(t.TempDir(), "trees"), nil).Content(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Release()
			if c.Files != nil {
				t.Error("a large artifact is in memory")
			}
			if got, err := os.ReadFile(filepath.Join(c.Root, "small")); string(got) != "s" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// Another content than the digest's is never handed out, and what is no archive
// is an error.
func TestContentIsChecked(t *testing.T) {
	s := open(t, Options{})
	good := publish(t, s, "a.tar.gz", string(archive(t, "x", "1")))
	other := publish(t, s, "b.tar.gz", string(archive(t, "x", "2")))
	for name, content := range map[string][]byte{"another archive": read(t, s, other.Digest), "no archive": []byte("nonsense"), "nothing": nil} {
		d, err := parseDigest(good.Digest)
		if err != nil {
			t.Fatal(err)
		}
		blob := s.blob(d)
		if err := os.Chmod(blob, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(blob, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := NewReader(s, filepath.Join(t.TempDir(), "trees"), nil).Content(t.Context(), good); err == nil {
			t.Errorf("%s was taken: %+v", name, c)
		}
	}
}

func read(t *testing.T, s *Store, of string) []byte {
	t.Helper()
	d, err := parseDigest(of)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(s.blob(d))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Memory is given back soon after the last reader is done.
func TestIdleMemoryIsForgotten(t *testing.T) {
	raw := archive(t, "x", "1")
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{Root: filepath.Join(dir, "store")})
		a := publish(t, s, "a.tar.gz", string(raw))
		r := NewReader(s, filepath.Join(dir, "trees"), nil).(*reader)
		held := func() int {
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.items)
		}
		c, err := r.Content(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * memoryIdle)
		synctest.Wait()
		if held() != 1 {
			t.Error("content that somebody holds is gone")
		}
		c.Release()
		time.Sleep(3 * memoryIdle)
		synctest.Wait()
		if held() != 0 {
			t.Error("content that nobody holds is kept")
		}
	})
}

func TestReaderStaysWithinItsMemory(t *testing.T) {
	now := time.Unix(0, 0)
	in := newFiles()
	r := &reader{now: func() time.Time { return now }, items: map[string]*item{
		"held": {files: in, bytes: memoryIdleBytes, refs: 1},
		"disk": {bytes: memoryIdleBytes, used: now.Add(-2 * memoryIdle)},
		"idle": {files: in, bytes: 1, used: now.Add(-2 * memoryIdle)},
		"big":  {files: in, bytes: memoryIdleBytes, used: now.Add(-time.Second)},
		"new":  {files: in, bytes: 1, used: now},
	}}
	r.evict()
	for name, want := range map[string]bool{"held": true, "disk": true, "idle": false, "big": false, "new": true} {
		if got := r.items[name] != nil; got != want {
			t.Errorf("%s is kept: %v", name, got)
		}
	}
}

// The rules of unpacking hold in memory as on disk.
func TestMemoryRefusesAttacks(t *testing.T) {
	for name, entries := range map[string][]string{
		"twice":         {"a", "1", "a", "2"},
		"below a file":  {"a", "1", "a/b", "2"},
		"file over dir": {"a/b", "1", "a", "2"},
	} {
		if err := unpack(t.Context(), bytes.NewReader(archive(t, entries...)), newFiles(), DefaultLimits()); err == nil {
			t.Errorf("%s was unpacked", name)
		}
	}
	many := make([]string, 0, 2*memoryEntries+4)
	for i := range memoryEntries + 1 {
		many = append(many, "d/"+strings.Repeat("x", i/1000)+string(rune('0'+i%10))+string(rune('0'+i/10%10))+string(rune('0'+i/100%10)), "")
	}
	if err := unpack(t.Context(), bytes.NewReader(archive(t, many...)), newFiles(), DefaultLimits()); err != errLarge && !strings.Contains(err.Error(), errLarge.Error()) {
		t.Errorf("too many entries: %v", err)
	}
}

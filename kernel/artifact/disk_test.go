package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// smallDisk mounts a disk of its own for a test.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("cannot mount a small disk (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func noise(n int) string {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

func write(s *Store, name, content string) error {
	_, err := s.Publish(context.Background(), Put{Key: key, File: name, Latest: "latest.tar.gz", Revision: name,
		Write: func(w io.Writer) error { _, err := io.WriteString(w, content); return err }})
	return err
}

// assertUnharmed checks that what was published is there and nothing half done.
func assertUnharmed(t *testing.T, s *Store, publishedBefore ...string) {
	t.Helper()
	if left, err := os.ReadDir(filepath.Join(s.Root(), tempDir)); err != nil || len(left) != 0 {
		t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	for _, name := range publishedBefore {
		resp, err := http.Get(server.URL + "/" + key.String() + "/" + name)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s is not served any more: %v %v", name, resp, err)
			continue
		}
		resp.Body.Close()
	}
}

func TestDiskFull(t *testing.T) {
	s := open(t, Options{Root: smallDisk(t, "size=1m")})
	a := publish(t, s, "one.tar.gz", "one")
	if err := write(s, "big.tar.gz", noise(4<<20)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	if err := s.Verify(t.Context(), a); err != nil {
		t.Error(err)
	}
	assertUnharmed(t, s, "one.tar.gz", "latest.tar.gz")
	if err := write(s, "two.tar.gz", noise(64<<10)); err != nil {
		t.Errorf("there is room again: %v", err)
	}
}

func TestInodesFull(t *testing.T) {
	s := open(t, Options{Root: smallDisk(t, "size=4m,nr_inodes=16")})
	publish(t, s, "first.tar.gz", "first")
	var err error
	for i := 0; i < 20 && err == nil; i++ {
		err = write(s, fmt.Sprintf("%d.tar.gz", i), fmt.Sprint("content ", i))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	assertUnharmed(t, s, "first.tar.gz")
	if err := s.Remove(key); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	if err := write(s, "again.tar.gz", "again"); err != nil {
		t.Errorf("there are inodes again: %v", err)
	}
}

func TestReadOnlyDisk(t *testing.T) {
	root := smallDisk(t, "size=1m")
	s := open(t, Options{Root: root})
	a := publish(t, s, "one.tar.gz", "one")
	if err := syscall.Mount("", root, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skip(err)
	}
	if err := write(s, "two.tar.gz", "two"); !errors.Is(err, syscall.EROFS) {
		t.Errorf("got %v", err)
	}
	if err := s.Verify(t.Context(), a); err != nil {
		t.Errorf("what is there can be read: %v", err)
	}
	assertUnharmed(t, s, "one.tar.gz")
	if err := syscall.Mount("", root, "", syscall.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	if err := write(s, "two.tar.gz", "two"); err != nil {
		t.Errorf("the disk is writable again: %v", err)
	}
}

func TestDamagedBlobsAreFoundAndRepaired(t *testing.T) {
	for name, damage := range map[string]func(string) error{
		"truncated": func(f string) error { return os.Truncate(f, 1) },
		"emptied":   func(f string) error { return os.Truncate(f, 0) },
		"swapped":   func(f string) error { return os.WriteFile(f, []byte("eno"), 0o600) },
		"removed":   os.Remove,
	} {
		s := open(t, Options{})
		a := publish(t, s, "one.tar.gz", "one")
		d, err := parseDigest(a.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(s.blob(d), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := damage(s.blob(d)); err != nil {
			t.Fatal(err)
		}
		// The store goes by size and time, and two writes within one tick of the
		// file system's clock have the same.
		later := time.Now().Add(time.Second)
		if err := os.Chtimes(s.blob(d), later, later); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if err := s.Verify(t.Context(), a); !errors.Is(err, ErrDigest) && !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: got %v", name, err)
		}
		if _, err := NewReader(s, t.TempDir(), nil).File(t.Context(), a); err == nil {
			t.Errorf("%s: a reader was given damaged content", name)
		}
		publish(t, s, "one.tar.gz", "one")
		if err := s.Verify(t.Context(), a); err != nil {
			t.Errorf("%s: publishing again did not repair it: %v", name, err)
		}
	}
}

func TestClockJumpsRemoveNothingThatIsCurrent(t *testing.T) {
	now := time.Now()
	for name, jump := range map[string]time.Duration{"a year back": -365 * 24 * time.Hour, "a year ahead": 365 * 24 * time.Hour} {
		s := open(t, Options{Now: func() time.Time { return now.Add(jump) }})
		publish(t, s, "old.tar.gz", "old")
		cur := publish(t, s, "new.tar.gz", "new")
		if _, err := s.Collect(key, cur); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Sweep(); err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(t.Context(), cur); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCollectionUnderConcurrency publishes, collects and sweeps while readers
// read: whoever got a file or a tree can read it until it is released.
func TestCollectionUnderConcurrency(t *testing.T) {
	s := open(t, Options{Records: 1})
	r := NewReader(s, t.TempDir(), nil)
	var mu sync.Mutex
	current := publish(t, s, "0.tar.gz", string(archive(t, "n", "0")))
	var readers, writer sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				a := current
				mu.Unlock()
				f, err := r.File(t.Context(), a)
				if err != nil {
					continue // replaced meanwhile
				}
				data, err := os.ReadFile(f.Path)
				if err != nil || int64(len(data)) != *a.Size {
					t.Errorf("a file that was held: %d bytes, %v", len(data), err)
				}
				f.Release()
			}
		})
	}
	writer.Go(func() {
		for i := 1; i <= 200; i++ {
			name := fmt.Sprintf("%d.tar.gz", i)
			content := string(archive(t, "n", strings.Repeat("x", i)))
			a, err := s.Publish(t.Context(), Put{Key: key, File: name, Revision: name, Write: func(w io.Writer) error { _, err := io.WriteString(w, content); return err }})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			current = a
			mu.Unlock()
			if _, err := s.Collect(key, a); err != nil {
				t.Error(err)
			}
			if _, err := s.Sweep(); err != nil {
				t.Error(err)
			}
			if err := s.Verify(t.Context(), a); err != nil {
				t.Errorf("the current artifact was removed: %v", err)
			}
		}
	})
	writer.Wait()
	close(stop)
	readers.Wait()
}

// TestThreeHundredReadersUnpackOnce is 300 Kustomizations of one artifact, at
// once and one after the other, under different names.
func TestThreeHundredReadersUnpackOnce(t *testing.T) {
	s := open(t, Options{})
	a := publish(t, s, "a.tar.gz", string(archive(t, "a.yaml", "a: 1\n")))
	r := NewReader(s, t.TempDir(), nil).(*reader)
	var wg sync.WaitGroup
	for range 300 {
		wg.Go(func() {
			tree, err := r.Tree(context.Background(), a)
			if err != nil {
				t.Error(err)
				return
			}
			tree.Release()
		})
	}
	wg.Wait()
	again := a
	again.Path, again.URL = "gitrepository/other/name/a.tar.gz", "http://other.example/a.tar.gz"
	for range 300 {
		tree, err := r.Tree(t.Context(), again)
		if err != nil {
			t.Fatal(err)
		}
		tree.Release()
	}
	if r.counter != 1 {
		t.Errorf("unpacked %d times", r.counter)
	}
	if entries, err := os.ReadDir(r.dir); err != nil || len(entries) != 1 {
		t.Errorf("on disk: %v, %v", entries, err)
	}
}

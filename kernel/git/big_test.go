package git

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"headwater.dev/dev/gitserver"
	"headwater.dev/kernel/artifact"
)

// BenchmarkBigRepository fetches and packs a repository of 20,000 files and
// 200 MB, then one changed file.
func BenchmarkBigRepository(b *testing.B) {
	s, err := gitserver.Start(gitserver.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if err := s.CreateRepository("big", false); err != nil {
		b.Fatal(err)
	}
	if _, err := s.Commit("big", "main", "big", bigFiles()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		mirrors, err := OpenMirrors(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		store, err := artifact.Open(artifact.Options{Root: b.TempDir(), Address: "x"})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(bigFetch(b, s, mirrors, store), "s-first")
		if _, err := s.Commit("big", "main", "one", map[string]string{"dir-001/file-00001.yaml": fmt.Sprint(time.Now())}); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(bigFetch(b, s, mirrors, store), "s-next")
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.Sys>>20), "MiB-sys")
	}
	b.ReportMetric(bigGit(b, s), "s-git-clone")
}

func bigFiles() map[string]string {
	random := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 4096)
	for i := range words {
		words[i] = fmt.Sprintf("word%x", random.Uint64()>>40)
	}
	files := map[string]string{}
	for i := range 20_000 {
		var text bytes.Buffer
		for text.Len() < 10_000 {
			fmt.Fprintf(&text, "%s: %s-%d\n", words[random.IntN(len(words))], words[random.IntN(len(words))], random.IntN(1000))
		}
		files[fmt.Sprintf("dir-%03d/file-%05d.yaml", i/100, i)] = text.String()
	}
	return files
}

func bigFetch(b *testing.B, s *gitserver.Server, mirrors *Mirrors, store *artifact.Store) float64 {
	b.Helper()
	begin := time.Now()
	r, err := NewRemote(s.URL("big"), Credentials{})
	if err != nil {
		b.Fatal(err)
	}
	_, snapshot, err := mirrors.For(r).Update(b.Context(), r, Reference{Branch: "main"}, func(Target) bool { return false })
	if err != nil {
		b.Fatal(err)
	}
	defer snapshot.Close()
	b.Logf("fetched after %s", time.Since(begin))
	_, err = store.Publish(b.Context(), artifact.Put{
		Key: artifact.Key{Kind: "GitRepository", Namespace: "a", Name: "b"}, File: "x.tar.gz",
		Write: func(w io.Writer) error { return artifact.Pack(w, snapshot.Files(Selection{})) },
	})
	if err != nil {
		b.Fatal(err)
	}
	return time.Since(begin).Seconds()
}

// bigGit is what git itself and tar need on the same machine.
func bigGit(b *testing.B, s *gitserver.Server) float64 {
	b.Helper()
	dir := filepath.Join(b.TempDir(), "clone")
	begin := time.Now()
	if out, err := exec.Command("git", "clone", "-q", "--depth", "1", "--branch", "main", s.URL("big"), dir).CombinedOutput(); err != nil {
		b.Fatalf("git clone: %v %s", err, out)
	}
	if out, err := exec.Command("tar", "czf", os.DevNull+"", dir).CombinedOutput(); err != nil {
		b.Fatalf("tar: %v %s", err, out)
	}
	return time.Since(begin).Seconds()
}

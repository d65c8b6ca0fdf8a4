package artifact

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPackIsDeterministicAndPlain(t *testing.T) {
	dir := t.TempDir()
	big := make([]byte, 5*gzipBlock/2)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range big {
		big[i] = byte('a' + random.IntN(8))
	}
	for name, content := range map[string]string{
		"apps/a.yaml": "a: 1\n", "apps/run.sh": "#!/bin/sh\n", "big": string(big), ".git/config": "x", "pic.png": "x", ".github/x": "x",
	} {
		file := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(file), 0o777)
		if err := os.WriteFile(file, []byte(content), 0o664); err != nil {
			t.Fatal(err)
		}
	}
	os.Chmod(filepath.Join(dir, "apps/run.sh"), 0o777)
	os.Symlink("a.yaml", filepath.Join(dir, "apps/link"))
	var rules IgnoreRules
	var one, two bytes.Buffer
	for _, w := range []io.Writer{&one, &two} {
		if err := Pack(w, Dir(dir, rules.Build())); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("the same files gave different archives")
	}
	gz, err := gzip.NewReader(&one)
	if err != nil {
		t.Fatal(err)
	}
	gz.Multistream(false) // simple readers must manage too
	var got []string
	tr := tar.NewReader(gz)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.ModTime.Unix() > 0 {
			t.Errorf("%s: header is not normal: %+v", h.Name, h)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == "big" && !bytes.Equal(content, big) {
			t.Error("content changed")
		}
		got = append(got, fmt.Sprintf("%s %o %d", h.Name, h.Mode, h.Size))
	}
	want := []string{"apps/ 750 0", "apps/a.yaml 600 5", "apps/run.sh 700 10", fmt.Sprintf("big 600 %d", len(big))}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestIgnoreRules(t *testing.T) {
	for name, c := range map[string]struct {
		why   string
		rules map[string]string
		path  string
		want  bool
	}{
		"vcs":                {"version control never ships", nil, ".git/config", true},
		"picture":            {"a default", nil, "a/logo.png", true},
		"default replaced":   {"own rules replace the defaults", map[string]string{"": "*.txt"}, "a/logo.png", false},
		"vcs with own rules": {"but version control stays out", map[string]string{"": "*.txt"}, ".gitignore", true},
		"include again":      {"later rules win", map[string]string{"": "/*\n!/deploy"}, "deploy/x.yaml", false},
		"excluded":           {"the rest stays out", map[string]string{"": "/*\n!/deploy"}, "src/x.go", true},
		"scoped":             {"rules hold below their directory", map[string]string{"a": "*.txt"}, "b/x.txt", false},
		"scoped match":       {"rules hold below their directory", map[string]string{"a": "*.txt"}, "a/b/x.txt", true},
	} {
		var r IgnoreRules
		for dir, rules := range c.rules {
			r.Add(dir, strings.NewReader(rules))
		}
		if got := r.Build().Match(c.path, false); got != c.want {
			t.Errorf("%s: %s: %s ignored=%v", name, c.why, c.path, got)
		}
	}
}

func rawTar(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	gz := gzip.NewWriter(&buf)
	tw := tar.NewWriter(gz)
	for _, h := range headers {
		h.Mode = 0o644
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	gz.Close()
	return buf.Bytes()
}

func TestA20ExtractRefusesAttacks(t *testing.T) {
	reg := func(name string, size int64) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeReg, Size: size}
	}
	many := make([]tar.Header, 101)
	for i := range many {
		many[i] = reg(fmt.Sprintf("f%d", i), 0)
	}
	deep := strings.Repeat("d/", 20) + "f"
	for name, c := range map[string]struct {
		in   []tar.Header
		want error
	}{
		"parent":               {[]tar.Header{reg("../x", 1)}, ErrUnsafe},
		"parent inside":        {[]tar.Header{reg("a/../../x", 1)}, ErrUnsafe},
		"parent that stays":    {[]tar.Header{reg("a/../x", 1)}, ErrUnsafe},
		"absolute":             {[]tar.Header{reg("/etc/x", 1)}, ErrUnsafe},
		"backslash":            {[]tar.Header{reg(`..\x`, 1)}, ErrUnsafe},
		"hard link":            {[]tar.Header{{Name: "x", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}}, ErrUnsafe},
		"symlink then file":    {[]tar.Header{{Name: "x", Typeflag: tar.TypeSymlink, Linkname: "/tmp"}, reg("x/pwn", 1)}, nil},
		"device":               {[]tar.Header{{Name: "x", Typeflag: tar.TypeChar}}, ErrUnsafe},
		"block device":         {[]tar.Header{{Name: "x", Typeflag: tar.TypeBlock}}, ErrUnsafe},
		"fifo":                 {[]tar.Header{{Name: "x", Typeflag: tar.TypeFifo}}, ErrUnsafe},
		"twice":                {[]tar.Header{reg("x", 1), reg("x", 2)}, ErrUnsafe},
		"file then directory":  {[]tar.Header{reg("x", 1), reg("x/y", 2)}, ErrUnsafe},
		"directory then file":  {[]tar.Header{reg("x/y", 1), reg("x", 2)}, ErrUnsafe},
		"long name":            {[]tar.Header{reg(strings.Repeat("a/", 2100)+"x", 1)}, ErrUnsafe},
		"too many bytes":       {[]tar.Header{reg("x", 600), reg("y", 600)}, ErrTooLarge},
		"one huge file":        {[]tar.Header{reg("x", 1<<20)}, ErrTooLarge},
		"too many entries":     {many, ErrTooLarge},
		"implied directories":  {[]tar.Header{reg("0/1/2/3/4/5/6/7/8", 0), reg("1/1/2/3/4/5/6/7/8", 0), reg("2/1/2/3/4/5/6/7/8", 0), reg("3/1/2/3/4/5/6/7/8", 0), reg("4/1/2/3/4/5/6/7/8", 0), reg("5/1/2/3/4/5/6/7/8", 0), reg("6/1/2/3/4/5/6/7/8", 0), reg("7/1/2/3/4/5/6/7/8", 0), reg("8/1/2/3/4/5/6/7/8", 0), reg("9/1/2/3/4/5/6/7/8", 0), reg("a/1/2/3/4/5/6/7/8", 0), reg("b/1/2/3/4/5/6/7/8", 0)}, ErrTooLarge},
		"too deep":             {[]tar.Header{reg(deep, 1)}, ErrTooLarge},
		"dot and plain":        {[]tar.Header{{Name: "./", Typeflag: tar.TypeDir}, reg("./a/b", 1), reg("A/b", 1)}, nil},
		"same directory twice": {[]tar.Header{{Name: "a/", Typeflag: tar.TypeDir}, {Name: "a/", Typeflag: tar.TypeDir}}, nil},
		"global header":        {[]tar.Header{{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}, reg("a", 1)}, nil},
	} {
		outer := t.TempDir()
		dir := filepath.Join(outer, "in")
		os.Mkdir(dir, 0o700)
		data := rawTarAllowingMode(t, c.in)
		err := Extract(t.Context(), bytes.NewReader(data), dir, Limits{Bytes: 1000, Entries: 100, Depth: 16})
		if !errors.Is(err, c.want) || (c.want == nil && err != nil) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		assertContained(t, outer)
	}
}

// rawTarAllowingMode leaves global headers as they must be: without a mode.
func rawTarAllowingMode(t *testing.T, headers []tar.Header) []byte {
	t.Helper()
	if len(headers) > 0 && headers[0].Typeflag == tar.TypeXGlobalHeader {
		var buf bytes.Buffer
		gz := gzip.NewWriter(&buf)
		tw := tar.NewWriter(gz)
		for _, h := range headers {
			if err := tw.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			tw.Write(make([]byte, h.Size))
		}
		tw.Close()
		gz.Close()
		return buf.Bytes()
	}
	return rawTar(t, headers...)
}

// assertContained checks that outer holds nothing but "in", and that only
// directories and regular files.
func assertContained(t *testing.T, outer string) {
	t.Helper()
	entries, err := os.ReadDir(outer)
	if err != nil || len(entries) != 1 {
		t.Fatalf("something was written outside: %v, %v", entries, err)
	}
	err = filepath.WalkDir(outer, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !d.Type().IsRegular() {
			t.Errorf("%s is neither directory nor file", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestA21ExtractStopsBombsEarly(t *testing.T) {
	var buf bytes.Buffer
	gz := gzip.NewWriter(&buf)
	tw := tar.NewWriter(gz)
	const size = 256 << 20 // from a few hundred kB
	tw.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Size: size, Mode: 0o644})
	chunk := make([]byte, 1<<20)
	for range size / len(chunk) {
		tw.Write(chunk)
	}
	tw.Close()
	gz.Close()
	dir := t.TempDir()
	err := Extract(t.Context(), bytes.NewReader(buf.Bytes()), dir, Limits{Bytes: 1 << 20, Entries: 10, Depth: 4})
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("the bomb was written before it was refused: %v", left)
	}
}

func FuzzExtract(f *testing.F) {
	f.Add(rawTar(f, tar.Header{Name: "a/b", Typeflag: tar.TypeReg, Size: 3}))
	f.Add(rawTar(f, tar.Header{Name: "../b", Typeflag: tar.TypeReg, Size: 3}))
	f.Add(rawTar(f, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/"}, tar.Header{Name: "l/x", Typeflag: tar.TypeReg}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		// Fuzz the tar inside the gzip: mutate the archive, not its checksums.
		var buf bytes.Buffer
		if gz, err := gzip.NewReader(bytes.NewReader(raw)); err == nil {
			raw, _ = io.ReadAll(io.LimitReader(gz, 1<<20))
		}
		gz := gzip.NewWriter(&buf)
		gz.Write(raw)
		gz.Close()
		outer := t.TempDir()
		dir := filepath.Join(outer, "in")
		os.Mkdir(dir, 0o700)
		_ = Extract(t.Context(), &buf, dir, Limits{Bytes: 1 << 20, Entries: 100, Depth: 16})
		assertContained(t, outer)
	})
}

func FuzzIgnore(f *testing.F) {
	f.Add("*.txt\n!a/**/b\n[a-", "a/b/c.txt")
	f.Fuzz(func(t *testing.T, rules, path string) {
		var r IgnoreRules
		r.Add("", strings.NewReader(rules))
		i := r.Build()
		if first, again := i.Match(path, false), i.Match(path, false); first != again {
			t.Error("the decision is not stable")
		}
	})
}

package artifact

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// header makes one raw header of a tar archive, also such as no writer makes.
func header(name string, kind byte, size int64, change func([]byte)) []byte {
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x00")
	copy(h[108:], "0000000\x00")
	copy(h[116:], "0000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00", size))
	copy(h[136:], "00000000000\x00")
	h[156] = kind
	copy(h[257:], "ustar  \x00")
	if change != nil {
		change(h)
	}
	copy(h[148:], "        ")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

// pax makes an extended header.
func pax(records ...string) []byte {
	all := ""
	for _, record := range records {
		for n := len(record) + 3; ; n++ {
			if line := fmt.Sprintf("%d %s\n", n, record); len(line) == n {
				all += line
				break
			}
		}
	}
	body := make([]byte, (len(all)+511)/512*512)
	copy(body, all)
	return append(header("pax", tar.TypeXHeader, int64(len(all)), func(h []byte) { copy(h[257:], "ustar\x0000") }), body...)
}

func zipped(parts ...[]byte) []byte {
	var buf bytes.Buffer
	gz := gzip.NewWriter(&buf)
	for _, p := range parts {
		gz.Write(p)
	}
	gz.Write(make([]byte, 1024))
	gz.Close()
	return buf.Bytes()
}

// TestA20ExtractRefusesRawAttacks are archives that no ordinary program makes.
func TestA20ExtractRefusesRawAttacks(t *testing.T) {
	sparse := header("sparse", tar.TypeGNUSparse, 512, func(h []byte) {
		copy(h[386:], "00000000000\x0000000001000\x00")
		copy(h[483:], "77777777777\x00")
	})
	posix := func(h []byte) { copy(h[257:], "ustar\x0000") }
	for name, raw := range map[string][]byte{
		"old sparse":              zipped(sparse, make([]byte, 512)),
		"PAX sparse":              zipped(pax("GNU.sparse.numblocks=1", "GNU.sparse.size=99999999999", "GNU.sparse.map=0,0"), header("x", tar.TypeReg, 0, posix)),
		"NUL in PAX path":         zipped(pax("path=a\x00b"), header("x", tar.TypeReg, 0, posix)),
		"PAX path leaves":         zipped(pax("path=../../x"), header("x", tar.TypeReg, 0, posix)),
		"long PAX path":           zipped(pax("path="+strings.Repeat("a/", 100_000)), header("x", tar.TypeReg, 0, posix)),
		"PAX of 2 MiB":            zipped(pax("comment="+strings.Repeat("a", 2<<20)), header("x", tar.TypeReg, 0, posix)),
		"PAX size":                zipped(pax("size=99999999999"), header("x", tar.TypeReg, 0, posix)),
		"negative size":           zipped(header("x", tar.TypeReg, 0, func(h []byte) { copy(h[124:], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff") })),
		"contiguous file":         zipped(header("x", tar.TypeCont, 0, nil)),
		"multi-volume":            zipped(header("x", 'M', 0, nil)),
		"unknown type":            zipped(header("x", 'Z', 0, nil)),
		"no gzip":                 []byte("PK\x03\x04"),
		"zstd":                    {0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0},
		"cut within gzip":         zipped(header("x", tar.TypeReg, 0, nil))[:20],
		"cut within file":         zipped(header("x", tar.TypeReg, 9000, nil)),
		"file through a symlink":  zipped(header("d", tar.TypeReg, 0, nil), header("d/x", tar.TypeReg, 0, nil)),
		"hard link to a file":     zipped(header("a", tar.TypeReg, 0, nil), header("b", tar.TypeLink, 0, func(h []byte) { copy(h[157:], "a") })),
		"directory over the root": zipped(header("/", tar.TypeDir, 0, nil)),
	} {
		outer := t.TempDir()
		dir := filepath.Join(outer, "in")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := Extract(t.Context(), bytes.NewReader(raw), dir, Limits{Bytes: 1 << 20, Entries: 100, Depth: 16}); err == nil {
			t.Errorf("%s was accepted", name)
		}
		assertContained(t, outer)
	}
}

func TestNamesThatDifferInCaseStayApart(t *testing.T) {
	dir := t.TempDir()
	if err := Extract(t.Context(), bytes.NewReader(archive(t, "A", "upper", "a", "lower")), dir, DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"A": "upper", "a": "lower"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); string(got) != want || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// endless gives the beginning of an archive and then a byte at a time.
type endless struct {
	r io.Reader
}

func (e endless) Read(p []byte) (int, error) {
	if n, err := e.r.Read(p); err == nil {
		return n, nil
	}
	p[0] = 0
	return 1, nil
}

func TestA21ExtractEndsInTime(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	w.Write(header("x", tar.TypeReg, 1<<30, nil))
	w.Flush()
	err := Extract(ctx, endless{&gz}, t.TempDir(), DefaultLimits())
	if err == nil {
		t.Error("an endless archive was accepted")
	}
}

func TestPackLeavesOutWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func(string) error{
		"symlink":  func(f string) error { return os.Symlink("/etc/passwd", f) },
		"dangling": func(f string) error { return os.Symlink("nothing", f) },
		"dirlink":  func(f string) error { return os.Symlink("/etc", f) },
		"fifo":     func(f string) error { return syscall.Mkfifo(f, 0o600) },
	} {
		if err := make(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	var buf bytes.Buffer
	if err := Pack(&buf, Dir(dir, Ignore{})); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	if err := Extract(t.Context(), &buf, out, DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(out); err != nil || len(entries) != 1 || entries[0].Name() != "file" {
		t.Errorf("packed %v, %v", entries, err)
	}
}

func TestPackRefusesWhatNobodyWouldUnpack(t *testing.T) {
	for name, c := range map[string]struct {
		entry Entry
		want  error
	}{
		"parent":    {Entry{Path: "../x"}, ErrUnsafe},
		"absolute":  {Entry{Path: "/x"}, ErrUnsafe},
		"NUL":       {Entry{Path: "a\x00b"}, ErrUnsafe},
		"backslash": {Entry{Path: `a\b`}, ErrUnsafe},
		"unclean":   {Entry{Path: "a//b"}, ErrUnsafe},
		"root":      {Entry{Path: ".", Dir: true}, ErrUnsafe},
		"deep":      {Entry{Path: strings.Repeat("d/", 80) + "f"}, ErrTooLarge},
		"huge":      {Entry{Path: "f", Size: 1 << 40}, ErrTooLarge},
		"negative":  {Entry{Path: "f", Size: -1}, ErrTooLarge},
	} {
		c.entry.Open = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("")), nil }
		err := Pack(io.Discard, func(yield func(Entry, error) bool) { yield(c.entry, nil) })
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

func TestServeRangesAndHeads(t *testing.T) {
	s := open(t, Options{})
	publish(t, s, "a.tar.gz", "0123456789")
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	for name, c := range map[string]struct {
		method, ranges string
		status         int
		body           string
	}{
		"HEAD":         {http.MethodHead, "", 200, ""},
		"range":        {http.MethodGet, "bytes=2-4", 206, "234"},
		"tail":         {http.MethodGet, "bytes=-3", 206, "789"},
		"beyond":       {http.MethodGet, "bytes=20-", 416, ""},
		"nonsense":     {http.MethodGet, "bytes=a-b", 416, ""},
		"other unit":   {http.MethodGet, "lines=1-2", 416, ""},
		"DELETE":       {http.MethodDelete, "", 405, ""},
		"whole":        {http.MethodGet, "", 200, "0123456789"},
		"many overlap": {http.MethodGet, "bytes=" + strings.Repeat("0-,", 999) + "0-", 200, "0123456789"},
	} {
		r, err := http.NewRequest(c.method, server.URL+"/gitrepository/apps/web/a.tar.gz", nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.ranges != "" {
			r.Header.Set("Range", c.ranges)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.status || c.status < 300 && string(body) != c.body {
			t.Errorf("%s: %d %q", name, resp.StatusCode, body)
		}
		if c.status < 300 && (resp.Header.Get("Content-Type") != "application/gzip" || resp.Header.Get("Last-Modified") == "" || resp.Header.Get("X-Content-Type-Options") != "nosniff") {
			t.Errorf("%s: header %v", name, resp.Header)
		}
		if name == "HEAD" && resp.ContentLength != 10 {
			t.Errorf("HEAD gave length %d", resp.ContentLength)
		}
	}
}

// TestA01ReaderDoesNotAskMetadataServices gives it the artifact of somebody who may
// write any URL into the status of an ExternalArtifact.
func TestA01ReaderDoesNotAskMetadataServices(t *testing.T) {
	s := open(t, Options{})
	a := publish(t, s, "a.tar.gz", "x")
	r := NewReader(nil, t.TempDir(), nil)
	for _, u := range []string{"http://169.254.169.254/latest/meta-data", "http://[fe80::1%25lo]/x", "http://0.0.0.0:1/x", "http://[::ffff:169.254.169.254]/x", "http://[fd00:ec2::254]/x"} {
		a.URL = u
		if _, err := r.File(t.Context(), a); !errors.Is(err, ErrAddress) {
			t.Errorf("%s: %v", u, err)
		}
	}
	for _, u := range []string{"file:///etc/passwd", "ftp://x/y", "//x", "unix:/run/x", ""} {
		a.URL = u
		if _, err := r.Tree(t.Context(), a); err == nil {
			t.Errorf("%q was read", u)
		}
	}
}

// FuzzServe asks for any path and range: nothing but the published file comes.
func FuzzServe(f *testing.F) {
	for _, p := range []string{"/gitrepository/apps/web/a.tar.gz", "/../secret", "/gitrepository/apps/web/../../../secret", "/tmp/a/b/c", "/blobs/sha256/a/b", "/gitrepository//web/a", "/a/b/c/\x00"} {
		f.Add(p, "bytes=0-1")
	}
	f.Add("/gitrepository/apps/web/a.tar.gz", "bytes=9-,0-0,-1")
	root := f.TempDir()
	s, err := Open(Options{Root: filepath.Join(root, "store"), Address: "x"})
	if err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "secret"), []byte("SECRET"), 0o600); err != nil {
		f.Fatal(err)
	}
	if err := write(s, "a.tar.gz", "0123456789"); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, path, ranges string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.Path = path
		r.Header.Set("Range", ranges)
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		clean := strings.TrimPrefix(path, "/")
		if w.Code < 300 && clean != "gitrepository/apps/web/a.tar.gz" && clean != "gitrepository/apps/web/latest.tar.gz" || strings.Contains(w.Body.String(), "SECRET") {
			t.Errorf("%q gave %d %q", path, w.Code, w.Body)
		}
	})
}

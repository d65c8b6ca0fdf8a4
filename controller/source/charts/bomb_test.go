package charts

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// entry is one entry of an archive that a stranger made.
type entry struct {
	header tar.Header
	data   []byte
}

func file(name, data string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, []byte(data)}
}

func archiveOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	gz, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(gz)
	for _, e := range entries {
		e.header.Size = int64(len(e.data))
		if err := w.WriteHeader(&e.header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := gz.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

const chartYAML = "apiVersion: v2\nname: web\nversion: 1.0.0\n"

// bomb is an archive with a chart that is fine, and more.
func bomb(t testing.TB, more ...entry) []byte {
	t.Helper()
	return archiveOf(t, append([]entry{file("web/Chart.yaml", chartYAML)}, more...)...)
}

// TestA21A22ChartBombs shows that archives which unpack to more than a chart
// may be are refused before they are in memory.
func TestA21A22ChartBombs(t *testing.T) {
	big := make([]byte, 60<<20)
	var many []entry
	for i := range maxEntries + 1 {
		many = append(many, file(fmt.Sprintf("web/templates/%d", i), ""))
	}
	nested := bomb(t)
	for range maxPacked + 2 {
		nested = bomb(t, file("web/charts/x.tgz", string(nested)))
	}
	half := string(archiveOf(t, entry{tar.Header{Name: "x/big", Typeflag: tar.TypeReg}, big}))
	for name, data := range map[string][]byte{
		"one huge file":      bomb(t, entry{tar.Header{Name: "web/a", Typeflag: tar.TypeReg}, make([]byte, 2*maxUnpacked)}),
		"two large files":    bomb(t, entry{tar.Header{Name: "web/a", Typeflag: tar.TypeReg}, big}, entry{tar.Header{Name: "web/b", Typeflag: tar.TypeReg}, big}),
		"many files":         bomb(t, many...),
		"packed in packed":   nested,
		"charts of bombs":    bomb(t, file("web/charts/a.tgz", half), file("web/charts/b.tgz", half)),
		"bombs further down": bomb(t, file("web/charts/web/charts/a.tgz", half), file("web/charts/web/charts/b.tgz", half)),
	} {
		before := allocated()
		_, err := OpenArchive(data)
		if !errors.Is(err, ErrBomb) {
			t.Errorf("%s: got %v, want %v", name, err, ErrBomb)
		}
		if used := allocated() - before; used > 64<<20 {
			t.Errorf("%s: it cost %d MiB", name, used>>20)
		}
	}
	if _, err := OpenArchive(bomb(t)); err != nil {
		t.Errorf("a chart that is none: %v", err)
	}
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// TestA22Links shows that a Chart.lock, or anything else, that is a link is not
// followed: not in archives, and not in directories.
func TestA22Links(t *testing.T) {
	secretFile := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secretFile, []byte(canary), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := OpenArchive(bomb(t, entry{tar.Header{Name: "web/Chart.lock", Typeflag: tar.TypeSymlink, Linkname: secretFile}, nil},
		entry{tar.Header{Name: "web/values.yaml", Typeflag: tar.TypeLink, Linkname: secretFile}, nil}))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range b.Files {
		if bytes.Contains(data, []byte(canary)) {
			t.Errorf("%s holds the other file", name)
		}
	}
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "Chart.yaml"), []byte(chartYAML), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Chart.lock", "values.yaml", "templates"} {
		link := filepath.Join(root, name)
		if err := os.Symlink(secretFile, link); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenDir(root, "."); err == nil || strings.Contains(err.Error(), root) {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenDir(root, "."); err != nil {
		t.Error(err)
	}
}

// TestA20Archives shows that entries which lead out of a chart are refused.
func TestA20Archives(t *testing.T) {
	for name, e := range map[string]entry{
		"parent": file("web/../../x", "x"), "absolute": file("web//etc/x", "x"), "drive": file("web/c:/x", "x"), "outside": file("x", "x"),
	} {
		if b, err := OpenArchive(bomb(t, e)); err == nil {
			for f := range b.Files {
				if strings.HasPrefix(f, "..") || strings.HasPrefix(f, "/") {
					t.Errorf("%s: the chart has a file %q", name, f)
				}
			}
		}
	}
}

// TestA23AliasBombs shows that documents which grow by references are refused.
func TestA23AliasBombs(t *testing.T) {
	text := "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
	for i := range 12 {
		text += fmt.Sprintf("a%d: &a%d [*a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d]\n", i+1, i+1, i, i, i, i, i, i, i, i, i)
	}
	start := time.Now()
	if _, err := OpenArchive(bomb(t, file("web/values.yaml", text))); err == nil {
		t.Error("values.yaml: accepted")
	}
	if _, err := OpenArchive(archiveOf(t, file("web/Chart.yaml", chartYAML+text))); err == nil {
		t.Error("Chart.yaml: accepted")
	}
	if _, err := OpenArchive(bomb(t, file("web/Chart.lock", "dependencies:\n- name: x\n"+text))); err == nil {
		t.Log("Chart.lock: unknown keys are not expanded")
	}
	if _, err := Versions(strings.NewReader("apiVersion: v1\nentries: {x: *a12}\n"+text), "x"); err == nil {
		t.Error("index: accepted")
	}
	b := &Bundle{Files: map[string][]byte{}}
	if _, err := b.MergeValues([]string{"x"}, false, func(string) ([]byte, error) { return []byte(text), nil }); err == nil {
		t.Error("values file: accepted")
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestA24Ranges shows that no version range costs much.
func TestA24Ranges(t *testing.T) {
	var versions []string
	for i := range 20_000 {
		versions = append(versions, fmt.Sprintf("%d.%d.0-rc.%d", i%7, i, i))
	}
	start := time.Now()
	for _, want := range []string{strings.Repeat(">0-0||", 42) + ">0-0", strings.Repeat("<1-0,", 50) + "<1-0", strings.Repeat("(", 200), strings.Repeat("*.", 120)} {
		_, _ = Pick(versions, want)
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	if _, err := Pick(versions, strings.Repeat("1||", 100)); err == nil {
		t.Error("an endless range was accepted")
	}
}

// TestA22GiantIndex reads an index of 50 MB, and shows what it costs.
func TestA22GiantIndex(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "index.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.WriteString(f, "apiVersion: v1\nentries:\n"); err != nil {
		t.Fatal(err)
	}
	filler := strings.Repeat("d", 900)
	for c := range 500 {
		fmt.Fprintf(f, "  chart-%d:\n", c)
		for v := range 100 {
			fmt.Fprintf(f, "  - apiVersion: v2\n    description: |\n      %s\n    name: chart-%d\n    version: 1.%d.0\n    urls:\n    - charts/chart-%d-1.%d.0.tgz\n", filler, c, v, c, v)
		}
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || size < 50_000_000 || size > MaxIndex {
		t.Fatalf("%d bytes, %v", size, err)
	}
	before := allocated()
	if err := CheckIndex(f); err != nil {
		t.Fatal(err)
	}
	if used := allocated() - before; used > 1<<20 {
		t.Errorf("checking %d MB cost %d KiB", size/1e6, used>>10)
	}
	before = allocated()
	v, err := Find(f, "chart-499", "~1.42")
	if err != nil || v.Version != "1.42.0" || v.URLs[0] != "charts/chart-499-1.42.0.tgz" {
		t.Errorf("%+v, %v", v, err)
	}
	used := allocated() - before
	if used > 16<<20 {
		t.Errorf("finding a chart cost %d KiB", used>>10)
	}
	t.Logf("index of %d MB: all memory ever used to find a version: %d KiB", size/1e6, used>>10)
	if err := f.Truncate(MaxIndex + 1); err != nil {
		t.Fatal(err)
	}
	if err := CheckIndex(f); !errors.Is(err, ErrIndex) {
		t.Errorf("an index beyond the limit: %v", err)
	}
}

func TestLockedDependencies(t *testing.T) {
	deps := "dependencies:\n- {name: db, version: 1.x, repository: https://r.example}\n- {name: db, version: 2.x, repository: https://r.example, alias: second}\n- {name: free, version: ^3, repository: https://r.example}\n"
	lock := "dependencies:\n- {name: db, version: 1.2.3, repository: https://r.example}\ngenerated: \"2026-01-01T00:00:00Z\"\n"
	b, err := OpenArchive(archiveOf(t, file("web/Chart.yaml", chartYAML+deps), file("web/Chart.lock", lock)))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range b.Missing {
		got = append(got, d.Name+" "+d.Version+" "+d.Alias)
	}
	if want := "db 1.2.3 ,db 2.x second,free ^3 "; strings.Join(got, ",") != want {
		t.Errorf("got %q, want %q", strings.Join(got, ","), want)
	}
	one, err := OpenArchive(archiveOf(t, file("db/Chart.yaml", "apiVersion: v2\nname: db\nversion: 1.2.3\n")))
	if err != nil {
		t.Fatal(err)
	}
	two, err := OpenArchive(archiveOf(t, file("db/Chart.yaml", "apiVersion: v2\nname: db\nversion: 2.0.0\n")))
	if err != nil {
		t.Fatal(err)
	}
	b.Add(one)
	b.Add(two)
	b.Add(one)
	if b.Files["charts/db/Chart.yaml"] == nil || b.Files["charts/db-2.0.0/Chart.yaml"] == nil || len(b.Files) != 4 {
		t.Errorf("files %v", len(b.Files))
	}
}

// FuzzArchive opens archives from strangers; what opens packs and opens again.
func FuzzArchive(f *testing.F) {
	f.Add(bomb(f))
	f.Add(bomb(f, file("web/values.yaml", "a: &a [*a]\n"), file("web/charts/x.tgz", string(bomb(f)))))
	f.Add(bomb(f, entry{tar.Header{Name: "web/Chart.lock", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, nil}))
	f.Add(archiveOf(f, file("x", "")))
	f.Add([]byte{0x1f, 0x8b})
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := OpenArchive(data)
		if err != nil {
			return
		}
		var buf bytes.Buffer
		if err := b.Pack(&buf); err != nil {
			return // names that Helm lets pass and we do not pack
		}
		again, err := OpenArchive(buf.Bytes())
		if err != nil || again.Meta.Name != b.Meta.Name || again.Meta.Version != b.Meta.Version {
			t.Errorf("packed again: %v", err)
		}
	})
}

// FuzzChartFiles reads Chart.yaml, Chart.lock and values.yaml from strangers.
func FuzzChartFiles(f *testing.F) {
	f.Add(chartYAML, "dependencies: []\n", "a: 1\n")
	f.Add(chartYAML+"dependencies:\n- name: x\n  version: 1\n  repository: file://../x\n", "dependencies:\n- null\n", "a: &a\n  b: *a\n")
	f.Add("apiVersion: v2\nname: ../x\nversion: 1\n", "", "")
	f.Fuzz(func(t *testing.T, chart, lock, values string) {
		b, err := OpenArchive(archiveOf(t, file("web/Chart.yaml", chart), file("web/Chart.lock", lock), file("web/values.yaml", values)))
		if err != nil {
			return
		}
		if strings.ContainsAny(b.Meta.Name, "/\\") || b.Meta.Name == "" {
			t.Errorf("a chart is called %q", b.Meta.Name)
		}
		_ = b.SetVersion("abc.1")
		_, _ = b.MergeValues([]string{"values.yaml"}, true, b.ReadOwn)
	})
}

package compose

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	swapi "github.com/fluxcd/source-watcher/api/v2/v1beta1"
	"github.com/google/go-cmp/cmp"

	"headwater.dev/kernel/artifact"
)

// tree lists files, written to a directory; a name that ends in "/" is a
// directory.
func tree(t testing.TB, files map[string]string) *Tree {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		p := filepath.Join(root, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(p, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l, err := List(root)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// tarball gives a gzipped archive of files; links are symbolic ones.
func tarball(t testing.TB, files, links map[string]string) string {
	t.Helper()
	var out bytes.Buffer
	gz := gzip.NewWriter(&out)
	w := tar.NewWriter(gz)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range links {
		if err := w.WriteHeader(&tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), gz.Close()); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// result runs operations and gives the files and directories that come out.
func result(t testing.TB, trees map[string]*Tree, ops ...swapi.CopyOperation) (map[string]string, error) {
	t.Helper()
	entries, err := New(trees, t.TempDir()).Compose(t.Context(), ops)
	if err != nil {
		return nil, err
	}
	got := map[string]string{}
	for e, err := range entries {
		if err != nil {
			t.Fatal(err)
		}
		if e.Dir {
			got[e.Path+"/"] = ""
			continue
		}
		r, err := e.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if r.Close(); err != nil || int64(len(data)) != e.Size {
			t.Fatalf("%s: %d bytes, not %d: %v", e.Path, len(data), e.Size, err)
		}
		got[e.Path] = string(data)
	}
	return got, nil
}

func op(from, to string) swapi.CopyOperation { return swapi.CopyOperation{From: from, To: to} }

func without(o swapi.CopyOperation, exclude ...string) swapi.CopyOperation {
	o.Exclude = exclude
	return o
}

func by(strategy string, o swapi.CopyOperation) swapi.CopyOperation {
	o.Strategy = strategy
	return o
}

func TestCompose(t *testing.T) {
	trees := map[string]*Tree{
		"git": tree(t, map[string]string{
			"README.md": "top", "deploy/app.yaml": "app", "deploy/db.yaml": "db", "deploy/doc/a.md": "doc", "deploy/doc/testdata/x.yaml": "x",
			"values.yaml": "a: {b: 2, c: 12345678901234567890}\nlist: [z]\n", "logo.png": "picture", ".git/config": "secret", "a-b/f": "f", "empty/": "",
		}),
		"chart": tree(t, map[string]string{"shop/Chart.yaml": "name: shop", "shop/values.yaml": "a: {b: 1, d: 4}\nlist: [x, y]\n"}),
		"pkg": tree(t, map[string]string{
			"rel/one.tgz":      tarball(t, map[string]string{"one/Chart.yaml": "one"}, map[string]string{"one/link": "/etc/passwd"}),
			"rel/x/two.tar.gz": tarball(t, map[string]string{"two/Chart.yaml": "two"}, nil), "rel/notes.txt": "not an archive",
		}),
	}
	cases := map[string]struct {
		why  string
		ops  []swapi.CopyOperation
		want map[string]string
	}{
		"file":            {"a name is given", []swapi.CopyOperation{op("@git/README.md", "@artifact/docs/index.md")}, map[string]string{"docs/": "", "docs/index.md": "top"}},
		"file to dir":     {"a slash means into", []swapi.CopyOperation{op("@git/README.md", "@artifact/docs/")}, map[string]string{"docs/": "", "docs/README.md": "top"}},
		"file to root":    {"the root is a directory", []swapi.CopyOperation{op("@git/README.md", "@artifact/")}, map[string]string{"README.md": "top"}},
		"file into known": {"as cp does with a directory that exists", []swapi.CopyOperation{op("@chart/shop", "@artifact/"), op("@git/README.md", "@artifact/shop")}, map[string]string{"shop/": "", "shop/Chart.yaml": "name: shop", "shop/values.yaml": "a: {b: 1, d: 4}\nlist: [x, y]\n", "shop/README.md": "top"}},
		"dir":             {"a directory comes with its name", []swapi.CopyOperation{op("@git/a-b/", "@artifact/x")}, map[string]string{"x/": "", "x/a-b/": "", "x/a-b/f": "f"}},
		"whole source":    {"the root has no name", []swapi.CopyOperation{without(op("@git/", "@artifact/all/"), "deploy", "values.yaml", "a-b")}, map[string]string{"all/": "", "all/README.md": "top", "all/empty/": ""}},
		"contents":        {"/** gives what is inside", []swapi.CopyOperation{op("@git/deploy/**", "@artifact/")}, map[string]string{"app.yaml": "app", "db.yaml": "db", "doc/": "", "doc/a.md": "doc", "doc/testdata/": "", "doc/testdata/x.yaml": "x"}},
		"star":            {"files land in the directory", []swapi.CopyOperation{op("@git/deploy/*.yaml", "@artifact/apps/")}, map[string]string{"apps/": "", "apps/app.yaml": "app", "apps/db.yaml": "db"}},
		"star finds dirs": {"a directory that matches comes whole", []swapi.CopyOperation{op("@git/deploy/d*", "@artifact/")}, map[string]string{"db.yaml": "db", "doc/": "", "doc/a.md": "doc", "doc/testdata/": "", "doc/testdata/x.yaml": "x"}},
		"any depth":       {"** is any number of directories", []swapi.CopyOperation{op("@git/deploy/**/[ax]*.yaml", "@artifact/")}, map[string]string{"app.yaml": "app", "doc/": "", "doc/testdata/": "", "doc/testdata/x.yaml": "x"}},
		"exclude": {"by name, by path, with what is below", []swapi.CopyOperation{without(op("@git/deploy/**", "@artifact/"), "*.md", "**/testdata/**")},
			map[string]string{"app.yaml": "app", "db.yaml": "db", "doc/": ""}},
		"exclude relative":    {"seen from the root of the selection", []swapi.CopyOperation{without(op("@git/deploy/**", "@artifact/"), "doc/{a,b}.md", "doc/testdata")}, map[string]string{"app.yaml": "app", "db.yaml": "db", "doc/": ""}},
		"exclude single file": {"then nothing is copied", []swapi.CopyOperation{op("@git/a-b/", "@artifact/"), without(op("@git/README.md", "@artifact/"), "README.md")}, map[string]string{"a-b/": "", "a-b/f": "f"}},
		"later wins":          {"in the order of the list", []swapi.CopyOperation{op("@git/deploy/app.yaml", "@artifact/x"), op("@git/deploy/db.yaml", "@artifact/x")}, map[string]string{"x": "db"}},
		"merge": {"maps are merged, lists replaced, numbers kept", []swapi.CopyOperation{op("@chart/", "@artifact/"), by("Merge", op("@git/values.yaml", "@artifact/shop/values.yaml"))},
			map[string]string{"shop/": "", "shop/Chart.yaml": "name: shop", "shop/values.yaml": "a:\n  b: 2\n  c: 12345678901234567890\n  d: 4\nlist:\n- z\n"}},
		"merge into nothing": {"is a copy", []swapi.CopyOperation{by("Merge", op("@git/README.md", "@artifact/r"))}, map[string]string{"r": "top"}},
		"extract":            {"links are left out", []swapi.CopyOperation{by("Extract", op("@pkg/rel/one.tgz", "@artifact/charts"))}, map[string]string{"charts/": "", "charts/one/": "", "charts/one/Chart.yaml": "one"}},
		"extract all":        {"what is no archive is skipped", []swapi.CopyOperation{by("Extract", op("@pkg/rel/**/*.{tgz,tar.gz,txt}", "@artifact/"))}, map[string]string{"one/": "", "one/Chart.yaml": "one", "two/": "", "two/Chart.yaml": "two"}},
		"never in artifacts": {"version control and pictures stay out", []swapi.CopyOperation{op("@git/**", "@artifact/"), op("@git/.git", "@artifact/x/")}, map[string]string{
			"README.md": "top", "a-b/": "", "a-b/f": "f", "deploy/": "", "deploy/app.yaml": "app", "deploy/db.yaml": "db", "deploy/doc/": "", "deploy/doc/a.md": "doc",
			"deploy/doc/testdata/": "", "deploy/doc/testdata/x.yaml": "x", "empty/": "", "values.yaml": "a: {b: 2, c: 12345678901234567890}\nlist: [z]\n", "x/": "",
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := result(t, trees, c.ops...)
			if err != nil {
				t.Fatalf("%s: %v", c.why, err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("%s (-want +got):\n%s", c.why, d)
			}
		})
	}
}

func TestComposeRefuses(t *testing.T) {
	deep := strings.Repeat("d/", 65) + "f"
	trees := map[string]*Tree{"s": tree(t, map[string]string{
		"f": "x", "d/g": "y", "list.yaml": "- a", "big.yaml": strings.Repeat("# x\n", maxYAML/4+1), "torn.tgz": "not gzip",
		"slip.tgz":  tarball(t, map[string]string{"../../slip": "x"}, nil),
		"twice.tgz": tarball(t, map[string]string{"a": "x", "./a": "y"}, nil),
		"deep.tgz":  tarball(t, map[string]string{deep: "x"}, nil),
	})}
	cases := map[string]struct {
		why  string
		ops  []swapi.CopyOperation
		want string
	}{
		"nothing":           {"the user expects a file", []swapi.CopyOperation{op("@s/none", "@artifact/")}, `"none" is not in the source`},
		"no match":          {"the user expects files", []swapi.CopyOperation{op("@s/*.none", "@artifact/")}, "no files match"},
		"all excluded":      {"most likely a mistake", []swapi.CopyOperation{without(op("@s/f*", "@artifact/"), "*")}, "are excluded"},
		"unknown source":    {"", []swapi.CopyOperation{op("@t/f", "@artifact/")}, `no source has the alias "t"`},
		"above the source":  {"nothing is outside of a source", []swapi.CopyOperation{op("@s/../../etc/*", "@artifact/")}, "leaves the source"},
		"absolute source":   {"nor anywhere on disk", []swapi.CopyOperation{op("@s//etc/passwd", "@artifact/")}, "leaves the source"},
		"above artifact":    {"nor can anything leave an artifact", []swapi.CopyOperation{op("@s/f", "@artifact/../f")}, "leaves the artifact"},
		"absolute target":   {"", []swapi.CopyOperation{op("@s/f", "@artifact//etc/f")}, "leaves the artifact"},
		"other target":      {"", []swapi.CopyOperation{op("@s/f", "@s/f")}, "not of the form"},
		"deep target":       {"", []swapi.CopyOperation{op("@s/f", "@artifact/"+deep)}, "more than 64 levels"},
		"file as directory": {"paths are one or the other", []swapi.CopyOperation{op("@s/f", "@artifact/x"), op("@s/f", "@artifact/x/y")}, "is a file"},
		"directory as file": {"", []swapi.CopyOperation{op("@s/d/**", "@artifact/x/f/"), op("@s/f*", "@artifact/x/")}, "is a directory"},
		"merge of a list":   {"Helm's values are maps", []swapi.CopyOperation{op("@s/list.yaml", "@artifact/v"), by("Merge", op("@s/list.yaml", "@artifact/v"))}, "not a YAML map"},
		"large merge":       {"memory is bounded", []swapi.CopyOperation{op("@s/big.yaml", "@artifact/v"), by("Merge", op("@s/f", "@artifact/v"))}, "can be merged"},
		"extract directory": {"", []swapi.CopyOperation{by("Extract", op("@s/d", "@artifact/"))}, "needs an archive"},
		"extract file":      {"", []swapi.CopyOperation{by("Extract", op("@s/f", "@artifact/"))}, ".tar.gz or .tgz"},
		"torn archive":      {"", []swapi.CopyOperation{by("Extract", op("@s/torn.tgz", "@artifact/"))}, "unpack"},
		"slip":              {"names that leave an archive", []swapi.CopyOperation{by("Extract", op("@s/slip.tgz", "@artifact/"))}, "leaves the archive"},
		"twice":             {"two files of a name", []swapi.CopyOperation{by("Extract", op("@s/twice.tgz", "@artifact/"))}, "twice"},
		"deep archive":      {"", []swapi.CopyOperation{by("Extract", op("@s/deep.tgz", "@artifact/"))}, "too deep"},
		"bad exclude":       {"", []swapi.CopyOperation{without(op("@s/f", "@artifact/"), "[a")}, "exclude[0]"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := result(t, trees, c.ops...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want %q", c.why, err, c.want)
			}
		})
	}
}

// TestArchivesShareTheirLimits: what many archives unpack to counts together.
func TestArchivesShareTheirLimits(t *testing.T) {
	trees := map[string]*Tree{"s": tree(t, map[string]string{
		"a.tgz": tarball(t, map[string]string{"1": "x", "2": "x"}, nil), "b.tgz": tarball(t, map[string]string{"3": "x", "4": "x"}, nil),
	})}
	c := New(trees, t.TempDir())
	c.left = artifact.Limits{Entries: 3, Bytes: 100, Depth: 4}
	_, err := c.Compose(t.Context(), []swapi.CopyOperation{by("Extract", op("@s/*.tgz", "@artifact/"))})
	if !errors.Is(err, artifact.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	c = New(trees, t.TempDir())
	c.left = artifact.Limits{Entries: 2, Bytes: 100, Depth: 4}
	for range 2 {
		if _, err := c.Compose(t.Context(), []swapi.CopyOperation{by("Extract", op("@s/a.tgz", "@artifact/"))}); err != nil {
			t.Errorf("an archive that two artifacts use is unpacked once: %v", err)
		}
	}
}

func TestComposeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	trees := map[string]*Tree{"s": tree(t, map[string]string{"f": "x"})}
	for _, from := range []string{"@s/", "@s/**"} {
		if _, err := New(trees, t.TempDir()).Compose(ctx, []swapi.CopyOperation{op(from, "@artifact/")}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", from, err)
		}
	}
}

// TestLinksAreNotFollowed: a source tree that holds links, which ours never do,
// gives nothing of what they lead to.
func TestLinksAreNotFollowed(t *testing.T) {
	root, secret := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(secret, "key"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"dir": secret, "file": filepath.Join(secret, "key"), "up": ".."} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	l, err := List(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"@s/dir/key", "@s/file", "@s/**", "@s/dir/*"} {
		if got, err := result(t, map[string]*Tree{"s": l}, op(from, "@artifact/")); err == nil {
			t.Errorf("%s gives %v", from, got)
		}
	}
}

package release

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"helm.sh/helm/v4/pkg/chart/loader/archive"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/ignore"
)

// Bounds of a chart, subcharts included.
const (
	maxChartBytes   = 64 << 20
	maxChartFile    = 5 << 20
	maxChartEntries = 10_000
	maxChartDepth   = 8
)

// ErrChartTooLarge says that a chart exceeds a bound.
var ErrChartTooLarge = errors.New("chart is too large")

// LoadArchive loads a packaged chart (.tgz) from a file.
func LoadArchive(file string) (*Chart, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open chart: %w", err)
	}
	defer f.Close()
	return LoadReader(f)
}

// LoadReader loads a packaged chart (.tgz) from a stream. Archives within it
// count towards the same bounds.
func LoadReader(r io.Reader) (*Chart, error) {
	b := &budget{bytes: maxChartBytes, entries: maxChartEntries}
	files, err := b.untar(r, 0)
	if err != nil {
		return nil, fmt.Errorf("read chart archive: %w", err)
	}
	return load(files)
}

// LoadDir loads a chart from a directory, which nothing in it can escape.
// Files that .helmignore names are left out; links are refused.
func LoadDir(dir string) (*Chart, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open chart: %w", err)
	}
	defer root.Close()
	return LoadFS(root.FS(), ".")
}

// LoadFS loads a chart from a directory of a file system, for example an
// embedded one.
func LoadFS(fsys fs.FS, dir string) (*Chart, error) {
	sub, err := fs.Sub(fsys, dir)
	if err != nil {
		return nil, fmt.Errorf("open chart %s: %w", dir, err)
	}
	rules, err := ignoreRules(sub)
	if err != nil {
		return nil, fmt.Errorf("read .helmignore of chart %s: %w", dir, err)
	}
	b := &budget{bytes: maxChartBytes, entries: maxChartEntries}
	var files []*archive.BufferedFile
	err = fs.WalkDir(sub, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if rules.Ignore(name, info) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			return nil
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not a regular file; charts must not contain links", name)
		}
		more, err := b.file(sub, name)
		files = append(files, more...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read chart %s: %w", dir, err)
	}
	return load(files)
}

func load(files []*archive.BufferedFile) (*Chart, error) {
	c, err := loader.LoadFiles(files)
	if err != nil {
		return nil, fmt.Errorf("load chart: %w", err)
	}
	return c, nil
}

func ignoreRules(fsys fs.FS) (*ignore.Rules, error) {
	rules := ignore.Empty()
	f, err := fsys.Open(ignore.HelmIgnore)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		defer f.Close()
		if rules, err = ignore.Parse(io.LimitReader(f, maxChartFile)); err != nil {
			return nil, err
		}
	}
	rules.AddDefaults()
	return rules, nil
}

// budget is what a chart may still use.
type budget struct {
	bytes   int64
	entries int
}

func (b *budget) read(name string, r io.Reader) ([]byte, error) {
	limit := min(b.bytes, maxChartFile)
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: %w: at most %d bytes in a file and %d in all", name, ErrChartTooLarge, maxChartFile, maxChartBytes)
	}
	b.bytes -= int64(len(data))
	return data, nil
}

func (b *budget) entry() error {
	if b.entries--; b.entries < 0 {
		return fmt.Errorf("%w: more than %d files", ErrChartTooLarge, maxChartEntries)
	}
	return nil
}

func (b *budget) file(fsys fs.FS, name string) ([]*archive.BufferedFile, error) {
	if err := b.entry(); err != nil {
		return nil, err
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := b.read(name, f)
	if err != nil {
		return nil, err
	}
	return b.expand(name, data, 0)
}

// untar reads an archive; every entry lies below one directory, the chart's.
func (b *budget) untar(r io.Reader, depth int) ([]*archive.BufferedFile, error) {
	if depth > maxChartDepth {
		return nil, fmt.Errorf("%w: subcharts nested more than %d deep", ErrChartTooLarge, maxChartDepth)
	}
	zr, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("not a gzip archive: %w", err)
	}
	defer zr.Close()
	// Headers and skipped entries count as well.
	tr := tar.NewReader(io.LimitReader(zr, 2*maxChartBytes))
	var files []*archive.BufferedFile
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := b.entry(); err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeDir || h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if h.Typeflag != tar.TypeReg {
			return nil, fmt.Errorf("%q is not a regular file; charts must not contain links", h.Name)
		}
		name, err := entryName(h.Name)
		if err != nil {
			return nil, err
		}
		data, err := b.read(name, tr)
		if err != nil {
			return nil, err
		}
		more, err := b.expand(name, data, depth)
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	if len(files) == 0 {
		return nil, errors.New("no files in the archive")
	}
	return files, nil
}

// expand replaces the archive of a subchart by its files, so that one budget
// bounds all of them.
func (b *budget) expand(name string, data []byte, depth int) ([]*archive.BufferedFile, error) {
	data = bytes.TrimPrefix(data, []byte{0xEF, 0xBB, 0xBF})
	if !isSubchart(name) {
		return []*archive.BufferedFile{{Name: name, Data: data}}, nil
	}
	files, err := b.untar(bytes.NewReader(data), depth+1)
	if err != nil {
		return nil, fmt.Errorf("subchart %s: %w", name, err)
	}
	for _, f := range files {
		f.Name = strings.TrimSuffix(name, ".tgz") + ".expanded/" + f.Name
	}
	return files, nil
}

// isSubchart reports whether the file is the archive of a subchart:
// charts/x.tgz, charts/y/charts/x.tgz and so on.
func isSubchart(name string) bool {
	parts := strings.Split(name, "/")
	for len(parts) >= 2 && parts[0] == "charts" {
		if len(parts) == 2 {
			return path.Ext(parts[1]) == ".tgz" && strings.IndexAny(parts[1], "_.") != 0
		}
		parts = parts[2:]
	}
	return false
}

// entryName returns the path below the chart's directory.
func entryName(name string) (string, error) {
	clean := strings.ReplaceAll(name, "\\", "/")
	if path.IsAbs(clean) || strings.ContainsRune(clean, 0) || (len(clean) > 1 && clean[1] == ':') {
		return "", fmt.Errorf("%q is not a relative path", name)
	}
	_, rest, ok := strings.Cut(strings.TrimPrefix(clean, "./"), "/")
	if !ok {
		return "", fmt.Errorf("%q is not inside the chart's directory", name)
	}
	rest = path.Clean(rest)
	if !fs.ValidPath(rest) || rest == "." {
		return "", fmt.Errorf("%q leaves the chart's directory", name)
	}
	return rest, nil
}

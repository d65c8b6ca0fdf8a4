package charts

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

const (
	// maxUnpacked bounds a chart with everything packed in it, in bytes.
	maxUnpacked = 100 << 20
	// maxEntries bounds the entries of a chart with everything packed in it.
	maxEntries = 20_000
	// maxPacked bounds how deeply charts are packed in charts.
	maxPacked = 8
)

// ErrBomb says that an archive unpacks to more than a chart may be.
var ErrBomb = errors.New("the chart unpacks to too much")

// budget is what the archives of one chart may still use together.
type budget struct{ bytes, entries int64 }

// inspect reads an archive, and those in it, without keeping anything, so that
// Helm's loader is only given what it can keep. Entries cost bytes too, as a
// million empty files do.
func (b *budget) inspect(data []byte, depth int) error {
	if depth > maxPacked {
		return fmt.Errorf("%w: charts are packed in charts more than %d deep", ErrBomb, maxPacked)
	}
	gz, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return errors.New("it is not compressed by gzip")
	}
	defer gz.Close()
	counted := &counted{r: gz, b: b}
	files := tar.NewReader(counted)
	for {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return counted.explain(err)
		}
		if b.entries--; b.entries < 0 {
			return fmt.Errorf("%w: it has more than %d files", ErrBomb, maxEntries)
		}
		if !packedChart(h.Name) || h.Typeflag != tar.TypeReg {
			continue
		}
		inner, err := io.ReadAll(io.LimitReader(files, MaxArchive+1))
		if err != nil {
			return counted.explain(err)
		}
		if err := b.inspect(inner, depth+1); errors.Is(err, ErrBomb) {
			return err // whatever else is wrong with it, the loader says better
		}
	}
}

// packedChart tells whether an entry is an archive that the loader unpacks too.
func packedChart(name string) bool {
	return path.Ext(name) == ".tgz" && strings.Contains(name, "charts/")
}

// counted reads within a budget of bytes.
type counted struct {
	r io.Reader
	b *budget
}

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.b.bytes -= int64(n); c.b.bytes < 0 {
		return 0, ErrBomb
	}
	return n, err
}

// explain makes the error of an archive fit for users.
func (c *counted) explain(err error) error {
	if c.b.bytes < 0 {
		return fmt.Errorf("%w: more than %d bytes", ErrBomb, maxUnpacked)
	}
	return fmt.Errorf("it cannot be unpacked: %w", err)
}

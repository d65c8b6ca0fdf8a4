package artifact

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"time"
)

// The permissions inside an archive, whatever they were outside.
const (
	dirMode  = 0o750
	fileMode = 0o600
	exeMode  = 0o700
)

// Entry is one directory or file to pack.
type Entry struct {
	// Path is relative, with slashes, and has no dot segments.
	Path string
	Dir  bool
	// Executable files keep that property and no other permission.
	Executable bool
	// Size is the exact number of bytes that Open's reader gives.
	Size int64
	// Open opens the content; it is nil for directories.
	Open func() (io.ReadCloser, error)
}

// Pack writes entries as a gzipped tar archive. Headers carry no owner, time
// or permission beyond "executable", so that equal entries in equal order give
// equal bytes. What no reader would unpack is not packed: an unsafe path is
// ErrUnsafe, more than DefaultLimits is ErrTooLarge.
func Pack(w io.Writer, entries iter.Seq2[Entry, error]) (err error) {
	gz := newGzipWriter(w)
	defer func() {
		if closeErr := gz.Close(); err == nil {
			err = closeErr
		}
	}()
	tw := tar.NewWriter(gz)
	buf := make([]byte, 64<<10)
	left := DefaultLimits()
	for e, err := range entries {
		if err != nil {
			return fmt.Errorf("pack: %w", err)
		}
		if err := left.take(e); err != nil {
			return fmt.Errorf("pack %.200q: %w", e.Path, err)
		}
		if err := packOne(tw, e, buf); err != nil {
			return fmt.Errorf("pack %q: %w", e.Path, err)
		}
	}
	return tw.Close()
}

// take subtracts an entry from what is left.
func (l *Limits) take(e Entry) error {
	if e.Path == "." || e.Path == "" || path.Clean(e.Path) != e.Path {
		return fmt.Errorf("%w: path is not in its shortest form", ErrUnsafe)
	}
	if _, err := inside(e.Path, l.Depth); err != nil {
		return err
	}
	l.Entries--
	l.Bytes -= e.Size
	if l.Entries < 0 || l.Bytes < 0 || e.Size < 0 {
		return fmt.Errorf("%w: too many entries or bytes", ErrTooLarge)
	}
	return nil
}

func packOne(tw *tar.Writer, e Entry, buf []byte) error {
	h := &tar.Header{Name: e.Path, ModTime: time.Time{}, Typeflag: tar.TypeReg, Mode: fileMode, Size: e.Size}
	switch {
	case e.Dir:
		h.Typeflag, h.Mode, h.Size = tar.TypeDir, dirMode, 0
		h.Name += "/"
	case e.Executable:
		h.Mode = exeMode
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if e.Dir {
		return nil
	}
	r, err := e.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	// The wrapper hides WriterTo and ReaderFrom, so that the buffer is used.
	n, err := io.CopyBuffer(struct{ io.Writer }{tw}, struct{ io.Reader }{r}, buf)
	if err == nil && n != e.Size {
		err = fmt.Errorf("has %d bytes, not %d", n, e.Size)
	}
	return err
}

// Dir gives the directories and regular files below dir that ignore lets
// through, in lexical order. Everything else, symbolic links first of all, is
// left out.
func Dir(dir string, ignore Ignore) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(dir, name)
			if err != nil || rel == "." {
				return err
			}
			rel = filepath.ToSlash(rel)
			if (!d.IsDir() && !d.Type().IsRegular()) || ignore.Match(rel, d.IsDir()) {
				return nil
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			e := Entry{Path: rel, Dir: d.IsDir()}
			if !e.Dir {
				e.Size, e.Executable = info.Size(), info.Mode()&0o100 != 0
				e.Open = func() (io.ReadCloser, error) { return os.Open(name) }
			}
			if !yield(e, nil) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield(Entry{}, err)
		}
	}
}

package artifact

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// Limits bound what an archive may unpack to.
type Limits struct {
	// Bytes of all files together.
	Bytes int64
	// Entries of any kind.
	Entries int
	// Depth is the number of segments of a path.
	Depth int
}

// DefaultLimits are far above any honest source and far below a full disk.
func DefaultLimits() Limits {
	return Limits{Bytes: 2 << 30, Entries: 500_000, Depth: 64}
}

// Extract unpacks the gzipped tar archive r into the existing directory dir.
//
// Only directories and regular files are written, and only below dir; symbolic
// links are skipped, as every Flux controller does. An entry that is absolute,
// leaves dir, is a hard link or a device, or appears twice is ErrUnsafe; more
// than l is ErrTooLarge. On error, dir holds a part and should be removed.
func Extract(ctx context.Context, r io.Reader, dir string, l Limits) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("extract archive: %w", err)
	}
	defer root.Close()
	return unpack(ctx, r, &disk{root: root, buf: make([]byte, 64<<10)}, l)
}

// place is where an archive is unpacked to.
type place interface {
	// mkdir makes a directory in one that exists, or fails with fs.ErrExist.
	mkdir(name string) error
	// file makes a file in a directory that exists, or fails with fs.ErrExist.
	file(name string, mode fs.FileMode, size int64, r io.Reader) error
}

func unpack(ctx context.Context, r io.Reader, to place, l Limits) error {
	gz, err := gzip.NewReader(contextReader{ctx, r})
	if err != nil {
		return fmt.Errorf("extract archive: %w", err)
	}
	defer gz.Close()
	x := extractor{to: to, left: l, made: map[string]bool{".": true}}
	tr := tar.NewReader(gz)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("extract archive: %w", err)
		}
		if err := x.entry(h, tr); err != nil {
			return fmt.Errorf("extract archive: entry %.200q: %w", h.Name, err)
		}
	}
	// The rest is padding; reading it lets gzip check its sums.
	if _, err := io.Copy(io.Discard, io.LimitReader(gz, 1<<20)); err != nil {
		return fmt.Errorf("extract archive: %w", err)
	}
	return nil
}

type extractor struct {
	to   place
	left Limits
	made map[string]bool
}

func (x *extractor) entry(h *tar.Header, r io.Reader) error {
	if x.left.Entries--; x.left.Entries < 0 {
		return fmt.Errorf("%w: too many entries", ErrTooLarge)
	}
	switch h.Typeflag {
	case tar.TypeXGlobalHeader, tar.TypeSymlink:
		return nil
	case tar.TypeReg, tar.TypeDir:
	default:
		return fmt.Errorf("%w: type %q is not a file or directory", ErrUnsafe, h.Typeflag)
	}
	name, err := inside(h.Name, x.left.Depth)
	if err != nil || name == "." {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return x.mkdir(name)
	}
	if x.left.Bytes -= h.Size; h.Size < 0 || x.left.Bytes < 0 {
		return fmt.Errorf("%w: too many bytes", ErrTooLarge)
	}
	return x.file(name, h, r)
}

// inside checks a name from outside and gives it in its clean form.
func inside(name string, depth int) (string, error) {
	if strings.HasPrefix(name, "/") || strings.ContainsAny(name, "\x00\\") || len(name) > 4096 {
		return "", fmt.Errorf("%w: name is not a plain relative path", ErrUnsafe)
	}
	segments := strings.Split(name, "/")
	for _, s := range segments {
		if s == ".." {
			return "", fmt.Errorf("%w: name leaves the archive", ErrUnsafe)
		}
	}
	if len(segments) > depth {
		return "", fmt.Errorf("%w: too deep", ErrTooLarge)
	}
	return path.Clean(name), nil
}

// mkdir makes a directory and its parents.
func (x *extractor) mkdir(name string) error {
	if x.made[name] {
		return nil
	}
	if err := x.mkdir(path.Dir(name)); err != nil {
		return err
	}
	if err := x.to.mkdir(name); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%w: it is a file already", ErrUnsafe)
		}
		return err
	}
	// Directories count as entries, also those only implied by a file's name.
	if x.left.Entries--; x.left.Entries < 0 {
		return fmt.Errorf("%w: too many entries", ErrTooLarge)
	}
	x.made[name] = true
	return nil
}

func (x *extractor) file(name string, h *tar.Header, r io.Reader) error {
	if err := x.mkdir(path.Dir(name)); err != nil {
		return err
	}
	mode := fs.FileMode(0o444)
	if h.Mode&0o100 != 0 {
		mode = 0o555
	}
	err := x.to.file(name, mode, h.Size, r)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: it appears twice", ErrUnsafe)
	}
	return err
}

// disk unpacks below a directory.
type disk struct {
	root *os.Root
	buf  []byte
}

func (d *disk) mkdir(name string) error { return d.root.Mkdir(name, 0o755) }

func (d *disk) file(name string, mode fs.FileMode, _ int64, r io.Reader) error {
	f, err := d.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{r}, d.buf)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

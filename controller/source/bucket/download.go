package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sync/errgroup"
)

// Parallel is how many objects are read at a time.
const Parallel = 8

// Download writes the objects to files below the existing folder dir, in the
// state in which they were listed. It holds one buffer for each object that it
// reads at a time, whatever their sizes are.
func Download(ctx context.Context, d Driver, objects map[string]Object, dir string) error {
	if err := CheckKeys(objects); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDisk, err)
	}
	defer root.Close()
	buffers := make(chan []byte, Parallel)
	for range Parallel {
		buffers <- nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(Parallel)
	for _, o := range objects {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			buf := <-buffers
			if buf == nil {
				buf = make([]byte, 64<<10)
			}
			defer func() { buffers <- buf }()
			if err := one(ctx, d, root, o, buf); err != nil {
				return fmt.Errorf("object %.200q: %w", o.Key, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// ErrDisk says that our own disk is at fault.
var ErrDisk = errors.New("write to disk")

func one(ctx context.Context, d Driver, root *os.Root, o Object, buf []byte) error {
	if err := CheckKey(o.Key); err != nil {
		return err
	}
	r, err := d.Open(ctx, o)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := root.MkdirAll(path.Dir(o.Key), 0o700); err != nil {
		return fmt.Errorf("%w: %w", ErrDisk, err)
	}
	f, err := root.OpenFile(o.Key, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: there are two of it", ErrUnsafe)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDisk, err)
	}
	n, err := io.CopyBuffer(disk{f}, struct{ io.Reader }{io.LimitReader(r, o.Size+1)}, buf)
	if closeErr := f.Close(); err == nil && closeErr != nil {
		err = fmt.Errorf("%w: %w", ErrDisk, closeErr)
	}
	if err == nil && n != o.Size {
		err = fmt.Errorf("%w: it has %d bytes, not %d", ErrChanged, n, o.Size)
	}
	return err
}

// disk marks the errors of writing, so that they are told from those of reading.
type disk struct{ io.Writer }

// Write implements io.Writer.
func (d disk) Write(p []byte) (int, error) {
	n, err := d.Writer.Write(p)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrDisk, err)
	}
	return n, err
}

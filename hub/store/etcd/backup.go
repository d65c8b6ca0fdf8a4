package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
)

// revisionBump is how far ahead of a backup's a restored storage begins: no agent
// and no client has seen a revision that high, so none ever goes back.
const revisionBump = 1_000_000_000

// ErrDamaged is a backup that is not whole.
var ErrDamaged = errors.New("the backup is damaged")

// Running reports whether a hub with an embedded member runs on a directory, and
// the endpoint that reaches it.
func Running(dir string) (endpoint string, ok bool) {
	path := socket(dir)
	if path == "" {
		return "", false
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return "", false
	}
	_ = c.Close()
	return "unix://" + path, true
}

// Snapshot writes everything, as of one revision, as etcd's own tools read it: the
// last 32 bytes are the SHA-256 of what is before.
func (s *Store) Snapshot(ctx context.Context, w io.Writer) error {
	r, err := s.client().Snapshot(ctx)
	if err == nil {
		_, err = io.Copy(w, r)
		err = errors.Join(err, r.Close())
	}
	if err != nil {
		return fmt.Errorf("take a snapshot: %w", fault(ctx, err))
	}
	return nil
}

// Content is what a snapshot holds.
type Content struct {
	Revision int64
	Keys     int
	Bytes    int64
}

// Inspect reads a snapshot; ErrDamaged when it is not whole.
func Inspect(path string, log *slog.Logger) (Content, error) {
	if err := verify(path); err != nil {
		return Content{}, err
	}
	status, err := snapshot.NewV3(zapLogger(log)).Status(path)
	if err != nil {
		return Content{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return Content{Revision: status.Revision, Keys: status.TotalKey, Bytes: status.TotalSize}, nil
}

// verify compares a snapshot with the digest at its end.
func verify(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	length := info.Size() - sha256.Size
	if length <= 0 || length%512 != 0 {
		return fmt.Errorf("%w: %s has %d bytes, which no snapshot has", ErrDamaged, path, info.Size())
	}
	sum := sha256.New()
	if _, err := io.CopyN(sum, f, length); err != nil {
		return err
	}
	want, err := io.ReadAll(f)
	if err == nil && !bytes.Equal(want, sum.Sum(nil)) {
		err = fmt.Errorf("%w: the checksum of %s does not fit its content", ErrDamaged, path)
	}
	return err
}

// Restore makes the directory of an embedded member from a snapshot. The directory
// must not exist, and is there when it is whole: what is left of a try that was cut
// off lies beside it, and goes with the next. Revisions go on far above those of the
// snapshot.
func Restore(path, dir string, log *slog.Logger) error {
	if err := verify(path); err != nil {
		return err
	}
	if _, err := os.Stat(dir); err == nil {
		return fmt.Errorf("%s exists: move it away first, or restore to another place", dir)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	partial := dir + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	const peer = "http://localhost:2380" // as memberConfig says; nothing listens there
	err := snapshot.NewV3(zapLogger(log)).Restore(snapshot.RestoreConfig{SnapshotPath: path, Name: memberName, OutputDataDir: partial,
		PeerURLs: []string{peer}, InitialCluster: memberName + "=" + peer, InitialClusterToken: "etcd-cluster",
		RevisionBump: revisionBump, MarkCompacted: true})
	if err == nil {
		err = os.Rename(partial, dir)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("restore to %s: %w", dir, err), os.RemoveAll(partial))
	}
	return nil
}

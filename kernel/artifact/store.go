package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/opencontainers/go-digest"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	blobDir = "blobs"
	tempDir = "tmp"
)

// Options say where a Store lives and how long it keeps what was replaced.
type Options struct {
	// Root is the directory of the store; it is created when missing.
	Root string
	// Address is the host, or host:port, under which the store is served; it
	// becomes part of artifact URLs.
	Address string
	// TTL is how long a replaced artifact stays available. Zero means 60 s.
	TTL time.Duration
	// Records is how many artifacts of one object are kept at most, the
	// current one included. Zero means 2.
	Records int
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// Store is a content-addressed store of artifacts on disk.
//
// Blobs live in blobs/sha256/<hex>; what an object publishes is a relative
// symbolic link <kind>/<namespace>/<name>/<file> to its blob. Publication is
// one rename, so a reader sees the old artifact or the new one, never a part.
// Everything the store knows is on disk: a restarted process finds it again.
// A Store is safe for concurrent use by one process.
//
// Nothing is flushed to the disk explicitly: after a loss of power a blob may be
// torn or missing, but never taken for sound, because a new process hashes what
// it finds before it relies on it. What is lost then is fetched again, which is
// cheaper than a flush for every artifact.
type Store struct {
	opts Options

	mu       sync.Mutex
	pins     map[digest.Digest]int
	verified map[digest.Digest]stamp
}

// stamp identifies the state of a blob's file that was found to be sound.
type stamp struct {
	size    int64
	modTime time.Time
}

// Open opens the store at o.Root and removes what an interrupted publication
// left behind.
func Open(o Options) (*Store, error) {
	if o.Root == "" {
		return nil, errors.New("open artifact store: no root directory given")
	}
	if o.TTL == 0 {
		o.TTL = time.Minute
	}
	if o.Records == 0 {
		o.Records = 2
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return nil, fmt.Errorf("open artifact store: %w", err)
	}
	o.Root = root
	if err := os.RemoveAll(filepath.Join(root, tempDir)); err != nil {
		return nil, fmt.Errorf("open artifact store: %w", err)
	}
	for _, dir := range []string{tempDir, filepath.Join(blobDir, "sha256")} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			return nil, fmt.Errorf("open artifact store: %w", err)
		}
	}
	return &Store{opts: o, pins: map[digest.Digest]int{}, verified: map[digest.Digest]stamp{}}, nil
}

// Root gives the directory of the store.
func (s *Store) Root() string { return s.opts.Root }

// TempDir makes an empty directory on the store's volume for work in progress.
// The caller removes it; what a crash leaves is removed by the next Open.
func (s *Store) TempDir(pattern string) (string, error) {
	return os.MkdirTemp(filepath.Join(s.opts.Root, tempDir), pattern)
}

// Put describes an artifact to publish.
type Put struct {
	Key Key
	// File is the name of the artifact within its object, for example
	// "<commit>.tar.gz".
	File string
	// Latest is the name of the link that follows the newest artifact, for
	// example "latest.tar.gz"; empty for none.
	Latest   string
	Revision string
	Metadata map[string]string
	// Write produces the content. It is called once.
	Write func(io.Writer) error
}

// Publish writes the content of p, makes it the artifact of its object and
// returns it. On error nothing that was published before has changed.
func (s *Store) Publish(ctx context.Context, p Put) (meta.Artifact, error) {
	if err := p.validate(); err != nil {
		return meta.Artifact{}, err
	}
	temp, err := os.CreateTemp(filepath.Join(s.opts.Root, tempDir), "blob-")
	if err != nil {
		return meta.Artifact{}, fmt.Errorf("publish artifact of %s: %w", p.Key, err)
	}
	defer os.Remove(temp.Name())
	w := &meter{w: temp, ctx: ctx, digest: digest.SHA256.Digester()}
	err = p.Write(w)
	if closeErr := temp.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return meta.Artifact{}, fmt.Errorf("publish artifact of %s: %w", p.Key, err)
	}
	sum := w.digest.Digest()
	if err := s.link(temp.Name(), sum, p); err != nil {
		return meta.Artifact{}, fmt.Errorf("publish artifact of %s: %w", p.Key, err)
	}
	file := path.Join(p.Key.String(), p.File)
	return meta.Artifact{
		Digest:         sum.String(),
		Path:           file,
		URL:            s.URL(file),
		Revision:       p.Revision,
		LastUpdateTime: metav1.NewTime(s.opts.Now()),
		Size:           &w.size,
		Metadata:       p.Metadata,
	}, nil
}

func (p Put) validate() error {
	if err := p.Key.validate(); err != nil {
		return err
	}
	if !plainName(p.File) || (p.Latest != "" && !plainName(p.Latest)) {
		return fmt.Errorf("publish artifact of %s: file %q must be a plain name", p.Key, p.File)
	}
	return nil
}

// link moves the finished file to its blob and points the object at it.
func (s *Store) link(temp string, sum digest.Digest, p Put) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	blob := s.blob(sum)
	// The new file replaces an equal blob too: that repairs one damaged on disk.
	if err := os.Chmod(temp, 0o400); err != nil {
		return err
	}
	if err := os.Rename(temp, blob); err != nil {
		return err
	}
	info, err := os.Stat(blob)
	if err != nil {
		return err
	}
	s.verified[sum] = stamp{info.Size(), info.ModTime()}
	dir := filepath.Join(s.opts.Root, filepath.FromSlash(p.Key.String()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := relink(filepath.Join("..", "..", "..", blobDir, "sha256", sum.Encoded()), filepath.Join(dir, p.File)); err != nil {
		return err
	}
	if p.Latest == "" || p.Latest == p.File {
		return nil
	}
	return relink(p.File, filepath.Join(dir, p.Latest))
}

// relink makes name a symbolic link to target in one step, replacing what is
// there.
func relink(target, name string) error {
	next := filepath.Join(filepath.Dir(name), ".next-"+filepath.Base(name))
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, next); err != nil {
		return err
	}
	return os.Rename(next, name)
}

// URL gives the address of a path of the store.
func (s *Store) URL(file string) string {
	return "http://" + s.opts.Address + "/" + strings.TrimPrefix(file, "/")
}

// LatestURL gives the address that always leads to the newest artifact of key.
func (s *Store) LatestURL(key Key, latest string) string {
	return s.URL(path.Join(key.String(), latest))
}

// Verify checks that the store still has a, unharmed, under its path. It
// returns ErrNotFound or ErrDigest otherwise. Content is hashed once per
// process and again only when its file changed.
func (s *Store) Verify(ctx context.Context, a meta.Artifact) error {
	d, err := parseDigest(a.Digest)
	if err != nil {
		return err
	}
	s.mu.Lock()
	target, err := os.Readlink(filepath.Join(s.opts.Root, filepath.FromSlash(path.Clean("/"+a.Path))))
	s.mu.Unlock()
	if err != nil || filepath.Base(target) != d.Encoded() {
		return fmt.Errorf("artifact %s: %w", a.Path, ErrNotFound)
	}
	f, _, err := s.open(d)
	if err != nil {
		return fmt.Errorf("artifact %s: %w", a.Path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("artifact %s: %w", a.Path, err)
	}
	now := stamp{info.Size(), info.ModTime()}
	s.mu.Lock()
	sound := s.verified[d] == now
	s.mu.Unlock()
	if sound {
		return nil
	}
	v := d.Verifier()
	if _, err := io.Copy(v, contextReader{ctx, f}); err != nil {
		return fmt.Errorf("artifact %s: %w", a.Path, err)
	}
	if !v.Verified() {
		return fmt.Errorf("artifact %s: %w", a.Path, ErrDigest)
	}
	s.mu.Lock()
	s.verified[d] = now
	s.mu.Unlock()
	return nil
}

// open opens the blob of d for reading and gives its path.
func (s *Store) open(d digest.Digest) (*os.File, string, error) {
	if d.Algorithm() != digest.SHA256 {
		return nil, "", ErrNotFound
	}
	name := s.blob(d)
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", ErrNotFound
	}
	return f, name, err
}

func (s *Store) blob(d digest.Digest) string {
	return filepath.Join(s.opts.Root, blobDir, "sha256", d.Encoded())
}

// meter counts and hashes what passes through it.
type meter struct {
	w      io.Writer
	ctx    context.Context
	digest digest.Digester
	size   int64
}

func (m *meter) Write(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := m.w.Write(p)
	m.digest.Hash().Write(p[:n])
	m.size += int64(n)
	return n, err
}

// contextReader stops reading when its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

package artifact

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/opencontainers/go-digest"
)

const (
	// memoryBytes and memoryEntries bound what one artifact may take unpacked to
	// be kept in memory; a larger one goes to disk.
	memoryBytes   = 4 << 20
	memoryEntries = 20_000
	// memoryIdle is how long content that nobody holds stays in memory.
	memoryIdle = 20 * time.Second
	// memoryIdleBytes is how much content that nobody holds stays in memory.
	memoryIdleBytes = 8 << 20
	// Content is allocated in chunks, of these sizes.
	minChunk, maxChunk = 4 << 10, 64 << 10
)

// errLarge says that an archive does not go into memory.
var errLarge = errors.New("the archive is too large for memory")

// files holds an unpacked archive. It is read-only once it is made.
type files struct {
	nodes map[string]*node
	chunk []byte
	left  int
}

// node is a directory (entries) or a file (content).
type node struct {
	name    string
	mode    fs.FileMode
	content []byte
	entries []fs.DirEntry
}

func newFiles() *files {
	return &files{nodes: map[string]*node{".": {name: ".", mode: fs.ModeDir | 0o755}}, left: memoryBytes}
}

func (f *files) add(name string, n *node) error {
	if f.nodes[name] != nil {
		return fs.ErrExist
	}
	if len(f.nodes) >= memoryEntries {
		return errLarge
	}
	n.name = path.Base(name)
	f.nodes[name] = n
	dir := f.nodes[path.Dir(name)]
	dir.entries = append(dir.entries, fs.FileInfoToDirEntry(n))
	return nil
}

func (f *files) mkdir(name string) error { return f.add(name, &node{mode: fs.ModeDir | 0o755}) }

func (f *files) file(name string, mode fs.FileMode, size int64, r io.Reader) error {
	if size > int64(f.left) {
		return errLarge
	}
	f.left -= int(size)
	if int(size) > len(f.chunk) {
		f.chunk = make([]byte, max(min(memoryBytes-f.left, maxChunk), minChunk, int(size)))
	}
	content := f.chunk[:size:size]
	f.chunk = f.chunk[size:]
	if _, err := io.ReadFull(r, content); err != nil {
		return err
	}
	return f.add(name, &node{mode: mode, content: content})
}

// sort puts the entries of each directory into their order.
func (f *files) sort() {
	for _, n := range f.nodes {
		slices.SortFunc(n.entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	}
}

func (f *files) find(op, name string) (*node, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	n := f.nodes[name]
	if n == nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return n, nil
}

// Open implements fs.FS.
func (f *files) Open(name string) (fs.File, error) {
	n, err := f.find("open", name)
	if err != nil {
		return nil, err
	}
	return &opened{node: n, Reader: bytes.NewReader(n.content)}, nil
}

// Stat implements fs.StatFS.
func (f *files) Stat(name string) (fs.FileInfo, error) {
	n, err := f.find("stat", name)
	if err != nil {
		return nil, err
	}
	return n, nil
}

// ReadFile implements fs.ReadFileFS; the caller may change what it gets.
func (f *files) ReadFile(name string) ([]byte, error) {
	n, err := f.find("read", name)
	if err != nil {
		return nil, err
	}
	if n.IsDir() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("is a directory")}
	}
	return append([]byte{}, n.content...), nil
}

// ReadDir implements fs.ReadDirFS.
func (f *files) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := f.find("readdir", name)
	if err != nil {
		return nil, err
	}
	if !n.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
	}
	return slices.Clone(n.entries), nil
}

// Node is its own fs.FileInfo.

func (n *node) Name() string       { return n.name }
func (n *node) Size() int64        { return int64(len(n.content)) }
func (n *node) Mode() fs.FileMode  { return n.mode }
func (n *node) ModTime() time.Time { return time.Time{} }
func (n *node) IsDir() bool        { return n.mode.IsDir() }
func (n *node) Sys() any           { return nil }

// opened is a file or directory that is being read.
type opened struct {
	*bytes.Reader
	node *node
	next int
}

func (o *opened) Stat() (fs.FileInfo, error) { return o.node, nil }
func (o *opened) Close() error               { return nil }

// ReadDir implements fs.ReadDirFile.
func (o *opened) ReadDir(n int) ([]fs.DirEntry, error) {
	rest := o.node.entries[o.next:]
	switch {
	case n <= 0:
		n = len(rest)
	case len(rest) == 0:
		return nil, io.EOF
	}
	n = min(n, len(rest))
	o.next += n
	return slices.Clone(rest[:n]), nil
}

// Content is what an artifact holds, in memory or on disk.
type Content struct {
	// Files are the files when they are in memory, without links; else nil.
	Files fs.FS
	// Root is the directory that holds them otherwise.
	Root    string
	release func()
}

// Release says that the content is no longer used. Further calls do nothing.
func (c *Content) Release() { c.release() }

// Content implements Reader.
func (r *reader) Content(ctx context.Context, a meta.Artifact) (*Content, error) {
	if a.Size == nil || *a.Size <= memoryBytes {
		it, release, err := r.acquire(ctx, "memory", a, r.keep)
		if err != nil {
			return nil, err
		}
		if it.files != nil {
			return &Content{Files: it.files, release: release}, nil
		}
		release()
	}
	tree, err := r.Tree(ctx, a)
	if err != nil {
		return nil, err
	}
	return &Content{Root: tree.Root, release: tree.release}, nil
}

// keep unpacks the artifact into memory; one that is too large is remembered as
// that. The bytes that are unpacked are the bytes that are hashed.
func (r *reader) keep(ctx context.Context, d digest.Digest, a meta.Artifact, it *item) (int64, error) {
	src, err := r.open(ctx, d, a)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	v := d.Verifier()
	in := io.TeeReader(src, v)
	f := newFiles()
	err = unpack(ctx, in, f, r.limits)
	if errors.Is(err, errLarge) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return 0, err
	}
	if !v.Verified() {
		return 0, ErrDigest
	}
	f.sort()
	it.files = f
	return int64(memoryBytes - f.left), nil
}

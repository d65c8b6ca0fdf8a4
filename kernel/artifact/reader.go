package artifact

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/opencontainers/go-digest"
)

const (
	// readTimeout bounds one fetch with its extraction.
	readTimeout = 5 * time.Minute
	// idleTime is how long content that nobody holds stays on disk.
	idleTime = 10 * time.Minute
	// idleBytes is how much content that nobody holds stays on disk.
	idleBytes = 2 << 30
)

// Reader gives consumers the content of artifacts. All methods check the
// digest before they return; whatever they return stays until it is released.
type Reader interface {
	// Content gives the files of a tar.gz artifact like Tree, of a small one from
	// memory: making files costs more than most builds.
	Content(ctx context.Context, a meta.Artifact) (*Content, error)
	// Tree gives the files of a tar.gz artifact, extracted once per digest and
	// shared: nobody may write to it.
	Tree(ctx context.Context, a meta.Artifact) (*Tree, error)
	// File gives the artifact as it is.
	File(ctx context.Context, a meta.Artifact) (*File, error)
}

// Tree is the extracted content of an artifact.
type Tree struct {
	// Root is the directory that holds the content.
	Root    string
	release func()
}

// Release says that the content is no longer used. Further calls do nothing.
func (t *Tree) Release() { t.release() }

// File is the file of an artifact.
type File struct {
	// Path is where the file is; it must not be written to.
	Path    string
	release func()
}

// Release says that the file is no longer used. Further calls do nothing.
func (f *File) Release() { f.release() }

// NewReader gives a Reader that takes artifacts from store when they are there
// (store may be nil) and from their URL otherwise. It owns cacheDir and empties
// it. A nil client means one that refuses redirects and link-local addresses.
func NewReader(store *Store, cacheDir string, client *http.Client) Reader {
	if client == nil {
		client = newClient()
	}
	return &reader{store: store, dir: cacheDir, client: client, now: time.Now, limits: DefaultLimits(), items: map[string]*item{}}
}

type reader struct {
	store  *Store
	dir    string
	client *http.Client
	now    func() time.Time
	limits Limits

	clean   sync.Once
	mu      sync.Mutex
	items   map[string]*item
	counter int
	// sweeps: a sweep of what is idle is due.
	sweeps bool
}

// item is one piece of content on disk or in memory, or on its way there.
type item struct {
	ready chan struct{} // closed when the load ended
	path  string
	err   error  // set before ready is closed
	files *files // in memory; set before ready is closed
	bytes int64  // set before the load gives up its reference
	refs  int
	used  time.Time
}

// Tree implements Reader.
func (r *reader) Tree(ctx context.Context, a meta.Artifact) (*Tree, error) {
	it, release, err := r.acquire(ctx, "tree", a, r.extract)
	if err != nil {
		return nil, err
	}
	return &Tree{Root: it.path, release: release}, nil
}

// File implements Reader.
func (r *reader) File(ctx context.Context, a meta.Artifact) (*File, error) {
	if f, ok, err := r.local(ctx, a); ok || err != nil {
		return f, err
	}
	it, release, err := r.acquire(ctx, "file", a, r.download)
	if err != nil {
		return nil, err
	}
	return &File{Path: it.path, release: release}, nil
}

// local gives the store's own blob, which is pinned meanwhile.
func (r *reader) local(ctx context.Context, a meta.Artifact) (*File, bool, error) {
	if r.store == nil {
		return nil, false, nil
	}
	d, err := parseDigest(a.Digest)
	if err != nil {
		return nil, false, err
	}
	r.store.pin(d)
	if err := r.store.Verify(ctx, a); err != nil {
		r.store.unpin(d)
		return nil, false, nil
	}
	return &File{Path: r.store.blob(d), release: sync.OnceFunc(func() { r.store.unpin(d) })}, true, nil
}

// load puts the content of d's artifact at the item's path, or into its files,
// and gives its size in bytes.
type load func(ctx context.Context, d digest.Digest, a meta.Artifact, it *item) (int64, error)

// acquire gives the item of a, loading it when nobody has yet. Several callers
// share one load, which outlives the caller that started it.
func (r *reader) acquire(ctx context.Context, form string, a meta.Artifact, fn load) (*item, func(), error) {
	d, err := parseDigest(a.Digest)
	if err != nil {
		return nil, nil, err
	}
	r.clean.Do(func() { os.RemoveAll(r.dir) })
	key := form + "-" + d.Algorithm().String() + "-" + d.Encoded()
	r.mu.Lock()
	it := r.items[key]
	if it == nil {
		r.counter++
		it = &item{
			ready: make(chan struct{}),
			path:  filepath.Join(r.dir, fmt.Sprintf("%s-%d", key, r.counter)),
			refs:  1, // the load's own
		}
		r.items[key] = it
		go r.fill(context.WithoutCancel(ctx), key, it, func(ctx context.Context) (int64, error) {
			return fn(ctx, d, a, it)
		})
	}
	it.refs++
	r.mu.Unlock()
	release := sync.OnceFunc(func() { r.release(it) })
	select {
	case <-it.ready:
	case <-ctx.Done():
		release()
		return nil, nil, ctx.Err()
	}
	if it.err != nil {
		release()
		return nil, nil, fmt.Errorf("read artifact %s: %w", a.Path, it.err)
	}
	return it, release, nil
}

// fill runs one load. A failed one is forgotten, so that the next caller tries
// again.
func (r *reader) fill(ctx context.Context, key string, it *item, fn func(context.Context) (int64, error)) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	err := os.MkdirAll(r.dir, 0o700)
	if err == nil {
		it.bytes, err = fn(ctx)
	}
	if err != nil {
		os.RemoveAll(it.path)
		it.err = err
		r.mu.Lock()
		delete(r.items, key)
		r.mu.Unlock()
	}
	close(it.ready)
	r.release(it)
}

func (r *reader) release(it *item) {
	r.mu.Lock()
	it.refs--
	it.used = r.now()
	if it.refs == 0 && it.files != nil && !r.sweeps {
		r.sweeps = true
		time.AfterFunc(memoryIdle+time.Second, r.sweep)
	}
	gone := r.evict()
	r.mu.Unlock()
	for _, path := range gone {
		os.RemoveAll(path)
	}
}

// sweep forgets what is idle in memory, and comes again while there is some.
func (r *reader) sweep() {
	r.mu.Lock()
	gone := r.evict()
	r.sweeps = false
	for _, it := range r.items {
		if it.refs == 0 && it.files != nil && !r.sweeps {
			r.sweeps = true
			time.AfterFunc(memoryIdle+time.Second, r.sweep)
		}
	}
	r.mu.Unlock()
	for _, path := range gone {
		os.RemoveAll(path)
	}
}

// evict forgets content that nobody holds: what was idle too long, then the
// longest unused until the rest fits. It returns the paths to remove.
func (r *reader) evict() []string {
	var gone []string
	drop := func(key string) {
		gone = append(gone, r.items[key].path)
		delete(r.items, key)
	}
	var onDisk, inMemory int64
	for key, it := range r.items {
		if it.refs > 0 {
			continue
		}
		patience := idleTime
		if it.files != nil {
			patience = memoryIdle
		}
		switch {
		case r.now().Sub(it.used) > patience:
			drop(key)
		case it.files != nil:
			inMemory += it.bytes
		default:
			onDisk += it.bytes
		}
	}
	for onDisk > idleBytes {
		key := r.oldest(func(it *item) bool { return it.files == nil })
		onDisk -= r.items[key].bytes
		drop(key)
	}
	for inMemory > memoryIdleBytes {
		key := r.oldest(func(it *item) bool { return it.files != nil })
		inMemory -= r.items[key].bytes
		drop(key)
	}
	return gone
}

// oldest is the key of what nobody holds and was not used for longest.
func (r *reader) oldest(of func(*item) bool) string {
	oldest := ""
	for key, it := range r.items {
		if it.refs == 0 && of(it) && (oldest == "" || it.used.Before(r.items[oldest].used)) {
			oldest = key
		}
	}
	return oldest
}

// extract unpacks the artifact into the directory path. The bytes that are
// unpacked are the bytes that are hashed.
func (r *reader) extract(ctx context.Context, d digest.Digest, a meta.Artifact, it *item) (int64, error) {
	src, err := r.open(ctx, d, a)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	if err := os.Mkdir(it.path, 0o700); err != nil {
		return 0, err
	}
	v := d.Verifier()
	in := &counter{r: io.TeeReader(src, v)}
	err = Extract(ctx, in, it.path, r.limits)
	if err == nil {
		_, err = io.Copy(io.Discard, in)
	}
	if err != nil {
		return 0, err
	}
	if !v.Verified() {
		return 0, ErrDigest
	}
	// What lies on disk is several times what was read; the exact number does
	// not matter for the budget.
	return 4 * in.n, nil
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

package artifact

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/opencontainers/go-digest"
)

// published is one artifact file of an object.
type published struct {
	name string
	at   time.Time
}

// Collect removes the artifacts of key that current replaced: those older than
// the TTL, and the oldest beyond the number of records kept. It never removes
// current, and returns the names that it removed.
func (s *Store) Collect(key Key, current meta.Artifact) ([]string, error) {
	if err := key.validate(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := filepath.Join(s.opts.Root, filepath.FromSlash(key.String()))
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("collect artifacts of %s: %w", key, err)
	}
	var files []published
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || !strings.HasPrefix(target, "..") {
			continue // not a link to a blob: the link that follows the newest
		}
		info, err := e.Info()
		if err != nil {
			continue
		}
		files = append(files, published{e.Name(), info.ModTime()})
	}
	garbage := expired(files, path.Base(current.Path), s.opts)
	for _, name := range garbage {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("collect artifacts of %s: %w", key, err)
		}
	}
	return garbage, nil
}

// expired decides which files go: pure.
func expired(files []published, current string, o Options) []string {
	slices.SortFunc(files, func(a, b published) int {
		return cmp.Or(b.at.Compare(a.at), cmp.Compare(a.name, b.name))
	})
	var garbage []string
	kept := 1 // the current one
	for _, f := range files {
		if f.name == current {
			continue
		}
		if kept < o.Records && o.Now().Sub(f.at) <= o.TTL {
			kept++
			continue
		}
		garbage = append(garbage, f.name)
	}
	return garbage
}

// Remove removes everything that key published. Blobs go with the next Sweep.
func (s *Store) Remove(key Key) error {
	if err := key.validate(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.RemoveAll(filepath.Join(s.opts.Root, filepath.FromSlash(key.String()))); err != nil {
		return fmt.Errorf("remove artifacts of %s: %w", key, err)
	}
	return nil
}

// Sweep removes the blobs that no object publishes and no reader holds, and
// returns how many went.
func (s *Store) Sweep() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	used, err := s.linked()
	if err != nil {
		return 0, fmt.Errorf("sweep artifact store: %w", err)
	}
	dir := filepath.Join(s.opts.Root, blobDir, "sha256")
	blobs, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("sweep artifact store: %w", err)
	}
	removed := 0
	for _, b := range blobs {
		d := digest.NewDigestFromEncoded(digest.SHA256, b.Name())
		if used[b.Name()] || s.pins[d] > 0 {
			continue
		}
		if err := os.Remove(filepath.Join(dir, b.Name())); err != nil {
			return removed, fmt.Errorf("sweep artifact store: %w", err)
		}
		delete(s.verified, d)
		removed++
	}
	return removed, nil
}

// linked gives the encoded digests that some object publishes.
func (s *Store) linked() (map[string]bool, error) {
	used := map[string]bool{}
	err := filepath.WalkDir(s.opts.Root, func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && filepath.Dir(name) == s.opts.Root && (e.Name() == blobDir || e.Name() == tempDir):
			return fs.SkipDir
		case e.Type() != fs.ModeSymlink:
			return nil
		}
		target, err := os.Readlink(name)
		if err != nil {
			return err
		}
		used[filepath.Base(target)] = true
		return nil
	})
	return used, err
}

// Objects lists the keys that publish something, sorted; the owner of the
// store compares it with the objects that exist.
func (s *Store) Objects() ([]Key, error) {
	dirs, err := filepath.Glob(filepath.Join(s.opts.Root, "*", "*", "*"))
	if err != nil {
		return nil, fmt.Errorf("list artifact store: %w", err)
	}
	var keys []Key
	for _, dir := range dirs {
		rel, err := filepath.Rel(s.opts.Root, dir)
		if err != nil {
			return nil, fmt.Errorf("list artifact store: %w", err)
		}
		part := strings.Split(filepath.ToSlash(rel), "/")
		if part[0] == blobDir || part[0] == tempDir {
			continue
		}
		keys = append(keys, Key{Kind: part[0], Namespace: part[1], Name: part[2]})
	}
	return keys, nil
}

func (s *Store) pin(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pins[d]++
}

func (s *Store) unpin(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pins[d]--; s.pins[d] <= 0 {
		delete(s.pins, d)
	}
}

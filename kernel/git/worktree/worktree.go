// Package worktree puts together the files that become the artifact of a Git
// repository: those of its commit, of its submodules and of other artifacts
// that are included.
package worktree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"headwater.dev/kernel/artifact"
	"headwater.dev/kernel/git"
)

const (
	// maxModules is how many submodules a repository may have, those of its
	// submodules included, and maxNesting how deep they may go.
	maxModules = 100
	maxNesting = 8
)

// ErrModule says that a submodule cannot be had.
var ErrModule = errors.New("submodule")

// ErrInclude says that there is nothing at the path that is to be included, or
// that it does not go with what is there.
var ErrInclude = errors.New("include")

// item is one path of the tree.
type item struct {
	dir  bool
	open func() (artifact.Entry, error)
}

// Tree is a set of files from several origins. Close it when done.
type Tree struct {
	items   map[string]item
	ignores []string // paths of ignore files, in the order they were added
	left    int
	modules int
	opened  []*git.Snapshot
}

// New gives an empty tree.
func New() *Tree {
	return &Tree{items: map[string]item{}, left: artifact.DefaultLimits().Entries}
}

// Close closes the snapshots of the submodules.
func (t *Tree) Close() {
	for _, s := range t.opened {
		s.Close()
	}
}

// put adds or replaces a path, with the directories above it.
func (t *Tree) put(p string, i item) error {
	if t.left--; t.left < 0 {
		return fmt.Errorf("%w: the revision has too many files", artifact.ErrTooLarge)
	}
	if old, ok := t.items[p]; ok && old.dir != i.dir {
		return fmt.Errorf("%w: %q is both a file and a directory", ErrInclude, p)
	}
	for d := path.Dir(p); d != "."; d = path.Dir(d) {
		old, ok := t.items[d]
		if ok && !old.dir {
			return fmt.Errorf("%w: %q is both a file and a directory", ErrInclude, d)
		}
		if ok {
			break
		}
		t.items[d] = item{dir: true}
	}
	t.items[p] = i
	if path.Base(p) == artifact.IgnoreFile && !i.dir {
		t.ignores = append(t.ignores, p)
	}
	return nil
}

// Modules is how submodules are fetched. A nil one leaves them out.
type Modules struct {
	Mirrors *git.Mirrors
	// Remote is where the repository itself came from: relative URLs start
	// there, and its credentials are used there alone.
	Remote *git.Remote
}

// Add adds the files of a commit and, when modules is given, of its submodules
// and theirs.
func (t *Tree) Add(ctx context.Context, s *git.Snapshot, directories []string, modules *Modules) error {
	return t.add(ctx, s, directories, origin{modules: modules})
}

// origin is where a snapshot stands in the tree.
type origin struct {
	modules *Modules
	at      string
	depth   int
}

func (t *Tree) add(ctx context.Context, s *git.Snapshot, directories []string, o origin) error {
	links := map[string]git.Hash{}
	for i, err := range s.Items(directories) {
		if err != nil {
			return err
		}
		if !i.Module.IsZero() {
			links[i.Path] = i.Module
			continue
		}
		p := path.Join(o.at, i.Path)
		it := item{dir: i.Dir}
		if !i.Dir {
			it.open = func() (artifact.Entry, error) { return s.Entry(i) }
		}
		if err := t.put(p, it); err != nil {
			return err
		}
	}
	if o.modules == nil || len(links) == 0 {
		return nil
	}
	if o.depth >= maxNesting {
		return fmt.Errorf("%w %q: submodules are nested more than %d deep", ErrModule, o.at, maxNesting)
	}
	return t.addModules(ctx, s, links, o)
}

// addModules adds the submodules of a snapshot that .gitmodules has a URL for.
// Only paths that are submodules in the commit itself are looked at, so that
// nothing in the file can name another place.
func (t *Tree) addModules(ctx context.Context, s *git.Snapshot, links map[string]git.Hash, o origin) error {
	data, err := s.File(modulesFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	list, err := parseModules(data)
	if err != nil {
		return err
	}
	for _, m := range list {
		p := path.Clean(m.path)
		commit, ok := links[p]
		if !ok {
			continue
		}
		delete(links, p)
		if t.modules++; t.modules > maxModules {
			return fmt.Errorf("%w %q: there are more than %d submodules", ErrModule, p, maxModules)
		}
		under := origin{at: path.Join(o.at, p), depth: o.depth + 1}
		if err := t.addModule(ctx, m.url, commit, o, under); err != nil {
			return fmt.Errorf("%w %q: %w", ErrModule, under.at, err)
		}
	}
	return nil
}

func (t *Tree) addModule(ctx context.Context, raw string, commit git.Hash, o, under origin) error {
	full, err := resolve(o.modules.Remote.URL(), raw)
	if err != nil {
		return fmt.Errorf("%w: %w", git.ErrProtocol, err)
	}
	remote, err := git.NewRemote(full, o.modules.Remote.For(full))
	if err != nil {
		// The repository is at fault: another commit may mend it.
		return fmt.Errorf("%w: %s (credentials are used on the repository's own server alone)", git.ErrProtocol, err)
	}
	ref := git.Reference{Commit: commit.String()}
	_, s, err := o.modules.Mirrors.For(remote).Update(ctx, remote, ref, func(git.Target) bool { return false })
	if err != nil {
		return err
	}
	t.opened = append(t.opened, s)
	under.modules = &Modules{Mirrors: o.modules.Mirrors, Remote: remote}
	if err := t.put(under.at, item{dir: true}); err != nil {
		return err
	}
	return t.add(ctx, s, nil, under)
}

// Include copies what is at from in a directory to the path to. Both are taken
// from the root, which they cannot leave.
func (t *Tree) Include(root, from, to string) error {
	from, to = strings.TrimPrefix(path.Clean("/"+from), "/"), strings.TrimPrefix(path.Clean("/"+to), "/")
	source := filepath.Join(root, filepath.FromSlash(from))
	info, err := os.Lstat(source)
	if err != nil || !info.IsDir() && !info.Mode().IsRegular() {
		return fmt.Errorf("%w: the artifact has no file or directory %q", ErrInclude, from)
	}
	if !info.IsDir() {
		if to == "" {
			return fmt.Errorf("%w: a file needs a name to go to", ErrInclude)
		}
		return t.put(to, item{open: func() (artifact.Entry, error) {
			return artifact.Entry{Size: info.Size(), Executable: info.Mode()&0o100 != 0,
				Open: func() (io.ReadCloser, error) { return os.Open(source) }}, nil
		}})
	}
	if to != "" {
		if err := t.put(to, item{dir: true}); err != nil {
			return err
		}
	}
	for e, err := range artifact.Dir(source, artifact.Ignore{}) {
		if err != nil {
			return err
		}
		it := item{dir: e.Dir, open: func() (artifact.Entry, error) { return e, nil }}
		if err := t.put(path.Join(to, e.Path), it); err != nil {
			return err
		}
	}
	return nil
}

// Files gives directories and files in lexical order, for artifact.Pack.
// Ignore are rules that go after those of the ignore files; nil for none.
func (t *Tree) Files(ignore *string) iter.Seq2[artifact.Entry, error] {
	return func(yield func(artifact.Entry, error) bool) {
		rules, err := t.rules(ignore)
		if err != nil {
			yield(artifact.Entry{}, err)
			return
		}
		paths := make([]string, 0, len(t.items))
		for p := range t.items {
			paths = append(paths, p)
		}
		slices.Sort(paths)
		left := artifact.DefaultLimits().Bytes
		for _, p := range paths {
			i := t.items[p]
			if rules.Match(p, i.dir) {
				continue
			}
			e := artifact.Entry{Dir: i.dir}
			if !i.dir {
				if e, err = i.open(); err == nil {
					if left -= e.Size; left < 0 {
						err = fmt.Errorf("%w: the files of the revision are too large together", artifact.ErrTooLarge)
					}
				}
			}
			e.Path = p
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// rules reads the ignore files.
func (t *Tree) rules(ignore *string) (artifact.Ignore, error) {
	var rules artifact.IgnoreRules
	slices.Sort(t.ignores)
	for _, p := range slices.Compact(t.ignores) {
		e, err := t.items[p].open()
		if err != nil {
			return artifact.Ignore{}, err
		}
		r, err := e.Open()
		if err != nil {
			return artifact.Ignore{}, err
		}
		data, err := io.ReadAll(io.LimitReader(r, maxFile))
		r.Close()
		if err != nil {
			return artifact.Ignore{}, err
		}
		rules.Add(path.Dir(p), bytes.NewReader(data))
	}
	if ignore != nil {
		rules.Add("", strings.NewReader(*ignore))
	}
	return rules.Build(), nil
}

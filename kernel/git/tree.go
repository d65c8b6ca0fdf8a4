package git

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"strings"

	"headwater.dev/kernel/artifact"
)

// Commit is the part of a commit that we use.
type Commit struct {
	Hash Hash
	Tree Hash
	// Message is the whole message.
	Message string
	raw     []byte
}

// Subject is the first line of the message.
func (c Commit) Subject() string {
	line, _, _ := strings.Cut(strings.TrimSpace(c.Message), "\n")
	return printable(line)
}

func parseCommit(h Hash, data []byte) (Commit, error) {
	c := Commit{Hash: h, raw: data}
	head, message, _ := bytes.Cut(data, []byte("\n\n"))
	first, _, _ := bytes.Cut(head, []byte("\n"))
	tree, ok := bytes.CutPrefix(first, []byte("tree "))
	if !ok {
		return c, fmt.Errorf("%w: commit %s names no tree", ErrProtocol, h)
	}
	var err error
	if c.Tree, err = ParseHash(string(tree)); err != nil {
		return c, fmt.Errorf("%w: commit %s names no tree", ErrProtocol, h)
	}
	c.Message = strings.ToValidUTF8(string(message), "?")
	return c, nil
}

// node is one entry of a tree.
type node struct {
	mode string
	name string
	hash Hash
}

const (
	modeDir  = "40000"
	modeLink = "120000"
	modeRepo = "160000"
	modeExec = "100755"
)

// parseTree splits a tree into its entries. Names that could do harm on a disk
// are an error, as they are for git itself.
func parseTree(data []byte) ([]node, error) {
	var nodes []node
	for len(data) > 0 {
		space := bytes.IndexByte(data, ' ')
		end := bytes.IndexByte(data, 0)
		if space < 0 || end < space || len(data) < end+21 {
			return nil, fmt.Errorf("%w: a tree is malformed", ErrProtocol)
		}
		n := node{mode: string(data[:space]), name: string(data[space+1 : end]), hash: Hash(data[end+1 : end+21])}
		if harmful(n.name) {
			return nil, fmt.Errorf("%w: a tree holds the name %q", ErrProtocol, printable(n.name))
		}
		nodes = append(nodes, n)
		data = data[end+21:]
	}
	return nodes, nil
}

// harmful reports whether a name leaves its directory or stands for ".git" on
// some file system: with other letters' case, behind what HFS+ ignores, or with
// what NTFS takes away.
func harmful(name string) bool {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\\") {
		return true
	}
	if c := name[0]; c != '.' && c != 'g' && c != 'G' && c < 0x80 {
		return false
	}
	bare := strings.Map(func(r rune) rune {
		if r >= 0x200c && r <= 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x206a && r <= 0x206f || r == 0xfeff {
			return -1
		}
		return r
	}, name)
	bare, _, _ = strings.Cut(bare, ":")
	bare = strings.TrimRight(bare, " .")
	return strings.EqualFold(bare, ".git") || strings.EqualFold(bare, "git~1")
}

// Snapshot is one commit with its files. Close it when done.
type Snapshot struct {
	Target Target
	Commit Commit
	// Tag is the annotated tag that led to the commit, or nil.
	Tag  *Tag
	objs *objects
}

// Close frees the mirror's files.
func (s *Snapshot) Close() { s.objs.close() }

// Item is one path of a snapshot.
type Item struct {
	Path            string
	Dir, Executable bool
	// Module is the commit of a submodule at this path; zero for all else.
	Module Hash
	hash   Hash
}

// Entry opens an item that is no submodule.
func (s *Snapshot) Entry(i Item) (artifact.Entry, error) {
	e := artifact.Entry{Path: i.Path, Dir: i.Dir, Executable: i.Executable}
	var err error
	if !e.Dir {
		e.Size, e.Open, err = s.objs.blob(i.hash)
	}
	return e, err
}

// Read gives the content of an item that is a file, in memory.
func (s *Snapshot) Read(i Item) ([]byte, error) { return s.objs.want(i.hash, typeBlob) }

// File gives the content of a regular file by its path; fs.ErrNotExist when there
// is none. Links are not followed.
func (s *Snapshot) File(name string) ([]byte, error) {
	w := walker{objs: s.objs, root: s.Commit.Tree}
	n, ok, err := w.find(name)
	if err == nil && (!ok || n.mode == modeDir || n.mode == modeLink || n.mode == modeRepo) {
		err = fmt.Errorf("file %q: %w", printable(name), fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	return s.objs.want(n.hash, typeBlob)
}

// Items gives directories, files and submodules in the order of the repository;
// directories limits them to what is below one of these, none means all.
//
// A symbolic link is replaced by a copy of what it points to, as long as that
// is in the same commit and among the directories; other links are left out.
func (s *Snapshot) Items(directories []string) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		dirs, err := cleanDirectories(directories)
		w := walker{objs: s.objs, root: s.Commit.Tree, dirs: dirs, seen: map[string]bool{}, left: artifact.DefaultLimits()}
		if err == nil {
			err = w.walk(place{tree: s.Commit.Tree}, func(i Item) error {
				if !yield(i, nil) {
					return errStop
				}
				return nil
			})
		}
		for _, d := range dirs {
			if err == nil && !w.seen[d] {
				err = fmt.Errorf("%w: sparse checkout: the revision has no directory %q", ErrReference, printable(d))
			}
		}
		if err != nil && !errors.Is(err, errStop) {
			yield(Item{}, err)
		}
	}
}

var errStop = errors.New("stop")

// Selection says which files of a snapshot are wanted.
type Selection struct {
	// Ignore are rules in the .gitignore format that go after those in the
	// repository's .sourceignore files; nil for none.
	Ignore *string
	// Directories limits the files to those below one of these; none means
	// all.
	Directories []string
}

// Files gives directories and files in the order of the repository, for
// artifact.Pack. Submodules are left out.
func (s *Snapshot) Files(sel Selection) iter.Seq2[artifact.Entry, error] {
	return func(yield func(artifact.Entry, error) bool) {
		if err := s.files(sel, yield); err != nil && !errors.Is(err, errStop) {
			yield(artifact.Entry{}, err)
		}
	}
}

func (s *Snapshot) files(sel Selection, yield func(artifact.Entry, error) bool) error {
	var rules artifact.IgnoreRules
	for i, err := range s.Items(sel.Directories) {
		if err != nil {
			return err
		}
		if path.Base(i.Path) != artifact.IgnoreFile || i.Dir || !i.Module.IsZero() {
			continue
		}
		data, err := s.Read(i)
		if err != nil {
			return err
		}
		rules.Add(path.Dir(i.Path), bytes.NewReader(data))
	}
	if sel.Ignore != nil {
		rules.Add("", strings.NewReader(*sel.Ignore))
	}
	ignore := rules.Build()
	left := artifact.DefaultLimits().Bytes
	for i, err := range s.Items(sel.Directories) {
		if err != nil {
			return err
		}
		if !i.Module.IsZero() || ignore.Match(i.Path, i.Dir) {
			continue
		}
		e, err := s.Entry(i)
		if err != nil {
			return err
		}
		if left -= e.Size; left < 0 {
			return fmt.Errorf("%w: the files of the revision are too large together", artifact.ErrTooLarge)
		}
		if !yield(e, nil) {
			return errStop
		}
	}
	return nil
}

func cleanDirectories(dirs []string) ([]string, error) {
	var clean []string
	for _, d := range dirs {
		c := path.Clean(strings.TrimPrefix(d, "./"))
		if path.IsAbs(c) || c == ".." || strings.HasPrefix(c, "../") {
			return nil, fmt.Errorf("%w sparse checkout directory %q: it leaves the repository", ErrInvalid, printable(d))
		}
		if c == "." {
			return nil, nil
		}
		clean = append(clean, c)
	}
	return clean, nil
}

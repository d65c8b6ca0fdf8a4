package git

import (
	"bytes"
	"errors"
	"fmt"
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
		if n.name == "" || n.name == "." || n.name == ".." || strings.EqualFold(n.name, ".git") || strings.ContainsAny(n.name, "/\\") {
			return nil, fmt.Errorf("%w: a tree holds the name %q", ErrProtocol, printable(n.name))
		}
		nodes = append(nodes, n)
		data = data[end+21:]
	}
	return nodes, nil
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

// Selection says which files of a snapshot are wanted.
type Selection struct {
	// Ignore are rules in the .gitignore format that go before those in the
	// repository's .sourceignore files; nil for none.
	Ignore *string
	// Directories limits the files to those below one of these; none means
	// all.
	Directories []string
}

// Files gives directories and files in the order of the repository, for
// artifact.Pack. Symbolic links and submodules are left out.
func (s *Snapshot) Files(sel Selection) iter.Seq2[artifact.Entry, error] {
	return func(yield func(artifact.Entry, error) bool) {
		if err := s.files(sel, yield); err != nil && !errors.Is(err, errStop) {
			yield(artifact.Entry{}, err)
		}
	}
}

var errStop = errors.New("stop")

func (s *Snapshot) files(sel Selection, yield func(artifact.Entry, error) bool) error {
	dirs, err := cleanDirectories(sel.Directories)
	if err != nil {
		return err
	}
	var rules artifact.IgnoreRules
	w := walker{objs: s.objs, dirs: dirs, seen: map[string]bool{}, left: artifact.DefaultLimits()}
	err = w.walk(s.Commit.Tree, "", func(p string, n node) error {
		if n.name != artifact.IgnoreFile || n.mode == modeDir {
			return nil
		}
		data, err := s.objs.want(n.hash, typeBlob)
		if err != nil {
			return err
		}
		rules.Add(path.Dir(p), bytes.NewReader(data))
		return nil
	})
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if !w.seen[d] {
			return fmt.Errorf("%w: sparse checkout: the revision has no directory %q", ErrReference, printable(d))
		}
	}
	if sel.Ignore != nil {
		rules.Add("", strings.NewReader(*sel.Ignore))
	}
	ignore := rules.Build()
	w.left = artifact.DefaultLimits()
	return w.walk(s.Commit.Tree, "", func(p string, n node) error {
		if ignore.Match(p, n.mode == modeDir) {
			return nil
		}
		e := artifact.Entry{Path: p, Dir: n.mode == modeDir, Executable: n.mode == modeExec}
		if !e.Dir {
			var err error
			if e.Size, e.Open, err = s.objs.blob(n.hash); err != nil {
				return err
			}
			if w.left.Bytes -= e.Size; w.left.Bytes < 0 {
				return fmt.Errorf("%w: the files of the revision are too large together", artifact.ErrTooLarge)
			}
		}
		if !yield(e, nil) {
			return errStop
		}
		return nil
	})
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

// walker goes through trees, within limits.
type walker struct {
	objs *objects
	dirs []string
	seen map[string]bool
	left artifact.Limits
}

func (w *walker) walk(tree Hash, dir string, visit func(string, node) error) error {
	data, err := w.objs.want(tree, typeTree)
	if err != nil {
		return err
	}
	nodes, err := parseTree(data)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if w.left.Entries--; w.left.Entries < 0 {
			return fmt.Errorf("%w: the revision has too many files", artifact.ErrTooLarge)
		}
		p := path.Join(dir, n.name)
		inside, above := w.selects(p)
		if n.mode == modeLink || n.mode == modeRepo || (!inside && !(above && n.mode == modeDir)) {
			continue
		}
		if err := visit(p, n); err != nil {
			return err
		}
		if n.mode != modeDir {
			continue
		}
		w.seen[p] = true
		if strings.Count(p, "/") >= w.left.Depth {
			return fmt.Errorf("%w: the directories of the revision are nested too deeply", artifact.ErrTooLarge)
		}
		if err := w.walk(n.hash, p, visit); err != nil {
			return err
		}
	}
	return nil
}

// selects reports whether p is in a wanted directory, or on the way to one.
func (w *walker) selects(p string) (inside, above bool) {
	if len(w.dirs) == 0 {
		return true, false
	}
	for _, d := range w.dirs {
		if p == d || strings.HasPrefix(p, d+"/") {
			inside = true
		}
		if strings.HasPrefix(d, p+"/") {
			above = true
		}
	}
	return inside, above
}

package git

import (
	"fmt"
	"path"
	"strings"

	"headwater.dev/kernel/artifact"
)

const (
	// maxLinks is how many symbolic links one path may lead through.
	maxLinks = 5
	// maxTarget is how long the target of a symbolic link may be.
	maxTarget = 4096
)

// walker goes through trees, within limits.
type walker struct {
	objs *objects
	root Hash
	dirs []string
	seen map[string]bool
	left artifact.Limits
}

// place is a tree that is being walked: where it is in the repository, and
// where its content appears, which differs behind symbolic links.
type place struct {
	tree     Hash
	real, at string
	links    int
}

func (w *walker) walk(pl place, visit func(Item) error) error {
	data, err := w.objs.want(pl.tree, typeTree)
	if err != nil {
		return err
	}
	nodes, err := parseTree(data)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if err := w.one(pl, n, visit); err != nil {
			return err
		}
	}
	return nil
}

// one visits a node of a tree and what is below it.
func (w *walker) one(pl place, n node, visit func(Item) error) error {
	if w.left.Entries--; w.left.Entries < 0 {
		return fmt.Errorf("%w: the revision has too many files", artifact.ErrTooLarge)
	}
	pl.real, pl.at = path.Join(pl.real, n.name), path.Join(pl.at, n.name)
	inside, above := w.selects(pl.at)
	switch {
	case !inside && !(above && n.mode == modeDir):
		return nil
	case n.mode == modeLink:
		return w.link(pl, n, visit)
	}
	return w.node(pl, n, visit)
}

// node visits a file, a directory or a submodule.
func (w *walker) node(pl place, n node, visit func(Item) error) error {
	i := Item{Path: pl.at, Dir: n.mode == modeDir, Executable: n.mode == modeExec, hash: n.hash}
	if n.mode == modeRepo {
		i.Module = n.hash
		w.seen[pl.at] = true
	}
	if err := visit(i); err != nil || !i.Dir {
		return err
	}
	w.seen[pl.at] = true
	if strings.Count(pl.at, "/") >= w.left.Depth {
		return fmt.Errorf("%w: the directories of the revision are nested too deeply", artifact.ErrTooLarge)
	}
	pl.tree = n.hash
	return w.walk(pl, visit)
}

// link visits what a symbolic link points to, if that may be: something in the
// same commit that is wanted and does not contain the link.
func (w *walker) link(pl place, n node, visit func(Item) error) error {
	if pl.links++; pl.links > maxLinks {
		return nil
	}
	data, err := w.objs.want(n.hash, typeBlob)
	if err != nil {
		return err
	}
	target := string(data)
	if target == "" || len(target) > maxTarget || path.IsAbs(target) || strings.Contains(target, "\x00") {
		return nil
	}
	to := path.Join(path.Dir(pl.real), target)
	if to == "." || to == ".." || strings.HasPrefix(to, "../") || strings.HasPrefix(pl.real+"/", to+"/") {
		return nil
	}
	if inside, _ := w.selects(to); !inside {
		return nil
	}
	found, ok, err := w.find(to)
	if err != nil || !ok || found.mode == modeRepo {
		return err
	}
	pl.real = to
	if found.mode == modeLink {
		return w.link(pl, found, visit)
	}
	return w.node(pl, found, visit)
}

// find looks a path up, without following links on the way.
func (w *walker) find(name string) (node, bool, error) {
	at := node{mode: modeDir, hash: w.root}
	for part := range strings.SplitSeq(name, "/") {
		if at.mode != modeDir {
			return node{}, false, nil
		}
		data, err := w.objs.want(at.hash, typeTree)
		if err != nil {
			return node{}, false, err
		}
		nodes, err := parseTree(data)
		if err != nil {
			return node{}, false, err
		}
		found := false
		for _, n := range nodes {
			if n.name == part {
				at, found = n, true
				break
			}
		}
		if !found {
			return node{}, false, nil
		}
	}
	return at, true, nil
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

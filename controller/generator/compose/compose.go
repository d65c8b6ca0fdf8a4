package compose

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path"
	"strings"

	swapi "github.com/fluxcd/source-watcher/api/v2/v1beta1"

	"headwater.dev/kernel/artifact"
)

// Tree is the list of the directories and files of a source, in the order of a
// walk.
type Tree struct {
	entries []artifact.Entry
	index   map[string]int
}

// List reads the tree below root. Symbolic links and other special files are
// not in it.
func List(root string) (*Tree, error) {
	t := &Tree{index: map[string]int{}}
	for e, err := range artifact.Dir(root, artifact.Ignore{}) {
		if err != nil {
			return nil, fmt.Errorf("list source: %w", err)
		}
		if len(t.entries) >= artifact.DefaultLimits().Entries {
			return nil, fmt.Errorf("list source: %w: too many files", artifact.ErrTooLarge)
		}
		t.index[e.Path] = len(t.entries)
		t.entries = append(t.entries, e)
	}
	return t, nil
}

// under gives the entries below a directory.
func (t *Tree) under(dir string) []artifact.Entry {
	if dir == "." {
		return t.entries
	}
	at, ok := t.index[dir]
	if !ok {
		return nil
	}
	end := at + 1
	for end < len(t.entries) && strings.HasPrefix(t.entries[end].Path, dir+"/") {
		end++
	}
	return t.entries[at+1 : end]
}

// Composer makes artifacts of trees. It is used by one goroutine.
type Composer struct {
	trees map[string]*Tree
	// dir is where archives are unpacked; the caller removes it.
	dir      string
	left     artifact.Limits
	unpacked map[string]*Tree
}

// New gives a composer of the trees, by alias, that works in the directory dir.
func New(trees map[string]*Tree, dir string) *Composer {
	return &Composer{trees: trees, dir: dir, left: artifact.DefaultLimits(), unpacked: map[string]*Tree{}}
}

// Compose gives the entries of the artifact that the operations make, ready to
// be packed. They are read from the trees, which must stay until then.
func (c *Composer) Compose(ctx context.Context, ops []swapi.CopyOperation) (iter.Seq2[artifact.Entry, error], error) {
	s := stage{}
	merged := int64(0)
	for i, op := range ops {
		o, err := c.prepare(op, s, &merged)
		if err == nil {
			err = o.run(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("copy[%d] from %.200q to %.200q: %w", i, op.From, op.To, err)
		}
	}
	return s.entries(), nil
}

// operation is a copy that is under way.
type operation struct {
	*Composer
	from     selector
	to       target
	strategy string
	tree     *Tree
	excludes excludes
	// left out are directories whose content is too, by path.
	leftOut map[string]bool
	stage   stage
	merged  *int64
}

func (c *Composer) prepare(op swapi.CopyOperation, s stage, merged *int64) (*operation, error) {
	o := &operation{Composer: c, strategy: op.Strategy, stage: s, merged: merged, leftOut: map[string]bool{}}
	var err error
	if o.from, err = parseFrom(op.From, op.Strategy == swapi.ExtractStrategy); err != nil {
		return nil, err
	}
	if o.to, err = parseTo(op.To); err != nil {
		return nil, err
	}
	if o.excludes, err = parseExcludes(op.Exclude); err != nil {
		return nil, err
	}
	if o.tree = c.trees[o.from.alias]; o.tree == nil {
		return nil, fmt.Errorf("no source has the alias %q", o.from.alias)
	}
	return o, nil
}

func (o *operation) run(ctx context.Context) error {
	if o.from.match != nil {
		return o.glob(ctx)
	}
	if o.from.pattern == "." {
		return o.directory(ctx, ".")
	}
	at, ok := o.tree.index[o.from.pattern]
	if !ok {
		return fmt.Errorf("%.200q is not in the source", o.from.pattern)
	}
	e := o.tree.entries[at]
	if e.Dir {
		return o.directory(ctx, e.Path)
	}
	if o.excludes.matches(e.Path, ".") {
		return nil
	}
	if o.strategy == swapi.ExtractStrategy {
		if !isTarball(e.Path) {
			return errors.New("strategy Extract needs a file whose name ends in .tar.gz or .tgz")
		}
		return o.extract(ctx, e)
	}
	to := o.to.path
	if o.to.dir || o.stage[to].Dir {
		to = path.Join(to, path.Base(e.Path))
	}
	return o.place(e, to)
}

// directory copies a directory into the target; the root of a source gives its
// content.
func (o *operation) directory(ctx context.Context, dir string) error {
	if o.strategy == swapi.ExtractStrategy {
		return errors.New("strategy Extract needs an archive, not a directory")
	}
	to := path.Join(o.to.path, path.Base(dir))
	if err := o.stage.mkdir(to); err != nil {
		return err
	}
	for i, e := range o.tree.under(dir) {
		if err := interrupted(ctx, i); err != nil {
			return err
		}
		rel, _ := below(e.Path, dir)
		if o.excluded(e, dir) {
			continue
		}
		if err := o.place(e, path.Join(to, rel)); err != nil {
			return err
		}
	}
	return nil
}

// glob copies what matches; a directory that matches comes with its content.
func (o *operation) glob(ctx context.Context) error {
	matched, copied, whole := 0, 0, ""
	for i, e := range o.tree.under(o.from.root) {
		if err := interrupted(ctx, i); err != nil {
			return err
		}
		inside := whole != "" && strings.HasPrefix(e.Path, whole)
		left := o.excluded(e, o.from.root)
		if !inside && !o.from.match.MatchString(e.Path) {
			continue
		}
		matched++
		if left {
			continue
		}
		copied++
		if o.strategy == swapi.ExtractStrategy {
			if e.Dir || !isTarball(e.Path) {
				continue
			}
			if err := o.extract(ctx, e); err != nil {
				return err
			}
			continue
		}
		if e.Dir && !inside {
			whole = e.Path + "/"
		}
		rel, _ := below(e.Path, o.from.root)
		if err := o.place(e, path.Join(o.to.path, rel)); err != nil {
			return err
		}
	}
	switch {
	case matched == 0:
		return errors.New("no files match the pattern")
	case copied == 0:
		return errors.New("all files that match the pattern are excluded")
	}
	return nil
}

func interrupted(ctx context.Context, i int) error {
	if i%256 == 0 {
		return ctx.Err()
	}
	return nil
}

// excluded reports whether an entry, or a directory around it, is left out. It
// is asked in the order of a walk.
func (o *operation) excluded(e artifact.Entry, root string) bool {
	out := o.leftOut[path.Dir(e.Path)] || o.excludes.matches(e.Path, root)
	if out && e.Dir {
		o.leftOut[e.Path] = true
	}
	return out
}

// place puts an entry of the source at a path of the artifact.
func (o *operation) place(e artifact.Entry, to string) error {
	if e.Dir {
		return o.stage.mkdir(to)
	}
	if old, ok := o.stage[to]; ok && o.strategy == swapi.MergeStrategy && !old.Dir {
		data, err := merge(old, e)
		if err != nil {
			return err
		}
		if *o.merged += int64(len(data)); *o.merged > maxMerged {
			return fmt.Errorf("%w: more than %d bytes are merged", artifact.ErrTooLarge, maxMerged)
		}
		return o.stage.file(inMemory(to, data))
	}
	e.Path = to
	return o.stage.file(e)
}

func isTarball(name string) bool {
	name = strings.ToLower(name)
	return strings.HasSuffix(name, ".tar.gz") || strings.HasSuffix(name, ".tgz")
}

// extract places the content of an archive below the target.
func (o *operation) extract(ctx context.Context, e artifact.Entry) error {
	tree, err := o.unpack(ctx, o.from.alias+"/"+e.Path, e)
	if err != nil {
		return fmt.Errorf("unpack %.200q: %w", e.Path, err)
	}
	if err := o.stage.mkdir(o.to.path); err != nil {
		return err
	}
	for _, inner := range tree.entries {
		to := path.Join(o.to.path, inner.Path)
		if inner.Dir {
			if err := o.stage.mkdir(to); err != nil {
				return err
			}
			continue
		}
		inner.Path = to
		if err := o.stage.file(inner); err != nil {
			return err
		}
	}
	return nil
}

// unpack unpacks an archive once, within what is left for all of them.
func (c *Composer) unpack(ctx context.Context, key string, e artifact.Entry) (*Tree, error) {
	if t := c.unpacked[key]; t != nil {
		return t, nil
	}
	dir, err := os.MkdirTemp(c.dir, "archive-")
	if err != nil {
		return nil, err
	}
	r, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := artifact.Extract(ctx, io.LimitReader(r, e.Size), dir, c.left); err != nil {
		return nil, err
	}
	t, err := List(dir)
	if err != nil {
		return nil, err
	}
	c.left.Entries -= len(t.entries)
	for _, inner := range t.entries {
		c.left.Bytes -= inner.Size
	}
	c.unpacked[key] = t
	return t, nil
}

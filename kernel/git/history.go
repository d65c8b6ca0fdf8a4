package git

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
)

// maxTips is how many branches are searched for a commit when a server does not
// give commits by their names.
const maxTips = 256

// obtain fetches a target and checks that a pinned commit is on its branch.
func (m *Mirror) obtain(ctx context.Context, r *Remote, session *session, ref Reference, t Target) error {
	err := m.fetch(ctx, session, t)
	if ref.Commit != "" && errors.Is(err, ErrReference) {
		if done, again := m.search(ctx, r, ref, t); done || again != nil {
			return again
		}
		return err
	}
	if err != nil {
		return err
	}
	return m.onBranch(ctx, r, ref, t)
}

// search looks for a commit in the whole history of the branch, or of all
// branches and tags when none is given. Servers that speak version 0 give a
// commit by its name only where they are set to.
func (m *Mirror) search(ctx context.Context, r *Remote, ref Reference, t Target) (found bool, err error) {
	session, err := r.open(ctx)
	if err != nil {
		return false, err
	}
	defer session.close()
	prefix := "refs/"
	if ref.Branch != "" {
		prefix = "refs/heads/" + ref.Branch
	}
	refs, err := session.list(ctx, prefix)
	if err != nil {
		return false, err
	}
	seen := map[Hash]bool{}
	var tips []Hash
	for _, f := range refs {
		wanted := strings.HasPrefix(f.Name, "refs/heads/") || strings.HasPrefix(f.Name, "refs/tags/")
		if ref.Branch != "" {
			wanted = f.Name == prefix
		}
		if wanted && !seen[f.Hash] && len(tips) < maxTips {
			seen[f.Hash] = true
			tips = append(tips, f.Hash)
		}
	}
	if len(tips) == 0 {
		return false, nil
	}
	pack, done, err := session.fetch(ctx, query{want: tips, deep: true})
	if err != nil {
		return false, err
	}
	defer done()
	if err := m.add(ctx, pack); err != nil {
		return false, session.explain(err)
	}
	objs, err := openObjects(m.dir)
	if err != nil {
		return false, err
	}
	defer objs.close()
	if _, err := objs.want(t.Commit, typeCommit); err != nil {
		return false, nil
	}
	return true, m.record(t.Commit)
}

// onBranch checks that a pinned commit is in the history of the branch that is
// given with it. It asks for the commits that the branch has beyond the pinned
// one: the pinned one is below the tip exactly when one of them is its child.
func (m *Mirror) onBranch(ctx context.Context, r *Remote, ref Reference, t Target) error {
	if ref.Commit == "" || ref.Branch == "" {
		return nil
	}
	session, err := r.open(ctx)
	if err != nil {
		return err
	}
	defer session.close()
	tip, err := session.exact(ctx, "refs/heads/"+ref.Branch, ref.Branch)
	if err != nil || tip.Commit == t.Commit {
		return err
	}
	pack, done, err := session.fetch(ctx, query{want: []Hash{tip.Commit}, have: []Hash{t.Commit}, deep: true, commits: true})
	if err != nil {
		return err
	}
	defer done()
	f, err := os.CreateTemp(m.dir, "tmp-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	table, err := index(ctx, pack, f, &objects{})
	if err != nil {
		return session.explain(err)
	}
	child, err := hasChild(&packFile{f: f, table: table}, t.Commit)
	if err == nil && !child {
		err = fmt.Errorf("%w: commit %s is not on branch %s", ErrReference, t.Commit, printable(ref.Branch))
	}
	return err
}

// hasChild reports whether a pack holds a commit with this parent.
func hasChild(p *packFile, parent Hash) (bool, error) {
	o := &objects{packs: []*packFile{p}, cache: map[cacheKey]cached{}}
	for i := 0; i < len(p.table); i += indexRow {
		typ, data, err := o.chain(p, int64(binary.BigEndian.Uint64(p.table[i+20:])))
		if err != nil {
			return false, err
		}
		if typ != typeCommit {
			continue
		}
		for _, h := range parents(data) {
			if h == parent {
				return true, nil
			}
		}
	}
	return false, nil
}

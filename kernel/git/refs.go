package git

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// Reference says which revision is wanted. Commit goes before Name, Name
// before SemVer, SemVer before Tag, Tag before Branch; nothing means the
// branch master.
type Reference struct {
	Branch string
	Tag    string
	// SemVer is a range; the tag with the highest version in it is taken.
	// Pre-releases are in a range only when the range names one.
	SemVer string
	// Name is a full reference name.
	Name string
	// Commit is an object name of 40 digits; together with Branch it must be in
	// the history of the branch.
	Commit string
}

// Target is what a Reference leads to at the moment.
type Target struct {
	// Label is the reference in the form in which revisions name it: a branch
	// or tag without "refs/…/", a full name as given, or nothing for a commit.
	Label string
	// Tag is the name of the tag that was followed, without "refs/tags/".
	Tag string
	// Object is what to ask for; it differs from Commit for annotated tags.
	Object Hash
	Commit Hash
}

// Revision writes the target as "<label>@sha1:<commit>".
func (t Target) Revision() string {
	if t.Label == "" {
		return "sha1:" + t.Commit.String()
	}
	return t.Label + "@sha1:" + t.Commit.String()
}

// Validate checks what can be checked without the repository.
func (r Reference) Validate() error {
	for field, value := range map[string]string{"branch": r.Branch, "tag": r.Tag, "name": r.Name} {
		if value != "" && !validRefName(value) {
			return fmt.Errorf("%w %s %q: it is no valid reference name", ErrInvalid, field, printable(value))
		}
	}
	if r.Name != "" && !strings.HasPrefix(r.Name, "refs/") && r.Name != "HEAD" {
		return fmt.Errorf("%w name %q: want a full reference name such as refs/heads/main", ErrInvalid, printable(r.Name))
	}
	if r.SemVer != "" {
		if _, err := parseRange(r.SemVer); err != nil {
			return err
		}
	}
	if r.Commit != "" {
		if _, err := ParseHash(r.Commit); err != nil {
			return err
		}
	}
	return nil
}

func parseRange(s string) (*semver.Constraints, error) {
	if len(s) > 256 {
		return nil, fmt.Errorf("%w semver: the range is longer than 256 characters", ErrInvalid)
	}
	c, err := semver.NewConstraint(s)
	if err != nil {
		return nil, fmt.Errorf("%w semver range %q: %s", ErrInvalid, printable(s), printable(err.Error()))
	}
	return c, nil
}

// validRefName applies the rules of git-check-ref-format.
func validRefName(s string) bool {
	if len(s) > 1024 || s == "@" || strings.HasPrefix(s, "-") || strings.HasPrefix(s, "/") || strings.HasSuffix(s, "/") ||
		strings.HasSuffix(s, ".") || strings.Contains(s, "..") || strings.Contains(s, "//") || strings.Contains(s, "@{") ||
		strings.ContainsAny(s, " ~^:?*[\\\x7f") {
		return false
	}
	for _, r := range s {
		if r < ' ' {
			return false
		}
	}
	for part := range strings.SplitSeq(s, "/") {
		if strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock") {
			return false
		}
	}
	return true
}

// resolve finds what ref leads to.
func (s *session) resolve(ctx context.Context, ref Reference) (Target, error) {
	if err := ref.Validate(); err != nil {
		return Target{}, err
	}
	switch {
	case ref.Commit != "":
		h, err := ParseHash(ref.Commit)
		return Target{Label: ref.Branch, Object: h, Commit: h}, err
	case ref.Name != "":
		return s.exact(ctx, ref.Name, ref.Name)
	case ref.SemVer != "":
		return s.highest(ctx, ref.SemVer)
	case ref.Tag != "":
		return s.exact(ctx, "refs/tags/"+ref.Tag, ref.Tag)
	case ref.Branch != "":
		return s.exact(ctx, "refs/heads/"+ref.Branch, ref.Branch)
	}
	return s.exact(ctx, "refs/heads/master", "master")
}

func (s *session) exact(ctx context.Context, name, label string) (Target, error) {
	refs, err := s.list(ctx, name)
	if err != nil {
		return Target{}, err
	}
	for _, r := range refs {
		if r.Name == name {
			tag, _ := strings.CutPrefix(name, "refs/tags/")
			if tag == name {
				tag = ""
			}
			return Target{Label: label, Tag: tag, Object: r.Hash, Commit: r.Commit()}, nil
		}
	}
	return Target{}, s.missing(ctx, name)
}

// missing tells a repository without the reference from one without any.
func (s *session) missing(ctx context.Context, name string) error {
	for _, prefix := range []string{"HEAD", "refs/"} {
		refs, err := s.list(ctx, prefix)
		if err != nil {
			return err
		}
		if len(refs) > 0 {
			return fmt.Errorf("%w: the repository has no %s", ErrReference, name)
		}
	}
	return ErrEmpty
}

func (s *session) highest(ctx context.Context, constraint string) (Target, error) {
	c, err := parseRange(constraint)
	if err != nil {
		return Target{}, err
	}
	refs, err := s.list(ctx, "refs/tags/")
	if err != nil {
		return Target{}, err
	}
	best, ok := highestTag(refs, c)
	if !ok {
		return Target{}, fmt.Errorf("%w: none of the repository's %d tags is a version in the range %q", ErrReference, len(refs), printable(constraint))
	}
	tag := strings.TrimPrefix(best.Name, "refs/tags/")
	return Target{Label: tag, Tag: tag, Object: best.Hash, Commit: best.Commit()}, nil
}

// highestTag picks the tag of the highest version in the range. Of tags that
// are the same version but for build metadata, the lexically last one wins.
func highestTag(refs []Ref, c *semver.Constraints) (Ref, bool) {
	var best Ref
	var version *semver.Version
	for _, r := range refs {
		tag := strings.TrimPrefix(r.Name, "refs/tags/")
		v, err := semver.StrictNewVersion(strings.TrimPrefix(tag, "v"))
		if err != nil || !c.Check(v) {
			continue
		}
		if version == nil || v.GreaterThan(version) || (v.Equal(version) && r.Name > best.Name) {
			best, version = r, v
		}
	}
	return best, version != nil
}

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

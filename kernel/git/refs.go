package git

import (
	"context"
	"fmt"
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

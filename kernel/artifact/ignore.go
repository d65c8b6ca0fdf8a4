package artifact

import (
	"io"
	"strings"

	"github.com/fluxcd/pkg/sourceignore"
	"github.com/fluxcd/pkg/sourceignore/gitignore"
)

// maxIgnore bounds the size of one set of ignore rules in bytes.
const maxIgnore = 1 << 20

// IgnoreFile is the name of the files that hold ignore rules within a source.
const IgnoreFile = sourceignore.IgnoreFile

// Ignore decides what stays out of an artifact. The zero value lets everything
// through.
type Ignore struct {
	matcher gitignore.Matcher
}

// IgnoreRules collects rules in the .gitignore format.
type IgnoreRules struct {
	patterns []gitignore.Pattern
}

// Add reads rules that hold below dir (slashes, "" for the root). Rules added
// later win. What exceeds 1 MiB is not read.
func (r *IgnoreRules) Add(dir string, rules io.Reader) {
	var domain []string
	if dir != "" && dir != "." {
		domain = strings.Split(dir, "/")
	}
	r.patterns = append(r.patterns, sourceignore.ReadPatterns(io.LimitReader(rules, maxIgnore), domain)...)
}

// Build gives the decision. Files of version control are always left out;
// pictures, archives and CI configuration are left out as long as no rule was
// added: whoever writes rules replaces those defaults.
func (r *IgnoreRules) Build() Ignore {
	if len(r.patterns) == 0 {
		return Ignore{sourceignore.NewDefaultMatcher(nil, nil)}
	}
	return Ignore{sourceignore.NewMatcher(append(sourceignore.VCSPatterns(nil), r.patterns...))}
}

// Match reports whether the entry at path (relative, slashes) is left out.
func (i Ignore) Match(path string, dir bool) bool {
	return i.matcher != nil && i.matcher.Match(strings.Split(path, "/"), dir)
}

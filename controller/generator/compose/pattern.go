// Package compose selects files of source trees and puts them together to the
// content of an artifact.
//
// Patterns and paths come from tenants, and trees from anywhere. A pattern is
// compared with the list of a tree's files and never reaches the file system,
// so it can find nothing outside of the tree; what is selected is placed in a
// list of entries, so a destination can leave nothing and overwrite nothing on
// disk. Matching takes time linear in the length of a path.
package compose

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"

	swapi "github.com/fluxcd/source-watcher/api/v2/v1beta1"
)

const (
	// maxPattern is the length of a pattern in bytes, maxWild how many
	// wildcards it may hold: together they bound the cost of a match.
	maxPattern = 1024
	maxWild    = 64
	// maxDepth is the number of segments of a path in an artifact.
	maxDepth = 64
)

// selector finds entries of one source.
type selector struct {
	alias   string
	pattern string
	// root is what comes before the first wildcard: destinations are relative
	// to it.
	root string
	// match is nil for a pattern without wildcards.
	match *regexp.Regexp
}

// target is where in an artifact something goes.
type target struct {
	path string
	// dir says that path names a directory.
	dir bool
}

// parseFrom reads "@alias/pattern". Braces are alternatives only where archives
// are looked for.
func parseFrom(from string, braces bool) (selector, error) {
	alias, pattern, ok := strings.Cut(strings.TrimPrefix(from, "@"), "/")
	if !ok || !strings.HasPrefix(from, "@") || alias == "" {
		return selector{}, fmt.Errorf("%.200q is not of the form @alias/pattern", from)
	}
	if strings.HasPrefix(pattern, "/") || slices.Contains(strings.Split(pattern, "/"), "..") {
		return selector{}, fmt.Errorf("%.200q leaves the source: use a path below its root", from)
	}
	s := selector{alias: alias, pattern: path.Clean(pattern)}
	if !strings.ContainsAny(pattern, "*?[]") {
		return s, nil
	}
	s.root = literalRoot(s.pattern, braces)
	var err error
	s.match, err = compile(s.pattern, braces, false)
	return s, err
}

func literalRoot(pattern string, braces bool) string {
	wild := `*?[]\`
	if braces {
		wild += "{"
	}
	var root []string
	for _, segment := range strings.Split(pattern, "/") {
		if strings.ContainsAny(segment, wild) {
			break
		}
		root = append(root, segment)
	}
	return path.Join(append([]string{"."}, root...)...)
}

// parseTo reads "@artifact/path".
func parseTo(to string) (target, error) {
	rel, ok := strings.CutPrefix(to, "@"+artifactAlias+"/")
	if !ok {
		return target{}, fmt.Errorf("%.200q is not of the form @artifact/path", to)
	}
	segments := strings.Split(rel, "/")
	if strings.HasPrefix(rel, "/") || slices.Contains(segments, "..") || strings.ContainsFunc(rel, func(r rune) bool { return r == '\\' || unicode.IsControl(r) }) {
		return target{}, fmt.Errorf("%.200q leaves the artifact: use a plain path below its root", to)
	}
	if len(segments) > maxDepth {
		return target{}, fmt.Errorf("%.200q has more than %d levels", to, maxDepth)
	}
	p := path.Clean(rel)
	return target{path: p, dir: p == "." || strings.HasSuffix(rel, "/")}, nil
}

// artifactAlias is the name of the generated artifact in destinations.
const artifactAlias = "artifact"

// excludes decides what a copy leaves out.
type excludes struct {
	// whole are compared with paths, names with the last segment.
	whole, names []*regexp.Regexp
}

func parseExcludes(patterns []string) (excludes, error) {
	var x excludes
	for i, p := range patterns {
		re, err := compile(p, true, true)
		if err != nil {
			return x, fmt.Errorf("exclude[%d]: %w", i, err)
		}
		x.whole = append(x.whole, re)
		if !strings.Contains(p, "/") {
			x.names = append(x.names, re)
		}
	}
	return x, nil
}

// matches reports whether a path is left out, seen from the root of its source
// or from the root of the selection.
func (x excludes) matches(p, root string) bool {
	hit := func(list []*regexp.Regexp, text string) bool {
		return slices.ContainsFunc(list, func(re *regexp.Regexp) bool { return re.MatchString(text) })
	}
	if hit(x.whole, p) || hit(x.names, path.Base(p)) {
		return true
	}
	rel, ok := below(p, root)
	return ok && rel != p && hit(x.whole, rel)
}

// below gives p relative to root, when it is below it.
func below(p, root string) (string, bool) {
	if root == "." {
		return p, true
	}
	return strings.CutPrefix(p, root+"/")
}

// compile turns a glob into a regular expression: "**" as a whole segment is
// any number of segments, "*" and "?" stay within one, "[a-z]" and "[!a]" are
// classes, "\" takes the next character as it is, and "{a,b}" are alternatives
// when braces says so. With itself, "dir/**" matches dir too.
func compile(pattern string, braces, itself bool) (*regexp.Regexp, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("pattern has %d bytes, at most %d are allowed", len(pattern), maxPattern)
	}
	c := compiler{in: pattern, braces: braces, start: true}
	tail := ""
	if rest, ok := strings.CutSuffix(pattern, "/**"); ok && itself && rest != "" {
		c.in, tail = rest, "(?:/.*)?"
	}
	if err := c.run(); err != nil {
		return nil, fmt.Errorf("pattern %.200q: %w", pattern, err)
	}
	re, err := regexp.Compile(`(?s)^(?:` + c.out.String() + `)` + tail + `$`)
	if err != nil {
		return nil, fmt.Errorf("pattern %.200q is not valid", pattern)
	}
	return re, nil
}

type compiler struct {
	in     string
	out    strings.Builder
	braces bool
	// start says that a segment starts here; open holds it for each open brace.
	start bool
	open  []bool
	wild  int
}

func (c *compiler) run() error {
	for c.in != "" {
		if err := c.step(); err != nil {
			return err
		}
		if c.wild > maxWild {
			return fmt.Errorf("more than %d wildcards", maxWild)
		}
	}
	if len(c.open) > 0 {
		return errors.New("an opening brace is not closed")
	}
	return nil
}

// take writes an expression for the first n bytes.
func (c *compiler) take(n int, expression string) {
	c.start = strings.HasSuffix(c.in[:n], "/")
	c.in = c.in[n:]
	c.out.WriteString(expression)
}

func (c *compiler) step() error {
	switch r := []rune(c.in[:min(len(c.in), 4)])[0]; r {
	case '*':
		c.star()
	case '?':
		c.wild++
		c.take(1, "[^/]")
	case '[':
		return c.class()
	case '\\':
		if len(c.in) < 2 {
			return errors.New("nothing follows the last backslash")
		}
		escaped := []rune(c.in[1:])[0]
		c.take(1+runeBytes(c.in[1:]), regexp.QuoteMeta(string(escaped)))
	case '{', '}', ',':
		c.brace(r)
	default:
		n := runeBytes(c.in)
		c.take(n, regexp.QuoteMeta(c.in[:n]))
	}
	return nil
}

// runeBytes is the length of the first character.
func runeBytes(s string) int {
	for i := range s {
		if i > 0 {
			return i
		}
	}
	return len(s)
}

func (c *compiler) star() {
	stars := len(c.in) - len(strings.TrimLeft(c.in, "*"))
	rest := c.in[stars:]
	c.wild++
	switch {
	case stars == 1 || !c.start || rest != "" && rest[0] != '/':
		c.take(stars, "[^/]*")
	case rest == "":
		c.take(stars, ".+")
	default:
		n := stars + 1
		for strings.HasPrefix(c.in[n:], "**/") {
			n += 3
		}
		c.take(n, "(?:.*/)?")
	}
}

func (c *compiler) brace(r rune) {
	inside := len(c.open) > 0
	start := c.start
	switch {
	case !c.braces || r != '{' && !inside:
		c.take(1, regexp.QuoteMeta(string(r)))
	case r == '{':
		c.wild++
		c.open = append(c.open, start)
		c.take(1, "(?:")
		c.start = start
	case r == ',':
		c.wild++
		c.take(1, "|")
		c.start = c.open[len(c.open)-1]
	default:
		c.open = c.open[:len(c.open)-1]
		c.take(1, ")")
	}
}

func (c *compiler) class() error {
	end := strings.IndexByte(c.in, ']')
	if end < 0 {
		return errors.New("an opening bracket is not closed")
	}
	body := c.in[1:end]
	out := "["
	if strings.HasPrefix(body, "!") || strings.HasPrefix(body, "^") {
		out, body = "[^/", body[1:]
	}
	if body == "" {
		return errors.New("a class is empty")
	}
	c.wild++
	for _, r := range body {
		if strings.ContainsRune(`[\^&~`, r) {
			out += `\`
		}
		out += string(r)
	}
	c.take(end+1, out+"]")
	return nil
}

// CheckCopy tells what is wrong with a copy operation, whatever the sources
// hold; aliases are those that there are.
func CheckCopy(op swapi.CopyOperation, aliases []string) error {
	s, err := parseFrom(op.From, op.Strategy == swapi.ExtractStrategy)
	if err != nil {
		return fmt.Errorf("from: %w", err)
	}
	if !slices.Contains(aliases, s.alias) {
		return fmt.Errorf("from: no source has the alias %q", s.alias)
	}
	if _, err := parseTo(op.To); err != nil {
		return fmt.Errorf("to: %w", err)
	}
	_, err = parseExcludes(op.Exclude)
	return err
}

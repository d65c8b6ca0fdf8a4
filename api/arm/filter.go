package arm

import (
	"fmt"
	"strings"
)

// Term is one part of a $filter: a comparison "name op 'value'", or a function
// "name()" or "name('value')", whose Op is "()".
type Term struct{ Name, Op, Value string }

// Is reports whether the term has a name and an operator; names compare without
// regard to case.
func (t Term) Is(name, op string) bool { return t.Op == op && strings.EqualFold(t.Name, name) }

// ParseFilter reads a $filter that is a conjunction of terms; an empty one has
// none. Parentheses around terms, "or" and "not" are refused.
func ParseFilter(s string) ([]Term, error) {
	var terms []Term
	rest := strings.TrimSpace(s)
	for rest != "" {
		term, after, err := nextTerm(rest)
		if err != nil {
			return nil, err
		}
		terms = append(terms, term)
		if rest = strings.TrimSpace(after); rest == "" {
			break
		}
		if len(rest) < 4 || !strings.EqualFold(rest[:4], "and ") {
			return nil, fmt.Errorf("only terms joined by \"and\" are understood, not %q", rest)
		}
		if rest = strings.TrimSpace(rest[4:]); rest == "" {
			return nil, fmt.Errorf("a term is missing after \"and\"")
		}
	}
	return terms, nil
}

func nextTerm(s string) (Term, string, error) {
	end := strings.IndexAny(s, " (")
	if end <= 0 {
		return Term{}, "", fmt.Errorf("%q is not a comparison such as name eq 'value' or a function", s)
	}
	t := Term{Name: s[:end]}
	if s[end] == '(' {
		t.Op = "()"
		inner := strings.TrimSpace(s[end+1:])
		if inner != "" && inner[0] == ')' {
			return t, inner[1:], nil
		}
		value, rest, err := quoted(inner)
		if err != nil {
			return t, "", err
		}
		rest, ok := strings.CutPrefix(strings.TrimSpace(rest), ")")
		if !ok {
			return t, "", fmt.Errorf("%s( has no end", t.Name)
		}
		t.Value = value
		return t, rest, nil
	}
	op, rest, ok := strings.Cut(strings.TrimSpace(s[end:]), " ")
	t.Op = strings.ToLower(op)
	if !ok || !strings.Contains(" eq ne ge gt le lt ", " "+t.Op+" ") {
		return t, "", fmt.Errorf("after %s comes eq, ne, ge, gt, le or lt", t.Name)
	}
	value, rest, err := quoted(strings.TrimSpace(rest))
	t.Value = value
	return t, rest, err
}

// quoted reads a value in quotes, in which two quotes stand for one, or a word.
func quoted(s string) (value, rest string, err error) {
	if !strings.HasPrefix(s, "'") {
		end := strings.IndexAny(s, " )")
		if end < 0 {
			end = len(s)
		}
		if end == 0 {
			return "", "", fmt.Errorf("a value is missing")
		}
		return s[:end], s[end:], nil
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] != '\'':
			b.WriteByte(s[i])
		case i+1 < len(s) && s[i+1] == '\'':
			b.WriteByte('\'')
			i++
		default:
			return b.String(), s[i+1:], nil
		}
	}
	return "", "", fmt.Errorf("a quote has no end")
}

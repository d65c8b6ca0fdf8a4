package arm

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseFilter(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want []Term
		bad  bool
	}{
		"none":           {in: " "},
		"comparison":     {in: "roleName eq 'Owner'", want: []Term{{"roleName", "eq", "Owner"}}},
		"function":       {in: "atScope()", want: []Term{{"atScope", "()", ""}}},
		"with a value":   {in: "assignedTo( 'x' )", want: []Term{{"assignedTo", "()", "x"}}},
		"several":        {in: "a ge 2026-01-01T00:00:00Z AND b eq 'it''s' and c()", want: []Term{{"a", "ge", "2026-01-01T00:00:00Z"}, {"b", "eq", "it's"}, {"c", "()", ""}}},
		"and in a value": {in: "a eq 'x and y'", want: []Term{{"a", "eq", "x and y"}}},
		"or":             {in: "a eq 'x' or b eq 'y'", bad: true},
		"parentheses":    {in: "(a eq 'x')", bad: true},
		"no end":         {in: "a eq 'x", bad: true},
		"no value":       {in: "a eq ", bad: true},
		"no operator":    {in: "a like 'x'", bad: true},
		"trailing and":   {in: "a eq 'x' and ", bad: true},
		"a word":         {in: "a", bad: true},
		"open function":  {in: "a('x'", bad: true},
	} {
		got, err := ParseFilter(c.in)
		if (err != nil) != c.bad || !c.bad && cmp.Diff(c.want, got) != "" {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
}

// FuzzParseFilter looks for a filter that is not answered with terms or an error.
func FuzzParseFilter(f *testing.F) {
	for _, s := range []string{"a eq 'b' and c()", "a('", "a eq ''''", "a ge 1 and ", "a eq 'x'b eq 'y'", "(", "and and and", "a eq 'b'and c eq 'd'"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		terms, err := ParseFilter(s)
		if err != nil {
			return
		}
		for _, term := range terms {
			if term.Name == "" || term.Op == "" {
				t.Errorf("%q: %+v", s, terms)
			}
		}
	})
}

package activity

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestDiff(t *testing.T) {
	for name, c := range map[string]struct {
		before, after string
		want          []Change
	}{
		"nothing":         {"", "", nil},
		"made":            {"", `{"properties":{}}`, []Change{{Op: "add"}}},
		"gone":            {`{"properties":{}}`, "", []Change{{Op: "remove"}}},
		"same":            {`{"a":{"b":[1]}}`, `{"a":{"b":[1]}}`, nil},
		"bookkeeping":     {`{"updatedAt":"1","systemData":{"x":1},"protectedVersion":"a"}`, `{"updatedAt":"2","systemData":{"x":2}}`, nil},
		"fields":          {`{"p":{"a":1,"b":2}}`, `{"p":{"b":3,"c":4}}`, []Change{{"remove", "/p/a"}, {"replace", "/p/b"}, {"add", "/p/c"}}},
		"lists are whole": {`{"p":[1,2]}`, `{"p":[1,3]}`, []Change{{"replace", "/p"}}},
		"escaped":         {`{"p":{"a/b~c":1}}`, `{"p":{}}`, []Change{{"remove", "/p/a~1b~0c"}}},
		"secrets":         {`{"protectedHash":"x"}`, `{"protectedHash":"y"}`, []Change{{"replace", "/properties/configurationProtectedSettings"}}},
		"secrets cleared": {`{"protectedHash":"x"}`, `{}`, []Change{{"remove", "/properties/configurationProtectedSettings"}}},
		"of another type": {`{"p":{"a":1}}`, `{"p":1}`, []Change{{"replace", "/p"}}},
	} {
		raw := func(s string) json.RawMessage {
			if s == "" {
				return nil
			}
			return json.RawMessage(s)
		}
		if d := cmp.Diff(c.want, diff(raw(c.before), raw(c.after))); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	var many []string
	for i := range 3 * maxChanges {
		many = append(many, fmt.Sprintf(`"k%d":1`, i))
	}
	got := diff(json.RawMessage(`{"p":{}}`), json.RawMessage(`{"p":{`+strings.Join(many, ",")+`}}`))
	if len(got) != maxChanges+1 || got[maxChanges].Op != "more" {
		t.Errorf("%d changes", len(got))
	}
	long := strings.Repeat("é/", 300<<10)
	got = diff(json.RawMessage(`{"p":{}}`), json.RawMessage(`{"p":{"`+long+`":1}}`))
	if len(got) != 1 || got[0].Op != "add" || len(got[0].Path) > maxPath+len("…") || !strings.HasPrefix(got[0].Path, "/p/é~1") || !utf8.ValidString(got[0].Path) {
		t.Errorf("a long name: %d changes, %.40q", len(got), got[0].Path)
	}
}

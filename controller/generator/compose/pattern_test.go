package compose

import (
	"path"
	"strings"
	"testing"
	"time"

	swapi "github.com/fluxcd/source-watcher/api/v2/v1beta1"
	"github.com/google/go-cmp/cmp"
)

func TestPatterns(t *testing.T) {
	cases := []struct {
		pattern, path   string
		braces, itself  bool
		matches, broken bool
	}{
		{pattern: "*", path: "a", matches: true},
		{pattern: "*", path: "a/b"},
		{pattern: "**", path: "a/b", matches: true},
		{pattern: "a/**", path: "a/b/c", matches: true},
		{pattern: "a/**", path: "a"},
		{pattern: "a/**", path: "a", itself: true, matches: true},
		{pattern: "a/**", path: "ab", itself: true},
		{pattern: "**/b", path: "b", matches: true},
		{pattern: "**/b", path: "a/c/b", matches: true},
		{pattern: "**/b", path: "ab"},
		{pattern: "a/**/b", path: "a/b", matches: true},
		{pattern: "a/**/b", path: "a/x/y/b", matches: true},
		{pattern: "a**b", path: "a/b"},
		{pattern: "a**b", path: "axb", matches: true},
		{pattern: "?.go", path: "x.go", matches: true},
		{pattern: "?", path: "/"},
		{pattern: "?", path: "ü", matches: true},
		{pattern: "[a-c]", path: "b", matches: true},
		{pattern: "[!a-c]", path: "b"},
		{pattern: "[^a]", path: "b", matches: true},
		{pattern: "[^a]", path: "/"},
		{pattern: "[[]", path: "[", matches: true},
		{pattern: `\*`, path: "*", matches: true},
		{pattern: `\*`, path: "a"},
		{pattern: "{a,b}", path: "{a,b}", matches: true},
		{pattern: "{a,b}", path: "b", braces: true, matches: true},
		{pattern: "{a,b{c,d}}/x", path: "bd/x", braces: true, matches: true},
		{pattern: "x{/**,}/y", path: "x/a/y", braces: true, matches: true},
		{pattern: "a.b", path: "axb"},
		{pattern: "(a|b)+$", path: "(a|b)+$", matches: true},
		{pattern: "[", broken: true},
		{pattern: "[]", broken: true},
		{pattern: "[!]", broken: true},
		{pattern: "[z-a]", broken: true},
		{pattern: `a\`, broken: true},
		{pattern: "{a", braces: true, broken: true},
		{pattern: "\xff", broken: true},
		{pattern: strings.Repeat("a", 1025), broken: true},
		{pattern: strings.Repeat("**/a/", 65), broken: true},
	}
	for _, c := range cases {
		re, err := compile(c.pattern, c.braces, c.itself)
		if (err != nil) != c.broken {
			t.Errorf("%.40q: error %v", c.pattern, err)
			continue
		}
		if err == nil && re.MatchString(c.path) != c.matches {
			t.Errorf("%q matches %q: %v (%s)", c.pattern, c.path, !c.matches, re)
		}
	}
}

// TestPatternsAreCheap: no pattern makes a match slow, as those that nest
// wildcards do where matching tries every way.
func TestPatternsAreCheap(t *testing.T) {
	text := strings.Repeat("a/", 60) + "b"
	for _, pattern := range []string{strings.Repeat("**/a/", 30) + "c", strings.Repeat("*a*", 30) + "c", strings.Repeat("{a,a,a}", 15) + "c"} {
		re, err := compile(pattern, true, false)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		re.MatchString(text)
		if took := time.Since(start); took > time.Second {
			t.Errorf("%.40q takes %s for one path", pattern, took)
		}
	}
}

func FuzzCopy(f *testing.F) {
	for _, s := range [][3]string{
		{"@s/**", "@artifact/", "*.md"}, {"@s/{a,b}*", "@artifact/x", "**/.*"}, {"@s/../x", "@artifact/../..", "[!a]"}, {"@s//", "@artifact//x/", `\`},
		{"@s/a/./b/..//*", "@artifact/.", "{"}, {"@s/[\xff]", "@artifact/\x00", "**/**/**"}, {"@s/d/", "@artifact/a\\..\\b", "{,{,}}"},
	} {
		f.Add(s[0], s[1], s[2])
	}
	files := tree(f, map[string]string{"a": "1", "b.md": "2", "d/e/f.yaml": "3: 4", ".hidden": "5"})
	f.Fuzz(func(t *testing.T, from, to, exclude string) {
		for _, strategy := range []string{"", "Merge", "Extract"} {
			o := swapi.CopyOperation{From: from, To: to, Exclude: []string{exclude}, Strategy: strategy}
			checked := CheckCopy(o, []string{"s"})
			entries, err := New(map[string]*Tree{"s": files}, t.TempDir()).Compose(t.Context(), []swapi.CopyOperation{o, o})
			if err != nil {
				continue
			}
			if checked != nil {
				t.Fatalf("%+v: is refused (%v) and works", o, checked)
			}
			for e, err := range entries {
				if err != nil || e.Path == "." || path.Clean(e.Path) != e.Path || path.IsAbs(e.Path) || strings.HasPrefix(e.Path, "..") {
					t.Fatalf("%+v gives %q, %v", o, e.Path, err)
				}
			}
		}
	})
}

func FuzzPathPattern(f *testing.F) {
	for _, s := range [][2]string{{"@s/apps/{app}/envs/{env}", "{app}-{env}"}, {"@s/{a}{a}", "x"}, {"@s/{", "}"}, {"@s/{a}-{b}", "{b}.{a}"}, {"@s/", ""}} {
		f.Add(s[0], s[1])
	}
	files := tree(f, map[string]string{"apps/One/envs/dev/f": "", "apps/two/envs/x_y/f": "", "a-b/f": ""})
	f.Fuzz(func(t *testing.T, pattern, name string) {
		spec := &swapi.ArtifactGeneratorSpec{PathPattern: pattern, OutputArtifacts: []swapi.OutputArtifact{{Name: name, Copy: []swapi.CopyOperation{op("@s/"+name, "@artifact/")}}}}
		outputs, err := Expand(spec, map[string]*Tree{"s": files})
		seen := map[string]bool{}
		for _, o := range outputs {
			if err == nil && (seen[o.Name] || strings.ContainsAny(o.Name, "{}/ ") && pattern != "") {
				t.Fatalf("%q gives %q", pattern, o.Name)
			}
			seen[o.Name] = true
		}
	})
}

func TestExpand(t *testing.T) {
	files := tree(t, map[string]string{"apps/Auth/envs/dev/f": "", "apps/auth/f": "", "apps/pay/envs/dev/f": "", "apps/pay/envs/prod/f": "", "apps/no file": "", "bad/Ünï/f": ""})
	cases := map[string]struct {
		why, pattern, name, from string
		// want are names with what is copied.
		want map[string]string
		err  string
	}{
		"two captures": {"one artifact for each directory", "@s/apps/{app}/envs/{env}", "{app}-{env}", "@s/apps/{app}/envs/{env}/**", map[string]string{
			"auth-dev": "@s/apps/Auth/envs/dev/**", "pay-dev": "@s/apps/pay/envs/dev/**", "pay-prod": "@s/apps/pay/envs/prod/**"}, ""},
		"slash at the end": {"directories often have one", "@s/apps/pay/envs/{env}/", "{env}", "@s/x", map[string]string{"dev": "@s/x", "prod": "@s/x"}, ""},
		"no directory":     {"then there is nothing to make", "@s/none/{x}", "{x}", "@s/x", map[string]string{}, ""},
		"collision":        {"names are in lower case", "@s/apps/{app}", "{app}", "@s/x", nil, `both give "auth"`},
		"not a label":      {"captures become labels", "@s/bad/{x}", "a", "@s/x", nil, "cannot be a label"},
		"not a name":       {"", "@s/apps/pay/envs/{env}", "{env}_x", "@s/x", nil, "name"},
		"unknown":          {"", "@s/apps/pay/envs/{env}", "{app}", "@s/x", nil, "{app} is not in spec.pathPattern"},
		"unknown in from":  {"", "@s/apps/pay/envs/{env}", "{env}", "@s/{y}", nil, "copy[0].from"},
		"open brace":       {"", "@s/apps/{x", "a", "@s/x", nil, "without its counterpart"},
		"twice":            {"", "@s/{x}/{x}", "a", "@s/x", nil, "twice"},
		"bad capture":      {"", "@s/{1x}", "a", "@s/x", nil, "not a name"},
		"no alias":         {"", "apps", "a", "@s/x", nil, "@alias/pattern"},
		"other alias":      {"", "@t/{x}", "a", "@s/x", nil, `alias "t"`},
		"the root":         {"", "@s/", "a", "@s/x", nil, "no directory"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			spec := &swapi.ArtifactGeneratorSpec{PathPattern: c.pattern, OutputArtifacts: []swapi.OutputArtifact{{Name: c.name, Copy: []swapi.CopyOperation{op(c.from, "@artifact/")}}}}
			outputs, err := Expand(spec, map[string]*Tree{"s": files})
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("%s: got %v, want %q", c.why, err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, o := range outputs {
				got[o.Name] = o.Copy[0].From
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("%s (-want +got):\n%s", c.why, d)
			}
			if spec.OutputArtifacts[0].Copy[0].From != c.from {
				t.Error("the specification was changed")
			}
		})
	}
}

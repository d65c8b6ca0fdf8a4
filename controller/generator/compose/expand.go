package compose

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"

	swapi "github.com/fluxcd/source-watcher/api/v2/v1beta1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// maxOutputs is how many artifacts one generator may make.
const maxOutputs = 1000

var placeholder = regexp.MustCompile(`\{[^{}]*\}`)

var captureName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Output is an artifact to make.
type Output struct {
	swapi.OutputArtifact
	// Labels hold what a path pattern captured.
	Labels map[string]string
}

// PathPattern finds directories of a source; each makes a set of artifacts.
type PathPattern struct {
	Alias string
	match *regexp.Regexp
}

// ParsePathPattern reads "@alias/dir/{name}", in which {name} is one segment.
func ParsePathPattern(text string) (*PathPattern, error) {
	alias, pattern, ok := strings.Cut(strings.TrimPrefix(text, "@"), "/")
	if !ok || !strings.HasPrefix(text, "@") || alias == "" {
		return nil, fmt.Errorf("%.200q is not of the form @alias/pattern", text)
	}
	pattern = path.Clean(pattern)
	if pattern == "." {
		return nil, fmt.Errorf("%.200q names no directory", text)
	}
	expression, last, seen := `^`, 0, map[string]bool{}
	for _, at := range placeholder.FindAllStringIndex(pattern, -1) {
		name := pattern[at[0]+1 : at[1]-1]
		if !captureName.MatchString(name) || len(validation.IsQualifiedName(name)) > 0 {
			return nil, fmt.Errorf("{%.100s} is not a name of letters, digits and underscores that can be a label", name)
		}
		if seen[name] {
			return nil, fmt.Errorf("{%s} is there twice", name)
		}
		seen[name] = true
		expression += regexp.QuoteMeta(pattern[last:at[0]]) + `(?P<` + name + `>[^/]+)`
		last = at[1]
	}
	if strings.ContainsAny(placeholder.ReplaceAllString(pattern, ""), "{}") {
		return nil, fmt.Errorf("%.200q has a brace without its counterpart", text)
	}
	re, err := regexp.Compile(expression + regexp.QuoteMeta(pattern[last:]) + `$`)
	if err != nil {
		return nil, fmt.Errorf("%.200q is not valid", text)
	}
	return &PathPattern{Alias: alias, match: re}, nil
}

// Expand gives the artifacts that a specification asks for: those that it
// lists, once for every directory that the path pattern finds when there is one.
func Expand(spec *swapi.ArtifactGeneratorSpec, trees map[string]*Tree) ([]Output, error) {
	if spec.PathPattern == "" {
		outputs := make([]Output, len(spec.OutputArtifacts))
		for i, a := range spec.OutputArtifacts {
			outputs[i].OutputArtifact = a
		}
		return outputs, nil
	}
	p, err := ParsePathPattern(spec.PathPattern)
	if err != nil {
		return nil, fmt.Errorf("spec.pathPattern: %w", err)
	}
	tree := trees[p.Alias]
	if tree == nil {
		return nil, fmt.Errorf("spec.pathPattern: no source has the alias %q", p.Alias)
	}
	var outputs []Output
	from := map[string]string{}
	for _, e := range tree.entries {
		if !e.Dir {
			continue
		}
		raw, labels, err := p.captures(e.Path)
		if err != nil {
			return nil, fmt.Errorf("spec.pathPattern: directory %.200q: %w", e.Path, err)
		}
		if raw == nil {
			continue
		}
		for i, a := range spec.OutputArtifacts {
			o, err := render(a, raw, labels)
			if err != nil {
				return nil, fmt.Errorf("spec.artifacts[%d] for directory %.200q: %w", i, e.Path, err)
			}
			if other, ok := from[o.Name]; ok {
				return nil, fmt.Errorf("spec.artifacts[%d].name: directories %.200q and %.200q both give %q", i, other, e.Path, o.Name)
			}
			from[o.Name] = e.Path
			outputs = append(outputs, o)
		}
		if len(outputs) > maxOutputs {
			return nil, fmt.Errorf("spec.pathPattern gives more than %d artifacts", maxOutputs)
		}
	}
	return outputs, nil
}

// captures gives the values of the placeholders as they are and as labels; nil
// when the pattern does not match.
func (p *PathPattern) captures(dir string) (raw, labels map[string]string, err error) {
	found := p.match.FindStringSubmatch(dir)
	if found == nil {
		return nil, nil, nil
	}
	raw, labels = map[string]string{}, map[string]string{}
	for i, name := range p.match.SubexpNames() {
		if i == 0 {
			continue
		}
		raw[name], labels[name] = found[i], strings.ToLower(found[i])
		if faults := validation.IsValidLabelValue(labels[name]); len(faults) > 0 {
			return nil, nil, fmt.Errorf("{%s} cannot be a label: %s", name, faults[0])
		}
	}
	return raw, labels, nil
}

// render fills the placeholders of an artifact: paths with what was captured,
// the name with the same in lower case.
func render(a swapi.OutputArtifact, raw, labels map[string]string) (Output, error) {
	o := Output{OutputArtifact: *a.DeepCopy(), Labels: labels}
	var err error
	if o.Name, err = fill(a.Name, labels); err != nil {
		return o, fmt.Errorf("name: %w", err)
	}
	if faults := validation.IsDNS1123Subdomain(o.Name); len(faults) > 0 {
		return o, fmt.Errorf("name %.300q: %s", o.Name, faults[0])
	}
	for i := range o.Copy {
		c := &o.Copy[i]
		if c.From, err = fill(c.From, raw); err != nil {
			return o, fmt.Errorf("copy[%d].from: %w", i, err)
		}
		if c.To, err = fill(c.To, raw); err != nil {
			return o, fmt.Errorf("copy[%d].to: %w", i, err)
		}
	}
	return o, nil
}

// fill puts values in place of {name}.
func fill(template string, values map[string]string) (string, error) {
	if strings.ContainsAny(placeholder.ReplaceAllString(template, ""), "{}") {
		return "", errors.New("a brace has no counterpart")
	}
	var unknown string
	out := placeholder.ReplaceAllStringFunc(template, func(m string) string {
		v, ok := values[m[1:len(m)-1]]
		if !ok {
			unknown = m
		}
		return v
	})
	if unknown != "" {
		return "", fmt.Errorf("%.100s is not in spec.pathPattern", unknown)
	}
	return out, nil
}

// Package charts finds charts in the indexes of Helm repositories, gets them over
// HTTP without letting credentials or requests go where they should not, and
// builds chart archives.
package charts

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"go.yaml.in/yaml/v3"
)

const (
	// MaxIndex bounds the index of a Helm repository in bytes.
	MaxIndex = 50 << 20
	// maxParsed bounds what of an index is parsed as YAML at a time.
	maxParsed = 16 << 20
)

// ErrIndex says that something is no index of a Helm repository.
var ErrIndex = errors.New("it is no valid Helm repository index")

// Version is one version of a chart in an index.
type Version struct {
	Version string   `yaml:"version" json:"version"`
	URLs    []string `yaml:"urls" json:"urls"`
	Digest  string   `yaml:"digest" json:"digest"`
}

// Index finds the versions of charts in the index of a Helm repository. The
// text of each chart is parsed when it is asked for, so that a large index
// costs little more than its size.
type Index struct {
	charts map[string][]byte    // text below the name of the chart
	parsed map[string][]Version // instead, when the text is not laid out in blocks
}

// document is an index that is parsed as a whole.
type document struct {
	APIVersion string               `yaml:"apiVersion" json:"apiVersion"`
	Entries    map[string][]Version `yaml:"entries" json:"entries"`
}

// ParseIndex reads an index: YAML or JSON of at most MaxIndex bytes.
func ParseIndex(data []byte) (*Index, error) {
	if len(data) > MaxIndex {
		return nil, fmt.Errorf("%w: it is larger than %d bytes", ErrIndex, MaxIndex)
	}
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		var d document
		if err := json.Unmarshal(data, &d); err != nil || d.APIVersion == "" {
			return nil, ErrIndex
		}
		return &Index{parsed: d.Entries}, nil
	}
	if x, ok := splitIndex(data); ok {
		return x, nil
	}
	if len(data) > maxParsed {
		return nil, fmt.Errorf("%w: it is not laid out as Helm does and too large to be read otherwise", ErrIndex)
	}
	var d document
	if err := yaml.Unmarshal(data, &d); err != nil || d.APIVersion == "" {
		return nil, ErrIndex
	}
	return &Index{parsed: d.Entries}, nil
}

// splitIndex cuts the text of an index into that of its charts. It relies on
// the rule that what belongs to a key in block style is indented deeper than
// the key, or is a list at the same depth.
func splitIndex(data []byte) (*Index, bool) {
	x := &Index{charts: map[string][]byte{}}
	version, inside, found := false, false, false
	indent, name, start := 0, "", 0
	end := func(at int) {
		if name != "" {
			x.charts[name] = data[start:at]
		}
		name = ""
	}
	for at := 0; at < len(data); {
		next := len(data)
		if i := bytes.IndexByte(data[at:], '\n'); i >= 0 {
			next = at + i + 1
		}
		line := bytes.TrimRight(data[at:next], " \r\n")
		text := bytes.TrimLeft(line, " ")
		depth := len(line) - len(text)
		switch {
		case len(text) == 0 || text[0] == '#':
		case depth == 0:
			end(at)
			inside = bytes.Equal(text, []byte("entries:"))
			found = found || inside
			version = version || bytes.HasPrefix(text, []byte("apiVersion:"))
			if bytes.HasPrefix(text, []byte("entries:")) && !inside {
				return nil, false // not in block style
			}
		case inside && text[0] != '-' && (name == "" && start == 0 || depth <= indent):
			end(at)
			key, ok := bytes.CutSuffix(text, []byte(":"))
			if !ok {
				return nil, false
			}
			indent, name, start = depth, unquote(string(key)), next
		}
		at = next
	}
	end(len(data))
	return x, version && found
}

func unquote(s string) string {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[0] == s[len(s)-1] {
		return s[1 : len(s)-1]
	}
	return s
}

// Versions gives the versions of a chart.
func (x *Index) Versions(chart string) ([]Version, error) {
	if x.parsed != nil {
		return x.parsed[chart], nil
	}
	text := x.charts[chart]
	if len(text) > maxParsed {
		return nil, fmt.Errorf("%w: the entry of chart %q is larger than %d bytes", ErrIndex, chart, maxParsed)
	}
	var list []Version
	if err := yaml.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("%w: the entry of chart %q does not parse", ErrIndex, chart)
	}
	return list, nil
}

// Find gives the version of a chart that a version or range selects: exactly
// that version, or else the highest in the range.
func (x *Index) Find(chart, want string) (Version, error) {
	list, err := x.Versions(chart)
	if err != nil {
		return Version{}, err
	}
	if len(list) == 0 {
		return Version{}, fmt.Errorf("no chart %q in the repository", chart)
	}
	known := make([]string, len(list))
	for i, v := range list {
		known[i] = v.Version
	}
	best, err := Pick(known, want)
	if err != nil {
		return Version{}, fmt.Errorf("chart %q: %w", chart, err)
	}
	return list[slices.Index(known, best)], nil
}

// Pick selects from versions: exactly the wanted one, or else the
// highest in the wanted range. Nothing wanted means the highest stable one.
func Pick(versions []string, want string) (string, error) {
	if want != "" && slices.Contains(versions, want) {
		return want, nil
	}
	if len(want) > 256 {
		return "", errors.New("the version range is longer than 256 characters")
	}
	c, err := semver.NewConstraint(cmp.Or(want, "*"))
	if err != nil {
		return "", fmt.Errorf("%q is neither a version nor a range", want)
	}
	best := ""
	var highest *semver.Version
	for _, s := range versions {
		v, err := semver.NewVersion(s)
		if err == nil && c.Check(v) && (highest == nil || v.GreaterThan(highest)) {
			best, highest = s, v
		}
	}
	if highest == nil {
		return "", fmt.Errorf("none of its %d versions is in the range %q", len(versions), cmp.Or(strings.TrimSpace(want), "*"))
	}
	return best, nil
}

// Package charts finds charts in the indexes of Helm repositories, gets them over
// HTTP without letting credentials or requests go where they should not, and
// builds chart archives.
package charts

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"go.yaml.in/yaml/v3"
)

const (
	// MaxIndex bounds the index of a Helm repository in bytes.
	MaxIndex = 64 << 20
	// maxParsed bounds what of an index is parsed at a time, in bytes.
	maxParsed = 4 << 20
	// maxVersions bounds the versions of one chart.
	maxVersions = 50_000
)

// ErrIndex says that something is no index of a Helm repository.
var ErrIndex = errors.New("it is no valid Helm repository index")

// Version is one version of a chart in an index.
type Version struct {
	Version string   `yaml:"version" json:"version"`
	URLs    []string `yaml:"urls" json:"urls"`
	Digest  string   `yaml:"digest" json:"digest"`
}

// CheckIndex reads an index through, and reports whether it is one: YAML or
// JSON that has an apiVersion.
func CheckIndex(r io.ReadSeeker) error {
	_, err := scan(r, "")
	return err
}

// Versions gives the versions of a chart in an index. The index is read in one
// pass, and only what it says of this chart is kept.
func Versions(r io.ReadSeeker, chart string) ([]Version, error) {
	if chart == "" {
		return nil, errors.New("the chart has no name")
	}
	return scan(r, chart)
}

func scan(r io.ReadSeeker, chart string) ([]Version, error) {
	size, err := r.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = r.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	if size > MaxIndex {
		return nil, fmt.Errorf("%w: it is larger than %d bytes", ErrIndex, MaxIndex)
	}
	in := bufio.NewReaderSize(r, 64<<10)
	if first, err := firstByte(in); err == nil && first == '{' {
		return scanJSON(in, chart)
	}
	s := &scanner{chart: chart}
	list, err := s.run(in)
	if !errors.Is(err, errLayout) {
		return list, err
	}
	if size > maxParsed {
		return nil, fmt.Errorf("%w: it is not laid out as Helm does, and too large to be read otherwise", ErrIndex)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	return parseWhole(r, chart)
}

// firstByte looks at the first byte that is no space.
func firstByte(in *bufio.Reader) (byte, error) {
	for {
		c, err := in.ReadByte()
		if err != nil {
			return 0, err
		}
		if !bytes.ContainsRune([]byte(" \t\r\n"), rune(c)) {
			return c, in.UnreadByte()
		}
	}
}

// scanJSON reads an index in JSON, one chart at a time.
func scanJSON(in io.Reader, chart string) ([]Version, error) {
	d := json.NewDecoder(in)
	if _, err := d.Token(); err != nil {
		return nil, ErrIndex
	}
	var found []Version
	version := ""
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, ErrIndex
		}
		switch key {
		case "apiVersion":
			err = d.Decode(&version)
		case "entries":
			found, err = scanEntries(d, chart)
		default:
			err = d.Decode(&json.RawMessage{})
		}
		if err != nil {
			return nil, ErrIndex
		}
	}
	if version == "" {
		return nil, ErrIndex
	}
	return found, nil
}

func scanEntries(d *json.Decoder, chart string) ([]Version, error) {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, ErrIndex
	}
	var found []Version
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		if key != chart || chart == "" {
			err = d.Decode(&json.RawMessage{})
		} else {
			err = d.Decode(&found)
		}
		if err != nil {
			return nil, err
		}
	}
	_, err := d.Token()
	return found, err
}

// parseWhole reads a small index that is not laid out in blocks.
func parseWhole(r io.Reader, chart string) ([]Version, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxParsed))
	if err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	var d struct {
		APIVersion string               `yaml:"apiVersion"`
		Entries    map[string][]Version `yaml:"entries"`
	}
	if err := yaml.Unmarshal(data, &d); err != nil || d.APIVersion == "" {
		return nil, ErrIndex
	}
	return d.Entries[chart], nil
}

// Find gives the version of a chart that a version or range selects: exactly
// that version, or else the highest in the range.
func Find(r io.ReadSeeker, chart, want string) (Version, error) {
	list, err := Versions(r, chart)
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

// Exact reports whether what is wanted is one version rather than a range.
func Exact(want string) bool {
	_, err := semver.StrictNewVersion(want)
	return err == nil
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

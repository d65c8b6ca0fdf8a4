package charts

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// errLayout says that an index is not laid out in blocks, as Helm lays it out.
var errLayout = errors.New("not in block style")

// scanner finds the versions of one chart in an index that is laid out in
// blocks, line by line. It relies on the rule that what belongs to a key is
// indented deeper than the key, or is a list at the same depth.
type scanner struct {
	chart string

	version, inside, found bool
	indent                 int // of the names of charts; -1 before the first
	wanted                 bool
	item                   []byte
	itemIndent             int
	list                   []Version
}

func (s *scanner) run(in *bufio.Reader) ([]Version, error) {
	s.indent, s.itemIndent = -1, -1
	for {
		line, err := s.line(in)
		if len(line) > 0 {
			if err := s.take(line); err != nil {
				return nil, err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if err := s.flush(); err != nil {
		return nil, err
	}
	if !s.version || !s.found {
		return nil, errLayout
	}
	return s.list, nil
}

// line reads a line, whole when it is of the wanted chart, else only its
// beginning.
func (s *scanner) line(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return line, err
	}
	keep := bytes.Clone(line)
	for errors.Is(err, bufio.ErrBufferFull) {
		line, err = in.ReadSlice('\n')
		if s.wanted {
			if keep = append(keep, line...); len(keep) > maxParsed {
				return nil, fmt.Errorf("%w: a line is longer than %d bytes", ErrIndex, maxParsed)
			}
		}
	}
	return keep, err
}

func (s *scanner) take(raw []byte) error {
	line := bytes.TrimRight(raw, " \r\n")
	text := bytes.TrimLeft(line, " ")
	depth := len(line) - len(text)
	switch {
	case len(text) == 0 || text[0] == '#':
		return s.keep(raw)
	case depth == 0 && !(s.inside && text[0] == '-'):
		return s.section(text)
	case s.inside && text[0] != '-' && (s.indent < 0 || depth <= s.indent):
		return s.name(text, depth)
	case s.wanted && text[0] == '-' && (s.itemIndent < 0 || depth == s.itemIndent):
		if err := s.flush(); err != nil {
			return err
		}
		s.itemIndent = depth
	}
	return s.keep(raw)
}

// section takes a key of the document itself.
func (s *scanner) section(text []byte) error {
	if err := s.flush(); err != nil {
		return err
	}
	s.wanted = false
	s.inside = bytes.Equal(text, []byte("entries:"))
	s.found = s.found || s.inside
	s.version = s.version || bytes.HasPrefix(text, []byte("apiVersion:"))
	if bytes.HasPrefix(text, []byte("entries:")) && !s.inside {
		return errLayout
	}
	return nil
}

// name takes the name of a chart.
func (s *scanner) name(text []byte, depth int) error {
	if err := s.flush(); err != nil {
		return err
	}
	key, ok := bytes.CutSuffix(text, []byte(":"))
	if !ok {
		return errLayout
	}
	s.indent, s.itemIndent = depth, -1
	s.wanted = s.chart != "" && unquote(string(key)) == s.chart
	return nil
}

// keep adds a line to the version that is being read.
func (s *scanner) keep(raw []byte) error {
	if !s.wanted {
		return nil
	}
	if s.item = append(s.item, raw...); len(s.item) > maxParsed {
		return fmt.Errorf("%w: a version of chart %q is larger than %d bytes", ErrIndex, s.chart, maxParsed)
	}
	return nil
}

// flush parses the version that was read.
func (s *scanner) flush() error {
	text := s.item
	s.item = s.item[:0]
	if len(bytes.TrimSpace(text)) == 0 {
		return nil
	}
	var one []Version
	if err := yaml.Unmarshal(text, &one); err != nil {
		return fmt.Errorf("%w: a version of chart %q does not parse", ErrIndex, s.chart)
	}
	if s.list = append(s.list, one...); len(s.list) > maxVersions {
		return fmt.Errorf("%w: chart %q has more than %d versions", ErrIndex, s.chart, maxVersions)
	}
	return nil
}

func unquote(s string) string {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[0] == s[len(s)-1] {
		return strings.ReplaceAll(s[1:len(s)-1], "''", "'")
	}
	return s
}

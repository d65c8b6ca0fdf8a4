package compose

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"

	"headwater.dev/kernel/artifact"
)

// stage is the content of an artifact to be, by path.
type stage map[string]artifact.Entry

// mkdir makes a directory with its parents.
func (s stage) mkdir(p string) error {
	if p == "." {
		return nil
	}
	if e, ok := s[p]; ok {
		if !e.Dir {
			return fmt.Errorf("%.200q is a file, and cannot be a directory too", p)
		}
		return nil
	}
	if err := s.mkdir(path.Dir(p)); err != nil {
		return err
	}
	return s.put(artifact.Entry{Path: p, Dir: true})
}

// file places a file, in place of another one.
func (s stage) file(e artifact.Entry) error {
	if e.Path == "." || s[e.Path].Dir {
		return fmt.Errorf("%.200q is a directory, and cannot be a file too", e.Path)
	}
	if err := s.mkdir(path.Dir(e.Path)); err != nil {
		return err
	}
	return s.put(e)
}

func (s stage) put(e artifact.Entry) error {
	if limit := artifact.DefaultLimits().Entries; len(s) >= limit {
		return fmt.Errorf("%w: more than %d files", artifact.ErrTooLarge, limit)
	}
	s[e.Path] = e
	return nil
}

// entries gives what belongs into the archive, in the order of a walk: equal
// stages give equal archives. What is left out of every artifact is left out.
func (s stage) entries() iter.Seq2[artifact.Entry, error] {
	var rules artifact.IgnoreRules
	ignore := rules.Build()
	return func(yield func(artifact.Entry, error) bool) {
		skipped := ""
		for _, p := range slices.SortedFunc(maps.Keys(s), walkOrder) {
			e := s[p]
			if skipped != "" && strings.HasPrefix(p, skipped) {
				continue
			}
			if ignore.Match(p, e.Dir) {
				if e.Dir {
					skipped = p + "/"
				}
				continue
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// walkOrder sorts the content of a directory right after it.
func walkOrder(a, b string) int {
	for i := range min(len(a), len(b)) {
		if a[i] == b[i] {
			continue
		}
		if a[i] == '/' {
			return -1
		}
		if b[i] == '/' {
			return 1
		}
		return cmp.Compare(a[i], b[i])
	}
	return cmp.Compare(len(a), len(b))
}

// inMemory is a file that is not on disk.
func inMemory(p string, data []byte) artifact.Entry {
	return artifact.Entry{Path: p, Size: int64(len(data)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}}
}

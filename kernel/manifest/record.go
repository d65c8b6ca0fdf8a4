package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
)

// Record is what a build looked at: its inputs beside the artifact, and for
// each path of the artifact what it found there. Two artifacts that agree on a
// record give the same build for the same inputs.
type Record struct {
	// Inputs is Request.Inputs of the build; empty when it used what the artifact
	// does not hold, so that no request equals it.
	Inputs string
	found  map[string]finding
	// volatile builds used what the artifact does not hold.
	volatile bool
}

// finding is what was found at a path; sum is of a file, or of the names in a
// directory.
type finding struct {
	kind byte
	sum  [sha256.Size]byte
}

const (
	absent    = 'a'
	directory = 'd'
	present   = 'p' // a file that was not read
	content   = 'c'
	nameList  = 'n'

	// listing marks the key of a directory's list of names.
	listing = "//"
)

func newRecord() Record { return Record{found: map[string]finding{}} }

func (r Record) kind(rel string, info fs.FileInfo, err error) {
	if _, known := r.found[rel]; !known {
		r.found[rel] = finding{kind: kindOf(info, err)}
	}
}

func kindOf(info fs.FileInfo, err error) byte {
	switch {
	case err != nil:
		return absent
	case info.IsDir():
		return directory
	default:
		return present
	}
}

func (r Record) file(rel string, data []byte) {
	r.found[rel] = finding{content, sha256.Sum256(data)}
}

func (r Record) list(rel string, entries []fs.DirEntry) {
	r.found[filepath.ToSlash(rel)+listing] = finding{nameList, sumOfNames(entries)}
}

// Len is how many paths the record has.
func (r Record) Len() int { return len(r.found) }

// Fits reports whether a build of the request would give what the recorded one
// gave. It reads only the files of the record, never builds, and says false
// when in doubt.
func (r Record) Fits(req Request) bool {
	return r.Inputs != "" && r.Inputs == req.Inputs() && r.Same(req.Root, req.Files)
}

// Same reports whether the artifact in dir, or that files holds when they are
// not nil, agrees with the record. It does not compare the inputs.
func (r Record) Same(dir string, files fs.FS) bool {
	if len(r.found) == 0 || r.volatile {
		return false
	}
	t, err := openTree(dir, files)
	if err != nil {
		return false
	}
	defer t.Close()
	for key, want := range r.found {
		if !agrees(t, key, want) {
			return false
		}
	}
	return true
}

func agrees(t *tree, key string, want finding) bool {
	if want.kind == nameList {
		entries, err := t.list(key[:len(key)-len(listing)])
		return err == nil && sumOfNames(entries) == want.sum
	}
	info, err := t.Stat(key)
	kind := kindOf(info, err)
	if want.kind != content || kind != present {
		return kind == want.kind
	}
	data, err := t.ReadFile(key)
	return err == nil && sha256.Sum256(data) == want.sum
}

func sumOfNames(entries []fs.DirEntry) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, e := range entries {
		h.Write([]byte(e.Name()))
		h.Write([]byte{0, byte(e.Type() >> 24), 0})
	}
	h.Sum(sum[:0])
	return sum
}

const (
	// recordMagic begins a record; its digit is the version of the format.
	recordMagic = "HWBUILD1"
	// Bounds of a record that is kept: longer ones are not worth keeping.
	maxRecord      = 4 << 20
	maxRecordPaths = 50_000
)

// ErrRecord says that a record cannot be kept, or is not one. The way out is to
// build.
var ErrRecord = errors.New("no usable record of a build")

// Marshal writes the record in a compact form that holds its own checksum. It
// holds digests and paths, no content.
func (r Record) Marshal() ([]byte, error) {
	switch {
	case r.volatile || len(r.found) == 0 || r.Inputs == "":
		return nil, fmt.Errorf("%w: the build depends on more than the artifact", ErrRecord)
	case len(r.found) > maxRecordPaths:
		return nil, fmt.Errorf("%w: it has %d paths, at most %d", ErrRecord, len(r.found), maxRecordPaths)
	}
	out := appendText([]byte(recordMagic), r.Inputs)
	out = binary.AppendUvarint(out, uint64(len(r.found)))
	for _, key := range slices.Sorted(maps.Keys(r.found)) {
		f := r.found[key]
		out = append(appendText(out, key), f.kind)
		if f.kind == content || f.kind == nameList {
			out = append(out, f.sum[:]...)
		}
	}
	sum := sha256.Sum256(out)
	out = append(out, sum[:]...)
	if len(out) > maxRecord {
		return nil, fmt.Errorf("%w: it has %d bytes, at most %d", ErrRecord, len(out), maxRecord)
	}
	return out, nil
}

func appendText(to []byte, s string) []byte {
	return append(binary.AppendUvarint(to, uint64(len(s))), s...)
}

// UnmarshalRecord reads what Marshal wrote. Whatever else it is given, of
// another version, cut off or changed, is ErrRecord.
func UnmarshalRecord(data []byte) (Record, error) {
	n := len(data) - sha256.Size
	if len(data) > maxRecord || n < len(recordMagic) || string(data[:len(recordMagic)]) != recordMagic {
		return Record{}, ErrRecord
	}
	if sum := sha256.Sum256(data[:n]); !bytes.Equal(sum[:], data[n:]) {
		return Record{}, fmt.Errorf("%w: its checksum does not match", ErrRecord)
	}
	in := &reader{data: data[len(recordMagic):n]}
	r := newRecord()
	r.Inputs = in.text()
	count := in.number()
	if count > maxRecordPaths {
		return Record{}, ErrRecord
	}
	for range count {
		key, f := in.text(), finding{}
		f.kind = in.byte()
		if f.kind == content || f.kind == nameList {
			copy(f.sum[:], in.take(sha256.Size))
		}
		if in.failed || !valid(key, f) {
			return Record{}, ErrRecord
		}
		r.found[key] = f
	}
	if in.failed || len(in.data) > 0 || r.Inputs == "" || len(r.found) == 0 {
		return Record{}, ErrRecord
	}
	return r, nil
}

func valid(key string, f finding) bool {
	switch f.kind {
	case absent, directory, present, content:
		return key != ""
	case nameList:
		return len(key) > len(listing) && key[len(key)-len(listing):] == listing
	}
	return false
}

// reader takes a record apart; after a failure it gives zeros.
type reader struct {
	data   []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if r.failed || n < 0 || n > len(r.data) {
		r.failed = true
		return nil
	}
	out := r.data[:n]
	r.data = r.data[n:]
	return out
}

func (r *reader) number() uint64 {
	v, n := binary.Uvarint(r.data)
	if n <= 0 || v > maxRecord {
		r.failed = true
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) text() string { return string(r.take(int(r.number()))) }

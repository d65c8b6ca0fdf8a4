package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
)

// Record is what a build looked at: for each path of the artifact what it
// found there. Two artifacts that agree on a record give the same build.
type Record map[string]string

const (
	absent    = "absent"
	directory = "directory"
	present   = "present"
	// listing marks the key of a directory's list of names.
	listing = "//"
)

func (r Record) kind(rel string, info fs.FileInfo, err error) {
	if _, known := r[rel]; !known {
		r[rel] = kindOf(info, err)
	}
}

func kindOf(info fs.FileInfo, err error) string {
	switch {
	case err != nil:
		return absent
	case info.IsDir():
		return directory
	default:
		return present
	}
}

func (r Record) file(rel string, data []byte) { r[rel] = digest(data) }

func (r Record) list(rel string, entries []fs.DirEntry) {
	r[filepath.ToSlash(rel)+listing] = digestNames(entries)
}

// Same reports whether the artifact in dir agrees with the record. It reads
// only the files of the record, never builds, and says false when in doubt.
func (r Record) Same(dir string) bool {
	if len(r) == 0 {
		return false
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false
	}
	defer func() { _ = root.Close() }()
	for key, want := range r {
		if !agrees(root, key, want) {
			return false
		}
	}
	return true
}

func agrees(root *os.Root, key, want string) bool {
	if n := len(key) - len(listing); n >= 0 && key[n:] == listing {
		entries, err := list(root, key[:n])
		return err == nil && digestNames(entries) == want
	}
	info, err := root.Stat(key)
	kind := kindOf(info, err)
	if want == absent || want == directory || want == present || kind != present {
		return kind == want
	}
	data, err := root.ReadFile(key)
	return err == nil && digest(data) == want
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func digestNames(entries []fs.DirEntry) string {
	h := sha256.New()
	for _, e := range entries {
		h.Write([]byte(e.Name()))
		h.Write([]byte{0, byte(e.Type() >> 24), 0})
	}
	return hex.EncodeToString(h.Sum(nil))
}

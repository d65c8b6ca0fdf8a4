// Package memo keeps small notes about objects on disk: what a remote said
// last, and what was checked. They spare the next process a question that this
// one has asked already, and losing one costs that question and nothing else.
//
// A note is valid for exactly what it was taken from. Whoever reads it names
// that again, and gets nothing when it is something else.
package memo

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"
)

// maxNote bounds what is read of a note, in bytes.
const maxNote = 4 << 20

// Notes are the notes of one kind in a directory. It is safe for concurrent
// use, as long as an object has one writer at a time.
type Notes struct{ Dir string }

// note is what is on disk.
type note struct{ From, Text string }

func (n Notes) file(of types.NamespacedName) string {
	return filepath.Join(n.Dir, of.Namespace, of.Name+".json")
}

// Get gives the note about an object that was taken from exactly from.
func (n Notes) Get(of types.NamespacedName, from string) (text string, ok bool) {
	f, err := os.Open(n.file(of))
	if err != nil {
		return "", false
	}
	defer f.Close()
	var known note
	if json.NewDecoder(io.LimitReader(f, maxNote)).Decode(&known) != nil || known.From != from {
		return "", false
	}
	return known.Text, true
}

// Set replaces the note about an object. When the disk takes none, the old one
// is removed if that is possible: it is for another from, so it does no harm.
func (n Notes) Set(of types.NamespacedName, from, text string) {
	if known, ok := n.Get(of, from); ok && known == text {
		return
	}
	data, err := json.Marshal(note{from, text})
	if err != nil || os.MkdirAll(filepath.Dir(n.file(of)), 0o700) != nil {
		return
	}
	next := n.file(of) + ".next"
	if os.WriteFile(next, data, 0o600) != nil || os.Rename(next, n.file(of)) != nil {
		_ = os.Remove(next)
		_ = os.Remove(n.file(of))
	}
}

// Forget removes the note about an object, and the directory of its namespace
// with the last one.
func (n Notes) Forget(of types.NamespacedName) {
	if err := os.Remove(n.file(of)); errors.Is(err, fs.ErrNotExist) {
		return
	}
	_ = os.Remove(filepath.Dir(n.file(of))) // fails while others are in it
}

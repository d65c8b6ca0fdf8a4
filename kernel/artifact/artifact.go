// Package artifact keeps, packs, serves and reads artifacts: immutable files
// addressed by their digest that carry the content of a source to whoever
// applies it.
//
// A Store writes blobs by SHA-256 and publishes them under the layout that
// every Flux client knows, /<kind>/<namespace>/<name>/<file>. A Reader gives
// consumers the content of an artifact, extracted once per digest however many
// ask for it, from the store's disk when it is there and over HTTP otherwise.
// Nothing is handed out before its digest was checked.
package artifact

import (
	"errors"
	"fmt"
	"path"
	"strings"

	// The digest package only knows algorithms whose hash is linked in.
	_ "crypto/sha256"
	_ "crypto/sha512"

	"github.com/opencontainers/go-digest"
)

var (
	// ErrNotFound says that an artifact is not in the store, or that its
	// server does not have it (any more).
	ErrNotFound = errors.New("artifact not found")
	// ErrDigest says that content does not have the digest it is known by.
	ErrDigest = errors.New("digest mismatch")
	// ErrTooLarge says that an archive exceeds a limit on bytes, entries or
	// depth.
	ErrTooLarge = errors.New("archive exceeds a limit")
	// ErrAddress says that a URL leads to an address that is never asked.
	ErrAddress = errors.New("address is not asked for artifacts")
	// ErrUnsafe says that an archive holds an entry that must not be written.
	ErrUnsafe = errors.New("archive holds an unsafe entry")
)

// Key names the object that an artifact belongs to.
type Key struct {
	// Kind is the kind of the object; its case does not matter.
	Kind      string
	Namespace string
	Name      string
}

// String gives the path of the object in the layout of the store.
func (k Key) String() string {
	return path.Join(strings.ToLower(k.Kind), k.Namespace, k.Name)
}

func (k Key) validate() error {
	for _, s := range []string{k.Kind, k.Namespace, k.Name} {
		if !plainName(s) {
			return fmt.Errorf("artifact key %q: each of kind, namespace and name must be a plain name", k)
		}
	}
	if strings.EqualFold(k.Kind, blobDir) || strings.EqualFold(k.Kind, tempDir) {
		return fmt.Errorf("artifact key %q: this kind is reserved", k)
	}
	return nil
}

// plainName reports whether s can be one segment of a path.
func plainName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= 255 && !strings.ContainsAny(s, "/\\\x00")
}

func parseDigest(s string) (digest.Digest, error) {
	d, err := digest.Parse(s)
	if err != nil {
		return "", fmt.Errorf("artifact digest %q: %w", s, err)
	}
	return d, nil
}

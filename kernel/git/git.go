// Package git fetches revisions of Git repositories over HTTP(S) and SSH into
// mirrors on disk and gives their files, without a work tree and without a git
// program.
//
// It speaks Git's wire protocol, version 2 where the server does and version 0
// otherwise. A Mirror keeps what was fetched: asking for an unchanged revision
// costs one listing of the wanted references, and a new revision costs the
// objects that are new. Every object is hashed as it arrives, with detection
// of SHA-1 collision attacks.
package git

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

var (
	// ErrAuth says that the server refused the credentials, or wants some.
	ErrAuth = errors.New("authentication failed")
	// ErrHostKey says that the server's host key is not among the known hosts.
	ErrHostKey = errors.New("host key verification failed")
	// ErrRepository says that the server does not know the repository, or
	// does not let these credentials know about it.
	ErrRepository = errors.New("repository not found")
	// ErrReference says that the repository has no such reference or commit.
	ErrReference = errors.New("reference not found")
	// ErrInvalid says that something given by the user can never work.
	ErrInvalid = errors.New("invalid")
	// ErrProtocol says that the server broke the protocol or exceeded a limit.
	ErrProtocol = errors.New("bad answer from the Git server")
	// ErrDamaged says that a mirror lacks or cannot read an object; Reset it
	// and fetch again.
	ErrDamaged = errors.New("mirror is damaged")
)

// RateLimited is the error of a server that asks to come back later.
type RateLimited struct {
	// After is how long the server asked to wait; zero when it did not say.
	After time.Duration
}

func (e *RateLimited) Error() string {
	if e.After > 0 {
		return fmt.Sprintf("the Git server limits the rate of requests; it asks to wait %s", e.After)
	}
	return "the Git server limits the rate of requests"
}

// Hash is the SHA-1 name of an object.
type Hash [20]byte

// IsZero reports whether h names nothing.
func (h Hash) IsZero() bool { return h == Hash{} }

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// ParseHash parses 40 hexadecimal digits.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if len(s) != 2*len(h) {
		return h, fmt.Errorf("%w object name %.60q: want 40 hexadecimal digits", ErrInvalid, s)
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return Hash{}, fmt.Errorf("%w object name %.60q: want 40 hexadecimal digits", ErrInvalid, s)
	}
	return h, nil
}

// Ref is a reference of a remote repository.
type Ref struct {
	// Name is the full name, such as "refs/heads/main".
	Name string
	Hash Hash
	// Peeled is what an annotated tag points to; zero otherwise.
	Peeled Hash
}

// Commit gives the commit the reference leads to.
func (r Ref) Commit() Hash {
	if !r.Peeled.IsZero() {
		return r.Peeled
	}
	return r.Hash
}

// printable shortens text from a server to one harmless line.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if s = strings.TrimSpace(s); len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}

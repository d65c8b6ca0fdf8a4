package git

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/pjbgf/sha1cd"
)

// branch is an object with the deltas that are based on it.
type branch struct {
	typ  byte
	data []byte
	kids []int32
	// depth and held bound the chain: its length and the bytes in memory.
	depth int
	held  int64
	// large says that the chain is the one that may hold much.
	large bool
}

// takeChildren gives a function that hands out, once, the deltas based on the
// object at an offset or with a name.
func (x *indexer) takeChildren() func(off int64, h Hash) []int32 {
	var mu sync.Mutex
	return func(off int64, h Hash) []int32 {
		mu.Lock()
		defer mu.Unlock()
		kids := x.children[off]
		delete(x.children, off)
		if more := x.byHash[h]; len(more) > 0 {
			kids = append(kids, more...)
			delete(x.byHash, h)
		}
		return kids
	}
}

// descend names the deltas of a branch, and theirs.
func (x *indexer) descend(p *packFile, b branch, taken func(int64, Hash) []int32) error {
	if b.depth > maxChain || b.held > 2*maxObject {
		return fmt.Errorf("%w: a chain of deltas is too long or too large", ErrProtocol)
	}
	if !b.large && b.held > heavy {
		x.large.Lock()
		defer x.large.Unlock()
		b.large = true
	}
	for _, i := range b.kids {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		e := &x.entries[i]
		delta, err := readDelta(p, e.off)
		if err != nil {
			return err
		}
		data, err := applyDelta(b.data, delta)
		if err != nil {
			return fmt.Errorf("object at %d: %w", e.off, err)
		}
		sum := sha1cd.New()
		fmt.Fprintf(sum, "%s %d\x00", typeNames[b.typ], len(data))
		sum.Write(data)
		if e.hash, err = name(sum); err != nil {
			return err
		}
		e.resolved = true
		kids := taken(e.off, e.hash)
		if len(kids) == 0 {
			continue
		}
		next := branch{b.typ, data, kids, b.depth + 1, b.held + int64(len(data)), b.large}
		if err := x.descend(p, next, taken); err != nil {
			return err
		}
	}
	return nil
}

// deltaSizes reads the sizes of base and result from the start of a delta.
func deltaSizes(delta []byte) (base, result uint64, rest []byte, err error) {
	base, n := binary.Uvarint(delta)
	if n <= 0 {
		return 0, 0, nil, fmt.Errorf("%w: delta header", ErrProtocol)
	}
	result, m := binary.Uvarint(delta[n:])
	if m <= 0 {
		return 0, 0, nil, fmt.Errorf("%w: delta header", ErrProtocol)
	}
	return base, result, delta[n+m:], nil
}

// applyDelta makes an object of its base and its delta.
func applyDelta(base, delta []byte) ([]byte, error) {
	baseSize, size, delta, err := deltaSizes(delta)
	if err != nil {
		return nil, err
	}
	if baseSize != uint64(len(base)) || size > maxObject {
		return nil, fmt.Errorf("%w: delta from %d to %d bytes on a base of %d", ErrProtocol, baseSize, size, len(base))
	}
	out := make([]byte, 0, size)
	for len(delta) > 0 {
		op := delta[0]
		delta = delta[1:]
		switch {
		case op&0x80 != 0:
			off, n, used, ok := copyArgs(op, delta)
			if !ok || off+n > uint64(len(base)) || uint64(len(out))+n > size {
				return nil, fmt.Errorf("%w: delta copies out of bounds", ErrProtocol)
			}
			delta = delta[used:]
			out = append(out, base[off:off+n]...)
		case op == 0 || int(op) > len(delta) || uint64(len(out))+uint64(op) > size:
			return nil, fmt.Errorf("%w: delta inserts out of bounds", ErrProtocol)
		default:
			out = append(out, delta[:op]...)
			delta = delta[op:]
		}
	}
	if uint64(len(out)) != size {
		return nil, fmt.Errorf("%w: delta gives %d bytes instead of %d", ErrProtocol, len(out), size)
	}
	return out, nil
}

// copyArgs reads offset and length of a copy instruction.
func copyArgs(op byte, p []byte) (off, n uint64, used int, ok bool) {
	for bit := range 7 {
		if op>>bit&1 == 0 {
			continue
		}
		if used == len(p) {
			return 0, 0, 0, false
		}
		if bit < 4 {
			off |= uint64(p[used]) << (8 * bit)
		} else {
			n |= uint64(p[used]) << (8 * (bit - 4))
		}
		used++
	}
	if n == 0 {
		n = 0x10000
	}
	return off, n, used, true
}

package git

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/klauspost/compress/zlib"
	"github.com/pjbgf/sha1cd"
	"golang.org/x/sync/errgroup"
)

// What a pack may cost.
const (
	maxPackBytes = 4 << 30
	maxInflated  = 8 << 30
	maxObjects   = 1 << 20
	maxObject    = 128 << 20 // of objects that must be held in memory
	maxChain     = 4096
	// heavy is how much one chain of deltas may hold in memory beside others;
	// of those that need more one goes at a time.
	heavy = 8 << 20
)

// The types of objects in a pack.
const (
	typeCommit   = 1
	typeTree     = 2
	typeBlob     = 3
	typeTag      = 4
	typeOfsDelta = 6
	typeRefDelta = 7
)

var typeNames = [...]string{typeCommit: "commit", typeTree: "tree", typeBlob: "blob", typeTag: "tag"}

// entry is one object of a pack that is being indexed.
type entry struct {
	off      int64
	base     int64 // of a delta: offset of its base
	baseHash Hash  // of a delta: name of its base
	hash     Hash
	typ      byte
	resolved bool
}

// indexer names the objects of a pack.
type indexer struct {
	ctx      context.Context
	entries  []entry
	inflated int64
	children map[int64][]int32
	byHash   map[Hash][]int32
	// large is held by the one chain that takes much memory.
	large sync.Mutex
}

// index reads a pack from r, writes it to f and gives its index: a sorted list
// of names with offsets. Deltas may be based on objects in known.
func index(ctx context.Context, r io.Reader, f *os.File, known *objects) ([]byte, error) {
	x := &indexer{ctx: ctx, children: map[int64][]int32{}, byHash: map[Hash][]int32{}}
	out := bufio.NewWriterSize(f, 1<<20)
	if err := x.scan(io.TeeReader(r, out)); err != nil {
		return nil, err
	}
	if err := out.Flush(); err != nil {
		return nil, fmt.Errorf("write pack: %w", err)
	}
	if err := x.resolve(&packFile{f: f}, known); err != nil {
		return nil, err
	}
	slices.SortFunc(x.entries, func(a, b entry) int { return slices.Compare(a.hash[:], b.hash[:]) })
	table := make([]byte, 0, len(x.entries)*indexRow)
	for _, e := range x.entries {
		table = append(table, e.hash[:]...)
		table = binary.BigEndian.AppendUint64(table, uint64(e.off))
	}
	return table, nil
}

// counting counts what a buffered reader took.
type counting struct {
	r io.Reader
	n int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.n += int64(n); c.n > maxPackBytes {
		return n, fmt.Errorf("%w: the pack is larger than %d bytes", ErrProtocol, int64(maxPackBytes))
	}
	return n, err
}

// scan reads the pack once from its start to its end: it names the objects
// that are whole and notes which ones are deltas.
func (x *indexer) scan(r io.Reader) error {
	src := &counting{r: r}
	br := bufio.NewReaderSize(src, 64<<10)
	var head [12]byte
	if _, err := io.ReadFull(br, head[:]); err != nil {
		return unexpected(err)
	}
	version, count := binary.BigEndian.Uint32(head[4:]), binary.BigEndian.Uint32(head[8:])
	if string(head[:4]) != "PACK" || (version != 2 && version != 3) || count > maxObjects {
		return fmt.Errorf("%w: pack header with version %d and %d objects", ErrProtocol, version, count)
	}
	var zr io.ReadCloser
	sum := sha1cd.New()
	buf := make([]byte, 64<<10)
	for range count {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		e := entry{off: src.n - int64(br.Buffered())}
		size, err := e.readHeader(br)
		if err != nil {
			return err
		}
		if x.inflated += size; x.inflated > maxInflated {
			return fmt.Errorf("%w: the pack inflates to more than %d bytes", ErrProtocol, int64(maxInflated))
		}
		if zr, err = inflater(zr, br); err != nil {
			return fmt.Errorf("%w: object at %d: %w", ErrProtocol, e.off, err)
		}
		if err := x.take(&e, io.LimitReader(zr, size+1), size, sum, buf); err != nil {
			return err
		}
	}
	// The checksum of the whole; every object is checked by its own name.
	if n, err := io.Copy(io.Discard, br); err != nil || n != 20 {
		return fmt.Errorf("%w: the pack does not end where it should: %w", ErrProtocol, cmp.Or(err, io.ErrUnexpectedEOF))
	}
	return nil
}

func inflater(zr io.ReadCloser, r io.Reader) (io.ReadCloser, error) {
	if zr == nil {
		return zlib.NewReader(r)
	}
	return zr, zr.(zlib.Resetter).Reset(r, nil)
}

// take reads the content of one object and adds it.
func (x *indexer) take(e *entry, content io.Reader, size int64, sum hash.Hash, buf []byte) error {
	w := io.Discard
	whole := e.typ < typeOfsDelta
	if whole {
		sum.Reset()
		fmt.Fprintf(sum, "%s %d\x00", typeNames[e.typ], size)
		w = sum
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{content}, buf)
	if err != nil {
		return fmt.Errorf("%w: object at %d: %w", ErrProtocol, e.off, err)
	}
	if n != size {
		return fmt.Errorf("%w: object at %d does not have the size it says", ErrProtocol, e.off)
	}
	i := int32(len(x.entries))
	switch {
	case whole:
		e.resolved = true
		if e.hash, err = name(sum); err != nil {
			return err
		}
	case e.typ == typeOfsDelta:
		x.children[e.base] = append(x.children[e.base], i)
	default:
		x.byHash[e.baseHash] = append(x.byHash[e.baseHash], i)
	}
	x.entries = append(x.entries, *e)
	return nil
}

// name ends a sum; a collision attack is an error.
func name(sum hash.Hash) (Hash, error) {
	b, collision := sum.(sha1cd.CollisionResistantHash).CollisionResistantSum(nil)
	if collision {
		return Hash{}, fmt.Errorf("%w: an object is part of a SHA-1 collision attack", ErrProtocol)
	}
	return Hash(b), nil
}

// readHeader reads type, size and base of the object at e.off.
func (e *entry) readHeader(r io.ByteReader) (int64, error) {
	b, err := r.ReadByte()
	if err != nil {
		return 0, unexpected(err)
	}
	e.typ = b >> 4 & 7
	size, shift := int64(b&15), 4
	for b&0x80 != 0 {
		if b, err = r.ReadByte(); err != nil {
			return 0, unexpected(err)
		}
		if shift > 55 {
			return 0, fmt.Errorf("%w: size of the object at %d", ErrProtocol, e.off)
		}
		size |= int64(b&0x7f) << shift
		shift += 7
	}
	switch e.typ {
	case typeCommit, typeTree, typeBlob, typeTag:
		return size, nil
	case typeOfsDelta:
		return size, e.readBaseOffset(r)
	case typeRefDelta:
		for i := range e.baseHash {
			if e.baseHash[i], err = r.ReadByte(); err != nil {
				return 0, unexpected(err)
			}
		}
		return size, nil
	}
	return 0, fmt.Errorf("%w: type %d of the object at %d", ErrProtocol, e.typ, e.off)
}

func (e *entry) readBaseOffset(r io.ByteReader) error {
	distance := int64(-1)
	for range 9 {
		b, err := r.ReadByte()
		if err != nil {
			return unexpected(err)
		}
		distance = (distance+1)<<7 | int64(b&0x7f)
		if b&0x80 != 0 {
			continue
		}
		if distance <= 0 || distance >= e.off {
			break
		}
		e.base = e.off - distance
		return nil
	}
	return fmt.Errorf("%w: base of the object at %d", ErrProtocol, e.off)
}

// resolve names the deltas: from every whole object that is a base, down.
func (x *indexer) resolve(p *packFile, known *objects) error {
	if len(x.children) == 0 && len(x.byHash) == 0 {
		return nil
	}
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	taken := x.takeChildren()
	for i := range x.entries {
		e := &x.entries[i]
		if e.typ >= typeOfsDelta {
			continue
		}
		if kids := taken(e.off, e.hash); len(kids) > 0 {
			g.Go(func() error {
				typ, data, err := readAt(p, e.off)
				if err != nil {
					return err
				}
				return x.descend(p, branch{typ: typ, data: data, kids: kids, depth: 1, held: int64(len(data))}, taken)
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := x.thin(p, known, taken); err != nil {
		return err
	}
	for _, e := range x.entries {
		if !e.resolved {
			return fmt.Errorf("%w: the pack has a delta whose base is nowhere", ErrProtocol)
		}
	}
	return nil
}

// thin resolves the deltas whose bases are in other packs.
func (x *indexer) thin(p *packFile, known *objects, taken func(int64, Hash) []int32) error {
	var outside []Hash
	for h := range x.byHash {
		outside = append(outside, h)
	}
	for _, h := range outside {
		typ, data, err := known.read(h)
		if err != nil {
			continue // perhaps named by a delta that is still to come
		}
		if err := x.descend(p, branch{typ: typ, data: data, kids: taken(-1, h), depth: 1, held: int64(len(data))}, taken); err != nil {
			return err
		}
	}
	return nil
}

package git

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
)

const (
	indexRow   = 20 + 8 // name and offset
	indexMagic = "HWINDEX1"
	cacheBytes = 16 << 20
)

// packFile is a pack on disk with its index in memory.
type packFile struct {
	f     *os.File
	table []byte
	// readers are kept for the next object: each has a window of its own.
	readers sync.Pool
}

// objectReader reads one object of a pack.
type objectReader struct {
	raw *bufio.Reader
	zr  io.ReadCloser
}

// at gives a reader of the object at e.off whose header is read, with the size
// of its content. Reuse it when done, unless it is given away.
func (p *packFile) at(e *entry) (*objectReader, int64, error) {
	r, _ := p.readers.Get().(*objectReader)
	if r == nil {
		r = &objectReader{raw: bufio.NewReaderSize(nil, 8<<10)}
	}
	r.raw.Reset(io.NewSectionReader(p.f, e.off, math.MaxInt64-e.off))
	size, err := e.readHeader(r.raw)
	if err == nil {
		r.zr, err = inflater(r.zr, r.raw)
	}
	if err != nil {
		return nil, 0, damaged(err)
	}
	return r, size, nil
}

// content reads all of an object.
func (r *objectReader) content(e *entry, size int64) ([]byte, error) {
	if size > maxObject {
		return nil, fmt.Errorf("%w: an object of %d bytes is too large", ErrProtocol, size)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(r.zr, data); err != nil {
		return nil, damaged(err)
	}
	// The end of the stream carries its checksum.
	if n, err := r.zr.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: object at %d does not end", ErrDamaged, e.off)
	}
	return data, nil
}

// find gives the offset of an object.
func (p *packFile) find(h Hash) (int64, bool) {
	n := len(p.table) / indexRow
	i := sort.Search(n, func(i int) bool {
		return bytes.Compare(p.table[i*indexRow:i*indexRow+20], h[:]) >= 0
	})
	if i == n || !bytes.Equal(p.table[i*indexRow:i*indexRow+20], h[:]) {
		return 0, false
	}
	return int64(binary.BigEndian.Uint64(p.table[i*indexRow+20:])), true
}

// objects reads the objects of a mirror. It is not safe for concurrent use.
type objects struct {
	packs []*packFile // newest first
	cache map[cacheKey]cached
	held  int
}

type cacheKey struct {
	p   *packFile
	off int64
}

type cached struct {
	typ  byte
	data []byte
}

// openObjects opens the packs in dir whose index is complete.
func openObjects(dir string) (*objects, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.idx"))
	if err != nil {
		return nil, err
	}
	sort.Sort(sort.Reverse(sort.StringSlice(names)))
	o := &objects{cache: map[cacheKey]cached{}}
	for _, name := range names {
		p, err := openPack(name)
		if err != nil {
			o.close()
			return nil, err
		}
		o.packs = append(o.packs, p)
	}
	return o, nil
}

func openPack(index string) (*packFile, error) {
	table, err := os.ReadFile(index)
	if err != nil {
		return nil, err
	}
	rows, ok := bytes.CutPrefix(table, []byte(indexMagic))
	if !ok || len(rows)%indexRow != 0 {
		return nil, fmt.Errorf("%w: index %s", ErrDamaged, filepath.Base(index))
	}
	f, err := os.Open(strings.TrimSuffix(index, ".idx") + ".pack")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return &packFile{f: f, table: rows}, nil
}

func (o *objects) close() {
	for _, p := range o.packs {
		p.f.Close()
	}
}

func (o *objects) locate(h Hash) (*packFile, int64, error) {
	for _, p := range o.packs {
		if off, ok := p.find(h); ok {
			return p, off, nil
		}
	}
	return nil, 0, fmt.Errorf("%w: no object %s", ErrDamaged, h)
}

// locateBelow finds the base of a delta of p in the packs that were there
// before it. A newer pack may hold the same object as a delta of what p holds:
// looking there would go round in circles.
func (o *objects) locateBelow(p *packFile, h Hash) (*packFile, int64, error) {
	for _, older := range o.packs[slices.Index(o.packs, p)+1:] {
		if off, ok := older.find(h); ok {
			return older, off, nil
		}
	}
	return nil, 0, fmt.Errorf("%w: no base %s of a delta", ErrDamaged, h)
}

// read gives type and content of an object; the content must not be changed.
func (o *objects) read(h Hash) (byte, []byte, error) {
	p, off, err := o.locate(h)
	if err != nil {
		return 0, nil, err
	}
	return o.chain(p, off)
}

// want reads an object that must have a certain type.
func (o *objects) want(h Hash, typ byte) ([]byte, error) {
	got, data, err := o.read(h)
	if err == nil && got != typ {
		err = fmt.Errorf("%w: object %s is a %s, not a %s", ErrProtocol, h, typeNames[got], typeNames[typ])
	}
	return data, err
}

// chain reads the object at off, following deltas to their base.
func (o *objects) chain(p *packFile, off int64) (byte, []byte, error) {
	type link struct {
		key   cacheKey
		delta []byte
	}
	var links []link
	var c cached
	for {
		if len(links) > maxChain {
			return 0, nil, fmt.Errorf("%w: a chain of deltas is too long", ErrProtocol)
		}
		var ok bool
		key := cacheKey{p, off}
		if c, ok = o.cache[key]; ok {
			break
		}
		e, data, err := inflateAt(p, off)
		if err != nil {
			return 0, nil, err
		}
		if e.typ < typeOfsDelta {
			c = cached{e.typ, data}
			if len(links) > 0 {
				o.remember(key, c)
			}
			break
		}
		links = append(links, link{key, data})
		if e.typ == typeOfsDelta {
			off = e.base
			continue
		}
		if base, ok := p.find(e.baseHash); ok {
			off = base
		} else if p, off, err = o.locateBelow(p, e.baseHash); err != nil {
			return 0, nil, err
		}
	}
	for i := len(links) - 1; i >= 0; i-- {
		data, err := applyDelta(c.data, links[i].delta)
		if err != nil {
			return 0, nil, err
		}
		c = cached{c.typ, data}
		o.remember(links[i].key, c)
	}
	return c.typ, c.data, nil
}

// remember keeps what is likely the base of another object.
func (o *objects) remember(key cacheKey, c cached) {
	if len(c.data) > cacheBytes/4 {
		return
	}
	if o.held += len(c.data); o.held > cacheBytes {
		clear(o.cache)
		o.held = len(c.data)
	}
	o.cache[key] = c
}

// blob opens the content of a file: in memory when it is small or a delta, as
// a stream otherwise.
func (o *objects) blob(h Hash) (int64, func() (io.ReadCloser, error), error) {
	p, off, err := o.locate(h)
	if err != nil {
		return 0, nil, err
	}
	e := entry{off: off}
	r, size, err := p.at(&e)
	if err != nil {
		return 0, nil, err
	}
	if e.typ == typeBlob && size > 4<<20 {
		return size, func() (io.ReadCloser, error) { return r.zr, nil }, nil
	}
	defer p.readers.Put(r)
	if e.typ == typeBlob {
		data, err := r.content(&e, size)
		return size, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, err
	}
	typ, data, err := o.chain(p, off)
	if err == nil && typ != typeBlob {
		err = fmt.Errorf("%w: object %s is a %s, not a blob", ErrProtocol, h, typeNames[typ])
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	return int64(len(data)), open, err
}

// inflateAt reads header and content of the object at off.
func inflateAt(p *packFile, off int64) (entry, []byte, error) {
	e := entry{off: off}
	r, size, err := p.at(&e)
	if err != nil {
		return e, nil, err
	}
	defer p.readers.Put(r)
	data, err := r.content(&e, size)
	return e, data, err
}

// readAt reads a whole object, readDelta the instructions of one that is not.
func readAt(p *packFile, off int64) (byte, []byte, error) {
	e, data, err := inflateAt(p, off)
	return e.typ, data, err
}

func readDelta(p *packFile, off int64) ([]byte, error) {
	_, data, err := inflateAt(p, off)
	return data, err
}

func damaged(err error) error { return fmt.Errorf("%w: %w", ErrDamaged, err) }

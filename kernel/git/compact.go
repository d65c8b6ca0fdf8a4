package git

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"io"
	"os"
	"slices"

	"github.com/klauspost/compress/zlib"
)

// reachable names the objects of commits: themselves, their trees and files.
func (o *objects) reachable(commits []Hash) ([]Hash, error) {
	seen := map[Hash]bool{}
	var list []Hash
	add := func(h Hash) bool {
		fresh := !seen[h]
		if fresh {
			seen[h] = true
			list = append(list, h)
		}
		return fresh
	}
	var tree func(h Hash) error
	tree = func(h Hash) error {
		data, err := o.want(h, typeTree)
		if err != nil {
			return err
		}
		nodes, err := parseTree(data)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			if n.mode == modeRepo || !add(n.hash) || n.mode != modeDir {
				continue
			}
			if err := tree(n.hash); err != nil {
				return err
			}
		}
		return nil
	}
	for _, h := range commits {
		data, err := o.want(h, typeCommit)
		if err != nil {
			return nil, err
		}
		c, err := parseCommit(h, data)
		if err != nil {
			return nil, err
		}
		if add(h) && add(c.Tree) {
			if err := tree(c.Tree); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

// rewrite writes objects, none of them as a delta, as a new pack to f and gives
// its index.
func (o *objects) rewrite(ctx context.Context, f *os.File, hashes []Hash) ([]byte, error) {
	out := bufio.NewWriterSize(f, 1<<20)
	sum := sha1.New()
	w := io.MultiWriter(out, sum)
	head := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), uint32(len(hashes)))
	if _, err := w.Write(head); err != nil {
		return nil, err
	}
	off := int64(len(head))
	var rows [][indexRow]byte
	var buf bytes.Buffer
	zw, err := zlib.NewWriterLevel(&buf, zlib.BestSpeed)
	if err != nil {
		return nil, err
	}
	for _, h := range hashes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		typ, data, err := o.read(h)
		if err != nil {
			return nil, err
		}
		buf.Reset()
		writeHeader(&buf, typ, len(data))
		zw.Reset(&buf)
		if _, err := zw.Write(data); err != nil {
			return nil, err
		}
		if err := zw.Close(); err != nil {
			return nil, err
		}
		var row [indexRow]byte
		copy(row[:], h[:])
		binary.BigEndian.PutUint64(row[20:], uint64(off))
		rows = append(rows, row)
		off += int64(buf.Len())
		if _, err := w.Write(buf.Bytes()); err != nil {
			return nil, err
		}
	}
	if _, err := out.Write(sum.Sum(nil)); err != nil {
		return nil, err
	}
	slices.SortFunc(rows, func(a, b [indexRow]byte) int { return bytes.Compare(a[:], b[:]) })
	table := make([]byte, 0, len(rows)*indexRow)
	for _, row := range rows {
		table = append(table, row[:]...)
	}
	return table, out.Flush()
}

// writeHeader writes type and size of an object that is no delta.
func writeHeader(w *bytes.Buffer, typ byte, size int) {
	b := typ<<4 | byte(size&15)
	for size >>= 4; size > 0; size >>= 7 {
		w.WriteByte(b | 0x80)
		b = byte(size & 0x7f)
	}
	w.WriteByte(b)
}

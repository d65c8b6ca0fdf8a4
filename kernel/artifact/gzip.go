package artifact

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/flate"
)

// gzipBlock is how much of the input is compressed as one unit; output depends
// on it, not on the number of processors.
const gzipBlock = 1 << 20

// gzipWriter is a gzip compressor that works on several blocks at once and
// writes one ordinary gzip member. Equal input gives equal output.
type gzipWriter struct {
	w     io.Writer
	block []byte
	crc   uint32
	size  uint32
	queue chan chan []byte
	done  chan struct{}
	mu    sync.Mutex
	err   error
	pool  sync.Pool
}

// newGzipWriter starts a compressor; it must be closed, also after an error.
func newGzipWriter(w io.Writer) *gzipWriter {
	g := &gzipWriter{
		w:     w,
		block: make([]byte, 0, gzipBlock),
		queue: make(chan chan []byte, runtime.GOMAXPROCS(0)),
		done:  make(chan struct{}),
	}
	// ID, deflate, no flags, no time, no extra flags, unknown system.
	_, g.err = w.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff})
	go g.drain()
	return g
}

// drain writes finished blocks in the order in which they were started.
func (g *gzipWriter) drain() {
	defer close(g.done)
	for out := range g.queue {
		p := <-out
		if g.failed() != nil {
			continue
		}
		if _, err := g.w.Write(p); err != nil {
			g.fail(err)
		}
	}
}

func (g *gzipWriter) failed() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func (g *gzipWriter) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
}

// Write implements io.Writer.
func (g *gzipWriter) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		if err := g.failed(); err != nil {
			return written, err
		}
		n := min(len(p), gzipBlock-len(g.block))
		g.block = append(g.block, p[:n]...)
		p = p[n:]
		written += n
		if len(g.block) == gzipBlock {
			g.flush()
		}
	}
	return written, nil
}

// flush hands the collected block to a goroutine of its own.
func (g *gzipWriter) flush() {
	block := g.block
	g.block = make([]byte, 0, gzipBlock)
	g.crc = crc32.Update(g.crc, crc32.IEEETable, block)
	g.size += uint32(len(block))
	out := make(chan []byte, 1)
	g.queue <- out
	go func() { out <- g.deflate(block) }()
}

// deflate compresses one block so that it ends on a byte boundary.
func (g *gzipWriter) deflate(block []byte) []byte {
	var buf bytes.Buffer
	buf.Grow(len(block) / 2)
	fw, _ := g.pool.Get().(*flate.Writer)
	if fw == nil {
		var err error
		if fw, err = flate.NewWriter(&buf, flate.BestSpeed); err != nil {
			g.fail(err)
			return nil
		}
	} else {
		fw.Reset(&buf)
	}
	if _, err := fw.Write(block); err != nil {
		g.fail(err)
	}
	if err := fw.Flush(); err != nil {
		g.fail(err)
	}
	g.pool.Put(fw)
	return buf.Bytes()
}

// Close compresses the rest and ends the stream. It does not close the
// underlying writer.
func (g *gzipWriter) Close() error {
	if len(g.block) > 0 {
		g.flush()
	}
	close(g.queue)
	<-g.done
	if g.err != nil {
		return g.err
	}
	// An empty final block, then checksum and length.
	end := []byte{0x01, 0x00, 0x00, 0xff, 0xff}
	end = binary.LittleEndian.AppendUint32(end, g.crc)
	end = binary.LittleEndian.AppendUint32(end, g.size)
	_, err := g.w.Write(end)
	return err
}

package git

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// The kinds of a packet.
type packet int

const (
	pktData packet = iota
	pktFlush
	pktDelimiter
	pktEnd
)

// maxPacket is the largest packet the protocol allows, with its length.
const maxPacket = 65520

// packets reads the packets of one answer.
type packets struct {
	r    *bufio.Reader
	body io.Closer
	buf  [maxPacket]byte
}

func newPackets(r io.Reader, body io.Closer) *packets {
	return &packets{r: bufio.NewReaderSize(r, 64<<10), body: body}
}

// next gives the next packet; the data is valid until the next call. An error
// that the server sends as a packet is returned as one.
func (p *packets) next() (packet, []byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(p.r, head[:]); err != nil {
		return 0, nil, unexpected(err)
	}
	n, err := strconv.ParseUint(string(head[:]), 16, 16)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: it is not a Git server: packet length %q", ErrProtocol, printable(string(head[:])))
	}
	switch {
	case n <= 2:
		return pktFlush + packet(n), nil, nil
	case n < 4 || n > maxPacket:
		return 0, nil, fmt.Errorf("%w: packet of length %d", ErrProtocol, n)
	}
	data := p.buf[:n-4]
	if _, err := io.ReadFull(p.r, data); err != nil {
		return 0, nil, unexpected(err)
	}
	if msg, ok := bytes.CutPrefix(data, []byte("ERR ")); ok {
		return 0, nil, &serverError{printable(string(msg))}
	}
	return pktData, data, nil
}

// line gives the next packet as a line without its line break; ok is false at
// the end of a section.
func (p *packets) line() (line string, ok bool, err error) {
	kind, data, err := p.next()
	if err != nil || kind != pktData {
		return "", false, err
	}
	return string(bytes.TrimSuffix(data, []byte("\n"))), true, nil
}

func (p *packets) close() {
	if p.body != nil {
		p.body.Close()
	}
}

// serverError is what the server itself says went wrong.
type serverError struct{ message string }

func (e *serverError) Error() string { return "the Git server says: " + e.message }

func unexpected(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ended early", ErrProtocol)
	}
	return err
}

// request collects the packets of a request.
type request struct{ bytes.Buffer }

func (r *request) line(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	fmt.Fprintf(&r.Buffer, "%04x%s\n", len(s)+5, s)
}

func (r *request) flush()     { r.WriteString("0000") }
func (r *request) delimiter() { r.WriteString("0001") }

// sideband gives the pack inside an answer that also carries progress and
// errors.
type sideband struct {
	p    *packets
	rest []byte
	done bool
}

func (s *sideband) Read(b []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.done {
			return 0, io.EOF
		}
		kind, data, err := s.p.next()
		switch {
		case err != nil:
			return 0, err
		case kind != pktData:
			s.done = true
		default:
			if err := s.take(data); err != nil {
				return 0, err
			}
		}
	}
	n := copy(b, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *sideband) take(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	switch data[0] {
	case 1:
		s.rest = data[1:]
	case 2: // progress
	case 3:
		return &serverError{printable(string(data[1:]))}
	default:
		return fmt.Errorf("%w: unknown band %d", ErrProtocol, data[0])
	}
	return nil
}

package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	maxRefs   = 1 << 18
	maxShared = 16 // commits we tell the server that we have
)

// wire carries requests to upload-pack and its answers back.
type wire interface {
	// greet gives the server's first words.
	greet(ctx context.Context) (*packets, error)
	// call sends a request and gives its answer.
	call(ctx context.Context, body []byte) (*packets, error)
	close()
}

// session is one conversation with upload-pack.
type session struct {
	wire     wire
	version2 bool
	caps     map[string]string
	refs     []Ref // version 0 tells them unasked
}

func (s *session) close() { s.wire.close() }

// greet reads what the server can do, and in version 0 its references.
func (s *session) greet(ctx context.Context) error {
	p, err := s.wire.greet(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	line, ok, err := p.line()
	if err == nil && ok && strings.HasPrefix(line, "# service=") {
		if _, ok, err = p.line(); err == nil && ok {
			err = fmt.Errorf("%w: announcement does not end", ErrProtocol)
		}
		if err == nil {
			line, ok, err = p.line()
		}
	}
	if err != nil {
		return s.explain(err)
	}
	if ok && line == "version 2" {
		s.version2 = true
		return s.explain(s.readCapabilities(p))
	}
	return s.explain(s.readRefs(p, line, ok))
}

// explain lets the transport add what it knows about an error.
func (s *session) explain(err error) error {
	if err == nil {
		return nil
	}
	if w, ok := s.wire.(*sshWire); ok && errors.Is(err, ErrProtocol) {
		return w.explain(err)
	}
	var said *serverError
	if errors.As(err, &said) {
		lower := strings.ToLower(said.message)
		switch {
		case strings.Contains(lower, "not our ref"), strings.Contains(lower, "unadvertised object"):
			return fmt.Errorf("%w: %s", ErrReference, said)
		case strings.Contains(lower, "not found"), strings.Contains(lower, "not exported"):
			return fmt.Errorf("%w: %s", ErrRepository, said)
		case strings.Contains(lower, "denied"):
			return fmt.Errorf("%w: %s", ErrAuth, said)
		}
	}
	return err
}

func (s *session) readCapabilities(p *packets) error {
	s.caps = map[string]string{}
	for range 1000 {
		line, ok, err := p.line()
		if err != nil {
			return err
		}
		if !ok {
			return s.checkFormat()
		}
		name, value, _ := strings.Cut(line, "=")
		s.caps[name] = value
	}
	return fmt.Errorf("%w: too many capabilities", ErrProtocol)
}

func (s *session) checkFormat() error {
	if f := s.caps["object-format"]; f != "" && f != "sha1" {
		return fmt.Errorf("%w: the repository uses the object format %s; only sha1 is supported", ErrInvalid, printable(f))
	}
	return nil
}

// readRefs reads the references of version 0; the first line carries the
// capabilities.
func (s *session) readRefs(p *packets, line string, ok bool) error {
	s.caps = map[string]string{}
	for n := 0; ok; n++ {
		if n >= maxRefs {
			return fmt.Errorf("%w: more than %d references", ErrProtocol, maxRefs)
		}
		ref, caps, found := strings.Cut(line, "\x00")
		if found {
			for _, c := range strings.Fields(caps) {
				name, value, _ := strings.Cut(c, "=")
				s.caps[name] = value
			}
			if err := s.checkFormat(); err != nil {
				return err
			}
		}
		var err error
		if s.refs, err = addRef(s.refs, ref); err != nil {
			return err
		}
		if line, ok, err = p.line(); err != nil {
			return err
		}
	}
	return nil
}

// addRef adds a line of version 0 to refs: "<hash> <name>", where name^{} tells
// what the tag before it points to.
func addRef(refs []Ref, line string) ([]Ref, error) {
	if line == "version 1" {
		return refs, nil // and then all is as in version 0
	}
	hash, name, ok := strings.Cut(line, " ")
	if !ok {
		return nil, fmt.Errorf("%w: reference %q", ErrProtocol, printable(line))
	}
	if hash == "shallow" || name == "capabilities^{}" {
		return refs, nil
	}
	h, err := ParseHash(hash)
	if err != nil {
		return nil, fmt.Errorf("%w: reference %q", ErrProtocol, printable(line))
	}
	if tag, peeled := strings.CutSuffix(name, "^{}"); peeled {
		if n := len(refs); n > 0 && refs[n-1].Name == tag {
			refs[n-1].Peeled = h
		}
		return refs, nil
	}
	return append(refs, Ref{Name: name, Hash: h}), nil
}

// list gives the references whose names start with prefix.
func (s *session) list(ctx context.Context, prefix string) ([]Ref, error) {
	if !s.version2 {
		var refs []Ref
		for _, r := range s.refs {
			if strings.HasPrefix(r.Name, prefix) {
				refs = append(refs, r)
			}
		}
		return refs, nil
	}
	var req request
	req.line("command=ls-refs")
	req.line("agent=%s", agent)
	req.delimiter()
	req.line("peel")
	req.line("ref-prefix %s", prefix)
	req.flush()
	p, err := s.wire.call(ctx, req.Bytes())
	if err != nil {
		return nil, err
	}
	defer p.close()
	var refs []Ref
	for range maxRefs {
		line, ok, err := p.line()
		if err != nil {
			return nil, s.explain(err)
		}
		if !ok {
			return refs, nil
		}
		r, err := parseRef(line)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(r.Name, prefix) {
			refs = append(refs, r)
		}
	}
	return nil, fmt.Errorf("%w: more than %d references", ErrProtocol, maxRefs)
}

// parseRef parses a line of version 2: "<hash> <name>" and attributes.
func parseRef(line string) (Ref, error) {
	f := strings.Split(line, " ")
	if len(f) < 2 {
		return Ref{}, fmt.Errorf("%w: reference %q", ErrProtocol, printable(line))
	}
	h, err := ParseHash(f[0])
	if err != nil {
		return Ref{}, fmt.Errorf("%w: reference %q", ErrProtocol, printable(line))
	}
	r := Ref{Name: f[1], Hash: h}
	for _, attribute := range f[2:] {
		if peeled, ok := strings.CutPrefix(attribute, "peeled:"); ok {
			if r.Peeled, err = ParseHash(peeled); err != nil {
				return Ref{}, fmt.Errorf("%w: reference %q", ErrProtocol, printable(line))
			}
		}
	}
	return r, nil
}

// query says what a fetch is to bring. Without more the wanted objects come with
// their trees and, where the server can, without their history; have are commits
// that we hold in the same way.
type query struct {
	want, have []Hash
	// deep asks for the history as well; have are then commits whose history
	// is not wanted.
	deep bool
	// commits asks for commits without their trees and files, where the server
	// can leave them out.
	commits bool
}

// fetch sends a query. The pack must be read to its end.
func (s *session) fetch(ctx context.Context, q query) (io.Reader, func(), error) {
	if len(q.have) > maxShared {
		q.have = q.have[:maxShared]
	}
	req, err := s.fetchRequest(q)
	if err != nil {
		return nil, nil, err
	}
	p, err := s.wire.call(ctx, req.Bytes())
	if err != nil {
		return nil, nil, err
	}
	if s.version2 {
		err = packSection(p)
		if err != nil {
			p.close()
			return nil, nil, s.explain(err)
		}
		return &sideband{p: p}, p.close, nil
	}
	first, err := packStart(p)
	if err != nil {
		p.close()
		return nil, nil, s.explain(err)
	}
	return &sideband{p: p, rest: first}, p.close, nil
}

func (s *session) fetchRequest(q query) (*request, error) {
	var req request
	can := func(name string) bool {
		if s.version2 {
			return strings.Contains(" "+s.caps["fetch"]+" ", " "+name+" ")
		}
		_, ok := s.caps[name]
		return ok
	}
	if s.version2 {
		req.line("command=fetch")
		req.line("agent=%s", agent)
		req.delimiter()
		for _, o := range []string{"thin-pack", "ofs-delta", "no-progress"} {
			if o != "thin-pack" || !q.deep {
				req.line("%s", o)
			}
		}
		for _, h := range q.want {
			req.line("want %s", h)
		}
	} else if err := s.wants(&req, q, can); err != nil {
		return nil, err
	}
	if !q.deep && can("shallow") {
		for _, h := range q.have {
			req.line("shallow %s", h)
		}
		req.line("deepen 1")
	}
	if q.commits && can("filter") {
		req.line("filter tree:0")
	}
	if !s.version2 {
		req.flush()
	}
	for _, h := range q.have {
		req.line("have %s", h)
	}
	req.line("done")
	if s.version2 {
		req.flush()
	}
	return &req, nil
}

// wants writes the wants of version 0; the first one carries the options.
func (s *session) wants(req *request, q query, can func(string) bool) error {
	if !can("side-band-64k") {
		return fmt.Errorf("%w: it lacks the capability side-band-64k", ErrProtocol)
	}
	options := []string{"side-band-64k"}
	for _, o := range []string{"multi_ack_detailed", "thin-pack", "ofs-delta", "no-progress", "filter"} {
		if can(o) && (o != "thin-pack" || !q.deep) && (o != "filter" || q.commits) {
			options = append(options, o)
		}
	}
	options = append(options, "agent="+agent)
	for i, h := range q.want {
		if i == 0 {
			req.line("want %s %s", h, strings.Join(options, " "))
		} else {
			req.line("want %s", h)
		}
	}
	return nil
}

// packSection skips to the pack in an answer of version 2.
func packSection(p *packets) error {
	for range 1 << 20 {
		line, ok, err := p.line()
		if err != nil {
			return err
		}
		if ok && line == "packfile" {
			return nil
		}
	}
	return fmt.Errorf("%w: no pack", ErrProtocol)
}

// packStart skips to the pack in an answer of version 0 and gives its first
// bytes.
func packStart(p *packets) ([]byte, error) {
	for range 1 << 20 {
		kind, data, err := p.next()
		if err != nil {
			return nil, err
		}
		if kind != pktData || len(data) == 0 || data[0] > 3 || data[0] == 2 {
			continue // ACK, NAK, shallow, end of a section, progress
		}
		if data[0] == 3 {
			return nil, &serverError{printable(string(data[1:]))}
		}
		return data[1:], nil
	}
	return nil, fmt.Errorf("%w: no pack", ErrProtocol)
}

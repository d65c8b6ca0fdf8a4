package gitserver

import (
	"bytes"
	"io"
	"sync"
)

// Traffic is what clients did with one repository, over HTTP and SSH together.
type Traffic struct {
	// Connections counts advertisements over HTTP and sessions over SSH.
	Connections int
	// Lists counts how often refs were handed out (ls-remote, and the first step of a fetch), Fetches how often
	// objects were asked for, Pushes how often refs were to be changed.
	Lists, Fetches, Pushes int
	// Received and Sent are bytes of Git's protocol.
	Received, Sent int64
}

type counts struct {
	mu sync.Mutex
	by map[string]Traffic
}

// Traffic is what happened to a repository since the server started.
func (s *Server) Traffic(repo string) Traffic {
	s.counts.mu.Lock()
	defer s.counts.mu.Unlock()
	return s.counts.by[repo]
}

func (c *counts) change(repo string, do func(*Traffic)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[string]Traffic{}
	}
	t := c.by[repo]
	do(&t)
	c.by[repo] = t
}

// advertised notes a new conversation. Before version 2 it begins with the list of refs.
func (c *counts) advertised(p pack, version2 bool) {
	c.change(p.repo, func(t *Traffic) {
		t.Connections++
		if p.service == uploadPack && !version2 {
			t.Lists++
		}
	})
}

func (c *counts) receiving(p pack, r io.Reader) io.Reader {
	return &receiving{counts: c, pack: p, r: r}
}

func (c *counts) sending(p pack, w io.Writer) io.Writer {
	return &sending{counts: c, repo: p.repo, w: w}
}

// receiving looks at what the client sends: its commands come in pieces of their own.
type receiving struct {
	counts *counts
	pack   pack
	r      io.Reader
	named  bool // a fetch before version 2 or a push was counted; what follows is negotiation or objects
}

func (r *receiving) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	if n == 0 {
		return n, err
	}
	piece := b[:n]
	r.counts.change(r.pack.repo, func(t *Traffic) {
		t.Received += int64(n)
		switch {
		case r.pack.service == receivePack:
			if !r.named && !bytes.Equal(piece, []byte("0000")) {
				t.Pushes++
				r.named = true
			}
		case bytes.Contains(piece, []byte("command=ls-refs")):
			t.Lists++
		case bytes.Contains(piece, []byte("command=fetch")):
			t.Fetches++
			r.named = true
		case !r.named && bytes.Contains(piece, []byte("want ")):
			t.Fetches++
			r.named = true
		}
	})
	return n, err
}

type sending struct {
	counts *counts
	repo   string
	w      io.Writer
}

func (s *sending) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	s.counts.change(s.repo, func(t *Traffic) { t.Sent += int64(n) })
	return n, err
}

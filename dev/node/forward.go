package node

import (
	"errors"
	"io"
	"net"
	"sync"
)

// forwarder passes the connections of a listener on.
type forwarder struct {
	listener net.Listener
	dial     func() (net.Conn, error)
	running  sync.WaitGroup

	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
}

func forward(l net.Listener, dial func() (net.Conn, error)) *forwarder {
	f := &forwarder{listener: l, dial: dial, open: map[net.Conn]struct{}{}}
	f.running.Go(f.accept)
	return f
}

func (f *forwarder) accept() {
	for {
		in, err := f.listener.Accept()
		if err != nil {
			return // closed
		}
		f.running.Go(func() { f.pass(in) })
	}
}

// pass copies both ways until both sides have said all, or one is gone.
func (f *forwarder) pass(in net.Conn) {
	defer f.drop(in)
	if !f.keep(in) {
		return
	}
	out, err := f.dial()
	if err != nil {
		return // the caller sees its connection end, as if nobody listened
	}
	defer f.drop(out)
	if !f.keep(out) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { copyHalf(out, in) })
	both.Go(func() { copyHalf(in, out) })
	both.Wait()
}

func copyHalf(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = to.Close()
		_ = from.Close()
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // fails only when the connection is gone anyway
	}
}

func (f *forwarder) keep(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.open[c] = struct{}{}
	return true
}

func (f *forwarder) drop(c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, c)
	_ = c.Close()
}

// close ends the listener and all connections, and waits for them. A second call does nothing.
func (f *forwarder) close() error {
	err := f.listener.Close()
	f.mu.Lock()
	f.closed = true
	for c := range f.open {
		_ = c.Close()
	}
	f.mu.Unlock()
	f.running.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

package hub

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// handshakePatience bounds the time that a client may take for its handshake.
const handshakePatience = 10 * time.Second

// greeter accepts connections and shakes hands before it hands them on. Each
// handshake has a goroutine that ends with it: a server that does it in the
// goroutine of the connection keeps that one's large stack for as long as an
// agent is connected, which is most of what ten thousand agents would cost.
type greeter struct {
	net.Listener
	config *tls.Config
	ready  chan net.Conn
	failed chan error
	ctx    context.Context
	cancel context.CancelFunc
	begin  sync.Once
}

func newGreeter(l net.Listener, config *tls.Config) *greeter {
	ctx, cancel := context.WithCancel(context.Background())
	return &greeter{Listener: l, config: config, ready: make(chan net.Conn), failed: make(chan error, 1), ctx: ctx, cancel: cancel}
}

// Accept returns the next connection whose handshake is done.
func (g *greeter) Accept() (net.Conn, error) {
	g.begin.Do(func() { go g.accept() })
	select {
	case c := <-g.ready:
		return c, nil
	case err := <-g.failed:
		g.failed <- err // every later call ends as well
		return nil, err
	}
}

func (g *greeter) accept() {
	for pause := time.Duration(0); ; {
		c, err := g.Listener.Accept()
		if err == nil {
			pause = 0
			go g.greet(c)
			continue
		}
		var passing interface{ Temporary() bool }
		if t, ok := err.(net.Error); ok {
			passing, _ = t.(interface{ Temporary() bool })
		}
		if passing == nil || !passing.Temporary() || g.ctx.Err() != nil {
			g.failed <- err
			return
		}
		// Out of file descriptors, most likely: some will be given back.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		select {
		case <-time.After(pause):
		case <-g.ctx.Done():
		}
	}
}

func (g *greeter) greet(c net.Conn) {
	secured := tls.Server(c, g.config)
	ctx, cancel := context.WithTimeout(g.ctx, handshakePatience)
	defer cancel()
	if secured.HandshakeContext(ctx) != nil {
		_ = c.Close()
		return
	}
	select {
	case g.ready <- secured:
	case <-g.ctx.Done():
		_ = c.Close()
	}
}

// Close ends accepting; connections that were handed on stay.
func (g *greeter) Close() error {
	g.cancel()
	return g.Listener.Close()
}

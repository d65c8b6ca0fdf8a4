package ha

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
)

// node is a process that can be cut off.
type node interface{ PID() int }

// network carries every connection between processes, so that it can lose all
// packets from and to one of them, as a cable does that is pulled: nobody is told.
type network struct {
	mu       sync.Mutex
	nodes    []node
	isolated node
	// healed is closed and replaced when nobody is isolated any more.
	healed chan struct{}
}

func newNetwork() *network { return &network{healed: make(chan struct{})} }

func (n *network) join(o node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes = append(n.nodes, o)
}

// isolate cuts a node off; heal with nil.
func (n *network) isolate(o node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.isolated = o
	if o == nil {
		close(n.healed)
		n.healed = make(chan struct{})
	}
}

// pass returns when packets travel between the two; nil is the world outside.
func (n *network) pass(a, b node) {
	for {
		n.mu.Lock()
		cut, healed := n.isolated != nil && (n.isolated == a || n.isolated == b), n.healed
		n.mu.Unlock()
		if !cut {
			return
		}
		<-healed
	}
}

// listen opens an address that leads to where a node listens.
func (n *network) listen(t *testing.T, ip string, target func() (string, node)) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				address, to := target()
				n.carry(c, n.caller(c), address, to)
			}()
		}
	}()
	return l.Addr().String()
}

func (n *network) carry(c net.Conn, from node, address string, to node) {
	n.pass(from, to)
	far, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer far.Close()
	ended := make(chan struct{}, 2)
	move := func(to_, from_ net.Conn) {
		buffer := make([]byte, 16<<10)
		for {
			k, err := from_.Read(buffer)
			n.pass(from, to)
			if k > 0 {
				if _, err := to_.Write(buffer[:k]); err != nil {
					break
				}
			}
			if err != nil {
				break
			}
		}
		ended <- struct{}{}
	}
	go move(far, c)
	go move(c, far)
	<-ended
}

// caller finds the process at the other end of a connection; nil when it is
// none of the nodes.
func (n *network) caller(c net.Conn) node {
	inode := inodeOf(c.RemoteAddr().(*net.TCPAddr), c.LocalAddr().(*net.TCPAddr))
	if inode == "" {
		return nil
	}
	n.mu.Lock()
	nodes := n.nodes
	n.mu.Unlock()
	for _, o := range nodes {
		dir := fmt.Sprintf("/proc/%d/fd", o.PID())
		files, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, f := range files {
			if to, err := os.Readlink(dir + "/" + f.Name()); err == nil && to == "socket:["+inode+"]" {
				return o
			}
		}
	}
	return nil
}

// inodeOf looks a connection up among the kernel's.
func inodeOf(local, remote *net.TCPAddr) string {
	raw, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return ""
	}
	want := hexAddress(local) + " " + hexAddress(remote)
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) > 9 && fields[1]+" "+fields[2] == want {
			return fields[9]
		}
	}
	return ""
}

func hexAddress(a *net.TCPAddr) string {
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(a.IP.To4()), a.Port)
}

// splice joins two connections until one ends.
func splice(a, b net.Conn) {
	defer a.Close()
	defer b.Close()
	go func() { _, _ = io.Copy(a, b); a.Close(); b.Close() }()
	_, _ = io.Copy(b, a)
}

package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
)

// Published are services that programs of this machine reach at Address, as pods do.
type Published struct {
	mu       sync.Mutex
	forwards []*forwarder
}

// Publish gives this machine's loopback the address Address and forwards these ports of it to the same ports of
// 127.0.0.1. Other machines cannot connect to them. Once is enough, however many clusters there are.
func Publish(ctx context.Context, ports ...int) (*Published, error) {
	out, err := exec.CommandContext(ctx, "ip", "addr", "replace", Address+"/32", "dev", "lo").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("give the loopback the address %s: %w: %s", Address, err, strings.TrimSpace(string(out)))
	}
	p := &Published{}
	for _, port := range ports {
		if err := p.Add(ctx, port); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	return p, nil
}

// Add publishes one more port.
func (p *Published) Add(ctx context.Context, port int) error {
	l, err := listenLoopback(ctx, net.JoinHostPort(Address, strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("publish port %d: %w", port, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forwards = append(p.forwards, forward(l, dialer(local(port))))
	return nil
}

// Close takes the services back, and then does what Unpublish does. A second call does no harm.
func (p *Published) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var failed error
	for _, f := range p.forwards {
		failed = errors.Join(failed, f.close())
	}
	p.forwards = nil
	return errors.Join(failed, Unpublish())
}

// Unpublish takes Address from this machine's loopback, unless another program still listens there. It is for what is
// left when a program was killed; otherwise Close is enough.
func Unpublish() error {
	sockets, err := os.ReadFile("/proc/thread-self/net/tcp")
	if err != nil {
		return fmt.Errorf("look for listeners on %s: %w", Address, err)
	}
	if listening(string(sockets), net.ParseIP(Address)) {
		return nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("list this machine's addresses: %w", err)
	}
	for _, a := range addrs {
		if a.String() != Address+"/32" {
			continue
		}
		if out, err := exec.Command("ip", "addr", "del", Address+"/32", "dev", "lo").CombinedOutput(); err != nil {
			return fmt.Errorf("take the address %s from the loopback: %w: %s", Address, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// listening looks for a socket in state LISTEN (0A) on an address in the text of /proc/net/tcp, which shows addresses as
// numbers of this machine's byte order.
func listening(sockets string, ip net.IP) bool {
	want := fmt.Sprintf("%08X:", binary.NativeEndian.Uint32(ip.To4()))
	for line := range strings.Lines(sockets) {
		f := strings.Fields(line)
		if len(f) > 3 && strings.HasPrefix(f[1], want) && f[3] == "0A" {
			return true
		}
	}
	return false
}

package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
)

// Published are services that programs of this machine reach at Address, as pods do.
type Published struct {
	added bool

	mu       sync.Mutex
	forwards []*forwarder
}

// Publish gives this machine's loopback the address Address and forwards these ports of it to the same ports of
// 127.0.0.1. Other machines cannot connect to them. Once per machine is enough, however many clusters there are.
func Publish(ctx context.Context, ports ...int) (*Published, error) {
	out, err := exec.CommandContext(ctx, "ip", "addr", "add", Address+"/32", "dev", "lo").CombinedOutput()
	text := string(out)
	exists := strings.Contains(text, "File exists") || strings.Contains(text, "already assigned")
	if err != nil && !exists {
		return nil, fmt.Errorf("give the loopback the address %s: %w: %s", Address, err, strings.TrimSpace(text))
	}
	p := &Published{added: !exists}
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

// Close takes the services back, and the address if Publish added it.
func (p *Published) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var failed error
	for _, f := range p.forwards {
		failed = errors.Join(failed, f.close())
	}
	p.forwards = nil
	if !p.added {
		return failed
	}
	p.added = false
	if out, err := exec.Command("ip", "addr", "del", Address+"/32", "dev", "lo").CombinedOutput(); err != nil {
		failed = errors.Join(failed, fmt.Errorf("take the address %s from the loopback: %w: %s", Address, err, strings.TrimSpace(string(out))))
	}
	return failed
}

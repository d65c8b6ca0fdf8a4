package node

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// netns is a network namespace in which this process opens sockets. A socket stays in the namespace that it was made in,
// whoever uses it.
type netns struct{ file *os.File }

func openNetns(pid int) (netns, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return netns{}, fmt.Errorf("open the node's network: %w", err)
	}
	return netns{file: file}, nil
}

// do runs a function inside. The function must make its sockets on the calling goroutine: no host names, no timeouts
// that Dial serves with goroutines of its own.
func (n netns) do(inside func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("remember this machine's network: %w", err)
			return
		}
		defer home.Close()
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("enter the node's network: %w", err)
			return
		}
		err = inside()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		} // else the thread ends with this goroutine, so nothing else can run on it in the wrong place
		result <- err
	}()
	return <-result
}

func (n netns) listen(address string) (l net.Listener, err error) {
	err = n.do(func() error {
		l, err = net.Listen("tcp4", address)
		return err
	})
	return l, err
}

func (n netns) dial(address string) (c net.Conn, err error) {
	err = n.do(func() error {
		c, err = net.Dial("tcp4", address)
		return err
	})
	return c, err
}

func (n netns) close() error { return n.file.Close() }

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func dialer(address string) func() (net.Conn, error) {
	return func() (net.Conn, error) { return net.Dial("tcp4", address) }
}

// listenLoopback listens on an address of this machine for programs of this machine only: packets from other machines
// are not accepted even when they carry the address.
func listenLoopback(ctx context.Context, address string) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.BindToDevice(int(fd), "lo") })
		if err != nil {
			return err
		}
		return failed
	}}
	return lc.Listen(ctx, "tcp4", address)
}

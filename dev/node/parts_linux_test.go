package node

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheck(t *testing.T) {
	cases := map[string]struct {
		why  string
		uid  int
		lost []string
		want string
	}{
		"all there":      {"nothing is missing", 0, nil, ""},
		"not root":       {"namespaces need root", 1000, nil, "needs root"},
		"no runtime":     {"packages are named once", 0, []string{"containerd", "ctr", "runc"}, "missing containerd, ctr, runc; on Debian or Ubuntu: apt-get install --no-install-recommends containerd runc"},
		"no CNI plugins": {"plugins come in a package of another name", 0, []string{"bridge", "portmap"}, "--no-install-recommends containernetworking-plugins"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			err := check(c.uid, func(n need) bool {
				for _, l := range c.lost {
					if n.program == l {
						return false
					}
				}
				return true
			})
			if c.want == "" {
				if err != nil {
					t.Errorf("%s: %v", c.why, err)
				}
				return
			}
			if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", c.why, err, c.want)
			}
		})
	}
}

func TestHierarchies(t *testing.T) {
	got := hierarchies("9:name=systemd:/\n4:memory:/a/b\n3:cpu,cpuacct:/c:d\n0::/user.slice\n")
	want := []hierarchy{{"name=systemd", "/"}, {"memory", "/a/b"}, {"cpu,cpuacct", "/c:d"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(hierarchy{})); diff != "" {
		t.Error(diff)
	}
	if got[0].folder() != "/sys/fs/cgroup/systemd" || got[0].option() != "none,name=systemd" || got[2].option() != "cpu,cpuacct" {
		t.Errorf("folder %s, options %s and %s", got[0].folder(), got[0].option(), got[2].option())
	}
}

func TestListening(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sockets := readAll(t, "/proc/thread-self/net/tcp")
	if !listening(sockets, net.IPv4(127, 0, 0, 1)) {
		t.Error("a listener was not found")
	}
	if listening(sockets, net.IPv4(192, 0, 2, 1)) {
		t.Error("a listener was found on an address that nobody has")
	}
}

func readAll(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestForward(t *testing.T) {
	echo, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				data, _ := io.ReadAll(c) // until the client has said all
				fmt.Fprintf(c, "got %s", data)
			}()
		}
	}()
	door, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := forward(door, dialer(echo.Addr().String()))
	c, err := net.Dial("tcp4", door.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "all")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "got all" {
		t.Errorf("through the door: %q, %v", got, err)
	}
	open, err := net.Dial("tcp4", door.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := io.ReadAll(open); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("an open connection at the end: %v", err)
	}
	if _, err := net.Dial("tcp4", door.Addr().String()); err == nil {
		t.Error("the door is still open")
	}
}

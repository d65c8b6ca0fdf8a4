package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The first argument of processes that Start makes of this program.
const (
	argHold  = "node-hold"  // outside: makes cgroups and namespaces, and waits
	argInit  = "node-init"  // inside: the first process
	argEnter = "node-enter" // becomes a process inside
)

// state is what the processes of one node know of each other; its file is the only argument that they get.
type state struct {
	// Dir holds the node's files.
	Dir string `json:"dir"`
	// Node is the node's name, and the host name inside.
	Node string `json:"node"`
	// Cgroup is the name of the node's cgroups.
	Cgroup string `json:"cgroup"`
	// PID of the first process inside, as seen from outside. 0 until there is one.
	PID int `json:"pid"`
	// Cgroups are their folders, as seen from outside.
	Cgroups []string `json:"cgroups,omitempty"`
}

func (s state) path(name ...string) string { return filepath.Join(append([]string{s.Dir}, name...)...) }
func (s state) file() string               { return s.path("state.json") }

func (s state) save() error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode the node's state: %w", err)
	}
	if err := os.WriteFile(s.file()+".new", data, 0o600); err != nil {
		return fmt.Errorf("keep the node's state: %w", err)
	}
	if err := os.Rename(s.file()+".new", s.file()); err != nil {
		return fmt.Errorf("keep the node's state: %w", err)
	}
	return nil
}

func loadState(file string) (state, error) {
	var s state
	data, err := os.ReadFile(file)
	if err != nil {
		return s, fmt.Errorf("read the node's state: %w", err)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("read the node's state from %s: %w", file, err)
	}
	return s, nil
}

// Reexec must be the first call of every program that calls Start, tests included. When this process is one of those
// that Start makes of its own program, Reexec does that process's work and never returns; else it does nothing.
func Reexec() {
	if len(os.Args) < 3 {
		return
	}
	var err error
	switch os.Args[1] {
	case argHold:
		err = hold(os.Args[2])
	case argInit:
		err = initialise(os.Args[2])
	case argEnter:
		err = enter(os.Args[2], os.Args[3:])
	default:
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// hold makes the cgroups and the namespaces, and waits until their first process ends.
func hold(stateFile string) error {
	s, err := loadState(stateFile)
	if err != nil {
		return err
	}
	s.Cgroups, err = makeCgroups(s.Cgroup)
	if err != nil {
		return errors.Join(err, s.save())
	}
	if err := s.save(); err != nil { // before anything can go wrong that would need them
		return err
	}
	unlock, err := makeFolders()
	if err != nil {
		return err
	}
	defer unlock()
	if err := joinCgroups(s.Cgroups, os.Getpid()); err != nil {
		return err
	}
	runtime.LockOSThread() // the first process is to die with this thread
	cmd := exec.Command("/proc/self/exe", argInit, stateFile)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWCGROUP | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make namespaces: %w: %w", ErrUnsupported, err)
	}
	s.PID = cmd.Process.Pid
	if err := s.save(); err != nil {
		return err
	}
	if err := leaveToChild(s.Cgroups); err != nil {
		return err
	}
	return cmd.Wait()
}

// initialise is the first process inside.
func initialise(stateFile string) error {
	s, err := loadState(stateFile)
	if err != nil {
		return err
	}
	if err := mounts(s); err != nil {
		return err
	}
	if err := network(); err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte(s.Node)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := os.WriteFile(s.path("ready"), nil, 0o600); err != nil {
		return fmt.Errorf("say that the namespaces are ready: %w", err)
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	for range ended { // for ever: collect orphans
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != nil || pid <= 0 {
				break
			}
		}
	}
	return nil
}

func mounts(s state) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := mountCgroups(); err != nil {
		return err
	}
	for _, dir := range privateFolders() {
		if dir == kubeletFolder {
			continue // volumes need a disk
		}
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	if err := syscall.Mount(s.path("kubelet"), kubeletFolder, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", kubeletFolder, err)
	}
	return tunables(s)
}

// tunables gives the kubelet files of its own with the kernel settings that it wants, instead of those of the machine,
// which stay as they are.
func tunables(s state) error {
	for name, value := range map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	} {
		target := filepath.Join("/proc/sys", name)
		if _, err := os.Stat(target); err != nil {
			continue // the kubelet leaves out what the kernel does not have, too
		}
		file := s.path("sysctl", strings.ReplaceAll(name, "/", "."))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o600); err != nil {
			return fmt.Errorf("write setting %s: %w", name, err)
		}
		if err := syscall.Mount(file, target, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount setting %s: %w", name, err)
		}
	}
	return nil
}

// network makes the node's bridge and routes. There is no way out.
func network() error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join([]string{
		"link set lo up",
		"link add node0 type bridge",
		"addr add " + nodeNetwork + " dev node0",
		"link set node0 up",
		"route add " + serviceNetwork + " dev node0 src " + Address,
	}, "\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make the node's network: %w: %s", err, strings.TrimSpace(string(out)))
	}
	if err := writeFile("/proc/sys/net/ipv4/ip_forward", "1"); err != nil {
		return fmt.Errorf("let the node forward packets: %w", err)
	}
	if err := writeFile("/proc/sys/net/bridge/bridge-nf-call-iptables", "1"); err != nil {
		return fmt.Errorf("let services see bridged packets (try: modprobe br_netfilter): %w", err)
	}
	return nil
}

// enter becomes a process inside: of the network only, or of everything.
func enter(stateFile string, args []string) error {
	if len(args) < 2 {
		return errors.New("node-enter: no command")
	}
	parent := os.Getppid()
	s, err := loadState(stateFile)
	if err != nil {
		return err
	}
	if err := joinCgroups(s.Cgroups, os.Getpid()); err != nil {
		return err
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err == nil {
		limit.Cur = limit.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit) // as good as it gets
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return fmt.Errorf("enter the node: %w", err)
	}
	line := []string{nsenter, fmt.Sprintf("--target=%d", s.PID), "--net"}
	if args[0] == enterAll {
		line = append(line, "--mount", "--pid", "--cgroup", "--uts", "--ipc")
	}
	line = append(append(line, "--"), args[1:]...)
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin:/usr/bin:/bin"); err != nil {
		return fmt.Errorf("enter the node: %w", err)
	}
	// "Dies with its parent" is a property of a thread, and the thread that calls exec is the one that stays.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("tie a process of the node to its parent: %w", err)
	}
	if os.Getppid() != parent {
		return errors.New("enter the node: the program that started it is gone")
	}
	return syscall.Exec(nsenter, line, os.Environ())
}

const (
	enterNet = "net"
	enterAll = "all"
)

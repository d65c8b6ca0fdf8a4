package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	// leaf is where processes of the node are in version 2, in which a group with processes cannot divide resources.
	leaf = "headwater-init"
)

// unified reports whether the machine has cgroups of version 2 (one hierarchy) only.
func unified() bool {
	var st unix.Statfs_t
	return unix.Statfs(cgroupRoot, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// hierarchy is one hierarchy of version 1: the folder that it is mounted on and the group of a process in it.
type hierarchy struct{ mount, group string }

// hierarchies reads the content of /proc/PID/cgroup. Version 2's line has no controllers and is left out.
func hierarchies(content string) []hierarchy {
	var found []hierarchy
	for line := range strings.Lines(content) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && parts[1] != "" {
			found = append(found, hierarchy{mount: parts[1], group: parts[2]})
		}
	}
	return found
}

// folder is where the hierarchy's files are.
func (h hierarchy) folder() string {
	return filepath.Join(cgroupRoot, strings.TrimPrefix(h.mount, "name="))
}

// option is the mount option that chooses the hierarchy.
func (h hierarchy) option() string {
	if strings.HasPrefix(h.mount, "name=") {
		return "none," + h.mount
	}
	return h.mount
}

// makeCgroups makes a group of this name below the one of this process, in every hierarchy, and returns their folders.
func makeCgroups(name string) ([]string, error) {
	content, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("find this process's cgroup: %w", err)
	}
	if unified() {
		dir := filepath.Join(cgroupRoot, name)
		enable(cgroupRoot)
		return []string{dir}, os.MkdirAll(dir, 0o755)
	}
	var dirs []string
	for _, h := range hierarchies(string(content)) {
		if _, err := os.Stat(h.folder()); err != nil {
			continue // known to the kernel, mounted nowhere
		}
		parent := filepath.Join(h.folder(), h.group)
		dir := filepath.Join(parent, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return dirs, fmt.Errorf("make cgroup: %w", err)
		}
		dirs = append(dirs, dir)
		if slices.Contains(strings.Split(h.mount, ","), "cpuset") {
			if err := inheritCpuset(parent, dir); err != nil {
				return dirs, err
			}
		}
	}
	if len(dirs) == 0 {
		return nil, fmt.Errorf("make cgroup: %w: no cgroups are mounted below %s", ErrUnsupported, cgroupRoot)
	}
	return dirs, nil
}

// inheritCpuset fills a new group, which else takes no process.
func inheritCpuset(parent, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil {
			return fmt.Errorf("read the parent's %s: %w", file, err)
		}
		if err := writeFile(filepath.Join(dir, file), strings.TrimSpace(string(value))); err != nil {
			return err
		}
	}
	return writeFile(filepath.Join(dir, "cgroup.clone_children"), "1")
}

// enable hands all controllers of a version 2 group down to its children. Those that cannot be are not needed, or the
// kubelet names them.
func enable(dir string) {
	controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	for c := range strings.FieldsSeq(string(controllers)) {
		_ = writeFile(filepath.Join(dir, "cgroup.subtree_control"), "+"+c)
	}
}

// joinCgroups moves a process into the groups.
func joinCgroups(dirs []string, pid int) error {
	for _, dir := range dirs {
		if in := filepath.Join(dir, leaf); isDir(in) {
			dir = in
		}
		if err := writeFile(filepath.Join(dir, "cgroup.procs"), fmt.Sprint(pid)); err != nil {
			return err
		}
	}
	return nil
}

// mountCgroups replaces the machine's view of cgroups by the one of the cgroup namespace. It runs inside.
func mountCgroups() error {
	content, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return fmt.Errorf("find this process's cgroup: %w", err)
	}
	two := unified()
	if err := syscall.Unmount(cgroupRoot, syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", cgroupRoot, err)
	}
	if two {
		if err := syscall.Mount("cgroup2", cgroupRoot, "cgroup2", 0, ""); err != nil {
			return fmt.Errorf("mount cgroups: %w", err)
		}
		if err := os.MkdirAll(filepath.Join(cgroupRoot, leaf), 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		if err := emptyInto(cgroupRoot, filepath.Join(cgroupRoot, leaf)); err != nil {
			return err
		}
		enable(cgroupRoot)
		return nil
	}
	if err := syscall.Mount("cgroup", cgroupRoot, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", cgroupRoot, err)
	}
	for _, h := range hierarchies(string(content)) {
		if err := os.MkdirAll(h.folder(), 0o755); err != nil {
			return fmt.Errorf("mount cgroup %s: %w", h.mount, err)
		}
		if err := syscall.Mount("cgroup", h.folder(), "cgroup", 0, h.option()); err != nil {
			return fmt.Errorf("mount cgroup %s: %w", h.mount, err)
		}
	}
	return nil
}

// leaveToChild moves the holding process out of the version 2 group that is the root inside, where it would be in the
// way of dividing resources.
func leaveToChild(dirs []string) error {
	if !unified() {
		return nil
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(dir, leaf), 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	return joinCgroups(dirs, os.Getpid())
}

// emptyInto moves all processes of a group into another one, and waits for those outside the namespace to leave, which
// are listed as 0.
func emptyInto(from, to string) error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		pids, err := os.ReadFile(filepath.Join(from, "cgroup.procs"))
		if err != nil {
			return fmt.Errorf("read processes of cgroup: %w", err)
		}
		if len(strings.TrimSpace(string(pids))) == 0 {
			return nil
		}
		for pid := range strings.FieldsSeq(string(pids)) {
			if pid == "0" {
				continue
			}
			if err := writeFile(filepath.Join(to, "cgroup.procs"), pid); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cgroup %s keeps processes: %s", from, strings.TrimSpace(string(pids)))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// removeCgroups removes groups and those below them. Their processes have been killed, but may need a moment to end.
func removeCgroups(dirs []string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		var failed error
		for _, dir := range dirs {
			failed = errors.Join(failed, removeTree(dir))
		}
		if failed == nil || time.Now().After(deadline) {
			return failed
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// writeFile writes to a file of the kernel, which exists and is not to be truncated or created.
func writeFile(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("write %q: %w", value, err)
	}
	_, err = f.WriteString(value)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %q to %s: %w", value, file, err)
	}
	return nil
}

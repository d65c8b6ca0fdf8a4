package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

const (
	kubeletFolder = "/var/lib/kubelet"
	// lockFolder is where nodes of this machine say that they are there: shared lock while one runs.
	lockFolder = "/var/lib"
	// madeMark is the attribute of folders that were made for nodes and go with the last one.
	madeMark = "trusted.headwater.made"
)

// privateFolders get an empty file system inside, so that the machine's own container runtime is not disturbed.
func privateFolders() []string {
	return []string{"/run/netns", "/run/containerd", "/var/lib/cni", "/var/log/containers", kubeletFolder}
}

// makeFolders makes those private folders that the machine does not have, to mount on. They stay at least until the
// returned function is called or the process ends.
func makeFolders() (unlock func(), err error) {
	unlock, err = lockFolders(unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	for _, dir := range privateFolders() {
		if err := os.Mkdir(dir, 0o755); errors.Is(err, fs.ErrExist) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("make a folder to mount on: %w", err)
		}
		_ = unix.Setxattr(dir, madeMark, []byte("1"), 0) // else the folder stays, empty
	}
	return unlock, nil
}

// removeFolders removes the folders that makeFolders made, unless a node still runs: removing the folder below one of its
// mounts would unmount it.
func removeFolders() {
	unlock, err := lockFolders(unix.LOCK_EX | unix.LOCK_NB)
	if err != nil {
		return
	}
	defer unlock()
	for _, dir := range privateFolders() {
		var value [1]byte
		if n, err := unix.Getxattr(dir, madeMark, value[:]); err == nil && n == 1 {
			_ = os.Remove(dir) // not when somebody else put something there
		}
	}
}

func lockFolders(how int) (unlock func(), err error) {
	f, err := os.Open(lockFolder)
	if err != nil {
		return nil, fmt.Errorf("lock the folders of nodes: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the folders of nodes: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

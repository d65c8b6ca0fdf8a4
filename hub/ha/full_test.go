package ha

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"headwater.dev/client"
)

// smallDisk mounts a disk of its own for a test.
func smallDisk(t *testing.T, bytes int64) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Skipf("no disk of its own can be mounted here (root may): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// fill writes until not one byte is left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestDiskFull fills the disk of a hub at work to the last byte: every write
// that was acknowledged is kept, later ones are refused with the reason, reads go
// on, also after a kill, and writes go on by themselves once there is space.
func TestDiskFull(t *testing.T) {
	disk := smallDisk(t, 400<<20)
	d := newDrillIn(t, disk)
	d.put(t, "app", "./0")
	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast)

	acknowledged := "./0"
	eventually(t, time.Minute, func() error {
		err := d.try(t, "./"+fmt.Sprint(time.Now().UnixNano()), &acknowledged)
		if full(err) {
			return nil
		}
		return fmt.Errorf("a write on a full disk: %w, want a refusal with the reason", err)
	})
	for range 2 { // the second time it has started on a full disk
		got, err := client.Get[client.Resource[client.Configuration]](t.Context(), d.user, client.ConfigurationID(d.cluster, "app"), client.VersionConfiguration)
		if err != nil || got.Properties.Kustomizations["app"].Path != acknowledged {
			t.Errorf("the configuration is %q, want %q: %v", got.Properties.Kustomizations["app"].Path, acknowledged, err)
		}
		d.kill(t)
		d.start(t)
	}
	if err := d.try(t, "./refused", &acknowledged); err == nil {
		t.Error("a hub that starts on a full disk takes writes")
	}

	if log, err := os.ReadFile(d.hub.log); err != nil || !strings.Contains(string(log), "make space there") || strings.Count(string(log), `"msg":"hub is ready"`) != 3 {
		t.Errorf("the log does not say what to do, or the hub did not start three times in all: %v", err)
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	d.agree(t, "app", acknowledged)
	d.put(t, "app", "./last")
}

// full is a refusal with the reason.
func full(err error) bool {
	var refused *client.Error
	return errors.As(err, &refused) && strings.Contains(refused.Error(), "storage is full")
}

// try asks for a path once, and remembers what was acknowledged. Where no answer
// came in time, or none that is clear, it may have been written: the hub is asked.
func (d *drill) try(t *testing.T, path string, acknowledged *string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // the client would try again for long
	defer cancel()
	id := client.ConfigurationID(d.cluster, "app")
	_, err := client.Put[any](ctx, d.user, id, client.VersionConfiguration, configuration(path))
	written := err == nil
	if err != nil && !full(err) {
		got, err := client.Get[client.Resource[client.Configuration]](t.Context(), d.user, id, client.VersionConfiguration)
		written = err == nil && got.Properties.Kustomizations["app"].Path == path
	}
	if written {
		*acknowledged = path
	}
	return err
}

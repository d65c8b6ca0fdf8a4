package etcd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	clientv3 "go.etcd.io/etcd/client/v3"

	"headwater.dev/hub/store"
)

const (
	defaultMinFree = 128 << 20
	// lookEvery is how often the embedded member's disk is looked at, mindEvery how
	// often its quota is.
	lookEvery = time.Second
	mindEvery = 10 * time.Second
	// reclaimAt is the part of the quota at which history is given up for space.
	reclaimAt = 0.8
	// reclaimPause is between two attempts: each holds all writes up for a moment.
	reclaimPause = 5 * time.Minute
)

// space is what is known of the embedded member's disk. The zero value, of an
// external cluster, knows nothing and lets everything pass.
type space struct {
	dir     string
	minFree uint64
	quota   int64
	free    func(dir string) (uint64, error)
	low     *atomic.Bool
	// backed is the file of records as it was when all of it had blocks; keepSpace
	// alone uses it once the member runs.
	backed os.FileInfo
	// reclaimed is when space was last reclaimed; keepSpace alone uses it.
	reclaimed time.Time
}

func newSpace(c Config) space {
	s := space{dir: c.Dir, minFree: c.MinFree, quota: c.QuotaBytes, free: freeBytes, low: &atomic.Bool{}}
	if s.minFree == 0 {
		s.minFree = defaultMinFree
	}
	if s.quota == 0 {
		s.quota = defaultQuota
	}
	return s
}

// left says that the disk has too little space for a write.
func (s space) left() error {
	if s.low == nil || !s.low.Load() {
		return nil
	}
	return fmt.Errorf("%w: the disk of %s has less than %d MiB free; make space there and writes go on by themselves",
		store.ErrFull, s.dir, s.minFree>>20)
}

// freeBytes is what an unprivileged process may still write.
func freeBytes(dir string) (uint64, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("look at the disk of %s: %w", dir, err)
	}
	return fs.Bavail * uint64(fs.Bsize), nil
}

// keepSpace minds the space until ctx ends.
func (s *Store) keepSpace(ctx context.Context) {
	look, mind := time.NewTicker(lookEvery), time.NewTicker(mindEvery)
	defer look.Stop()
	defer mind.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			err = s.mindDisk()
		case <-mind.C:
			err = s.mindSpace(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Error("space of the storage not minded", "error", err)
		}
	}
}

// mindDisk stops writes before the disk is full, and lets them go on. While there
// is space, it backs the file of records.
func (s *Store) mindDisk() error {
	free, err := s.space.free(s.space.dir)
	if err != nil {
		return err
	}
	if low := free < s.space.minFree; low != s.space.low.Swap(low) {
		message := "the disk has space again: writes go on"
		if low {
			message = "the disk is nearly full and writes are refused: make space there and they go on by themselves"
		}
		s.log.Warn(message, "dir", s.space.dir, "freeMiB", free>>20, "neededMiB", s.space.minFree>>20)
	}
	if s.space.low.Load() {
		return nil
	}
	return s.space.back()
}

// back gives all of the file of records its blocks: etcd makes the file longer
// without them, and ends at once when the disk has none left for a page.
func (s *space) back() error {
	path := filepath.Join(s.dir, "member", "snap", "db")
	now, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("look at the storage: %w", err)
	}
	if s.backed != nil && os.SameFile(s.backed, now) && s.backed.Size() == now.Size() {
		return nil
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open the storage: %w", err)
	}
	defer file.Close()
	if err := fileutil.Preallocate(file, now.Size(), false); err != nil {
		return fmt.Errorf("give the storage its blocks: %w", err)
	}
	s.backed = now
	return nil
}

// mindSpace gives up history and holes before the quota is reached. Files are not rewritten earlier: their holes are used again, and
// rewriting holds everybody up.
func (s *Store) mindSpace(ctx context.Context) error {
	alarms, err := s.client().AlarmList(ctx)
	if err != nil {
		return fault(ctx, err)
	}
	backend, most := s.member.Server.Backend(), int64(reclaimAt*float64(s.space.quota))
	size, used := backend.Size(), backend.SizeInUse()
	if size < most && len(alarms.Alarms) == 0 || time.Since(s.space.reclaimed) < reclaimPause {
		return nil
	}
	s.space.reclaimed = time.Now()
	if used >= most {
		s.log.Error("the storage is nearly full of records and their recent history: delete what is not needed, or raise the quota",
			"usedMiB", used>>20, "quotaMiB", s.space.quota>>20)
	}
	_, err = s.Reclaim(ctx)
	return err
}

// Reclaim makes space: it gives up the history before now, rewrites the files of
// all members without holes, one after the other, and lets writes pass again. It
// returns how many bytes the members' files have shrunk by.
func (s *Store) Reclaim(ctx context.Context) (int64, error) {
	client := s.client()
	now, err := client.Get(ctx, s.prefix, clientv3.WithCountOnly())
	if err != nil {
		return 0, fault(ctx, err)
	}
	if _, err := client.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical()); err != nil && !errors.Is(fault(ctx, err), store.ErrCompacted) {
		return 0, fmt.Errorf("give up history: %w", fault(ctx, err))
	}
	gained, err := s.rewrite(ctx, client)
	if err != nil {
		return gained, err
	}
	if _, err := client.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
		return gained, fmt.Errorf("let writes pass again: %w", fault(ctx, err))
	}
	s.log.Info("space reclaimed", "gainedMiB", gained>>20)
	return gained, nil
}

// rewrite makes the files of all members as small as what is in them.
func (s *Store) rewrite(ctx context.Context, client *clientv3.Client) (gained int64, err error) {
	if s.member != nil {
		backend := s.member.Server.Backend()
		before := backend.Size()
		if err := backend.Defrag(); err != nil {
			return 0, fmt.Errorf("rewrite the file in %s: %w", s.space.dir, err)
		}
		return before - backend.Size(), nil
	}
	for _, endpoint := range client.Endpoints() {
		before, err := client.Status(ctx, endpoint)
		if err == nil {
			_, err = client.Defragment(ctx, endpoint)
		}
		if err != nil {
			return gained, fmt.Errorf("rewrite the file of member %s: %w", endpoint, fault(ctx, err))
		}
		after, err := client.Status(ctx, endpoint)
		if err != nil {
			return gained, fault(ctx, err)
		}
		gained += before.DbSize - after.DbSize
	}
	return gained, nil
}

// Full says, as store.ErrFull, that writes are refused for want of space.
func (s *Store) Full(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	alarms, err := s.client().AlarmList(ctx)
	if err != nil {
		return fault(ctx, err)
	}
	if len(alarms.Alarms) > 0 {
		return fmt.Errorf("%w: etcd has come to its quota; delete what is not needed, then run \"hub compact\"", store.ErrFull)
	}
	return nil
}

package git

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxPacks is how many packs a mirror collects before it is compacted.
	maxPacks = 40
	// kept is how many commits survive that, the newest first.
	kept = 4
)

// Mirrors is a directory of mirrors: one for every repository and set of
// credentials, so that content fetched with credentials is only ever given to
// who has the same ones.
type Mirrors struct {
	dir string

	mu   sync.Mutex
	open map[string]*Mirror
}

// OpenMirrors uses dir, which is created when missing.
func OpenMirrors(dir string) (*Mirrors, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open Git mirrors: %w", err)
	}
	return &Mirrors{dir: dir, open: map[string]*Mirror{}}, nil
}

// For gives the mirror of a remote.
func (m *Mirrors) For(r *Remote) *Mirror {
	identity := r.creds.identity()
	sum := sha256.Sum256(append([]byte(r.URL()+"\n"), identity[:]...))
	key := hex.EncodeToString(sum[:])
	m.mu.Lock()
	defer m.mu.Unlock()
	mirror := m.open[key]
	if mirror == nil {
		mirror = &Mirror{dir: filepath.Join(m.dir, key), lock: make(chan struct{}, 1)}
		m.open[key] = mirror
	}
	mirror.used = time.Now()
	return mirror
}

// Prune removes the mirrors that nobody asked for since the given time, those
// of earlier processes included.
func (m *Mirrors) Prune(since time.Time) error {
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return fmt.Errorf("prune Git mirrors: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range entries {
		if mirror := m.open[e.Name()]; mirror != nil && mirror.used.After(since) {
			continue
		}
		delete(m.open, e.Name())
		if err := os.RemoveAll(filepath.Join(m.dir, e.Name())); err != nil {
			return fmt.Errorf("prune Git mirrors: %w", err)
		}
	}
	return nil
}

// Mirror keeps objects of one repository on disk. It is safe for concurrent
// use.
type Mirror struct {
	dir  string
	lock chan struct{}
	used time.Time // guarded by Mirrors
}

// Update finds out what ref leads to and, unless known says that this is
// nothing new, fetches it and gives its snapshot. The snapshot is nil when the
// target is known. Errors carry their class and no credentials.
func (m *Mirror) Update(ctx context.Context, r *Remote, ref Reference, known func(Target) bool) (Target, *Snapshot, error) {
	t, s, err := m.update(ctx, r, ref, known)
	if err != nil {
		if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
			err = fmt.Errorf("%w (%w)", ctx.Err(), err)
		}
		return t, nil, r.scrub(fmt.Errorf("fetch %s: %w", r, err))
	}
	return t, s, nil
}

func (m *Mirror) update(ctx context.Context, r *Remote, ref Reference, known func(Target) bool) (Target, *Snapshot, error) {
	session, err := r.open(ctx)
	if err != nil {
		return Target{}, nil, err
	}
	defer session.close()
	t, err := session.resolve(ctx, ref)
	if err != nil || known(t) {
		return t, nil, err
	}
	select {
	case m.lock <- struct{}{}:
		defer func() { <-m.lock }()
	case <-ctx.Done():
		return t, nil, ctx.Err()
	}
	if m.has(t) {
		s, err := m.snapshot(t)
		if err == nil {
			if err = m.onBranch(ctx, r, ref, t); err == nil {
				return t, s, nil
			}
			s.Close()
		}
		if !errors.Is(err, ErrDamaged) {
			return t, nil, err
		}
		// Damaged: whatever else is there is worth nothing either.
		if err := os.RemoveAll(m.dir); err != nil {
			return t, nil, err
		}
	}
	if err := m.obtain(ctx, r, session, ref, t); err != nil {
		if errors.Is(err, ErrDamaged) {
			err = errors.Join(err, os.RemoveAll(m.dir))
		}
		return t, nil, err
	}
	s, err := m.snapshot(t)
	return t, s, err
}

// has reports whether the mirror holds what a target names, the object of an
// annotated tag included.
func (m *Mirror) has(t Target) bool {
	if _, ok := m.commits()[t.Commit]; !ok || t.Object == t.Commit {
		return ok
	}
	objs, err := openObjects(m.dir)
	if err != nil {
		return true // snapshot says what is wrong
	}
	defer objs.close()
	_, _, err = objs.locate(t.Object)
	return err == nil
}

// Reset forgets everything.
func (m *Mirror) Reset(ctx context.Context) error {
	select {
	case m.lock <- struct{}{}:
		defer func() { <-m.lock }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return os.RemoveAll(m.dir)
}

// snapshot opens a commit that the mirror has.
func (m *Mirror) snapshot(t Target) (*Snapshot, error) {
	objs, err := openObjects(m.dir)
	if err != nil {
		return nil, err
	}
	s := &Snapshot{Target: t, objs: objs}
	data, err := objs.want(t.Commit, typeCommit)
	if err == nil {
		s.Commit, err = parseCommit(t.Commit, data)
	}
	if err == nil && t.Object != t.Commit {
		s.Tag, err = objs.tag(t)
	}
	if err != nil {
		objs.close()
		return nil, err
	}
	return s, nil
}

// fetch adds a commit to the mirror.
func (m *Mirror) fetch(ctx context.Context, session *session, t Target) error {
	if err := m.tidy(ctx); err != nil {
		return err
	}
	pack, done, err := session.fetch(ctx, query{want: []Hash{t.Object}, have: m.recent()})
	if err != nil {
		return err
	}
	defer done()
	if err := m.add(ctx, pack); err != nil {
		return session.explain(err)
	}
	return m.record(t.Commit)
}

// tidy makes the directory, removes what a crash left behind, and compacts the
// packs when they became many. What cannot be compacted is fetched again.
func (m *Mirror) tidy(ctx context.Context) error {
	packs, err := filepath.Glob(filepath.Join(m.dir, "*.idx"))
	if err != nil {
		return err
	}
	if len(packs) > maxPacks {
		if err := m.compact(ctx, packs); err != nil {
			if err := errors.Join(ctx.Err(), os.RemoveAll(m.dir)); err != nil {
				return err
			}
		}
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(m.dir, "tmp-*"))
	if err != nil {
		return err
	}
	for _, name := range left {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// add indexes a pack while it arrives and keeps it.
func (m *Mirror) add(ctx context.Context, pack io.Reader) error {
	known, err := openObjects(m.dir)
	if err != nil {
		return err
	}
	defer known.close()
	f, err := os.CreateTemp(m.dir, "tmp-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	table, err := index(ctx, pack, f, known)
	if err != nil {
		return err
	}
	return m.keep(f, table)
}

// keep makes a pack of a finished file. It counts from the moment when its
// index is there. Its name comes after all others, even when the clock went
// back: the bases of its deltas are looked for in the packs before it.
func (m *Mirror) keep(f *os.File, table []byte) error {
	packs, err := filepath.Glob(filepath.Join(m.dir, "*.idx"))
	if err != nil {
		return err
	}
	at := time.Now().UnixNano()
	for _, p := range packs {
		if n, err := strconv.ParseInt(strings.TrimSuffix(filepath.Base(p), ".idx"), 10, 64); err == nil {
			at = max(at, n+1)
		}
	}
	name := filepath.Join(m.dir, fmt.Sprintf("%020d", at))
	if err := os.Rename(f.Name(), name+".pack"); err != nil {
		return err
	}
	return writeFile(name+".idx", append([]byte(indexMagic), table...))
}

// compact replaces all packs by one that holds the newest commits.
func (m *Mirror) compact(ctx context.Context, old []string) error {
	objs, err := openObjects(m.dir)
	if err != nil {
		return err
	}
	defer objs.close()
	commits := m.recent()
	commits = commits[:min(kept, len(commits))]
	hashes, err := objs.reachable(commits)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(m.dir, "tmp-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	table, err := objs.rewrite(ctx, f, hashes)
	if err != nil {
		return err
	}
	if err := m.keep(f, table); err != nil {
		return err
	}
	stored := map[string]int64{}
	all := m.commits()
	for _, h := range commits {
		stored[h.String()] = all[h]
	}
	if err := m.store(stored); err != nil {
		return err
	}
	for _, index := range old {
		if err := errors.Join(os.Remove(index), os.Remove(strings.TrimSuffix(index, ".idx")+".pack")); err != nil {
			return err
		}
	}
	return nil
}

// writeFile writes a file that is there whole or not at all.
func writeFile(name string, data []byte) error {
	temp := filepath.Join(filepath.Dir(name), "tmp-"+filepath.Base(name))
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, name)
}

// commits gives the commits that the mirror has with all their files, and when
// each was fetched.
func (m *Mirror) commits() map[Hash]int64 {
	commits := map[Hash]int64{}
	data, err := os.ReadFile(filepath.Join(m.dir, "commits"))
	if err != nil {
		return commits
	}
	var stored map[string]int64
	if json.Unmarshal(data, &stored) != nil {
		return commits // damaged: fetch again
	}
	for s, at := range stored {
		if h, err := ParseHash(s); err == nil {
			commits[h] = at
		}
	}
	return commits
}

// recent gives the commits, the newest first.
func (m *Mirror) recent() []Hash {
	commits := m.commits()
	var list []Hash
	for h := range commits {
		list = append(list, h)
	}
	sort.Slice(list, func(i, j int) bool {
		if a, b := commits[list[i]], commits[list[j]]; a != b {
			return a > b
		}
		return strings.Compare(list[i].String(), list[j].String()) < 0
	})
	return list
}

func (m *Mirror) record(h Hash) error {
	stored := map[string]int64{h.String(): time.Now().UnixNano()}
	for h, at := range m.commits() {
		if _, ok := stored[h.String()]; !ok {
			stored[h.String()] = at
		}
	}
	return m.store(stored)
}

func (m *Mirror) store(commits map[string]int64) error {
	data, err := json.Marshal(commits)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(m.dir, "commits"), data); err != nil {
		return fmt.Errorf("record commit: %w", err)
	}
	return nil
}

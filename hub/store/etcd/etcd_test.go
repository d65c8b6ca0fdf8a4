package etcd_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"headwater.dev/hub/store"
	"headwater.dev/hub/store/etcd"
	"headwater.dev/hub/store/etcdtest"
	"headwater.dev/hub/store/storetest"
)

const patience = time.Second

func open(t *testing.T, c etcd.Config) *etcd.Store {
	t.Helper()
	c.Patience = patience
	s, err := etcd.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func subject(s *etcd.Store) storetest.Subject {
	return storetest.Subject{
		Store: s,
		Compact: func(t *testing.T, revision int64) {
			t.Helper()
			if err := s.Compact(t.Context(), revision); err != nil {
				t.Fatal(err)
			}
		},
		Patience: patience,
	}
}

func TestLawsEmbedded(t *testing.T) {
	s := open(t, etcd.Config{Dir: t.TempDir()})
	defer s.Close()
	storetest.Run(t, subject(s))
}

func TestMain(m *testing.M) { etcdtest.Main(m) }

func TestLawsExternal(t *testing.T) {
	cluster := etcdtest.Start(t, etcdtest.Config{Members: 3})
	// One address: with several the store leaves a member that is slow to answer,
	// and its watches end.
	s := open(t, etcd.Config{Endpoints: cluster.Endpoints()[:1], Prefix: "/shared/by/others"})
	defer s.Close()
	storetest.Run(t, subject(s))
}

func TestExternalWithTLS(t *testing.T) {
	cluster := etcdtest.Start(t, etcdtest.Config{TLS: true})
	authority, err := os.ReadFile(cluster.CA)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(cluster.Cert, cluster.Key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	s := open(t, etcd.Config{Endpoints: cluster.Endpoints(), TLS: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}})
	defer s.Close()
	if _, err := s.Put(t.Context(), store.Put{Key: "/a", Value: json.RawMessage(`1`)}); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if s, err := etcd.Open(ctx, etcd.Config{Endpoints: cluster.Endpoints(), TLS: &tls.Config{RootCAs: pool}}); err == nil {
		s.Close()
		t.Error("a client without a certificate was let in")
	}
}

// fill writes until there is no space, and returns the keys that were written.
func fill(t *testing.T, s store.Store) []string {
	t.Helper()
	value := json.RawMessage(`"` + strings.Repeat("x", 256<<10) + `"`)
	var keys []string
	for i := range 1000 {
		key := fmt.Sprintf("/fill/%04d", i)
		_, err := s.Put(t.Context(), store.Put{Key: key, Value: value})
		if errors.Is(err, store.ErrFull) && errors.Is(err, store.ErrUnavailable) {
			return keys
		}
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	t.Fatal("the quota was never reached")
	return nil
}

// TestQuota is a storage that has come to its quota: it says so, reads and
// deletions go on, and after deletions it is mended.
func TestQuota(t *testing.T) {
	const quota = 16 << 20
	for name, start := range map[string]func(*testing.T) etcd.Config{
		"embedded": func(t *testing.T) etcd.Config { return etcd.Config{Dir: t.TempDir(), QuotaBytes: quota} },
		"external": func(t *testing.T) etcd.Config {
			return etcd.Config{Endpoints: etcdtest.Start(t, etcdtest.Config{Members: 3, Quota: quota}).Endpoints()}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, start(t))
			defer s.Close()
			keys := fill(t, s)
			if _, err := s.Get(t.Context(), keys[0]); err != nil {
				t.Errorf("a read of a full storage: %v", err)
			}
			for _, key := range keys[1:] {
				if err := s.Delete(t.Context(), key, store.AnyRevision); err != nil {
					t.Fatalf("a deletion in a full storage: %v", err)
				}
			}
			gained, err := s.Reclaim(t.Context())
			if err != nil || gained < quota/2 {
				t.Errorf("reclaimed %d bytes of %d: %v", gained, quota, err)
			}
			if _, err := s.Put(t.Context(), store.Put{Key: "/again", Value: json.RawMessage(`1`)}); err != nil {
				t.Errorf("a write after that: %v", err)
			}
			if _, err := s.Get(t.Context(), keys[0]); err != nil {
				t.Errorf("what was not deleted is gone: %v", err)
			}
		})
	}
}

// TestHistoryMakesRoom changes a few records over and over: what they were goes, and
// its space is used again, so that the file stops growing.
func TestHistoryMakesRoom(t *testing.T) {
	dir := t.TempDir()
	s := open(t, etcd.Config{Dir: dir, History: time.Second})
	defer s.Close()
	value := json.RawMessage(`"` + strings.Repeat("x", 200_000) + `"`)
	var first, written int64
	for began := time.Now(); ; {
		for i := range 10 {
			r, err := s.Put(t.Context(), store.Put{Key: fmt.Sprintf("/r%d", i), Value: value, Expect: store.AnyRevision})
			if err != nil {
				t.Fatal(err)
			}
			if first == 0 {
				first = r.Revision
			}
			written += int64(len(value))
		}
		file, err := os.Stat(filepath.Join(dir, "member", "snap", "db"))
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = s.List(t.Context(), store.List{Prefix: "/", Revision: first})
		if errors.Is(err, store.ErrCompacted) && file.Size() < written/2 {
			return
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("%d bytes were written, and the file still has %d of them; the first revision: %v", written, file.Size(), err)
		}
	}
}

// TestDiskAlmostFull refuses writes while the member can still end well.
func TestDiskAlmostFull(t *testing.T) {
	dir := t.TempDir()
	s := open(t, etcd.Config{Dir: dir})
	seen := store.Put{Key: "/seen", Part: store.Observed, Value: json.RawMessage(`1`), Expect: store.AnyRevision}
	_, err := s.Put(t.Context(), store.Put{Key: seen.Key, Value: json.RawMessage(`1`)})
	if err == nil {
		var r store.Record
		r, err = s.Put(t.Context(), seen)
		seen.Expect = r.Revision
	}
	if err = errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	s = open(t, etcd.Config{Dir: dir, MinFree: 1 << 62})
	for what, put := range map[string]store.Put{"a write": {Key: "/a", Value: json.RawMessage(`1`)}, "a report": seen} {
		if _, err := s.Put(t.Context(), put); !errors.Is(err, store.ErrFull) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s on a full disk: %v, want ErrFull that names %s", what, err, dir)
		}
	}
	if _, _, err := s.List(t.Context(), store.List{Prefix: "/"}); err != nil {
		t.Errorf("a read on a full disk: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, etcd.Config{Dir: dir})
	defer s.Close()
	if _, err := s.Put(t.Context(), store.Put{Key: "/a", Value: json.RawMessage(`1`)}); err != nil {
		t.Errorf("a write after space was made: %v", err)
	}
}

// TestMemberStopsAnswering pauses members one after the other: within seconds
// the store goes on with the others.
func TestMemberStopsAnswering(t *testing.T) {
	cluster := etcdtest.Start(t, etcdtest.Config{Members: 3})
	s := open(t, etcd.Config{Endpoints: cluster.Endpoints()})
	defer s.Close()
	for i, m := range cluster.Members {
		m.Signal(t, syscall.SIGSTOP)
		deadline := time.Now().Add(time.Minute)
		for good := 0; good < 10; {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := s.Put(ctx, store.Put{Key: "/a", Value: json.RawMessage(`1`), Expect: store.AnyRevision})
			cancel()
			if good++; err != nil {
				good = 0
			}
			if time.Now().After(deadline) {
				t.Fatalf("member %d is paused and the store has not gone on: %v", i, err)
			}
		}
		m.Signal(t, syscall.SIGCONT)
	}
}

func TestEverythingSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, etcd.Config{Dir: dir})
	var last store.Record
	for _, v := range []string{`{"n":1}`, `{"n":2}`} {
		var err error
		last, err = s.Put(t.Context(), store.Put{Key: "/a", Value: json.RawMessage(v), Expect: store.AnyRevision, TTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
	}
	events, err := s.Watch(t.Context(), "/", last.Revision)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if e := <-events; !errors.Is(e.Err, store.ErrUnavailable) {
		t.Errorf("the watch of a closed store ended with %+v", e)
	}
	if _, err := s.Get(t.Context(), "/a"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("get from a closed store: %v", err)
	}

	s = open(t, etcd.Config{Dir: dir})
	defer s.Close()
	got, err := s.Get(t.Context(), "/a")
	if err != nil || got.Revision != last.Revision || got.Generation != 2 || string(got.Desired) != `{"n":2}` {
		t.Errorf("after the restart: %+v, %v; want %+v", got, err, last)
	}
	if _, err := s.Watch(t.Context(), "/", last.Revision); err != nil {
		t.Errorf("a watch cannot resume after the restart: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for why, c := range map[string]etcd.Config{
		"neither directory nor endpoints": {},
		"both":                            {Dir: t.TempDir(), Endpoints: []string{"http://127.0.0.1:1"}},
		"a directory that cannot be":      {Dir: "/dev/null/x"},
	} {
		if s, err := etcd.Open(t.Context(), c); err == nil {
			s.Close()
			t.Errorf("%s: opened", why)
		}
	}
}

// TestARestoreThatWasCutOff leaves what a killed restore leaves, and restores: a
// directory that is not whole must never be taken for a storage.
func TestARestoreThatWasCutOff(t *testing.T) {
	dir := t.TempDir()
	s := open(t, etcd.Config{Dir: filepath.Join(dir, "first")})
	if _, err := s.Put(t.Context(), store.Put{Key: "/a", Value: json.RawMessage(`1`)}); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(dir, "backup")
	f, err := os.Create(backup)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Snapshot(t.Context(), f), f.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	place := filepath.Join(dir, "second")
	rest := filepath.Join(place+".partial", "member", "snap")
	if err := os.MkdirAll(rest, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rest, "db"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := etcd.Restore(backup, place, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(place + ".partial"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what the first try left is still there: %v", err)
	}
	again := open(t, etcd.Config{Dir: place})
	defer again.Close()
	if r, err := again.Get(t.Context(), "/a"); err != nil || string(r.Desired) != "1" {
		t.Errorf("after the restore: %+v %v", r, err)
	}
}

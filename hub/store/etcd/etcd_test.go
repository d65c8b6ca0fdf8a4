package etcd_test

import (
	"encoding/json"
	"errors"
	"net"
	"net/url"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"headwater.dev/hub/store"
	"headwater.dev/hub/store/etcd"
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

func TestLawsExternal(t *testing.T) {
	s := open(t, etcd.Config{Endpoints: []string{server(t)}, Prefix: "/shared/by/others"})
	defer s.Close()
	storetest.Run(t, subject(s))
}

// server is an etcd that is reached over the network.
func server(t *testing.T) string {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel = t.TempDir(), "error"
	client, peer := free(t), free(t)
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	select {
	case <-e.Server.ReadyNotify():
	case <-time.After(time.Minute):
		t.Fatal("etcd did not start within a minute")
	}
	return client.String()
}

func free(t *testing.T) url.URL {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return url.URL{Scheme: "http", Host: l.Addr().String()}
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

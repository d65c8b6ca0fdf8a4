package auth_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"headwater.dev/hub/auth"
	"headwater.dev/hub/store"
	"headwater.dev/hub/store/memory"
)

// early is a store that a replica looks into before any other has written.
type early struct {
	store.Store
	looked bool
}

func (e *early) Get(ctx context.Context, key string) (store.Record, error) {
	if !e.looked {
		e.looked = true
		return store.Record{}, store.ErrNotFound
	}
	return e.Store.Get(ctx, key)
}

// TestReplicasThatStartTogetherMakeOneAdministrator starts two hubs with
// directories of their own over one empty store.
func TestReplicasThatStartTogetherMakeOneAdministrator(t *testing.T) {
	s, one, two := memory.New(), t.TempDir(), t.TempDir()
	open := func(s store.Store, dir string) *auth.Auth {
		a, err := auth.New(t.Context(), auth.Config{Store: s, Dir: dir, ExternalURL: "https://hub.example"})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	first, second := open(s, one), open(&early{Store: s}, two)
	if first.TenantID() != second.TenantID() || first.SubscriptionID() != second.SubscriptionID() {
		t.Error("the two are not one directory")
	}
	all, err := first.Principals(t.Context())
	if err != nil || len(all) != 1 || all[0].ClientID != readAdmin(t, one).ClientID {
		t.Errorf("administrators: %+v %v", all, err)
	}
	assignments := 0
	if err := first.Assignments(t.Context(), func(auth.Assignment) error { assignments++; return nil }); err != nil || assignments != 1 {
		t.Errorf("%d assignments, %v", assignments, err)
	}
	if _, err := os.Stat(filepath.Join(two, "admin.json")); !os.IsNotExist(err) {
		t.Errorf("credentials that open nothing are kept: %v", err)
	}
	// With one directory for both, both have made the same one.
	s, one = memory.New(), t.TempDir()
	open(s, one)
	open(&early{Store: s}, one)
	if all, err := open(s, one).Principals(t.Context()); err != nil || len(all) != 1 || all[0].ClientID != readAdmin(t, one).ClientID {
		t.Errorf("administrators of one directory: %+v %v", all, err)
	}
}

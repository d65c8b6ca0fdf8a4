package vault_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"github.com/google/go-cmp/cmp"
	"gocloud.dev/secrets"

	"headwater.dev/hub/store"
	"headwater.dev/hub/store/etcd"
	"headwater.dev/hub/store/memory"
	"headwater.dev/hub/vault"
)

const id = "/subscriptions/s/resourcegroups/rg/providers/microsoft.kubernetes/connectedclusters/c/providers/microsoft.kubernetesconfiguration/fluxconfigurations/cfg"

func newKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func open(t *testing.T, c vault.Config) *vault.Vault {
	t.Helper()
	if c.KeyFile == "" && len(c.KeeperURLs) == 0 {
		c.KeyFile = filepath.Join(t.TempDir(), "vault.key")
	}
	v, err := vault.New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func keep(t *testing.T, v *vault.Vault, values map[string]string, recipient *rsa.PublicKey) string {
	t.Helper()
	version, err := v.Keep(t.Context(), id, values, recipient)
	if err != nil {
		t.Fatal(err)
	}
	return version
}

// unseal opens an age file as an agent does.
func unseal(t *testing.T, sealed []byte, key *rsa.PrivateKey) map[string]string {
	t.Helper()
	identity, err := agessh.NewRSAIdentity(key)
	if err != nil {
		t.Fatal(err)
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), identity)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]string
	if err := json.Unmarshal(plain, &values); err != nil {
		t.Fatal(err)
	}
	return values
}

func TestRelease(t *testing.T) {
	key, other := newKey(t), newKey(t)
	want := map[string]string{"httpsKey": "c2VjcmV0", "empty": ""}
	cases := map[string]struct {
		why         string
		kept, asked *rsa.PublicKey
		err         error
	}{
		"sealed at the door":          {"the key was known", &key.PublicKey, &key.PublicKey, nil},
		"sealed at release":           {"the key came later", nil, &key.PublicKey, nil},
		"the cluster has another key": {"only the old key opens it", &other.PublicKey, &key.PublicKey, vault.ErrOtherKey},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			v := open(t, vault.Config{Store: memory.New()})
			version := keep(t, v, want, c.kept)
			sealed, err := v.Release(t.Context(), id, version, c.asked)
			if !errors.Is(err, c.err) {
				t.Fatalf("%s: got error %v, want %v", c.why, err, c.err)
			}
			if err != nil {
				return
			}
			if d := cmp.Diff(want, unseal(t, sealed, key)); d != "" {
				t.Errorf("%s (-want +got):\n%s", c.why, d)
			}
		})
	}
}

func TestReleaseRefuses(t *testing.T) {
	key := newKey(t)
	v := open(t, vault.Config{Store: memory.New()})
	version := keep(t, v, map[string]string{"k": "v"}, nil)
	for why, ask := range map[string][2]string{
		"unknown version":  {id, "00000000-0000-0000-0000-000000000000"},
		"no version":       {id, ""},
		"another resource": {id + "2", version},
		"a trick":          {id, "../" + strings.ToUpper(version)},
	} {
		if _, err := v.Release(t.Context(), ask[0], ask[1], &key.PublicKey); !errors.Is(err, vault.ErrGone) {
			t.Errorf("%s: %v", why, err)
		}
	}
	if _, err := v.Release(t.Context(), id, version, nil); err == nil {
		t.Error("released without a recipient")
	}
	big := map[string]string{"k": strings.Repeat("x", vault.MaxBytes)}
	if _, err := v.Keep(t.Context(), id, big, nil); !errors.Is(err, vault.ErrTooLarge) {
		t.Errorf("kept too much: %v", err)
	}
}

func TestAnEntryMovedInTheStoreDoesNotOpen(t *testing.T) {
	key := newKey(t)
	s := memory.New()
	v := open(t, vault.Config{Store: s})
	version := keep(t, v, map[string]string{"k": "v"}, nil)
	r, err := s.Get(t.Context(), "/vault"+id+"/versions/"+version)
	if err != nil {
		t.Fatal(err)
	}
	thief := strings.Replace(id, "/c/", "/mine/", 1)
	if _, err := s.Put(t.Context(), store.Put{Key: "/vault" + thief + "/versions/" + version, Value: r.Desired}); err != nil {
		t.Fatal(err)
	}
	if sealed, err := v.Release(t.Context(), thief, version, &key.PublicKey); err == nil {
		t.Errorf("another cluster got %d bytes", len(sealed))
	}
}

func TestForget(t *testing.T) {
	key := newKey(t)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	clock := func() time.Time { now = now.Add(time.Second); return now }
	s := memory.New()
	v := open(t, vault.Config{Store: s, Clock: clock})
	versions := []string{}
	for _, value := range []string{"1", "2", "3"} {
		versions = append(versions, keep(t, v, map[string]string{"k": value}, nil))
	}
	kept := func() (out []bool) {
		for _, version := range versions {
			_, err := v.Release(t.Context(), id, version, &key.PublicKey)
			out = append(out, err == nil)
		}
		return out
	}
	check := func(why string, err error, want ...bool) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", why, err)
		}
		if d := cmp.Diff(want, kept()); d != "" {
			t.Errorf("%s (-want +got):\n%s", why, d)
		}
	}
	check("nothing forgotten", nil, true, true, true)
	check("the second was acknowledged", v.Forget(t.Context(), id, versions[1]), false, false, true)
	check("again", v.Forget(t.Context(), id, versions[1]), false, false, true)
	check("a nonsense version", v.Forget(t.Context(), id, "X"), false, false, true)
	_, ended, err := s.List(t.Context(), store.List{Prefix: "/vault/"})
	if err != nil {
		t.Fatal(err)
	}
	versions = append(versions, keep(t, v, map[string]string{"k": "a successor's"}, nil))
	check("the resource is gone", v.ForgetUntil(t.Context(), id, "", ended.Revision), false, false, false, true)
	check("the successor, wrapped anew, is gone", v.ForgetUntil(t.Context(), id, versions[3], ended.Revision), false, false, false, false)
}

// TestAcknowledgedByReplicasWhoseClocksDiffer acknowledges a version that a replica
// with a fast clock has kept; what was kept after it must stay.
func TestAcknowledgedByReplicasWhoseClocksDiffer(t *testing.T) {
	s, file, key := memory.New(), filepath.Join(t.TempDir(), "vault.key"), newKey(t)
	slow := open(t, vault.Config{Store: s, KeyFile: file})
	fast := open(t, vault.Config{Store: s, KeyFile: file, Clock: func() time.Time { return time.Now().Add(5 * time.Second) }})
	first := keep(t, fast, map[string]string{"k": "1"}, &key.PublicKey)
	second := keep(t, slow, map[string]string{"k": "2"}, &key.PublicKey)
	if err := slow.Forget(t.Context(), id, first); err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Release(t.Context(), id, first, &key.PublicKey); !errors.Is(err, vault.ErrGone) {
		t.Errorf("what was acknowledged: %v", err)
	}
	if _, err := slow.Release(t.Context(), id, second, &key.PublicKey); err != nil {
		t.Errorf("what was kept after it: %v", err)
	}
	if err := fast.Forget(t.Context(), id, second); err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Release(t.Context(), id, second, &key.PublicKey); !errors.Is(err, vault.ErrGone) {
		t.Errorf("what was acknowledged last: %v", err)
	}
}

func TestGoneAfter48Hours(t *testing.T) {
	key := newKey(t)
	file := filepath.Join(t.TempDir(), "vault.key")
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		v := open(t, vault.Config{Store: s, KeyFile: file})
		version := keep(t, v, map[string]string{"k": "v"}, &key.PublicKey)
		time.Sleep(48*time.Hour - time.Nanosecond)
		if _, err := v.Release(t.Context(), id, version, &key.PublicKey); err != nil {
			t.Errorf("a nanosecond before its end: %v", err)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if _, err := v.Release(t.Context(), id, version, &key.PublicKey); !errors.Is(err, vault.ErrGone) {
			t.Errorf("at its end: %v", err)
		}
		records, _, err := s.List(t.Context(), store.List{Prefix: "/vault/"})
		if err != nil || len(records) != 0 {
			t.Errorf("the store still holds %d entries (%v)", len(records), err)
		}
	})
}

func TestGoneEvenWhenTheStoreStillHasIt(t *testing.T) {
	key := newKey(t)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	v := open(t, vault.Config{Store: memory.New(), Clock: func() time.Time { return now }})
	version := keep(t, v, map[string]string{"k": "v"}, nil)
	now = now.Add(vault.Life)
	if _, err := v.Release(t.Context(), id, version, &key.PublicKey); !errors.Is(err, vault.ErrGone) {
		t.Errorf("released after its time: %v", err)
	}
}

func TestKeyFile(t *testing.T) {
	key := newKey(t)
	s, file := memory.New(), filepath.Join(t.TempDir(), "keys", "vault.key")
	v := open(t, vault.Config{Store: s, KeyFile: file})
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("key file: %v, %v", info, err)
	}
	version, digest := keep(t, v, map[string]string{"k": "v"}, nil), v.Digest(id, map[string]string{"k": "v"})

	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	fresh := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# rotated\n" + fresh + "\n" + string(old))
	v = open(t, vault.Config{Store: s, KeyFile: file})
	if _, err := v.Release(t.Context(), id, version, &key.PublicKey); err != nil {
		t.Errorf("an entry of the old key: %v", err)
	}
	write(fresh)
	v = open(t, vault.Config{Store: s, KeyFile: file})
	if v.Digest(id, map[string]string{"k": "v"}) != digest {
		t.Error("the digest changed with a proper rotation")
	}
	if _, err := v.Release(t.Context(), id, version, &key.PublicKey); err == nil {
		t.Error("opened without its key")
	}
	for why, content := range map[string]string{"no key": "\n", "not base64": "!!!", "short": "AAAA"} {
		write(content)
		if _, err := vault.New(t.Context(), vault.Config{Store: s, KeyFile: file}); err == nil {
			t.Errorf("%s: opened", why)
		}
	}
}

// TestRotation is a new key beside the old one: nothing is ever out of reach, and
// after a look at the file the old key is not needed any more.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := newKey(t)
		s, file := memory.New(), filepath.Join(t.TempDir(), "vault.key")
		v := open(t, vault.Config{Store: s, KeyFile: file})
		version := keep(t, v, map[string]string{"k": "v"}, &cluster.PublicKey)
		digest := v.Digest(id, map[string]string{"k": "v"})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- v.Run(ctx) }()
		synctest.Wait()

		old, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		fresh := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)) + "\n"
		if err := os.WriteFile(file, []byte("!!!"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // simulated
		if _, err := v.Release(t.Context(), id, version, &cluster.PublicKey); err != nil {
			t.Errorf("with a damaged file: %v", err)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if _, err := v.Release(t.Context(), id, version, &cluster.PublicKey); err != nil {
			t.Errorf("with the file gone: %v", err)
		}
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a running vault made itself another key: %v", err)
		}
		if err := os.WriteFile(file, []byte(fresh+string(old)), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if err := os.WriteFile(file, []byte(fresh), 0o600); err != nil {
			t.Fatal(err)
		}
		other := open(t, vault.Config{Store: s, KeyFile: file}) // a replica without the old key
		sealed, err := other.Release(t.Context(), id, version, &cluster.PublicKey)
		if err != nil || unseal(t, sealed, cluster)["k"] != "v" {
			t.Errorf("without the old key: %v", err)
		}
		if other.Digest(id, map[string]string{"k": "v"}) != digest {
			t.Error("the digest changed with the rotation")
		}
		time.Sleep(vault.Life - 4*time.Minute)
		if _, err := other.Release(t.Context(), id, version, &cluster.PublicKey); err != nil {
			t.Errorf("shortly before its end: %v", err)
		}
		time.Sleep(3 * time.Minute)
		if _, err := other.Release(t.Context(), id, version, &cluster.PublicKey); !errors.Is(err, vault.ErrGone) {
			t.Errorf("wrapping anew made its life longer: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestFromFileToKeyService takes over what the file's key has wrapped.
func TestFromFileToKeyService(t *testing.T) {
	cluster := newKey(t)
	s, file := memory.New(), filepath.Join(t.TempDir(), "vault.key")
	version := keep(t, open(t, vault.Config{Store: s, KeyFile: file}), map[string]string{"k": "v"}, nil)
	service := []string{"base64key://" + base64.URLEncoding.EncodeToString(bytes.Repeat([]byte{9}, 32))}
	both := open(t, vault.Config{Store: s, KeyFile: file, KeeperURLs: service})
	if n, err := both.Rewrap(t.Context()); err != nil || n != 1 {
		t.Errorf("wrapped %d entries anew: %v", n, err)
	}
	alone := open(t, vault.Config{Store: s, KeeperURLs: service})
	if _, err := alone.Release(t.Context(), id, version, &cluster.PublicKey); err != nil {
		t.Errorf("without the file: %v", err)
	}
}

func TestKeyServicesHaveDrivers(t *testing.T) {
	for _, scheme := range []string{"awskms", "azurekeyvault", "gcpkms", "hashivault", "base64key"} {
		if !secrets.DefaultURLMux().ValidKeeperScheme(scheme) {
			t.Errorf("no driver for %s", scheme)
		}
	}
}

func TestKeeperURL(t *testing.T) {
	_, err := vault.New(t.Context(), vault.Config{Store: memory.New(), KeeperURLs: []string{"nokms://host/canary-in-url"}})
	if err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("a URL without a driver: %v", err)
	}
	v := open(t, vault.Config{Store: memory.New(), KeeperURLs: []string{"base64key://" + base64.URLEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))}})
	keep(t, v, map[string]string{"k": "v"}, nil)
}

func TestDigest(t *testing.T) {
	a, b := open(t, vault.Config{Store: memory.New()}), open(t, vault.Config{Store: memory.New()})
	one := a.Digest(id, map[string]string{"a": "1", "b": "2"})
	if again := a.Digest(id, map[string]string{"b": "2", "a": "1"}); again != one {
		t.Errorf("the same settings: %s and %s", one, again)
	}
	for why, other := range map[string]string{
		"another hub":      b.Digest(id, map[string]string{"a": "1", "b": "2"}),
		"another resource": a.Digest(id+"x", map[string]string{"a": "1", "b": "2"}),
		"another value":    a.Digest(id, map[string]string{"a": "1", "b": "3"}),
		"shifted":          a.Digest(id, map[string]string{"a": "1b2"}),
	} {
		if other == one || other == "" {
			t.Errorf("%s: the digest is the same or empty", why)
		}
	}
	if a.Digest(id, nil) != "" || a.Digest(id, map[string]string{}) != "" {
		t.Error("no settings have a digest")
	}
}

func TestParsePublicKey(t *testing.T) {
	key := newKey(t)
	der := x509.MarshalPKCS1PublicKey(&key.PublicKey)
	got, err := vault.ParsePublicKey(base64.StdEncoding.EncodeToString(der) + "\n")
	if err != nil || !got.Equal(&key.PublicKey) {
		t.Errorf("a good key: %v", err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	for why, in := range map[string]string{
		"empty":      "",
		"not base64": "!",
		"not DER":    "AAAA",
		"weak":       base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&weak.PublicKey)),
	} {
		if _, err := vault.ParsePublicKey(in); err == nil {
			t.Errorf("%s: accepted", why)
		}
	}
}

// TestCanary looks for a protected value in everything that the hub leaves on
// the disk and in its log.
func TestCanary(t *testing.T) {
	const canary = "canary-7d1f0c52-plaintext"
	encoded := base64.StdEncoding.EncodeToString([]byte(canary))
	dir, key := t.TempDir(), newKey(t)
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, err := etcd.Open(t.Context(), etcd.Config{Dir: filepath.Join(dir, "etcd"), Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	v := open(t, vault.Config{Store: s, KeyFile: filepath.Join(dir, "vault.key"), Logger: logger})
	for _, recipient := range []*rsa.PublicKey{nil, &key.PublicKey} {
		version := keep(t, v, map[string]string{"sshPrivateKey": canary, "httpsKey": encoded}, recipient)
		sealed, err := v.Release(t.Context(), id, version, &key.PublicKey)
		if err != nil || unseal(t, sealed, key)["sshPrivateKey"] != canary {
			t.Fatalf("the canary did not come back: %v", err)
		}
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := v.Keep(cancelled, id, map[string]string{"k": canary}, recipient); err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("error of a failed write: %v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files := 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files++
		for _, form := range []string{canary, encoded, base64.StdEncoding.EncodeToString([]byte(encoded))} {
			if bytes.Contains(data, []byte(form)) {
				t.Errorf("%s holds the canary", path)
			}
		}
		return err
	})
	if err != nil || files < 3 {
		t.Errorf("looked into %d files: %v", files, err)
	}
	if strings.Contains(log.String(), canary) || strings.Contains(log.String(), encoded) {
		t.Error("the log holds the canary")
	}
}

// TestFormerKeysAreNotCalledNeedless wraps anew while one of two former keys
// cannot be used.
func TestFormerKeysAreNotCalledNeedless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, file := memory.New(), filepath.Join(t.TempDir(), "vault.key")
		line := func(b byte) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32)) + "\n" }
		for _, keys := range []string{line(1), line(2)} {
			if err := os.WriteFile(file, []byte(keys), 0o600); err != nil {
				t.Fatal(err)
			}
			keep(t, open(t, vault.Config{Store: s, KeyFile: file}), map[string]string{"k": "v"}, nil)
		}
		if err := os.WriteFile(file, []byte(line(3)+line(2)), 0o600); err != nil { // the first is away
			t.Fatal(err)
		}
		var log bytes.Buffer
		v := open(t, vault.Config{Store: s, KeyFile: file, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- v.Run(ctx) }()
		time.Sleep(11 * time.Minute) // simulated
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if said := log.String(); strings.Contains(said, "can be dropped") || strings.Count(said, "none of the keys opens some entries") != 3 {
			t.Errorf("the log: %s", said)
		}
	})
}

package vault_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gocloud.dev/secrets/localsecrets"

	"headwater.dev/hub/store"
	"headwater.dev/hub/store/memory"
	"headwater.dev/hub/vault"
)

// dataKey is the most that a key service is given: RSA-OAEP-256 with 2048 bits, as
// Azure's vaults do it, takes 190 bytes, AWS 4096.
const dataKey = 32

// keyServices is a counterpart of AWS KMS and of Vault's transit engine: it has
// keys by name, encrypts with them, and lets nobody in without credentials.
type keyServices struct {
	mu   sync.Mutex
	away bool
	used map[string]int
	most int // the longest plaintext that it was given
}

func (s *keyServices) cipher(name string) cipher.AEAD {
	key := sha256.Sum256([]byte(name))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	sealer, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return sealer
}

func (s *keyServices) encrypt(name string, plain []byte) []byte {
	s.used["encrypt "+name]++
	s.most = max(s.most, len(plain))
	return s.cipher(name).Seal([]byte(name+"\n"), nil, plain, nil)
}

func (s *keyServices) decrypt(blob []byte) (name string, plain []byte, err error) {
	first, rest, ok := bytes.Cut(blob, []byte("\n"))
	if !ok {
		return "", nil, fmt.Errorf("no ciphertext of this service")
	}
	s.used["decrypt "+string(first)]++
	plain, err = s.cipher(string(first)).Open(nil, nil, rest, nil)
	return string(first), plain, err
}

func (s *keyServices) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var in struct {
		KeyID                     string `json:"KeyId"`
		Plaintext, CiphertextBlob []byte
		Text                      string `json:"ciphertext"`
	}
	if s.away || json.NewDecoder(r.Body).Decode(&in) != nil {
		http.Error(w, "away", http.StatusBadRequest)
		return
	}
	answer := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	target := r.Header.Get("X-Amz-Target")
	switch path, key := r.URL.Path, filepath.Base(r.URL.Path); {
	case target != "" && !strings.Contains(r.Header.Get("Authorization"), "Credential=hub-id/") || target != "" && !strings.Contains(r.Header.Get("Authorization"), "/eu-west-1/kms/aws4_request"):
		w.WriteHeader(http.StatusForbidden)
	case target == "TrentService.Encrypt":
		answer(map[string]any{"KeyId": in.KeyID, "CiphertextBlob": s.encrypt(in.KeyID, in.Plaintext)})
	case target == "TrentService.Decrypt":
		name, plain, err := s.decrypt(in.CiphertextBlob)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			answer(map[string]any{"__type": "InvalidCiphertextException"})
			return
		}
		answer(map[string]any{"KeyId": name, "Plaintext": plain})
	case r.Header.Get("X-Vault-Token") != "hub-token":
		w.WriteHeader(http.StatusForbidden)
	case strings.HasPrefix(path, "/v1/transit/encrypt/"):
		answer(map[string]any{"data": map[string]any{"ciphertext": "vault:v1:" + base64.StdEncoding.EncodeToString(s.encrypt(key, in.Plaintext))}})
	case strings.HasPrefix(path, "/v1/transit/decrypt/"):
		blob, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(in.Text, "vault:v1:"))
		name, plain, err := s.decrypt(blob)
		if err != nil || name != key {
			http.Error(w, `{"errors":["cannot decrypt"]}`, http.StatusBadRequest)
			return
		}
		answer(map[string]any{"data": map[string]any{"plaintext": plain}})
	default:
		http.NotFound(w, r)
	}
}

// TestKeyServices runs the drivers for AWS KMS and Vault against a counterpart,
// moves from the file to the one and on to the other without a moment in which
// something does not open, and shows that a service sees data keys alone, however
// long the settings are.
func TestKeyServices(t *testing.T) {
	s := &keyServices{used: map[string]int{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "hub-id", "AWS_SECRET_ACCESS_KEY": "hub-secret", "AWS_EC2_METADATA_DISABLED": "true",
		"VAULT_SERVER_URL": server.URL, "VAULT_SERVER_TOKEN": "hub-token"} {
		t.Setenv(name, value)
	}
	aws, transit := "awskms:///alias/hub?region=eu-west-1&endpoint="+server.URL, "hashivault://hub"
	records, file, cluster := memory.New(), filepath.Join(t.TempDir(), "vault.key"), newKey(t)
	long := map[string]string{"sshPrivateKey": strings.Repeat("long enough for no key service ", 1000)}
	version := keep(t, open(t, vault.Config{Store: records, KeyFile: file}), long, &cluster.PublicKey)

	former := vault.Config{Store: records, KeyFile: file}
	for _, step := range []struct {
		why  string
		both vault.Config
		then vault.Config
		key  string
	}{
		{"from the file to AWS", vault.Config{Store: records, KeyFile: file, KeeperURLs: []string{aws}}, vault.Config{Store: records, KeeperURLs: []string{aws}}, "alias/hub"},
		{"from AWS to Vault", vault.Config{Store: records, KeeperURLs: []string{transit, aws}}, vault.Config{Store: records, KeeperURLs: []string{transit}}, "hub"},
	} {
		both := open(t, step.both)
		check := func(when string, v *vault.Vault) {
			t.Helper()
			sealed, err := v.Release(t.Context(), id, version, &cluster.PublicKey)
			if err != nil {
				t.Fatalf("%s, %s: %v", step.why, when, err)
			}
			if got := unseal(t, sealed, cluster); got["sshPrivateKey"] != long["sshPrivateKey"] {
				t.Errorf("%s, %s: other settings", step.why, when)
			}
		}
		check("before it is wrapped anew", both)
		if n, err := both.Rewrap(t.Context()); err != nil || n != 1 {
			t.Errorf("%s: wrapped %d entries anew: %v", step.why, n, err)
		}
		check("by a replica with both keys", both)
		check("without the former key", open(t, step.then))
		if _, err := open(t, former).Release(t.Context(), id, version, &cluster.PublicKey); err == nil {
			t.Errorf("%s: the former key still opens it", step.why)
		}
		if err := vault.Try(t.Context(), step.then); err != nil {
			t.Errorf("%s: hub check says: %v", step.why, err)
		}
		if s.used["encrypt "+step.key] == 0 || s.used["decrypt "+step.key] == 0 {
			t.Errorf("%s: the service was asked %v", step.why, s.used)
		}
		// The former keys made a digest key of their own again; nobody minds.
		former = step.then
	}
	if s.most > dataKey {
		t.Errorf("a service was given %d bytes, want at most a data key", s.most)
	}
	s.mu.Lock()
	s.away = true
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := vault.Try(ctx, former); err == nil || strings.Contains(err.Error(), "hub-token") {
		t.Errorf("a key service that is away: %v", err)
	}
}

// TestEnvelopesOfEarlierHubs opens what was wrapped as a whole, and makes
// envelopes of it.
func TestEnvelopesOfEarlierHubs(t *testing.T) {
	cluster, records := newKey(t), memory.New()
	file := filepath.Join(t.TempDir(), "vault.key")
	v := open(t, vault.Config{Store: records, KeyFile: file})
	line, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	key, err := localsecrets.Base64KeyStd(strings.TrimSpace(string(line)))
	if err != nil {
		t.Fatal(err)
	}
	version := keep(t, v, map[string]string{"k": "v"}, nil)
	var entries []store.Record
	if _, err := store.Each(t.Context(), records, "/vault/", func(r store.Record) error { entries = append(entries, r); return nil }); err != nil || len(entries) != 1 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	var e map[string]json.RawMessage
	if err := json.Unmarshal(entries[0].Desired, &e); err != nil {
		t.Fatal(err)
	}
	content := fmt.Sprintf(`{"id":%q,"version":%q,"values":{"k":"v"}}`, id, version)
	whole, err := localsecrets.NewKeeper(key).Encrypt(t.Context(), []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	if e["box"], err = json.Marshal(whole); err != nil {
		t.Fatal(err)
	}
	value, err := json.Marshal(e)
	if err == nil {
		_, err = records.Put(t.Context(), store.Put{Key: entries[0].Key, Value: value, Expect: store.AnyRevision, TTL: time.Hour})
	}
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := v.Release(t.Context(), id, version, &cluster.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if got := unseal(t, sealed, cluster); got["k"] != "v" {
		t.Errorf("opened %v", got)
	}
}

package verify

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// repository writes a TUF repository that hands out a trusted root, and gives
// the root that clients begin with.
func repository(t *testing.T, dir string, trusted []byte) []byte {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	soon := time.Now().Add(time.Hour).UTC()
	target := filepath.Join(dir, "trusted_root.json")
	check(os.WriteFile(target, trusted, 0o600))
	info, err := metadata.TargetFile().FromFile(target, "sha256")
	check(err)
	targets, snapshot, stamp, first := metadata.Targets(soon), metadata.Snapshot(soon), metadata.Timestamp(soon), metadata.Root(soon)
	targets.Signed.Targets["trusted_root.json"] = info
	_, private, err := ed25519.GenerateKey(nil)
	check(err)
	key, err := metadata.KeyFromPublicKey(private.Public())
	check(err)
	for _, role := range []string{"root", "targets", "snapshot", "timestamp"} {
		check(first.Signed.AddKey(key, role))
	}
	signer, err := signature.LoadSigner(private, crypto.Hash(0))
	check(err)
	_, err = targets.Sign(signer)
	check(err)
	_, err = snapshot.Sign(signer)
	check(err)
	_, err = stamp.Sign(signer)
	check(err)
	_, err = first.Sign(signer)
	check(err)
	check(targets.ToFile(filepath.Join(dir, "1.targets.json"), false))
	check(snapshot.ToFile(filepath.Join(dir, "1.snapshot.json"), false))
	check(stamp.ToFile(filepath.Join(dir, "timestamp.json"), false))
	check(first.ToFile(filepath.Join(dir, "1.root.json"), false))
	sum := sha256.Sum256(trusted)
	check(os.MkdirAll(filepath.Join(dir, "targets"), 0o700))
	check(os.WriteFile(filepath.Join(dir, "targets", hex.EncodeToString(sum[:])+".trusted_root.json"), trusted, 0o600))
	data, err := os.ReadFile(filepath.Join(dir, "1.root.json"))
	check(err)
	return data
}

// TestInstanceByTUF takes the trusted root from a TUF repository, and refuses
// one that was tampered with.
func TestInstanceByTUF(t *testing.T) {
	vs, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	first := repository(t, dir, rootOf(t, vs, nil))
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		http.FileServer(http.Dir(dir)).ServeHTTP(w, r)
	}))
	defer server.Close()
	i := &Instance{Mirror: server.URL, Root: first, Dir: t.TempDir()}
	trusted, err := i.Trusted(t.Context())
	if err != nil || len(trusted.FulcioCertificateAuthorities()) != 1 {
		t.Fatalf("%v, %v", trusted, err)
	}
	before := asked
	if _, err := i.Trusted(t.Context()); err != nil || asked != before {
		t.Errorf("asked again: %d, %v", asked-before, err)
	}
	// What was fetched serves a signature.
	s := newShop(t)
	d := s.artifact("a", "1")
	s.pushSimple(d, keylessLayer(t, vs, simplePayload(d)))
	c, err := NewKeyless(trusted, []Identity{{Issuer: ".*", Subject: "^ci@example.com$"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Verify(t.Context(), s.repo, d); err != nil {
		t.Error(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "targets", "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	other, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], rootOf(t, other, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	tampered := &Instance{Mirror: server.URL, Root: first, Dir: t.TempDir()}
	if _, err := tampered.Trusted(t.Context()); err == nil {
		t.Error("a trusted root that was exchanged was accepted")
	}
}

// TestInstanceUnreachable shows that a repository which does not answer is
// asked once, and holds nobody longer than they want to wait.
func TestInstanceUnreachable(t *testing.T) {
	release, asked := make(chan struct{}), 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		<-release
		w.WriteHeader(http.StatusNotFound)
	}))
	defer server.Close()
	first := repository(t, t.TempDir(), []byte("{}"))
	i := &Instance{Mirror: server.URL, Root: first, Dir: t.TempDir()}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := i.Trusted(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	close(release)
	_, err := i.Trusted(t.Context())
	if err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	before := asked
	if _, again := i.Trusted(t.Context()); again == nil || asked != before {
		t.Errorf("asked again at once: %v", again)
	}
}

func TestInstanceFromFile(t *testing.T) {
	vs, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "trusted_root.json")
	i := &Instance{File: file}
	if _, err := i.Trusted(t.Context()); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("missing file: %v", err)
	}
	if err := os.WriteFile(file, rootOf(t, vs, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	i = &Instance{File: file}
	if trusted, err := i.Trusted(t.Context()); err != nil || len(trusted.RekorLogs()) != 1 {
		t.Errorf("%v, %v", trusted, err)
	}
}

// TestRevocationAddresses shows where the revocation of a certificate is never
// asked for.
func TestRevocationAddresses(t *testing.T) {
	for address, ok := range map[string]bool{
		"93.184.216.34:80": true, "10.0.0.1:80": true, "127.0.0.1:80": false, "[::1]:80": false, "169.254.169.254:80": false, "[fe80::1]:80": false, "0.0.0.0:80": false,
	} {
		if err := refuseLocal("tcp", address, nil); (err == nil) != ok {
			t.Errorf("%s: %v", address, fmt.Sprint(err))
		}
	}
}

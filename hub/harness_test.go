package hub

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
	"headwater.dev/hub/auth"
)

// running is a whole hub with embedded etcd, on a port of its own.
type running struct {
	*Hub
	dir   string
	admin auth.Admin
	http  *http.Client
	stop  func() error
}

func run(t *testing.T, c Config) *running {
	t.Helper()
	if c.DataDir == "" {
		c.DataDir = t.TempDir()
	}
	h, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	r := &running{Hub: h, dir: c.DataDir}
	r.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("the hub ended with: %v", err)
		}
	})
	raw, err := os.ReadFile(filepath.Join(c.DataDir, "admin.json"))
	if err == nil {
		err = json.Unmarshal(raw, &r.admin)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.http = trusting(t, filepath.Join(c.DataDir, "ca.crt"))
	return r
}

// trusting is a client that trusts an authority and nobody else.
func trusting(t *testing.T, file string) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("%s holds no certificate", file)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// fake is an agent that speaks the real protocol with a real key and accepts
// everything at once.
type fake struct {
	hub      *running
	cluster  string
	key      *rsa.PrivateKey
	session  string
	token    string
	sequence int64
	now      func() time.Time // time.Now when nil

	mu      sync.Mutex
	secrets map[string]string // what it was given, by resource name and setting
}

func newFake(t *testing.T, r *running, cluster string) *fake {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return &fake{hub: r, cluster: cluster, key: key, session: uuid.NewString(), secrets: map[string]string{}}
}

func (f *fake) certificate() string {
	return base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&f.key.PublicKey))
}

func (f *fake) secret(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.secrets[name]
}

// run works until the test ends, or until what it returns is called.
func (f *fake) run(t *testing.T) func() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.loop(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func (f *fake) loop(ctx context.Context) error {
	var revision int64
	err := patiently(ctx, func() error { return f.login(ctx) })
	for err == nil {
		err = patiently(ctx, func() error {
			desired, err := f.desired(ctx, revision)
			if err != nil || desired == nil {
				return err
			}
			if err := f.accept(ctx, desired.Items); err != nil {
				return err
			}
			revision = desired.Revision
			return nil
		})
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// unavailable is an answer that asks to come again: a member of etcd that died
// with the request under way is one reason.
type unavailable struct{ error }

// patiently repeats what is answered with "come again", as the agent does.
func patiently(ctx context.Context, do func() error) error {
	for {
		err := do()
		if !errors.As(err, new(unavailable)) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (f *fake) login(ctx context.Context) error {
	now := time.Now()
	if f.now != nil {
		now = f.now()
	}
	assertion, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{Issuer: f.cluster, Subject: f.cluster, ID: uuid.NewString(),
		Audience: jwt.ClaimStrings{f.hub.URL() + link.PathToken}, IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(time.Minute))}).SignedString(f.key)
	if err != nil {
		return err
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_assertion_type": {link.ClientAssertionType}, "client_assertion": {assertion}}
	var token link.Token
	err = f.call(ctx, http.MethodPost, link.PathToken, "application/x-www-form-urlencoded", strings.NewReader(form.Encode()), &token)
	f.token = token.AccessToken
	return err
}

func (f *fake) call(ctx context.Context, method, path, contentType string, body io.Reader, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, f.hub.URL()+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", contentType)
	if f.token != "" {
		req.Header.Set("Authorization", "Bearer "+f.token)
	}
	resp, err := f.hub.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if resp.StatusCode != http.StatusOK {
		err := fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, raw)
		if resp.StatusCode == http.StatusServiceUnavailable {
			return unavailable{err}
		}
		return err
	}
	return json.Unmarshal(raw, into)
}

func (f *fake) desired(ctx context.Context, revision int64) (*link.Desired, error) {
	var m link.Message
	path := link.PathDesired + "?stream=false&wait=20s&revision=" + strconv.FormatInt(revision, 10)
	return m.Desired, errors.Join(f.call(ctx, http.MethodGet, path, "application/json", nil, &m))
}

func (f *fake) accept(ctx context.Context, items []link.Item) error {
	f.sequence++
	report := link.Report{Session: f.session, Sequence: f.sequence, Heartbeat: &link.Heartbeat{AgentVersion: "1.2.3", TotalNodeCount: 1}}
	now := time.Now().UTC()
	for _, item := range items {
		o := link.Observed{ID: item.ID, Generation: item.Generation, ProtectedVersion: item.ProtectedVersion, Deleted: item.Delete}
		if len(item.Sealed) > 0 {
			if err := f.unseal(item); err != nil {
				return err
			}
		}
		switch {
		case item.Delete:
		case item.Extension != nil:
			o.Extension = &resource.ExtensionObserved{AcceptedGeneration: item.Generation, AcceptedAt: now, CurrentVersion: "1.2.3"}
		case item.Configuration != nil:
			o.Configuration = &resource.FluxConfigurationObserved{AcceptedGeneration: item.Generation, AcceptedAt: now, StatusGeneration: item.Generation,
				ComplianceState: resource.Compliant, SourceSyncedCommitID: "main@sha1:4711", StatusUpdatedAt: &now}
		}
		report.Items = append(report.Items, o)
	}
	raw, err := json.Marshal(report)
	if err != nil {
		return err
	}
	var nothing struct{}
	return f.call(ctx, http.MethodPost, link.PathObserved, "application/json", bytes.NewReader(raw), &nothing)
}

func (f *fake) unseal(item link.Item) error {
	identity, err := agessh.NewRSAIdentity(f.key)
	if err != nil {
		return err
	}
	plain, err := age.Decrypt(bytes.NewReader(item.Sealed), identity)
	if err != nil {
		return err
	}
	var values map[string]string
	if err := json.NewDecoder(plain).Decode(&values); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, v := range values {
		f.secrets[item.Name+"/"+k] = v
	}
	return nil
}

package azcli

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"headwater.dev/api/link"
	"headwater.dev/api/resource"
)

// agent speaks the agents' protocol with a real key and does all that it is
// asked at once; there is no cluster behind it.
type agent struct {
	hub      *hub
	http     *http.Client
	cluster  string
	key      *rsa.PrivateKey
	token    string
	session  string
	sequence int64
}

func newAgent(t *testing.T, h *hub, cluster string) *agent {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(filepath.Join(h.dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}, Timeout: time.Minute}
	return &agent{hub: h, http: client, cluster: cluster, key: key, session: uuid.NewString()}
}

func (a *agent) certificate() string {
	return base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(&a.key.PublicKey))
}

// run works until the test ends.
func (a *agent) run(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.loop(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && ctx.Err() == nil {
			t.Errorf("agent: %v", err)
		}
	})
}

func (a *agent) loop(ctx context.Context) error {
	now := time.Now()
	assertion, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{Issuer: a.cluster, Subject: a.cluster, ID: uuid.NewString(),
		Audience: jwt.ClaimStrings{a.hub.url + link.PathToken}, IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(time.Minute))}).SignedString(a.key)
	if err != nil {
		return err
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_assertion_type": {link.ClientAssertionType}, "client_assertion": {assertion}}
	var token link.Token
	if err := a.call(ctx, http.MethodPost, link.PathToken, "application/x-www-form-urlencoded", []byte(form.Encode()), &token); err != nil {
		return err
	}
	a.token = token.AccessToken
	for revision := int64(0); ; {
		var m link.Message
		path := link.PathDesired + "?stream=false&wait=20s&revision=" + strconv.FormatInt(revision, 10)
		if err := a.call(ctx, http.MethodGet, path, "application/json", nil, &m); err != nil {
			return err
		}
		if m.Desired == nil {
			continue
		}
		revision = m.Desired.Revision
		if err := a.accept(ctx, m.Desired.Items); err != nil {
			return err
		}
	}
}

func (a *agent) accept(ctx context.Context, items []link.Item) error {
	a.sequence++
	now := time.Now().UTC()
	report := link.Report{Session: a.session, Sequence: a.sequence, Heartbeat: &link.Heartbeat{AgentVersion: "1.2.3", TotalNodeCount: 1}}
	for _, item := range items {
		o := link.Observed{ID: item.ID, Generation: item.Generation, ProtectedVersion: item.ProtectedVersion, Deleted: item.Delete}
		switch {
		case item.Delete:
		case item.Extension != nil:
			o.Extension = &resource.ExtensionObserved{AcceptedGeneration: item.Generation, AcceptedAt: now, CurrentVersion: "1.2.3"}
		case item.Configuration != nil:
			o.Configuration = &resource.FluxConfigurationObserved{AcceptedGeneration: item.Generation, AcceptedAt: now, StatusGeneration: item.Generation,
				ComplianceState: resource.Compliant, SourceSyncedCommitID: "main@sha1:4711", StatusUpdatedAt: &now, LastHandledReconcileAt: item.ReconcileRequestedAt}
		}
		report.Items = append(report.Items, o)
	}
	raw, err := json.Marshal(report)
	if err != nil {
		return err
	}
	var nothing struct{}
	return a.call(ctx, http.MethodPost, link.PathObserved, "application/json", raw, &nothing)
}

func (a *agent) call(ctx context.Context, method, path, contentType string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, a.hub.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", contentType)
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode == http.StatusNoContent {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, strings.SplitN(path, "?", 2)[0], resp.Status, raw)
	}
	return json.Unmarshal(raw, into)
}

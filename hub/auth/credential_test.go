package auth_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"headwater.dev/hub/auth"
)

// login asks for a token and answers the status and the error's text.
func (d *directory) login(t *testing.T, edits ...string) (int, string) {
	t.Helper()
	status, _, body := d.post(t, "/"+d.admin.TenantID+"/oauth2/v2.0/token", d.form(edits...), nil)
	text, _ := body["error_description"].(string)
	return status, text
}

func TestSecretsRotateAndExpire(t *testing.T) {
	d := newDirectory(t)
	p, first, err := d.CreatePrincipal(t.Context(), "pipeline", 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	added, second, err := d.AddSecret(t.Context(), p.ID, "next", d.clock.Now().Add(48*time.Hour))
	if err != nil || added.Hint != second[:3] {
		t.Fatalf("%+v %v", added, err)
	}
	for _, secret := range []string{first, second} {
		if status, text := d.login(t, "client_id", p.ID, "client_secret", secret); status != http.StatusOK {
			t.Errorf("%d %s", status, text)
		}
	}
	d.clock.Add(25 * time.Hour)
	if status, text := d.login(t, "client_id", p.ID, "client_secret", first); status != http.StatusUnauthorized || !strings.HasPrefix(text, "AADSTS7000222") {
		t.Errorf("expired: %d %s", status, text)
	}
	if status, text := d.login(t, "client_id", p.ID, "client_secret", second); status != http.StatusOK {
		t.Errorf("the next: %d %s", status, text)
	}
	if err := d.Rename(t.Context(), p.ID, "pipeline", true); err != nil {
		t.Fatal(err)
	}
	if status, text := d.login(t, "client_id", p.ID, "client_secret", second); status != http.StatusUnauthorized || !strings.HasPrefix(text, "AADSTS7000112") {
		t.Errorf("disabled: %d %s", status, text)
	}
	if _, err := d.Assign(t.Context(), p.ObjectID, auth.Owner, "/"); err != nil {
		t.Fatal(err)
	}
	if err := d.Authorize(t.Context(), p, "x/read", "/"); err == nil {
		t.Error("a disabled principal still has rights")
	}
	if err := d.RemoveCredential(t.Context(), p.ID, added.ID); err != nil {
		t.Fatal(err)
	}
	if status, _ := d.login(t, "client_id", p.ID, "client_secret", second); status != http.StatusUnauthorized {
		t.Errorf("removed: %d", status)
	}
	var wrong *auth.CredentialError
	for range auth.MaxCredentials - 1 {
		if _, _, err := d.AddSecret(t.Context(), p.ID, "", time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := d.AddSecret(t.Context(), p.ID, "", time.Time{}); !errors.As(err, &wrong) {
		t.Errorf("one too many: %v", err)
	}
	if _, _, err := d.AddSecret(t.Context(), p.ID, "", d.clock.Now().Add(-time.Second)); !errors.As(err, &wrong) {
		t.Errorf("expired already: %v", err)
	}
}

// certified is a certificate with its key.
type certified struct {
	key *rsa.PrivateKey
	der []byte
}

func certify(t *testing.T, now time.Time) certified {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pipeline"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return certified{key, der}
}

func (c certified) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.der}))
}

// assert makes an assertion with a header that names the certificate.
func (c certified) assert(t *testing.T, algorithm jose.SignatureAlgorithm, header, value string, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: c.key}, (&jose.SignerOptions{}).WithHeader(jose.HeaderKey(header), value))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestCertificates(t *testing.T) {
	d := newDirectory(t)
	p, secret, err := d.CreatePrincipal(t.Context(), "pipeline", 0)
	if err != nil {
		t.Fatal(err)
	}
	now := d.clock.Now()
	mine, other := certify(t, now), certify(t, now)
	added, err := d.AddCertificate(t.Context(), p.ID, "key", mine.pem())
	if err != nil {
		t.Fatal(err)
	}
	sum, sum256 := sha1.Sum(mine.der), sha256.Sum256(mine.der)
	x5t, x5t256 := base64.RawURLEncoding.EncodeToString(sum[:]), base64.RawURLEncoding.EncodeToString(sum256[:])
	endpoint := d.server.URL + "/" + d.TenantID() + "/oauth2/v2.0/token"
	good := map[string]any{"iss": p.ID, "sub": p.ID, "aud": endpoint, "jti": "1", "nbf": now.Unix(), "exp": now.Add(10 * time.Minute).Unix()}
	try := func(assertion string, edits ...string) (int, string) {
		t.Helper()
		return d.login(t, append([]string{"client_id", p.ID, "client_secret", "", "client_assertion", assertion,
			"client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, edits...)...)
	}
	for name, assertion := range map[string]string{
		"SHA-1":              mine.assert(t, jose.RS256, "x5t", x5t, good),
		"SHA-1 with padding": mine.assert(t, jose.RS256, "x5t", x5t+"=", good),
		"SHA-256":            mine.assert(t, jose.PS256, "x5t#S256", x5t256, good),
		"for the old door":   mine.assert(t, jose.RS256, "x5t", x5t, with(good, "aud", d.server.URL+"/common/oauth2/token")),
	} {
		if status, text := try(assertion); status != http.StatusOK {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	bad := map[string]string{
		"another certificate's key": other.assert(t, jose.RS256, "x5t", x5t, good),
		"no thumbprint":             sign(t, jose.RS256, mine.key, "", good),
		"another client's name":     mine.assert(t, jose.RS256, "x5t", x5t, with(good, "iss", d.admin.ClientID)),
		"another subject":           mine.assert(t, jose.RS256, "x5t", x5t, with(good, "sub", d.admin.ClientID)),
		"another directory":         mine.assert(t, jose.RS256, "x5t", x5t, with(good, "aud", "https://login.example/"+d.TenantID()+"/oauth2/v2.0/token")),
		"the agents' door":          mine.assert(t, jose.RS256, "x5t", x5t, with(good, "aud", d.server.URL+"/agents/v1/token")),
		"expired":                   mine.assert(t, jose.RS256, "x5t", x5t, with(good, "exp", now.Add(-2*time.Minute).Unix())),
		"for ever":                  mine.assert(t, jose.RS256, "x5t", x5t, with(good, "exp", nil)),
		"for a day":                 mine.assert(t, jose.RS256, "x5t", x5t, with(good, "exp", now.Add(24*time.Hour).Unix())),
		"without an id":             mine.assert(t, jose.RS256, "x5t", x5t, with(good, "jti", nil)),
		"with a long id":            mine.assert(t, jose.RS256, "x5t", x5t, with(good, "jti", strings.Repeat("x", 257))),
		"not a token":               "x.y.z",
	}
	for name, assertion := range bad {
		if status, text := try(assertion); status != http.StatusUnauthorized && status != http.StatusTooManyRequests || strings.Contains(text, assertion) {
			t.Errorf("%s: %d %s", name, status, text)
		}
		d.clock.Add(time.Second) // the tokens stay good, the guesses are forgiven
	}
	d.clock.Add(time.Minute)
	fine := mine.assert(t, jose.RS256, "x5t", x5t, good)
	if status, _ := try(fine, "client_secret", secret); status != http.StatusUnauthorized {
		t.Errorf("a secret and an assertion: %d", status)
	}
	if status, _ := try(fine, "client_assertion_type", "saml"); status != http.StatusUnauthorized {
		t.Errorf("another type of assertion: %d", status)
	}
	if err := d.RemoveCredential(t.Context(), p.ID, added.ID); err != nil {
		t.Fatal(err)
	}
	if status, _ := try(fine); status != http.StatusUnauthorized {
		t.Errorf("a removed certificate: %d", status)
	}
	key, err := x509.MarshalPKCS8PrivateKey(mine.key)
	if err != nil {
		t.Fatal(err)
	}
	var wrong *auth.CredentialError
	_, err = d.AddCertificate(t.Context(), p.ID, "", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	if !errors.As(err, &wrong) || !strings.Contains(err.Error(), "never its key") {
		t.Errorf("a private key: %v", err)
	}
	if _, err := d.AddCertificate(t.Context(), p.ID, "", base64.StdEncoding.EncodeToString(other.der)); err != nil {
		t.Errorf("base64: %v", err)
	}
	if _, err := d.AddCertificate(t.Context(), p.ID, "", other.pem()); !errors.As(err, &wrong) {
		t.Errorf("twice: %v", err)
	}
	d.clock.Add(2 * time.Hour)
	if _, err := d.AddCertificate(t.Context(), p.ID, "", mine.pem()); !errors.As(err, &wrong) {
		t.Errorf("expired: %v", err)
	}
}

// TestFederatedSubjects signs in as a service principal with an issuer's token.
func TestFederatedSubjects(t *testing.T) {
	f := newForeign(t)
	d := trusting(t, f.config())
	p, _, err := d.CreatePrincipal(t.Context(), "pipeline", -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.AddFederated(t.Context(), p.ID, "main", f.server.URL, "repo:web:main"); err != nil {
		t.Fatal(err)
	}
	var wrong *auth.CredentialError
	if _, err := d.AddFederated(t.Context(), p.ID, "", "https://unknown.example", "x"); !errors.As(err, &wrong) {
		t.Errorf("an unknown issuer: %v", err)
	}
	try := func(client string, claims map[string]any) int {
		status, _, _ := d.post(t, "/"+d.admin.TenantID+"/oauth2/v2.0/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {client},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {sign(t, jose.RS256, f.key, "one", claims)}}, nil)
		return status
	}
	good := f.claims(d.clock.Now())
	if status := try(p.ID, good); status != http.StatusOK {
		t.Errorf("its subject: %d", status)
	}
	if status := try(p.ID, with(good, "sub", "repo:web:fork")); status != http.StatusUnauthorized {
		t.Errorf("another subject: %d", status)
	}
	if status := try(p.ID, with(good, "aud", "else")); status != http.StatusUnauthorized {
		t.Errorf("another audience: %d", status)
	}
	if status := try(d.admin.ClientID, good); status != http.StatusUnauthorized {
		t.Errorf("another client: %d", status)
	}
}

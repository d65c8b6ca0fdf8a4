package decrypt

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/getsops/sops/v3/azkv"
	"github.com/getsops/sops/v3/gcpkms"
	"github.com/getsops/sops/v3/hcvault"
	"github.com/getsops/sops/v3/keys"
	"github.com/getsops/sops/v3/kms"
	"golang.org/x/oauth2"
)

// toLoopback sends whatever a client asks for to one server, which sees the
// host that was meant.
type toLoopback struct{ server *httptest.Server }

func (l toLoopback) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	at, err := url.Parse(l.server.URL)
	if err != nil {
		return nil, err
	}
	r.Host = r.URL.Host
	r.URL.Scheme, r.URL.Host = at.Scheme, at.Host
	return l.server.Client().Transport.RoundTrip(r)
}

// keyService is a counterpart of four key services. What it holds encrypted is
// masked with a pad: what is tested is who asks for what, and how.
type keyService struct {
	t    *testing.T
	rsa  *rsa.PrivateKey
	mu   sync.Mutex
	seen []string
}

func (s *keyService) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, fmt.Sprintf(format, args...))
}

func mask(data []byte) []byte {
	out := make([]byte, len(data))
	for i, b := range data {
		out[i] = b ^ 0x5a
	}
	return out
}

func (s *keyService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	answer := func(v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	var in map[string]any
	_ = json.Unmarshal(body, &in)
	text := func(key string) string { v, _ := in[key].(string); return v }
	switch {
	case strings.HasPrefix(r.Host, "kms."):
		if r.Header.Get("X-Amz-Target") != "TrentService.Decrypt" || !strings.Contains(r.Header.Get("Authorization"), "/eu-west-1/kms/aws4_request") {
			http.Error(w, "not a signed Decrypt", http.StatusBadRequest)
			return
		}
		s.note("aws %s %v", strings.Split(strings.Split(r.Header.Get("Authorization"), "Credential=")[1], "/")[0], in["EncryptionContext"])
		blob, _ := base64.StdEncoding.DecodeString(text("CiphertextBlob"))
		answer(map[string]any{"KeyId": text("KeyId"), "Plaintext": mask(blob)})
	case r.Host == "cloudkms.googleapis.com":
		s.note("google %s %s", r.Header.Get("Authorization"), r.URL.Path)
		blob, _ := base64.StdEncoding.DecodeString(text("ciphertext"))
		answer(map[string]any{"plaintext": mask(blob)})
	case r.Host == "oauth2.googleapis.com":
		form, _ := url.ParseQuery(string(body))
		parts := strings.Split(form.Get("assertion"), ".")
		signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
		sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
		if rsa.VerifyPKCS1v15(&s.rsa.PublicKey, crypto.SHA256, sum[:], signature) != nil {
			http.Error(w, "bad signature", http.StatusForbidden)
			return
		}
		answer(map[string]any{"access_token": "google-token", "token_type": "Bearer", "expires_in": 3600})
	case r.Host == "team.vault.azure.net":
		s.azure(w, r, in, answer)
	case r.Host == "login.microsoftonline.com":
		s.login(r, body, answer)
	default:
		http.Error(w, "nobody is "+r.Host, http.StatusNotFound)
	}
}

func (s *keyService) azure(w http.ResponseWriter, r *http.Request, in map[string]any, answer func(any)) {
	if r.Header.Get("Authorization") == "" {
		w.Header().Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/tenant", resource="https://vault.azure.net"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	s.note("azure %s %s", r.Header.Get("Authorization"), r.URL.Path)
	value, _ := in["value"].(string)
	blob, _ := base64.RawURLEncoding.DecodeString(value)
	plain, err := rsa.DecryptOAEP(sha256.New(), rand.Reader, s.rsa, blob, nil)
	if err != nil || in["alg"] != "RSA-OAEP-256" {
		http.Error(w, "cannot decrypt", http.StatusBadRequest)
		return
	}
	answer(map[string]any{"kid": "k", "value": base64.RawURLEncoding.EncodeToString(plain)})
}

func (s *keyService) login(r *http.Request, body []byte, answer func(any)) {
	host := "https://login.microsoftonline.com"
	switch {
	case strings.Contains(r.URL.Path, "discovery/instance"):
		answer(map[string]any{"tenant_discovery_endpoint": host + "/tenant/v2.0/.well-known/openid-configuration", "api-version": "1.1",
			"metadata": []any{map[string]any{"preferred_network": "login.microsoftonline.com", "preferred_cache": "login.windows.net", "aliases": []string{"login.microsoftonline.com"}}}})
	case strings.Contains(r.URL.Path, "openid-configuration"):
		answer(map[string]any{"token_endpoint": host + "/tenant/oauth2/v2.0/token", "authorization_endpoint": host + "/a", "issuer": host + "/tenant/v2.0"})
	default:
		form, _ := url.ParseQuery(string(body))
		answer(map[string]any{"access_token": "azure-token-of-" + form.Get("client_id"), "token_type": "Bearer", "expires_in": 3600})
	}
}

func vaultLock(address, engine, name string, seal func([]byte) string) lock {
	return func(_ testing.TB, dataKey []byte) keys.MasterKey {
		mk := hcvault.NewMasterKey(address, engine, name)
		mk.EncryptedKey = "vault:v1:x"
		if seal != nil {
			mk.EncryptedKey = seal(dataKey)
		}
		return mk
	}
}

const (
	someARN  = "arn:aws:kms:eu-west-1:123456789012:key/612d5f0d-a1a3-45e6-aca6-a5b005693a48"
	someName = "projects/p/locations/global/keyRings/r/cryptoKeys/k"
)

func awsLock(arn string) lock {
	return func(_ testing.TB, dataKey []byte) keys.MasterKey {
		team := "blue"
		mk := kms.NewMasterKeyWithProfile(arn, "", map[string]*string{"team": &team}, "somebody")
		mk.EncryptedKey = base64.StdEncoding.EncodeToString(mask(dataKey))
		return mk
	}
}

func gcpLock(_ testing.TB, dataKey []byte) keys.MasterKey {
	mk := gcpkms.NewMasterKeyFromResourceID(someName)
	mk.EncryptedKey = base64.StdEncoding.EncodeToString(mask(dataKey))
	return mk
}

func (s *keyService) azureLock(t testing.TB, dataKey []byte) keys.MasterKey {
	blob, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &s.rsa.PublicKey, dataKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	mk := azkv.NewMasterKey("https://team.vault.azure.net", "k", "1")
	mk.EncryptedKey = base64.RawURLEncoding.EncodeToString(blob)
	return mk
}

func startKeyService(t *testing.T) (*keyService, toLoopback) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s := &keyService{t: t, rsa: private}
	server := httptest.NewTLSServer(s)
	t.Cleanup(server.Close)
	return s, toLoopback{server}
}

type staticAzure string

func (s staticAzure) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: string(s), ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// TestKeyServices uses the clouds' own clients against counterparts on
// loopback: with the credentials of the Secret first, else those of the
// identity, and with nobody's when there are neither.
func TestKeyServices(t *testing.T) {
	s, to := startKeyService(t)
	private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(s.rsa)})
	account, err := json.Marshal(map[string]string{"type": "service_account", "client_email": "a@b", "private_key": string(private), "token_uri": "https://oauth2.googleapis.com/token"})
	if err != nil {
		t.Fatal(err)
	}
	identity := Clouds{
		Identity: "service account team/kms",
		AWS: func(_ context.Context, region string) aws.CredentialsProvider {
			return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
				return aws.Credentials{AccessKeyID: "IDENTITY-" + region, SecretAccessKey: "x"}, nil
			})
		},
		Azure: func(context.Context) azcore.TokenCredential { return staticAzure("identity") },
		GCP: func(context.Context) oauth2.TokenSource {
			return oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "identity"})
		},
	}
	cases := map[string]struct {
		entry, value    string
		seal            lock
		static, fromOwn string
	}{
		"AWS":    {awsKMS, "aws_access_key_id: STATIC\naws_secret_access_key: hunter22\n", awsLock(someARN), "aws STATIC map[team:blue]", "aws IDENTITY-eu-west-1 map[team:blue]"},
		"Azure":  {azureKV, "tenantId: tenant\nclientId: static\nclientSecret: hunter22\n", s.azureLock, "azure Bearer azure-token-of-static /keys/k/1/decrypt", "azure Bearer identity /keys/k/1/decrypt"},
		"Google": {gcpKMS, string(account), gcpLock, "google Bearer google-token /v1/" + someName + ":decrypt", "google Bearer identity /v1/" + someName + ":decrypt"},
	}
	for name, c := range cases {
		doc := encrypt(t, "yaml", "a: b\n", c.seal)
		open := func(t *testing.T, config Config) (string, error) {
			config.Transport = to
			k, err := Load(config)
			if err != nil {
				t.Fatal(err)
			}
			s.mu.Lock()
			s.seen = nil
			s.mu.Unlock()
			got, err := k.Decrypt(context.Background(), doc, "yaml", "yaml")
			if err == nil && string(got) != "a: b\n" {
				t.Errorf("plain text = %q", got)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			return strings.Join(s.seen, "\n"), err
		}
		secret := map[string][]byte{c.entry: []byte(c.value)}
		t.Run(name+" by Secret", func(t *testing.T) {
			if got, err := open(t, Config{Secret: secret, Clouds: identity}); err != nil || got != c.static {
				t.Errorf("asked %q (%v), want %q", got, err, c.static)
			}
		})
		t.Run(name+" by identity", func(t *testing.T) {
			if got, err := open(t, Config{Clouds: identity}); err != nil || got != c.fromOwn {
				t.Errorf("asked %q (%v), want %q", got, err, c.fromOwn)
			}
		})
		t.Run(name+" by nobody", func(t *testing.T) {
			got, err := open(t, Config{})
			if err == nil || got != "" || !strings.Contains(err.Error(), "no credentials: add "+c.entry) {
				t.Errorf("asked %q (%v)", got, err)
			}
		})
	}
}

func TestA34KeyServiceAddresses(t *testing.T) {
	s, to := startKeyService(t)
	k, err := Load(Config{Transport: to, Secret: map[string][]byte{awsKMS: []byte("{aws_access_key_id: a, aws_secret_access_key: b}")}})
	if err != nil {
		t.Fatal(err)
	}
	doc := encrypt(t, "yaml", "a: b\n", awsLock("arn:aws:kms:evil.example.com/:123456789012:key/k"))
	if _, err := k.Decrypt(context.Background(), doc, "yaml", "yaml"); err == nil || !strings.Contains(err.Error(), "is no ARN of a key") {
		t.Errorf("a region that is a host: %v", err)
	}
	if len(s.seen) != 0 {
		t.Errorf("asked %v", s.seen)
	}
}

// transit is a counterpart of Vault's transit engine.
func transit(t *testing.T, answer func(http.ResponseWriter, *http.Request) bool) *httptest.Server {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer != nil && answer(w, r) {
			return
		}
		if r.Header.Get("X-Vault-Token") != "s.hunter22" || r.URL.Path != "/v1/team/transit/decrypt/k" {
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`{"errors":["permission denied for ` + r.Header.Get("X-Vault-Token") + `"]}`))
			return
		}
		var in map[string]string
		_ = json.NewDecoder(r.Body).Decode(&in)
		blob, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(in["ciphertext"], "vault:v1:"))
		_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]string{"plaintext": base64.StdEncoding.EncodeToString(mask(blob))}})
	}))
	t.Cleanup(server.Close)
	return server
}

func TestVault(t *testing.T) {
	vault := transit(t, nil)
	elsewhere := transit(t, func(_ http.ResponseWriter, r *http.Request) bool {
		t.Errorf("the token %q went elsewhere", r.Header.Get("X-Vault-Token"))
		return false
	})
	leading := transit(t, func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	})
	seal := func(dataKey []byte) string { return "vault:v1:" + base64.StdEncoding.EncodeToString(mask(dataKey)) }
	cases := map[string]struct {
		address, engine, key, token string
		allowed                     []string
		want                        string
		lockdown                    bool
	}{
		"lockdown, allowed": {address: vault.URL, engine: "team/transit", key: "k", token: "s.hunter22", allowed: []string{vault.URL}, lockdown: true},
		"lockdown, no list": {address: "https://vault.example", engine: "e", key: "k", token: "s.hunter22", lockdown: true, want: "allows it with --vault-addresses=https://vault.example"},
		"other scheme":      {address: "https" + strings.TrimPrefix(vault.URL, "http"), engine: "e", key: "k", token: "s.hunter22", allowed: []string{vault.URL}, want: "is not among the allowed addresses"},
		"decrypts":          {address: vault.URL, engine: "team/transit", key: "k", token: "s.hunter22\n", allowed: []string{vault.URL}},
		"not allowed":       {address: elsewhere.URL, engine: "team/transit", key: "k", token: "s.hunter22", allowed: []string{vault.URL}, want: "is not among the allowed addresses"},
		"own machine":       {address: vault.URL, engine: "team/transit", key: "k", token: "s.hunter22", want: "addresses of the machine and its link are not allowed"},
		"metadata service":  {address: "http://169.254.169.254", engine: "e", key: "k", token: "s.hunter22", want: "addresses of the machine and its link are not allowed"},
		"socket":            {address: "unix:///var/run/docker.sock", engine: "e", key: "k", token: "s.hunter22", want: "no http or https URL"},
		"redirect":          {address: leading.URL, engine: "team/transit", key: "k", token: "s.hunter22", allowed: []string{leading.URL}, want: "redirected to another host"},
		"out of the engine": {address: vault.URL, engine: "team/../../sys", key: "k", token: "s.hunter22", allowed: []string{vault.URL}, want: "leads out of the engine"},
		"denied":            {address: vault.URL, engine: "other", key: "k", token: "s.hunter22", allowed: []string{vault.URL}, want: "no key for the document: Vault key k"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // Vault's client tries again, with pauses
			k, err := Load(Config{VaultAddresses: c.allowed, OnlyListedVaults: c.lockdown, Secret: map[string][]byte{vaultToken: []byte(c.token)}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			got, err := k.Decrypt(ctx, encrypt(t, "yaml", "a: b\n", vaultLock(c.address, c.engine, c.key, seal)), "yaml", "yaml")
			if c.want == "" {
				if err != nil || string(got) != "a: b\n" {
					t.Errorf("%q, %v", got, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error = %v, want %q", err, c.want)
			}
			if strings.Contains(err.Error(), "hunter22") {
				t.Errorf("error shows the token: %v", err)
			}
		})
	}
}

package bucket

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
	"github.com/google/go-cmp/cmp"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"headwater.dev/dev/blobstore"
)

const canary = "canary-bucket-s3cret-0123456789"

// storage is a real storage with one bucket, data.
type storage struct {
	put func(key, content string)
	// open gives a driver; wrong credentials, or another bucket.
	open func(wrong bool, bucket string) Driver
}

func started(t *testing.T, s *blobstore.Server, err error) *blobstore.Server {
	t.Helper()
	if err != nil {
		if errors.Is(err, blobstore.ErrMissing) {
			t.Skipf("no storage: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func startS3(t *testing.T) storage {
	s := started2(t)(blobstore.S3(t.Context(), t.TempDir(), "key", canary))
	admin := must[*minio.Client](t)(minio.New(s.Addr, &minio.Options{Creds: credentials.NewStaticV4("key", canary, "")}))
	if err := admin.MakeBucket(t.Context(), "data", minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	return storage{
		put: func(key, content string) {
			if _, err := admin.PutObject(t.Context(), "data", key, strings.NewReader(content), int64(len(content)), minio.PutObjectOptions{}); err != nil {
				t.Fatal(err)
			}
		},
		open: func(wrong bool, bucket string) Driver {
			keys := S3Keys("key", canary)
			if wrong {
				keys = S3Keys("key", "wrong-"+canary)
			}
			return must[Driver](t)(NewS3(Config{Bucket: bucket, Endpoint: s.Addr, Insecure: true, Transport: NewTransport(nil, nil)}, keys))
		},
	}
}

func started2(t *testing.T) func(*blobstore.Server, error) *blobstore.Server {
	return func(s *blobstore.Server, err error) *blobstore.Server {
		t.Helper()
		return started(t, s, err)
	}
}

// startGCS puts a door in front of the storage, which checks no credentials: it
// wants the token that another server gives for a signed assertion.
func startGCS(t *testing.T) storage {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := blobstore.GCS(t.Context(), dir)
	s = started(t, s, err)
	door := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: s.Addr})
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer good" {
			http.Error(w, canary, http.StatusUnauthorized)
			return
		}
		door.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	key := newKey(t)
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := key.check(r.FormValue("assertion")); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"error":"invalid_grant","error_description":%q}`, canary)
			return
		}
		fmt.Fprint(w, `{"access_token":"good","token_type":"Bearer","expires_in":3600}`)
	}))
	t.Cleanup(tokens.Close)
	return storage{
		put: func(key, content string) {
			u := "http://" + s.Addr + "/upload/storage/v1/b/data/o?uploadType=media&name=" + url.QueryEscape(key)
			resp, err := http.Post(u, "text/plain", strings.NewReader(content))
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatal(err, resp)
			}
			resp.Body.Close()
		},
		open: func(wrong bool, bucket string) Driver {
			k := key
			if wrong {
				k = newKey(t)
			}
			source, err := gcsKey(t.Context(), k.file(tokens.URL), NewTransport(nil, nil), tokens.URL)
			if err != nil {
				t.Fatal(err)
			}
			return must[Driver](t)(NewGCS(Config{Bucket: bucket, Endpoint: strings.TrimPrefix(front.URL, "http://"), Insecure: true, Transport: NewTransport(nil, nil)}, source))
		},
	}
}

const account = "devaccount"

var accountKey = base64.StdEncoding.EncodeToString([]byte(canary))

// startAzure runs Azurite; open gives a driver with the keys that keys makes.
func startAzure(t *testing.T, keys func(wrong bool, endpoint string) AzureKeys) storage {
	cert, key, pool := selfSigned(t)
	s, err := blobstore.Azure(t.Context(), t.TempDir(), account, accountKey, cert, key)
	s = started(t, s, err)
	endpoint := "https://" + s.Addr + "/" + account
	transport := func() *http.Transport { return NewTransport(&tls.Config{RootCAs: pool}, nil) }
	shared := must[*container.SharedKeyCredential](t)(container.NewSharedKeyCredential(account, accountKey))
	options := &container.ClientOptions{}
	options.Transport = &http.Client{Transport: transport()}
	admin := must[*container.Client](t)(container.NewClientWithSharedKeyCredential(endpoint+"/data", shared, options))
	if _, err := admin.Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return storage{
		put: func(key, content string) {
			c := admin.NewBlockBlobClient(key)
			if _, err := c.Upload(t.Context(), nopSeekCloser{strings.NewReader(content)}, nil); err != nil {
				t.Fatal(err)
			}
		},
		open: func(wrong bool, bucket string) Driver {
			return must[Driver](t)(NewAzure(Config{Bucket: bucket, Endpoint: endpoint, Transport: transport()}, keys(wrong, endpoint), nil))
		},
	}
}

type nopSeekCloser struct{ io.ReadSeeker }

func (nopSeekCloser) Close() error { return nil }

func azureAccountKey(wrong bool, _ string) AzureKeys {
	if wrong {
		return AzureKeys{"accountKey": []byte(base64.StdEncoding.EncodeToString([]byte("wrong")))}
	}
	return AzureKeys{"accountKey": []byte(accountKey)}
}

func azureSAS(t *testing.T) func(bool, string) AzureKeys {
	return func(wrong bool, endpoint string) AzureKeys {
		key := accountKey
		if wrong {
			key = base64.StdEncoding.EncodeToString([]byte("wrong"))
		}
		shared := must[*container.SharedKeyCredential](t)(container.NewSharedKeyCredential(account, key))
		q := must[sas.QueryParameters](t)(sas.AccountSignatureValues{
			Protocol: sas.ProtocolHTTPSandHTTP, ExpiryTime: time.Now().Add(time.Hour), Permissions: (&sas.AccountPermissions{Read: true, List: true}).String(),
			ResourceTypes: (&sas.AccountResourceTypes{Container: true, Object: true}).String(),
		}.SignWithSharedKey(shared))
		return AzureKeys{"sasKey": []byte("?" + q.Encode())}
	}
}

// TestDrivers holds every driver to the same law, against a real storage.
func TestDrivers(t *testing.T) {
	for name, begin := range map[string]func(*testing.T) storage{
		"S3":              startS3,
		"GCS":             startGCS,
		"AzureAccountKey": func(t *testing.T) storage { return startAzure(t, azureAccountKey) },
		"AzureSAS":        func(t *testing.T) storage { return startAzure(t, azureSAS(t)) },
	} {
		t.Run(name, func(t *testing.T) { lawOfDrivers(t, begin(t)) })
	}
}

func lawOfDrivers(t *testing.T, s storage) {
	ctx := t.Context()
	want := map[string]string{"a.yaml": "a: 1\n", "dir/b b+c&d.yaml": "b", "dir/sub/ü%41.yaml": "percent", "empty": ""}
	for key, content := range want {
		s.put(key, content)
	}
	d := s.open(false, "data")
	objects := listed(t, d, "")
	if diff := cmp.Diff(want, contents(t, d, objects)); diff != "" {
		t.Error(diff)
	}
	if got := slices.Sorted(keysOf(listed(t, d, "dir/"))); !slices.Equal(got, []string{"dir/b b+c&d.yaml", "dir/sub/ü%41.yaml"}) {
		t.Errorf("below the prefix: %q", got)
	}
	if got, err := d.Stat(ctx, "a.yaml"); err != nil || got.ETag != objects["a.yaml"].ETag || got.Size != 5 {
		t.Errorf("stat %+v, listed %+v, %v", got, objects["a.yaml"], err)
	}
	if _, err := d.Stat(ctx, "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("stat of nothing: %v", err)
	}
	before := objects["a.yaml"]
	s.put("a.yaml", "a: 2\n")
	if _, err := d.Open(ctx, before); !errors.Is(err, ErrChanged) {
		t.Errorf("a changed object was opened: %v", err)
	}
	if Revision(listed(t, d, "")) == Revision(objects) {
		t.Error("a changed object gave the same revision")
	}
	none := func(Object) error { return nil }
	if err := s.open(false, "missing").List(ctx, "", none); !errors.Is(err, ErrNoBucket) {
		t.Errorf("a bucket that does not exist: %v", err)
	}
	err := s.open(true, "data").List(ctx, "", none)
	if !errors.Is(err, ErrDenied) {
		t.Errorf("wrong credentials: %v", err)
	}
	if err != nil && strings.Contains(err.Error(), canary) {
		t.Errorf("the error shows a secret, or what the storage wrote: %v", err)
	}
	stop := errors.New("stop")
	if err := d.List(ctx, "", func(Object) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("visit's error: %v", err)
	}
}

func listed(t *testing.T, d Driver, prefix string) map[string]Object {
	t.Helper()
	objects := map[string]Object{}
	if err := d.List(t.Context(), prefix, func(o Object) error { objects[o.Key] = o; return nil }); err != nil {
		t.Fatal(err)
	}
	return objects
}

func keysOf(m map[string]Object) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// contents downloads objects and reads the files back.
func contents(t *testing.T, d Driver, objects map[string]Object) map[string]string {
	t.Helper()
	dir := t.TempDir()
	if err := Download(t.Context(), d, objects, dir); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for key := range objects {
		data, err := os.ReadFile(filepath.Join(dir, key))
		if err != nil {
			t.Fatal(err)
		}
		got[key] = string(data)
	}
	return got
}

// TestAzureServicePrincipals gets tokens for a secret and for a certificate from
// an authority, and reads Azurite with them: it checks a token's claims.
func TestAzureServicePrincipals(t *testing.T) {
	key := newKey(t)
	var asked atomic.Int64
	authority := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		base := "https://" + r.Host + "/tenant"
		if strings.HasSuffix(r.URL.Path, "/openid-configuration") {
			fmt.Fprintf(w, `{"token_endpoint":%q,"authorization_endpoint":%q,"issuer":%q}`, base+"/token", base+"/authorize", base)
			return
		}
		asked.Add(1)
		if r.FormValue("client_secret") != canary && key.check(r.FormValue("client_assertion")) != nil {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error":"invalid_client","error_description":%q}`, canary)
			return
		}
		fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, key.token())
	}))
	defer authority.Close()
	cert, file, pool := selfSigned(t)
	pool.AddCert(authority.Certificate())
	s, err := blobstore.Azure(t.Context(), t.TempDir(), account, accountKey, cert, file)
	s = started(t, s, err)
	endpoint := "https://" + s.Addr + "/" + account
	transport := NewTransport(&tls.Config{RootCAs: pool}, nil)
	shared := must[*container.SharedKeyCredential](t)(container.NewSharedKeyCredential(account, accountKey))
	options := &container.ClientOptions{}
	options.Transport = &http.Client{Transport: transport}
	admin := must[*container.Client](t)(container.NewClientWithSharedKeyCredential(endpoint+"/data", shared, options))
	if _, err := admin.Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	principal := func(name, value string) AzureKeys {
		return AzureKeys{"tenantId": []byte("tenant"), "clientId": []byte("client"), "authorityHost": []byte(authority.URL), name: []byte(value)}
	}
	for name, c := range map[string]struct {
		keys AzureKeys
		want error
	}{
		"secret":            {principal("clientSecret", canary), nil},
		"certificate":       {principal("clientCertificate", string(key.certificate(t))), nil},
		"wrong secret":      {principal("clientSecret", "wrong"), ErrDenied},
		"wrong certificate": {principal("clientCertificate", string(newKey(t).certificate(t))), ErrDenied},
	} {
		d, err := NewAzure(Config{Bucket: "data", Endpoint: endpoint, Transport: transport}, c.keys, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		err = d.List(t.Context(), "", func(Object) error { return nil })
		if !errors.Is(err, c.want) || c.want == nil && err != nil || err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	if asked.Load() < 4 {
		t.Errorf("the authority was asked %d times", asked.Load())
	}
}

func TestLDAPGivesTemporaryKeys(t *testing.T) {
	storage := started2(t)(blobstore.S3(t.Context(), t.TempDir(), "temporary", canary))
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("Action") != "AssumeRoleWithLDAPIdentity" || r.FormValue("LDAPUsername") != "user" || r.FormValue("LDAPPassword") != canary {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Code>AccessDenied</Code><Message>%s</Message></Error></ErrorResponse>`, canary)
			return
		}
		fmt.Fprintf(w, `<AssumeRoleWithLDAPIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithLDAPIdentityResult><Credentials>`+
			`<AccessKeyId>temporary</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><Expiration>%s</Expiration></Credentials></AssumeRoleWithLDAPIdentityResult></AssumeRoleWithLDAPIdentityResponse>`,
			canary, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	defer sts.Close()
	for password, want := range map[string]error{canary: ErrNoBucket, "wrong": ErrDenied} {
		who, err := S3FromLDAP(sts.URL, "user", password, NewTransport(nil, nil))
		if err != nil {
			t.Fatal(err)
		}
		d := must[Driver](t)(NewS3(Config{Bucket: "none", Endpoint: storage.Addr, Insecure: true, Transport: NewTransport(nil, nil)}, who))
		err = d.List(t.Context(), "", func(Object) error { return nil })
		if !errors.Is(err, want) || strings.Contains(err.Error(), canary) {
			t.Errorf("password %q: got %v, want %v", password[:5], err, want)
		}
	}
}

// selfSigned writes a certificate for 127.0.0.1.
func selfSigned(t *testing.T) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "storage"}, NotAfter: time.Now().Add(time.Hour), NotBefore: time.Now().Add(-time.Minute),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private))
	pkcs8 := must[[]byte](t)(x509.MarshalPKCS8PrivateKey(private))
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	parsed := must[*x509.Certificate](t)(x509.ParseCertificate(der))
	pool.AddCert(parsed)
	return cert, key, pool
}

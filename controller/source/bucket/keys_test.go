package bucket

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// rsaKey is the key of a service account, or of a service principal.
type rsaKey struct{ private *rsa.PrivateKey }

func newKey(t *testing.T) rsaKey {
	t.Helper()
	return rsaKey{must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))}
}

// check verifies the signature of a JSON web token by this key.
func (k rsaKey) check(token string) error {
	part := strings.Split(token, ".")
	if len(part) != 3 {
		return errors.New("no token")
	}
	signature, err := base64.RawURLEncoding.DecodeString(part[2])
	if err != nil {
		return err
	}
	header, err := base64.RawURLEncoding.DecodeString(part[0])
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(part[0] + "." + part[1]))
	if strings.Contains(string(header), "PS256") {
		return rsa.VerifyPSS(&k.private.PublicKey, crypto.SHA256, sum[:], signature, nil)
	}
	return rsa.VerifyPKCS1v15(&k.private.PublicKey, crypto.SHA256, sum[:], signature)
}

// token is an access token as Azurite wants it.
func (k rsaKey) token() string {
	encode := func(v any) string {
		data, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(data)
	}
	now := time.Now()
	text := encode(map[string]string{"alg": "RS256", "typ": "JWT"}) + "." + encode(map[string]any{
		"aud": "https://storage.azure.com", "iss": "https://sts.windows.net/ab1f708d-50f6-404c-a006-d71b2ac7a606/",
		"nbf": now.Add(-time.Minute).Unix(), "iat": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	sum := sha256.Sum256([]byte(text))
	signature, _ := rsa.SignPKCS1v15(rand.Reader, k.private, crypto.SHA256, sum[:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// file is the JSON key of a service account of Google Cloud.
func (k rsaKey) file(tokenURI string) []byte {
	der, _ := x509.MarshalPKCS8PrivateKey(k.private)
	data, _ := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "me@project.example", "private_key_id": "1", "token_uri": tokenURI,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	return data
}

func (k rsaKey) certificate(t *testing.T) []byte {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "client"}, NotAfter: time.Now().Add(time.Hour)}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, &k.private.PublicKey, k.private))
	pkcs8 := must[[]byte](t)(x509.MarshalPKCS8PrivateKey(k.private))
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})...)
}

func TestA08GCSKeysOfServiceAccountsAlone(t *testing.T) {
	for name, c := range map[string]struct{ key, want string }{
		"external account": {`{"type":"external_account","credential_source":{"url":"http://169.254.169.254/"}}`, "service account"},
		"executable":       {`{"type":"external_account","credential_source":{"executable":{"command":"id"}}}`, "service account"},
		"user":             {`{"type":"authorized_user","refresh_token":"` + canary + `"}`, "service account"},
		"other token URI":  {`{"type":"service_account","client_email":"a","private_key":"` + canary + `","token_uri":"http://10.0.0.1/"}`, "token_uri"},
		"no key":           {`{"type":"service_account"}`, "private_key"},
		"no JSON":          {canary, "JSON"},
	} {
		_, err := GCSKey(t.Context(), []byte(c.key), NewTransport(nil, nil))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestAzureKeysNameWhatIsWrong(t *testing.T) {
	base := Config{Bucket: "data", Endpoint: "https://account.blob.core.windows.net", Transport: NewTransport(nil, nil)}
	for name, c := range map[string]struct {
		keys AzureKeys
		want string
	}{
		"nothing usable":  {AzureKeys{"tenantId": []byte("t")}, "no usable combination"},
		"bad account key": {AzureKeys{"accountKey": []byte(canary + "!")}, "accountKey"},
		"bad SAS":         {AzureKeys{"sasKey": []byte(canary)}, "sasKey"},
		"bad certificate": {AzureKeys{"tenantId": []byte("t"), "clientId": []byte("c"), "clientCertificate": []byte(canary)}, "clientCertificate"},
		"plain authority": {AzureKeys{"tenantId": []byte("t"), "clientId": []byte("c"), "clientSecret": []byte(canary), "authorityHost": []byte("http://login")}, "authorityHost"},
	} {
		_, err := NewAzure(base, c.keys, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	base.Endpoint = "https://evil.example"
	if _, err := NewAzure(base, AzureKeys{"clientId": []byte("c")}, nil); err == nil || !strings.Contains(err.Error(), "shown to nobody but Azure Blob Storage") {
		t.Errorf("the node's identity for another host: %v", err)
	}
	for _, endpoint := range []string{"account.blob.core.windows.net", "file:///etc", "https://u:p@h", "https://h/?sig=x", "://"} {
		if _, err := NewAzure(Config{Endpoint: endpoint}, nil, nil); !errors.Is(err, ErrConfig) {
			t.Errorf("endpoint %s: %v", endpoint, err)
		}
	}
}

func TestA08EndpointsThatAreNotAsked(t *testing.T) {
	for _, address := range []string{"169.254.169.254:80", "[fe80::1]:80", "[fd00:ec2::254]:80", "0.0.0.0:80", "224.0.0.1:80", "[::ffff:169.254.169.254]:80", "x"} {
		if err := refuseLinkLocal("tcp", address, nil); !errors.Is(err, ErrAddress) {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"127.0.0.1:80", "10.0.0.1:443", "1.1.1.1:443"} {
		if err := refuseLinkLocal("tcp", address, nil); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	if err := refuseLoopback("tcp", "127.0.0.1:3128", nil); !errors.Is(err, ErrProxy) {
		t.Errorf("a proxy on this machine: %v", err)
	}
	proxied := NewTransport(nil, &url.URL{Scheme: "http", Host: "127.0.0.1:1"})
	r, err := http.NewRequest(http.MethodGet, "http://storage.example/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := proxied.RoundTrip(r); !errors.Is(err, ErrProxy) {
		t.Errorf("a proxy on this machine was asked: %v", err)
	}
	d := must[Driver](t)(NewS3(Config{Bucket: "latest", Endpoint: "169.254.169.254", Insecure: true, Region: "r", Transport: NewTransport(nil, nil)}, S3Credentials{}))
	if err := d.List(t.Context(), "", func(Object) error { return nil }); !errors.Is(err, ErrAddress) {
		t.Errorf("the metadata service was asked: %v", err)
	}
}

func TestPlainErrorsHaveNoQuery(t *testing.T) {
	err := Plain(fmt.Errorf("x: %w", &url.Error{Op: "Get", URL: "https://h/c?sig=" + canary, Err: io.ErrUnexpectedEOF}))
	if strings.Contains(err.Error(), canary) || !strings.Contains(err.Error(), "GET h:") || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

func TestA25CheckKey(t *testing.T) {
	for key, ok := range map[string]bool{
		"a": true, "a/b.yaml": true, "..a": true, "": false, "/a": false, "../a": false, "a/../b": false, "a//b": false, "./a": false, "a/": false,
		"a\x00b": false, `a\b`: false, "..": false, ".": false, "a/..": false, strings.Repeat("a", 256): false, strings.Repeat("a/", 2049): false,
	} {
		if err := CheckKey(key); (err == nil) != ok || err != nil && !errors.Is(err, ErrUnsafe) {
			t.Errorf("%.20q: %v", key, err)
		}
	}
	if err := CheckKeys(map[string]int{"a/b": 1, "a": 2}); !errors.Is(err, ErrUnsafe) {
		t.Errorf("file and folder: %v", err)
	}
	if err := CheckKeys(map[string]int{"a/b": 1, "a/c": 2, "ab": 3}); err != nil {
		t.Error(err)
	}
}

// hostile is a storage that says one thing and gives another.
type hostile struct {
	Driver
	body func() io.Reader
}

func (h hostile) Open(context.Context, Object) (io.ReadCloser, error) {
	return io.NopCloser(h.body()), nil
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestDownloadKeepsToWhatWasListed(t *testing.T) {
	for name, c := range map[string]struct {
		objects map[string]Object
		body    func() io.Reader
		want    error
	}{
		"endless":   {map[string]Object{"a": {Key: "a", Size: 5}}, func() io.Reader { return endless{} }, ErrChanged},
		"short":     {map[string]Object{"a": {Key: "a", Size: 5}}, func() io.Reader { return strings.NewReader("x") }, ErrChanged},
		"outside":   {map[string]Object{"../a": {Key: "../a", Size: 1}}, func() io.Reader { return strings.NewReader("x") }, ErrUnsafe},
		"twice":     {map[string]Object{"1": {Key: "a", Size: 1}, "2": {Key: "a", Size: 1}}, func() io.Reader { return strings.NewReader("x") }, ErrUnsafe},
		"file, dir": {map[string]Object{"a": {Key: "a", Size: 1}, "a/b": {Key: "a/b", Size: 1}}, func() io.Reader { return strings.NewReader("x") }, ErrUnsafe},
	} {
		outer := t.TempDir()
		dir := outer + "/in"
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := Download(t.Context(), hostile{body: c.body}, c.objects, dir); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		if left, _ := os.ReadDir(outer); len(left) != 1 {
			t.Errorf("%s: something was written outside: %v", name, left)
		}
	}
}

func TestA04StoragesCannotRedirect(t *testing.T) {
	if err := (Config{}).client().CheckRedirect(nil, nil); !errors.Is(err, http.ErrUseLastResponse) {
		t.Error(err)
	}
}

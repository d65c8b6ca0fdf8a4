package source

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"

	"headwater.dev/kernel/host"
	"headwater.dev/kernel/secret"
)

const codeCommit = "git-codecommit.us-east-1.amazonaws.com"

// testCodeCommit stands in for AWS CodeCommit: a proxy leads its name to a
// server of ours, which works the signature in the password out for itself. It
// shows nothing about AWS's own identities, which come from the environment here.
func testCodeCommit(t *testing.T, w *world) {
	for name, value := range map[string]string{"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": canary,
		"AWS_SESSION_TOKEN": "session", "AWS_CA_BUNDLE": "", "AWS_EC2_METADATA_DISABLED": "true"} {
		t.Setenv(name, value)
	}
	w.newRepository("v1/repos/app", false)
	h, err := w.git.Commit("v1/repos/app", "main", "m", map[string]string{"a.yaml": "a"})
	if err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(w.git.BaseURL())
	if err != nil {
		t.Fatal(err)
	}
	var signed atomic.Int32
	behind := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Header.Del("Authorization")
	}}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		at, _, _ := strings.Cut(password, "Z")
		if when, err := time.Parse("20060102T150405", at); err != nil || time.Since(when) > 15*time.Minute || user != "AKIAEXAMPLE%session" ||
			password != at+"Z"+signV4(at, "/v1/repos/app") {
			rw.WriteHeader(http.StatusForbidden)
			return
		}
		signed.Add(1)
		behind.ServeHTTP(rw, r)
	}))
	cert, ca := named(t, codeCommit)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.StartTLS()
	defer server.Close()
	proxy := httptest.NewServer(leadTo(server.Listener.Addr().String()))
	defer proxy.Close()
	w.secret("ca", "ca.crt", string(ca))
	w.secret("proxy", "address", proxy.URL)
	o := w.repository("app", "https://"+codeCommit+"/v1/repos/app", func(o *sourcev1.GitRepository) {
		o.Spec.Provider = sourcev1.GitProviderAWS
		o.Spec.SecretRef = &meta.LocalObjectReference{Name: "ca"}
		o.Spec.ProxySecretRef = &meta.LocalObjectReference{Name: "proxy"}
	})
	w.ready(o, "main@sha1:"+h)
	if signed.Load() == 0 {
		t.Error("no signature was checked")
	}
}

// signV4 is what AWS documents for Git: its signature of version 4 over the
// method GIT, the path and the host alone.
func signV4(at, path string) string {
	sum := sha256.Sum256([]byte("GIT\n" + path + "\n\nhost:" + codeCommit + "\n\nhost\n"))
	date, _, _ := strings.Cut(at, "T")
	key := []byte("AWS4" + canary)
	for _, part := range []string{date, "us-east-1", "codecommit", "aws4_request",
		"AWS4-HMAC-SHA256\n" + at + "\n" + date + "/us-east-1/codecommit/aws4_request\n" + hex.EncodeToString(sum[:])} {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(part))
		key = m.Sum(nil)
	}
	return hex.EncodeToString(key)
}

// named gives a certificate for a name, and its PEM for those who trust it.
func named(t *testing.T, name string) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// leadTo is a proxy that connects to one address, whatever it is asked for.
func leadTo(addr string) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			rw.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		up, err := net.Dial("tcp", addr)
		if err != nil {
			rw.WriteHeader(http.StatusBadGateway)
			return
		}
		defer up.Close()
		down, buffered, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		defer down.Close()
		fmt.Fprint(down, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			_, _ = io.Copy(up, buffered)
			up.Close()
		}()
		_, _ = io.Copy(down, up)
	})
}

// testAzureDevOps stands in for Azure: an identity endpoint of the kind that App
// Service has gives a token for Azure DevOps, and a Git server wants to see it.
func testAzureDevOps(t *testing.T, w *world) {
	const token, header = "azure-" + canary, "secret-header"
	identity := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-IDENTITY-HEADER") != header || !strings.HasPrefix(r.URL.Query().Get("resource"), "499b84ac-1321-427f-aa17-267ca6975798") {
			rw.WriteHeader(http.StatusForbidden)
			return
		}
		fmt.Fprintf(rw, `{"access_token":%q,"expires_on":"%d","resource":"x","token_type":"Bearer"}`, token, time.Now().Add(time.Hour).Unix())
	}))
	defer identity.Close()
	t.Setenv("IDENTITY_ENDPOINT", identity.URL)
	t.Setenv("IDENTITY_HEADER", header)
	w.newRepository("app", false)
	h := w.commit("app", map[string]string{"a.yaml": "a"})
	to, err := url.Parse(w.git.BaseURL())
	if err != nil {
		t.Fatal(err)
	}
	behind := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Header.Del("Authorization")
	}}
	var asked atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		asked.Add(1)
		behind.ServeHTTP(rw, r)
	}))
	cert, ca := named(t, "dev.azure.com")
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.StartTLS()
	defer server.Close()
	tunnel := leadTo(server.Listener.Addr().String())
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			tunnel.ServeHTTP(rw, r)
			return
		}
		identity.Config.Handler.ServeHTTP(rw, r) // it is plain http
	}))
	defer proxy.Close()
	w.secret("azureca", "ca.crt", string(ca))
	w.secret("azureproxy", "address", proxy.URL)
	o := w.repository("app", "https://dev.azure.com/app.git", func(o *sourcev1.GitRepository) {
		o.Spec.Provider = sourcev1.GitProviderAzure
		o.Spec.SecretRef = &meta.LocalObjectReference{Name: "azureca"}
		o.Spec.ProxySecretRef = &meta.LocalObjectReference{Name: "azureproxy"}
	})
	w.ready(o, "main@sha1:"+h)
	before := asked.Load()
	thief := w.repository("thief", server.URL+"/app.git", func(o *sourcev1.GitRepository) {
		o.Spec.Provider = sourcev1.GitProviderAzure
		o.Spec.SecretRef = &meta.LocalObjectReference{Name: "azureca"}
		o.Spec.ProxySecretRef = &meta.LocalObjectReference{Name: "azureproxy"}
	})
	w.failing(thief, sourcev1.InvalidProviderConfigurationReason, "shown to nobody but Azure DevOps")
	if before == 0 || asked.Load() != before {
		t.Errorf("the token was shown %d times to Azure DevOps, and %d times to another server", before, asked.Load()-before)
	}
}

// TestOwnIdentity shows that in lockdown nobody can look at the tokens of the
// controllers' own identity by a proxy and a certificate authority of his.
func TestOwnIdentity(t *testing.T) {
	ref := &meta.LocalObjectReference{Name: "x"}
	lockdown := host.Options{NoCrossNamespaceRefs: true}
	git := func(l *loops) error {
		s := &gitScope{obj: &sourcev1.GitRepository{}}
		s.obj.Spec.URL, s.obj.Spec.Provider, s.creds.CA = "https://dev.azure.com/o/p/_git/r", sourcev1.GitProviderAzure, []byte("ca")
		return (&gitLoop{loops: l}).login(t.Context(), s, secret.Secret{})
	}
	registry := func(d door) func(*loops) error {
		return func(l *loops) error {
			_, err := l.registryOptions(t.Context(), &sourcev1.OCIRepository{}, d)
			return err
		}
	}
	storage := func(l *loops) error {
		b := newBucket("b", "", func(b *sourcev1.Bucket) {
			b.Spec.Endpoint, b.Spec.Insecure, b.Spec.ProxySecretRef = "https://a.blob.core.windows.net", false, ref
		})
		_, err := l.azureDriver(t.Context(), b, access{})
		return err
	}
	node := func(l *loops) error {
		b := newBucket("b", "", func(b *sourcev1.Bucket) { b.Spec.CertSecretRef = ref })
		_, err := l.azureDriver(t.Context(), b, access{keys: secret.Secret{Data: map[string][]byte{"clientId": []byte("c")}}})
		return err
	}
	for name, show := range map[string]func(*loops) error{
		"git": git, "storage": storage, "node": node,
		"registry by proxy":     registry(door{url: "oci://a.azurecr.io/x", provider: "azure", proxy: ref}),
		"registry by authority": registry(door{url: "oci://a.azurecr.io/x", provider: "azure", cert: ref}),
	} {
		if err := show(&loops{host: &host.Host{Options: lockdown}}); err == nil || !strings.Contains(err.Error(), "own identity is not shown") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := registry(door{url: "oci://a.azurecr.io/x", provider: "azure", insecure: true})(&loops{host: &host.Host{}}); err == nil || !strings.Contains(err.Error(), "spec.insecure") {
		t.Errorf("without TLS: %v", err)
	}
	shared := lockdown
	shared.SharedSourceIdentity = true
	for name, c := range map[string]struct {
		options host.Options
		account string
		brings  bool
	}{
		"nothing brought": {lockdown, "", false}, "somebody else": {lockdown, "reader", true}, "one tenant": {host.Options{}, "", true}, "allowed": {shared, "", true},
	} {
		if err := (&loops{host: &host.Host{Options: c.options}}).ownIdentity(c.account, c.brings); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

package registry

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"headwater.dev/dev/front"
)

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	s, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func reference(t *testing.T, s *Server, image string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(s.Reference(image))
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func TestImagesOutliveARestart(t *testing.T) {
	dir := t.TempDir()
	s := start(t, Config{Dir: dir})
	index, err := random.Index(64, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(reference(t, s, "team/app:1"), index); err != nil {
		t.Fatal(err)
	}
	gone, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference(t, s, "team/app:gone"), gone); err != nil {
		t.Fatal(err)
	}
	if err := remote.Delete(reference(t, s, "team/app:gone")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = start(t, Config{Dir: dir})
	got, err := remote.Index(reference(t, s, "team/app:1"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if d, err := got.Digest(); err != nil || d != want {
		t.Errorf("after the restart the index has digest %s, %v, want %s", d, err, want)
	}
	m, err := got.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	image, err := got.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 2 {
		t.Fatalf("layers after the restart: %d, %v", len(layers), err)
	}
	if err := validLayer(layers[0]); err != nil {
		t.Errorf("layer after the restart: %v", err)
	}
	if tags, err := remote.List(reference(t, s, "team/app:1").Context()); err != nil || len(tags) != 1 || tags[0] != "1" {
		t.Errorf("tags after the restart: %v, %v, want only 1", tags, err)
	}
}

func validLayer(l v1.Layer) error {
	rc, err := l.Uncompressed()
	if err != nil {
		return err
	}
	return rc.Close()
}

func TestAccountsAndTLS(t *testing.T) {
	s := start(t, Config{TLS: true, Users: map[string]string{"ann": "secret"}})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.Authority().PEM())
	transport := remote.WithTransport(&http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}})
	image, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	ref := reference(t, s, "app:1")
	if err := remote.Write(ref, image, transport); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("anonymous push: %v", err)
	}
	wrong := remote.WithAuth(&authn.Basic{Username: "ann", Password: "wrong"})
	if err := remote.Write(ref, image, transport, wrong); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("push with a wrong password: %v", err)
	}
	if err := remote.Write(ref, image, transport, remote.WithAuth(&authn.Basic{Username: "ann", Password: "secret"})); err != nil {
		t.Errorf("push by ann: %v", err)
	}
	if s.Requests("PUT", "/manifests/").Requests != 1 {
		t.Error("the push was not counted")
	}
}

func TestFault(t *testing.T) {
	s := start(t, Config{})
	s.Inject(front.Fault{Contains: "/manifests/", Status: http.StatusInternalServerError})
	image, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference(t, s, "app:1"), image, remote.WithRetryBackoff(remote.Backoff{Steps: 1})); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("push to a broken registry: %v", err)
	}
}

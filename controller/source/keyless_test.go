package source

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/dev/registry"
)

// trustedRoot is the description of a Sigstore instance of our own.
func trustedRoot(t *testing.T, vs *ca.VirtualSigstore) string {
	t.Helper()
	logs := vs.RekorLogs()
	for id, l := range logs {
		raw, err := hex.DecodeString(id)
		if err != nil {
			t.Fatal(err)
		}
		l.ID = raw
	}
	tr, err := root.NewTrustedRoot(root.TrustedRootMediaType01, vs.FulcioCertificateAuthorities(), nil, vs.TimestampingAuthorities(), logs)
	if err != nil {
		t.Fatal(err)
	}
	data, err := tr.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// signKeyless stores a signature by a certificate of the instance, with its
// entry in the instance's log.
func signKeyless(t *testing.T, vs *ca.VirtualSigstore, reg *registry.Server, repo, digest string) {
	t.Helper()
	payload := `{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":"` + digest + `"},"type":"cosign container image signature"},"optional":null}`
	entity, err := vs.Sign("ci@example.com", "https://issuer.example.com", []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	content, err := entity.SignatureContent()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := entity.VerificationContent()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := entity.TlogEntries()
	if err != nil {
		t.Fatal(err)
	}
	log, err := vs.RekorLogID()
	if err != nil {
		t.Fatal(err)
	}
	tle := entries[0].TransparencyLogEntry()
	entry := tlog.RekorPayload{Body: base64.StdEncoding.EncodeToString(tle.CanonicalizedBody), IntegratedTime: tle.IntegratedTime, LogIndex: tle.LogIndex, LogID: log}
	promise, err := vs.RekorSignPayload(entry)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := json.Marshal(map[string]any{"SignedEntryTimestamp": promise, "Payload": entry})
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mutate.Addendum{
		Layer: layerOf(payload, "application/vnd.dev.cosign.simplesigning.v1+json"),
		Annotations: map[string]string{
			"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(content.Signature()),
			"dev.sigstore.cosign/certificate":    string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate().Raw})),
			"dev.sigstore.cosign/bundle":         string(bundle),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(reg.Reference(repo+":"+strings.Replace(digest, ":", "-", 1)+".sig"), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
}

func testOCIKeyless(t *testing.T, w *world) {
	reg, err := registry.Start(registry.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	vs, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	other, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	one := push(t, reg, "app:1", layerOf(packed(t, "a.yaml", "a: 1\n"), fluxLayer))
	signKeyless(t, vs, reg, "app", one)
	instance := w.secret("instance", "trusted_root.json", trustedRoot(t, vs))
	o := w.ociRepository("keyless", reg.OCIURL("app"), &sourcev1.OCIRepositoryRef{Tag: "1"}, func(o *sourcev1.OCIRepository) {
		o.Spec.Verify = &sourcev1.OCIRepositoryVerification{
			Provider: "cosign", TrustedRootSecretRef: &meta.LocalObjectReference{Name: "instance"},
			MatchOIDCIdentity: []sourcev1.OIDCIdentityMatch{{Issuer: "^https://issuer.example.com$", Subject: "^ci@example.com$"}},
		}
	})
	w.ready(o, "1@"+one)
	if c := conditions.Get(o, sourcev1.SourceVerifiedCondition); c == nil || c.Status != metav1.ConditionTrue {
		t.Errorf("verified: %+v", c)
	}
	w.update(o, func() { o.Spec.Verify.MatchOIDCIdentity[0].Subject = "^release@example.com$" })
	w.failing(o, sourcev1.VerificationError, "using provider 'cosign keyless': no matching signatures")
	w.update(o, func() { o.Spec.Verify.MatchOIDCIdentity[0].Subject = ".*@example.com" })
	w.ready(o, "1@"+one)
	w.update(instance, func() { instance.Data = map[string][]byte{"trusted_root.json": []byte(trustedRoot(t, other))} })
	w.failing(o, sourcev1.VerificationError, "no matching signatures")
}

// testOCIPrivate reaches a registry with a certificate of its own, and shows
// that annotations and selectors are in the status.
func testOCIPrivate(t *testing.T, w *world) {
	reg, err := registry.Start(registry.Config{Dir: t.TempDir(), TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	layer := packed(t, "a.yaml", "a: 1\n", "b.txt", "b")
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layerOf("other", "application/other"), layerOf(layer, fluxLayer))
	if err != nil {
		t.Fatal(err)
	}
	annotated, ok := mutate.Annotations(img, map[string]string{"org.opencontainers.image.source": "https://git.example/shop", "org.opencontainers.image.revision": "main@sha1:abc"}).(v1.Image)
	if !ok {
		t.Fatal("no image")
	}
	ref, err := name.ParseReference(reg.Reference("app:1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, annotated, remote.WithTransport(trusting(t, reg.Authority().PEM()))); err != nil {
		t.Fatal(err)
	}
	d, err := annotated.Digest()
	if err != nil {
		t.Fatal(err)
	}
	ignore := "*.txt"
	selector := &sourcev1.OCILayerSelector{MediaType: fluxLayer, Operation: sourcev1.OCILayerExtract}
	o := w.ociRepository("tls", reg.OCIURL("app"), &sourcev1.OCIRepositoryRef{Tag: "1"}, func(o *sourcev1.OCIRepository) {
		o.Spec.Insecure, o.Spec.Ignore, o.Spec.LayerSelector = false, &ignore, selector
	})
	w.failing(o, sourcev1.OCIPullFailedReason, "failed to determine artifact digest")
	w.secret("ca", "ca.crt", string(reg.Authority().PEM()))
	w.update(o, func() { o.Spec.CertSecretRef = &meta.LocalObjectReference{Name: "ca"} })
	a := w.ready(o, "1@"+d.String())
	if files := untar(t, w.download(a)); len(files) != 1 || files["a.yaml"] == "" {
		t.Errorf("files %v", files)
	}
	if a.Metadata["org.opencontainers.image.source"] != "https://git.example/shop" || o.Status.ObservedIgnore == nil || *o.Status.ObservedIgnore != ignore || *o.Status.ObservedLayerSelector != *selector {
		t.Errorf("metadata %v, status %+v", a.Metadata, o.Status)
	}
	w.update(o, func() { o.Spec.LayerSelector.Operation = sourcev1.OCILayerCopy })
	copied := w.ready(o, "1@"+d.String())
	sum := sha256.Sum256([]byte(layer))
	if got := w.download(copied); string(got) != layer || copied.Digest != "sha256:"+hex.EncodeToString(sum[:]) {
		t.Errorf("a copied layer has digest %s, want that of the layer", copied.Digest)
	}
}

// trusting is a transport that trusts an authority.
func trusting(t *testing.T, authority []byte) *http.Transport {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

package source

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/notaryproject/notation-go"
	nregistry "github.com/notaryproject/notation-go/registry"
	nsigner "github.com/notaryproject/notation-go/signer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	"google.golang.org/protobuf/encoding/protojson"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"headwater.dev/dev/registry"
)

const sigstoreBundle = "application/vnd.dev.sigstore.bundle.v0.3+json"

// subject describes a manifest of a registry.
func subject(t *testing.T, reg *registry.Server, repo, of string) (name.Digest, v1.Descriptor) {
	t.Helper()
	ref, err := name.NewDigest(reg.Reference(repo+"@"+of), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	d, err := remote.Head(ref)
	if err != nil {
		t.Fatal(err)
	}
	return ref, v1.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// refer stores a signature that refers to a manifest.
func refer(t *testing.T, reg *registry.Server, to string, kind, layer string, data []byte) {
	t.Helper()
	repo, of, _ := strings.Cut(to, "@")
	ref, desc := subject(t, reg, repo, of)
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.MediaType(kind))
	img, err := mutate.AppendLayers(img, layerOf(string(data), layer))
	if err != nil {
		t.Fatal(err)
	}
	signed, ok := mutate.Subject(img, desc).(v1.Image)
	if !ok {
		t.Fatal("no image")
	}
	d, err := signed.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref.Digest(d.String()), signed); err != nil {
		t.Fatal(err)
	}
}

// bundle signs a manifest with a key in the newer format of cosign.
func (s signer) bundle(t *testing.T, reg *registry.Server, repo, of string) {
	t.Helper()
	const kind = "application/vnd.in-toto+json"
	payload := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"","digest":{"sha256":%q}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`,
		strings.TrimPrefix(of, "sha256:"))
	sum := sha256.Sum256(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(payload), payload))
	sig, err := s.key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	data, err := protojson.Marshal(&protobundle.Bundle{
		MediaType: sigstoreBundle,
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &common.PublicKeyIdentifier{Hint: "any"}},
		},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload: payload, PayloadType: kind, Signatures: []*protodsse.Signature{{Sig: sig}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	refer(t, reg, repo+"@"+of, sigstoreBundle, sigstoreBundle, data)
}

// notary is somebody who signs with notation.
type notary struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newNotary(t *testing.T, cn string) notary {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: cn, Organization: []string{"Example"}, Country: []string{"DE"}, Province: []string{"B"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return notary{key, cert}
}

func (n notary) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: n.cert.Raw}))
}

func (n notary) sign(t *testing.T, reg *registry.Server, repo, of string) {
	t.Helper()
	s, err := nsigner.NewGenericSigner(n.key, []*x509.Certificate{n.cert})
	if err != nil {
		t.Fatal(err)
	}
	_, desc := subject(t, reg, repo, of)
	data, _, err := s.Sign(t.Context(), ocispec.Descriptor{MediaType: string(desc.MediaType), Digest: digest.Digest(of), Size: desc.Size},
		notation.SignerSignOptions{SignatureMediaType: jws.MediaTypeEnvelope})
	if err != nil {
		t.Fatal(err)
	}
	refer(t, reg, repo+"@"+of, nregistry.ArtifactTypeNotation, jws.MediaTypeEnvelope, data)
}

// notationPolicy trusts everybody in its store.
const notationPolicy = `{"version":"1.0","trustPolicies":[{"name":"all","registryScopes":["*"],"signatureVerification":{"level":"strict"},"trustStores":["ca:x"],"trustedIdentities":["*"]}]}`

// testOCINotation has a notary sign what an OCIRepository and a HelmChart use.
func testOCINotation(t *testing.T, w *world) {
	reg, err := registry.Start(registry.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	good, evil := newNotary(t, "good"), newNotary(t, "evil")
	w.secret("notary", policyKey, notationPolicy, "good.crt", good.pem())
	ref := &meta.LocalObjectReference{Name: "notary"}
	one := push(t, reg, "app:1", layerOf(packed(t, "a.yaml", "a: 1\n"), fluxLayer))
	evil.sign(t, reg, "app", one)
	o := w.ociRepository("notated", reg.OCIURL("app"), &sourcev1.OCIRepositoryRef{Tag: "1"}, func(o *sourcev1.OCIRepository) {
		o.Spec.Verify = &sourcev1.OCIRepositoryVerification{Provider: "notation", SecretRef: ref}
	})
	w.failing(o, sourcev1.VerificationError, "failed to verify the signature using provider 'notation'")
	if o.Status.Artifact != nil {
		t.Errorf("an artifact of what a stranger signed: %+v", o.Status.Artifact)
	}
	good.sign(t, reg, "app", one)
	w.request(o)
	w.download(w.ready(o, "1@"+one))
	w.isVerified(o, "verified signature of revision 1@"+one)

	chart := pushChart(t, reg, "web", "1.0.0")
	good.sign(t, reg, "charts/web", chart)
	w.helmRepository("oci", reg.OCIURL("charts"), func(o *sourcev1.HelmRepository) {
		o.Spec.Type, o.Spec.Insecure = sourcev1.HelmRepositoryTypeOCI, true
	})
	c := w.chart("web", "web", "", sourcev1.LocalHelmChartSourceReference{Kind: sourcev1.HelmRepositoryKind, Name: "oci"}, func(c *sourcev1.HelmChart) {
		c.Spec.Verify = &sourcev1.HelmChartVerification{Provider: "notation", SecretRef: ref}
	})
	w.download(w.ready(c, "1.0.0"))
	w.isVerified(c, "verified signature of version 1.0.0")
}

func (w *world) isVerified(o conditions.Getter, message string) {
	w.t.Helper()
	if c := conditions.Get(o, sourcev1.SourceVerifiedCondition); c == nil || c.Status != metav1.ConditionTrue || c.Message != message {
		w.t.Errorf("verified: %+v, want %q", c, message)
	}
}

// testOCIBundle uses signatures in the bundle format, which refer to what they
// sign.
func testOCIBundle(t *testing.T, w *world) {
	reg, err := registry.Start(registry.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	good, evil := newSigner(t), newSigner(t)
	w.secret("keys", "cosign.pub", good.public)
	one := push(t, reg, "app:1", layerOf(packed(t, "a.yaml", "a: 1\n"), fluxLayer))
	evil.bundle(t, reg, "app", one)
	o := w.ociRepository("bundled", reg.OCIURL("app"), &sourcev1.OCIRepositoryRef{Tag: "1"}, func(o *sourcev1.OCIRepository) {
		o.Spec.Verify = &sourcev1.OCIRepositoryVerification{Provider: "cosign", SecretRef: &meta.LocalObjectReference{Name: "keys"}}
	})
	w.failing(o, sourcev1.VerificationError, "no matching signatures")
	good.bundle(t, reg, "app", one)
	w.request(o)
	w.download(w.ready(o, "1@"+one))
	w.isVerified(o, "verified signature of revision 1@"+one)
}

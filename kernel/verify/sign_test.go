package verify

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/notaryproject/notation-go"
	nregistry "github.com/notaryproject/notation-go/registry"
	"github.com/notaryproject/notation-go/signer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	rekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"google.golang.org/protobuf/encoding/protojson"

	"headwater.dev/dev/registry"
	"headwater.dev/kernel/oci"
)

const (
	signedBy = "ci@example.com"
	issuedBy = "https://issuer.example.com"
	signType = "https://sigstore.dev/cosign/sign/v1"
)

// shop is a registry with an artifact, and what it takes to sign it.
type shop struct {
	t    *testing.T
	reg  *registry.Server
	repo *oci.Repository
	name name.Repository
}

func newShop(t *testing.T) *shop {
	t.Helper()
	reg, err := registry.Start(registry.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reg.Close() })
	repo, err := oci.Open(reg.OCIURL("app"), oci.Options{Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(repo.Close)
	n, err := name.NewRepository(reg.Reference("app"), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return &shop{t: t, reg: reg, repo: repo, name: n}
}

func (s *shop) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// artifact pushes an artifact under a tag, and gives its digest.
func (s *shop) artifact(tag, content string) string {
	s.t.Helper()
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer([]byte(content), "application/x"))
	s.must(err)
	s.must(remote.Write(s.name.Tag(tag), img))
	d, err := img.Digest()
	s.must(err)
	return d.String()
}

func simplePayload(d string) []byte {
	return []byte(`{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":"` + d + `"},"type":"cosign container image signature"},"optional":null}`)
}

// pushSimple stores signatures in the older format under the tag of a digest.
func (s *shop) pushSimple(of string, layers ...mutate.Addendum) {
	s.t.Helper()
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img, err := mutate.Append(img, layers...)
	s.must(err)
	s.must(remote.Write(s.name.Tag(strings.Replace(of, ":", "-", 1)+".sig"), img))
}

func simpleLayer(payload, sig []byte, more map[string]string) mutate.Addendum {
	annotations := map[string]string{annotationSignature: base64.StdEncoding.EncodeToString(sig)}
	for k, v := range more {
		annotations[k] = v
	}
	return mutate.Addendum{Layer: static.NewLayer(payload, "application/vnd.dev.cosign.simplesigning.v1+json"), Annotations: annotations}
}

// pushReferrer stores a signature that refers to a digest.
func (s *shop) pushReferrer(of, artifactType, layerType string, data []byte) {
	s.t.Helper()
	subject, err := remote.Head(s.name.Digest(of))
	s.must(err)
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.MediaType(artifactType))
	img, err = mutate.AppendLayers(img, static.NewLayer(data, types.MediaType(layerType)))
	s.must(err)
	signed, ok := mutate.Subject(img, v1.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}).(v1.Image)
	if !ok {
		s.t.Fatal("no image")
	}
	d, err := signed.Digest()
	s.must(err)
	s.must(remote.Write(s.name.Digest(d.String()), signed))
}

func newKey(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func signed(t *testing.T, key crypto.Signer, message []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(message)
	sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// keylessLayer signs a payload with a certificate of a Sigstore instance.
func keylessLayer(t *testing.T, vs *ca.VirtualSigstore, payload []byte) mutate.Addendum {
	t.Helper()
	entity, err := vs.Sign(signedBy, issuedBy, payload)
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
	tle := entries[0].TransparencyLogEntry()
	log, err := vs.RekorLogID()
	if err != nil {
		t.Fatal(err)
	}
	var b rekorBundle
	b.Payload.Body = base64.StdEncoding.EncodeToString(tle.CanonicalizedBody)
	b.Payload.IntegratedTime, b.Payload.LogIndex, b.Payload.LogID = tle.IntegratedTime, tle.LogIndex, log
	b.SignedEntryTimestamp = promise(t, vs, b)
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return simpleLayer(payload, content.Signature(), map[string]string{
		annotationBundle:      string(text),
		annotationCertificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate().Raw})),
	})
}

// keylessBundle makes a bundle with a statement about a digest.
func keylessBundle(t *testing.T, vs *ca.VirtualSigstore, predicate, of string) []byte {
	t.Helper()
	entity, err := vs.AttestAtTime(signedBy, issuedBy, statement(predicate, of), time.Now().Add(5*time.Minute), true)
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
	tle := entries[0].TransparencyLogEntry()
	if tle.KindVersion == nil {
		tle.KindVersion = &rekor.KindVersion{Kind: "dsse", Version: "0.0.1"}
	}
	log, err := vs.RekorLogID()
	if err != nil {
		t.Fatal(err)
	}
	var b rekorBundle
	b.Payload.Body = base64.StdEncoding.EncodeToString(tle.CanonicalizedBody)
	b.Payload.IntegratedTime, b.Payload.LogIndex, b.Payload.LogID = tle.IntegratedTime, tle.LogIndex, log
	tle.InclusionPromise = &rekor.InclusionPromise{SignedEntryTimestamp: promise(t, vs, b)}
	return encode(t, envelope(t, content.EnvelopeContent().RawEnvelope().Payload, content.Signature()), &protobundle.VerificationMaterial{
		Content:     &protobundle.VerificationMaterial_Certificate{Certificate: &common.X509Certificate{RawBytes: cert.Certificate().Raw}},
		TlogEntries: []*rekor.TransparencyLogEntry{tle},
	})
}

func statement(predicate, of string) []byte {
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"","digest":{"sha256":%q}}],"predicateType":%q,"predicate":{}}`,
		strings.TrimPrefix(of, "sha256:"), predicate)
}

func envelope(t *testing.T, payload64 string, sig []byte) *protodsse.Envelope {
	t.Helper()
	payload, err := base64.StdEncoding.DecodeString(payload64)
	if err != nil {
		t.Fatal(err)
	}
	return &protodsse.Envelope{Payload: payload, PayloadType: "application/vnd.in-toto+json", Signatures: []*protodsse.Signature{{Sig: sig}}}
}

func encode(t *testing.T, e *protodsse.Envelope, m *protobundle.VerificationMaterial) []byte {
	t.Helper()
	data, err := protojson.Marshal(&protobundle.Bundle{
		MediaType: bundleType, VerificationMaterial: m, Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: e},
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// keyBundle makes a bundle that a key signed.
func keyBundle(t *testing.T, key crypto.Signer, of string) []byte {
	t.Helper()
	payload := statement(signType, of)
	const kind = "application/vnd.in-toto+json"
	var pae bytes.Buffer
	fmt.Fprintf(&pae, "DSSEv1 %d %s %d %s", len(kind), kind, len(payload), payload)
	return encode(t, envelope(t, base64.StdEncoding.EncodeToString(payload), signed(t, key, pae.Bytes())), &protobundle.VerificationMaterial{
		Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &common.PublicKeyIdentifier{Hint: "any"}},
	})
}

// rootOf is the trusted_root.json of an instance, without a log of certificates.
func rootOf(t *testing.T, vs *ca.VirtualSigstore, logs map[string]*root.TransparencyLog) []byte {
	t.Helper()
	rekors := vs.RekorLogs()
	for id, l := range rekors {
		l.ID = mustHex(t, id)
	}
	for id, l := range logs {
		l.ID, l.SignatureHashFunc = mustHex(t, id), crypto.SHA256
	}
	tr, err := root.NewTrustedRoot(root.TrustedRootMediaType01, vs.FulcioCertificateAuthorities(), logs, vs.TimestampingAuthorities(), rekors)
	if err != nil {
		t.Fatal(err)
	}
	data, err := tr.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// notationKey is a certificate that may sign code, and its key.
func notationKey(t *testing.T, cn string) (*ecdsa.PrivateKey, *x509.Certificate) {
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
	return key, cert
}

// notate signs a digest with notation's own library.
func (s *shop) notate(d string, key crypto.Signer, cert *x509.Certificate) {
	s.t.Helper()
	sig, err := signer.NewGenericSigner(key, []*x509.Certificate{cert})
	s.must(err)
	desc, err := s.repo.Describe(s.t.Context(), d)
	s.must(err)
	data, _, err := sig.Sign(context.Background(), ocispec.Descriptor{MediaType: desc.MediaType, Digest: digest.Digest(d), Size: desc.Size},
		notation.SignerSignOptions{SignatureMediaType: jws.MediaTypeEnvelope})
	s.must(err)
	s.pushReferrer(d, nregistry.ArtifactTypeNotation, jws.MediaTypeEnvelope, data)
}

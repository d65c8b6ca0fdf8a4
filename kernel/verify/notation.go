package verify

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/registry"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"headwater.dev/kernel/oci"
)

// Notation checks signatures by notation against a trust policy. Plugins are
// not run.
type Notation struct {
	verifier notation.Verifier
}

// NewNotation reads a trust policy (trustpolicy.json) and certificates in PEM,
// given by the names that errors use. The certificates are in every trust store
// that the policy names.
func NewNotation(policy []byte, certificates map[string][]byte) (*Notation, error) {
	var document trustpolicy.Document
	if err := json.Unmarshal(policy, &document); err != nil {
		return nil, fmt.Errorf("%w: trustpolicy.json is no JSON", ErrConfig)
	}
	for i, p := range document.TrustPolicies {
		if p.SignatureVerification.VerificationLevel == trustpolicy.LevelSkip.Name {
			// A policy that skips may name neither; upstream lets it.
			document.TrustPolicies[i].TrustStores, document.TrustPolicies[i].TrustedIdentities = nil, nil
		}
	}
	store := storeOf{}
	for _, name := range slices.Sorted(maps.Keys(certificates)) {
		certs, err := cryptoutils.UnmarshalCertificatesFromPEM(certificates[name])
		if err != nil || len(certs) == 0 {
			return nil, fmt.Errorf("%w: %s holds no certificate in PEM", ErrConfig, name)
		}
		store = append(store, certs...)
	}
	if len(store) == 0 {
		return nil, fmt.Errorf("%w: there is no certificate", ErrConfig)
	}
	options, err := revocations()
	if err != nil {
		return nil, err
	}
	v, err := verifier.NewWithOptions(&document, store, nil, options)
	if err != nil {
		return nil, fmt.Errorf("%w: trustpolicy.json: %w", ErrConfig, trimmed(err))
	}
	return &Notation{verifier: v}, nil
}

// storeOf is a trust store with the same certificates under every name.
type storeOf []*x509.Certificate

// GetCertificates implements truststore.X509TrustStore.
func (s storeOf) GetCertificates(context.Context, truststore.Type, string) ([]*x509.Certificate, error) {
	return s, nil
}

// Verify implements Verifier.
func (n *Notation) Verify(ctx context.Context, repo *oci.Repository, d string) error {
	_, outcomes, err := notation.Verify(ctx, n.verifier, signatures{repo}, notation.VerifyOptions{
		ArtifactReference: repo.Reference(d), MaxSignatureAttempts: maxSignatures,
	})
	var none notation.SignatureRetrievalFailedError
	switch {
	case errors.As(err, &none):
		return fmt.Errorf("%w for %s: %w", ErrNoSignature, repo.Reference(d), trimmed(err))
	case err != nil:
		return fmt.Errorf("%w for %s: %w", ErrNoMatch, repo.Reference(d), trimmed(err))
	}
	for _, o := range outcomes {
		if o.VerificationLevel == trustpolicy.LevelSkip {
			return ErrSkipped
		}
		for _, r := range o.VerificationResults {
			// A level that only logs is not one that verifies.
			if r.Error != nil && r.Type != trustpolicy.TypeRevocation && r.Type != trustpolicy.TypeExpiry && r.Type != trustpolicy.TypeAuthenticTimestamp {
				return fmt.Errorf("%w for %s: %s: %w", ErrNoMatch, repo.Reference(d), r.Type, trimmed(r.Error))
			}
		}
	}
	return nil
}

// signatures is what notation reads of a repository, through our own client.
type signatures struct{ repo *oci.Repository }

// Resolve implements registry.Repository.
func (s signatures) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	return s.repo.Describe(ctx, reference)
}

// ListSignatures implements registry.Repository.
func (s signatures) ListSignatures(ctx context.Context, d ocispec.Descriptor, fn func([]ocispec.Descriptor) error) error {
	list, err := s.repo.Referrers(ctx, d.Digest.String(), registry.ArtifactTypeNotation, maxSignatures)
	if err != nil {
		return err
	}
	var found []ocispec.Descriptor
	for _, r := range list {
		found = append(found, ocispec.Descriptor{MediaType: r.MediaType, Digest: digest.Digest(r.Digest), Size: r.Size})
	}
	return fn(found)
}

// FetchSignatureBlob implements registry.Repository.
func (s signatures) FetchSignatureBlob(ctx context.Context, d ocispec.Descriptor) ([]byte, ocispec.Descriptor, error) {
	img, err := s.repo.Image(ctx, d.Digest.String())
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	data, err := blob(img, 0)
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	l := img.Manifest.Layers[0]
	return data, ocispec.Descriptor{MediaType: string(l.MediaType), Digest: digest.Digest(l.Digest.String()), Size: l.Size}, nil
}

// PushSignature implements registry.Repository.
func (s signatures) PushSignature(context.Context, string, []byte, ocispec.Descriptor, map[string]string) (blobDesc, manifestDesc ocispec.Descriptor, err error) {
	return ocispec.Descriptor{}, ocispec.Descriptor{}, errors.New("signatures are only read here")
}

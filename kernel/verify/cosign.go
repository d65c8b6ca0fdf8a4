package verify

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sigstore "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"headwater.dev/kernel/oci"
)

// maxPattern bounds the regular expressions of identities.
const maxPattern = 1024

// bundleType is the artifact type of signatures in the bundle format.
const bundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"

// Identity is who may have signed, by regular expressions for the issuer of
// their identity token and for their name.
type Identity struct{ Issuer, Subject string }

// Cosign checks signatures by cosign, those that a tag "sha256-….sig" holds as
// well as bundles that refer to the artifact. One that one of the trusted
// parties made is enough.
type Cosign struct {
	trusted []party
}

// party is one key, or the identities of one Sigstore instance.
type party struct {
	verifier *sigstore.Verifier
	policies []sigstore.PolicyOption
}

// NewKeys trusts public keys in PEM, given by the names that errors use. No
// transparency log is asked for.
func NewKeys(keys map[string][]byte) (*Cosign, error) {
	c := &Cosign{}
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		key, err := cryptoutils.UnmarshalPEMToPublicKey(keys[name])
		if err != nil {
			return nil, fmt.Errorf("%w: %s is no public key in PEM", ErrConfig, name)
		}
		v, err := signature.LoadVerifier(key, crypto.SHA256)
		if err != nil {
			return nil, fmt.Errorf("%w: %s is a key of a kind that is not supported", ErrConfig, name)
		}
		trusted := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
			return root.NewExpiringKey(v, time.Time{}, time.Time{}), nil
		})
		verifier, err := sigstore.NewVerifier(trusted, sigstore.WithNoObserverTimestamps(), sigstore.WithoutStatementPredicate())
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrConfig, name, err)
		}
		c.trusted = append(c.trusted, party{verifier, []sigstore.PolicyOption{sigstore.WithKey()}})
	}
	if len(c.trusted) == 0 {
		return nil, fmt.Errorf("%w: there is no public key", ErrConfig)
	}
	return c, nil
}

// NewKeyless trusts the identities that the certificate authorities of a
// Sigstore instance vouched for. Whatever the instance has must be there: an
// entry in its transparency log, a timestamp of its authority, a proof that the
// certificate was logged. No identities means everybody whom the instance knows.
func NewKeyless(trusted root.TrustedMaterial, identities []Identity) (*Cosign, error) {
	verifier, err := sigstore.NewVerifier(trusted, requirements(trusted)...)
	if err != nil {
		return nil, fmt.Errorf("%w: the trusted root: %w", ErrConfig, err)
	}
	var policies []sigstore.PolicyOption
	for i, id := range identities {
		if len(id.Issuer) > maxPattern || len(id.Subject) > maxPattern {
			return nil, fmt.Errorf("%w: matchOIDCIdentity[%d]: a pattern is longer than %d characters", ErrConfig, i, maxPattern)
		}
		// An empty pattern matches everything, as in an upstream regexp.
		match, err := sigstore.NewShortCertificateIdentity("", cmp.Or(id.Issuer, ".*"), "", cmp.Or(id.Subject, ".*"))
		if err != nil {
			return nil, fmt.Errorf("%w: matchOIDCIdentity[%d]: no valid regular expression", ErrConfig, i)
		}
		policies = append(policies, sigstore.WithCertificateIdentity(match))
	}
	if len(policies) == 0 {
		policies = append(policies, sigstore.WithoutIdentitiesUnsafe())
	}
	return &Cosign{trusted: []party{{verifier, policies}}}, nil
}

// requirements asks of signatures what the instance is able to give.
func requirements(trusted root.TrustedMaterial) []sigstore.VerifierOption {
	options := []sigstore.VerifierOption{sigstore.WithObserverTimestamps(1), sigstore.WithoutStatementPredicate()}
	if len(trusted.RekorLogs()) > 0 {
		options = append(options, sigstore.WithTransparencyLog(1))
	}
	if len(trusted.CTLogs()) > 0 {
		options = append(options, sigstore.WithSignedCertificateTimestamps(1))
	}
	return options
}

// ParseTrustedRoot reads a trusted_root.json of Sigstore.
func ParseTrustedRoot(data []byte) (root.TrustedMaterial, error) {
	if len(data) > maxPayload {
		return nil, fmt.Errorf("%w: the trusted root is larger than %d bytes", ErrConfig, maxPayload)
	}
	trusted, err := root.NewTrustedRootFromJSON(data)
	if err != nil {
		return nil, fmt.Errorf("%w: it is no trusted_root.json of Sigstore", ErrConfig)
	}
	if len(trusted.FulcioCertificateAuthorities()) == 0 || len(trusted.RekorLogs()) == 0 && len(trusted.TimestampingAuthorities()) == 0 {
		return nil, fmt.Errorf("%w: the trusted root needs a certificate authority, and a transparency log or a timestamp authority", ErrConfig)
	}
	return trusted, nil
}

// Verify implements Verifier.
func (c *Cosign) Verify(ctx context.Context, repo *oci.Repository, digest string) error {
	old, err := c.verifyTag(ctx, repo, digest)
	if err == nil && old > 0 {
		return nil
	}
	bundles, bundleErr := c.verifyBundles(ctx, repo, digest)
	switch {
	case bundleErr == nil && bundles > 0:
		return nil
	case err != nil && !errors.Is(err, ErrNoMatch):
		return err
	case bundleErr != nil && !errors.Is(bundleErr, ErrNoMatch):
		return bundleErr
	case err == nil && bundleErr == nil:
		return fmt.Errorf("%w for %s", ErrNoSignature, repo.Reference(digest))
	}
	return fmt.Errorf("%w for %s: %w", ErrNoMatch, repo.Reference(digest), trimmed(cmp.Or(bundleErr, err)))
}

// verifyTag checks the signatures that are stored under a tag made of the
// digest. It tells how many are trusted: one, or none when there is no such tag.
func (c *Cosign) verifyTag(ctx context.Context, repo *oci.Repository, digest string) (int, error) {
	at, err := repo.Resolve(ctx, strings.Replace(digest, ":", "-", 1)+".sig")
	if errors.Is(err, oci.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look for signatures: %w", err)
	}
	img, err := repo.Image(ctx, at)
	if err != nil {
		return 0, fmt.Errorf("read signatures: %w", err)
	}
	last := fmt.Errorf("%w: the tag holds none", ErrNoMatch)
	for n, layer := range img.Manifest.Layers[:min(len(img.Manifest.Layers), maxSignatures)] {
		payload, err := blob(img, n)
		if err != nil {
			return 0, fmt.Errorf("read signature: %w", err)
		}
		if err := c.checkSimple(payload, layer.Annotations, digest); err != nil {
			last = fmt.Errorf("%w: %w", ErrNoMatch, err)
			continue
		}
		return 1, nil
	}
	return 0, last
}

// checkSimple checks one signature in the older format.
func (c *Cosign) checkSimple(payload []byte, annotations map[string]string, digest string) error {
	entity, err := parseSimple(payload, annotations)
	if err != nil {
		return err
	}
	if err := c.anyone(entity, sigstore.WithArtifact(bytes.NewReader(payload)), func() sigstore.ArtifactPolicyOption {
		return sigstore.WithArtifact(bytes.NewReader(payload))
	}); err != nil {
		return err
	}
	return claims(payload, digest)
}

// anyone reports whether one of the trusted parties made the signature.
func (c *Cosign) anyone(entity sigstore.SignedEntity, first sigstore.ArtifactPolicyOption, again func() sigstore.ArtifactPolicyOption) error {
	var last error
	for i, p := range c.trusted {
		artifact := first
		if i > 0 {
			artifact = again()
		}
		_, err := p.verifier.Verify(entity, sigstore.NewPolicy(artifact, p.policies...))
		if err == nil {
			return nil
		}
		last = err
	}
	return last
}

// claims checks what a payload in the older format says: which digest was
// signed.
func claims(payload []byte, digest string) error {
	var signed struct {
		Critical struct {
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
			Type string `json:"type"`
		} `json:"critical"`
	}
	if err := json.Unmarshal(payload, &signed); err != nil {
		return errors.New("the signed payload is no JSON")
	}
	if signed.Critical.Type != "cosign container image signature" {
		return errors.New("the signed payload is no signature of an artifact")
	}
	if signed.Critical.Image.Digest != digest {
		return errors.New("the signature is of another artifact")
	}
	return nil
}

// verifyBundles checks the bundles that refer to the digest. It tells how many
// are trusted: one, or none when there are no bundles.
func (c *Cosign) verifyBundles(ctx context.Context, repo *oci.Repository, digest string) (int, error) {
	list, err := repo.Referrers(ctx, digest, bundleType, maxSignatures)
	if err != nil {
		return 0, fmt.Errorf("look for signatures: %w", err)
	}
	var last error
	for _, s := range list {
		img, err := repo.Image(ctx, s.Digest)
		if err != nil {
			return 0, fmt.Errorf("read signature: %w", err)
		}
		data, err := blob(img, 0)
		if err != nil {
			return 0, fmt.Errorf("read signature: %w", err)
		}
		if err := c.checkBundle(data, digest); err != nil {
			last = fmt.Errorf("%w: %w", ErrNoMatch, err)
			continue
		}
		return 1, nil
	}
	return 0, last
}

// checkBundle checks one bundle: a statement about the digest, or a signature
// of it.
func (c *Cosign) checkBundle(data []byte, digest string) error {
	var b bundle.Bundle
	if err := b.UnmarshalJSON(data); err != nil {
		return errors.New("it is no signature bundle")
	}
	sum, err := hex.DecodeString(strings.TrimPrefix(digest, "sha256:"))
	if err != nil || len(sum) != sha256.Size {
		return errors.New("only SHA-256 digests can be verified")
	}
	content, err := b.SignatureContent()
	if err != nil {
		return errors.New("the bundle holds no signature")
	}
	if envelope := content.EnvelopeContent(); envelope != nil {
		if statement, err := envelope.Statement(); err != nil || statement.GetPredicateType() != "https://sigstore.dev/cosign/sign/v1" {
			return errors.New("the bundle is an attestation, no signature")
		}
	}
	artifact := func() sigstore.ArtifactPolicyOption { return sigstore.WithArtifactDigest("sha256", sum) }
	return c.anyone(&b, artifact(), artifact)
}

// trimmed leaves the first line of a message.
func trimmed(err error) error {
	message, rest, _ := strings.Cut(err.Error(), "\n")
	if rest == "" && len(message) <= 400 {
		return err
	}
	return errors.New(message[:min(len(message), 400)])
}

// Package verify checks who signed an artifact of a registry: by cosign, with
// keys or with the short-lived certificates of a Sigstore instance, and by
// notation.
//
// What is checked is a digest, never a tag; who then uses the same digest uses
// what was signed. Everything that is not understood is a failure.
package verify

import (
	"context"
	"errors"
	"fmt"
	"io"

	"headwater.dev/kernel/oci"
)

var (
	// ErrNoSignature says that an artifact has no signature.
	ErrNoSignature = errors.New("no signatures found")
	// ErrNoMatch says that none of an artifact's signatures is by somebody who
	// is trusted.
	ErrNoMatch = errors.New("no matching signatures")
	// ErrConfig says that keys, certificates, identities or policies cannot be
	// used.
	ErrConfig = errors.New("unusable verification settings")
	// ErrSkipped says that a notation policy does not want the artifact to be
	// checked.
	ErrSkipped = errors.New("the trust policy skips verification")
)

const (
	// maxSignatures bounds the signatures of an artifact that are looked at.
	maxSignatures = 50
	// maxPayload bounds a signature's payload, bundle or envelope in bytes.
	maxPayload = 4 << 20
)

// Verifier checks the signatures of artifacts.
type Verifier interface {
	// Verify returns nil when the artifact with this digest has a signature
	// that is trusted, else why not: ErrNoSignature, ErrNoMatch, ErrSkipped or
	// what the registry did.
	Verify(ctx context.Context, repo *oci.Repository, digest string) error
}

// blob reads one layer of a small artifact.
func blob(img *oci.Image, n int) ([]byte, error) {
	layers := img.Manifest.Layers
	if n >= len(layers) {
		return nil, fmt.Errorf("%w: the signature has no layer", ErrNoMatch)
	}
	rc, err := img.Open(layers[n], maxPayload)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}
